//! The machine's own stack, here another set of flows, against the same connectors.

use super::*;
use crate::core::PacketDrop;

const MACHINE: LinkId = LinkId(1);
const SOURCE: &str = "100.64.0.2:40000";

/// The machine's stack: what a kernel does with a TUN interface.
struct Machine {
    stack: Flows,
    closed: BTreeMap<FlowId, CloseReason>,
    established: BTreeSet<FlowId>,
}

impl Machine {
    fn new(now: Instant) -> Self {
        let stack = Flows::new(FlowLimits::DEFAULT, 99, now);
        Self { stack, closed: BTreeMap::new(), established: BTreeSet::new() }
    }

    fn dial(&mut self, world: &mut World, from: &str, to: &str) -> FlowId {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let flow = self.stack.dial(world.now, MACHINE, from, to).unwrap();
        self.run(world);
        flow
    }

    /// Carries packets between the stack and the core until both are quiet.
    fn run(&mut self, world: &mut World) {
        loop {
            let mut quiet = true;
            loop {
                match self.stack.poll_output() {
                    flow::Output::Packet { bytes, .. } => {
                        quiet = false;
                        world.core.handle_packet(world.now, &bytes);
                    }
                    flow::Output::Event { flow, event, .. } => match event {
                        flow::Event::Closed(reason) => {
                            self.closed.insert(flow, reason);
                        }
                        flow::Event::Established => {
                            self.established.insert(flow);
                        }
                        _ => {}
                    },
                    flow::Output::Timeout(_) => break,
                }
            }
            world.run();
            for packet in std::mem::take(&mut world.machine) {
                quiet = false;
                self.stack.handle_input(world.now, MACHINE, &packet).unwrap();
            }
            if quiet {
                return;
            }
        }
    }

    fn pass(&mut self, world: &mut World, time: Duration) {
        let end = world.now + time;
        while world.now < end {
            world.pass(Duration::from_millis(250));
            self.stack.handle_timeout(world.now);
            self.run(world);
        }
    }

    fn echo(&mut self, world: &mut World, flow: FlowId, text: &[u8]) -> Vec<u8> {
        self.stack.write(world.now, flow, text).unwrap();
        self.run(world);
        let mut buffer = [0; 4096];
        match self.stack.read(world.now, flow, &mut buffer) {
            Ok(Read::Bytes(count)) => buffer[..count].to_vec(),
            _ => Vec::new(),
        }
    }
}

#[test]
fn a_conversation_of_the_machine_opens_its_tunnel_and_goes_through_it() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    assert!(machine.established.contains(&flow));
    assert_eq!(machine.echo(&mut world, flow, b"hello"), b"hello");
    assert_eq!(world.opens(), 1);
}

#[test]
fn a_connection_by_the_proxy_shares_the_tunnel_and_neither_gets_the_other_s_packets() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let dial = world.dial("10.1.2.3:80");
    let proxied = world.result(dial).unwrap();
    let own = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    assert_eq!(machine.echo(&mut world, own, b"of the machine"), b"of the machine");
    assert_eq!(world.echo(proxied, b"of the proxy"), b"of the proxy");
    assert_eq!(world.opens(), 1);
}

#[test]
fn what_no_policy_gives_is_answered_as_a_router_would() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    for to in ["192.0.2.1:80", "10.1.2.3:99"] {
        let flow = machine.dial(&mut world, SOURCE, to);
        assert_eq!(machine.closed[&flow], CloseReason::Unreachable(Unreachable::Prohibited), "{to}");
    }
    assert_eq!(world.opens(), 0);
    assert_eq!(world.core.packet_drops().collect::<Vec<_>>(), [(PacketDrop::NoResource, 2)]);
}

#[test]
fn a_refused_connection_is_refused_and_a_prohibited_one_prohibited() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let refused = machine.dial(&mut world, SOURCE, "10.1.2.3:81");
    let prohibited = machine.dial(&mut world, "100.64.0.2:40001", "10.1.2.3:82");
    assert_eq!(machine.closed[&refused], CloseReason::Refused);
    assert_eq!(machine.closed[&prohibited], CloseReason::Unreachable(Unreachable::Prohibited));
}

#[test]
fn a_connector_that_cannot_be_reached_leads_to_the_next() {
    let mut world = World::new(&[Manners::Refuses(Refusal::NotAttached), Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    machine.pass(&mut world, Duration::from_secs(2));
    assert!(machine.established.contains(&flow));
}

#[test]
fn when_no_connector_can_be_reached_the_machine_is_told() {
    let mut world =
        World::new(&[Manners::Refuses(Refusal::NotAttached), Manners::Refuses(Refusal::NotAttached)]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    assert_eq!(machine.closed[&flow], CloseReason::Unreachable(Unreachable::Host));
}

#[test]
fn a_tunnel_that_is_lost_is_opened_again_for_a_conversation_that_runs() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    let path = world.connectors[0].there();
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    machine.run(&mut world);
    assert_eq!(world.opens(), 2);
    assert_eq!(machine.echo(&mut world, flow, b"again"), b"again");
}

#[test]
fn a_quiet_conversation_does_not_keep_a_lost_tunnel_open() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    machine.pass(&mut world, Duration::from_secs(90));
    let path = world.connectors[0].there();
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    machine.run(&mut world);
    assert_eq!(world.opens(), 1);
    assert_eq!(machine.echo(&mut world, flow, b"awake"), b"awake", "its next packet opens the tunnel");
    assert_eq!(world.opens(), 2);
}

#[test]
fn packets_from_foreign_addresses_and_of_other_protocols_go_nowhere() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let from: SocketAddr = "192.168.1.5:40000".parse().unwrap();
    machine.stack.dial(world.now, MACHINE, from, "10.1.2.3:80".parse().unwrap()).unwrap();
    machine.run(&mut world);
    world.core.handle_packet(world.now, &[0x45; 19]);
    let drops: BTreeMap<PacketDrop, u64> = world.core.packet_drops().collect();
    assert!(drops.contains_key(&PacketDrop::Source));
    assert!(drops.keys().any(|why| matches!(why, PacketDrop::Malformed(_))));
    assert_eq!(world.opens(), 0);
}

#[test]
fn a_flood_of_first_packets_holds_a_bounded_number_and_ends_no_running_conversation() {
    let mut world = World::new(&[Manners::Silent, Manners::Silent]);
    let mut machine = Machine::new(world.now);
    for port in 1024..8_000_u16 {
        let from = SocketAddr::new("100.64.0.2".parse().unwrap(), port);
        if machine.stack.dial(world.now, MACHINE, from, "10.1.2.3:80".parse().unwrap()).is_err() {
            // The stack itself is full; its packets go out, and the next ones come.
            machine.run(&mut world);
            machine.stack.drop_link(MACHINE);
        }
    }
    machine.run(&mut world);
    assert!(world.core.packet_drops().any(|(why, count)| why == PacketDrop::Full && count > 0));
}
