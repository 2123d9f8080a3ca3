//! Why the machine was not set up, or not put back: each says what to do about it.

use crate::journal::JournalError;
use policy::Prefix;
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

/// Why the machine was not set up. Nothing is left changed.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The kernel's interface is not there.
    #[error(
        "expected the device /dev/net/tun, and it is not there or has no driver; `modprobe tun` as root may bring it, in a container `--device /dev/net/tun --cap-add NET_ADMIN`"
    )]
    NoDevice,
    /// Not allowed.
    #[error(
        "an interface and resolver settings need root, with CAP_NET_ADMIN, and this process has not got that; use sudo, or leave --tun out"
    )]
    NoCapability,
    /// The name is in use.
    #[error("an interface called {0} is there already and is not ours; choose another name with --interface")]
    InterfaceTaken(String),
    /// The interface was not made.
    #[error("the interface {name} was not made: {source}")]
    Interface {
        /// Its name.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The interface's own address is somebody else's.
    #[error(
        "the address {address}, which this device has inside every tunnel, is in use on {interface}: another VPN? end that one first"
    )]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Where it is.
        interface: String,
    },
    /// No range is free.
    #[error(
        "no range for synthetic addresses is free: this machine has routes or addresses in each of {}; name a free one with {option}",
        list(.tried)
    )]
    NoRange {
        /// Which were tried.
        tried: Vec<Prefix>,
        /// How to name another.
        option: &'static str,
    },
    /// DNS cannot be answered.
    #[error(
        "port 53 of {address} ({protocol}) cannot be had: {source}; another name server listens on every address, make it listen on its own ones only (dnsmasq: bind-dynamic; unbound: interface)"
    )]
    PortTaken {
        /// Of which address.
        address: Ipv4Addr,
        /// UDP or TCP.
        protocol: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing can be written down, so nothing is changed.
    #[error("what has to be put back cannot be written down: {0}")]
    NoJournal(String),
    /// Only root puts things back.
    #[error("putting back what a killed client left behind needs root; use sudo")]
    NotRoot,
    /// Another one runs.
    #[error("another client runs in TUN mode on this machine; end it with `tidegate down`")]
    Running,
    /// The journal of a guardian that was killed does not read.
    #[error(
        "what an earlier run left behind cannot be put back: {0}; put /etc/resolv.conf right by hand, then remove the file"
    )]
    Journal(String),
    /// Somebody else may have written the journal, or it is not about this machine's resolver file.
    #[error(
        "{} {why}: what it says is not put back, and nothing was changed; look at /etc/resolv.conf, then remove it", path.display()
    )]
    Untrusted {
        /// The journal or its directory.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The resolver file is ours, and nobody knows how it was.
    #[error(
        "{} is still what an earlier client wrote there, and no journal here says how it was before; unless a client with another TIDEGATE_MACHINE_DIR runs, write the network's name servers into it by hand (nameserver ADDRESS) or let the network's own program write it again", .0.display()
    )]
    LeftOver(PathBuf),
    /// The kernel.
    #[error("the kernel's routing tables: {0}")]
    Netlink(#[source] io::Error),
    /// A connector may not set up the machine.
    #[error(
        "kernel mode sets up an interface, a table of nftables and forwarding, which needs root with CAP_NET_ADMIN, and this process has not got that; use sudo (in a container `--cap-add NET_ADMIN --device /dev/net/tun`), or leave --mode out: userspace mode needs no privileges"
    )]
    NoSitePrivileges,
    /// There is no nft.
    #[error(
        "expected the program nft, and it is not there; install nftables (Debian: apt-get install nftables), or leave --mode out: userspace mode does without"
    )]
    NoNft,
    /// It did not do what it was told.
    #[error(
        "nft did not take the connector's table: {0}; is nftables with NAT in this kernel (modprobe nft_masq nft_ct)?"
    )]
    Nft(String),
    /// The switch.
    #[error(
        "IPv4 forwarding is off and was not switched on: {0}; in a container, start it with `--sysctl net.ipv4.ip_forward=1`"
    )]
    Forwarding(#[source] io::Error),
    /// Another one runs.
    #[error("another connector has the interface {0} on this machine; choose another name with --interface")]
    SiteRunning(String),
    /// The journal of a connector's guardian that was killed does not read.
    #[error(
        "what an earlier connector left behind cannot be put back: {0}; take out its table (nft list tables) and set net.ipv4.ip_forward by hand, then remove the file"
    )]
    SiteJournal(String),
}

fn list(prefixes: &[Prefix]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl From<JournalError> for Unavailable {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Held(_) => Self::Running,
            JournalError::Untrusted { path, why } => Self::Untrusted { path, why },
            other => Self::Journal(other.to_string()),
        }
    }
}

/// Why a guardian ended before its time, or could not put everything back.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// The worker did not start.
    #[error("the worker process was not started: {0}")]
    Start(#[source] io::Error),
    /// The worker ended before it had the interface.
    #[error("the worker process ended before it was ready ({0})")]
    Early(String),
    /// The resolver settings were not changed: nothing is.
    #[error("the machine's resolver settings were not changed: {0}")]
    Resolver(String),
    /// The worker broke the rules of the link.
    #[error("the worker process was ended: {0}")]
    Worker(String),
    /// The kernel.
    #[error("the kernel's routing tables: {0}")]
    Netlink(#[source] io::Error),
    /// Not everything of a connector's is as it was.
    #[error("the connector's table and forwarding were not put back: {0}; `tidegate cleanup` tries again")]
    SiteRestore(String),
    /// Not everything is as it was.
    #[error("the machine's resolver settings were not put back: {0}; `tidegate cleanup` tries again")]
    Restore(String),
}
