//! What the privileged process of TUN mode reads: the worker's messages, and the machine's resolver file.

use machine::{FromGuardian, FromWorker, ResolvConf, plan, render};
use std::net::{IpAddr, Ipv4Addr};

/// Whatever a worker says, nothing wide, nobody's loopback and no address that has to stay outside gets a route.
pub(crate) fn worker_message(bytes: &[u8]) {
    let _ = FromGuardian::parse(bytes);
    let Ok(message) = FromWorker::parse(bytes) else { return };
    let again = serde_json::to_vec(&message).expect("a message has a JSON form");
    assert_eq!(FromWorker::parse(&again).expect("its own form"), message);
    let FromWorker::Network(wanted) = message else { return };
    let server = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
    let own = ["100.64.0.2/32".parse().expect("a prefix"), "100.97.0.0/16".parse().expect("a prefix")];
    for route in plan(&wanted, &[server], &own, &[]).routes {
        assert!(route.length() >= 8, "{route}");
        assert!(!route.contains(server), "{route}");
        assert!(!route.address().is_loopback() && !route.address().is_multicast(), "{route}");
        assert!(wanted.avoid.iter().all(|outside| !route.contains(*outside)), "{route}");
        assert!(
            own.iter().all(|own| !route.contains(own.address()) && !own.contains(route.address())),
            "{route}"
        );
    }
}

/// Whatever stands in the file, ours has one server, and keeps what it does not change.
pub(crate) fn resolver_file(bytes: &[u8]) {
    let own = Ipv4Addr::new(100, 64, 0, 2);
    let old = ResolvConf::parse(bytes);
    let ours = ResolvConf::parse(&render(&old, own, "tidegate0", &[]));
    assert_eq!(ours.nameservers, [(own, 53).into()]);
    assert_eq!((ours.search, ours.options), (old.search, old.options));
}
