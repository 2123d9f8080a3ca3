//! What strangers and callers post: enrolment before anybody is known, and the bodies of the API.

use controller::api::{read_body, types};
use policy::enrolment::{ConnectorEnrolment, DeviceEnrolment, PopEnrolment};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use trust::{JoinSecret, Role, SealKey};

/// A body is taken, or refused with words for field, rule and value.
pub(crate) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match read_body::<T>(bytes) {
        Ok(body) => Some(body),
        Err(problem) => {
            assert!(matches!(problem.status, 400 | 422), "{problem:?}");
            assert!(
                problem.field.is_some() && problem.rule.is_some() && problem.value.is_some(),
                "{problem:?}"
            );
            is_said_plainly(problem.rule.as_deref().unwrap_or_default());
            None
        }
    }
}

/// A rule is in words of the API, and not in those of a decoder.
pub(crate) fn is_said_plainly(rule: &str) {
    let raw = ["struct ", "u64", "invalid type", "unknown field", "unknown variant", "missing field"];
    assert!(!raw.iter().any(|word| rule.starts_with(word)), "a decoder's own words: {rule}");
}

pub(crate) fn enrolment(bytes: &[u8]) {
    let own = crate::HOME.device_key().verifying_key();
    if let Some(request) = body::<DeviceEnrolment>(bytes) {
        assert!(request.check_proof().is_err() || request.identity_key == own, "proven by nobody");
    }
    if let Some(request) = body::<ConnectorEnrolment>(bytes) {
        assert!(request.check_proof().is_err() || request.identity_key == own, "proven by nobody");
    }
    if let Some(request) = body::<PopEnrolment>(bytes) {
        assert!(request.check_proof().is_err() || request.identity_key == own, "proven by nobody");
    }
}

pub(crate) fn api_body(bytes: &[u8]) {
    macro_rules! each {
        ($check:ident: $($input:ident),*) => {$($check::<types::$input>(bytes);)*};
    }
    each!(
        strict: EnrolmentKeyInput,
        TokenInput,
        OrganizationInput,
        OrganizationPatch,
        SettingsPatch,
        StrikeInput,
        KeyRotationInput,
        RotationKeyInput,
        PolicyPreviewInput,
        RoleInput,
        ServiceAccountKeyInput,
        OidcProviderInput,
        InvitationInput,
        EndWebSessionsInput,
        BulkInput
    );
    each!(kept: SiteInput, PopInput, ResourceInput, NameInput, UserInput, PolicyInput);
    // The values of a PATCH: whatever has each member once, as any reader of JSON reads it.
    if let Some(members) = body::<Map<String, Value>>(bytes) {
        assert_eq!(
            serde_json::from_slice::<Map<String, Value>>(bytes).expect("it was taken as JSON"),
            members
        );
    }
}

/// What takes a body refuses the same body with a member that nobody knows, and names it.
fn strict<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let taken = body::<T>(bytes)?;
    let mut more: Map<String, Value> = serde_json::from_slice(bytes).expect("it was taken as JSON");
    more.insert(NOBODYS.to_owned(), Value::Null);
    let more = serde_json::to_vec(&more).expect("JSON");
    let refused = read_body::<T>(&more).err().expect("a member that nobody knows was taken");
    assert_eq!(refused.field.as_deref(), Some(NOBODYS));
    Some(taken)
}

const NOBODYS: &str = "a-member-that-nobody-knows";

/// And what was taken is written again as a body that says the same.
fn kept<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    let Some(taken) = strict::<T>(bytes) else { return };
    let said = serde_json::to_value(&taken).expect("a body has a JSON form");
    let again = body::<T>(said.to_string().as_bytes()).expect("its own form");
    assert_eq!(serde_json::to_value(&again).expect("a body has a JSON form"), said);
}

/// Genuine bodies.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let key = crate::HOME.device_key();
    let secret = || JoinSecret::from_random([5; 32]);
    let point = SealKey::from_bytes([9; 32]);
    let json = |value: Result<Vec<u8>, serde_json::Error>| value.expect("a request serializes");
    let device = json(serde_json::to_vec(&DeviceEnrolment::new(secret(), &key, "laptop")));
    let connector = json(serde_json::to_vec(&ConnectorEnrolment::new(secret(), &key, point, point, "hh-1")));
    let pop = json(serde_json::to_vec(&PopEnrolment::new(secret(), &key, "pop.example:443", "pop-1")));
    let site = crate::HOME.identity(Role::Connector).to_string();
    let bodies = [
        ("site", r#"{"name":"a","prefixes":["10.0.0.0/8"],"regions":["eu"]}"#.to_owned()),
        ("array", r#"["arr",["10.0.0.0/8"],[]]"#.to_owned()),
        ("twice", r#"{"name":"a","name":"b"}"#.to_owned()),
        ("unknown", format!(r#"{{"name":"a","colour":"{site}"}}"#)),
        ("resource", r#"{"site":"site-00000000000000000000000000","name":"r","address":"10.0.0.1","ports":["443"],"mode":"strict"}"#.to_owned()),
        ("key", r#"{"kind":"device","owner":"usr-00000000000000000000000000","cap":3,"lifetime_seconds":60}"#.to_owned()),
        ("token", r#"{"name":"t","scopes":["read","write"],"lifetime_seconds":60}"#.to_owned()),
        ("policy", r#"{"name":"p","groups":["grp-00000000000000000000000000"],"resources":[]}"#.to_owned()),
        ("nested", "[".repeat(100) + &"]".repeat(100)),
        ("settings", r#"{"name":"Harbour","grant_life_seconds":86400,"approve_devices":true,"flow_retention_days":7}"#.to_owned()),
        ("role", r#"{"role":"network_admin"}"#.to_owned()),
        ("account-key", r#"{"name":"ci","approval":false,"cap":3,"lifetime_seconds":60}"#.to_owned()),
        ("provider", r#"{"title":"Example","issuer":"https://id.example.com","client_id":"tidegate","client_secret":"s","scopes":["email"],"groups_claim":"groups","group_map":{"eng":"grp-00000000000000000000000000"},"domains":["example.com"],"new_users":"make"}"#.to_owned()),
        ("invitation", r#"{"user":"usr-00000000000000000000000000"}"#.to_owned()),
        ("bulk", r#"{"operations":[{"method":"POST","path":"/sites","body":{"name":"a","prefixes":[]},"as":"a"},{"method":"DELETE","path":"/sites/@a","if_match":"\"x\""}],"dry_run":true}"#.to_owned()),
        ("strike", r#"{"subject":"usr-00000000000000000000000000/grp-00000000000000000000000000"}"#.to_owned()),
        ("key-rotation", r#"{"use_after_seconds":60}"#.to_owned()),
        ("numbers", r#"{"a":-1,"b":18446744073709551616,"c":1.5e3,"d":[true,null]}"#.to_owned()),
    ];
    let mut list = vec![
        ("enrolment", "device", device),
        ("enrolment", "connector", connector),
        ("enrolment", "pop", pop),
    ];
    list.extend(bodies.into_iter().map(|(name, text)| ("api_body", name, text.into_bytes())));
    list
}
