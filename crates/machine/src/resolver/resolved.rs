//! systemd-resolved, by its own command: private domains on our interface, everything else as before.

use super::conf::ResolvConf;
use crate::message::Network;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// It answers in milliseconds; one that hangs must not keep the guardian.
const PATIENCE: Duration = Duration::from_secs(3);
/// On the way out everything has to be done within two seconds.
const GOODBYE: Duration = Duration::from_millis(800);
/// The file by which programs reach it, and the one with the servers that it uses.
const STUB: &str = "/run/systemd/resolve/stub-resolv.conf";
const SERVERS: &str = "/run/systemd/resolve/resolv.conf";
/// Where its stub listens (systemd-resolved(8)).
const STUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// Whether programs ask systemd-resolved: the resolver file names its stub, and it runs.
pub(super) fn serves(path: &Path) -> bool {
    if !Path::new(STUB).exists() {
        return false;
    }
    let conf = ResolvConf::parse(&std::fs::read(path).unwrap_or_default());
    !conf.nameservers.is_empty() && conf.nameservers.iter().all(|server| server.ip() == STUB_ADDRESS)
}

/// The servers that it asks for everything else.
pub(super) fn upstreams(own: Ipv4Addr) -> Vec<SocketAddr> {
    let conf = ResolvConf::parse(&std::fs::read(SERVERS).unwrap_or_default());
    if conf.nameservers.is_empty() { Vec::new() } else { conf.upstreams(own) }
}

/// Routing domains and search domains in its own notation. Without any, none is sent here.
pub(super) fn domains(wanted: &Network) -> Vec<String> {
    let search = wanted.search.iter().map(ToString::to_string);
    let routing = wanted.domains.iter().map(|domain| format!("~{domain}"));
    let every = wanted.every_domain.then(|| "~.".to_owned());
    search.chain(routing).chain(every).collect()
}

/// Tells it where to ask for what.
pub(super) async fn take(interface: &str, own: Ipv4Addr, domains: &[String]) -> Result<(), String> {
    let own = own.to_string();
    call(&["dns", interface, &own], PATIENCE).await?;
    call(&["default-route", interface, "no"], PATIENCE).await?;
    let mut arguments = vec!["domain", interface];
    if domains.is_empty() {
        // The empty word takes the list away.
        arguments.push("");
    }
    arguments.extend(domains.iter().map(String::as_str));
    call(&arguments, PATIENCE).await
}

pub(super) async fn revert(interface: &str) {
    if let Err(error) = call(&["revert", interface], GOODBYE).await {
        tracing::debug!(error, "resolvectl revert; the interface is gone, and with it what was set on it");
    }
}

async fn call(arguments: &[&str], patience: Duration) -> Result<(), String> {
    let mut command = Command::new("resolvectl");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    match tokio::time::timeout(patience, command.output()).await {
        Err(_) => Err(format!("resolvectl {} did not end within {} s", arguments[0], patience.as_secs_f32())),
        Ok(Err(error)) => Err(format!("resolvectl: {error}")),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("resolvectl {}: {}", arguments[0], said.lines().next().unwrap_or("failed")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_domains_are_routing_domains_and_search_domains_are_searched() {
        let mut wanted = Network {
            domains: vec!["corp.example".parse().unwrap()],
            search: vec!["lab.example".parse().unwrap()],
            ..Network::default()
        };
        assert_eq!(domains(&wanted), ["lab.example", "~corp.example"]);
        wanted.every_domain = true;
        wanted.domains.clear();
        assert_eq!(domains(&wanted), ["lab.example", "~."]);
    }
}
