//! Passkeys: discoverable credentials that know their owner, so that signing in needs no name.
//!
//! What a ceremony needs between its two steps is sealed into a cookie: whoever begins one costs no memory here. A
//! ceremony works once: what was finished is remembered until it would have ended. Counters are remembered here from
//! sign-in to sign-in; the database has those of registration.

use super::{
    keys::{Purpose, WebKeys},
    webauthn::{self, ALGORITHMS, Credential, Demand, Made, Party, Proof, Refusal},
};
use crate::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Mutex, time::Duration};
use store::Passkey;
use trust::{UnixMs, decode_base64url, encode_base64url, sha256};
use wire::{OrganizationId, UserId};

/// How long a ceremony may take: people look for their key (section 15.1 of Web Authentication recommends it).
pub(super) const CEREMONY: Duration = Duration::from_secs(300);
/// Passkeys of one account.
pub(super) const MOST: usize = 16;
/// Finished ceremonies, and counters, that are remembered.
const MAX_REMEMBERED: usize = 16 * 1024;

/// Why a ceremony did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PasskeyError {
    /// Begun too long ago, finished already, or by another browser.
    #[error("it took longer than five minutes, or was finished already; try again")]
    Over,
    /// Nobody here has that passkey.
    #[error("nobody here has this passkey; it may have been removed")]
    Unknown,
    /// The check failed.
    #[error("it was not accepted: {0}")]
    Refused(#[from] Refusal),
    /// Browsers have passkeys for names alone.
    #[error("passkeys need a host name; this console is reached by an address")]
    NoName,
}

/// Whose passkey it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) organization: OrganizationId,
    pub(super) user: UserId,
}

/// What is sealed between the two steps.
#[derive(Serialize, Deserialize)]
struct Ceremony {
    challenge: String,
    /// Whose passkey is made.
    user: Option<UserId>,
}

/// The ceremonies of one console.
#[derive(Debug)]
pub(super) struct Passkeys {
    party: Option<Party>,
    finished: Mutex<BTreeMap<[u8; 32], UnixMs>>,
    counters: Mutex<BTreeMap<String, u32>>,
}

/// The relying party of an address; none when its host is no name.
fn party(url: &str) -> Option<Party> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?;
    let is_name = host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[');
    // An origin has no port where it is the scheme's own (RFC 6454 section 6.1).
    let port = uri.port_u16().filter(|port| *port != 443).map(|port| format!(":{port}")).unwrap_or_default();
    is_name.then(|| Party {
        id: host.to_ascii_lowercase(),
        origin: format!("https://{}{port}", host.to_ascii_lowercase()),
    })
}

impl Passkeys {
    pub(super) fn of(url: &str) -> Self {
        Self { party: party(url), finished: Mutex::default(), counters: Mutex::default() }
    }

    pub(super) const fn is_available(&self) -> bool {
        self.party.is_some()
    }

    fn party(&self) -> Result<&Party, PasskeyError> {
        self.party.as_ref().ok_or(PasskeyError::NoName)
    }

    fn counters(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        self.counters.lock().expect("nothing panics while it holds the counters")
    }

    /// A ceremony is finished once. Only what was proven is remembered: strangers do not fill this.
    fn once(&self, sealed: &str, now: UnixMs) -> Result<(), PasskeyError> {
        let mut finished = self.finished.lock().expect("nothing panics while it holds them");
        finished.retain(|_, until| *until > now);
        let full = finished.len() >= MAX_REMEMBERED;
        let new = finished.insert(sha256(&[sealed.as_bytes()]), now.plus(CEREMONY)).is_none();
        if new && !full { Ok(()) } else { Err(PasskeyError::Over) }
    }

    /// What the browser is asked to make (section 5.4), and the sealed ceremony.
    pub(super) fn begin_registration(
        &self,
        keys: &WebKeys,
        user: UserId,
        sign_in_name: &str,
        name: &str,
        held: &[&Passkey],
        now: UnixMs,
    ) -> Result<(Value, String), PasskeyError> {
        let party = self.party()?;
        let challenge = encode_base64url(&clock::random::<32>());
        let algorithms = ALGORITHMS.map(|alg| json!({"type": "public-key", "alg": alg}));
        let held: Vec<Value> =
            held.iter().map(|passkey| json!({"type": "public-key", "id": passkey.credential})).collect();
        let options = json!({
            "rp": {"id": party.id, "name": "Tidegate"},
            "user": {"id": encode_base64url(user.as_bytes()), "name": sign_in_name, "displayName": name},
            "challenge": challenge,
            "pubKeyCredParams": algorithms,
            "timeout": u64::try_from(CEREMONY.as_millis()).unwrap_or(u64::MAX),
            "excludeCredentials": held,
            "authenticatorSelection": {
                "residentKey": "required", "requireResidentKey": true, "userVerification": "required",
            },
            "attestation": "none",
        });
        let ceremony = Ceremony { challenge, user: Some(user) };
        let sealed = keys.seal_until(Purpose::PasskeyRegistration, now.plus(CEREMONY), &ceremony);
        Ok((options, sealed))
    }

    /// The new passkey: its credential's id and what is kept of it.
    pub(super) fn finish_registration(
        &self,
        keys: &WebKeys,
        user: UserId,
        sealed: &str,
        made: &Made,
        now: UnixMs,
    ) -> Result<(String, String), PasskeyError> {
        let ceremony = keys.open_until::<Ceremony>(Purpose::PasskeyRegistration, sealed, now);
        let ceremony = ceremony.filter(|ceremony| ceremony.user == Some(user)).ok_or(PasskeyError::Over)?;
        let challenge = decode_base64url(&ceremony.challenge).map_err(|_| PasskeyError::Over)?;
        let credential = webauthn::register(self.party()?, &challenge, made, Demand::Verification)?;
        self.once(sealed, now)?;
        let document = serde_json::to_string(&credential).map_err(|_| PasskeyError::Over)?;
        Ok((credential.id, document))
    }

    /// What the browser is asked to prove (section 5.5), whoever it is, and the sealed ceremony.
    pub(super) fn begin_sign_in(&self, keys: &WebKeys, now: UnixMs) -> Result<(Value, String), PasskeyError> {
        let party = self.party()?;
        let challenge = encode_base64url(&clock::random::<32>());
        let options = json!({
            "rpId": party.id,
            "challenge": challenge,
            "timeout": u64::try_from(CEREMONY.as_millis()).unwrap_or(u64::MAX),
            "userVerification": "required",
        });
        let ceremony = Ceremony { challenge, user: None };
        Ok((options, keys.seal_until(Purpose::PasskeySignIn, now.plus(CEREMONY), &ceremony)))
    }

    /// Whose passkey proved itself. `find` looks a credential's id up in memory.
    pub(super) fn finish_sign_in(
        &self,
        keys: &WebKeys,
        sealed: &str,
        proof: &Proof,
        find: impl FnOnce(&str) -> Option<(OrganizationId, Passkey)>,
        now: UnixMs,
    ) -> Result<Owner, PasskeyError> {
        let ceremony = keys.open_until::<Ceremony>(Purpose::PasskeySignIn, sealed, now);
        let ceremony = ceremony.filter(|ceremony| ceremony.user.is_none()).ok_or(PasskeyError::Over)?;
        let challenge = decode_base64url(&ceremony.challenge).map_err(|_| PasskeyError::Over)?;
        let (organization, passkey) = find(&proof.id).ok_or(PasskeyError::Unknown)?;
        // Section 7.2 step 6: the user handle is the account's.
        if proof.user_handle().as_deref() != Some(&passkey.account.as_bytes()[..]) {
            return Err(PasskeyError::Unknown);
        }
        let mut credential: Credential =
            serde_json::from_str(&passkey.document).map_err(|_| PasskeyError::Unknown)?;
        if let Some(counter) = self.counters().get(&credential.id) {
            credential.counter = *counter;
        }
        let counter = webauthn::prove(self.party()?, &challenge, &credential, proof, Demand::Verification)?;
        self.once(sealed, now)?;
        let mut counters = self.counters();
        if counter != 0 && (counters.len() < MAX_REMEMBERED || counters.contains_key(&credential.id)) {
            counters.insert(credential.id, counter);
        }
        Ok(Owner { organization, user: passkey.account })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relying_party_is_the_console_s_name_and_its_origin_as_browsers_write_it() {
        let of = |url: &str| party(url).map(|party| (party.id, party.origin));
        let both = |id: &str, origin: &str| Some((id.to_owned(), origin.to_owned()));
        assert_eq!(of("https://Tide.example.com"), both("tide.example.com", "https://tide.example.com"));
        assert_eq!(of("https://localhost:8443"), both("localhost", "https://localhost:8443"));
        assert_eq!(of("https://tide.example.com:443/"), both("tide.example.com", "https://tide.example.com"));
        assert_eq!((of("https://192.0.2.1"), of("https://[2001:db8::1]:8443")), (None, None));
    }
}
