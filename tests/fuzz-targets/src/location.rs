//! Where an operator says that the database is.

/// Its own source: what the crate exports says too little of what was read.
#[path = "../../../crates/store/src/postgres/url.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the store, which documents it")]
mod url;

use std::{fmt::Write as _, net::IpAddr};
use url::{PostgresUrl, Wanted};

/// A password as somebody types it: generated ones have slashes and question marks, and are often not encoded.
const PASSWORDS: [&str; 4] = ["hunter2", "12/hunter2", "12?hunter2", "12/x?hunter2"];
/// What of them nobody may see.
const SECRET: &str = "hunter2";

/// A connection string: what is taken has servers and says itself over again, and is printed without its password and
/// without what changes a terminal.
pub(crate) fn database_url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<PostgresUrl>() {
        Ok(url) => {
            is_shown(&url.to_string());
            is_one(&url, text);
        }
        Err(error) => is_shown(&error.to_string()),
    }
    for password in PASSWORDS {
        if let Some(text) = with_password(text, password) {
            let said = match text.parse::<PostgresUrl>() {
                Ok(url) => {
                    assert!(url.has_password(), "{text}");
                    format!("{url} {url:?}")
                }
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!said.contains(SECRET), "{said}");
        }
    }
}

fn is_shown(said: &str) {
    assert!(!said.chars().any(char::is_control), "{said:?}");
}

/// The same with a password behind its user.
fn with_password(text: &str, password: &str) -> Option<String> {
    let text = text.trim();
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme))?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("tide", authority));
    let user = user.split(':').next().unwrap_or_default();
    Some(format!("postgres://{user}:{password}@{hosts}{behind}"))
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "%{byte:02x}");
        text
    })
}

fn is_one(url: &PostgresUrl, text: &str) {
    let hosts = url.hosts();
    let (_, query) = text.trim().split_once('?').unwrap_or_default();
    // As it stands there, encoded or not.
    let tls = query.split('&').rev().find_map(|pair| pair.strip_prefix("sslmode="));
    assert!((1..=8).contains(&hosts.len()), "{} hosts", hosts.len());
    let mut again = format!("postgres://{}@", encoded(url.options(&hosts[0]).get_username()));
    for (number, host) in hosts.iter().enumerate() {
        assert!(!host.name.is_empty() && host.port != 0, "{text:?}");
        let options = url.options(host);
        assert_eq!((options.get_host(), options.get_port()), (host.name.as_str(), host.port));
        assert_eq!(options.get_socket().is_some(), host.name.starts_with('/'));
        let is_here = host.name.starts_with('/')
            || host.name == "localhost"
            || host.name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let mode = format!("{:?}", options.get_ssl_mode());
        assert!(is_here || mode == "VerifyFull" || tls.is_some(), "{text:?}: anybody may be {host}");
        let (comma, name) = (if number == 0 { "" } else { "," }, encoded(&host.name));
        let _ = write!(again, "{comma}{name}:{}", host.port);
    }
    let options = url.options(&hosts[0]);
    let database = options.get_database().expect("it names one");
    assert!(!database.is_empty());
    let _ = write!(again, "/{}?application_name=", encoded(database));
    again.push_str(&encoded(options.get_application_name().unwrap_or_default()));
    if let Some(mode) = tls {
        let _ = write!(again, "&sslmode={mode}");
    }
    if url.wanted() == Wanted::Any {
        again.push_str("&target_session_attrs=any");
    }
    let written: PostgresUrl = again.parse().expect("written again");
    assert_eq!((written.hosts(), written.wanted()), (hosts, url.wanted()));
    for host in hosts {
        let (one, other) = (url.options(host), written.options(host));
        assert_eq!(one.get_username(), other.get_username());
        assert_eq!(one.get_database(), other.get_database());
        assert_eq!(one.get_application_name(), other.get_application_name());
        assert_eq!(format!("{:?}", one.get_ssl_mode()), format!("{:?}", other.get_ssl_mode()));
    }
}

/// Genuine texts.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    [
        ("plain", "postgres://tide:s3cret@db.example.com:5433/tide"),
        ("several", "postgresql://t:s%40e@db1:5433,db2,[2001:db8::1]:6432/tide?target_session_attrs=any"),
        ("socket", "postgres:///tide?host=/run/postgresql&port=5433"),
        ("socket-encoded", "postgres://%2Frun%2Fpostgresql:5433/tide"),
        ("here", "postgres://localhost,127.0.0.1,[::1]/t?application_name=tidegate-2"),
        ("tls", "postgres://u@db/t?sslmode=verify-ca&sslrootcert=/etc/ca.pem&sslcert=/c.pem&sslkey=/k.pem"),
        ("said-over", "postgres://a:1,b:2/t?host=c,d&port=3"),
        ("at-in-password", "postgres://tide:p@ss@db/t"),
        ("slash-in-password", "postgres://tide:12/34@db/t"),
        ("unknown", "postgres://db/t?sslmod=require"),
        ("control", "postgres://db/t%1b]0;x%07"),
        ("port-zero", "postgres://db:0/t"),
        ("nine-hosts", "postgres:///t?host=a,b,c,d,e,f,g,h,i"),
    ]
    .map(|(name, text)| ("database_url", name, text.as_bytes().to_vec()))
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_text_is_read_but_for_those_that_are_wrong() {
        for (_, name, text) in genuine() {
            let read = std::str::from_utf8(&text).expect("text").parse::<PostgresUrl>();
            let is_wrong =
                matches!(name, "slash-in-password" | "unknown" | "control" | "port-zero" | "nine-hosts");
            assert_eq!(read.is_err(), is_wrong, "{name}: {read:?}");
        }
    }

    #[test]
    fn a_password_is_put_where_passwords_are() {
        let put = |text| with_password(text, SECRET);
        assert_eq!(put("postgres://db/t").as_deref(), Some("postgres://tide:hunter2@db/t"));
        assert_eq!(put("postgres://u:p@db/t?a=@").as_deref(), Some("postgres://u:hunter2@db/t?a=@"));
        assert_eq!(put("mysql://db/t"), None);
    }
}
