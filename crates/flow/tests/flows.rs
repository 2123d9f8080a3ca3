//! A dialler and an acceptor over a link that loses, reorders and delays, on a virtual clock.

#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the clock once, as the start of its virtual time"
)]

use flow::{
    CloseReason, DropReason, Event, FLOW_MTU, FlowError, FlowId, FlowLimits, Flows, LinkId, MAX_FLOW_MTU,
    Output, Read, TimeoutReason, Unreachable,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LINK: LinkId = LinkId(7);

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// xorshift64 (Marsaglia 2003): the seed replays the run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.roll() % 100 < chance
    }
}

#[derive(Clone, Copy)]
struct Weather {
    loss_percent: u64,
    reorder_percent: u64,
    duplicate_percent: u64,
    one_way: Duration,
}

const CALM: Weather =
    Weather { loss_percent: 0, reorder_percent: 0, duplicate_percent: 0, one_way: Duration::from_millis(5) };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Dialler,
    Acceptor,
}

/// Two ends and the link between them.
struct World {
    now: Instant,
    dialler: Flows,
    acceptor: Flows,
    weather: Weather,
    dice: Dice,
    /// Packets under way: when they arrive, in which order, at whom.
    under_way: BTreeMap<(Instant, u64), (Side, Vec<u8>)>,
    next_packet: u64,
    events: VecDeque<(Side, FlowId, Event)>,
    timeouts: [Option<flow::Timeout>; 2],
    largest: usize,
    carried: u64,
    /// Longer packets are lost.
    longest: usize,
}

impl World {
    fn new(weather: Weather, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            dialler: Flows::new(FlowLimits::DEFAULT, seed, now),
            acceptor: Flows::new(FlowLimits::DEFAULT, seed + 1, now),
            weather,
            dice: Dice(seed | 1),
            under_way: BTreeMap::new(),
            next_packet: 0,
            events: VecDeque::new(),
            timeouts: [None; 2],
            largest: 0,
            carried: 0,
            longest: MAX_FLOW_MTU,
        }
    }

    fn end(&mut self, side: Side) -> &mut Flows {
        match side {
            Side::Dialler => &mut self.dialler,
            Side::Acceptor => &mut self.acceptor,
        }
    }

    fn drain(&mut self) {
        for side in [Side::Dialler, Side::Acceptor] {
            loop {
                match self.end(side).poll_output() {
                    Output::Packet { link, bytes } => {
                        assert_eq!(link, LINK);
                        self.send(side, bytes);
                    }
                    Output::Event { flow, event, .. } => self.events.push_back((side, flow, event)),
                    Output::Timeout(timeout) => {
                        self.timeouts[side as usize] = timeout;
                        break;
                    }
                }
            }
        }
    }

    fn send(&mut self, from: Side, bytes: Vec<u8>) {
        self.largest = self.largest.max(bytes.len());
        self.carried += 1;
        if bytes.len() > self.longest {
            return;
        }
        let to = if from == Side::Dialler { Side::Acceptor } else { Side::Dialler };
        let copies = if self.dice.percent(self.weather.duplicate_percent) { 2 } else { 1 };
        for _ in 0..copies {
            if self.dice.percent(self.weather.loss_percent) {
                continue;
            }
            let late = self.dice.percent(self.weather.reorder_percent);
            let delay = if late { self.weather.one_way * 3 / 2 } else { self.weather.one_way };
            self.under_way.insert((self.now + delay, self.next_packet), (to, bytes.clone()));
            self.next_packet += 1;
        }
    }

    /// Lets everything happen up to the next moment at which something does. False when nothing will.
    fn step(&mut self) -> bool {
        self.drain();
        let arrival = self.under_way.keys().next().map(|(at, _)| *at);
        let wakes = self.timeouts.iter().flatten().map(|timeout| timeout.at);
        let Some(next) = arrival.into_iter().chain(wakes).min() else {
            return false;
        };
        self.now = self.now.max(next);
        let now = self.now;
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (side, bytes) = entry.remove();
            self.end(side).handle_input(now, LINK, &bytes).expect("made by the other end");
        }
        for side in [Side::Dialler, Side::Acceptor] {
            if self.timeouts[side as usize].is_some_and(|timeout| timeout.at <= now) {
                self.end(side).handle_timeout(now);
            }
        }
        self.drain();
        true
    }

    /// Steps until an event that `wanted` takes; others are dropped.
    fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(Side, FlowId, Event) -> Option<T>) -> T {
        for _ in 0..200_000 {
            while let Some((side, flow, event)) = self.events.pop_front() {
                if let Some(found) = wanted(side, flow, event) {
                    return found;
                }
            }
            assert!(self.step(), "nothing more happens, and no {what}");
        }
        panic!("no {what}");
    }

    fn for_a_while(&mut self, how_long: Duration) {
        let end = self.now + how_long;
        self.drain();
        while self
            .under_way
            .keys()
            .map(|(at, _)| *at)
            .chain(self.timeouts.iter().flatten().map(|t| t.at))
            .min()
            .is_some_and(|at| at <= end)
        {
            self.step();
        }
        self.now = end;
    }

    /// A dialled and accepted flow, as both ends know it.
    fn connected(&mut self, src: &str, dst: &str) -> (FlowId, FlowId) {
        let dialled = self.dialler.dial(self.now, LINK, address(src), address(dst)).expect("room");
        let accepted = self.until("SYN", |side, flow, event| match event {
            Event::Incoming { src: from, dst: to } => {
                assert_eq!((side, from, to), (Side::Acceptor, address(src), address(dst)));
                Some(flow)
            }
            _ => None,
        });
        self.acceptor.accept(self.now, accepted).expect("held");
        let mut up = 0;
        self.until("connection", |_, _, event| {
            up += i32::from(event == Event::Established);
            (up == 2).then_some(())
        });
        (dialled, accepted)
    }
}

/// Sends `length` bytes one way and checks each; returns how long it took on the virtual clock.
fn transfer(world: &mut World, from: (Side, FlowId), to: (Side, FlowId), length: usize) -> Duration {
    let started = world.now;
    let byte_at = |position: usize| u8::try_from((position * 31 + position / 251) % 256).expect("a byte");
    let source: Vec<u8> = (0..64 * 1024 + 4096).map(byte_at).collect();
    // The pattern repeats, so that 50 MB need not be in memory: 251 × 256 bytes.
    let period = 251 * 256;
    let (mut written, mut read, mut closed) = (0, 0, false);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while written < length {
            let start = written % period;
            let most = (length - written).min(source.len() - start);
            let now = world.now;
            let took = world.end(from.0).write(now, from.1, &source[start..start + most]).expect("open");
            written += took;
            if took < most {
                break;
            }
        }
        if written == length && !closed {
            let now = world.now;
            world.end(from.0).shutdown_write(now, from.1).expect("open");
            closed = true;
        }
        loop {
            let now = world.now;
            match world.end(to.0).read(now, to.1, &mut buffer).expect("open") {
                Read::Bytes(n) => {
                    for (offset, got) in buffer[..n].iter().enumerate() {
                        assert_eq!(*got, source[(read + offset) % period], "byte {}", read + offset);
                    }
                    read += n;
                }
                Read::Empty => break,
                Read::End => {
                    assert_eq!(read, length);
                    return world.now - started;
                }
            }
        }
        for (side, flow, event) in &world.events {
            let ours = (*side, *flow) == from || (*side, *flow) == to;
            assert!(
                !ours || !matches!(event, Event::Closed(reason) if *reason != CloseReason::Finished),
                "{side:?} ended at byte {read} of {length}, {:?} after the start: {event:?}",
                world.now - started
            );
        }
        world.events.retain(|(side, flow, event)| {
            !((*side, *flow) == from && *event == Event::Writable
                || (*side, *flow) == to && *event == Event::Readable)
        });
        assert!(world.step(), "the transfer stands still at {read} of {length}");
    }
}

#[test]
fn a_syn_is_answered_only_after_it_was_accepted() {
    let mut world = World::new(CALM, 1);
    let dialled = world.dialler.dial(world.now, LINK, address("100.64.0.2:40000"), address("10.0.0.5:80"));
    let dialled = dialled.expect("room");
    world.until("SYN", |_, _, event| matches!(event, Event::Incoming { .. }).then_some(()));
    // Retransmissions are absorbed while it is held.
    world.for_a_while(Duration::from_secs(10));
    assert!(world.events.is_empty(), "{:?}", world.events);
    assert!(world.acceptor.drops()[&DropReason::Held] >= 2);
    assert_eq!(world.dialler.write(world.now, dialled, b"early"), Ok(0));
}

#[test]
fn a_rejected_syn_says_how_it_was_rejected() {
    type Reject = fn(&mut Flows, Instant, FlowId) -> Result<(), FlowError>;
    let ways: [(Reject, CloseReason); 3] = [
        (|flows, now, flow| flows.reject_reset(now, flow), CloseReason::Refused),
        (
            |flows, now, flow| flows.reject_unreachable(now, flow, Unreachable::Prohibited),
            CloseReason::Unreachable(Unreachable::Prohibited),
        ),
        (
            |flows, now, flow| flows.reject_unreachable(now, flow, Unreachable::Host),
            CloseReason::Unreachable(Unreachable::Host),
        ),
    ];
    for (src, dst) in [("100.64.0.2:40000", "10.0.0.5:80"), ("[fd00::2]:40000", "[fd00::5]:80")] {
        for (reject, expected) in ways {
            let mut world = World::new(CALM, 1);
            world.dialler.dial(world.now, LINK, address(src), address(dst)).expect("room");
            let held =
                world.until("SYN", |_, flow, event| matches!(event, Event::Incoming { .. }).then_some(flow));
            reject(&mut world.acceptor, world.now, held).expect("held");
            let (side, reason) = world.until("end", |side, _, event| match event {
                Event::Closed(reason) => Some((side, reason)),
                _ => None,
            });
            assert_eq!((side, reason), (Side::Dialler, expected));
            assert!(world.dialler.is_empty() && world.acceptor.is_empty());
        }
    }
}

#[test]
fn a_held_syn_that_nobody_answers_is_reset_in_the_end() {
    let mut world = World::new(CALM, 1);
    world.dialler.dial(world.now, LINK, address("100.64.0.2:40000"), address("10.0.0.5:80")).expect("room");
    world.until("end of the held SYN", |side, _, event| {
        (side == Side::Acceptor && event == Event::Closed(CloseReason::TimedOut)).then_some(())
    });
    assert!(world.acceptor.is_empty());
}

#[test]
fn fifty_megabytes_arrive_whole_over_a_calm_link() {
    for (src, dst) in [("100.64.0.2:40000", "10.0.0.5:80"), ("[fd00::2]:40000", "[fd00::5]:80")] {
        let mut world = World::new(CALM, 1);
        let (dialled, accepted) = world.connected(src, dst);
        let took = transfer(&mut world, (Side::Acceptor, accepted), (Side::Dialler, dialled), 50 * 1_000_000);
        // 256 KiB in 10 ms is 26 MB/s.
        assert!(took < Duration::from_secs(4), "took {took:?} of virtual time");
        assert!(world.largest <= FLOW_MTU && world.largest > FLOW_MTU - 60, "{}", world.largest);
        assert!(world.carried < 90_000, "{} packets for 41,000 of data", world.carried);
    }
}

#[test]
fn a_flow_follows_its_link_up_and_down_while_it_runs() {
    for (src, dst) in [("100.64.0.2:40000", "10.0.0.5:80"), ("[fd00::2]:40000", "[fd00::5]:80")] {
        let mut world = World::new(CALM, 1);
        let (dialled, accepted) = world.connected(src, dst);
        let source = vec![7; 64 * 1024];
        // Packets of these lengths pass, in this order; the link says so a moment after the change.
        for mtu in [MAX_FLOW_MTU, 1_296, FLOW_MTU, 1_360] {
            world.longest = mtu;
            world.acceptor.write(world.now, accepted, &source).expect("open");
            world.for_a_while(Duration::from_millis(5));
            let now = world.now;
            world.acceptor.set_link_mtu(now, LINK, mtu);
            world.largest = 0;
            let (mut read, mut buffer) = (0, vec![0; 64 * 1024]);
            let end = world.now + Duration::from_secs(3);
            let mut written = 0;
            while world.now < end {
                let now = world.now;
                while let Read::Bytes(count) = world.dialler.read(now, dialled, &mut buffer).expect("open") {
                    read += count;
                }
                written += world.acceptor.write(now, accepted, &source).expect("open");
                if !world.step() {
                    break;
                }
            }
            assert!(read > 1_000_000, "{read} of {written} bytes at {mtu}");
            assert!(world.largest <= mtu && world.largest > mtu - 60, "{} at {mtu}", world.largest);
            world.events.clear();
        }
    }
}

#[test]
fn a_flow_that_begins_on_a_wide_link_sends_long_packets_and_one_on_a_narrow_link_does_not() {
    for (said, wanted) in [(None, FLOW_MTU), (Some(1_408), 1_408), (Some(9_000), MAX_FLOW_MTU)] {
        let mut world = World::new(CALM, 1);
        if let Some(mtu) = said {
            let now = world.now;
            world.acceptor.set_link_mtu(now, LINK, mtu);
        }
        let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
        transfer(&mut world, (Side::Acceptor, accepted), (Side::Dialler, dialled), 1_000_000);
        assert_eq!(world.largest, wanted);
    }
}

#[test]
fn fifty_megabytes_arrive_whole_over_a_lossy_link() {
    let seed = 0xC0FFEE;
    let weather = Weather {
        loss_percent: 1,
        reorder_percent: 2,
        duplicate_percent: 1,
        one_way: Duration::from_millis(5),
    };
    let mut world = World::new(weather, seed);
    let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    let took = transfer(&mut world, (Side::Acceptor, accepted), (Side::Dialler, dialled), 50 * 1_000_000);
    println!("seed {seed:#x}: 50 MB with 1 % loss in {took:?} of virtual time");
}

#[test]
fn a_megabyte_takes_seconds_and_not_minutes_when_much_is_lost() {
    for (loss_percent, one_way, most) in [(1, 20, 10), (10, 1, 10), (10, 20, 30), (30, 1, 60), (30, 20, 120)]
    {
        let mut worst = Duration::ZERO;
        for seed in 1..=4 {
            let weather = Weather {
                loss_percent,
                reorder_percent: 0,
                duplicate_percent: 0,
                one_way: Duration::from_millis(one_way),
            };
            let mut world = World::new(weather, seed);
            let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
            let took = transfer(&mut world, (Side::Acceptor, accepted), (Side::Dialler, dialled), 1_000_000);
            worst = worst.max(took);
        }
        println!("{loss_percent} % lost each way, {one_way} ms one way: 1 MB in {worst:?} at worst");
        assert!(worst < Duration::from_secs(most), "{loss_percent} %, {one_way} ms: {worst:?}");
    }
}

#[test]
fn a_window_that_was_lost_whole_is_back_within_half_a_second_of_the_link() {
    let mut world = World::new(CALM, 1);
    let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    let source = vec![7; 256 * 1024];
    let mut buffer = vec![0; 64 * 1024];
    let mut read_for = |world: &mut World, time: Duration| {
        let end = world.now + time;
        let mut read = 0;
        while world.now < end {
            let now = world.now;
            while let Read::Bytes(count) = world.dialler.read(now, dialled, &mut buffer).expect("open") {
                read += count;
            }
            world.acceptor.write(now, accepted, &source).expect("open");
            if !world.step() {
                break;
            }
        }
        read
    };
    assert!(read_for(&mut world, Duration::from_secs(1)) > 2_000_000);
    world.longest = 0;
    read_for(&mut world, Duration::from_secs(5));
    world.longest = MAX_FLOW_MTU;
    let now = world.now;
    world.acceptor.link_moved(now, LINK);
    // Everything under way was lost, and it is a quarter of a megabyte.
    let read = read_for(&mut world, Duration::from_millis(500));
    assert!(read > 1_000_000, "{read} bytes in half a second");
}

#[test]
fn half_closed_flows_still_carry_the_other_way() {
    for (first, second) in [(Side::Dialler, Side::Acceptor), (Side::Acceptor, Side::Dialler)] {
        let mut world = World::new(CALM, 3);
        let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
        let id = |side| if side == Side::Dialler { dialled } else { accepted };
        // `transfer` ends with a half-close; the other direction follows on the same flow.
        transfer(&mut world, (first, id(first)), (second, id(second)), 300_000);
        assert_eq!(world.end(first).write(Instant::now(), id(first), b"late"), Err(FlowError::State));
        transfer(&mut world, (second, id(second)), (first, id(first)), 700_000);
        let mut ends = Vec::new();
        world.until("both ends", |side, _, event| {
            if let Event::Closed(reason) = event {
                ends.push((side, reason));
            }
            (ends.len() == 2).then_some(())
        });
        assert!(ends.iter().all(|(_, reason)| *reason == CloseReason::Finished), "{ends:?}");
        assert!(world.dialler.is_empty() && world.acceptor.is_empty());
        // Nothing is left to wake up for.
        world.drain();
        assert_eq!(world.timeouts, [None, None]);
    }
}

#[test]
fn closing_before_the_connection_stands_waits_for_it() {
    let mut world = World::new(CALM, 3);
    let dialled = world
        .dialler
        .dial(world.now, LINK, address("100.64.0.2:40000"), address("10.0.0.5:80"))
        .expect("room");
    world.dialler.shutdown_write(world.now, dialled).expect("open");
    let held = world.until("SYN", |_, flow, event| matches!(event, Event::Incoming { .. }).then_some(flow));
    world.acceptor.accept(world.now, held).expect("held");
    world.until("end of data", |side, _, event| {
        (side == Side::Acceptor && event == Event::Readable).then_some(())
    });
    assert_eq!(world.acceptor.read(world.now, held, &mut [0; 8]), Ok(Read::End));
}

#[test]
fn an_abort_resets_the_other_end() {
    let mut world = World::new(CALM, 4);
    let (dialled, _) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    world.dialler.abort(world.now, dialled).expect("open");
    let ended = world.until("reset", |side, _, event| match event {
        Event::Closed(reason) => Some((side, reason)),
        _ => None,
    });
    assert_eq!(ended, (Side::Acceptor, CloseReason::Reset));
    assert_eq!(world.dialler.read(world.now, dialled, &mut [0; 8]), Err(FlowError::Unknown));
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_no_byte_is_lost() {
    let mut world = World::new(CALM, 5);
    let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    let chunk = vec![7; 64 * 1024];
    let mut written = 0;
    for _ in 0..1_000 {
        written += world.acceptor.write(world.now, accepted, &chunk).expect("open");
        world.for_a_while(Duration::from_millis(20));
    }
    let both_buffers = 2 * FlowLimits::DEFAULT.buffer;
    assert!(written <= both_buffers && written > both_buffers - 2 * chunk.len(), "{written}");
    // Stopped for ten minutes: the flow lives, because window probes are answered.
    world.for_a_while(Duration::from_secs(600));
    world.events.clear();
    let mut read = 0;
    let mut buffer = vec![0; 128 * 1024];
    while read < written {
        match world.dialler.read(world.now, dialled, &mut buffer).expect("open") {
            Read::Bytes(n) => read += n,
            Read::Empty => assert!(world.step()),
            Read::End => panic!("nobody closed"),
        }
    }
    world.until("room", |side, _, event| (side == Side::Acceptor && event == Event::Writable).then_some(()));
}

#[test]
fn a_flow_in_a_crowd_has_less_room_and_carries_everything_all_the_same() {
    let mut world = World::new(CALM, 5);
    let limits = FlowLimits { full: 1, small: 8 * 1024, ..FlowLimits::DEFAULT };
    world.acceptor = Flows::new(limits, 6, world.now);
    let (_, first) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    let (second, accepted) = world.connected("100.64.0.2:40001", "10.0.0.5:80");
    let chunk = vec![7; 512 * 1024];
    assert_eq!(world.acceptor.write(world.now, first, &chunk), Ok(limits.buffer));
    assert_eq!(world.acceptor.write(world.now, accepted, &chunk), Ok(limits.small));
    world.until("room", |_, flow, event| ((flow, event) == (accepted, Event::Writable)).then_some(()));
    world.for_a_while(Duration::from_secs(1));
    let mut got = vec![0; 64 * 1024];
    assert_eq!(world.dialler.read(world.now, second, &mut got), Ok(Read::Bytes(limits.small)));
    transfer(&mut world, (Side::Dialler, second), (Side::Acceptor, accepted), 1_000_000);
}

#[test]
fn an_idle_flow_costs_nothing_and_still_works() {
    let mut world = World::new(CALM, 6);
    let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    world.for_a_while(Duration::from_secs(1));
    let before = world.carried;
    world.for_a_while(Duration::from_secs(3_600));
    assert_eq!(world.carried, before, "not one packet in an hour");
    world.dialler.write(world.now, dialled, b"still here").expect("open");
    world.until("data", |_, flow, event| (flow == accepted && event == Event::Readable).then_some(()));
    let mut buffer = [0; 32];
    assert_eq!(world.acceptor.read(world.now, accepted, &mut buffer), Ok(Read::Bytes(10)));
}

#[test]
fn a_peer_that_vanished_is_given_up() {
    let mut world = World::new(CALM, 7);
    let (dialled, _) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    world.weather.loss_percent = 100;
    world.dialler.write(world.now, dialled, b"anybody?").expect("open");
    let started = world.now;
    let reason = world.until("end", |side, _, event| match (side, event) {
        (Side::Dialler, Event::Closed(reason)) => Some(reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::TimedOut);
    let took = world.now - started;
    assert!(took >= Duration::from_secs(925) && took < Duration::from_secs(986), "{took:?}");
}

#[test]
fn a_dialled_flow_that_nobody_answers_times_out() {
    let mut world = World::new(Weather { loss_percent: 100, ..CALM }, 8);
    world.dialler.dial(world.now, LINK, address("100.64.0.2:40000"), address("10.0.0.5:80")).expect("room");
    let reason = world.until("end", |_, _, event| match event {
        Event::Closed(reason) => Some(reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::TimedOut);
}

#[test]
fn equal_addresses_on_different_links_are_strangers() {
    let now = Instant::now();
    let mut acceptor = Flows::new(FlowLimits::DEFAULT, 1, now);
    let mut incoming = Vec::new();
    for link in [LinkId(1), LinkId(2)] {
        let mut dialler = Flows::new(FlowLimits::DEFAULT, link.0, now);
        dialler.dial(now, link, address("100.64.0.2:40000"), address("10.0.0.5:80")).expect("room");
        let Output::Packet { bytes, .. } = dialler.poll_output() else { panic!("a SYN") };
        acceptor.handle_input(now, link, &bytes).expect("a SYN");
        let Output::Event { link, flow, .. } = acceptor.poll_output() else { panic!("an event") };
        incoming.push((link, flow));
    }
    assert_eq!(incoming.iter().map(|(link, _)| link.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(acceptor.drop_link(LinkId(1)), [incoming[0].1]);
    assert_eq!(acceptor.len(), 1);
}

#[test]
fn one_link_cannot_take_all_flows() {
    let now = Instant::now();
    let limits = FlowLimits { flows: 8, flows_per_link: 3, buffer: 4096, full: 8, small: 4096 };
    let mut flows = Flows::new(limits, 1, now);
    let mut dial = |link, port| {
        let src = SocketAddr::new("100.64.0.2".parse().expect("address"), port);
        flows.dial(now, LinkId(link), src, address("10.0.0.5:80"))
    };
    for port in 1..=3 {
        dial(1, port).expect("room");
    }
    assert_eq!(dial(1, 4), Err(FlowError::Full));
    dial(2, 4).expect("room for another link");
    assert_eq!(dial(2, 4), Err(FlowError::Address), "the addresses are in use");
}

#[test]
fn a_stray_segment_is_reset_and_a_flood_of_them_is_not() {
    let mut world = World::new(CALM, 9);
    let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    world.acceptor.drop_link(LINK);
    assert_eq!(world.acceptor.read(world.now, accepted, &mut [0; 1]), Err(FlowError::Unknown));
    world.dialler.write(world.now, dialled, b"hello?").expect("open");
    let Output::Packet { bytes, .. } = world.dialler.poll_output() else { panic!("a segment") };
    let mut resets = 0;
    for _ in 0..1_000 {
        world.acceptor.handle_input(world.now, LINK, &bytes).expect("valid");
        resets += usize::from(matches!(world.acceptor.poll_output(), Output::Packet { .. }));
    }
    assert_eq!(resets, 200);
    assert_eq!(world.acceptor.drops()[&DropReason::StrayUnanswered], 800);
}

#[test]
fn a_fin_sent_again_after_the_end_is_acknowledged() {
    let mut world = World::new(CALM, 10);
    let (dialled, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
    transfer(&mut world, (Side::Dialler, dialled), (Side::Acceptor, accepted), 10);
    // The acceptor's FIN arrives, the dialler is done, its last acknowledgement is lost.
    world.acceptor.shutdown_write(world.now, accepted).expect("open");
    world.drain();
    let (_, (_, fin)) = world.under_way.pop_last().expect("the FIN is under way");
    world.dialler.handle_input(world.now, LINK, &fin).expect("valid");
    let flow = dialled;
    assert_eq!(world.dialler.read(world.now, flow, &mut [0; 8]), Ok(Read::End));
    world.weather.loss_percent = 100;
    world.drain();
    assert!(world.dialler.is_empty(), "the buffers are gone");
    world.weather.loss_percent = 0;
    let reason = world.until("the acceptor's end", |side, _, event| match (side, event) {
        (Side::Acceptor, Event::Closed(reason)) => Some(reason),
        _ => None,
    });
    assert_eq!(reason, CloseReason::Finished);
}

#[test]
fn a_timeout_says_why() {
    let mut world = World::new(CALM, 11);
    world.dialler.dial(world.now, LINK, address("100.64.0.2:40000"), address("10.0.0.5:80")).expect("room");
    world.until("SYN", |_, _, event| matches!(event, Event::Incoming { .. }).then_some(()));
    world.drain();
    let reasons = world.timeouts.map(|timeout| timeout.expect("both wait").reason);
    assert_eq!(reasons, [TimeoutReason::Tcp, TimeoutReason::Held]);
}

#[test]
fn a_resource_on_a_loopback_address_can_be_accepted() {
    let mut world = World::new(CALM, 12);
    let (dialled, accepted) = world.connected("100.64.0.2:40000", "127.0.0.1:8080");
    transfer(&mut world, (Side::Dialler, dialled), (Side::Acceptor, accepted), 10_000);
}

#[test]
fn many_flows_share_the_link() {
    let mut world = World::new(Weather { loss_percent: 1, ..CALM }, 13);
    let flows: Vec<(FlowId, FlowId)> =
        (0..50_u16).map(|n| world.connected(&format!("100.64.0.2:{}", 40_000 + n), "10.0.0.5:80")).collect();
    for (dialled, accepted) in flows {
        transfer(&mut world, (Side::Dialler, dialled), (Side::Acceptor, accepted), 100_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_weather_only_delays(seed in 1_u64.., loss in 0_u64..15, reorder in 0_u64..40, duplicate in 0_u64..10) {
        let weather = Weather {
            loss_percent: loss,
            reorder_percent: reorder,
            duplicate_percent: duplicate,
            one_way: Duration::from_millis(20),
        };
        let mut world = World::new(weather, seed);
        let (dialled, accepted) = world.connected("[fd00::2]:40000", "[fd00::5]:80");
        transfer(&mut world, (Side::Dialler, dialled), (Side::Acceptor, accepted), 400_000);
    }

    #[test]
    fn no_packet_panics_the_flows(
        packets in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 20..80)), 1..40),
    ) {
        let mut world = World::new(CALM, 14);
        let (_, accepted) = world.connected("100.64.0.2:40000", "10.0.0.5:80");
        for (aimed, mut bytes) in packets {
            let length = u8::try_from(bytes.len()).expect("short");
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&[0, length]);
            bytes[6..8].copy_from_slice(&[0, 0]);
            bytes[9] = if bytes[9] % 4 == 0 { 1 } else { 6 };
            if aimed && bytes.len() >= 40 {
                bytes[12..20].copy_from_slice(&[100, 64, 0, 2, 10, 0, 0, 5]);
                bytes[20..24].copy_from_slice(&[0x9C, 0x40, 0, 80]);
                bytes[32] = 0x50 | (bytes[32] & 0x3F);
            }
            let _ = world.acceptor.handle_input(world.now, LINK, &bytes);
            while !matches!(world.acceptor.poll_output(), Output::Timeout(_)) {}
        }
        let _ = world.acceptor.read(world.now, accepted, &mut [0; 64]);
        prop_assert!(world.acceptor.len() <= 41);
    }
}
