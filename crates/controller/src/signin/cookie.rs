//! The text of a web session: who signed in, when and how, under a code that any controller with the keys
//! verifies from memory.
//!
//! `tgs1.` ‖ base64url(body) ‖ `.` ‖ base64url(HMAC-SHA256). The body has a fixed length, so that there is one way
//! to write a session and no parser to confuse.

use super::keys::{Purpose, WebKeys};
use std::time::Duration;
use trust::{UnixMs, decode_base64url, encode_base64url};
use wire::{OrganizationId, UserId};

const PREFIX: &str = "tgs1.";
/// A working day, then the person signs in again.
pub(crate) const LIFE: Duration = Duration::from_secs(12 * 3600);
/// Without a request for so long a session is over.
pub(crate) const IDLE: Duration = Duration::from_secs(2 * 3600);
/// A cookie that is older than this is written anew with its next answer, so that it does not become idle.
pub(crate) const FRESHEN_AFTER: Duration = Duration::from_secs(300);
/// A cookie from the future is believed by so much: controllers' clocks differ.
const AHEAD: Duration = Duration::from_secs(60);

/// How somebody proved who they are. A session lists all that were used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Method {
    Passphrase,
    Totp,
    RecoveryCode,
    Passkey,
    Provider,
    /// A one-time link: the session in which an account was made.
    Link,
    /// A provider that let somebody in by what it remembered: who they are, and no proof of now.
    Remembered,
}

impl Method {
    const ALL: [Self; 7] = [
        Self::Passphrase,
        Self::Totp,
        Self::RecoveryCode,
        Self::Passkey,
        Self::Provider,
        Self::Link,
        Self::Remembered,
    ];

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Its name in logs and in the API (after RFC 8176 where that has one).
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::Totp => "totp",
            Self::RecoveryCode => "recovery-code",
            Self::Passkey => "passkey",
            Self::Provider => "oidc",
            Self::Link => "one-time-link",
            Self::Remembered => "oidc-remembered",
        }
    }
}

/// A set of [`Method`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Methods(u8);

impl Methods {
    pub(crate) fn of(methods: &[Method]) -> Self {
        Self(methods.iter().fold(0, |bits, method| bits | method.bit()))
    }

    /// Whether nothing was proven when the session began.
    pub(crate) const fn is_remembered(self) -> bool {
        self.0 & Method::Remembered.bit() != 0
    }

    /// Their names, in the order of the list above.
    pub(crate) fn names(self) -> Vec<&'static str> {
        Method::ALL.into_iter().filter(|method| self.0 & method.bit() != 0).map(Method::name).collect()
    }
}

/// Where what this person may do is looked up, at each request anew: a role is never in the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RoleSource {
    /// The roles of a user of an organization.
    User,
    /// The installation's own administrators, from before there were accounts.
    Administrator,
}

/// What a session's cookie says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WebSession {
    /// Of this session alone.
    pub(crate) id: [u8; 16],
    pub(crate) user: UserId,
    pub(crate) organization: OrganizationId,
    pub(crate) source: RoleSource,
    /// The user's generation at sign-in: a strike of it, or of a higher one, ends the session.
    pub(crate) generation: u64,
    pub(crate) methods: Methods,
    /// When the person last proved who they are.
    pub(crate) authenticated: UnixMs,
    /// When this cookie was written.
    pub(crate) seen: UnixMs,
    /// Then it is over, whatever happens.
    pub(crate) expires: UnixMs,
}

/// Key generation, id, user, organization, source, methods, generation, three times.
const BODY: usize = 4 + 16 + 16 + 16 + 1 + 1 + 8 + 3 * 8;

impl WebSession {
    fn body(&self, key: u32) -> [u8; BODY] {
        let source = match self.source {
            RoleSource::User => 0,
            RoleSource::Administrator => 1,
        };
        let parts: [&[u8]; 10] = [
            &key.to_be_bytes(),
            &self.id,
            self.user.as_bytes(),
            self.organization.as_bytes(),
            &[source],
            &[self.methods.0],
            &self.generation.to_be_bytes(),
            &self.authenticated.as_millis().to_be_bytes(),
            &self.seen.as_millis().to_be_bytes(),
            &self.expires.as_millis().to_be_bytes(),
        ];
        parts.concat().try_into().expect("the parts are as long as the body")
    }

    /// The cookie's text.
    pub(crate) fn to_text(self, keys: &WebKeys) -> String {
        // The generation of the key is part of what is signed: ask for it first.
        let (key, _) = keys.sign(Purpose::Session, b"");
        let body = self.body(key);
        let code = keys.sign_by(key, Purpose::Session, &body).expect("a key of a moment ago is kept");
        format!("{PREFIX}{}.{}", encode_base64url(&body), encode_base64url(&code))
    }

    /// Reads a cookie. `None`: it is none of ours, or over.
    pub(crate) fn from_text(text: &str, keys: &WebKeys, now: UnixMs) -> Option<Self> {
        let (body, code) = text.strip_prefix(PREFIX)?.split_once('.')?;
        let body: [u8; BODY] = decode_base64url(body).ok()?.try_into().ok()?;
        let code: [u8; 32] = decode_base64url(code).ok()?.try_into().ok()?;
        let mut rest = Reader(&body);
        let key = u32::from_be_bytes(rest.take());
        if !keys.verify(key, Purpose::Session, &body, &code) && !planted::is("sessions-without-a-code") {
            return None;
        }
        let session = Self {
            id: rest.take(),
            user: UserId::from_bytes(rest.take()),
            organization: OrganizationId::from_bytes(rest.take()),
            source: match rest.take::<1>() {
                [0] => RoleSource::User,
                [1] => RoleSource::Administrator,
                _ => return None,
            },
            methods: Methods(rest.take::<1>()[0]),
            generation: u64::from_be_bytes(rest.take()),
            authenticated: UnixMs::from_millis(u64::from_be_bytes(rest.take())),
            seen: UnixMs::from_millis(u64::from_be_bytes(rest.take())),
            expires: UnixMs::from_millis(u64::from_be_bytes(rest.take())),
        };
        let in_time = now < session.expires && now < session.seen.plus(IDLE);
        let not_ahead = session.seen <= now.plus(AHEAD) && session.authenticated <= now.plus(AHEAD);
        (in_time && not_ahead).then_some(session)
    }

    /// The token that this session's forms carry.
    pub(crate) fn form_token(&self, keys: &WebKeys, key: u32) -> Option<String> {
        keys.sign_by(key, Purpose::Form, &self.id).map(|code| encode_base64url(&code))
    }
}

/// The key generation a cookie names, before anything about it is believed.
pub(crate) fn claimed_key(text: &str) -> Option<u32> {
    let (body, _) = text.strip_prefix(PREFIX)?.split_once('.')?;
    let body = decode_base64url(body).ok()?;
    body.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Reads fixed parts of a body whose length was checked.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (part, rest) = self.0.split_first_chunk::<N>().expect("the parts are as long as the body");
        self.0 = rest;
        *part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> UnixMs {
        UnixMs::from_millis(ms)
    }

    fn keys() -> WebKeys {
        WebKeys::of(&[(7, [7; 32])], at(0))
    }

    const NOW: u64 = 1_700_000_000_000;

    fn session() -> WebSession {
        WebSession {
            id: [1; 16],
            user: UserId::from_bytes([2; 16]),
            organization: OrganizationId::from_bytes([3; 16]),
            source: RoleSource::User,
            generation: 4,
            methods: Methods::of(&[Method::Passphrase, Method::Totp]),
            authenticated: at(NOW),
            seen: at(NOW),
            expires: at(NOW).plus(LIFE),
        }
    }

    #[test]
    fn a_session_has_one_text_and_every_controller_with_the_keys_reads_it() {
        let text = session().to_text(&keys());
        assert_eq!(text, GOLDEN);
        let other_controller = keys();
        assert_eq!(WebSession::from_text(GOLDEN, &other_controller, at(NOW)), Some(session()));
        assert_eq!(claimed_key(GOLDEN), Some(7));
    }

    /// Of `session()` under key 7 = 07 × 32, made by another program (Python's `hmac`).
    const GOLDEN: &str = "tgs1.AAAABwEBAQEBAQEBAQEBAQEBAQECAgICAgICAgICAgICAgICAwMDAwMDAwMDAwMDAwMDAwADAAAAAAAAAAQAAAGLz-VoAAAAAYvP5WgAAAABi9J4\
                          lgA.tkoc6Jr2XVovAzMrctBLXEEc52DUovBKe8t7dcqOFnA";

    #[test]
    fn no_changed_or_missing_byte_is_taken() {
        let keys = keys();
        let text = session().to_text(&keys);
        for index in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(WebSession::from_text(&forged, &keys, at(NOW)), None, "character {index}");
            assert_eq!(WebSession::from_text(&text[..index], &keys, at(NOW)), None);
        }
        assert_eq!(WebSession::from_text(&format!("{text}A"), &keys, at(NOW)), None);
        let (body, _) = text.strip_prefix(PREFIX).unwrap().split_once('.').unwrap();
        for forged in [format!("{PREFIX}{body}."), format!("{PREFIX}{body}"), String::new(), body.to_owned()]
        {
            assert_eq!(WebSession::from_text(&forged, &keys, at(NOW)), None, "{forged}");
        }
    }

    #[test]
    fn every_field_is_under_the_code() {
        let keys = keys();
        let original = session();
        let changes: [fn(&mut WebSession); 9] = [
            |s| s.id[0] ^= 1,
            |s| s.user = UserId::from_bytes([9; 16]),
            |s| s.organization = OrganizationId::from_bytes([9; 16]),
            |s| s.source = RoleSource::Administrator,
            |s| s.generation += 1,
            |s| s.methods = Methods::of(&[Method::Passkey]),
            |s| s.authenticated = s.authenticated.plus(Duration::from_secs(1)),
            |s| s.seen = s.seen.plus(Duration::from_secs(1)),
            |s| s.expires = s.expires.plus(Duration::from_secs(1)),
        ];
        let text = original.to_text(&keys);
        let code = text.rsplit_once('.').unwrap().1;
        for (index, change) in changes.into_iter().enumerate() {
            let mut other = original;
            change(&mut other);
            let forged = format!("{PREFIX}{}.{code}", encode_base64url(&other.body(7)));
            assert_eq!(WebSession::from_text(&forged, &keys, at(NOW)), None, "change {index}");
        }
    }

    #[test]
    fn another_key_and_another_purpose_do_not_sign_sessions() {
        let text = session().to_text(&WebKeys::of(&[(7, [8; 32])], at(0)));
        assert_eq!(WebSession::from_text(&text, &keys(), at(NOW)), None);
        let keys = keys();
        let body = session().body(7);
        let code = keys.sign_by(7, Purpose::Form, &body).unwrap();
        let text = format!("{PREFIX}{}.{}", encode_base64url(&body), encode_base64url(&code));
        assert_eq!(WebSession::from_text(&text, &keys, at(NOW)), None);
        let unknown = session().to_text(&WebKeys::of(&[(8, [7; 32])], at(0)));
        assert_eq!(WebSession::from_text(&unknown, &keys, at(NOW)), None, "a key that nobody has");
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_its_day_is_over_and_does_not_come_from_the_future() {
        let keys = keys();
        let text = session().to_text(&keys);
        let read = |now: UnixMs| WebSession::from_text(&text, &keys, now).is_some();
        let just_before = |span: Duration| at(NOW).plus(span).minus(Duration::from_millis(1));
        assert!(read(at(NOW)) && read(just_before(IDLE)));
        assert!(!read(at(NOW).plus(IDLE)));
        assert!(read(at(NOW).minus(AHEAD)) && !read(at(NOW).minus(AHEAD + Duration::from_millis(1))));
        let busy = WebSession { seen: at(NOW).plus(LIFE - IDLE / 2), ..session() }.to_text(&keys);
        assert!(WebSession::from_text(&busy, &keys, just_before(LIFE)).is_some());
        assert!(WebSession::from_text(&busy, &keys, at(NOW).plus(LIFE)).is_none());
    }
}
