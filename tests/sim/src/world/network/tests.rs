use super::*;
use crate::world::{Behaviour, Mapping, NatRules};

const MS: fn(u64) -> Time = Time::from_millis;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn behind(rules: NatRules, external: &str) -> Gateway {
    Gateway {
        nat: Some(Nat::new(rules, ip(external), 1)),
        firewall: Some(Firewall::new(Time::from_secs(120))),
        udp: Udp::Passes,
        link: LinkRules::of_delay(MS(10)),
    }
}

fn server(network: &mut Network) -> HostId {
    network.add_host(
        Network::INTERNET,
        vec![ip("203.0.113.250"), ip("2001:db8:ffff::1")],
        4433,
        LinkRules::of_delay(MS(5)),
    )
}

fn at_home(network: &mut Network, rules: NatRules) -> (RealmId, HostId) {
    let realm = network.add_realm(Network::INTERNET, behind(rules, "203.0.113.1"));
    let host =
        network.add_host(realm, vec![ip("192.168.1.2"), ip("2001:db8:1::2")], 4000, LinkRules::PERFECT);
    (realm, host)
}

/// Everything that arrives within a second.
fn arrivals(network: &mut Network, now: Time) -> Vec<Arrival> {
    std::iter::from_fn(|| network.poll(now + Time::from_secs(1))).collect()
}

#[test]
fn a_packet_leaves_a_home_under_the_routers_address_and_its_answer_comes_back() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    let (_, host) = at_home(&mut network, NatRules::home());
    network.send(MS(0), host, at("203.0.113.250:4433"), vec![1]);
    let there = arrivals(&mut network, MS(0));
    assert_eq!(there, [Arrival { host: server, by: host, from: at("203.0.113.1:4000"), payload: vec![1] }]);
    network.send(MS(1_000), server, at("203.0.113.1:4000"), vec![2]);
    let back = arrivals(&mut network, MS(1_000));
    assert_eq!(back, [Arrival { host, by: server, from: at("203.0.113.250:4433"), payload: vec![2] }]);
}

#[test]
fn each_link_on_the_way_takes_its_delay() {
    let mut network = Network::new(1);
    server(&mut network);
    let (_, host) = at_home(&mut network, NatRules::home());
    network.send(MS(0), host, at("203.0.113.250:4433"), vec![1]);
    assert!(network.poll(MS(14)).is_none());
    assert!(network.poll(MS(15)).is_some());
}

#[test]
fn nobody_reaches_a_home_that_did_not_ask() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    at_home(&mut network, NatRules::home());
    network.send(MS(0), server, at("203.0.113.1:4000"), vec![2]);
    network.send(MS(0), server, at("[2001:db8:1::2]:4000"), vec![2]);
    assert_eq!(arrivals(&mut network, MS(0)), []);
    assert_eq!(network.losses(), &BTreeMap::from([(Loss::Nat, 1), (Loss::Firewall, 1)]));
}

#[test]
fn ipv6_passes_a_firewall_untranslated_and_only_for_who_was_asked() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    let (_, host) = at_home(&mut network, NatRules::home());
    network.send(MS(0), host, at("[2001:db8:ffff::1]:4433"), vec![1]);
    assert_eq!(arrivals(&mut network, MS(0))[0].from, at("[2001:db8:1::2]:4000"));
    network.send(MS(1_000), server, at("[2001:db8:1::2]:4000"), vec![2]);
    assert_eq!(arrivals(&mut network, MS(1_000)).len(), 1);
}

#[test]
fn a_private_address_leads_nowhere_on_the_internet() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    at_home(&mut network, NatRules::home());
    network.send(MS(0), server, at("192.168.1.2:4000"), vec![1]);
    assert_eq!(network.losses(), &BTreeMap::from([(Loss::Unreachable, 1)]));
}

fn hairpinned(hairpin: Hairpin) -> Option<SocketAddr> {
    let mut network = Network::new(1);
    server(&mut network);
    let (realm, host) = at_home(
        &mut network,
        NatRules { hairpin, filtering: Behaviour::EndpointIndependent, ..NatRules::home() },
    );
    let other = network.add_host(realm, vec![ip("192.168.1.3")], 4001, LinkRules::PERFECT);
    network.send(MS(0), other, at("203.0.113.250:4433"), vec![1]);
    arrivals(&mut network, MS(0));
    network.send(MS(1_000), host, at("203.0.113.1:4001"), vec![2]);
    arrivals(&mut network, MS(1_000)).first().map(|arrival| arrival.from)
}

#[test]
fn a_router_that_hairpins_shows_the_external_source() {
    assert_eq!(hairpinned(Hairpin::Yes), Some(at("203.0.113.1:4000")));
}

#[test]
fn a_router_that_does_not_hairpin_loses_what_goes_to_itself() {
    assert_eq!(hairpinned(Hairpin::No), None);
}

#[test]
fn two_hosts_on_one_lan_reach_each_other_without_the_router() {
    let mut network = Network::new(1);
    let (realm, host) = at_home(&mut network, NatRules::home());
    let other = network.add_host(realm, vec![ip("192.168.1.3")], 4001, LinkRules::PERFECT);
    network.gateway_mut(realm).expect("a gateway").udp = Udp::Blocked;
    network.send(MS(0), host, at("192.168.1.3:4001"), vec![2]);
    assert_eq!(arrivals(&mut network, MS(0))[0].host, other);
}

#[test]
fn two_translators_in_a_row_translate_twice_and_back() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    let provider = network.add_realm(Network::INTERNET, behind(NatRules::home(), "203.0.113.9"));
    let home = network.add_realm(provider, behind(NatRules::home(), "100.64.0.7"));
    let host = network.add_host(home, vec![ip("192.168.1.2")], 4000, LinkRules::PERFECT);
    network.send(MS(0), host, at("203.0.113.250:4433"), vec![1]);
    assert_eq!(arrivals(&mut network, MS(0))[0].from, at("203.0.113.9:4000"));
    network.send(MS(1_000), server, at("203.0.113.9:4000"), vec![2]);
    assert_eq!(arrivals(&mut network, MS(1_000))[0].host, host);
}

#[test]
fn where_udp_is_blocked_a_stream_goes_through_both_ways() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    let (realm, host) = at_home(&mut network, NatRules::home());
    network.gateway_mut(realm).expect("a gateway").udp = Udp::Blocked;
    network.send(MS(0), host, at("203.0.113.250:4433"), vec![1]);
    assert_eq!(arrivals(&mut network, MS(0)), []);
    network.open_stream(host, server);
    network.send(MS(1_000), host, at("203.0.113.250:4433"), vec![1]);
    let from = arrivals(&mut network, MS(1_000))[0].from;
    assert!(wire::is_stream_address(from));
    network.send(MS(2_000), server, from, vec![2]);
    assert_eq!(arrivals(&mut network, MS(2_000))[0].host, host);
}

#[test]
fn a_cut_is_one_way() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    let (_, host) = at_home(&mut network, NatRules::home());
    network.cut(server, host);
    network.send(MS(0), host, at("203.0.113.250:4433"), vec![1]);
    assert_eq!(arrivals(&mut network, MS(0)).len(), 1);
    network.send(MS(1_000), server, at("203.0.113.1:4000"), vec![2]);
    assert_eq!(arrivals(&mut network, MS(1_000)), []);
    network.mend(server, host);
    network.send(MS(2_000), server, at("203.0.113.1:4000"), vec![2]);
    assert_eq!(arrivals(&mut network, MS(2_000)).len(), 1);
}

#[test]
fn a_host_that_roams_is_at_its_new_addresses_alone() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    let (_, host) = at_home(&mut network, NatRules::home());
    network.attach(host, Network::INTERNET, vec![ip("198.51.100.7"), ip("2001:db8:7::7")]);
    for to in ["198.51.100.7:4000", "[2001:db8:7::7]:4000", "[2001:db8:1::2]:4000"] {
        network.send(MS(0), server, at(to), vec![1]);
    }
    assert_eq!(arrivals(&mut network, MS(0)).len(), 2);
    network.send(MS(0), host, at("203.0.113.250:4433"), vec![1]);
    assert_eq!(arrivals(&mut network, MS(0))[0].from, at("198.51.100.7:4000"));
}

#[test]
fn a_router_with_a_new_address_has_lost_its_mappings() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    let (realm, host) = at_home(&mut network, NatRules::home());
    network.send(MS(0), host, at("203.0.113.250:4433"), vec![1]);
    arrivals(&mut network, MS(0));
    network.renumber(realm, Ipv4Addr::new(203, 0, 113, 77));
    network.send(MS(0), server, at("203.0.113.1:4000"), vec![2]);
    network.send(MS(0), server, at("203.0.113.77:4000"), vec![2]);
    assert_eq!(arrivals(&mut network, MS(0)), []);
}

#[test]
fn a_host_that_does_not_run_takes_nothing() {
    let mut network = Network::new(1);
    let server = server(&mut network);
    let host = network.add_host(Network::INTERNET, vec![ip("198.51.100.7")], 4000, LinkRules::PERFECT);
    network.set_up(host, false);
    network.send(MS(0), server, at("198.51.100.7:4000"), vec![1]);
    assert_eq!(arrivals(&mut network, MS(0)), []);
}

#[test]
fn the_same_seed_loses_the_same_packets() {
    let run = |seed| {
        let mut network = Network::new(seed);
        let server = server(&mut network);
        let rules = NatRules { mapping: Mapping::PerPacket, ..NatRules::home() };
        let (realm, host) = at_home(&mut network, rules);
        let link = LinkRules {
            loss: 300,
            duplicate: 100,
            reorder: 100,
            jitter: MS(7),
            ..LinkRules::of_delay(MS(10))
        };
        network.gateway_mut(realm).expect("a gateway").link = link;
        (0..200_u8)
            .for_each(|number| network.send(MS(number.into()), host, at("203.0.113.250:4433"), vec![number]));
        let all = arrivals(&mut network, MS(200));
        assert!(all.iter().all(|arrival| arrival.host == server));
        all
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
