#![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]

use super::*;
use proptest::prelude::*;
use wire::{CHALLENGE_LEN, ChannelSecret, RELAY_HEADER_LEN, encode_relay_header};

const CLIENT: &str = "198.51.100.1:4000";
const CONNECTOR: &str = "203.0.113.9:5000";
const ELSEWHERE: &str = "198.51.100.77:4001";

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("address")
}

fn id(bits: u64) -> ChannelId {
    ChannelId::from_random(bits)
}

fn secret(byte: u8) -> ChannelSecret {
    ChannelSecret::from_random([byte; 32])
}

struct Bench {
    relay: Relay,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(RelayLimits::default())
    }

    fn with(limits: RelayLimits) -> Self {
        let now = Instant::now();
        let mut relay = Relay::new(limits, now, &Seed::from_random([7; 32]));
        relay.handle_command(now, RelayCommand::Install(Box::new(spec(0xA, 0xB))));
        Self { relay, now }
    }

    fn input(&mut self, source: &str, mut datagram: Vec<u8>) -> Handled {
        self.relay.handle_input(self.now, addr(source), &mut datagram)
    }

    /// Lets time pass, waking the core at each of its own timeouts.
    fn pass(&mut self, time: Duration) -> Vec<RelayOutput> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        loop {
            match self.relay.poll_output() {
                RelayOutput::Timeout { at: Some(at), .. } if at <= end => {
                    self.now = self.now.max(at);
                    self.relay.handle_timeout(self.now);
                }
                RelayOutput::Timeout { .. } => break,
                output => outputs.push(output),
            }
        }
        self.now = end;
        outputs
    }

    fn challenges(&mut self) -> Vec<(SocketAddr, ChallengeFrame)> {
        self.pass(Duration::ZERO)
            .into_iter()
            .filter_map(|output| match output {
                RelayOutput::Transmit { to, frame } => Some((to, frame)),
                _ => None,
            })
            .collect()
    }

    fn client_address(&self) -> SocketAddr {
        self.relay.side_of(id(0xA)).address
    }
}

fn spec(a: u64, b: u64) -> ChannelSpec {
    let client = SideSpec {
        id: id(a),
        secret: secret(0xA),
        address: addr(CLIENT),
        moved: None,
        owner: OwnerId::from_number(1),
    };
    let connector = SideSpec {
        id: id(b),
        secret: secret(0xB),
        address: addr(CONNECTOR),
        moved: None,
        owner: OwnerId::from_number(2),
    };
    ChannelSpec { sides: [client, connector] }
}

fn data(channel: u64, length: usize) -> Vec<u8> {
    let mut frame = encode_relay_header(RelayKind::Data, id(channel)).to_vec();
    frame.resize(RELAY_HEADER_LEN + length, 0x55);
    frame
}

fn answer(challenge: &ChallengeFrame, secret: &ChannelSecret) -> Vec<u8> {
    let token = &challenge[RELAY_HEADER_LEN..];
    let mut frame = challenge.to_vec();
    frame[0] = RelayKind::Answer as u8;
    frame.extend_from_slice(&answer_of(secret, token));
    frame
}

fn dropped(reason: DropReason) -> Handled {
    Handled::Dropped(reason)
}

#[test]
fn data_goes_to_the_other_side_under_its_own_id() {
    let mut bench = Bench::new();
    let mut frame = data(0xA, 100);
    let handled = bench.relay.handle_input(bench.now, addr(CLIENT), &mut frame);
    assert_eq!(handled, Handled::Forward(addr(CONNECTOR)));
    assert_eq!(frame, data(0xB, 100));
    assert_eq!(bench.input(CONNECTOR, data(0xB, 60)), Handled::Forward(addr(CLIENT)));
    let counters = bench.relay.counters();
    assert_eq!((counters.forwarded_frames, counters.forwarded_bytes), (2, 112 + 72));
}

#[test]
fn what_goes_to_an_agent_over_tcp_443_is_counted_apart() {
    let mut bench = Bench::new();
    let mut spec = spec(0xC, 0xD);
    spec.sides[1].address = wire::stream_address(7, 443);
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(spec)));
    bench.input(CLIENT, data(0xA, 100));
    bench.input(CLIENT, data(0xC, 60));
    let counters = bench.relay.counters();
    assert_eq!((counters.forwarded_frames, counters.forwarded_bytes), (2, 112 + 72));
    assert_eq!((counters.stream_frames, counters.stream_bytes), (1, 72));
}

#[test]
fn an_unknown_id_is_counted_and_answered_by_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.input(ELSEWHERE, data(0xC, 100)), dropped(DropReason::UnknownChannel));
    assert_eq!(bench.challenges(), []);
    assert_eq!(bench.relay.counters().dropped.get(DropReason::UnknownChannel), 1);
}

#[test]
fn a_frame_from_an_unproven_address_is_dropped_and_charges_nobody() {
    let limits = RelayLimits { bytes: Allowance { per_second: 1, burst: 112 }, ..RelayLimits::default() };
    let mut bench = Bench::with(limits);
    for _ in 0..50 {
        assert_eq!(bench.input(ELSEWHERE, data(0xA, 1000)), dropped(DropReason::UnprovenSource));
    }
    assert_eq!(bench.input(CLIENT, data(0xA, 100)), Handled::Forward(addr(CONNECTOR)));
    assert_eq!(bench.input(CLIENT, data(0xA, 100)), dropped(DropReason::Budget));
    // The other agent has a budget of its own.
    assert_eq!(bench.input(CONNECTOR, data(0xB, 100)), Handled::Forward(addr(CLIENT)));
}

#[test]
fn a_side_moves_once_the_new_address_answered_and_the_old_one_stayed_silent() {
    let mut bench = Bench::new();
    bench.input(ELSEWHERE, data(0xA, 100));
    let challenges = bench.challenges();
    let asked: Vec<_> = challenges.iter().map(|(to, _)| *to).collect();
    assert_eq!(asked, [addr(ELSEWHERE), addr(CLIENT)]);
    assert_eq!(bench.input(ELSEWHERE, answer(&challenges[0].1, &secret(0xA))), Handled::Consumed);
    assert_eq!(bench.client_address(), addr(CLIENT), "not before the old address had its time");
    // What the roamed agent sends is taken at once: it holds the secret.
    assert_eq!(bench.input(ELSEWHERE, data(0xA, 100)), Handled::Forward(addr(CONNECTOR)));
    bench.pass(OLD_ADDRESS_WINDOW);
    assert_eq!(bench.client_address(), addr(ELSEWHERE));
    assert_eq!(bench.input(CONNECTOR, data(0xB, 60)), Handled::Forward(addr(ELSEWHERE)));
    assert_eq!(bench.input(CLIENT, data(0xA, 100)), dropped(DropReason::UnprovenSource));
}

#[test]
fn frames_captured_and_sent_from_elsewhere_move_nothing_while_the_old_address_lives() {
    let mut bench = Bench::new();
    for round in 0..20 {
        // The thief on the path sends the client's frame from its own address, forwards the
        // challenge to the client and the client's answer to us.
        bench.input(ELSEWHERE, data(0xA, 100));
        let challenges = bench.challenges();
        for (to, frame) in &challenges {
            let answer = answer(frame, &secret(0xA));
            if *to == addr(ELSEWHERE) {
                bench.input(ELSEWHERE, answer);
            } else if round % 2 == 0 {
                // Every second round the client's own answers are late, but come.
                bench.input(CLIENT, answer);
            }
        }
        let late = bench.pass(Duration::from_millis(600));
        for output in late {
            let RelayOutput::Transmit { to, frame } = output else { panic!("{output:?}") };
            if to == addr(CLIENT) {
                bench.input(CLIENT, answer(&frame, &secret(0xA)));
            }
        }
        bench.pass(Duration::from_secs(3));
        assert_eq!(bench.client_address(), addr(CLIENT), "round {round}");
    }
    assert_eq!(bench.relay.counters().moves, 0);
    assert!(bench.relay.counters().moves_refused >= 20);
}

#[test]
fn an_answer_without_the_secret_or_for_another_address_proves_nothing() {
    let mut bench = Bench::new();
    bench.input(ELSEWHERE, data(0xA, 100));
    let challenges = bench.challenges();
    let good = answer(&challenges[0].1, &secret(0xA));
    assert_eq!(
        bench.input(ELSEWHERE, answer(&challenges[0].1, &secret(0xB))),
        dropped(DropReason::WrongSecret)
    );
    assert_eq!(bench.input("198.51.100.78:4001", good.clone()), dropped(DropReason::NotOurToken));
    bench.pass(Duration::from_secs(9));
    assert_eq!(bench.input(ELSEWHERE, good), dropped(DropReason::NotOurToken), "two slots later");
    assert_eq!(bench.client_address(), addr(CLIENT));
}

#[test]
fn a_challenge_sent_by_an_agent_is_refused() {
    let mut bench = Bench::new();
    let mut frame = encode_relay_header(RelayKind::Challenge, id(0xA)).to_vec();
    frame.resize(RELAY_HEADER_LEN + CHALLENGE_LEN, 0);
    assert_eq!(bench.input(CLIENT, frame), dropped(DropReason::ChallengeFromAgent));
}

#[test]
fn short_hellos_from_a_new_address_get_a_challenge_only_when_they_add_up_to_its_length() {
    let mut bench = Bench::new();
    let hello = || encode_relay_header(RelayKind::Hello, id(0xA)).to_vec();
    for _ in 0..2 {
        bench.input(ELSEWHERE, hello());
        assert_eq!(bench.challenges(), []);
    }
    bench.input(ELSEWHERE, hello());
    assert_eq!(bench.challenges().len(), 2);
}

#[test]
fn challenges_of_one_side_keep_their_interval() {
    let mut bench = Bench::new();
    for _ in 0..1000 {
        bench.input(ELSEWHERE, data(0xA, 100));
    }
    assert_eq!(bench.challenges().len(), 2);
    bench.pass(CHALLENGE_INTERVAL);
    bench.input(ELSEWHERE, data(0xA, 100));
    assert_eq!(bench.challenges().len(), 2);
}

#[test]
fn a_session_that_moved_makes_the_relay_ask_its_sides_there() {
    let mut bench = Bench::new();
    let command = RelayCommand::AddressChanged { owner: OwnerId::from_number(1), address: addr(ELSEWHERE) };
    bench.relay.handle_command(bench.now, command);
    let challenges = bench.challenges();
    let (_, frame) = challenges.iter().find(|(to, _)| *to == addr(ELSEWHERE)).expect("asked");
    bench.input(ELSEWHERE, answer(frame, &secret(0xA)));
    bench.pass(OLD_ADDRESS_WINDOW);
    assert_eq!(bench.client_address(), addr(ELSEWHERE));
}

/// The client of the first channel sends from another address, and answers when it is asked there.
fn answer_from_elsewhere(bench: &mut Bench) {
    bench.input(ELSEWHERE, data(0xA, 60));
    let (_, frame) = bench.challenges().into_iter().find(|(to, _)| *to == addr(ELSEWHERE)).expect("asked");
    bench.input(ELSEWHERE, answer(&frame, &secret(0xA)));
}

/// Another channel of the same client, whose session has moved.
fn install_after_a_move(bench: &mut Bench, client: u64) {
    let mut spec = spec(client, client + 1);
    spec.sides[0].moved = Some(addr(ELSEWHERE));
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(spec)));
}

#[test]
fn a_new_channel_of_a_client_that_moved_carries_at_once_what_another_channel_has_proven() {
    let mut bench = Bench::new();
    answer_from_elsewhere(&mut bench);
    install_after_a_move(&mut bench, 0xC);
    assert_eq!(bench.input(ELSEWHERE, data(0xC, 60)), Handled::Forward(addr(CONNECTOR)), "in the trial");
    bench.pass(OLD_ADDRESS_WINDOW);
    assert_eq!(bench.relay.side_of(id(0xC)).address, addr(ELSEWHERE));
    install_after_a_move(&mut bench, 0xE);
    assert_eq!(bench.input(CONNECTOR, data(0xF, 60)), Handled::Forward(addr(ELSEWHERE)), "after it");
}

#[test]
fn a_trial_that_a_new_channel_took_over_ends_for_it_too_when_the_old_address_lives() {
    let mut bench = Bench::new();
    answer_from_elsewhere(&mut bench);
    install_after_a_move(&mut bench, 0xC);
    let asked = bench.challenges();
    let (_, frame) = asked
        .iter()
        .find(|(to, frame)| {
            *to == addr(CLIENT)
                && frame[..RELAY_HEADER_LEN] == encode_relay_header(RelayKind::Challenge, id(0xC))
        })
        .expect("the old address is asked about the new channel");
    bench.input(CLIENT, answer(frame, &secret(0xA)));
    assert_eq!(bench.input(ELSEWHERE, data(0xC, 60)), dropped(DropReason::UnprovenSource));
}

#[test]
fn a_client_that_moved_is_asked_again_when_its_first_frame_comes_from_there() {
    let mut bench = Bench::new();
    install_after_a_move(&mut bench, 0xC);
    let to_new = |frames: Vec<(SocketAddr, ChallengeFrame)>| {
        frames.into_iter().filter(|(to, _)| *to == addr(ELSEWHERE)).count()
    };
    assert_eq!(to_new(bench.challenges()), 1, "before it knew the channel");
    assert_eq!(bench.input(ELSEWHERE, data(0xC, 60)), dropped(DropReason::UnprovenSource));
    assert_eq!(to_new(bench.challenges()), 1, "at once");
    // And then at the pace of everybody, whoever else knocks in between.
    for _ in 0..20 {
        bench.input("192.0.2.9:9", data(0xC, 60));
        assert_eq!(bench.input(ELSEWHERE, data(0xC, 60)), dropped(DropReason::UnprovenSource));
    }
    assert_eq!(bench.challenges().len(), 0);
}

#[test]
fn an_old_proof_counts_for_no_new_channel() {
    let mut bench = Bench::new();
    answer_from_elsewhere(&mut bench);
    bench.pass(Duration::from_secs(10));
    install_after_a_move(&mut bench, 0xC);
    assert_eq!(bench.input(ELSEWHERE, data(0xC, 60)), dropped(DropReason::UnprovenSource));
}

#[test]
fn the_session_core_hears_once_where_an_agent_was_shown_to_be() {
    let mut bench = Bench::new();
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(spec(0xC, 0xD))));
    for channel in [0xA, 0xC] {
        bench.input(ELSEWHERE, data(channel, 60));
    }
    for (to, frame) in bench.challenges() {
        if to == addr(ELSEWHERE) {
            bench.input(ELSEWHERE, answer(&frame, &secret(0xA)));
        }
    }
    let outputs = bench.pass(OLD_ADDRESS_WINDOW * 2);
    let told: Vec<_> = outputs.iter().filter(|output| matches!(output, RelayOutput::Proven { .. })).collect();
    let expected = RelayOutput::Proven { owner: OwnerId::from_number(1), address: addr(ELSEWHERE) };
    assert_eq!(told, [&expected]);
}

#[test]
fn a_session_that_moved_and_answers_nowhere_keeps_its_channel() {
    let mut bench = Bench::new();
    let command = RelayCommand::AddressChanged { owner: OwnerId::from_number(1), address: addr(ELSEWHERE) };
    bench.relay.handle_command(bench.now, command);
    let outputs = bench.pass(Duration::from_secs(10));
    assert!(!outputs.iter().any(|output| matches!(output, RelayOutput::Ended(_))));
    assert_eq!(bench.client_address(), addr(CLIENT));
}

#[test]
fn an_agent_that_came_back_as_a_new_process_loses_the_channels_it_knows_nothing_of() {
    let mut bench = Bench::new();
    let command = RelayCommand::Reattached { owner: OwnerId::from_number(2), address: addr(ELSEWHERE) };
    bench.relay.handle_command(bench.now, command);
    let outputs = bench.pass(Duration::from_secs(2));
    let ended = outputs.iter().find_map(|output| match output {
        RelayOutput::Ended(ended) => Some(*ended),
        _ => None,
    });
    let ended = ended.expect("closed");
    assert_eq!(ended.reason, Refusal::SessionLost);
    assert_eq!(ended.sides, [(OwnerId::from_number(1), id(0xA)), (OwnerId::from_number(2), id(0xB))]);
    assert_eq!(bench.input(CLIENT, data(0xA, 100)), dropped(DropReason::UnknownChannel));
    assert_eq!(bench.relay.counters().channels, 0);
}

/// What the relay asked, by whom.
fn asked(outputs: &[RelayOutput]) -> Vec<SocketAddr> {
    outputs
        .iter()
        .filter_map(|output| match output {
            RelayOutput::Transmit { to, .. } => Some(*to),
            _ => None,
        })
        .collect()
}

fn reattached(at: &str) -> RelayCommand {
    RelayCommand::Reattached { owner: OwnerId::from_number(1), address: addr(at) }
}

#[test]
fn a_side_moves_at_once_with_an_agent_that_registered_anew_and_answers_there() {
    let mut bench = Bench::new();
    bench.relay.handle_command(bench.now, reattached(ELSEWHERE));
    let challenges = bench.challenges();
    let (_, frame) = challenges.iter().find(|(to, _)| *to == addr(ELSEWHERE)).expect("asked");
    assert_eq!(bench.client_address(), addr(CLIENT), "not before it has answered");
    bench.input(ELSEWHERE, answer(frame, &secret(0xA)));
    assert_eq!(bench.input(CONNECTOR, data(0xB, 60)), Handled::Forward(addr(ELSEWHERE)));
    // The old address is asked all the same, and stays silent.
    let outputs = bench.pass(OLD_ADDRESS_WINDOW);
    assert!(
        asked(&outputs).len() >= 4 && asked(&outputs).iter().all(|to| *to == addr(CLIENT)),
        "{outputs:?}"
    );
    assert_eq!(bench.client_address(), addr(ELSEWHERE));
    assert_eq!(bench.input(CLIENT, data(0xA, 100)), dropped(DropReason::UnprovenSource));
    let counters = bench.relay.counters();
    assert_eq!((counters.moves, counters.moves_undone), (1, 0));
}

#[test]
fn a_side_that_moved_with_a_registration_goes_back_when_the_old_address_answers() {
    let mut bench = Bench::new();
    bench.relay.handle_command(bench.now, reattached(ELSEWHERE));
    let challenges = bench.challenges();
    let of = |at: &str| challenges.iter().find(|(to, _)| *to == addr(at)).expect("asked").1;
    // Somebody on the way is faster than the owner is, and forwards everything.
    bench.input(ELSEWHERE, answer(&of(ELSEWHERE), &secret(0xA)));
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.client_address(), addr(ELSEWHERE));
    // The owner never left: what it sends is taken, and its answer brings the side back.
    assert_eq!(bench.input(CLIENT, data(0xA, 100)), Handled::Forward(addr(CONNECTOR)));
    bench.input(CLIENT, answer(&of(CLIENT), &secret(0xA)));
    assert_eq!(bench.client_address(), addr(CLIENT));
    bench.input(ELSEWHERE, answer(&of(ELSEWHERE), &secret(0xA)));
    bench.pass(OLD_ADDRESS_WINDOW * 2);
    assert_eq!(bench.client_address(), addr(CLIENT));
    let counters = bench.relay.counters();
    assert_eq!((counters.moves, counters.moves_undone), (1, 1));
}

#[test]
fn nothing_short_of_a_registration_moves_a_side_before_the_old_address_had_its_time() {
    let detached =
        |address| RelayCommand::Detached { owner: OwnerId::from_number(1), address: addr(address) };
    let moved =
        |address| RelayCommand::AddressChanged { owner: OwnerId::from_number(1), address: addr(address) };
    let third = "198.51.100.90:4003";
    // A session that ended, one that moved, and one that moved after its agent had registered elsewhere.
    for commands in
        [vec![detached(ELSEWHERE)], vec![moved(ELSEWHERE)], vec![reattached(third), moved(ELSEWHERE)]]
    {
        let mut bench = Bench::new();
        for command in commands {
            bench.relay.handle_command(bench.now, command);
        }
        let challenges = bench.challenges();
        let (_, frame) = challenges.iter().find(|(to, _)| *to == addr(ELSEWHERE)).expect("asked");
        bench.input(ELSEWHERE, answer(frame, &secret(0xA)));
        bench.pass(OLD_ADDRESS_WINDOW - Duration::from_millis(1));
        assert_eq!(bench.client_address(), addr(CLIENT));
        bench.pass(Duration::from_millis(2));
        assert_eq!(bench.client_address(), addr(ELSEWHERE));
    }
}

#[test]
fn a_registration_lets_no_other_address_move_a_side() {
    let mut bench = Bench::new();
    bench.relay.handle_command(bench.now, reattached(ELSEWHERE));
    bench.challenges();
    let thief = "198.51.100.90:4003";
    bench.pass(CHALLENGE_INTERVAL);
    bench.input(thief, data(0xA, 100));
    let challenges = bench.challenges();
    let (_, frame) = challenges.iter().find(|(to, _)| *to == addr(thief)).expect("asked");
    bench.input(thief, answer(frame, &secret(0xA)));
    assert_eq!(bench.client_address(), addr(CLIENT));
}

#[test]
fn a_hello_of_an_agent_is_long_enough_to_be_asked() {
    let mut bench = Bench::new();
    let mut hello = encode_relay_header(RelayKind::Hello, id(0xA)).to_vec();
    hello.resize(RELAY_HEADER_LEN + CHALLENGE_LEN, 0);
    bench.input(ELSEWHERE, hello);
    assert_eq!(bench.challenges().len(), 2);
}

#[test]
fn an_agent_that_only_dialled_again_keeps_its_channels() {
    let mut bench = Bench::new();
    let command = RelayCommand::Reattached { owner: OwnerId::from_number(2), address: addr(CONNECTOR) };
    bench.relay.handle_command(bench.now, command);
    let challenges = bench.challenges();
    assert_eq!(challenges.len(), 1);
    bench.input(CONNECTOR, answer(&challenges[0].1, &secret(0xB)));
    let outputs = bench.pass(Duration::from_secs(5));
    assert_eq!(outputs, []);
    assert_eq!(bench.input(CLIENT, data(0xA, 100)), Handled::Forward(addr(CONNECTOR)));
}

#[test]
fn a_channel_is_closed_by_its_owners_and_nobody_else() {
    let mut bench = Bench::new();
    let close = |channel, owner| RelayCommand::Close {
        channel: id(channel),
        owner: OwnerId::from_number(owner),
        reason: Refusal::SessionLost,
    };
    bench.relay.handle_command(bench.now, close(0xA, 3));
    bench.relay.handle_command(bench.now, close(0xB, 1));
    assert_eq!(bench.pass(Duration::ZERO), []);
    bench.relay.handle_command(bench.now, close(0xB, 2));
    assert!(matches!(bench.pass(Duration::ZERO)[..], [RelayOutput::Ended(_)]));
}

#[test]
fn a_struck_agent_loses_all_its_channels_and_no_other() {
    let mut bench = Bench::new();
    let mut other = spec(0xC, 0xD);
    other.sides[0].owner = OwnerId::from_number(3);
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(other)));
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(spec(0xE, 0xF))));
    let strike = RelayCommand::CloseOwner { owner: OwnerId::from_number(1), reason: Refusal::Struck };
    bench.relay.handle_command(bench.now, strike);
    assert_eq!(bench.pass(Duration::ZERO).len(), 2);
    assert_eq!(bench.input(CLIENT, data(0xC, 60)), Handled::Forward(addr(CONNECTOR)));
}

#[test]
fn an_idle_channel_ends_and_a_used_one_does_not() {
    let mut bench = Bench::new();
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(spec(0xC, 0xD))));
    bench.pass(IDLE_AFTER / 2);
    bench.input(CLIENT, data(0xA, 60));
    let outputs = bench.pass(IDLE_AFTER * 3 / 4);
    let [RelayOutput::Ended(ended)] = outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(ended.sides[0].1, id(0xC));
    assert_eq!(bench.input(CLIENT, data(0xA, 60)), Handled::Forward(addr(CONNECTOR)));
}

#[test]
fn a_full_relay_refuses_and_a_taken_id_is_never_replaced() {
    let mut bench = Bench::with(RelayLimits { channels: 2, ..RelayLimits::default() });
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(spec(0xA, 0xE))));
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(spec(0xC, 0xD))));
    bench.relay.handle_command(bench.now, RelayCommand::Install(Box::new(spec(0xE, 0xF))));
    let refused: Vec<_> = bench
        .pass(Duration::ZERO)
        .into_iter()
        .filter_map(|output| match output {
            RelayOutput::Ended(ended) => Some((ended.sides[0].1, ended.reason)),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [(id(0xA), Refusal::Full), (id(0xE), Refusal::Full)]);
}

proptest! {
    /// Whatever anybody sends: no panic, and an address that has proven nothing gets no more bytes
    /// than it sent.
    #[test]
    fn no_unproven_source_gets_more_bytes_than_it_sent(
        steps in proptest::collection::vec(
            (0_u16..4, 0x80_u8..0x85, 0_u64..4, 0_usize..80, 0_u64..300),
            1..200,
        ),
    ) {
        let mut bench = Bench::new();
        let mut balance: BTreeMap<SocketAddr, i64> = BTreeMap::new();
        for (source, kind, channel, length, pause) in steps {
            let source = SocketAddr::from(([192, 0, 2, 1], 1000 + source));
            let mut datagram = vec![kind, 0, 0, 0];
            datagram.extend_from_slice(&(0xA + channel).to_be_bytes());
            datagram.resize(RELAY_HEADER_LEN + length, 0);
            *balance.entry(source).or_default() += i64::try_from(datagram.len()).expect("small");
            bench.relay.handle_input(bench.now, source, &mut datagram);
            for output in bench.pass(Duration::from_millis(pause)) {
                if let RelayOutput::Transmit { to, frame } = output {
                    *balance.entry(to).or_default() -= i64::try_from(frame.len()).expect("small");
                }
            }
        }
        balance.remove(&addr(CLIENT));
        balance.remove(&addr(CONNECTOR));
        for (source, left) in balance {
            prop_assert!(left >= 0, "{source} got {} bytes more than it sent", -left);
        }
    }

    #[test]
    fn no_datagram_panics_the_relay(datagram in proptest::collection::vec(any::<u8>(), 0..128)) {
        let mut bench = Bench::new();
        let mut copy = datagram.clone();
        bench.relay.handle_input(bench.now, addr(CLIENT), &mut copy);
        let mut known = datagram;
        if known.len() >= RELAY_HEADER_LEN {
            known[0] = 0x80 | (known[0] & 3);
            known[1..4].fill(0);
            known[4..12].copy_from_slice(&0xA_u64.to_be_bytes());
        }
        bench.relay.handle_input(bench.now, addr(CLIENT), &mut known);
        bench.pass(Duration::from_secs(2));
    }
}
