//! Device codes (in the shape of RFC 8628): a terminal shows a code, a person confirms it in a browser, the terminal
//! gets a key that enrols one device of that person.
//!
//! A table of its own, without I/O and without a clock. Strangers write into it, so it is bounded as a whole and for
//! each address block, and what is oldest and unconfirmed makes room.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};
use trust::sha256;
use wire::UserId;

/// How long a code is good (RFC 8628 section 6.1 weighs length against guessing: 20^8 codes, 10 minutes).
pub(crate) const LIFE: Duration = Duration::from_secs(600);
/// How often a terminal asks (section 3.2: the default).
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// What `slow_down` adds (section 3.5).
const SLOW_DOWN: Duration = Duration::from_secs(5);
/// A terminal's timer and the network are not exact.
const TOLERANCE: Duration = Duration::from_millis(500);
/// Codes at once: 4,096 entries of some 400 bytes are under 2 MiB.
const MOST: usize = 4096;
/// Codes at once of one IPv4 address or IPv6 /64.
const MOST_OF_ONE: usize = 16;
/// No vowels: no words; nothing that looks like something else (section 6.1).
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LEN: usize = 8;

/// What a person types, or finds in the link: eight letters, shown in two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UserCode([u8; CODE_LEN]);

impl UserCode {
    /// From random bytes, without preferring a letter: bytes from 240 on are skipped.
    pub(crate) fn from_random(random: &[u8; 32]) -> Option<Self> {
        let mut letters =
            random.iter().filter(|byte| **byte < 240).map(|byte| ALPHABET[usize::from(byte % 20)]);
        let mut code = [0; CODE_LEN];
        for letter in &mut code {
            *letter = letters.next()?;
        }
        Some(Self(code))
    }

    /// Reads what was typed: case, spaces and dashes do not matter.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let letters: Vec<u8> = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .map(|c| u8::try_from(c.to_ascii_uppercase()).ok().filter(|byte| ALPHABET.contains(byte)))
            .collect::<Option<_>>()?;
        letters.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for UserCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = std::str::from_utf8(&self.0).map_err(|_| std::fmt::Error)?;
        write!(f, "{}-{}", &text[..4], &text[4..])
    }
}

/// Which terminal asked, for the person who confirms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The name the device would get.
    pub(crate) device: String,
    pub(crate) from: IpAddr,
    pub(crate) at: Instant,
}

enum State {
    Waiting,
    Denied,
    /// The key, until it is fetched: once.
    Confirmed {
        by: UserId,
        join_key: String,
    },
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Waiting => f.write_str("Waiting"),
            Self::Denied => f.write_str("Denied"),
            Self::Confirmed { by, .. } => write!(f, "Confirmed by {by}"),
        }
    }
}

#[derive(Debug)]
struct Entry {
    asked: Asked,
    code: UserCode,
    state: State,
    interval: Duration,
    next_poll: Instant,
}

/// What a terminal is told (RFC 8628 section 3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Poll {
    /// `authorization_pending`.
    Pending,
    /// `slow_down`, and the interval from now on.
    SlowDown(Duration),
    /// `access_denied`.
    Denied,
    /// `expired_token`: also what nobody knows.
    Expired,
    /// The key that enrols the device.
    Confirmed(String),
}

/// A code was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The codes that are open.
#[derive(Debug, Default)]
pub(crate) struct DeviceCodes {
    entries: BTreeMap<[u8; 32], Entry>,
    by_code: BTreeMap<UserCode, [u8; 32]>,
    /// Oldest first.
    order: VecDeque<[u8; 32]>,
}

fn key(device_code: &str) -> [u8; 32] {
    sha256(&[b"tidegate/device-code/1", device_code.as_bytes()])
}

fn block(address: IpAddr) -> [u8; 8] {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0, 0, 0, 0, a, b, c, d]
        }
        IpAddr::V6(v6) => v6.octets()[..8].try_into().expect("8 of 16 bytes"),
    }
}

impl DeviceCodes {
    fn forget(&mut self, id: [u8; 32]) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_code.remove(&entry.code);
        }
        self.order.retain(|other| *other != id);
    }

    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front().copied() {
            let over = self
                .entries
                .get(&oldest)
                .is_none_or(|entry| now.saturating_duration_since(entry.asked.at) >= LIFE);
            if !over {
                break;
            }
            self.forget(oldest);
        }
    }

    /// Opens a code. The device code is the terminal's secret, the user code the person's.
    pub(crate) fn begin(&mut self, device_code: &str, code: UserCode, asked: Asked) -> Result<(), TooMany> {
        let now = asked.at;
        self.expire(now);
        let of_block =
            self.entries.values().filter(|entry| block(entry.asked.from) == block(asked.from)).count();
        if of_block >= MOST_OF_ONE || self.by_code.contains_key(&code) {
            return Err(TooMany);
        }
        if self.entries.len() >= MOST {
            let waiting =
                self.order.iter().copied().find(|id| {
                    self.entries.get(id).is_some_and(|entry| matches!(entry.state, State::Waiting))
                });
            self.forget(waiting.ok_or(TooMany)?);
        }
        let id = key(device_code);
        let entry =
            Entry { asked, code, state: State::Waiting, interval: INTERVAL, next_poll: now + INTERVAL };
        self.entries.insert(id, entry);
        self.by_code.insert(code, id);
        self.order.push_back(id);
        Ok(())
    }

    fn waiting(&mut self, code: UserCode, now: Instant) -> Option<&mut Entry> {
        self.expire(now);
        let entry = self.entries.get_mut(self.by_code.get(&code)?)?;
        matches!(entry.state, State::Waiting).then_some(entry)
    }

    /// Which terminal waits with this code.
    pub(crate) fn asked(&mut self, code: UserCode, now: Instant) -> Option<Asked> {
        self.waiting(code, now).map(|entry| entry.asked.clone())
    }

    /// A person confirms. `false`: nobody waits with this code any more.
    pub(crate) fn confirm(&mut self, code: UserCode, by: UserId, join_key: String, now: Instant) -> bool {
        let Some(entry) = self.waiting(code, now) else { return false };
        entry.state = State::Confirmed { by, join_key };
        true
    }

    /// A person refuses.
    pub(crate) fn deny(&mut self, code: UserCode, now: Instant) -> bool {
        let Some(entry) = self.waiting(code, now) else { return false };
        entry.state = State::Denied;
        true
    }

    /// The terminal asks.
    pub(crate) fn poll(&mut self, device_code: &str, now: Instant) -> Poll {
        self.expire(now);
        let id = key(device_code);
        let Some(entry) = self.entries.get_mut(&id) else { return Poll::Expired };
        if now + TOLERANCE < entry.next_poll {
            // Section 3.5: the interval is longer for this and all later requests.
            entry.interval += SLOW_DOWN;
            entry.next_poll = now + entry.interval;
            return Poll::SlowDown(entry.interval);
        }
        entry.next_poll = now + entry.interval;
        let answer = match &entry.state {
            State::Waiting => return Poll::Pending,
            State::Denied => Poll::Denied,
            State::Confirmed { join_key, .. } => Poll::Confirmed(join_key.clone()),
        };
        self.forget(id);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(last: u8, at: Instant) -> Asked {
        Asked { device: "laptop".into(), from: IpAddr::from([203, 0, 113, last]), at }
    }

    fn code(n: u32) -> UserCode {
        let mut code = [b'B'; CODE_LEN];
        let mut rest = n;
        for letter in &mut code {
            *letter = ALPHABET[usize::try_from(rest % 20).unwrap()];
            rest /= 20;
        }
        UserCode(code)
    }

    fn lena() -> UserId {
        UserId::from_bytes([1; 16])
    }

    #[test]
    fn a_terminal_waits_is_confirmed_and_gets_its_key_once() {
        let (mut codes, start) = (DeviceCodes::default(), crate::clock::now());
        codes.begin("secret", code(1), asked(7, start)).unwrap();
        let after = |intervals: u32| start + INTERVAL * intervals;
        assert_eq!(codes.poll("secret", after(1)), Poll::Pending);
        assert_eq!(codes.poll("other", after(1)), Poll::Expired);
        assert_eq!(codes.asked(code(1), after(1)).unwrap().device, "laptop");
        assert!(codes.confirm(code(1), lena(), "key".into(), after(1)));
        assert!(!codes.confirm(code(1), lena(), "other key".into(), after(1)), "once");
        assert!(codes.asked(code(1), after(1)).is_none());
        assert_eq!(codes.poll("secret", after(2)), Poll::Confirmed("key".into()));
        assert_eq!(codes.poll("secret", after(3)), Poll::Expired);
        assert!(codes.by_code.is_empty() && codes.order.is_empty());
    }

    #[test]
    fn who_asks_too_often_is_told_to_ask_less_often_from_then_on() {
        let (mut codes, start) = (DeviceCodes::default(), crate::clock::now());
        codes.begin("secret", code(1), asked(7, start)).unwrap();
        assert_eq!(
            codes.poll("secret", start + Duration::from_secs(1)),
            Poll::SlowDown(Duration::from_secs(10))
        );
        assert_eq!(
            codes.poll("secret", start + Duration::from_secs(6)),
            Poll::SlowDown(Duration::from_secs(15))
        );
        assert_eq!(codes.poll("secret", start + Duration::from_secs(21)), Poll::Pending);
    }

    #[test]
    fn a_refusal_is_told_and_a_code_ends_after_ten_minutes() {
        let (mut codes, start) = (DeviceCodes::default(), crate::clock::now());
        codes.begin("a", code(1), asked(7, start)).unwrap();
        codes.begin("b", code(2), asked(7, start)).unwrap();
        assert!(codes.deny(code(1), start));
        assert_eq!(codes.poll("a", start + INTERVAL), Poll::Denied);
        assert!(!codes.confirm(code(2), lena(), "key".into(), start + LIFE));
        assert_eq!(codes.poll("b", start + LIFE), Poll::Expired);
    }

    #[test]
    fn strangers_fill_neither_the_table_nor_somebody_else_s_share() {
        let (mut codes, now) = (DeviceCodes::default(), crate::clock::now());
        for n in 0..u32::try_from(MOST_OF_ONE).unwrap() {
            codes.begin(&n.to_string(), code(n), asked(7, now)).unwrap();
        }
        assert_eq!(codes.begin("more", code(100), asked(7, now)), Err(TooMany));
        codes.begin("neighbour", code(101), asked(8, now)).unwrap();
        assert!(codes.confirm(code(101), lena(), "key".into(), now));
        for n in 0..u32::try_from(MOST).unwrap() {
            let from = IpAddr::from((0x0a00_0000 + n * 256).to_be_bytes());
            codes.begin(&format!("x{n}"), code(1000 + n), Asked { from, ..asked(0, now) }).unwrap();
        }
        assert_eq!(codes.entries.len(), MOST);
        assert_eq!((codes.by_code.len(), codes.order.len()), (MOST, MOST));
        assert_eq!(codes.poll("0", now + INTERVAL), Poll::Expired, "the oldest made room");
        assert_eq!(
            codes.poll("neighbour", now + INTERVAL),
            Poll::Confirmed("key".into()),
            "what is confirmed stays"
        );
    }

    #[test]
    fn a_code_is_read_however_it_is_typed_and_has_no_letter_twice_as_often() {
        let code = UserCode::from_random(&[5; 32]).unwrap();
        assert_eq!(code.to_string(), "HHHH-HHHH");
        for typed in ["hhhh-hhhh", " HHHHHHHH ", "hh hh hh hh"] {
            assert_eq!(UserCode::parse(typed), Some(code), "{typed}");
        }
        for wrong in ["", "HHHH", "HHHH-HHHA", "HHHH-HHHHH", "HHHH-HHHÄ", "<script>"] {
            assert_eq!(UserCode::parse(wrong), None, "{wrong}");
        }
        assert_eq!(UserCode::from_random(&[250; 32]), None, "drawn again");
    }
}
