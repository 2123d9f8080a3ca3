//! Where a provider is, and what is sent there.

use http::Uri;
use std::net::Ipv6Addr;

/// Not `https://HOST…`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an https:// address, got {0:?}")]
pub(crate) struct NotHttps(String);

/// An `https://` address that was looked at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpsUrl {
    text: String,
    host: String,
    port: u16,
    path: String,
}

impl HttpsUrl {
    /// # Errors
    /// Another scheme, a user, a fragment, no host, or a port that there is not.
    pub(crate) fn parse(text: &str) -> Result<Self, NotHttps> {
        let wrong = || NotHttps(text.chars().take(200).collect());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some("https") || authority.as_str().contains('@') || text.contains('#') {
            return Err(wrong());
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host).ok_or_else(wrong)? {
            "" => 443,
            // A number may have a sign, a port not.
            rest => rest
                .strip_prefix(':')
                .filter(|digits| !digits.starts_with('+'))
                .and_then(|digits| digits.parse().ok())
                .filter(|port| *port != 0)
                .ok_or_else(wrong)?,
        };
        // The library takes brackets anywhere; they stand around an address alone (RFC 3986 section 3.2.2).
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let is_v6 = host.parse::<Ipv6Addr>().is_ok();
        if host.is_empty() || host.contains(['[', ']']) || bracketed.is_some() != is_v6 {
            return Err(wrong());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // What a request asks for has a path, also where the address has a query alone (RFC 9112 section 3.2.1).
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port, path })
    }

    /// As it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Its host, IPv6 without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Its path with its query.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Host and port, without a port that goes without saying.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) enum Sent {
    Nothing,
    /// `application/x-www-form-urlencoded`, with HTTP basic credentials when there are some.
    Form {
        body: String,
        authorization: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_with_a_host_and_nothing_that_hides_another() {
        let url = HttpsUrl::parse("https://id.example.com:8443/a?b=c").unwrap();
        assert_eq!((url.host(), url.port(), url.path()), ("id.example.com", 8443, "/a?b=c"));
        assert_eq!(url.authority(), "id.example.com:8443");
        assert_eq!(HttpsUrl::parse("https://[2001:db8::1]/x").unwrap().authority(), "[2001:db8::1]");
        assert_eq!(HttpsUrl::parse("https://a?tenant=1").unwrap().path(), "/?tenant=1");
        for wrong in [
            "http://id.example.com",
            "id.example.com",
            "https://",
            "https://a@b/",
            "https://a/#b",
            "/x",
            "",
            // A port that there is not is not the usual one.
            "https://a:0/",
            "https://a:65536/",
            "https://a:/",
            "https://a:+443/",
            "https://a[::1]/",
            "https://[2001]/",
        ] {
            assert!(HttpsUrl::parse(wrong).is_err(), "{wrong}");
        }
    }
}
