//! Two network namespaces: the PoP's, and everybody else's.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    process::Command,
};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The PoP's address.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The first address of honest agents; below lie the spoofed ones (RFC 2544's range for benchmarks, 198.18.0.0/15).
pub const HONEST: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// The first spoofed address.
pub const SPOOFED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Both; they go with this value.
#[derive(Debug)]
pub struct Lab {
    outside: String,
    inside: String,
}

fn run(program: &str, words: &str) -> Result<String> {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .output()
        .with_context(|| format!("{program} {words}"))?;
    ensure!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Lab {
    /// Makes both and moves the calling thread into the outer one; threads that it starts from now on are there too.
    ///
    /// # Errors
    /// Needs root and `ip`.
    pub fn enter() -> Result<Self> {
        let name = |role| format!("tgload-{}-{role}", std::process::id());
        let lab = Self { outside: name("out"), inside: name("pop") };
        let Self { outside, inside } = &lab;
        for namespace in [outside, inside] {
            run("ip", &format!("netns add {namespace}"))?;
            run("ip", &format!("-netns {namespace} link set lo up"))?;
        }
        run("ip", &format!("link add edge netns {outside} type veth peer name edge netns {inside}"))?;
        for (namespace, address) in [(outside, OUTSIDE), (inside, INSIDE)] {
            run("ip", &format!("-netns {namespace} address add {address}/24 dev edge"))?;
            run("ip", &format!("-netns {namespace} link set edge up"))?;
        }
        // Every address of the range is this namespace's own: a socket may send from each of them.
        run("ip", &format!("-netns {outside} route add local 198.18.0.0/15 dev lo"))?;
        run("ip", &format!("-netns {inside} route add 198.18.0.0/15 via {OUTSIDE}"))?;
        enter(outside)?;
        Ok(lab)
    }

    /// The PoP's namespace.
    #[must_use]
    pub fn inside(&self) -> &str {
        &self.inside
    }

    /// Bytes that went to the PoP and came from it, as its interface counts.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn edge_bytes(&self) -> Result<(u64, u64)> {
        let text = run("ip", &format!("-netns {} -j -s link show edge", self.inside))?;
        let links: Value = serde_json::from_str(&text)?;
        let count = |way: &str| links[0]["stats64"][way]["bytes"].as_u64().context("the edge's counters");
        Ok((count("rx")?, count("tx")?))
    }

    /// Counts from now on at the PoP's edge, by address of the other side.
    ///
    /// # Errors
    /// Needs nftables.
    pub fn count_sources(&self) -> Result<()> {
        let rules = "table ip edge {
            set came { type ipv4_addr; size 131072; flags dynamic; }
            set went { type ipv4_addr; size 131072; flags dynamic; }
            chain in {
                type filter hook input priority 0;
                meta l4proto udp add @came { ip saddr counter }
            }
            chain out {
                type filter hook output priority 0;
                meta l4proto udp add @went { ip daddr counter }
            }
        }
        ";
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), rules)?;
        run("ip", &format!("netns exec {} nft -f {}", self.inside, file.path().display()))?;
        Ok(())
    }

    /// Bytes that came from each address and went to it since [`Self::count_sources`], whose counting ends.
    ///
    /// # Errors
    /// Needs nftables.
    pub fn sources(&self) -> Result<BTreeMap<IpAddr, (u64, u64)>> {
        let mut counted: BTreeMap<IpAddr, (u64, u64)> = BTreeMap::new();
        for (set, is_came) in [("came", true), ("went", false)] {
            let text = run("ip", &format!("netns exec {} nft -j list set ip edge {set}", self.inside))?;
            let listed: Value = serde_json::from_str(&text)?;
            let sets = listed["nftables"].as_array().context("nft's answer")?;
            let elements = sets.iter().find_map(|entry| entry["set"]["elem"].as_array());
            for element in elements.into_iter().flatten() {
                let element = &element["elem"];
                let address: IpAddr = element["val"].as_str().context("an address")?.parse()?;
                let bytes = element["counter"]["bytes"].as_u64().context("a counter")?;
                let entry = counted.entry(address).or_default();
                if is_came { entry.0 += bytes } else { entry.1 += bytes }
            }
        }
        run("ip", &format!("netns exec {} nft delete table ip edge", self.inside))?;
        Ok(counted)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.outside, &self.inside] {
            let _ = run("ip", &format!("netns delete {namespace}"));
        }
    }
}

#[expect(unsafe_code, reason = "the standard library does not change namespaces")]
fn enter(namespace: &str) -> Result<()> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    // SAFETY: the descriptor is open during the call.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error()).context("entering the namespace");
    }
    Ok(())
}
