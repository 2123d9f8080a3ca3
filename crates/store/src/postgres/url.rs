//! `postgres://user:password@host:port,host:port/database?…`, parsed once.

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

const DEFAULT_PORT: u16 = 5432;
/// More servers of one database than anybody has; each is dialled at once.
const MAX_HOSTS: usize = 8;

/// A connection string that is not one. No value of it is repeated: it may carry a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme.
    #[error(
        "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE; it does not begin with postgres:// or postgresql://"
    )]
    Scheme,
    /// Nothing behind the slash.
    #[error("it names no database: expected postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Database,
    /// Neither in front of the slash nor as `host=`.
    #[error(
        "it names no host: expected HOST:PORT, several with commas, or ?host=/DIRECTORY for a Unix socket"
    )]
    Host,
    /// Too many.
    #[error("it names more than {MAX_HOSTS} hosts")]
    Hosts,
    /// A port.
    #[error("a port in it is not a number from 1 to 65535")]
    Port,
    /// A `%` without two hexadecimal digits, or bytes that are no UTF-8.
    #[error("its {0} is not percent-encoded as a URL needs it")]
    Encoding(&'static str),
    /// It would be printed, and the server's protocol ends a text at a zero.
    #[error("its {0} has a control character")]
    Control(&'static str),
    /// A parameter that would be ignored.
    #[error(
        "it has the parameter {0:?}, which is not known here; known are host, port, sslmode, sslrootcert, sslcert, \
         sslkey, target_session_attrs, application_name"
    )]
    Parameter(String),
    /// A known parameter with another value than there is.
    #[error("its {parameter} is none of {expected}")]
    Value {
        /// Which.
        parameter: &'static str,
        /// What there is.
        expected: &'static str,
    },
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name, an address, or the directory of a Unix socket.
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Host {
    pub(crate) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }

    /// Where a Unix socket of this port is.
    pub(crate) fn socket(&self) -> PathBuf {
        PathBuf::from(&self.name).join(format!(".s.PGSQL.{}", self.port))
    }

    fn is_here(&self) -> bool {
        let loopback = self.name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.is_socket() || loopback || self.name == "localhost"
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_socket() {
            self.socket().display().fmt(f)
        } else if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// Which of several servers is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The one that takes writes.
    ReadWrite,
    /// Whichever answers.
    Any,
}

#[derive(Clone, PartialEq, Eq)]
struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A parsed connection string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    hosts: Vec<Host>,
    user: Option<String>,
    password: Option<Password>,
    database: String,
    tls: Option<SslMode>,
    root_certificate: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    wanted: Wanted,
    application: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    const fn driver(self) -> PgSslMode {
        match self {
            Self::Disable => PgSslMode::Disable,
            Self::Prefer => PgSslMode::Prefer,
            Self::Require => PgSslMode::Require,
            Self::VerifyCa => PgSslMode::VerifyCa,
            Self::VerifyFull => PgSslMode::VerifyFull,
        }
    }
}

impl PostgresUrl {
    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Whether it carries a password.
    #[must_use]
    pub const fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The same, of whose servers whichever answers will do: nothing is written there.
    pub(crate) fn for_reading(self) -> Self {
        Self { wanted: Wanted::Any, ..self }
    }

    pub(crate) const fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// What the driver needs for one of the hosts.
    ///
    /// Without `sslmode` a server on another machine has to show a certificate for its name: what travels there is who
    /// may reach what, and the password.
    pub(crate) fn options(&self, host: &Host) -> PgConnectOptions {
        let tls = self.tls.unwrap_or(if host.is_here() { SslMode::Prefer } else { SslMode::VerifyFull });
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&host.name)
            .port(host.port)
            .database(&self.database)
            .application_name(&self.application)
            .ssl_mode(tls.driver());
        if host.is_socket() {
            options = options.socket(&host.name);
        }
        if let Some(user) = &self.user {
            options = options.username(user);
        }
        if let Some(password) = &self.password {
            options = options.password(&password.0);
        }
        if let Some(file) = &self.root_certificate {
            options = options.ssl_root_cert(file);
        }
        if let Some(file) = &self.client_certificate {
            options = options.ssl_client_cert(file);
        }
        if let Some(file) = &self.client_key {
            options = options.ssl_client_key(file);
        }
        options
    }
}

impl fmt::Display for PostgresUrl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        for (number, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if number == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", self.database)
    }
}

impl FromStr for PostgresUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let rest = rest.ok_or(UrlError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').ok_or(UrlError::Database)?;
        // Behind the first slash an @ is of a password with slashes: what is in front of it would be dialled and printed.
        if database.contains('@') {
            return Err(UrlError::Encoding("password"));
        }
        let database = plain(database, "database")?;
        if database.is_empty() {
            return Err(UrlError::Database);
        }
        // A password may contain an @ that nobody encoded: hosts never do.
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let (user, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            None => (None, None),
            Some((user, password)) => (Some(plain(user, "user")?), Some(decoded(password, "password")?)),
        };
        let hosts = parse_hosts(hosts)?;
        let mut url = Self {
            hosts,
            user: user.filter(|user| !user.is_empty()),
            password: password.filter(|password| !password.is_empty()).map(Password),
            database,
            tls: None,
            root_certificate: None,
            client_certificate: None,
            client_key: None,
            wanted: Wanted::ReadWrite,
            application: "tidegate".into(),
        };
        let (mut names, mut ports) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = plain(value, "parameter")?;
            match name {
                "host" => names = Some(value),
                "port" => ports = Some(value),
                _ => url.set(name, value)?,
            }
        }
        url.place(names, ports)?;
        Ok(url)
    }
}

impl PostgresUrl {
    fn set(&mut self, name: &str, value: String) -> Result<(), UrlError> {
        match name {
            "sslmode" => {
                self.tls = Some(match value.as_str() {
                    "disable" => SslMode::Disable,
                    "prefer" => SslMode::Prefer,
                    "require" => SslMode::Require,
                    "verify-ca" => SslMode::VerifyCa,
                    "verify-full" => SslMode::VerifyFull,
                    _ => {
                        let expected = "disable, prefer, require, verify-ca, verify-full";
                        return Err(UrlError::Value { parameter: "sslmode", expected });
                    }
                });
            }
            "sslrootcert" => self.root_certificate = Some(value.into()),
            "sslcert" => self.client_certificate = Some(value.into()),
            "sslkey" => self.client_key = Some(value.into()),
            "application_name" => self.application = value,
            "target_session_attrs" => {
                self.wanted = match value.as_str() {
                    "read-write" | "primary" => Wanted::ReadWrite,
                    "any" => Wanted::Any,
                    _ => {
                        let expected = "read-write, primary, any";
                        return Err(UrlError::Value { parameter: "target_session_attrs", expected });
                    }
                };
            }
            // Of a password with a question mark.
            other if other.contains('@') || value.contains('@') => {
                return Err(UrlError::Encoding("password"));
            }
            other => return Err(UrlError::Parameter(other.chars().take(40).collect())),
        }
        Ok(())
    }

    /// `host=` and `port=` say it over again, as a directory of a socket can be written in no other way.
    fn place(&mut self, names: Option<String>, ports: Option<String>) -> Result<(), UrlError> {
        if let Some(names) = names {
            self.hosts = names
                .split(',')
                .map(|name| Host { name: name.to_owned(), port: DEFAULT_PORT })
                .filter(|host| !host.name.is_empty())
                .collect();
        }
        if let Some(ports) = ports {
            let ports = ports.split(',').map(port).collect::<Result<Vec<_>, _>>()?;
            let last = ports.last().copied().unwrap_or(DEFAULT_PORT);
            for (number, host) in self.hosts.iter_mut().enumerate() {
                host.port = ports.get(number).copied().unwrap_or(last);
            }
        }
        if self.hosts.is_empty() {
            return Err(UrlError::Host);
        }
        if self.hosts.len() > MAX_HOSTS {
            return Err(UrlError::Hosts);
        }
        Ok(())
    }
}

fn parse_hosts(text: &str) -> Result<Vec<Host>, UrlError> {
    text.split(',').filter(|host| !host.is_empty()).map(parse_host).collect()
}

fn parse_host(text: &str) -> Result<Host, UrlError> {
    let (name, rest) = match text.strip_prefix('[') {
        // An IPv6 address in brackets.
        Some(inner) => inner.split_once(']').ok_or(UrlError::Host)?,
        None => match text.split_once(':') {
            Some((name, _)) => (name, &text[name.len()..]),
            None => (text, ""),
        },
    };
    let name = plain(name, "host")?;
    let port = match rest.strip_prefix(':') {
        Some(number) => port(number)?,
        None if rest.is_empty() => DEFAULT_PORT,
        None => return Err(UrlError::Port),
    };
    if name.is_empty() {
        return Err(UrlError::Host);
    }
    Ok(Host { name, port })
}

fn port(text: &str) -> Result<u16, UrlError> {
    text.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)
}

/// Decoded, and nothing that changes a terminal or ends a text of the protocol.
fn plain(text: &str, what: &'static str) -> Result<String, UrlError> {
    let text = decoded(text, what)?;
    if text.chars().any(char::is_control) { Err(UrlError::Control(what)) } else { Ok(text) }
}

fn decoded(text: &str, what: &'static str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or(UrlError::Encoding(what))?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Encoding(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> PostgresUrl {
        text.parse().expect("a URL")
    }

    #[test]
    fn several_hosts_with_and_without_a_port() {
        let url =
            parsed("postgresql://t:s%40e@db1:5433,db2,[2001:db8::1]:6432/tide?target_session_attrs=any");
        let hosts: Vec<_> = url.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["db1:5433", "db2:5432", "[2001:db8::1]:6432"]);
        assert_eq!((url.user.as_deref(), url.wanted), (Some("t"), Wanted::Any));
        assert_eq!(url.password, Some(Password("s@e".into())));
    }

    #[test]
    fn a_directory_of_a_unix_socket_is_a_host() {
        for text in
            ["postgres:///tide?host=/run/postgresql&port=5433", "postgres://%2Frun%2Fpostgresql:5433/tide"]
        {
            let url = parsed(text);
            assert_eq!(url.hosts[0].socket(), PathBuf::from("/run/postgresql/.s.PGSQL.5433"), "{text}");
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let url = parsed("postgres://tide:hunter2@db1,db2/tide");
        assert_eq!(url.to_string(), "postgres://tide@db1:5432,db2:5432/tide");
        assert!(!format!("{url:?}").contains("hunter2"));
        for wrong in
            ["postgres://tide:hunter2@db1", "postgres://tide:hunter2@db1:x/t", "mysql://tide:hunter2@db1/t"]
        {
            let error = wrong.parse::<PostgresUrl>().expect_err(wrong);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn half_of_a_password_that_is_not_encoded_is_never_printed() {
        for text in [
            "postgres://tide:12/hunter2@db/t",
            "postgres://tide:12/t?hunter2@db/t",
            "postgres://tide:12/t?hunter2=x@db/t",
        ] {
            assert_eq!(text.parse::<PostgresUrl>(), Err(UrlError::Encoding("password")), "{text}");
        }
        // An @ of a value is one.
        assert!(parsed("postgres://db/t?application_name=a@b").to_string().ends_with("/t"));
    }

    #[test]
    fn nothing_that_changes_a_terminal_is_taken() {
        for (text, what) in [
            ("postgres://db/t%1b[2J", "database"),
            ("postgres://u%00@db/t", "user"),
            ("postgres://db%0a/t", "host"),
            ("postgres:///t?host=/run\u{9b}", "parameter"),
        ] {
            assert_eq!(text.parse::<PostgresUrl>(), Err(UrlError::Control(what)), "{text:?}");
        }
        assert!(parsed("postgres://u:%1b@db/t").has_password(), "a password is not printed");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("http://db/t", UrlError::Scheme),
            ("postgres://db", UrlError::Database),
            ("postgres://db/", UrlError::Database),
            ("postgres:///t", UrlError::Host),
            ("postgres://db:0/t", UrlError::Port),
            ("postgres://db:70000/t", UrlError::Port),
            ("postgres://u:%zz@db/t", UrlError::Encoding("password")),
            ("postgres://db/t?sslmod=require", UrlError::Parameter("sslmod".into())),
            ("postgres://1,2,3,4,5,6,7,8,9/t", UrlError::Hosts),
        ] {
            assert_eq!(text.parse::<PostgresUrl>().expect_err(text), expected, "{text}");
        }
        assert!(matches!(
            "postgres://db/t?sslmode=allow".parse::<PostgresUrl>(),
            Err(UrlError::Value { parameter: "sslmode", .. })
        ));
    }

    #[test]
    fn a_server_elsewhere_has_to_prove_its_name_when_nothing_is_said() {
        let mode = |text: &str| {
            let url = parsed(text);
            format!("{:?}", url.options(&url.hosts[0]).get_ssl_mode())
        };
        assert_eq!(mode("postgres://db.example.com/t"), "VerifyFull");
        assert_eq!(mode("postgres://127.0.0.1/t"), "Prefer");
        assert_eq!(mode("postgres:///t?host=/run/postgresql"), "Prefer");
        assert_eq!(mode("postgres://db.example.com/t?sslmode=disable"), "Disable");
    }
}
