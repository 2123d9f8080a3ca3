//! What browsers keep for the console and bring back: sessions under a code, and sealed texts.

use crate::{HOME, provider::protocol::Pending};
use serde_json::json;
use state::{About, StateDir};
use std::sync::{Arc, LazyLock};
use trust::{Role, RootHash, UnixMs, encode_base64url};
use wire::{OrganizationId, UserId};

/// Their own sources, which no crate exports.
#[path = "../../../crates/controller/src/signin/cookie.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod cookie;
#[path = "../../../crates/controller/src/signin/keys.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod keys;

use cookie::{Method, Methods, RoleSource, WebSession};
use keys::{Purpose, WebKeys};

const PREFIX: &str = "tgs1.";
const NOW: UnixMs = crate::installation::NOW;
/// The generation of the one key.
const KEY: u32 = 1;

/// Keys whose one secret is known here.
static KEYS: LazyLock<WebKeys> = LazyLock::new(|| {
    let about = About::new(HOME.id, Role::Controller, RootHash::of(&HOME.root.verifying_key()));
    let state = StateDir::create(&crate::disk::place("web-keys"), &about).expect("an empty directory");
    let keys = WebKeys::open(Arc::new(state)).expect("new keys");
    let secret = encode_base64url(&[7; 32]);
    let ring = json!({"generations": [{"id": KEY, "secret": secret, "made": 0}]});
    keys.adopt(ring.to_string().as_bytes()).expect("a ring");
    keys
});

fn session() -> WebSession {
    WebSession {
        id: [1; 16],
        user: UserId::from_bytes([2; 16]),
        organization: OrganizationId::from_bytes([3; 16]),
        source: RoleSource::User,
        generation: 4,
        methods: Methods::of(&[Method::Passphrase, Method::Totp]),
        authenticated: NOW,
        seen: NOW,
        expires: NOW.plus(cookie::LIFE),
    }
}

fn body_of(text: &str) -> Vec<u8> {
    let (body, _) =
        text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).expect("a session's text");
    trust::decode_base64url(body).expect("a session's text")
}

/// A session as it comes, which nobody can make without the key; and any body under the right code: it is written in one
/// way, is of now, and has the session's form token and nobody else's.
pub(crate) fn session_cookie(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = cookie::claimed_key(text);
        if WebSession::from_text(text, &KEYS, NOW).is_some() {
            assert_eq!(text, session().to_text(&KEYS), "a session that nobody signed");
        }
    }
    let code = KEYS.sign_by(KEY, Purpose::Session, bytes).expect("the one key");
    let text = format!("{PREFIX}{}.{}", encode_base64url(bytes), encode_base64url(&code));
    let Some(read) = WebSession::from_text(&text, &KEYS, NOW) else { return };
    assert_eq!(read.to_text(&KEYS), text, "two texts of one session");
    assert_eq!(cookie::claimed_key(&text), Some(KEY));
    assert!(NOW < read.expires && NOW < read.seen.plus(cookie::IDLE), "a session that is over");
    let ahead = NOW.plus(std::time::Duration::from_secs(60));
    assert!(read.seen <= ahead && read.authenticated <= ahead, "a session of the time to come");
    assert!(read.methods.names().len() <= 7);
    let token = read.form_token(&KEYS, KEY).expect("the one key");
    assert_eq!(session().form_token(&KEYS, KEY).expect("the one key") == token, read.id == session().id);
}

/// A sealed text as it comes, which nobody can make; and any inside behind the right seal: it opens for its purpose and
/// before its end, as what it says.
pub(crate) fn sealed_cookie(bytes: &[u8]) {
    type Kept = (OrganizationId, Pending);
    let text = String::from_utf8_lossy(bytes);
    assert!(KEYS.open_sealed(Purpose::Provider, &text).is_none(), "nobody sealed this");
    let sealed = KEYS.seal(Purpose::Provider, bytes);
    assert!(KEYS.open_sealed(Purpose::Provider, &sealed).is_some_and(|inside| inside == bytes));
    assert!(KEYS.open_sealed(Purpose::SecondFactor, &sealed).is_none(), "opened for another purpose");
    let Some(kept) = KEYS.open_until::<Kept>(Purpose::Provider, &sealed, NOW) else { return };
    // A member that nobody reads may hold what no text of ours can.
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let until = UnixMs::from_millis(said[0].as_u64().expect("a time"));
    assert!(NOW < until, "opened after its end");
    assert!(KEYS.open_until::<Kept>(Purpose::Provider, &sealed, until).is_none(), "opened at its end");
    let again = KEYS.seal_until(Purpose::Provider, until, &kept);
    assert_eq!(KEYS.open_until::<Kept>(Purpose::Provider, &again, NOW), Some(kept));
}

/// Genuine cookies.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let text = session().to_text(&KEYS);
    let old = WebSession { seen: NOW.minus(cookie::IDLE), ..session() }.to_text(&KEYS);
    let administrator = WebSession { source: RoleSource::Administrator, ..session() }.to_text(&KEYS);
    let pending = |again_as: serde_json::Value| {
        json!({
            "provider": "example", "state": "s", "nonce": "n", "verifier": "v", "next": "/", "again_as": again_as,
        })
    };
    let inside = |until: UnixMs, again_as| {
        let kept = json!([until, [OrganizationId::from_bytes([3; 16]), pending(again_as)]]);
        kept.to_string().into_bytes()
    };
    let ten_minutes = NOW.plus(std::time::Duration::from_secs(600));
    vec![
        ("session_cookie", "body", body_of(&text)),
        ("session_cookie", "body-idle", body_of(&old)),
        ("session_cookie", "body-administrator", body_of(&administrator)),
        ("session_cookie", "text", text.into_bytes()),
        ("sealed_cookie", "sign-in", inside(ten_minutes, serde_json::Value::Null)),
        ("sealed_cookie", "again", inside(ten_minutes, json!(UserId::from_bytes([2; 16])))),
        ("sealed_cookie", "over", inside(NOW, serde_json::Value::Null)),
        ("sealed_cookie", "noise", vec![7; 60]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_cookie_gets_to_the_end_of_its_target() {
        assert!(WebSession::from_text(&session().to_text(&KEYS), &KEYS, NOW).is_some());
        let of = |name: &str| genuine().into_iter().find(|(_, called, _)| *called == name).expect("a seed").2;
        for (name, is_taken) in [("sign-in", true), ("again", true), ("over", false)] {
            let sealed = KEYS.seal(Purpose::Provider, &of(name));
            let opened = KEYS.open_until::<(OrganizationId, Pending)>(Purpose::Provider, &sealed, NOW);
            assert_eq!(opened.is_some(), is_taken, "{name}");
        }
        for (name, is_taken) in [("body", true), ("body-idle", false), ("body-administrator", true)] {
            let code = KEYS.sign_by(KEY, Purpose::Session, &of(name)).expect("the one key");
            let text = format!("{PREFIX}{}.{}", encode_base64url(&of(name)), encode_base64url(&code));
            assert_eq!(WebSession::from_text(&text, &KEYS, NOW).is_some(), is_taken, "{name}");
        }
    }
}
