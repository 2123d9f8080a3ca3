//! How often, how long, how many: the numbers of the choice, with their reasons in ADR 0006.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Bursts in a minute.
pub(super) const MAX_BURSTS: usize = 5;
pub(super) const BURST_WINDOW: Duration = Duration::from_secs(60);
/// When the bursts after a new list come, counted from the first.
pub(super) const QUICK: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(3)];
/// So long after a new list the last burst of the minute is kept for a newer one: a machine that changes its network tells
/// first that its address is gone, then another, and then what PoPs see of it.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(10);
pub(super) const SLOW_FIRST: Duration = Duration::from_secs(30);
pub(super) const SLOW_LAST: Duration = Duration::from_secs(600);
/// A slow burst without a path is followed by another one after this: at 30 % loss each way, one alone meets no answer
/// in a quarter of all cases, and the next would be minutes away.
pub(super) const SLOW_TWICE: Duration = Duration::from_secs(1);
/// Addresses that a peer did not name and was seen at.
pub(super) const MAX_SEEN: usize = 4;
/// Probes to such addresses in a minute.
pub(super) const MAX_SEEN_PROBES: usize = 10;
/// Probes to one address in a minute, whoever names it: two peers' bursts.
pub(super) const MAX_AT_ADDRESS: usize = 2 * MAX_BURSTS;
/// Probes in a minute to where a PoP sees a device, and to the one address that it is: twelve starts of a client with five bursts
/// each. The PoP has proven that address, so nobody else is asked; a PoP that lies moves no more than this.
pub(super) const MAX_INTRODUCED: usize = 60;
/// And to one IP address: an office behind one router whose hundred devices all come in one minute.
pub(super) const MAX_AT_HOST: u32 = 600;
/// Proofs before a path carries data.
pub(super) const PROOFS: u32 = 2;
/// Better proofs in a row before one direct path takes the place of another.
pub(super) const BETTER_PROOFS: u32 = 3;
pub(super) const BETTER_BY: Duration = Duration::from_millis(5);
/// Who does not plan looks for something better compares when its peer does, and no more often than this.
pub(super) const COMPARED_EVERY: Duration = Duration::from_secs(20);
/// How often a path that carries data is asked for a proof.
pub(super) const PROOF_EVERY: Duration = Duration::from_secs(5);
/// Data out and nothing in for this long: a proof is asked for.
pub(super) const SILENCE: Duration = Duration::from_millis(300);
/// And no earlier than this after the last proof: who only sends is asked twice a second.
pub(super) const PROOF_APART: Duration = Duration::from_millis(500);
/// Data comes by the relay, and nothing for this long by the path in use.
pub(super) const LEFT_BY_PEER: Duration = Duration::from_secs(1);
/// Who was sent much, and then nothing for this long, asks for a proof: a download that ended, or a path that did. Who
/// receives sends little, and would not notice.
pub(super) const STREAM: u32 = 16;
pub(super) const STREAM_ENDED: Duration = Duration::from_millis(500);
/// An address from which the peer said something within this may take a doubtful one's place.
pub(super) const FRESH: Duration = Duration::from_secs(5);
/// And one that proved itself twice, the last time within this, takes it without a further question.
pub(super) const READY: Duration = Duration::from_secs(1);
/// So many questions of a doubt without an answer: the relay is looked at too.
pub(super) const DOUBT_TOLD: u32 = 2;
/// So many, and another address that the peer names may take its place.
pub(super) const DOUBT_MEANT: u32 = 6;
/// A proof later than this (or two round trips) makes the path doubtful.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);
/// A question about a length that was not answered within this (or two round trips) is asked again. An answer that
/// comes later counts as well.
pub(super) const SIZE_PATIENCE: Duration = Duration::from_millis(300);
pub(super) const SIZE_PATIENCE_RELAY: Duration = Duration::from_millis(500);
/// How often and how many times a doubtful path is asked.
pub(super) const DOUBT_EVERY: Duration = Duration::from_millis(150);
pub(super) const DOUBT_PROBES: u32 = 12;
/// A path on which nothing was heard for this long is doubtful before the next packet.
pub(super) const STALE: Duration = Duration::from_secs(12);
/// A path is kept alive while idle.
pub(super) const IDLE_PROBE: Duration = Duration::from_secs(25);
/// And forgotten after this, before the session of three minutes that the probes are sealed with.
pub(super) const IDLE_LIFETIME: Duration = Duration::from_secs(150);
/// A tunnel in use: data went or came within this.
pub(super) const IN_USE: Duration = Duration::from_secs(30);
/// Data under way: after as long WireGuard itself has said what it had to (its keepalive, white paper section 6.5). A slow
/// burst that comes due later is sent with the next data: an idle tunnel sends a packet in 20 s, and no more.
pub(super) const UNDER_WAY: Duration = Duration::from_secs(10);
/// After a path was lost.
pub(super) const HOLD_FIRST: Duration = Duration::from_secs(2);
pub(super) const HOLD_LAST: Duration = Duration::from_secs(300);
/// A path that held for this long was no mistake.
pub(super) const HELD_WELL: Duration = Duration::from_secs(60);
/// A list that was not heard is said again: after 0.5 s, doubled.
pub(super) const SAY_AGAIN: Duration = Duration::from_millis(500);
pub(super) const SAY_TIMES: u32 = 7;
/// And after those as often, while the tunnel is used: where 28 % is lost one list in 8,000 is lost seven times, and who has no
/// list asks nothing.
pub(super) const SAY_SELDOM: Duration = Duration::from_secs(60);
/// A new list is no earlier than this after the last: whose address changes each second tells every fourth.
pub(super) const SAY_INTERVAL: Duration = Duration::from_secs(4);
/// Pings that wait for an answer.
pub(super) const MAX_PINGS: usize = 16;
/// Where a probe was seen from that the relay brought.
pub(super) const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
