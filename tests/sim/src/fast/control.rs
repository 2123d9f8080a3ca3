//! The session between an agent and the PoP, as far as paths need it: messages that arrive in the end, once, and
//! the address that the PoP sees. What stands in for QUIC here is repetition; the full stack has the real one.

use crate::world::Time;
use std::collections::{BTreeMap, BTreeSet};

/// A first byte that is QUIC's (RFC 9000, section 17).
const FIRST: u8 = 0x40;
const HEADER_LEN: usize = 12;
const FIRST_PAUSE: Time = Time::from_millis(400);
const LAST_PAUSE: Time = Time::from_secs(3);
/// Messages that wait for an acknowledgement.
const MAX_WAITING: usize = 256;
/// Numbers of messages that came.
const MAX_SEEN: usize = 1_024;

/// What is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// A message came; and where its sender was seen.
    Ack,
    /// The agent is there.
    Alive,
    /// A client asks for an introduction.
    Open,
    /// The PoP introduces.
    Introduce,
    /// A connector takes an introduction.
    Accept,
    /// It does not.
    Refuse,
    /// The introduction was taken.
    Opened,
    /// It was not.
    NotOpened,
    /// An agent gives a channel back.
    Close,
    /// A channel ended.
    Closed,
}

const WORDS: [Word; 10] = [
    Word::Ack,
    Word::Alive,
    Word::Open,
    Word::Introduce,
    Word::Accept,
    Word::Refuse,
    Word::Opened,
    Word::NotOpened,
    Word::Close,
    Word::Closed,
];

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What.
    pub word: Word,
    /// Of which agent's session.
    pub agent: u16,
    /// Which process of the sender.
    pub epoch: u32,
    /// Its number.
    pub sequence: u32,
    /// The rest.
    pub body: Vec<u8>,
}

impl Message {
    /// The datagram.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FIRST, self.word as u8];
        bytes.extend_from_slice(&self.agent.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads a datagram.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let [FIRST, word, a, b, rest @ ..] = *header else { return None };
        let [e0, e1, e2, e3, s0, s1, s2, s3] = rest;
        Some(Self {
            word: *WORDS.get(usize::from(word))?,
            agent: u16::from_le_bytes([a, b]),
            epoch: u32::from_le_bytes([e0, e1, e2, e3]),
            sequence: u32::from_le_bytes([s0, s1, s2, s3]),
            body: body.to_vec(),
        })
    }
}

#[derive(Debug)]
struct Waiting {
    datagram: Vec<u8>,
    at: Time,
    pause: Time,
}

/// One end.
#[derive(Debug, Default)]
pub struct ControlEnd {
    next: u32,
    waiting: BTreeMap<u32, Waiting>,
    seen: BTreeSet<u32>,
}

impl ControlEnd {
    /// Says something; the datagram to send now.
    pub fn say(&mut self, now: Time, word: Word, agent: u16, epoch: u32, body: Vec<u8>) -> Vec<u8> {
        let sequence = self.next;
        self.next += 1;
        let datagram = Message { word, agent, epoch, sequence, body }.encode();
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_first();
        }
        let at = now + FIRST_PAUSE;
        self.waiting.insert(sequence, Waiting { datagram: datagram.clone(), at, pause: FIRST_PAUSE });
        datagram
    }

    /// The other side has it.
    pub fn acknowledged(&mut self, sequence: u32) {
        self.waiting.remove(&sequence);
    }

    /// Whether a message comes for the first time.
    pub fn is_new(&mut self, sequence: u32) -> bool {
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_first();
        }
        self.seen.insert(sequence)
    }

    /// Says everything that waits once more, now: the network is another.
    pub fn hurry(&mut self, now: Time) {
        for waiting in self.waiting.values_mut() {
            waiting.at = now;
            waiting.pause = FIRST_PAUSE;
        }
    }

    /// What is to be said again.
    pub fn due(&mut self, now: Time) -> Vec<Vec<u8>> {
        let due = self.waiting.values_mut().filter(|waiting| waiting.at <= now);
        due.map(|waiting| {
            waiting.pause = (waiting.pause * 2).min(LAST_PAUSE);
            waiting.at = now + waiting.pause;
            waiting.datagram.clone()
        })
        .collect()
    }

    /// When something is to be said again.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.waiting.values().map(|waiting| waiting.at).min()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty()
    }
}
