//! What a controller finds on its disk: torn, rotten, of an earlier day, or written by somebody else.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use trust::{UnixMs, sha256};
use wire::{ConnectorId, InstallationId, OrganizationId};

/// The strike journal's file, and the flow log's: their own sources, which no crate exports.
#[path = "../../../crates/controller/src/flows.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod flows;
#[path = "../../../crates/controller/src/journal.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod journal;

const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([2; 16]);
const CONNECTOR: ConnectorId = ConnectorId::from_bytes([6; 16]);

/// A directory in memory where there is one: these targets write a file for each input.
static DIRECTORY: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory to write into")
});

pub(crate) fn place(name: &str) -> PathBuf {
    // Replays of one target do not meet: each thread has its own.
    DIRECTORY.path().join(format!("{name}-{:?}", std::thread::current().id()))
}

/// The JSON of a snapshot's copy, behind a check sum that is right.
pub(crate) fn snapshot_copy(bytes: &[u8]) {
    let copy = [&sha256(&[bytes])[..], bytes].concat();
    // Whose it is, as it says itself: a foreign one is refused before anything else is looked at.
    let said: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let id = said.and_then(|said| said["dataset"]["installation"]["id"].as_str()?.parse().ok());
    let _ = controller::check_snapshot_copy(&copy, id.unwrap_or(InstallationId::from_bytes([1; 16])));
}

/// A journal that was found: what opens it takes whole lines, and the next entry is a line of its own.
pub(crate) fn strike_journal(bytes: &[u8]) {
    let path = place("journal");
    fs::write(&path, bytes).expect("written");
    let (mut journal, replay) = journal::Journal::open(&path).expect("a file can be opened");
    for line in &replay.lines {
        assert!(!line.contains(['\n', '\0']), "half of an entry");
        let entry = trust::Unverified::<trust::Revocation>::parse(line);
        let _ = entry.and_then(|entry| entry.verify(&crate::HOME.bundle, crate::installation::NOW));
    }
    journal.append("one more").expect("there is room");
    drop(journal);
    let (_, again) = journal::Journal::open(&path).expect("a file can be opened");
    let expected: Vec<String> = replay.lines.into_iter().chain(["one more".to_owned()]).collect();
    assert_eq!(again.lines, expected, "an entry was lost, or came to life");
}

/// A batch that a connector ships: it is taken whole or not at all.
pub(crate) fn flow_batch(bytes: &[u8]) {
    let path = place("batch");
    let _ = fs::remove_dir_all(&path);
    let log = flows::FlowLog::open(&path).expect("an empty directory");
    let taken = log.take(ORGANIZATION, CONNECTOR, 1, bytes, UnixMs::from_millis(1));
    let read = newest(&log);
    match taken {
        Ok(()) => {
            let lines =
                bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
            assert_eq!(read.len(), lines.min(1000));
            assert!(read.iter().all(serde_json::Value::is_object));
            let again = flows::FlowLog::open(&path).expect("own files");
            again.take(ORGANIZATION, CONNECTOR, 1, bytes, UnixMs::from_millis(2)).expect("taken before");
            assert_eq!(newest(&again), read, "stored twice");
        }
        Err(_) => assert!(read.is_empty(), "half of a batch"),
    }
}

/// The newest records, as many as one page has.
fn newest(log: &flows::FlowLog) -> Vec<serde_json::Value> {
    let query = flows::FlowQuery { limit: 1000, ..flows::FlowQuery::default() };
    log.read(ORGANIZATION, &query).expect("files that can be read").items
}

/// Where an export of flow records goes on.
pub(crate) fn flow_place(text: &str) {
    if let Ok(place) = text.parse::<crate::segments::Place>() {
        assert_eq!(place.to_string(), text, "two texts of one place");
    }
}

/// A segment of the flow log that was found.
pub(crate) fn flow_segment(bytes: &[u8]) {
    let path = place("segment");
    let own = path.join(ORGANIZATION.to_string());
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&own).expect("made");
    fs::write(own.join("000000000001.ndjson"), bytes).expect("written");
    let log = flows::FlowLog::open(&path).expect("files that can be read");
    let before = newest(&log).len();
    log.take(ORGANIZATION, CONNECTOR, u64::MAX, b"{\"id\":\"last\"}", UnixMs::from_millis(1)).expect("taken");
    let after = newest(&log);
    assert!(after.len() >= before.min(999), "what is new hid what was there");
}

/// Genuine files.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let entry = trust::sign_document(&crate::HOME.key(trust::KeyRole::Beacon), &crate::HOME.revocation());
    let entry = entry.expect("keeps the rules");
    let second = format!("{entry}\nhead ctl-00000000000000000000000000 1 AAAA\n");
    let record = r#"{"id":"1-1","device_name":"laptop","verdict":"allowed","bytes_up":1}"#;
    let line = |left: usize| {
        format!(
            "{{\"organization\":\"{ORGANIZATION}\",\"connector\":\"{CONNECTOR}\",\"batch\":7,\"left\":{left},\"received\":1,\"record\":{record}}}\n"
        )
    };
    let mut torn = second.clone().into_bytes();
    torn.extend_from_slice(&entry.as_bytes()[..40]);
    torn.extend_from_slice(&[0; 64]);
    vec![
        ("snapshot_copy", "empty-organization", SNAPSHOT.into()),
        ("strike_journal", "one", format!("{entry}\n").into()),
        ("strike_journal", "two", second.into_bytes()),
        ("strike_journal", "torn", torn),
        ("strike_journal", "zeros", vec![0; 256]),
        ("flow_batch", "one", format!("{record}\n").into()),
        ("flow_batch", "three", format!("{record}\n\n{record}\n{{}}").into()),
        ("flow_batch", "no-object", b"[1]\n".to_vec()),
        ("flow_segment", "whole", (line(1) + &line(0)).into()),
        ("flow_segment", "torn", (line(1) + &line(0)[..60]).into()),
        ("flow_segment", "of-another", line(0).replace("org-", "con-").into()),
    ]
}

const SNAPSHOT: &str = r#"{"format":2,"read_at":1795264245683,"dataset":{"installation":{"id":"ins-01m7z13xvje9m9212fqvtdbkza","version":{"incarnation":1,"version":5},"created_ms":1795263953987},"organizations":[{"organization":{"id":"org-01m7z13z23ennrzj4sdvprgndv","name":"default","version":{"incarnation":1,"version":91},"grant_life_ms":86400000,"renew_after_ms":5000,"shrink_version":0,"old_grants_end_ms":0,"created_ms":1795263953987},"sites":[],"connectors":[],"resources":[],"groups":[],"users":[],"service_accounts":[],"memberships":[],"devices":[],"policies":[],"tokens":[],"enrolment_keys":[]}],"pops":[],"administrators":[],"enrolment_keys":[],"one_time_links":[]}}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_genuine_copies_are_ones_that_a_controller_starts_from() {
        let furnished = include_bytes!("../../fuzz/corpus/snapshot_copy/furnished");
        for bytes in [SNAPSHOT.as_bytes(), furnished] {
            let copy = [&sha256(&[bytes])[..], bytes].concat();
            let id = "ins-01m7z13xvje9m9212fqvtdbkza".parse().expect("an id");
            controller::check_snapshot_copy(&copy, id).expect("usable");
        }
    }
}
