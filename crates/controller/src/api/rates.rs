//! How often a caller may ask: a bounded table of windows, told in `RateLimit` headers and refused with 429.
//!
//! The limits keep one runaway script from taking the controller from everybody else; they are no price list. The local
//! socket has none.

use super::{
    caller::{Caller, Who},
    problem::Problem,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};
use trust::sha256;

// draft-ietf-httpapi-ratelimit-headers.
const RATE: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Callers that are counted at once; when the table is full of younger windows, the rest share one count.
const MAX_KEYS: usize = 8192;
const WINDOW: Duration = Duration::from_secs(60);

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// From memory.
    Reads,
    /// By the database.
    Changes,
}

impl Class {
    /// How many in a window: reads cost some 50 µs of a core each, changes a transaction.
    const fn most(self) -> u32 {
        match self {
            Self::Reads => 120_000,
            Self::Changes => 6_000,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Changes => "changes",
        }
    }
}

type Key = ([u8; 16], Class);

/// Windows by caller and class; `None` is every stranger to a full table.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<BTreeMap<Option<Key>, (Instant, u32)>>);

/// What is left of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    class: Class,
    left: u32,
    resets: Duration,
}

/// A caller that asked too often.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) rate: Option<Rate>,
}

impl Refused {
    pub(crate) fn problem(&self) -> Problem {
        let (word, most, wait) = self.rate.map_or(("requests", 0, 1), |rate| {
            (rate.class.word(), rate.class.most(), rate.resets.as_secs() + 1)
        });
        let mut problem = Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-requests",
            "Too many requests",
            format!("expected at most {most} {word} in {} s from one caller", WINDOW.as_secs()),
        );
        problem.retry_after = Some(wait);
        let rule = format!("at most {most} {word} in {} s from one caller", WINDOW.as_secs());
        problem.about("requests", rule, serde_json::Value::Null)
    }
}

impl Rate {
    /// Writes the headers.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let word = self.class.word();
        let rate = format!("\"{word}\";r={};t={}", self.left, self.resets.as_secs());
        let policy = format!("\"{word}\";q={};w={}", self.class.most(), WINDOW.as_secs());
        for (name, text) in [(RATE, rate), (POLICY, policy)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}

fn of_address(address: Option<IpAddr>) -> String {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(v6)) => format!("{:x?}", &v6.octets()[..8]),
        Some(other) => other.to_string(),
        None => "local".to_owned(),
    }
}

fn key(caller: &Caller) -> Option<[u8; 16]> {
    let text = match caller.who {
        Who::Local => return None,
        Who::Token(id) => id.to_string(),
        Who::User(id) => id.to_string(),
        Who::Administrator => format!("{} {}", caller.actor, of_address(caller.origin.address)),
    };
    let digest = sha256(&[b"tidegate/rate/1", text.as_bytes()]);
    digest[..16].try_into().ok()
}

impl Rates {
    /// Counts a request. `None`: this caller is not counted.
    ///
    /// # Errors
    /// It asked too often.
    pub(crate) fn take(&self, caller: &Caller, class: Class, now: Instant) -> Result<Option<Rate>, Refused> {
        let Some(key) = key(caller) else { return Ok(None) };
        self.count((key, class), class, now)
    }

    fn count(&self, key: Key, class: Class, now: Instant) -> Result<Option<Rate>, Refused> {
        let mut windows = self.0.lock().expect("nothing panics while it holds the rates");
        let mut key = Some(key);
        if windows.len() >= MAX_KEYS && !windows.contains_key(&key) {
            windows.retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
            if windows.len() >= MAX_KEYS {
                key = None;
            }
        }
        let window = windows.entry(key).or_insert((now, 0));
        if now.saturating_duration_since(window.0) >= WINDOW {
            *window = (now, 0);
        }
        let resets = WINDOW.saturating_sub(now.saturating_duration_since(window.0));
        if window.1 >= class.most() {
            return Err(Refused { rate: Some(Rate { class, left: 0, resets }) });
        }
        window.1 += 1;
        Ok(Some(Rate { class, left: class.most() - window.1, resets }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_too_often_waits_for_the_next_window_and_nobody_else_does() {
        let (rates, start) = (Rates::default(), crate::clock::now());
        let (a, b) = (([1; 16], Class::Changes), ([2; 16], Class::Changes));
        for _ in 0..Class::Changes.most() {
            rates.count(a, Class::Changes, start).unwrap();
        }
        let refused = rates.count(a, Class::Changes, start + Duration::from_secs(10)).unwrap_err();
        assert_eq!(refused.problem().retry_after, Some(51));
        let mut headers = HeaderMap::new();
        refused.rate.unwrap().tell(&mut headers);
        assert_eq!(headers["ratelimit"], "\"changes\";r=0;t=50");
        assert_eq!(headers["ratelimit-policy"], "\"changes\";q=6000;w=60");
        assert!(rates.count(b, Class::Changes, start).is_ok());
        assert!(rates.count(([1; 16], Class::Reads), Class::Reads, start).is_ok());
        assert!(rates.count(a, Class::Changes, start + WINDOW).is_ok());
    }

    #[test]
    fn the_table_of_callers_is_bounded() {
        let (rates, start) = (Rates::default(), crate::clock::now());
        for number in 0..u32::try_from(MAX_KEYS).unwrap() + 100 {
            let mut key = [0; 16];
            key[..4].copy_from_slice(&number.to_be_bytes());
            rates.count((key, Class::Reads), Class::Reads, start).unwrap();
        }
        assert!(rates.0.lock().unwrap().len() <= MAX_KEYS + 1);
    }
}
