//! A role's state directory: what an agent starts from when nobody can be asked.
//!
//! This crate owns: the layout on disk, the lock that keeps a second process out, atomic durable
//! writes, two generations of what is replaced often, and the sealing of secrets. It refuses to know
//! what the files mean: everything read back is verified again by whoever uses it.
//!
//! ```text
//! DIR/about.json          what this directory is of: installation, role, root hash, format
//! DIR/lock                held by the running process
//! DIR/NAME                a public document, replaced atomically
//! DIR/NAME.previous       the generation before
//! DIR/secrets/NAME        sealed: nonce (12) ‖ ChaCha20-Poly1305, associated data = NAME
//! DIR/secrets/seal.key    the sealing key, unless it comes from outside (see [`SealSource`])
//! ```

mod floor;
mod seal;

pub use seal::SealSource;

use seal::Sealer;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use trust::{Role, RootHash};
use wire::InstallationId;

/// Largest file that is read.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// The file that says what a directory is of.
pub const ABOUT_FILE: &str = "about.json";
const ABOUT: &str = ABOUT_FILE;
const FORMAT: u32 = 1;

/// Why a state directory cannot be used. Each says what was expected, what came, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The machine said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        source: io::Error,
    },
    /// There is nothing there yet.
    #[error("{} is not a Tidegate state directory yet; enrol first ({hint})", path.display())]
    NotEnrolled {
        /// Where.
        path: PathBuf,
        /// The command that helps.
        hint: &'static str,
    },
    /// It is somebody else's.
    #[error("{} holds the state of a {found}, not of a {expected}; choose another directory with --state", path.display())]
    OtherRole {
        /// Where.
        path: PathBuf,
        /// What it holds.
        found: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// It belongs to another installation.
    #[error("{} belongs to installation {found}, not to {expected}; choose another directory with --state, or remove this one if it is no longer needed", path.display())]
    OtherInstallation {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        found: InstallationId,
        /// Whose was expected.
        expected: InstallationId,
    },
    /// Another process runs on it.
    #[error("another Tidegate process is using {}; stop it first, or choose another directory with --state", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// It was written by a newer version.
    #[error("{} was written in format {found}; this version reads format {FORMAT}; update Tidegate", path.display())]
    NewerFormat {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file's content is damaged.
    #[error("{} is damaged ({problem}); restore it from a backup or enrol again", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The sealing key does not fit.
    #[error("{} does not open with the sealing key from {from}; is it the key of another directory?", path.display())]
    Sealed {
        /// Where.
        path: PathBuf,
        /// Where the key came from.
        from: String,
    },
}

/// What a state directory is of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The installation.
    pub installation: InstallationId,
    /// The role.
    pub role: Role,
    /// The root that is pinned.
    pub root: RootHash,
    /// The layout's version.
    pub format: u32,
}

impl About {
    /// Of this version's layout.
    #[must_use]
    pub const fn new(installation: InstallationId, role: Role, root: RootHash) -> Self {
        Self { installation, role, root, format: FORMAT }
    }
}

/// A locked, opened state directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    about: About,
    sealer: Sealer,
    // Two writers of one name would share its temporary file.
    writing: Mutex<()>,
    // Held for the life of this value; the kernel lets go when the process dies.
    _lock: File,
}

const fn enrol_hint(role: Role) -> &'static str {
    match role {
        Role::Device => "tidegate login --key-file FILE",
        Role::Connector => "tidegate connector --join-file FILE",
        Role::Pop => "tidegate pop --join-file FILE --advertise HOST:PORT",
        Role::Controller => "tidegate serve, or tidegate controller",
    }
}

impl StateDir {
    /// Reads what a directory is of, without locking it. `None` when it is empty or missing.
    ///
    /// # Errors
    /// Unreadable or damaged.
    pub fn about(path: &Path) -> Result<Option<About>, StateError> {
        let file = path.join(ABOUT);
        let Some(bytes) = read_bounded(&file)? else { return Ok(None) };
        let about: About = serde_json::from_slice(&bytes)
            .map_err(|error| StateError::Damaged { path: file.clone(), problem: error.to_string() })?;
        if about.format > FORMAT {
            return Err(StateError::NewerFormat { path: file, found: about.format });
        }
        Ok(Some(about))
    }

    /// Whether enrolment wrote this directory, for this role. Locks nothing.
    ///
    /// # Errors
    /// Nothing there, another role, damaged.
    pub fn expect(path: &Path, role: Role) -> Result<(), StateError> {
        Self::checked(path, role).map(|_| ())
    }

    /// Whether a process runs on a directory.
    ///
    /// # Errors
    /// The machine says no.
    pub fn is_in_use(path: &Path) -> Result<bool, StateError> {
        match lock(path) {
            Ok(_) => Ok(false),
            Err(StateError::InUse { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn checked(path: &Path, role: Role) -> Result<About, StateError> {
        let about = Self::about(path)?
            .ok_or_else(|| StateError::NotEnrolled { path: path.to_owned(), hint: enrol_hint(role) })?;
        if about.role != role {
            return Err(StateError::OtherRole {
                path: path.to_owned(),
                found: about.role.word(),
                expected: role.word(),
            });
        }
        Ok(about)
    }

    /// Opens what enrolment wrote.
    ///
    /// # Errors
    /// Nothing there, another role, in use, damaged.
    pub fn open(path: &Path, role: Role) -> Result<Self, StateError> {
        let about = Self::checked(path, role)?;
        let lock = lock(path)?;
        let sealer = Sealer::open(path, &SealSource::from_environment(path))?;
        Ok(Self { path: path.to_owned(), about, sealer, writing: Mutex::default(), _lock: lock })
    }

    /// Reads a secret beside the process that holds the directory: for one that is written at once and whole, as all are.
    ///
    /// # Errors
    /// Nothing there, another role, sealed with another key.
    pub fn secret_beside(path: &Path, role: Role, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        Self::checked(path, role)?;
        let sealer = Sealer::open(path, &SealSource::from_environment(path))?;
        let path = path.join("secrets").join(name);
        match read_bounded(&path)? {
            None => Ok(None),
            Some(sealed) => sealer.open_secret(&path, name, sealed).map(Some),
        }
    }

    /// Makes a directory, or opens it again when it is the same installation's and role's already.
    ///
    /// # Errors
    /// It is another's, in use, or cannot be written.
    pub fn create(path: &Path, about: &About) -> Result<Self, StateError> {
        create_parent_dir(path)?;
        create_private_dir(path)?;
        if let Some(found) = Self::about(path)? {
            if found.installation != about.installation || found.root != about.root {
                return Err(StateError::OtherInstallation {
                    path: path.to_owned(),
                    found: found.installation,
                    expected: about.installation,
                });
            }
            return Self::open(path, about.role);
        }
        let lock = lock(path)?;
        create_private_dir(&path.join("secrets"))?;
        let sealer = Sealer::create(path, &SealSource::from_environment(path))?;
        let state = Self {
            path: path.to_owned(),
            about: about.clone(),
            sealer,
            writing: Mutex::default(),
            _lock: lock,
        };
        let text = serde_json::to_vec_pretty(about).expect("plain data has a JSON form");
        state.write(ABOUT, &text)?;
        Ok(state)
    }

    /// What the directory is of.
    #[must_use]
    pub const fn of(&self) -> &About {
        &self.about
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// Unreadable.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        read_bounded(&self.path.join(name))
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces a file so that a crash leaves the old or the new one, on disk when this returns.
    ///
    /// # Errors
    /// Not written; the old one is still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let _turn = self.turn();
        write_durably(&self.path, name, bytes)
    }

    /// As [`Self::write`], for what only has to outlive this process: a machine that loses power may lose it and has the old
    /// file, or the new one.
    ///
    /// # Errors
    /// Not written; the old one is still there.
    pub fn write_lightly(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let _turn = self.turn();
        replace(&self.path, name, bytes, Lasting::ThisProcess)
    }

    /// As [`Self::write`], keeping the file that was there as `NAME.previous`.
    ///
    /// # Errors
    /// Not written; the old one is still there.
    pub fn write_generation(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let current = self.path.join(name);
        let previous = self.path.join(format!("{name}.previous"));
        let linked = self.path.join(format!("{name}.linked"));
        // A hard link first: there is no moment without a current generation.
        match fs::remove_file(&linked) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&linked, error)),
            _ => {}
        }
        match fs::hard_link(&current, &linked) {
            Ok(()) if planted::is("generation-before-lost") => {}
            Ok(()) => fs::rename(&linked, &previous).map_err(|error| io_error(&previous, error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&linked, error)),
        }
        self.write(name, bytes)
    }

    /// The generations of a file, newest first: for starting from the older one when the newer does
    /// not verify.
    ///
    /// # Errors
    /// Unreadable.
    pub fn read_generations(&self, name: &str) -> Result<Vec<Vec<u8>>, StateError> {
        let mut generations = Vec::new();
        generations.extend(self.read(name)?);
        generations.extend(self.read(&format!("{name}.previous"))?);
        Ok(generations)
    }

    /// Writes a secret, sealed.
    ///
    /// # Errors
    /// Not written.
    pub fn write_secret(&self, name: &str, secret: &[u8]) -> Result<(), StateError> {
        let _turn = self.turn();
        write_durably(&self.path.join("secrets"), name, &self.sealer.seal(name, secret))
    }

    /// Reads a secret; `None` when there is none.
    ///
    /// # Errors
    /// Unreadable, or sealed with another key.
    pub fn read_secret(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join("secrets").join(name);
        match read_bounded(&path)? {
            None => Ok(None),
            Some(sealed) => self.sealer.open_secret(&path, name, sealed).map(Some),
        }
    }

    /// Reads a secret of `N` bytes that must be there.
    ///
    /// # Errors
    /// Missing, of another length, or sealed with another key.
    pub fn require_secret<const N: usize>(&self, name: &str) -> Result<[u8; N], StateError> {
        let path = || self.path.join("secrets").join(name);
        let secret = self
            .read_secret(name)?
            .ok_or_else(|| StateError::Damaged { path: path(), problem: "it is missing".into() })?;
        let got = secret.len();
        secret.try_into().map_err(|_| StateError::Damaged {
            path: path(),
            problem: format!("expected {N} bytes, got {got}"),
        })
    }

    /// Reads a file that must be there.
    ///
    /// # Errors
    /// Missing or unreadable.
    pub fn require(&self, name: &str) -> Result<Vec<u8>, StateError> {
        self.read(name)?.ok_or_else(|| StateError::Damaged {
            path: self.path.join(name),
            problem: "it is missing".into(),
        })
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, error)),
            _ => Ok(()),
        }
    }
}

/// Names of files that several roles share.
pub mod names {
    /// Secret: the 32-byte seed of the identity key.
    pub const IDENTITY_KEY: &str = "identity.key";
    /// Secret: a connector's WireGuard private key.
    pub const WIREGUARD_KEY: &str = "wireguard.key";
    /// Secret: the private key that introductions are sealed to.
    pub const SEAL_KEY: &str = "introductions.key";
    /// The certificate, DER.
    pub const CERTIFICATE: &str = "certificate.der";
    /// The trust chain, text.
    pub const CHAIN: &str = "chain";
    /// The grant, PASETO text.
    pub const GRANT: &str = "grant";
    /// The slice, PASETO text; two generations.
    pub const SLICE: &str = "slice";
    /// The newest beacon, PASETO text.
    pub const BEACON: &str = "beacon";
    /// Revocation entries, one PASETO text a line.
    pub const REVOCATIONS: &str = "revocations";
    /// The time floor: Unix milliseconds as decimal text.
    pub const FLOOR: &str = "floor";
    /// The floor once more, the run of the machine that it was written in, and how many milliseconds into it.
    pub const FLOOR_OF_BOOT: &str = "floor.boot";
    /// Over how long the PoP that an agent was last at spreads a crowd: milliseconds as decimal text.
    pub const RECONNECT_WINDOW: &str = "reconnect-window";
    /// The PoP list of enrolment, JSON of `Vec<PopEntry>`; a slice's list takes its place.
    pub const POPS: &str = "pops.json";
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io { path: path.to_owned(), source }
}

/// Beside a role's directory others of other users may lie (`/var/lib/tidegate`): they get there, and list nothing.
fn create_parent_dir(path: &Path) -> Result<(), StateError> {
    let missing = |parent: &&Path| !parent.as_os_str().is_empty() && !parent.exists();
    let Some(parent) = path.parent().filter(missing) else { return Ok(()) };
    create_private_dir(parent)?;
    fs::set_permissions(parent, fs::Permissions::from_mode(0o711)).map_err(|error| io_error(parent, error))
}

fn create_private_dir(path: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| io_error(path, error))
}

fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| io_error(path, error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(StateError::Damaged {
            path: path.to_owned(),
            problem: "it is larger than 64 MiB".into(),
        });
    }
    Ok(Some(bytes))
}

/// Writes `DIR/NAME` through a temporary file: data, then rename, then the directory, each synced.
fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StateError> {
    replace(dir, name, bytes, Lasting::ThisMachine)
}

/// What a file is to outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    /// The process that writes it.
    ThisProcess,
    /// The machine's power.
    ThisMachine,
}

fn replace(dir: &Path, name: &str, bytes: &[u8], lasting: Lasting) -> Result<(), StateError> {
    let target = dir.join(name);
    let temporary = dir.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if lasting == Lasting::ThisMachine {
            file.sync_all()?;
        }
        fs::rename(&temporary, &target)?;
        if lasting == Lasting::ThisMachine { File::open(dir)?.sync_all() } else { Ok(()) }
    };
    write().map_err(|error| io_error(&target, error))
}

fn lock(path: &Path) -> Result<File, StateError> {
    let file_path = path.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&file_path)
        .map_err(|error| io_error(&file_path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse { path: path.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(io_error(&file_path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(installation: u8) -> About {
        About::new(
            InstallationId::from_bytes([installation; 16]),
            Role::Connector,
            RootHash::from_bytes([1; 32]),
        )
    }

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().expect("a scratch directory")
    }

    #[test]
    fn others_may_go_through_the_directory_around_it_and_not_into_it() {
        let dir = scratch();
        let path = dir.path().join("tidegate/client");
        drop(StateDir::create(&path, &about(1)).expect("created"));
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir.path().join("tidegate"))), (0o700, 0o711));
    }

    #[test]
    fn a_directory_survives_a_restart_with_its_secrets() {
        let dir = scratch();
        {
            let state = StateDir::create(dir.path(), &about(1)).expect("created");
            state.write_secret(names::IDENTITY_KEY, &[7; 32]).expect("written");
            state.write(names::GRANT, b"grant").expect("written");
        }
        let state = StateDir::open(dir.path(), Role::Connector).expect("opened");
        assert_eq!(state.require_secret::<32>(names::IDENTITY_KEY).expect("read"), [7; 32]);
        assert_eq!(state.read(names::GRANT).expect("read").as_deref(), Some(&b"grant"[..]));
    }

    #[test]
    fn a_secret_is_not_readable_on_disk_and_not_under_another_name() {
        let dir = scratch();
        let state = StateDir::create(dir.path(), &about(1)).expect("created");
        state.write_secret("a", b"swordfish-swordfish").expect("written");
        let on_disk = fs::read(dir.path().join("secrets/a")).expect("read");
        assert!(!on_disk.windows(9).any(|window| window == b"swordfish"));
        fs::copy(dir.path().join("secrets/a"), dir.path().join("secrets/b")).expect("copied");
        assert!(matches!(state.read_secret("b"), Err(StateError::Sealed { .. })));
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let dir = scratch();
        let _held = StateDir::create(dir.path(), &about(1)).expect("created");
        assert!(matches!(StateDir::open(dir.path(), Role::Connector), Err(StateError::InUse { .. })));
    }

    #[test]
    fn another_installation_and_another_role_are_said_plainly() {
        let dir = scratch();
        drop(StateDir::create(dir.path(), &about(1)).expect("created"));
        let refusal = StateDir::create(dir.path(), &about(2)).expect_err("another installation");
        assert!(refusal.to_string().contains("belongs to installation"), "{refusal}");
        let refusal = StateDir::open(dir.path(), Role::Pop).expect_err("another role");
        assert!(
            refusal.to_string().contains("connector") && refusal.to_string().contains("pop"),
            "{refusal}"
        );
    }

    #[test]
    fn an_empty_directory_names_the_command_that_helps() {
        let dir = scratch();
        let refusal = StateDir::open(dir.path(), Role::Device).expect_err("empty");
        assert!(refusal.to_string().contains("tidegate login"), "{refusal}");
    }

    #[test]
    fn the_generation_before_is_kept() {
        let dir = scratch();
        let state = StateDir::create(dir.path(), &about(1)).expect("created");
        for generation in [b"1", b"2", b"3"] {
            state.write_generation(names::SLICE, generation).expect("written");
        }
        assert_eq!(state.read_generations(names::SLICE).expect("read"), [b"3".to_vec(), b"2".to_vec()]);
    }
}
