//! The production client, connector and PoP with real TLS and ciphers, between any two networks, while things go
//! wrong.

use super::{MINUTE, MS, Report, SECOND, matrix::expected, matrix::link};
use crate::fast::{Place, Site, Trace};
use crate::stack::Stack;
use crate::world::{Network, Random, Time};
use tunnel::Path;

/// Networks with IPv4: the stack's PoP has no other address.
const PLACES: [Place; 6] =
    [Place::Open, Place::FullCone, Place::Home, Place::Symmetric, Place::Cgn, Place::UdpBlocked];
const PAIRS: u64 = 36;

/// What goes wrong while the connection stands.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Nothing,
    Roam,
    PopRestart,
    RoamWhilePopRestarts,
    /// The client's machine sleeps, from seconds to an hour.
    Sleep,
}

const FAULTS: [Fault; 5] =
    [Fault::Nothing, Fault::Roam, Fault::PopRestart, Fault::RoamWhilePopRestarts, Fault::Sleep];

/// An answer without a fault: a loss on the way, sent again by the flow.
const ANSWER_WITHIN: Time = Time::from_secs(3);
/// And after one. Without a restart of the PoP it is seconds: 720 seeds took 8 s at most, by relays alone and over links
/// that lose packets. A PoP that was killed says no goodbye, and a connector that has nothing to send finds out by what
/// the client asks of it; a client without UDP finds TCP in two seconds more.
const ANSWER_AFTER_FAULT: Time = Time::from_secs(15);

fn nth<T: Copy>(of: &[T], index: u64) -> T {
    of[usize::try_from(index).unwrap_or(usize::MAX) % of.len()]
}

/// Says a byte and waits for it to come back.
fn echoes(stack: &mut Stack, byte: u8, within: Time) -> Result<(), String> {
    let (before, began) = (stack.echoed.len(), stack.now());
    if stack.say(&[byte]) != 1 {
        return Err(format!("the connection is gone at {began:?}: {:?}", stack.faults()));
    }
    if !stack.wait(within, |stack| stack.echoed.len() > before) {
        return Err(format!("nothing came back in {within:?} after {began:?}: {:?}", stack.faults()));
    }
    if stack.echoed.last() != Some(&byte) {
        return Err(format!("another byte came back than was said at {began:?}"));
    }
    Ok(())
}

/// A byte a second for so long.
fn talk(stack: &mut Stack, time: Time) -> Result<(), String> {
    let end = stack.now() + time;
    let mut byte = 0_u8;
    while stack.now() < end {
        byte = byte.wrapping_add(1);
        echoes(stack, byte, ANSWER_WITHIN)?;
        stack.wait(SECOND, |_| false);
    }
    Ok(())
}

fn is_as_expected(stack: &mut Stack, client: Place, connector: Place) -> Result<(), String> {
    let expected = expected(client, connector);
    let is_direct = |stack: &Stack| matches!(stack.way(), Some(Path::Direct { .. }));
    // A lost probe sends data by the relay until the next is answered.
    let became_direct =
        if expected == "direct" { stack.wait(SECOND * 5, is_direct) } else { is_direct(stack) };
    if became_direct == (expected == "direct") {
        return Ok(());
    }
    let (client, connector) = (client.name(), connector.name());
    Err(format!("{client} × {connector}: {expected} is expected, and it is {:?}", stack.way()))
}

/// A connector forgets who is away for longer than a session lives: then the client is told that the connection is
/// gone as soon as it wants something, and connects anew.
fn wake(stack: &mut Stack) -> Result<(), String> {
    let before = stack.echoed.len();
    stack.say(&[254]);
    let began = stack.now();
    if !stack.wait(ANSWER_AFTER_FAULT, |stack| stack.echoed.len() > before || !stack.is_connected()) {
        return Err(format!(
            "after a sleep: neither an answer nor an end in {ANSWER_AFTER_FAULT:?} after {began:?}"
        ));
    }
    if !stack.is_connected() {
        stack.dial();
        if !stack.wait(ANSWER_AFTER_FAULT, Stack::is_connected) {
            let faults = stack.faults();
            return Err(format!("after a sleep: no new connection in {ANSWER_AFTER_FAULT:?}: {faults:?}"));
        }
    }
    Ok(())
}

fn play(stack: &mut Stack, chance: &mut Random, seed: u64) -> Result<(), String> {
    let (connector, mut client) = (nth(&PLACES, seed / 6), nth(&PLACES, seed));
    stack.wait(SECOND * 5, |_| false);
    stack.dial();
    if !stack.wait(SECOND * 15, Stack::is_connected) {
        return Err(format!("no connection in 15 s: {:?}", stack.faults()));
    }
    talk(stack, SECOND * 40)?;
    is_as_expected(stack, client, connector)?;
    let fault = nth(&FAULTS, seed / PAIRS);
    if matches!(fault, Fault::PopRestart | Fault::RoamWhilePopRestarts) {
        stack.restart_pop();
    }
    if matches!(fault, Fault::Roam | Fault::RoamWhilePopRestarts) {
        client = *chance.pick(&PLACES);
        let rules = link(chance);
        let at = Site::build(&mut stack.net, client, 9, rules).address();
        stack.roam(&at);
    }
    if matches!(fault, Fault::Sleep) {
        let time = chance.between(SECOND * 5, MINUTE * 60);
        stack.sleep_client(time);
    }
    if matches!(fault, Fault::Sleep) {
        wake(stack)?;
    }
    if !matches!(fault, Fault::Nothing) {
        echoes(stack, 255, ANSWER_AFTER_FAULT).map_err(|wrong| format!("{fault:?}: {wrong}"))?;
        talk(stack, MINUTE).map_err(|wrong| format!("after {fault:?}: {wrong}"))?;
        is_as_expected(stack, client, connector).map_err(|wrong| format!("after {fault:?}: {wrong}"))?;
    }
    // An idle minute, and the connection still stands.
    stack.wait(MINUTE + MS(500), |_| false);
    echoes(stack, 7, ANSWER_WITHIN)
}

pub(super) fn run(seed: u64) -> Report {
    let mut chance = Random::new(seed, "whole");
    let mut net = Network::new(seed);
    let rules = [link(&mut chance), link(&mut chance)];
    let connector = Site::build(&mut net, nth(&PLACES, seed / 6), 1, rules[0]).address();
    let client = Site::build(&mut net, nth(&PLACES, seed), 2, rules[1]).address();
    let mut stack = Stack::new(seed, net, &connector, &client);
    let mut wrong: Vec<String> = play(&mut stack, &mut chance, seed).err().into_iter().collect();
    wrong.extend(stack.forbidden.map(|to| format!("something was sent to {to}")));
    Report { trace: Trace { hash: 0, decisions: 0 }, time: stack.now(), wrong }
}
