//! OpenID Connect's code flow with PKCE as values: what is sent, and what is believed of what comes back.

use super::{
    address::{HttpsUrl, Sent},
    jws,
};
use crate::{clock, signin::percent::percent};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};
use trust::{UnixMs, encode_base64url, sha256};

/// Clocks of providers differ by so much (OpenID Connect Core section 3.1.3.7: "a small leeway").
const LEEWAY: Duration = Duration::from_secs(60);
/// 30 days: however long ago somebody proved who they are.
const ANY_AGE_S: &str = "2592000";
/// An id_token that was issued longer ago was not made for this sign-in.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Groups of one person that are looked at.
const MAX_GROUPS: usize = 1024;

/// What a provider said is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// Its discovery document.
    #[error("the provider's discovery document: {0}")]
    Discovery(String),
    /// What the browser brought back.
    #[error("the provider's answer: {0}")]
    Answer(String),
    /// Its answer at the token endpoint.
    #[error("the provider's token answer: {0}")]
    Token(String),
    /// The token's signature.
    #[error(transparent)]
    Signature(#[from] jws::JwsError),
    /// A claim.
    #[error("the id_token's {claim}: {problem}")]
    Claim {
        /// Which.
        claim: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a provider's discovery document says (OpenID Connect Discovery section 3), as far as it is used.
#[derive(Debug, Clone)]
pub(crate) struct Discovery {
    pub(crate) authorization: HttpsUrl,
    pub(crate) token: HttpsUrl,
    pub(crate) keys: HttpsUrl,
    /// `client_secret_post` alone: the secret goes into the body.
    pub(crate) secret_in_body: bool,
    /// It can be asked for claims by name (Core section 5.5).
    pub(crate) takes_claims: bool,
    /// Its answers name it (RFC 9207 section 3).
    pub(crate) names_itself: bool,
}

/// Where the document is (section 4).
pub(crate) fn discovery_address(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

impl Discovery {
    /// # Errors
    /// It is for another issuer, or an address in it is not https.
    pub(crate) fn parse(bytes: &[u8], issuer: &str) -> Result<Self, ProtocolError> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            authorization_endpoint: String,
            token_endpoint: String,
            jwks_uri: String,
            #[serde(default)]
            token_endpoint_auth_methods_supported: Vec<String>,
            #[serde(default)]
            claims_parameter_supported: bool,
            #[serde(default)]
            authorization_response_iss_parameter_supported: bool,
        }
        let wrong = |problem: String| ProtocolError::Discovery(problem);
        let document: Document = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        // Section 4.3: identical, or another party answers for this issuer.
        if document.issuer != issuer {
            let got: String = document.issuer.chars().take(200).collect();
            return Err(wrong(format!("expected the issuer {issuer:?}, got {got:?}")));
        }
        let address = |text: &str| HttpsUrl::parse(text).map_err(|error| wrong(error.to_string()));
        let methods = &document.token_endpoint_auth_methods_supported;
        let has = |name: &str| methods.iter().any(|method| method == name);
        Ok(Self {
            authorization: address(&document.authorization_endpoint)?,
            token: address(&document.token_endpoint)?,
            keys: address(&document.jwks_uri)?,
            secret_in_body: has("client_secret_post") && !has("client_secret_basic"),
            takes_claims: document.claims_parameter_supported,
            names_itself: document.authorization_response_iss_parameter_supported,
        })
    }

    /// Whether the browser came back from this provider (RFC 9207 section 2.4): one that names itself in its answers does so
    /// in each, or another one gave the code.
    ///
    /// # Errors
    /// It was another one, or one that does not say who it is.
    pub(crate) fn answered(&self, named: Option<&str>, issuer: &str) -> Result<(), ProtocolError> {
        match named {
            Some(named) if named != issuer => {
                let got: String = named.chars().take(200).collect();
                Err(ProtocolError::Answer(format!("expected iss to be {issuer:?}, got {got:?}")))
            }
            None if self.names_itself => Err(ProtocolError::Answer(format!(
                "expected iss to be {issuer:?}, as its discovery document promises, got none"
            ))),
            _ => Ok(()),
        }
    }
}

/// What this side remembers while somebody is at the provider; the browser keeps it, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// Which provider, by id.
    pub(crate) provider: String,
    pub(crate) state: String,
    pub(crate) nonce: String,
    /// PKCE's secret (RFC 7636).
    pub(crate) verifier: String,
    /// Where to go afterwards: a path of this host.
    pub(crate) next: String,
    /// Proving again, as this user.
    pub(crate) again_as: Option<wire::UserId>,
}

impl Pending {
    pub(crate) fn new(provider: String, next: String, again_as: Option<wire::UserId>) -> Self {
        let fresh = || encode_base64url(&clock::random::<32>());
        Self { provider, state: fresh(), nonce: fresh(), verifier: fresh(), next, again_as }
    }

    /// RFC 7636 section 4.2, S256.
    fn challenge(&self) -> String {
        encode_base64url(&sha256(&[self.verifier.as_bytes()]))
    }

    /// Where the browser is sent (OpenID Connect Core section 3.1.2.1).
    pub(crate) fn authorization(
        &self,
        discovery: &Discovery,
        client: &str,
        scopes: &str,
        redirect: &str,
    ) -> String {
        let base = discovery.authorization.as_str();
        let challenge = self.challenge();
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", client),
            ("redirect_uri", redirect),
            ("scope", scopes),
            ("state", &self.state),
            ("nonce", &self.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        if self.again_as.is_some() {
            // Section 3.1.2.1: proven now, not remembered.
            parameters.push(("max_age", "0"));
        } else {
            // With any `max_age` a provider has to say when somebody proved who they are (section 2, `auth_time`).
            parameters.push(("max_age", ANY_AGE_S));
        }
        if discovery.takes_claims {
            // Section 5.5.1: some say it only when they are asked for it by name.
            parameters.push(("claims", r#"{"id_token":{"auth_time":{"essential":true}}}"#));
        }
        let joined = if base.contains('?') { '&' } else { '?' };
        format!("{base}{joined}{}", form(&parameters))
    }

    /// What the token endpoint is asked (section 3.1.3.1; RFC 7636 section 4.5).
    pub(crate) fn token_request(
        &self,
        discovery: &Discovery,
        client: &str,
        secret: &str,
        redirect: &str,
        code: &str,
    ) -> Sent {
        let mut parameters = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", &self.verifier),
        ];
        let mut authorization = None;
        if secret.is_empty() || discovery.secret_in_body {
            parameters.push(("client_id", client));
        }
        if !secret.is_empty() {
            if discovery.secret_in_body {
                parameters.push(("client_secret", secret));
            } else {
                // RFC 6749 section 2.3.1: both encoded as in a form before they are joined.
                let pair = format!("{}:{}", percent(client), percent(secret));
                authorization = Some(format!("Basic {}", base64(pair.as_bytes())));
            }
        }
        Sent::Form { body: form(&parameters), authorization }
    }
}

fn form(parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{}={}", percent(name), percent(value))).collect();
    pairs.join("&")
}

/// Base 64 with padding (RFC 4648 section 4), which HTTP's basic scheme wants.
fn base64(bytes: &[u8]) -> String {
    let url = encode_base64url(bytes).replace('-', "+").replace('_', "/");
    let padding = (4 - url.len() % 4) % 4;
    url + &"="[..1].repeat(padding)
}

/// The id_token of a token answer.
///
/// # Errors
/// [`ProtocolError::Token`].
pub(crate) fn id_token(bytes: &[u8]) -> Result<String, ProtocolError> {
    #[derive(Deserialize)]
    struct Answer {
        id_token: String,
    }
    let answer: Answer =
        serde_json::from_slice(bytes).map_err(|error| ProtocolError::Token(error.to_string()))?;
    Ok(answer.id_token)
}

/// What a provider says about somebody who just signed in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) subject: String,
    pub(crate) email: Option<String>,
    pub(crate) email_verified: bool,
    pub(crate) name: Option<String>,
    /// None when the claim is there and no list of texts, or stands elsewhere: then nobody knows.
    pub(crate) groups: Option<BTreeSet<String>>,
    /// The person proved just now who they are there, and was not remembered.
    pub(crate) is_proven: bool,
}

/// What the claims must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) groups_claim: &'a str,
    /// Proven now: `auth_time` must say so.
    pub(crate) fresh: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
struct RawClaims {
    iss: String,
    sub: String,
    aud: OneOrMany,
    exp: u64,
    iat: u64,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    auth_time: Option<u64>,
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    email_verified: Option<serde_json::Value>,
    #[serde(default)]
    name: Option<String>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

/// Checks a payload whose signature was verified, by OpenID Connect Core section 3.1.3.7.
///
/// # Errors
/// [`ProtocolError::Claim`].
pub(crate) fn check(payload: &[u8], expected: Expected<'_>, now: UnixMs) -> Result<Claims, ProtocolError> {
    let claim = |claim, problem: String| ProtocolError::Claim { claim, problem };
    let shorten = |text: &str| text.chars().take(200).collect::<String>();
    let raw: RawClaims =
        serde_json::from_slice(payload).map_err(|error| claim("claims", error.to_string()))?;
    // 2. The issuer, exactly.
    if raw.iss != expected.issuer {
        return Err(claim("iss", format!("expected {:?}, got {:?}", expected.issuer, shorten(&raw.iss))));
    }
    // 3. to 5. For us; and when for others too, then asked for by us.
    let audience = raw.aud.into_vec();
    if !audience.iter().any(|who| who == expected.client) {
        return Err(claim("aud", format!("it is not for the client {:?}", expected.client)));
    }
    let asked_by_us = raw.azp.as_deref().map_or(audience.len() == 1, |azp| azp == expected.client);
    if !asked_by_us {
        return Err(claim("azp", "it was made for another client".into()));
    }
    // 9. and 10. In time.
    let seconds = |seconds: u64| UnixMs::from_millis(seconds.saturating_mul(1000));
    if now >= seconds(raw.exp).plus(LEEWAY) {
        return Err(claim("exp", "it has expired; is this controller's clock right?".into()));
    }
    let issued = seconds(raw.iat);
    if issued > now.plus(LEEWAY) || issued.plus(MAX_AGE + LEEWAY) < now {
        return Err(claim("iat", "it was not issued just now; is this controller's clock right?".into()));
    }
    // 11. The answer to this very question.
    if raw.nonce.as_deref() != Some(expected.nonce) {
        return Err(claim("nonce", "it answers another sign-in".into()));
    }
    // 13. When `max_age` was asked for.
    let authenticated = raw.auth_time.map(seconds);
    let is_proven = authenticated.is_some_and(|at| at.plus(MAX_AGE) >= now && at <= now.plus(LEEWAY));
    if expected.fresh && !is_proven {
        return Err(claim("auth_time", "the provider does not say that it asked the person again; an invitation from an administrator gives another way to \
             sign in"
                .into()));
    }
    if raw.sub.is_empty() || raw.sub.len() > 255 {
        return Err(claim("sub", "it has 1 to 255 characters (section 2)".into()));
    }
    // Section 5.6.2: a claim that stands elsewhere, as providers do where there are too many groups for a token.
    let is_elsewhere =
        raw.others.get("_claim_names").is_some_and(|names| names.get(expected.groups_claim).is_some());
    let groups = match raw.others.get(expected.groups_claim) {
        None if is_elsewhere => None,
        None | Some(serde_json::Value::Null) => Some(Vec::new()),
        Some(value) => serde_json::from_value::<OneOrMany>(value.clone()).ok().map(OneOrMany::into_vec),
    };
    // Some providers write booleans as text.
    let email_verified = raw.email_verified.is_some_and(|value| value == true || value == "true");
    Ok(Claims {
        subject: raw.sub,
        email: raw.email.filter(|email| !email.is_empty() && email.len() <= 254),
        email_verified,
        name: raw
            .name
            .map(|name| name.trim().chars().take(64).collect())
            .filter(|name: &String| !name.is_empty()),
        groups: groups.map(|groups| groups.into_iter().take(MAX_GROUPS).collect()),
        is_proven,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ISSUER: &str = "https://id.example.com";

    fn discovery() -> Discovery {
        let document = json!({
            "issuer": ISSUER, "authorization_endpoint": "https://id.example.com/auth?tenant=1",
            "token_endpoint": "https://id.example.com/token", "jwks_uri": "https://id.example.com/jwks",
        });
        Discovery::parse(document.to_string().as_bytes(), ISSUER).unwrap()
    }

    #[test]
    fn a_discovery_document_is_the_issuer_s_own_and_its_addresses_are_https() {
        assert_eq!(discovery_address(ISSUER), "https://id.example.com/.well-known/openid-configuration");
        let document = |issuer: &str, token: &str| {
            let text = json!({
                "issuer": issuer, "authorization_endpoint": "https://a/", "token_endpoint": token, "jwks_uri": "https://a/",
            });
            Discovery::parse(text.to_string().as_bytes(), ISSUER)
        };
        assert!(document(ISSUER, "https://a/t").is_ok());
        for (issuer, token) in [
            ("https://evil.example", "https://a/t"),
            ("https://id.example.com/", "https://a/t"),
            (ISSUER, "http://a/t"),
        ] {
            assert!(matches!(document(issuer, token), Err(ProtocolError::Discovery(_))), "{issuer} {token}");
        }
        assert!(Discovery::parse(b"[]", ISSUER).is_err());
    }

    #[test]
    fn an_answer_is_of_the_provider_that_was_asked_and_names_it_where_that_is_promised() {
        let evil = "https://evil.example";
        for (promised, named, fits) in [
            (true, Some(ISSUER), true),
            (true, None, false),
            (true, Some(evil), false),
            (false, Some(ISSUER), true),
            (false, None, true),
            (false, Some(evil), false),
        ] {
            let document = json!({
                "issuer": ISSUER, "authorization_endpoint": "https://a/", "token_endpoint": "https://a/",
                "jwks_uri": "https://a/", "authorization_response_iss_parameter_supported": promised,
            });
            let discovery = Discovery::parse(document.to_string().as_bytes(), ISSUER).unwrap();
            assert_eq!(discovery.answered(named, ISSUER).is_ok(), fits, "{promised} {named:?}");
        }
        assert!(discovery().answered(None, ISSUER).is_ok());
    }

    #[test]
    fn the_browser_is_sent_with_state_nonce_and_the_challenge_of_a_secret_that_stays_here() {
        // RFC 7636 appendix B.
        let mut pending = Pending::new("idp-1".into(), "/".into(), None);
        pending.verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".into();
        assert_eq!(pending.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        let address = pending.authorization(
            &discovery(),
            "tide gate",
            "openid email",
            "https://localhost:8443/signin/oidc",
        );
        assert!(
            address.starts_with(
                "https://id.example.com/auth?tenant=1&response_type=code&client_id=tide%20gate&"
            )
        );
        assert!(address.contains(&format!("&state={}&nonce={}", pending.state, pending.nonce)));
        assert!(address.contains(
            "&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
        ));
        assert!(!address.contains(&pending.verifier) && address.ends_with("&max_age=2592000"));
        let again = Pending { again_as: Some(wire::UserId::from_bytes([1; 16])), ..pending };
        assert!(again.authorization(&discovery(), "c", "openid", "https://l/").ends_with("&max_age=0"));
    }

    #[test]
    fn the_client_secret_travels_as_the_provider_takes_it_and_never_in_an_address() {
        let pending = Pending::new("p".into(), "/".into(), None);
        let request = |discovery: &Discovery, secret: &str| match pending.token_request(
            discovery,
            "Aladdin",
            secret,
            "https://r",
            "c/1",
        ) {
            Sent::Form { body, authorization } => (body, authorization),
            other => panic!("{other:?}"),
        };
        let basic = discovery();
        let (body, authorization) = request(&basic, "open sesame");
        // The example of RFC 7617 with the space encoded.
        assert_eq!(authorization.as_deref(), Some("Basic QWxhZGRpbjpvcGVuJTIwc2VzYW1l"));
        assert!(body.contains("code=c%2F1") && body.contains(&pending.verifier) && !body.contains("client_"));
        let post = Discovery { secret_in_body: true, ..discovery() };
        let (body, authorization) = request(&post, "open sesame");
        assert!(authorization.is_none() && body.ends_with("&client_id=Aladdin&client_secret=open%20sesame"));
        let (body, authorization) = request(&basic, "");
        assert!(authorization.is_none() && body.ends_with("&client_id=Aladdin"), "a public client");
    }

    const NOW: u64 = 1_700_000_000;

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "sub": "248289761001", "aud": "tidegate", "exp": NOW + 300, "iat": NOW, "nonce": "n",
            "email": "ada@example.com", "email_verified": true, "name": " Ada ", "groups": ["eng", "ops"],
        })
    }

    fn checked(claims: &Value, fresh: bool) -> Result<Claims, ProtocolError> {
        let expected =
            Expected { issuer: ISSUER, client: "tidegate", nonce: "n", groups_claim: "groups", fresh };
        check(claims.to_string().as_bytes(), expected, UnixMs::from_millis(NOW * 1000))
    }

    #[test]
    fn claims_for_us_are_taken_as_they_are() {
        let ada = checked(&claims(), false).unwrap();
        assert_eq!(
            (ada.subject.as_str(), ada.email.as_deref(), ada.name.as_deref()),
            ("248289761001", Some("ada@example.com"), Some("Ada"))
        );
        assert!(ada.email_verified && ada.groups.unwrap().iter().eq(["eng", "ops"]));
        let mut one = claims();
        one["groups"] = json!("eng");
        one["email_verified"] = json!("false");
        let one = checked(&one, false).unwrap();
        assert!(one.groups.unwrap().iter().eq(["eng"]) && !one.email_verified);
    }

    #[test]
    fn each_wrong_claim_is_refused_by_its_name() {
        for (claim, value) in [
            ("iss", json!("https://evil.example")),
            ("aud", json!("another")),
            ("aud", json!([])),
            ("exp", json!(NOW - 60)),
            ("iat", json!(NOW + 61)),
            ("iat", json!(NOW - 661)),
            ("nonce", json!("other")),
            ("nonce", Value::Null),
            ("azp", json!("another")),
            ("sub", json!("")),
            ("sub", json!("x".repeat(256))),
        ] {
            let mut wrong = claims();
            wrong[claim] = value.clone();
            match checked(&wrong, false) {
                Err(ProtocolError::Claim { claim: named, .. }) => assert_eq!(named, claim, "{value}"),
                other => panic!("{claim} {value}: {other:?}"),
            }
        }
        let mut several = claims();
        several["aud"] = json!(["tidegate", "another"]);
        assert!(checked(&several, false).is_err(), "for several, and nobody says who asked");
        several["azp"] = json!("tidegate");
        assert!(checked(&several, false).is_ok());
    }

    #[test]
    fn proving_again_needs_a_recent_auth_time() {
        let mut again = claims();
        assert!(checked(&again, true).is_err());
        again["auth_time"] = json!(NOW - 5);
        assert!(checked(&again, true).unwrap().is_proven && checked(&again, false).unwrap().is_proven);
        assert!(!checked(&claims(), false).unwrap().is_proven, "who says no time was remembered");
        again["auth_time"] = json!(NOW - 3600);
        assert!(checked(&again, true).is_err());
        assert!(!checked(&again, false).unwrap().is_proven, "who proved it an hour ago was remembered");
    }
}
