//! What comes back to who asked: a controller's answers to enrolment, its problems, and a running client's answers.

use policy::enrolment::{DeviceCodeAnswer, DeviceCodeResult, Enrolled, TrustAnswer};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use trust::{KeyRole, Role, encode_base64url, sign_document};

/// What is read is written again as something that says the same.
fn keeps<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let said = serde_json::to_value(&read).expect("an answer has a JSON form");
    let again: T = serde_json::from_value(said.clone()).expect("its own form");
    assert_eq!(serde_json::to_value(&again).expect("an answer has a JSON form"), said);
    Some(read)
}

/// What an agent that enrols gets, before it has proven anything of it.
pub(crate) fn enrolment_answer(bytes: &[u8]) {
    let _ = keeps::<DeviceCodeAnswer>(bytes);
    if let Some(DeviceCodeResult::Confirmed { join_key }) = keeps(bytes)
        && let Ok(key) = join_key.parse::<trust::JoinKey>()
    {
        assert!(key.controller.starts_with("https://"));
    }
    if let Some(answer) = keeps::<Enrolled>(bytes) {
        assert_eq!(answer.identity.to_string().parse(), Ok(answer.identity));
    }
    if let Some(answer) = keeps::<TrustAnswer>(bytes)
        && let Ok(chain) = trust::TrustChain::parse(&answer.chain)
    {
        assert_eq!(trust::TrustChain::parse(&chain.to_text()), Ok(chain));
    }
}

/// Why a server that may be anybody refuses: one line for people, which does nothing to their terminal.
pub(crate) fn problem(bytes: &[u8]) {
    let Some(problem) = keeps::<enrol::Problem>(bytes) else { return };
    let said = problem.to_string();
    assert!(!said.is_empty() && !said.chars().any(char::is_control), "{said:?}");
    assert!(!problem.word().contains(['/', ':', '#']));
}

/// What a running client answers to the command line.
pub(crate) fn local_answer(bytes: &[u8]) {
    let _ = keeps::<client::LocalAnswer>(bytes);
}

/// Genuine answers.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let home = &crate::HOME;
    let signed = |text: Result<String, trust::DocumentError>| text.expect("keeps the rules");
    let beacon = signed(sign_document(&home.key(KeyRole::Beacon), &home.beacon()));
    let grant = signed(sign_document(&home.key(KeyRole::Grant), &home.grant()));
    let slice = signed(sign_document(&home.key(KeyRole::Slice), &home.slice()));
    let chain = home.chain.to_text();
    let enrolled = |role, owner: Value, grant: Value| {
        json!({
            "identity": home.identity(role).to_string(), "name": "laptop", "belongs_to": "Harbour", "owner": owner,
            "certificate": encode_base64url(&home.certificate(role)), "grant": grant, "slice": slice, "chain": chain,
        })
    };
    let code = json!({
        "device_code": "AAAA", "user_code": "WDJB-MJHT", "verification_uri": "https://localhost:8443/device",
        "verification_uri_complete": "https://localhost:8443/device?code=WDJB-MJHT", "expires_in": 600, "interval": 5,
        "root": home.bundle.root().to_string(),
    });
    let refused = json!({
        "type": "/problems/invalid-field", "title": "Invalid field", "detail": "a port is missing", "status": 422,
        "field": "ports[0]", "rule": "1-65535", "value": "0", "retry_after": 3,
    });
    let hostile = json!({"title": "\u{1b}]0;owned\u{7}", "detail": "\r\u{9b}2K\nyes", "field": "\u{8}", "value": "\u{9b}"});
    let status = json!({"answer": "forwards", "forwards": []});
    let ping = json!({
        "answer": "ping", "connector": "hh-1", "kind": "direct", "remote": "203.0.113.9:4000", "round_trip_ms": 1.25,
        "fault": null,
    });
    [
        ("enrolment_answer", "trust", json!({"chain": chain, "beacon": beacon})),
        ("enrolment_answer", "device", enrolled(Role::Device, json!("Ada"), json!(grant))),
        ("enrolment_answer", "pop", enrolled(Role::Pop, Value::Null, Value::Null)),
        ("enrolment_answer", "code", code),
        ("enrolment_answer", "pending", json!({"status": "authorization_pending"})),
        ("enrolment_answer", "slow-down", json!({"status": "slow_down", "interval": 10})),
        ("enrolment_answer", "confirmed", json!({"status": "confirmed", "join_key": "tg1.AAAA"})),
        ("problem", "field", refused),
        ("problem", "hostile", hostile),
        ("problem", "empty", json!({})),
        ("local_answer", "forwards", status),
        ("local_answer", "ping", ping),
        ("local_answer", "error", json!({"answer": "error", "message": "no such resource"})),
        ("local_answer", "ending", json!({"answer": "ending"})),
    ]
    .into_iter()
    .map(|(target, name, value)| (target, name, value.to_string().into_bytes()))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_answer_is_read() {
        for (target, name, bytes) in genuine() {
            let is_read = match (target, name) {
                ("problem", _) => keeps::<enrol::Problem>(&bytes).is_some(),
                ("local_answer", _) => keeps::<client::LocalAnswer>(&bytes).is_some(),
                (_, "trust") => keeps::<TrustAnswer>(&bytes).is_some(),
                (_, "device" | "pop") => keeps::<Enrolled>(&bytes).is_some(),
                (_, "code") => keeps::<DeviceCodeAnswer>(&bytes).is_some(),
                _ => keeps::<DeviceCodeResult>(&bytes).is_some(),
            };
            assert!(is_read, "{target} {name}");
        }
    }
}
