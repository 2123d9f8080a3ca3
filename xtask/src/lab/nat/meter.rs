//! The judge that asks nobody: what the kernel of the server counted on port 443. Bytes that went through
//! the PoP are in its counters, and bytes that went straight are not.

use super::{
    super::namespace::Namespace,
    kind::{Blocked, Path},
};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{ops::Sub, time::Duration};

const SHORT: Duration = Duration::from_secs(10);

/// What the server counts.
const COUNTERS: [&str; 4] = ["udp_in", "udp_out", "tcp_in", "tcp_out"];
/// Where: on its port 443.
const RULES: &str = "table inet tally {
    chain input {
        type filter hook input priority 0; policy accept;
        udp dport 443 counter name udp_in
        tcp dport 443 counter name tcp_in
    }
    chain output {
        type filter hook output priority 0; policy accept;
        udp sport 443 counter name udp_out
        tcp sport 443 counter name tcp_out
    }
}\n";

/// Bytes by direction and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    udp_in: u64,
    udp_out: u64,
    tcp_in: u64,
    tcp_out: u64,
}

impl Meter {
    /// Starts to count on the server.
    ///
    /// # Errors
    /// `nft` refuses the rules.
    pub fn install(server: &Namespace) -> Result<()> {
        declare(server, "inet tally", &COUNTERS)?;
        server.nft(RULES)
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// They are not there.
    pub fn read(server: &Namespace) -> Result<Self> {
        let said = server.run(SHORT, "nft", &["-j", "list", "counters", "table", "inet", "tally"])?.stdout;
        let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let bytes = |name: &str| counted(&said, name).map(|counted| counted.bytes);
        Ok(Self {
            udp_in: bytes("udp_in")?,
            udp_out: bytes("udp_out")?,
            tcp_in: bytes("tcp_in")?,
            tcp_out: bytes("tcp_out")?,
        })
    }

    /// By which path a download of `size` bytes went between two readings, whose difference this is.
    ///
    /// # Errors
    /// The counters fit no path.
    pub fn path(self, size: u64, blocked: Blocked) -> Result<Path> {
        // Less than a tenth is the sessions' own talk, and what a direct path takes until it is proven.
        let (some, all) = (size / 10, size - size / 20);
        let Self { udp_in, udp_out, tcp_in, tcp_out } = self;
        if udp_in.max(udp_out).max(tcp_in).max(tcp_out) < some {
            return Ok(Path::Direct);
        }
        // From the connector in, to the client out.
        let leg = |side: bool, udp: u64, tcp: u64| if side { (tcp, udp) } else { (udp, tcp) };
        let (right_in, wrong_in) = leg(blocked.connector, udp_in, tcp_in);
        let (right_out, wrong_out) = leg(blocked.client, udp_out, tcp_out);
        ensure!(
            right_in >= all && right_out >= all && wrong_in < some && wrong_out < some,
            "the server's counters fit no path: {self:?}"
        );
        Ok(if blocked.client || blocked.connector { Path::Tcp } else { Path::Relay })
    }
}

impl Sub for Meter {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            udp_in: self.udp_in - earlier.udp_in,
            udp_out: self.udp_out - earlier.udp_out,
            tcp_in: self.tcp_in - earlier.tcp_in,
            tcp_out: self.tcp_out - earlier.tcp_out,
        }
    }
}

/// What a named counter of nftables holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Declares counters in a table of their own. By themselves, before the rules that name them.
///
/// # Errors
/// `nft` refuses them.
pub fn declare(host: &Namespace, table: &str, names: &[&str]) -> Result<()> {
    host.nft(&format!("add table {table}\n"))?;
    names.iter().try_for_each(|name| host.nft(&format!("add counter {table} {name}\n")))
}

/// Reads a named counter.
///
/// # Errors
/// There is none of that name.
pub fn counter(host: &Namespace, family: &str, table: &str, name: &str) -> Result<Counted> {
    let said = host.run(SHORT, "nft", &["-j", "list", "counter", family, table, name])?.stdout;
    let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    counted(&said, name)
}

fn counted(said: &Value, name: &str) -> Result<Counted> {
    let listed = said["nftables"].as_array().context("nft lists nothing")?;
    let mut counters = listed.iter().filter_map(|item| item.get("counter"));
    let Some(found) = counters.find(|counter| counter["name"] == name) else {
        bail!("no counter {name}: {said}");
    };
    let number = |field: &str| found[field].as_u64().with_context(|| format!("{field} of {name}"));
    Ok(Counted { packets: number("packets")?, bytes: number("bytes")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Blocked = Blocked { client: false, connector: false };

    fn meter(udp_in: u64, udp_out: u64, tcp_in: u64, tcp_out: u64) -> Meter {
        Meter { udp_in, udp_out, tcp_in, tcp_out }
    }

    #[test]
    fn bytes_that_the_server_did_not_see_went_straight() {
        assert_eq!(meter(3000, 3000, 0, 0).path(1_000_000, NOBODY).expect("direct"), Path::Direct);
    }

    #[test]
    fn a_relay_has_every_byte_in_and_out() {
        let relayed = meter(1_050_000, 1_050_000, 0, 200);
        assert_eq!(relayed.path(1_000_000, NOBODY).expect("relay"), Path::Relay);
        meter(1_050_000, 500_000, 0, 0).path(1_000_000, NOBODY).expect_err("half of it was lost");
    }

    #[test]
    fn a_side_without_udp_must_have_come_by_tcp() {
        let blocked = Blocked { client: true, connector: false };
        let seen = meter(1_050_000, 0, 100, 1_050_000);
        assert_eq!(seen.path(1_000_000, blocked).expect("tcp"), Path::Tcp);
        seen.path(1_000_000, NOBODY).expect_err("nobody should have needed TCP");
        meter(1_050_000, 1_050_000, 0, 0).path(1_000_000, blocked).expect_err("UDP where there is none");
    }
}
