//! First start, and what people do with the root key afterwards.

use super::{Keyring, KeyringError, PhraseError, RecoveryPhrase, RootSealError, sealing};
use crate::{clock, ledger::Deed};
use state::{About, StateDir, StateError, names};
use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use trust::{Role, RootHash, SigningKey};
use wire::{ControllerId, InstallationId};

pub(crate) const KEYRING: &str = "keyring";
const ROOT: &str = "root.sealed";
const EXPORTED: &str = "root.exported";
/// Written when the first start is complete: from then on an absent database is a loss.
pub(crate) const STARTED: &str = "started";

/// A root key operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The phrase is no phrase.
    #[error(transparent)]
    Phrase(#[from] PhraseError),
    /// The phrase does not open the key, or the file holds none.
    #[error(transparent)]
    Seal(#[from] RootSealError),
    /// The export cannot be written.
    #[error("cannot write {}: {source}; choose a path that does not exist yet", path.display())]
    Export {
        /// Where to.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It never was here.
    #[error(
        "no root key in {}: expected the state directory of the controller that the installation began with (--state DIR)",
        path.display()
    )]
    NoRoot {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It was exported and removed.
    #[error("the root key is no longer on this host; it was exported and removed")]
    NotHere,
}

/// What a ceremony made: shown once, kept nowhere.
#[derive(Debug)]
pub struct Ceremony {
    /// Opens the root key.
    pub phrase: RecoveryPhrase,
    /// The opened state directory.
    pub directory: StateDir,
}

/// Makes installation, root key and every other key in an empty directory.
pub(crate) fn first_start(path: &Path) -> Result<Ceremony, RootError> {
    let wall = clock::wall();
    let root = SigningKey::generate();
    let phrase = RecoveryPhrase::generate();
    let installation = InstallationId::from_time_and_random(wall.as_millis(), clock::random());
    let controller = ControllerId::from_time_and_random(wall.as_millis(), clock::random());
    let (ring, chain) = Keyring::generate(installation, controller, &root, wall)?;
    let about = About::new(installation, Role::Controller, RootHash::of(&root.verifying_key()));
    let directory = StateDir::create(path, &about)?;
    directory.write(ROOT, &sealing::seal_root(&phrase, root.expose_seed()))?;
    directory.write(names::CHAIN, chain.to_text().as_bytes())?;
    clock::begin_time_line(&directory, wall)?;
    // Last: a directory with a keyring is complete.
    directory.write_secret(KEYRING, &ring.encode())?;
    Ok(Ceremony { phrase, directory })
}

/// Whether the first start was completed here.
pub(crate) fn is_complete(path: &Path) -> bool {
    path.join("secrets").join(KEYRING).exists()
}

/// Where the root key is, as far as this host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RootKeyPlace {
    /// Only here.
    OnThisHost,
    /// Exported, and still here.
    ExportedAndOnThisHost,
    /// Not here any more.
    Away,
}

/// Where the root key of a state directory is.
#[must_use]
pub fn root_key_place(state: &Path) -> RootKeyPlace {
    match (state.join(ROOT).exists(), state.join(EXPORTED).exists()) {
        (false, _) => RootKeyPlace::Away,
        (true, true) => RootKeyPlace::ExportedAndOnThisHost,
        (true, false) => RootKeyPlace::OnThisHost,
    }
}

/// What happens to the root key on this host after its export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterExport {
    /// It stays, sealed.
    Keep,
    /// It is removed.
    Remove,
}

/// A directory that is no controller's has no root key either, and is not where one was taken away from.
fn sealed_root(state: &Path) -> Result<Vec<u8>, RootError> {
    match std::fs::read(state.join(ROOT)) {
        Ok(sealed) => Ok(sealed),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(if state.join(EXPORTED).exists() {
                RootError::NotHere
            } else {
                RootError::NoRoot { path: state.to_owned() }
            })
        }
        Err(source) => Err(StateError::Io { path: state.join(ROOT), source }.into()),
    }
}

/// Whether there is a root key to export, so that nobody is asked for a phrase for nothing.
///
/// # Errors
/// [`RootError::NoRoot`], [`RootError::NotHere`], or the file cannot be read.
pub fn expect_root(state: &Path) -> Result<(), RootError> {
    sealed_root(state).map(drop)
}

/// Where the sealed root key of a state directory is.
#[must_use]
pub fn root_key_file(state: &Path) -> PathBuf {
    state.join(ROOT)
}

/// Writes the sealed root key to a new file, proves by `phrase` that it opens, and marks it as
/// exported. Works beside a running controller.
///
/// # Errors
/// [`RootError`].
pub fn export_root(state: &Path, out: &Path, phrase: &str, after: AfterExport) -> Result<(), RootError> {
    let sealed = sealed_root(state)?;
    // A copy that nobody can open is no export.
    sealing::open_root(&phrase.parse()?, &sealed)?;
    write_new(out, &sealed).map_err(|source| RootError::Export { path: out.to_owned(), source })?;
    let deed = Deed::new(clock::wall(), &local_actor(), "export root key", out.display());
    // A full disk keeps nobody from taking the key away.
    if let Err(error) = crate::ledger::write_down(state, &deed) {
        tracing::warn!(%error, "the export of the root key is not in the audit spool");
    }
    let marker = state.join(EXPORTED);
    match write_new(&marker, b"exported\n") {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(StateError::Io { path: marker, source }.into());
        }
        _ => {}
    }
    if after == AfterExport::Remove {
        let path = state.join(ROOT);
        std::fs::remove_file(&path).map_err(|source| StateError::Io { path, source })?;
        sync_directory_of(&marker).map_err(|source| StateError::Io { path: state.to_owned(), source })?;
    }
    Ok(())
}

/// Writes a new file that is whole and on disk when this returns, or not there.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| sync_directory_of(path));
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

/// A name is on disk when its directory is.
fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent)?.sync_all()
}

fn local_actor() -> String {
    format!("local uid {}", rustix::process::getuid().as_raw())
}

/// Notes that recovery phrase and owner's link were shown: until then a first start is not complete, and the
/// next start says so.
///
/// # Errors
/// The disk.
pub fn first_start_was_shown(state: &Path) -> Result<(), StateError> {
    let path = state.join(STARTED);
    match write_new(&path, b"") {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StateError::Io { path, source })
        }
        _ => Ok(()),
    }
}

/// Opens a sealed root key (of a state directory's file or an export) with its phrase.
///
/// # Errors
/// [`RootError::Phrase`] for a mistyped phrase, [`RootSealError::WrongPhrase`] for another root's.
pub fn open_root_file(file: &Path, phrase: &str) -> Result<SigningKey, RootError> {
    let sealed = std::fs::read(file).map_err(|source| StateError::Io { path: file.to_owned(), source })?;
    Ok(SigningKey::from_seed(&sealing::open_root(&phrase.parse()?, &sealed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_key_leaves_the_host_and_still_opens_with_its_phrase() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controller");
        let ceremony = first_start(&path).unwrap();
        let phrase = ceremony.phrase.to_secret_text();
        assert_eq!(root_key_place(&path), RootKeyPlace::OnThisHost);
        let out = directory.path().join("root-key");
        let other = RecoveryPhrase::generate().to_secret_text();
        let wrong = export_root(&path, &out, &other, AfterExport::Keep).unwrap_err();
        assert!(wrong.to_string().contains("not the recovery phrase"), "{wrong}");
        assert!(!out.exists());
        export_root(&path, &out, &phrase, AfterExport::Remove).unwrap();
        assert_eq!(root_key_place(&path), RootKeyPlace::Away);
        let root = open_root_file(&out, &phrase).unwrap();
        assert_eq!(RootHash::of(&root.verifying_key()), ceremony.directory.of().root);
        assert!(matches!(export_root(&path, &out, &phrase, AfterExport::Keep), Err(RootError::NotHere)));
    }

    #[test]
    fn a_directory_without_a_root_key_is_not_said_to_have_had_one() {
        let directory = tempfile::tempdir().unwrap();
        let error = expect_root(directory.path()).unwrap_err();
        assert!(matches!(error, RootError::NoRoot { .. }), "{error}");
        assert!(error.to_string().contains("--state DIR"), "{error}");
    }
}
