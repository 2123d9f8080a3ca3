//! The decision and the slices it is made from.

use policy::{
    Address, ConnectorModel, ConnectorSlice, Decision, Destination, GrantFacts, GroupModel, HostName,
    MembershipModel, Mode, OrganizationModel, Place, PolicyModel, PopEntry, PortRange, Protocol,
    ResourceModel, SiteModel, StepOutcome, Verdict, client_slice, connector_slice, decide, explain_client,
    inner_address, is_refused_range, relevant_groups,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use trust::{
    Audience, Grant, Owner, PostureClass, Revocation, RevocationSet, RevokedSubject, SealKey, SigningKey,
    SliceBody as _, UnixMs,
};
use wire::{
    ConnectorId, DeviceId, GroupId, InstallationId, OrganizationId, PolicyId, PopId, Refusal, ResourceId,
    SiteId, UserId,
};

const SITE: SiteId = SiteId::from_bytes([1; 16]);
const OTHER_SITE: SiteId = SiteId::from_bytes([2; 16]);
const CONNECTOR: ConnectorId = ConnectorId::from_bytes([3; 16]);
const CREW: GroupId = GroupId::from_bytes([4; 16]);
const GUESTS: GroupId = GroupId::from_bytes([5; 16]);
const ALICE: Owner = Owner::User(UserId::from_bytes([6; 16]));

fn resource(number: u8) -> ResourceId {
    ResourceId::from_bytes([number; 16])
}

fn model(resources: &[(u8, SiteId, &str, &str, Mode)], policies: &[(GroupId, &[u8])]) -> OrganizationModel {
    let site = |name: &str| SiteModel {
        name: name.into(),
        prefixes: vec!["10.0.0.0/8".parse().expect("prefix")],
        regions: vec![],
    };
    let key = SealKey::from_bytes([9; 32]);
    OrganizationModel {
        id: OrganizationId::from_bytes([7; 16]),
        name: "Harbour".into(),
        sites: [(SITE, site("harbour")), (OTHER_SITE, site("yard"))].into(),
        connectors: [(
            CONNECTOR,
            ConnectorModel { name: "c".into(), site: SITE, wireguard_key: key, seal_key: key },
        )]
        .into(),
        resources: resources
            .iter()
            .map(|(number, site, address, ports, mode)| {
                let model = ResourceModel {
                    name: format!("r{number}"),
                    alias: None,
                    site: *site,
                    address: address.parse().expect("an address"),
                    ports: ports.split(',').map(|range| range.parse().expect("ports")).collect(),
                    mode: *mode,
                };
                (resource(*number), model)
            })
            .collect(),
        groups: [(CREW, GroupModel { name: "crew".into() }), (GUESTS, GroupModel { name: "guests".into() })]
            .into(),
        memberships: [MembershipModel { member: ALICE, group: CREW, generation: 2 }].into(),
        policies: policies
            .iter()
            .enumerate()
            .map(|(index, (group, resources))| {
                let id = PolicyId::from_bytes([u8::try_from(index).expect("few"); 16]);
                let resources = resources.iter().map(|number| resource(*number)).collect();
                (id, PolicyModel { name: format!("p{index}"), groups: BTreeSet::from([*group]), resources })
            })
            .collect::<BTreeMap<_, _>>(),
    }
}

fn facts(model: &OrganizationModel, struck: &RevocationSet) -> GrantFacts {
    let grant = Grant {
        installation: InstallationId::from_bytes([8; 16]),
        organization: model.id,
        device: DeviceId::from_bytes([8; 16]),
        device_generation: 1,
        owner: ALICE,
        owner_generation: 1,
        device_name: "laptop".into(),
        owner_name: "alice".into(),
        groups: relevant_groups(model, ALICE),
        posture: PostureClass::Unknown,
        key: SigningKey::from_seed(&[1; 32]).verifying_key(),
        iat: UnixMs::from_millis(1),
        nbf: UnixMs::from_millis(1),
        exp: UnixMs::from_millis(2),
        renew_after_ms: 1,
        ext: None,
    };
    GrantFacts::of(&grant, struck)
}

fn to(address: &str, port: u16) -> Destination<'static> {
    Destination::tcp(address.parse().expect("an address"), port)
}

fn slice(model: &OrganizationModel) -> ConnectorSlice {
    let slice = connector_slice(model, CONNECTOR, &[]).expect("the model has the connector");
    slice.check().expect("a slice that the builder makes keeps the rules");
    slice
}

fn verdict(model: &OrganizationModel, destination: Destination<'_>) -> Verdict {
    decide(&slice(model), &facts(model, &RevocationSet::new()), destination).verdict
}

#[test]
fn a_policy_for_a_group_of_the_grant_opens_the_resource_and_says_which() {
    let model = model(&[(1, SITE, "10.0.0.1", "443", Mode::Standard)], &[(CREW, &[1])]);
    let slice = slice(&model);
    let Decision { verdict, resource: found, explanation } =
        decide(&slice, &facts(&model, &RevocationSet::new()), to("10.0.0.1", 443));
    assert_eq!((verdict, found.map(|found| found.id)), (Verdict::Allow, Some(resource(1))));
    assert!(explanation.holds());
    assert!(explanation.steps.last().expect("steps").detail.contains("p0"));
}

#[test]
fn each_missing_condition_is_refused_by_its_own_reason() {
    let model = model(
        &[
            (1, SITE, "10.0.0.1", "443", Mode::Standard),
            (2, SITE, "10.0.0.2", "443", Mode::Standard),
            (3, OTHER_SITE, "10.0.0.3", "443", Mode::Standard),
        ],
        &[(CREW, &[1, 3]), (GUESTS, &[2])],
    );
    for (destination, reason) in [
        (to("10.0.0.1", 80), Refusal::PortNotAllowed),
        (to("10.0.0.2", 443), Refusal::NoPolicy),
        (to("10.0.0.3", 443), Refusal::NoResource),
        (to("10.0.0.9", 443), Refusal::NoResource),
    ] {
        assert_eq!(verdict(&model, destination), Verdict::Deny(reason), "{destination:?}");
    }
}

#[test]
fn a_struck_membership_no_longer_opens_anything_and_a_later_one_does() {
    let model = model(&[(1, SITE, "10.0.0.1", "443", Mode::Standard)], &[(CREW, &[1])]);
    let strike = |generation| {
        let mut set = RevocationSet::new();
        set.insert(&Revocation {
            installation: InstallationId::from_bytes([8; 16]),
            signer: wire::ControllerId::from_bytes([1; 16]),
            seq: 1,
            previous: [0; 32],
            at: UnixMs::from_millis(1),
            subject: RevokedSubject::membership(ALICE, CREW),
            generation,
            keep_until: UnixMs::from_millis(9),
            ext: None,
        });
        set
    };
    let decided =
        |struck: &RevocationSet| decide(&slice(&model), &facts(&model, struck), to("10.0.0.1", 443)).verdict;
    assert_eq!(decided(&strike(2)), Verdict::Deny(Refusal::NoPolicy));
    assert_eq!(decided(&strike(1)), Verdict::Allow, "generation 2 joined after the strike on 1");
}

#[test]
fn the_most_specific_address_decides_even_when_a_wider_one_would_allow() {
    let model = model(
        &[
            (1, SITE, "10.0.0.0/8", "1-65535", Mode::Standard),
            (2, SITE, "10.0.1.0/24", "443", Mode::Standard),
            (3, SITE, "10.0.1.1", "443", Mode::Standard),
        ],
        &[(CREW, &[1, 3]), (GUESTS, &[2])],
    );
    assert_eq!(verdict(&model, to("10.9.9.9", 22)), Verdict::Allow);
    assert_eq!(verdict(&model, to("10.0.1.9", 443)), Verdict::Deny(Refusal::NoPolicy));
    assert_eq!(verdict(&model, to("10.0.1.1", 443)), Verdict::Allow);
    assert_eq!(verdict(&model, to("10.0.1.1", 22)), Verdict::Deny(Refusal::PortNotAllowed));
}

#[test]
fn of_two_equal_addresses_the_one_with_the_port_decides_and_then_the_stricter() {
    let model = model(
        &[
            (1, SITE, "10.0.0.1", "80", Mode::Standard),
            (2, SITE, "10.0.0.1", "443", Mode::Standard),
            (3, SITE, "10.0.0.1", "443", Mode::Strict),
        ],
        &[(CREW, &[1, 2])],
    );
    assert_eq!(verdict(&model, to("10.0.0.1", 80)), Verdict::Allow);
    assert_eq!(
        verdict(&model, to("10.0.0.1", 443)),
        Verdict::Deny(Refusal::NoPolicy),
        "resource 3 is the stricter"
    );
}

#[test]
fn a_named_resource_is_reached_at_its_derived_address_and_at_no_other() {
    let model = model(
        &[
            (1, SITE, "wiki.harbour.internal", "443", Mode::Standard),
            (2, SITE, "::/0", "443", Mode::Standard),
        ],
        &[(CREW, &[1])],
    );
    let derived = Destination::tcp(inner_address(resource(1)).into(), 443);
    assert_eq!(verdict(&model, derived), Verdict::Allow);
    // The derived range is ours: a prefix over everything does not reach into it.
    let of_nobody = Destination::tcp(inner_address(resource(9)).into(), 443);
    assert_eq!(verdict(&model, of_nobody), Verdict::Deny(Refusal::NoResource));
    let cidr = Destination::tcp(inner_address(resource(2)).into(), 443);
    assert_eq!(verdict(&model, cidr), Verdict::Deny(Refusal::NoResource));
}

fn by(protocol: Protocol, address: &str, port: u16) -> Destination<'static> {
    Destination { protocol, ..to(address, port) }
}

#[test]
fn a_resource_has_the_protocols_that_it_names_and_no_other() {
    use Protocol::{Icmp, Tcp, Udp};
    let model = model(
        &[
            (1, SITE, "10.0.0.1", "443,udp/53,icmp", Mode::Standard),
            (2, SITE, "10.0.0.2", "53", Mode::Standard),
            (3, SITE, "10.0.0.3", "icmp", Mode::Standard),
        ],
        &[(CREW, &[1, 2, 3])],
    );
    for (destination, allowed) in [
        (by(Tcp, "10.0.0.1", 443), true),
        (by(Udp, "10.0.0.1", 53), true),
        (by(Icmp, "10.0.0.1", 0), true),
        (by(Udp, "10.0.0.1", 443), false),
        (by(Tcp, "10.0.0.1", 53), false),
        (by(Udp, "10.0.0.2", 53), false),
        (by(Icmp, "10.0.0.2", 0), false),
        (by(Icmp, "10.0.0.3", 0), true),
        (by(Tcp, "10.0.0.3", 0), false),
    ] {
        let expected = if allowed { Verdict::Allow } else { Verdict::Deny(Refusal::PortNotAllowed) };
        assert_eq!(verdict(&model, destination), expected, "{destination:?}");
    }
    let slice = slice(&model);
    let refused = decide(&slice, &facts(&model, &RevocationSet::new()), by(Udp, "10.0.0.2", 53));
    let step = refused.explanation.steps.last().expect("steps");
    assert_eq!((step.what.as_str(), step.detail.as_str()), ("UDP port 53 is part of it", "it has 53"));
}

fn named<'a>(name: &'a HostName, port: u16) -> Destination<'a> {
    Destination { place: Place::Name(name), protocol: Protocol::Tcp, port }
}

#[test]
fn a_name_means_its_host_before_the_longest_wildcard_and_keeps_to_it() {
    let model = model(
        &[
            (1, SITE, "*.harbour.internal", "443", Mode::Standard),
            (2, SITE, "*.lab.harbour.internal", "443", Mode::Standard),
            (3, SITE, "db.lab.harbour.internal", "5432", Mode::Standard),
            (4, SITE, "*.lab.harbour.internal", "8443", Mode::Standard),
            (5, SITE, "10.0.0.0/8", "443", Mode::Standard),
        ],
        &[(CREW, &[1, 3, 4])],
    );
    let decided = |name: &str, port| {
        let name: HostName = name.parse().expect("a name");
        let slice = slice(&model);
        let decision = decide(&slice, &facts(&model, &RevocationSet::new()), named(&name, port));
        (decision.verdict, decision.resource.map(|found| found.id.as_bytes()[0]))
    };
    let denied = Verdict::Deny;
    assert_eq!(decided("wiki.harbour.internal", 443), (Verdict::Allow, Some(1)));
    assert_eq!(decided("a.b.harbour.internal", 443), (Verdict::Allow, Some(1)));
    assert_eq!(decided("db.lab.harbour.internal", 5432), (Verdict::Allow, Some(3)));
    // The most specific decides, also where it lacks the port or nobody may.
    assert_eq!(decided("db.lab.harbour.internal", 443), (denied(Refusal::PortNotAllowed), Some(3)));
    assert_eq!(decided("x.lab.harbour.internal", 443), (denied(Refusal::NoPolicy), Some(2)));
    // Of two equal wildcards the one with the port.
    assert_eq!(decided("x.lab.harbour.internal", 8443), (Verdict::Allow, Some(4)));
    assert_eq!(decided("harbour.internal", 443), (denied(Refusal::NoResource), None));
    assert_eq!(decided("evilharbour.internal", 443), (denied(Refusal::NoResource), None));
}

#[test]
fn a_wildcard_has_no_address_inside_a_tunnel() {
    let model = model(&[(1, SITE, "*.harbour.internal", "443", Mode::Standard)], &[(CREW, &[1])]);
    let derived = Destination::tcp(inner_address(resource(1)).into(), 443);
    assert_eq!(verdict(&model, derived), Verdict::Deny(Refusal::NoResource));
}

#[test]
fn a_client_slice_names_what_its_groups_reach_and_nothing_else() {
    let model = model(
        &[
            (1, SITE, "10.0.0.1", "443", Mode::Standard),
            (2, SITE, "secret.harbour.internal", "443", Mode::Standard),
            (3, OTHER_SITE, "10.0.0.3", "443", Mode::Standard),
        ],
        &[(CREW, &[1]), (GUESTS, &[2, 3])],
    );
    let slice = client_slice(&model, ALICE, &[]);
    slice.check().expect("keeps the rules");
    let text = serde_json::to_string(&slice).expect("JSON");
    assert!(
        text.contains("r1") && !text.contains("secret") && !text.contains("yard") && !text.contains("guests"),
        "{text}"
    );
    assert!(explain_client(&slice, "R1").expect("its own").holds());
    assert!(explain_client(&slice, "secret.harbour.internal").is_none());
    assert!(
        ConnectorSlice::is_for(Audience::Connector(CONNECTOR))
            && !policy::ClientSlice::is_for(Audience::Connector(CONNECTOR))
    );
}

#[test]
fn a_failed_check_ends_the_chain_and_nothing_behind_it_is_claimed() {
    let model = model(&[(1, SITE, "10.0.0.1", "443", Mode::Standard)], &[(CREW, &[1])]);
    let slice = slice(&model);
    let decision = decide(&slice, &facts(&model, &RevocationSet::new()), to("10.0.0.1", 22));
    let outcomes: Vec<_> = decision.explanation.steps.iter().map(|step| step.outcome).collect();
    assert_eq!(outcomes, [StepOutcome::Held, StepOutcome::Failed]);
    assert!(!decision.explanation.holds());
}

#[test]
fn refused_ranges_cover_what_must_never_be_reached_by_a_name() {
    for address in [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "0.1.2.3",
        "240.0.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
    ] {
        assert!(is_refused_range(address.parse().expect("an address")), "{address}");
    }
    for address in ["10.0.0.1", "192.168.1.1", "203.0.113.9", "fd12::1", "2001:db8::1"] {
        assert!(!is_refused_range(address.parse::<IpAddr>().expect("an address")), "{address}");
    }
}

proptest! {
    /// A second, slower reading of the rules must agree with `decide` for IP resources.
    #[test]
    fn the_decision_equals_the_rules_read_slowly(
        resources in proptest::collection::vec((0_u32..8, 29_u8..=32, 1_u16..4, 0_u16..3, any::<bool>(), any::<bool>()), 0..6),
        host in 0_u32..8,
        port in 1_u16..6,
    ) {
        let described: Vec<_> = resources
            .iter()
            .enumerate()
            .map(|(index, (host, length, first, more, strict, allowed))| {
                let base = 0x0A00_0000 | (host & (u32::MAX << (32 - u32::from(*length))));
                let prefix = format!("{}/{length}", std::net::Ipv4Addr::from(base));
                let mode = if *strict { Mode::Strict } else { Mode::Standard };
                (u8::try_from(index).expect("few"), prefix, format!("{first}-{}", first + more), mode, *allowed)
            })
            .collect();
        let listed: Vec<_> = described.iter().map(|(n, prefix, ports, mode, _)| (*n, SITE, prefix.as_str(), ports.as_str(), *mode)).collect();
        let opened: Vec<u8> = described.iter().filter(|entry| entry.4).map(|entry| entry.0).collect();
        let model = model(&listed, &[(CREW, &opened)]);
        let address = IpAddr::from(std::net::Ipv4Addr::from(0x0A00_0000 | host));
        let mut best: Option<(u8, bool, bool, u8)> = None;
        for (number, prefix, ports, mode, _) in &described {
            let Address::Cidr(prefix) = prefix.parse::<Address>().expect("a prefix") else { unreachable!() };
            if !prefix.contains(address) { continue; }
            let has_port = ports.parse::<PortRange>().expect("ports").contains(Protocol::Tcp, port);
            let rank = (prefix.length(), has_port, *mode == Mode::Strict, u8::MAX - number);
            if best.is_none_or(|held| rank > held) { best = Some(rank); }
        }
        let expected = match best {
            None => Verdict::Deny(Refusal::NoResource),
            Some((_, false, _, _)) => Verdict::Deny(Refusal::PortNotAllowed),
            Some((_, true, _, inverse)) if opened.contains(&(u8::MAX - inverse)) => Verdict::Allow,
            Some(_) => Verdict::Deny(Refusal::NoPolicy),
        };
        prop_assert_eq!(verdict(&model, Destination::tcp(address, port)), expected);
    }

    #[test]
    fn slices_of_the_same_model_are_the_same_bytes(order in Just((0_u8..6).collect::<Vec<_>>()).prop_shuffle()) {
        let listed: Vec<_> = order.iter().map(|n| (*n, SITE, "10.0.0.1", "443", Mode::Standard)).collect();
        let model = model(&listed, &[(CREW, &order)]);
        let pop = |n: u8| PopEntry { id: PopId::from_bytes([n; 16]), address: "a:1".into(), region: "r".into(), zone: "z".into() };
        let bytes = |pops: &[PopEntry]| serde_json::to_vec(&connector_slice(&model, CONNECTOR, pops)).expect("JSON");
        let straight: Vec<_> = (0..6).map(pop).collect();
        let shuffled: Vec<_> = order.iter().map(|n| pop(*n)).collect();
        prop_assert_eq!(bytes(&straight), bytes(&shuffled));
    }
}
