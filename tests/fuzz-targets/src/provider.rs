//! What OpenID providers say, or whoever stands in for one: where they are, tokens, keys, and what tokens claim.

use serde_json::{Value, json};
use trust::UnixMs;

/// Their own sources, which no crate exports.
#[path = "../../../crates/controller/src/signin/oidc/address.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod address;
#[path = "../../../crates/controller/src/signin/oidc/jws.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod jws;
#[path = "../../../crates/controller/src/signin/oidc/protocol.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
pub(crate) mod protocol;

use address::{HttpsUrl, Sent};
use protocol::{Discovery, Expected, Pending};

/// RFC 8037, appendix A.4, with a kind of key before it that nobody takes.
const KEYS: &str = r#"{"keys":[{"kty":"oct","k":"AA"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const KEY: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
const PAYLOAD: &[u8] = b"Example of Ed25519 signing";

const ISSUER: &str = "https://id.example.com";
const CLIENT: &str = "tidegate";
const NONCE: &str = "a nonce of this sign-in";
/// In seconds.
const NOW: u64 = 1_700_000_000;

/// What was said, for comparing. None: a member that nobody reads holds half of a surrogate pair, which no text of ours can.
fn as_json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

/// A token of a provider: what is taken is what the provider signed.
pub(crate) fn id_token(bytes: &[u8]) {
    let keys = jws::KeySet::parse(KEYS.as_bytes()).expect("a key set");
    if let Ok(payload) = jws::verify(&String::from_utf8_lossy(bytes), &keys) {
        assert_eq!(payload, PAYLOAD, "signed by nobody");
    }
}

/// A provider's key set: keys that nobody knows are skipped, and no set without the token's own key takes it.
pub(crate) fn key_set(bytes: &[u8]) {
    let Ok(keys) = jws::KeySet::parse(bytes) else { return };
    if let (Ok(_), Some(set)) = (jws::verify(TOKEN, &keys), as_json(bytes)) {
        let has_it = set["keys"].as_array().is_some_and(|keys| keys.iter().any(|key| key["x"] == KEY));
        assert!(has_it, "the token was taken by a key that has not signed it");
    }
}

/// What somebody who is at the provider brings back.
fn pending() -> Pending {
    Pending {
        provider: "example".into(),
        state: "a state of this sign-in".into(),
        nonce: NONCE.into(),
        verifier: "a verifier that stays here".into(),
        next: "/".into(),
        again_as: None,
    }
}

/// An address is asked at the host and port that stand in it, whoever reads it.
fn is_where_it_says(url: &HttpsUrl) {
    let (scheme, rest) = url.as_str().split_at(8);
    assert!(scheme.eq_ignore_ascii_case("https://"), "{scheme}");
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (written, behind) = rest.split_at(end);
    assert!(!written.contains('@') && !behind.contains('#'), "{url:?}");
    let host = if url.host().contains(':') { format!("[{}]", url.host()) } else { url.host().to_owned() };
    let port = written.strip_prefix(&host).expect("its host");
    let digits = port.strip_prefix(':').unwrap_or("443");
    assert!(digits.bytes().all(|byte| byte.is_ascii_digit()) && !url.host().is_empty(), "{url:?}");
    assert_eq!(digits.parse(), Ok(url.port()), "{url:?}");
    assert!(url.authority() == host || url.authority() == format!("{host}:{}", url.port()));
    assert!(
        url.path().starts_with('/') && url.path().trim_start_matches('/').len() <= behind.len(),
        "{url:?}"
    );
}

/// A discovery document: of this issuer, over HTTPS, and nothing secret in the address that a browser is sent to.
pub(crate) fn discovery(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(url) = HttpsUrl::parse(text)
    {
        is_where_it_says(&url);
    }
    let Ok(found) = Discovery::parse(bytes, ISSUER) else { return };
    let Some(said) = as_json(bytes) else { return };
    assert_eq!(said["issuer"], ISSUER, "another party answers for this issuer");
    let urls = [
        ("authorization_endpoint", &found.authorization),
        ("token_endpoint", &found.token),
        ("jwks_uri", &found.keys),
    ];
    for (name, url) in urls {
        assert_eq!(said[name], url.as_str());
        is_where_it_says(url);
    }
    let pending = pending();
    let redirect = "https://tidegate.example/signin/oidc";
    let there = pending.authorization(&found, CLIENT, "openid email", redirect);
    assert!(there.starts_with(found.authorization.as_str()) && !there.contains("verifier%20that"));
    let request = pending.token_request(&found, CLIENT, "a client secret", redirect, "a code");
    let Sent::Form { body, authorization } = request else { panic!("a code is sent as a form") };
    assert!(body.contains("verifier%20that"));
    assert_ne!(authorization.is_some(), body.contains("client_secret="), "the secret goes one way");
}

/// The answer of a token endpoint, and behind the signature of an id_token: what it claims of whom.
pub(crate) fn id_claims(bytes: &[u8]) {
    if let (Ok(token), Some(said)) = (protocol::id_token(bytes), as_json(bytes)) {
        assert_eq!(said["id_token"], token);
    }
    for fresh in [false, true] {
        let expected =
            Expected { issuer: ISSUER, client: CLIENT, nonce: NONCE, groups_claim: "groups", fresh };
        let now = UnixMs::from_millis(NOW * 1000);
        let (Ok(claims), Some(said)) = (protocol::check(bytes, expected, now), as_json(bytes)) else {
            continue;
        };
        assert_eq!((&said["iss"], &said["nonce"]), (&json!(ISSUER), &json!(NONCE)));
        let for_us = |who: &Value| who == CLIENT;
        assert!(for_us(&said["aud"]) || said["aud"].as_array().is_some_and(|all| all.iter().any(for_us)));
        assert!(said["azp"].is_null() || for_us(&said["azp"]), "made for another client");
        let seconds = |name: &str| said[name].as_u64().expect("a time");
        assert!(seconds("exp") + 60 > NOW && seconds("iat") <= NOW + 60 && seconds("iat") + 660 >= NOW);
        assert!(!fresh || said["auth_time"].as_u64().is_some_and(|at| at + 600 >= NOW), "not asked again");
        assert_eq!(said["sub"], claims.subject);
        assert!(
            (1..=255).contains(&claims.subject.len())
                && claims.groups.as_ref().is_none_or(|groups| groups.len() <= 1024)
        );
        assert!(!claims.email_verified || [json!(true), json!("true")].contains(&said["email_verified"]));
        assert!(claims.name.is_none_or(|name| (1..=64).contains(&name.chars().count())));
    }
}

/// Genuine inputs.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let document = |authorization: &str, methods: Value| {
        let document = json!({
            "issuer": ISSUER, "authorization_endpoint": authorization,
            "token_endpoint": "https://id.example.com:8443/token", "jwks_uri": "https://[2001:db8::1]/jwks",
            "token_endpoint_auth_methods_supported": methods, "scopes_supported": ["openid"],
        });
        document.to_string().into_bytes()
    };
    let claims = json!({
        "iss": ISSUER, "sub": "248289761001", "aud": CLIENT, "exp": NOW + 300, "iat": NOW, "nonce": NONCE,
        "email": "ada@example.com", "email_verified": true, "name": " Ada ", "groups": ["eng", "ops"],
    });
    let mut several = claims.clone();
    several["aud"] = json!(["another", CLIENT]);
    several["azp"] = json!(CLIENT);
    several["auth_time"] = json!(NOW - 5);
    several["groups"] = json!("eng");
    several["email_verified"] = json!("false");
    let answer = json!({"access_token": "x", "token_type": "Bearer", "expires_in": 300, "id_token": TOKEN});
    let text = |value: &Value| value.to_string().into_bytes();
    vec![
        ("id_token", "rfc8037", TOKEN.as_bytes().to_vec()),
        ("key_set", "rfc8037", KEYS.as_bytes().to_vec()),
        (
            "discovery",
            "basic",
            document("https://id.example.com/auth?tenant=1", json!(["client_secret_basic"])),
        ),
        ("discovery", "post", document("https://id.example.com?tenant=1", json!(["client_secret_post"]))),
        ("discovery", "address", b"https://id.example.com:8443/a?b=c".to_vec()),
        ("discovery", "address-v6", b"https://[2001:db8::1]:443/x".to_vec()),
        ("discovery", "address-query", b"https://id.example.com?tenant=1".to_vec()),
        ("discovery", "address-sign", b"https://id.example.com:+443/".to_vec()),
        ("discovery", "address-port", b"https://id.example.com:65536/".to_vec()),
        ("id_claims", "one", text(&claims)),
        ("id_claims", "several", text(&several)),
        ("id_claims", "answer", text(&answer)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_genuine_provider_says_is_taken() {
        let keys = jws::KeySet::parse(KEYS.as_bytes()).expect("a key set");
        assert_eq!(jws::verify(TOKEN, &keys).expect("the provider's"), PAYLOAD);
        let of = |target: &str, name: &str| {
            let found = genuine().into_iter().find(|(of, called, _)| (*of, *called) == (target, name));
            found.expect("a seed").2
        };
        for name in ["basic", "post"] {
            let found = Discovery::parse(&of("discovery", name), ISSUER).expect("a document");
            assert_eq!(found.secret_in_body, name == "post");
        }
        for (name, fresh) in [("one", false), ("several", false), ("several", true)] {
            let expected =
                Expected { issuer: ISSUER, client: CLIENT, nonce: NONCE, groups_claim: "groups", fresh };
            let now = UnixMs::from_millis(NOW * 1000);
            assert!(protocol::check(&of("id_claims", name), expected, now).is_ok(), "{name}");
        }
        assert_eq!(protocol::id_token(&of("id_claims", "answer")).expect("an answer"), TOKEN);
    }
}
