//! One more controller of an installation: what it starts with, and how it leaves.
//!
//! Each controller has keys of its own, and one bundle names them all. The bundle changes in the database, where two
//! controllers cannot change it at once; PoPs and agents get it from whichever controller is there.

use crate::{
    ControllerError, api, clock,
    signer::{KEYRING, Keyring, STARTED, write_new},
    signin,
};
use serde::{Deserialize, Serialize};
use state::{About, StateDir, StateError, names};
use std::{io, path::Path};
use store::{Scope, Store, StoreError};
use trust::{Role, RootHash, TrustBundle, TrustChain, UnixMs, decode_base64url, encode_base64url};
use wire::{ControllerId, InstallationId};

/// The chain's name among the database's trust documents.
pub(crate) const CHAIN: &str = "chain";
/// The shared secrets of web sessions there, sealed.
pub(crate) const WEB_KEYS: &str = "web-keys";
const FORMAT: u32 = 1;
/// The file has some kilobytes.
const MAX_FILE: u64 = 256 * 1024;

/// There is no further controller, or it is not gone.
#[derive(Debug, thiserror::Error)]
pub enum SeveralError {
    /// The state directory of the controller that is there.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its keys.
    #[error(transparent)]
    Keyring(#[from] crate::KeyringError),
    /// Its chain.
    #[error("the trust chain of this installation: {0}")]
    Chain(#[from] trust::ChainError),
    /// What sign-in keeps.
    #[error(transparent)]
    SignIn(#[from] signin::WebKeysError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing here.
    #[error("{0} is no state directory of a controller that was started once")]
    NoController(String),
    /// A file is one process's.
    #[error(
        "the configuration is in a file, which one controller has for itself: move it into PostgreSQL first (tidegate admin \
         backup, then restore-backup with --database-url-file)"
    )]
    File,
    /// Another database.
    #[error(
        "the database is of installation {found}, and this state directory of {expected}: nothing was changed"
    )]
    Foreign {
        /// Whose it is.
        found: InstallationId,
        /// Whose it should be.
        expected: InstallationId,
    },
    /// The database has nothing yet.
    #[error("the database is empty: nothing was changed")]
    Empty,
    /// Who asks.
    #[error("{0} is the controller of this state directory: remove it from another one")]
    Itself(ControllerId),
    /// Nobody of that name.
    #[error("the trust bundle has no key of {0}")]
    Unknown(ControllerId),
}

/// The file for a new controller cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JoinFileError {
    /// Reading.
    #[error("the file of the new controller, {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// What is in it.
    #[error(
        "the file of the new controller, {path}: {problem}; it is made by `tidegate admin add-controller` at a controller \
         of the installation, for one new controller"
    )]
    Content {
        /// Which.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Somebody can read it.
    #[error("the file of the new controller, {0}, has private keys and may be read by others: chmod 600")]
    Open(String),
    /// A file is one process's.
    #[error(
        "a further controller needs the installation's PostgreSQL: say --database-url-file FILE (or TIDEGATE_DATABASE_URL)"
    )]
    NoServer,
}

/// What a further controller starts with. It has private keys: no `Debug`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JoinFile {
    tidegate_controller: u32,
    installation: InstallationId,
    root: RootHash,
    made: UnixMs,
    keyring: String,
    chain: String,
    web_keys: String,
    answers: String,
}

/// A controller that was added, in the words of its file.
pub struct Added {
    /// Its id.
    pub controller: ControllerId,
    /// The number of the bundle that names it.
    pub serial: u64,
    /// For the file, which has private keys.
    pub file: String,
}

impl std::fmt::Debug for Added {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Added").field("controller", &self.controller).finish_non_exhaustive()
    }
}

/// The controller of a state directory, read beside its process.
struct Own {
    about: About,
    ring: Keyring,
    chain: TrustChain,
    bundle: TrustBundle,
    web_keys: Vec<u8>,
    answers: Vec<u8>,
}

impl Own {
    fn read(state: &Path) -> Result<Self, SeveralError> {
        let none = || SeveralError::NoController(state.display().to_string());
        let about = StateDir::about(state)?.ok_or_else(none)?;
        let secret = |name| StateDir::secret_beside(state, Role::Controller, name);
        let ring = Keyring::decode(&secret(KEYRING)?.ok_or_else(none)?)?;
        let text = std::fs::read(state.join(names::CHAIN)).map_err(|_| none())?;
        let chain = TrustChain::parse_bytes(&text)?;
        let bundle = chain.verify(&about.root, clock::wall())?;
        let ring = ring.beside(&bundle)?;
        let (web_keys, answers) = (secret(signin::WEB_KEYS_FILE)?, secret(api::ANSWERS_KEY_FILE)?);
        Ok(Self {
            about,
            ring,
            chain,
            bundle,
            web_keys: web_keys.ok_or_else(none)?,
            answers: answers.ok_or_else(none)?,
        })
    }

    /// The newest chain: the database's or the one on disk.
    fn newest(&mut self, in_database: Option<&str>) -> Result<(), SeveralError> {
        let Some(text) = in_database else { return Ok(()) };
        let chain = TrustChain::parse(text)?;
        let bundle = chain.verify(&self.about.root, clock::wall())?;
        if (bundle.epoch(), bundle.serial()) >= (self.bundle.epoch(), self.bundle.serial()) {
            self.ring = self.ring.clone().beside(&bundle)?;
            (self.chain, self.bundle) = (chain, bundle);
        }
        Ok(())
    }

    async fn has(&self, store: &Store) -> Result<(), SeveralError> {
        if !store.is_shared() {
            return Err(SeveralError::File);
        }
        let found = store.load().await?.ok_or(SeveralError::Empty)?.installation.id;
        let expected = self.about.installation;
        if found == expected { Ok(()) } else { Err(SeveralError::Foreign { found, expected }) }
    }
}

/// Makes the keys of one more controller and names them in the installation's bundle. Works beside the running controller
/// of `state`, which publishes the bundle within seconds.
///
/// # Errors
/// [`SeveralError`]: nothing was changed.
pub async fn add_controller(state: &Path, store: &Store, actor: &str) -> Result<Added, SeveralError> {
    let mut own = Own::read(state)?;
    own.has(store).await?;
    let wall = clock::wall();
    let mut change = store.change(Scope::Installation, actor, wall.as_millis()).await?;
    own.newest(change.trust_document(CHAIN).await?.as_deref())?;
    let controller = ControllerId::from_time_and_random(wall.as_millis(), clock::random());
    let (ring, chain) = own.ring.joining(controller, &own.chain, &own.bundle, wall)?;
    let chain = chain.to_text();
    change.put_trust_document(CHAIN, &chain).await?;
    let web_keys = match change.trust_document(WEB_KEYS).await? {
        Some(sealed) => signin::opened_web_keys(&own.ring.shared_secret()?, &sealed)?,
        None => {
            let sealed = signin::sealed_web_keys(&own.ring.shared_secret()?, &own.web_keys);
            change.put_trust_document(WEB_KEYS, &sealed).await?;
            own.web_keys.clone()
        }
    };
    change.commit("add controller", &controller.to_string(), "{}").await?;
    let file = JoinFile {
        tidegate_controller: FORMAT,
        installation: own.about.installation,
        root: own.about.root,
        made: wall,
        keyring: encode_base64url(&ring.encode()),
        chain,
        web_keys: encode_base64url(&web_keys),
        answers: encode_base64url(&own.answers),
    };
    let file = serde_json::to_string(&file).expect("text and numbers always serialize");
    Ok(Added { controller, serial: own.bundle.serial() + 1, file })
}

/// Takes every key of a controller out of the installation's bundle: nothing that it signs is believed from then on.
/// Says the number of the new bundle.
///
/// # Errors
/// [`SeveralError`]: nothing was changed.
pub async fn remove_controller(
    state: &Path,
    store: &Store,
    actor: &str,
    controller: ControllerId,
) -> Result<u64, SeveralError> {
    let mut own = Own::read(state)?;
    if own.ring.controller == controller {
        return Err(SeveralError::Itself(controller));
    }
    own.has(store).await?;
    let wall = clock::wall();
    let mut change = store.change(Scope::Installation, actor, wall.as_millis()).await?;
    own.newest(change.trust_document(CHAIN).await?.as_deref())?;
    if !own.bundle.all_keys().any(|key| key.owner == controller) {
        return Err(SeveralError::Unknown(controller));
    }
    let chain = own.ring.without(controller, &own.chain, &own.bundle, wall)?;
    change.put_trust_document(CHAIN, &chain.to_text()).await?;
    change.commit("remove controller", &controller.to_string(), "{}").await?;
    Ok(own.bundle.serial() + 1)
}

/// Writes a new controller's file: private from the beginning, and whole.
///
/// # Errors
/// The disk, or the file is there already.
pub fn write_controller_file(path: &Path, added: &Added) -> io::Result<()> {
    write_new(path, added.file.as_bytes())
}

/// Makes a state directory of a file.
pub(crate) fn join(path: &Path, file: &Path) -> Result<StateDir, ControllerError> {
    use std::os::unix::fs::MetadataExt as _;
    let shown = || file.display().to_string();
    let read = |source| JoinFileError::Read { path: shown(), source };
    let content = |problem: String| JoinFileError::Content { path: shown(), problem };
    let about = std::fs::metadata(file).map_err(read)?;
    if about.mode() & 0o077 != 0 {
        return Err(JoinFileError::Open(shown()).into());
    }
    if about.len() > MAX_FILE {
        return Err(content(format!("it has {} bytes, which is far too much", about.len())).into());
    }
    let text = std::fs::read(file).map_err(read)?;
    let parsed: JoinFile = serde_json::from_slice(&text).map_err(|error| content(error.to_string()))?;
    if parsed.tidegate_controller != FORMAT {
        return Err(content(format!("it is of form {}", parsed.tidegate_controller)).into());
    }
    let bytes =
        |what: &str, text: &str| decode_base64url(text).map_err(|error| content(format!("{what}: {error}")));
    let keyring = bytes("the keyring", &parsed.keyring)?;
    let (web_keys, answers) = (bytes("web keys", &parsed.web_keys)?, bytes("answers", &parsed.answers)?);
    let ring = Keyring::decode(&keyring).map_err(|error| content(error.to_string()))?;
    let wall = clock::wall();
    let bundle = TrustChain::parse(&parsed.chain).and_then(|chain| chain.verify(&parsed.root, wall));
    let bundle = bundle.map_err(|error| content(format!("its trust chain: {error}")))?;
    let is_one = ring.installation == parsed.installation && bundle.installation() == parsed.installation;
    if !is_one || !ring.is_named_by(&bundle) {
        return Err(content("its parts do not belong together".into()).into());
    }
    let about = About::new(parsed.installation, Role::Controller, parsed.root);
    let directory = StateDir::create(path, &about)?;
    directory.write(names::CHAIN, parsed.chain.as_bytes())?;
    clock::begin_time_line(&directory, wall)?;
    directory.write_secret(signin::WEB_KEYS_FILE, &web_keys)?;
    directory.write_secret(api::ANSWERS_KEY_FILE, &answers)?;
    // It has heard of no strike yet, and others have made some: with this line it issues nothing before a PoP has told it
    // what is struck.
    let long_ago = parsed.made.minus(2 * crate::gate::SNAPSHOT_LIFE);
    directory.write(crate::gate::LAST_BEACON, long_ago.as_millis().to_string().as_bytes())?;
    directory.write(STARTED, b"")?;
    // Last: a directory with a keyring is complete.
    directory.write_secret(KEYRING, &keyring)?;
    Ok(directory)
}
