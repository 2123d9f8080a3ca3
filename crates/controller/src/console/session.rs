//! Who is signed in: in memory, bounded, and gone with the process.

use crate::clock;
use http::{HeaderMap, HeaderValue, header};
use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};
use trust::{encode_base64url, sha256};

/// A working day.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once; the one that ends first makes room.
const MAX_SESSIONS: usize = 1024;
/// `__Host-`: only over TLS, only this host, path `/` (RFC 6265bis section 4.1.3.2).
const SESSION_COOKIE: &str = "__Host-tidegate-session";
const FORM_COOKIE: &str = "__Host-tidegate-form";
const THEME_COOKIE: &str = "__Host-tidegate-theme";

/// A person who is signed in.
#[derive(Debug, Clone)]
pub(crate) struct SignedIn {
    pub(crate) name: String,
    /// Goes into every form, and comes back with it.
    pub(crate) form_token: String,
    ends: Instant,
}

/// The sessions, by the hash of their cookie.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<BTreeMap<[u8; 32], SignedIn>>);

fn key(cookie: &str) -> [u8; 32] {
    sha256(&[b"tidegate/console-session/1", cookie.as_bytes()])
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<[u8; 32], SignedIn>> {
        self.0.lock().expect("nothing panics while it holds the sessions")
    }

    /// Signs a person in; gives the cookie to set.
    pub(crate) fn begin(&self, name: &str) -> HeaderValue {
        let now = clock::now();
        let secret = encode_base64url(&clock::random::<32>());
        let form_token = encode_base64url(&clock::random::<32>());
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.ends > now);
        if sessions.len() >= MAX_SESSIONS
            && let Some(first) = sessions.iter().min_by_key(|(_, session)| session.ends).map(|(key, _)| *key)
        {
            sessions.remove(&first);
        }
        sessions.insert(key(&secret), SignedIn { name: name.to_owned(), form_token, ends: now + LIFE });
        cookie(SESSION_COOKIE, &secret, LIFE)
    }

    /// Who sent these headers.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Option<SignedIn> {
        let secret = read(headers, SESSION_COOKIE)?;
        let session = self.lock().get(&key(secret)).cloned()?;
        (session.ends > clock::now()).then_some(session)
    }

    /// Signs out; gives the cookie that removes the cookie.
    pub(crate) fn end(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(secret) = read(headers, SESSION_COOKIE) {
            self.lock().remove(&key(secret));
        }
        cookie(SESSION_COOKIE, "", Duration::ZERO)
    }
}

fn cookie(name: &str, value: &str, life: Duration) -> HeaderValue {
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={}", life.as_secs());
    HeaderValue::from_str(&text).expect("names and values are ours: letters, digits, - and _")
}

fn read<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// The token of forms before anybody is signed in: in a cookie and in the form (double submit). Gives the
/// token and the cookie to set.
pub(crate) fn form_token(headers: &HeaderMap) -> (String, HeaderValue) {
    let held = read(headers, FORM_COOKIE).filter(|token| token.len() == 43).map(str::to_owned);
    let token = held.unwrap_or_else(|| encode_base64url(&clock::random::<32>()));
    let set = cookie(FORM_COOKIE, &token, Duration::from_secs(3600));
    (token, set)
}

/// Whether a form before sign-in came from a page of ours.
pub(crate) fn is_own_form(headers: &HeaderMap, token: &str) -> bool {
    read(headers, FORM_COOKIE).is_some_and(|held| same(held, token))
}

/// Equality in the same time wherever the first difference is.
pub(crate) fn same(a: &str, b: &str) -> bool {
    let equal = a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0;
    std::hint::black_box(equal)
}

/// The theme a person chose: `light`, `dark` or nothing.
pub(crate) fn theme(headers: &HeaderMap) -> &'static str {
    match read(headers, THEME_COOKIE) {
        Some("light") => "light",
        Some("dark") => "dark",
        _ => "",
    }
}

/// The cookie that keeps the other theme.
pub(crate) fn other_theme(headers: &HeaderMap) -> HeaderValue {
    let next = if theme(headers) == "dark" { "light" } else { "dark" };
    cookie(THEME_COOKIE, next, Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(&format!("x=y; {pair}")).unwrap())])
    }

    #[test]
    fn a_session_is_known_by_its_cookie_until_it_is_ended() {
        let sessions = Sessions::default();
        let cookie = sessions.begin("lena");
        let text = cookie.to_str().unwrap();
        for attribute in ["Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
            assert!(text.contains(attribute), "{text}");
        }
        assert_eq!(sessions.of(&headers(&cookie)).unwrap().name, "lena");
        sessions.end(&headers(&cookie));
        assert!(sessions.of(&headers(&cookie)).is_none());
        assert!(sessions.of(&HeaderMap::new()).is_none());
    }

    #[test]
    fn the_table_of_sessions_is_bounded() {
        let sessions = Sessions::default();
        for _ in 0..MAX_SESSIONS + 10 {
            sessions.begin("lena");
        }
        assert_eq!(sessions.lock().len(), MAX_SESSIONS);
    }

    #[test]
    fn a_form_from_elsewhere_does_not_have_the_cookie_s_token() {
        let (token, cookie) = form_token(&HeaderMap::new());
        assert!(is_own_form(&headers(&cookie), &token));
        assert!(!is_own_form(&headers(&cookie), "x"));
        assert!(!is_own_form(&HeaderMap::new(), ""));
    }
}
