//! The copy on disk: 32 bytes of SHA-256 over what follows, then JSON.

use super::{Snapshot, SnapshotError, SnapshotSource};
use serde::{Deserialize, Serialize};
use state::StateDir;
use store::Dataset;
use trust::{UnixMs, sha256};
use wire::InstallationId;

const COPY: &str = "snapshot";
const PREVIOUS: &str = "snapshot.previous";
/// What this version writes, and the newest it reads.
const FORMAT: u32 = 2;

#[derive(Serialize)]
struct Head {
    format: u32,
    read_at: UnixMs,
}

#[derive(Deserialize)]
struct Reading {
    /// Absent in the first format.
    #[serde(default)]
    format: u32,
    read_at: UnixMs,
    dataset: Dataset,
}

/// The bytes of a dataset: the same for the same content, whoever built it and when.
pub(super) fn body(dataset: &Dataset) -> Vec<u8> {
    serde_json::to_vec(dataset).expect("rows always serialize")
}

/// The bytes of a copy.
fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let (read_at, body) = (snapshot.read_at, body(&snapshot.dataset));
    let head = serde_json::to_string(&Head { format: FORMAT, read_at }).expect("numbers always serialize");
    let head = head.strip_suffix('}').expect("an object ends with a brace");
    let parts: [&[u8]; 4] = [head.as_bytes(), b",\"dataset\":", &body, b"}"];
    let sum = sha256(&parts);
    [&[&sum[..]][..], &parts[..]].concat().concat()
}

#[cfg(test)]
pub(super) fn encoded(snapshot: &Snapshot) -> Vec<u8> {
    encode(snapshot)
}

/// Reads a copy and judges it as the builder judges what it built.
///
/// # Errors
/// Why it is not used.
pub(super) fn decode(bytes: &[u8], installation: InstallationId) -> Result<Snapshot, SnapshotError> {
    let damaged = |problem: String| SnapshotError::Copy { problem };
    let (digest, body) =
        bytes.split_at_checked(32).ok_or_else(|| damaged(format!("it has {} bytes only", bytes.len())))?;
    if sha256(&[body]) != *digest {
        return Err(damaged("its check sum is wrong".into()));
    }
    let copy: Reading = serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?;
    if copy.format > FORMAT {
        return Err(damaged(format!("it is of format {}; this version reads {FORMAT}", copy.format)));
    }
    Snapshot::new(copy.dataset, SnapshotSource::DiskCopy, copy.read_at, installation)
}

/// Writes a copy; the one before stays beside it. Blocking.
pub(super) fn write(directory: &StateDir, snapshot: &Snapshot) {
    // A full disk must not take the database's changes away from those who read memory.
    if let Err(error) = directory.write_generation(COPY, &encode(snapshot)) {
        tracing::warn!(%error, "the snapshot's copy on disk is not up to date");
    }
}

/// The copies on disk, newest first, each with what it is or why it is not used.
pub(super) fn read(
    directory: &StateDir,
    installation: InstallationId,
) -> Vec<Result<Snapshot, SnapshotError>> {
    let mut copies = Vec::new();
    for name in [COPY, PREVIOUS] {
        match directory.read(name) {
            Ok(None) => {}
            Ok(Some(bytes)) => copies.push(decode(&bytes, installation)),
            // One that cannot be read does not take the other one with it.
            Err(error) => copies.push(Err(error.into())),
        }
    }
    copies
}
