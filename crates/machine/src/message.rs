//! What guardian and worker tell each other. The guardian believes nothing that it cannot check: sizes are bounded
//! before anything is parsed, and what is asked for is looked at again in [`crate::plan`].

use crate::offload::Offload;
use policy::{HostName, Prefix};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest frame: all lists full. A name is at most 253 bytes, a prefix 43, and JSON adds three.
pub const MAX_FRAME: usize = 256 * 1024;
/// Prefixes that a worker may want in the tunnel.
const MAX_ROUTES: usize = 1_024;
/// Addresses that stay outside the tunnel.
const MAX_AVOID: usize = 256;
/// Domains for a resolver that splits by domain.
const MAX_DOMAINS: usize = 256;
/// Search domains: what resolv.conf(5) takes.
const MAX_SEARCH: usize = 6;
/// Lists filled to the brim fit into a frame.
const _: () =
    assert!(MAX_ROUTES * 46 + MAX_AVOID * 42 + (MAX_DOMAINS + MAX_SEARCH) * 256 + 1_024 < MAX_FRAME);

/// Why a message was not understood.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Longer than any message is.
    #[error("a message of {0} bytes, at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// Not of the form.
    #[error("not a message: {0}")]
    Form(#[from] serde_json::Error),
    /// A list is too long.
    #[error("{0} has more entries than allowed")]
    TooMany(&'static str),
}

/// From the worker to the guardian.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromWorker {
    /// The first word: the worker has what it needs to run.
    Hello {
        /// The device's own address inside tunnels.
        v6: Ipv6Addr,
    },
    /// What is wanted from now on; replaces what was wanted before.
    Network(Network),
    /// The worker's loop goes round.
    Alive {},
    /// It knows the [`FromGuardian::Upstreams`].
    Told {},
}

/// What a worker wants of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Prefixes that lead into the tunnel; the synthetic ranges are the guardian's own business.
    pub routes: Vec<Prefix>,
    /// Addresses that must stay outside: the tunnel itself travels to them.
    pub avoid: Vec<IpAddr>,
    /// The domains that the worker answers.
    pub domains: Vec<HostName>,
    /// Whether there are more domains than that, so that every question has to come to the worker.
    pub every_domain: bool,
    /// Domains that short names are tried in, behind the machine's own.
    pub search: Vec<HostName>,
}

impl FromWorker {
    /// Reads a frame's body.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_FRAME {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let message: Self = serde_json::from_slice(bytes)?;
        if let Self::Network(network) = &message {
            let lists = [
                ("routes", network.routes.len(), MAX_ROUTES),
                ("avoid", network.avoid.len(), MAX_AVOID),
                ("domains", network.domains.len(), MAX_DOMAINS),
                ("search", network.search.len(), MAX_SEARCH),
            ];
            if let Some((list, ..)) = lists.into_iter().find(|(_, length, most)| length > most) {
                return Err(MessageError::TooMany(list));
            }
        }
        Ok(message)
    }
}

impl Network {
    /// Cuts every list to what a guardian takes; says how many prefixes were left out.
    pub fn bound(&mut self) -> usize {
        let left_out = self.routes.len().saturating_sub(MAX_ROUTES);
        self.routes.truncate(MAX_ROUTES);
        self.avoid.truncate(MAX_AVOID);
        if self.domains.len() > MAX_DOMAINS {
            self.domains.clear();
            self.every_domain = true;
        }
        self.search.truncate(MAX_SEARCH);
        left_out
    }
}

/// From the guardian to the worker.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromGuardian {
    /// What goes with the descriptors.
    Seat(SeatFacts),
    /// Before the machine's questions come to the worker: where it passes on those that are not private. It answers with
    /// [`FromWorker::Told`], and then they come.
    Upstreams {
        /// The servers, in order.
        servers: Vec<SocketAddr>,
    },
    /// What came of the last [`FromWorker::Network`], or of a change of the machine since.
    Applied(Applied),
}

impl FromGuardian {
    /// Reads a frame's body.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_FRAME {
            return Err(MessageError::TooLong(bytes.len()));
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// The interface that a worker gets.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeatFacts {
    /// The interface's name.
    pub interface: String,
    /// The guardian's process.
    pub guardian: u32,
    /// The interface's IPv4 address, where the DNS sockets listen.
    pub v4: Ipv4Addr,
    /// The interface's IPv6 address; none where the machine has no IPv6.
    pub v6: Option<Ipv6Addr>,
    /// What the interface's packets come with.
    pub offload: Offload,
    /// The range that synthetic IPv4 addresses are taken from.
    pub synthetic_v4: Prefix,
    /// The same for IPv6.
    pub synthetic_v6: Prefix,
    /// What is not as one might expect, in sentences.
    pub notes: Vec<String>,
}

/// What the machine looks like now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    /// What leads into the tunnel.
    pub routes: Vec<Prefix>,
    /// What does not, or takes something from another network, and why.
    pub conflicts: Vec<Conflict>,
    /// The resolver.
    pub dns: DnsStanding,
}

/// A prefix that is not simply routed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflict {
    /// What was wanted.
    pub prefix: Prefix,
    /// Whether it leads into the tunnel all the same.
    pub routed: bool,
    /// Why not, or at whose cost, in a sentence.
    pub why: String,
}

/// Who asks the worker for names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DnsMode {
    /// systemd-resolved, for the private domains only.
    Resolved,
    /// Every program, by `/etc/resolv.conf`.
    File,
    /// Nobody.
    Off,
}

/// The machine's resolver.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsStanding {
    /// How questions come in.
    pub mode: DnsMode,
    /// The servers that the machine used before: who is asked for everything that is not private.
    pub upstreams: Vec<SocketAddr>,
    /// Search domains in use.
    pub search: Vec<String>,
    /// How often another program wrote the settings while we ran, and ours were put back.
    pub rewritten: u32,
    /// What is not as it should be, in a sentence.
    pub note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_reads_as_it_was_written() {
        let network = Network {
            routes: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
            avoid: vec!["192.0.2.1".parse().unwrap()],
            domains: vec!["corp.example".parse().unwrap()],
            every_domain: false,
            search: vec![],
        };
        for message in [
            FromWorker::Hello { v6: "fd00::1".parse().unwrap() },
            FromWorker::Network(network),
            FromWorker::Alive {},
            FromWorker::Told {},
        ] {
            assert_eq!(FromWorker::parse(&serde_json::to_vec(&message).unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn what_has_an_unknown_field_a_loose_prefix_or_too_many_entries_is_refused() {
        let many = vec!["\"10.0.0.0/8\""; MAX_ROUTES + 1].join(",");
        for text in [
            r#"{"say":"alive","more":1}"#.to_owned(),
            r#"{"say":"network","routes":["10.0.0.1/8"],"avoid":[],"domains":[],"every_domain":false,"search":[]}"#.into(),
            r#"{"say":"network","routes":[],"avoid":[],"domains":["a b"],"every_domain":false,"search":[]}"#.into(),
            format!(r#"{{"say":"network","routes":[{many}],"avoid":[],"domains":[],"every_domain":false,"search":[]}}"#),
            r#"{"say":"run"}"#.into(),
            String::new(),
        ] {
            assert!(FromWorker::parse(text.as_bytes()).is_err(), "{}", &text[..text.len().min(80)]);
        }
        assert!(matches!(FromWorker::parse(&vec![b' '; MAX_FRAME + 1]), Err(MessageError::TooLong(_))));
    }

    #[test]
    fn lists_that_were_cut_are_taken_and_too_many_domains_become_every_domain() {
        let mut network = Network {
            routes: (0..=u16::MAX).map(|n| Prefix::host([10, 9, (n >> 8) as u8, n as u8].into())).collect(),
            domains: (0..1_000).map(|n| format!("n{n}.example").parse().unwrap()).collect(),
            ..Network::default()
        };
        assert_eq!(network.bound(), 65_536 - MAX_ROUTES);
        assert!(network.every_domain && network.domains.is_empty());
        let bytes = serde_json::to_vec(&FromWorker::Network(network.clone())).unwrap();
        assert_eq!(FromWorker::parse(&bytes).unwrap(), FromWorker::Network(network));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = FromWorker::parse(&bytes);
            let _ = FromGuardian::parse(&bytes);
        }
    }
}
