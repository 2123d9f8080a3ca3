//! systemd-resolved, by its own command: private domains on our interface, everything else as before.

use super::conf::ResolvConf;
use crate::message::Network;
use policy::Prefix;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
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

/// Routing domains and search domains in its own notation; `synthetic` ranges are asked about in reverse.
pub(super) fn domains(wanted: &Network, synthetic: &[Prefix]) -> Vec<String> {
    let search = wanted.search.iter().map(ToString::to_string);
    let routing = wanted.domains.iter().map(|domain| format!("~{domain}"));
    let reverse = synthetic.iter().flat_map(|range| reverse_zones(*range)).map(|zone| format!("~{zone}"));
    let every = wanted.every_domain.then(|| "~.".to_owned());
    search.chain(routing).chain(reverse).chain(every).collect()
}

/// What it never asks anybody for, so that nobody wonders: names of one label (`ResolveUnicastSingleLabel=` in
/// resolved.conf(5)).
pub(super) fn unasked(wanted: &Network) -> Option<String> {
    let single = wanted.domains.iter().find(|domain| !domain.as_str().contains('.'))?;
    Some(format!(
        "systemd-resolved asks nobody for names of one label such as {single}, unless ResolveUnicastSingleLabel=yes is set in /etc/systemd/resolved.conf; names with a dot work"
    ))
}

/// The zones that reverse questions about a range fall into: cut at octets (RFC 1035 section 3.5) or nibbles (RFC 3596
/// section 2.5), which takes up to 128 zones for a range that ends between two.
fn reverse_zones(range: Prefix) -> Vec<String> {
    let length = u32::from(range.length());
    match range.address() {
        IpAddr::V4(v4) => {
            let octets = length.div_ceil(8);
            let step = 1u32.checked_shl(32 - octets * 8).unwrap_or(0);
            (0..1u32 << (octets * 8 - length))
                .map(|at| {
                    let bytes = u32::from(v4).wrapping_add(at.wrapping_mul(step)).to_be_bytes();
                    let labels = bytes[..octets as usize].iter().rev().map(ToString::to_string);
                    labels.chain(["in-addr.arpa".to_owned()]).collect::<Vec<_>>().join(".")
                })
                .collect()
        }
        IpAddr::V6(v6) => {
            let nibbles = length.div_ceil(4);
            let step = 1u128.checked_shl(128 - nibbles * 4).unwrap_or(0);
            (0..1u128 << (nibbles * 4 - length))
                .map(|at| {
                    let text = format!("{:032x}", u128::from(v6).wrapping_add(at.wrapping_mul(step)));
                    let labels = text[..nibbles as usize].chars().rev().map(|nibble| nibble.to_string());
                    labels.chain(["ip6.arpa".to_owned()]).collect::<Vec<_>>().join(".")
                })
                .collect()
        }
    }
}

/// Tells it where to ask for what.
pub(super) async fn take(interface: &str, own: Ipv4Addr, domains: &[String]) -> Result<(), String> {
    let own = own.to_string();
    call(&["dns", interface, &own], PATIENCE).await?;
    // Private names are signed by nobody, and the way from one process of this machine to another needs no TLS: with
    // DNSSEC= or DNSOverTLS= in its settings it would refuse our answers, or not ask. One that is too old to know the
    // word does not have the setting either.
    for word in ["dnssec", "dnsovertls"] {
        if let Err(error) = call(&[word, interface, "no"], PATIENCE).await {
            tracing::debug!(error, "systemd-resolved was not told");
        }
    }
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
        let range = ["100.97.0.0/16".parse().unwrap()];
        assert_eq!(domains(&wanted, &range), ["lab.example", "~corp.example", "~97.100.in-addr.arpa"]);
        wanted.every_domain = true;
        wanted.domains.clear();
        assert_eq!(domains(&wanted, &[]), ["lab.example", "~."]);
    }

    #[test]
    fn reverse_questions_about_a_range_fall_into_its_zones_and_no_others() {
        let zones = |text: &str| reverse_zones(text.parse().unwrap());
        assert_eq!(zones("198.18.0.0/15"), ["18.198.in-addr.arpa", "19.198.in-addr.arpa"]);
        assert_eq!(zones("10.1.2.16/28").len(), 16);
        assert_eq!(zones("10.1.2.3/32"), ["3.2.1.10.in-addr.arpa"]);
        assert_eq!(zones("10.0.0.0/9").len(), 128);
        assert_eq!(zones("fd00:1::/32"), ["1.0.0.0.0.0.d.f.ip6.arpa"]);
        assert_eq!(zones("fd00::/31").len(), 2);
        let whole = zones("fd7a:7467:6e61::/96");
        assert_eq!(whole.len(), 1);
        assert!(whole[0].ends_with("1.6.e.6.7.6.4.7.a.7.d.f.ip6.arpa"), "{whole:?}");
        assert_eq!(whole[0].split('.').count(), 24 + 2);
    }
}
