//! Dialling: every host at once, the first that may be used wins, and if none does, what each of them did.

use super::{
    pool::Kept,
    url::{Host, PostgresUrl, Wanted},
};
use crate::StoreError;
use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};
use std::{fmt::Write as _, io, time::Duration};
use tokio::{
    net::{TcpStream, UnixStream, lookup_host},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

/// Said once per connection. A server that loses its client takes the lock of an open change back by itself, and a
/// statement ends at the server when its client has stopped waiting.
pub(super) const SETTINGS: &str = "SET statement_timeout = 1000; SET lock_timeout = 1000; \
     SET idle_in_transaction_session_timeout = 5000; SET client_connection_check_interval = 500";

/// Looking into a silence takes this much longer, once per step.
const LOOK: Duration = Duration::from_millis(200);

/// A connection to a server that takes what is wanted of it.
pub(super) async fn connect(url: &PostgresUrl, deadline: Instant) -> Result<Kept, StoreError> {
    let mut attempts = JoinSet::new();
    for host in url.hosts() {
        let (options, host, wanted) = (url.options(host), host.clone(), url.wanted());
        attempts.spawn(async move {
            let attempt = attempt(&options, &host, wanted, deadline).await;
            attempt.map_err(|trouble| format!("{host}: {trouble}"))
        });
    }
    let mut troubles = Vec::new();
    while let Some(ended) = attempts.join_next().await {
        match ended {
            Ok(Ok(kept)) => return Ok(kept),
            Ok(Err(trouble)) => troubles.push(trouble),
            Err(error) => troubles.push(format!("the attempt ended: {error}")),
        }
    }
    troubles.sort();
    let mut text = troubles.join("; ");
    if troubles.len() > 1 {
        let _ = write!(text, "; none of the {} servers can be used", troubles.len());
    }
    Err(StoreError::Unavailable(text))
}

async fn attempt(
    options: &PgConnectOptions,
    host: &Host,
    wanted: Wanted,
    deadline: Instant,
) -> Result<Kept, String> {
    let started = Instant::now();
    let after = || format!("after {} ms", started.elapsed().as_millis());
    let mut connection = match timeout_at(deadline, PgConnection::connect_with(options)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(format!("{}, {}", explained(&error), after())),
        Err(_) => {
            let waited = after();
            return Err(format!("{}, {waited}", silence(host).await));
        }
    };
    let role = async {
        sqlx::raw_sql(SETTINGS).execute(&mut connection).await?;
        let asked = sqlx::query("SELECT current_setting('transaction_read_only') = 'on' AS read_only");
        asked.persistent(false).fetch_one(&mut connection).await?.try_get::<bool, _>("read_only")
    };
    let read_only = match timeout_at(deadline, role).await {
        Ok(Ok(read_only)) => read_only,
        Ok(Err(error)) => return Err(format!("settings: {error}, {}", after())),
        Err(_) => return Err(format!("settings: signed in, then no answer, {}", after())),
    };
    if read_only && wanted == Wanted::ReadWrite {
        return Err(format!(
            "it takes no writes (a standby, or default_transaction_read_only is on), {}",
            after()
        ));
    }
    Ok(Kept { connection, server: host.to_string().into() })
}

/// Which step failed, and what to look at.
fn explained(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                "connecting: refused; does PostgreSQL run there, and listen on this address and port?".into()
            }
            io::ErrorKind::NotFound => {
                "connecting: there is no such socket; does PostgreSQL run there, and with this unix_socket_directories \
                 and port?"
                    .into()
            }
            io::ErrorKind::PermissionDenied => "connecting: the socket may not be opened by this user".into(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                format!("connecting: closed by the other end ({error}); is it PostgreSQL, and does it take connections?")
            }
            // What rustls refuses comes as this.
            io::ErrorKind::InvalidData => tls(error),
            _ => format!("resolving or connecting: {error}; check the host's name and the way to it"),
        },
        sqlx::Error::Tls(error) => tls(error),
        sqlx::Error::Database(error) => {
            let hint = match error.code().as_deref().unwrap_or_default() {
                "28P01" => "check the password",
                "28000" => "check the user name, and pg_hba.conf for this user, database, address and TLS",
                "3D000" => "check the database's name, or make it: CREATE DATABASE … OWNER …",
                "53300" => "max_connections of the server is used up, by this or by others",
                "57P03" => "it starts, stops or recovers; wait",
                _ => "see the server's log",
            };
            format!("signing in: {}; {hint}", error.message())
        }
        sqlx::Error::Configuration(error) => format!("TLS: {error}; check sslrootcert, sslcert and sslkey"),
        other => format!("signing in: {other}"),
    }
}

fn tls(error: &dyn std::fmt::Display) -> String {
    format!(
        "TLS: {error}; check sslmode and sslrootcert in the URL, and ssl = on and the certificate at the server"
    )
}

/// Nobody answered. Which step that was: the driver takes them all in one, so that they are taken once more.
async fn silence(host: &Host) -> &'static str {
    const FROZEN: &str =
        "signing in: it accepts connections and says nothing; frozen, overloaded, or not PostgreSQL";
    if host.is_socket() {
        return match timeout(LOOK, UnixStream::connect(host.socket())).await {
            Ok(Ok(_)) => FROZEN,
            _ => "connecting: the socket accepts nothing; its queue is full or the server is gone",
        };
    }
    let addresses = match timeout(LOOK, lookup_host((host.name.as_str(), host.port))).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(_)) => return "resolving: the name has no address; check the name and the resolver",
        Err(_) => return "resolving: the resolver does not answer",
    };
    let Some(address) = addresses.first() else { return "resolving: the name has no address" };
    match timeout(LOOK, TcpStream::connect(address)).await {
        Ok(Ok(_)) => FROZEN,
        _ => "connecting: nothing answers at this address; the host is down, or a firewall drops it",
    }
}
