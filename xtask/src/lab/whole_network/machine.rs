//! A machine's network settings, taken as text to be compared, and its resolver, asked often.

use crate::lab::{namespace::Namespace, probe::this_program};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{fmt::Write as _, fs, net::IpAddr, time::Duration};

const SHORT: Duration = Duration::from_secs(10);

/// What a client may change, as the system's own tools print it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(Vec<(&'static str, String)>);

impl Snapshot {
    /// Looks at everything now.
    ///
    /// # Errors
    /// A tool fails.
    pub fn take(host: &Namespace) -> Result<Self> {
        let mut parts = Vec::new();
        for (what, arguments) in [
            ("links", &["-brief", "link"][..]),
            ("addresses", &["-brief", "address"]),
            ("IPv4 routes", &["-4", "route", "show", "table", "all"]),
            ("IPv6 routes", &["-6", "route", "show", "table", "all"]),
            ("IPv4 rules", &["-4", "rule"]),
            ("IPv6 rules", &["-6", "rule"]),
        ] {
            parts.push((what, host.run(SHORT, "ip", arguments)?.stdout));
        }
        parts.push(("packet filter", host.run(SHORT, "nft", &["list", "ruleset"])?.stdout));
        let switches = "^net\\.ipv[46]\\.(ip_forward|conf\\..*\\.(forwarding|accept_redirects))";
        parts.push(("forwarding", host.run(SHORT, "sysctl", &["-a", "-r", switches])?.stdout));
        let file = host.etc().join("resolv.conf");
        parts.push(("resolv.conf", fs::read_to_string(&file).with_context(|| file.display().to_string())?));
        Ok(Self(parts))
    }

    /// What is different, for people; empty when nothing is.
    pub fn differences(&self, other: &Self) -> String {
        let mut said = String::new();
        for ((what, before), (_, after)) in self.0.iter().zip(&other.0) {
            if before != after {
                let _ = writeln!(said, "{what} were\n{before}and are\n{after}");
            }
        }
        said
    }
}

/// Asks a resolver the same question one after the other, inside a namespace; how long each answer took, ordered.
///
/// # Errors
/// A question was not answered.
pub fn ask_often(host: &Namespace, server: IpAddr, name: &str, times: usize) -> Result<Vec<Duration>> {
    let (server, times) = (server.to_string(), times.to_string());
    let arguments = ["lab", "dns-ask", "--server", &server, "--name", name, "--times", &times];
    let said = host.run(Duration::from_secs(60), &this_program(), &arguments)?;
    let micros: Vec<Value> = serde_json::from_str(said.stdout.trim())?;
    let mut took: Vec<Duration> =
        micros.iter().filter_map(Value::as_u64).map(Duration::from_micros).collect();
    ensure!(!took.is_empty(), "no answer");
    took.sort();
    Ok(took)
}
