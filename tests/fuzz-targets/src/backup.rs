//! A copy of the database that somebody found, behind a check sum that is right.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use store::{BackupSummary, Existing, Installation, Opening, Organization, Store, Version};
use trust::sha256;
use wire::{InstallationId, OrganizationId};

const NOW: u64 = crate::installation::NOW.as_millis();
const FIRST: Version = Version { incarnation: 1, version: 1 };

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));

/// The file of a database with one organization, which each input gets anew.
static DATABASE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = crate::disk::place("first-database");
    RUNTIME.block_on(async {
        let store = Store::open(&path, Opening::CreateIfMissing).await.expect("a new file");
        let installation =
            Installation { id: InstallationId::from_bytes([9; 16]), version: FIRST, created_ms: NOW };
        let organization = Organization {
            id: OrganizationId::from_bytes([2; 16]),
            name: "Harbour".into(),
            version: FIRST,
            grant_life_ms: 86_400_000,
            renew_after_ms: 14_400_000,
            shrink_version: 0,
            old_grants_end_ms: 0,
            approve_devices: false,
            audit_retention_days: 0,
            flow_retention_days: 0,
            sign_in_age_ms: Organization::SIGN_IN_AGE_MS,
            closed_ms: 0,
            created_ms: NOW,
        };
        store.bootstrap(&installation, &organization, "fuzz").await.expect("an empty database");
        store.close().await;
    });
    fs::read(&path).expect("a file")
});

/// What SQLite keeps beside a file that was not closed.
fn beside(path: &Path) -> [PathBuf; 2] {
    ["-wal", "-shm"].map(|end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        name.into()
    })
}

/// The lines with the last one, which counts and sums them.
fn whole(lines: &[u8]) -> Vec<u8> {
    let mut file = lines.to_vec();
    if !file.ends_with(b"\n") {
        file.push(b'\n');
    }
    let rows = file.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"row\":")).count();
    let sum: String = sha256(&[&file]).iter().map(|byte| format!("{byte:02x}")).collect();
    file.extend_from_slice(format!("{{\"end\":{{\"rows\":{rows},\"sha256\":\"{sum}\"}}}}\n").as_bytes());
    file
}

async fn filled(store: &Store, lines: &[u8]) -> Option<BackupSummary> {
    let file = whole(lines);
    store.restore(NOW, "fuzz", Existing::DangerouslyReplace, &mut file.as_slice()).await.ok()
}

/// Whatever is in it, it is restored whole and newer than everything that was there, or nothing is changed.
pub(crate) fn restored(bytes: &[u8]) {
    let path = crate::disk::place("restored-database");
    for old in beside(&path) {
        let _ = fs::remove_file(old);
    }
    fs::write(&path, &*DATABASE).expect("written");
    RUNTIME.block_on(async {
        let store = Store::open(&path, Opening::MustExist).await.expect("own file");
        let before = store.load().await.expect("own file").expect("own rows");
        match filled(&store, bytes).await {
            None => assert_eq!(store.load().await.expect("own file"), Some(before), "half of a copy"),
            Some(done) => {
                assert!(done.version.incarnation > before.installation.version.incarnation);
                let mut copy = Vec::new();
                let made = store.backup(NOW, &mut copy).await.expect("what was restored can be copied");
                assert_eq!((made.installation, made.version), (done.installation, done.version));
                // The restore itself is in the audit log.
                assert!(made.rows > done.rows, "{} of {} rows", made.rows, done.rows);
            }
        }
        store.close().await;
    });
}

/// Genuine copies, without their last line.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let path = crate::disk::place("copied-database");
    fs::write(&path, &*DATABASE).expect("written");
    let file = RUNTIME.block_on(async {
        let store = Store::open(&path, Opening::MustExist).await.expect("own file");
        let mut file = Vec::new();
        store.backup(NOW, &mut file).await.expect("a copy");
        store.close().await;
        file
    });
    let text = String::from_utf8(file).expect("JSON");
    let (lines, _) = text.trim_end().rsplit_once('\n').expect("lines");
    let newest = |number: &str| lines.replacen("\"incarnation\":1", &format!("\"incarnation\":{number}"), 1);
    vec![
        ("restored", "copy", lines.as_bytes().to_vec()),
        ("restored", "last-incarnation", newest("18446744073709551615").into_bytes()),
        ("restored", "last-signed-incarnation", newest("9223372036854775807").into_bytes()),
        ("restored", "half", lines.as_bytes()[..lines.len() / 2].to_vec()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_genuine_copy_is_restored() {
        let path = crate::disk::place("filled-database");
        fs::write(&path, &*DATABASE).expect("written");
        let seeds = genuine();
        let done = RUNTIME.block_on(async {
            let store = Store::open(&path, Opening::MustExist).await.expect("own file");
            let done = filled(&store, &seeds[0].2).await;
            store.close().await;
            done
        });
        assert_eq!(done.expect("restored").version.incarnation, 2);
    }
}
