//! Which addresses this machine has, and when that changes.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until};

/// Changes come in bursts: addresses, routes and links of one cable.
const SETTLE: Duration = Duration::from_millis(50);
/// Without word from the kernel the addresses are looked at this often.
const POLL: Duration = Duration::from_secs(2);
/// With it, seldom, in case word was lost.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// How many bits of it name the link.
    pub prefix: u8,
}

/// The machine's addresses and its ways out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces {
    /// Every address, loopback included, in order.
    pub addresses: BTreeSet<InterfaceAddress>,
    /// The default routes as the kernel prints them; another one is another network.
    routes: Vec<String>,
}

impl Interfaces {
    /// What the machine has now; nothing where the system does not tell.
    #[must_use]
    pub fn now() -> Self {
        let addresses = if_addrs::get_if_addrs()
            .unwrap_or_default()
            .into_iter()
            .map(|interface| match interface.addr {
                if_addrs::IfAddr::V4(v4) => {
                    InterfaceAddress { ip: v4.ip.into(), prefix: prefix_of_v4(v4.netmask) }
                }
                if_addrs::IfAddr::V6(v6) => {
                    InterfaceAddress { ip: v6.ip.into(), prefix: prefix_of_v6(v6.netmask) }
                }
            })
            .collect();
        Self { addresses, routes: default_routes() }
    }

    /// Those that a socket bound to `local` sends from.
    pub fn of_socket(&self, local: SocketAddr) -> impl Iterator<Item = InterfaceAddress> + '_ {
        self.addresses.iter().copied().filter(move |address| match local.ip() {
            // An IPv6 wildcard socket takes IPv4 as well.
            IpAddr::V6(ip) if ip.is_unspecified() => true,
            IpAddr::V4(ip) if ip.is_unspecified() => address.ip.is_ipv4(),
            ip => address.ip == ip,
        })
    }
}

fn prefix_of_v4(mask: Ipv4Addr) -> u8 {
    u8::try_from(mask.to_bits().leading_ones()).unwrap_or(32)
}

fn prefix_of_v6(mask: Ipv6Addr) -> u8 {
    u8::try_from(mask.to_bits().leading_ones()).unwrap_or(128)
}

/// The kernel's lines for "everywhere": interface and gateway.
fn default_routes() -> Vec<String> {
    let fields = |line: &str, wanted: &[usize]| -> Option<Vec<String>> {
        let all: Vec<&str> = line.split_ascii_whitespace().collect();
        wanted.iter().map(|at| all.get(*at).map(ToString::to_string)).collect()
    };
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    // Interface, destination, gateway, …, mask; and destination, its length, …, next hop, …, interface.
    let v4 = v4.lines().filter_map(|line| fields(line, &[1, 0, 2])).filter(|route| route[0] == "00000000");
    let v6 = v6
        .lines()
        .filter_map(|line| fields(line, &[1, 0, 4, 9]))
        .filter(|route| route[0] == "00" && route[1].bytes().all(|byte| byte == b'0') && route[3] != "lo");
    let mut routes: Vec<String> = v4.chain(v6).map(|route| route.join(" ")).collect();
    routes.sort_unstable();
    routes
}

/// Tells when the machine's addresses or ways out change.
#[derive(Debug)]
pub struct NetworkWatch {
    known: Interfaces,
    #[cfg(target_os = "linux")]
    kernel: Option<kernel::Kernel>,
}

impl NetworkWatch {
    /// Begins with what is there now. Where the kernel gives no word, the addresses are looked at every two
    /// seconds.
    #[must_use]
    pub fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            kernel: kernel::Kernel::open().ok(),
            known: Interfaces::now(),
        }
    }

    /// What was there when it was last looked at.
    #[must_use]
    pub const fn known(&self) -> &Interfaces {
        &self.known
    }

    /// Waits for a change. May be dropped at any time without losing one.
    pub async fn changed(&mut self) -> &Interfaces {
        loop {
            self.word().await;
            let found = Interfaces::now();
            if found != self.known {
                self.known = found;
                return &self.known;
            }
        }
    }

    #[cfg(target_os = "linux")]
    async fn word(&mut self) {
        let Some(kernel) = &mut self.kernel else { return sleep(POLL).await };
        let anyway = Instant::now() + LOOK_ANYWAY;
        tokio::select! {
            () = kernel.word() => sleep(SETTLE).await,
            () = sleep_until(anyway) => {}
        }
    }

    #[cfg(not(target_os = "linux"))]
    async fn word(&mut self) {
        sleep(POLL).await;
    }
}

impl Default for NetworkWatch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use netlink_sys::{
        AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
    };
    use std::{io, time::Duration};

    /// Groups of addresses and routes, both families (rtnetlink(7)).
    const GROUPS: u32 = (libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_ROUTE
        | libc::RTMGRP_LINK)
        .cast_unsigned();

    pub(super) struct Kernel(TokioSocket);

    impl Kernel {
        pub fn open() -> io::Result<Self> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
            Ok(Self(socket))
        }

        /// Something was said. What it was is looked up afterwards: that survives lost messages.
        pub async fn word(&mut self) {
            let mut buffer = bytes::BytesMut::with_capacity(16 * 1024);
            if self.0.recv(&mut buffer).await.is_err() {
                // Too much was said at once: that is word enough.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    impl std::fmt::Debug for Kernel {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Kernel")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_loopback_address() {
        let loopback = InterfaceAddress { ip: Ipv4Addr::LOCALHOST.into(), prefix: 8 };
        assert!(Interfaces::now().addresses.contains(&loopback));
    }

    #[test]
    fn a_socket_of_one_address_sends_from_it_alone() {
        let address = |ip: &str| InterfaceAddress { ip: ip.parse().expect("an address"), prefix: 24 };
        let all = Interfaces {
            addresses: [address("192.168.1.2"), address("10.0.0.7"), address("2001:db8::1")].into(),
            routes: vec![],
        };
        let of = |local: &str| all.of_socket(local.parse().expect("an address")).count();
        assert_eq!((of("[::]:1"), of("0.0.0.0:1"), of("10.0.0.7:1"), of("127.0.0.1:1")), (3, 2, 1, 0));
    }
}
