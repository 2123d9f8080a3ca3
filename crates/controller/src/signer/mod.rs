//! Everything this controller signs, and with which key: each key has exactly one role.

mod ceremony;
mod keyring;
mod phrase;
mod rotation;
mod sealing;

pub use ceremony::{
    AfterExport, RootError, RootKeyPlace, expect_root, export_root, first_start_was_shown, open_root_file,
    root_key_file, root_key_place,
};
pub(crate) use ceremony::{KEYRING, STARTED, first_start, is_complete, write_new};
pub(crate) use keyring::Keyring;
pub use keyring::KeyringError;
pub use phrase::{PhraseError, RecoveryPhrase};
pub use rotation::RotationError;
pub(crate) use rotation::{ROTATION_COPIES, Replacing};
pub use sealing::RootSealError;

use crate::clock::{self, Fenced, TimeLine};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use session::LocalIdentity;
use state::{StateDir, StateError, names};
use std::{
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use trust::{
    Beacon, CertificateRequest, Document, Grant, Identity, KeyRole, OpenKey, Revocation, RootHash,
    SigningKey, TrustBundle, TrustChain, UnixMs, VerifyingKey, issue_certificate, sign_document,
};
use wire::{ControllerId, InstallationId};

/// Certificates are dated back for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(300);
/// Life of an agent's certificate (architecture: 30 days).
pub(crate) const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// With this much of its life left a key that nobody replaced is an alarm; a third is when it is replaced.
const ALARM_PERCENT: u64 = 33;
/// Life of the console's certificate; it is made again at each start and when half of it is over.
const CONSOLE_CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The clock cannot be believed.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// No key.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The document breaks a rule.
    #[error(transparent)]
    Document(#[from] trust::DocumentError),
    /// The certificate could not be encoded.
    #[error("the certificate could not be encoded: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The chain on disk.
    #[error("the trust chain of this controller: {0}")]
    Chain(#[from] trust::ChainError),
    /// The state directory has no keys.
    #[error("the state directory is not complete: {0} is missing; restore it from a backup")]
    Incomplete(&'static str),
    /// The own identity.
    #[error(transparent)]
    Identity(#[from] session::IdentityError),
    /// Another rotation key.
    #[error(transparent)]
    Rotation(#[from] RotationError),
}

struct Keys {
    ring: Keyring,
    chain: TrustChain,
    bundle: Arc<TrustBundle>,
    open: Arc<Vec<OpenKey>>,
}

/// Signs with the right key, in time that can be believed.
pub struct Signer {
    directory: Arc<StateDir>,
    time_line: TimeLine,
    root: RootHash,
    keys: RwLock<Keys>,
    /// Keys are on disk that the database is about to name.
    prepared: AtomicBool,
    /// A rotation key that the root has not signed for yet.
    offered: Mutex<Option<SigningKey>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads keys and chain.
    ///
    /// # Errors
    /// [`SignError`]: nothing of another installation and nothing damaged is used.
    pub fn open(directory: Arc<StateDir>) -> Result<Self, SignError> {
        let root = directory.of().root;
        let ring = directory.read_secret(KEYRING)?.ok_or(SignError::Incomplete(KEYRING))?;
        let ring = Keyring::decode(&ring)?;
        // The generation before would name fewer keys than the keyring holds: only the newest will do.
        let text = directory.read(names::CHAIN)?.ok_or(SignError::Incomplete(names::CHAIN))?;
        let chain = TrustChain::parse_bytes(&text)?;
        let time_line = TimeLine::open(Arc::clone(&directory));
        // A clock that is behind or ahead fences what is signed; it does not make the own chain unreadable.
        let wall = time_line.unfenced_time();
        let bundle = chain.verify(&root, wall)?;
        let ring = ring.beside(&bundle)?;
        // Of several controllers' chain nobody makes a new one alone.
        let reconciled =
            if ring.is_one_of_several() { None } else { ring.reconciled(&chain, &bundle, wall)? };
        let (ring, chain, bundle) = match reconciled {
            None if ring.is_one_of_several() => (ring.only_named_by(&bundle)?, chain, bundle),
            None => (ring, chain, bundle),
            Some((ring, chain)) => {
                tracing::warn!(
                    "keyring and trust chain did not agree; a chain that names this keyring was made"
                );
                let bundle = chain.verify(&root, wall)?;
                write_keys(&directory, &ring, &chain)?;
                (ring, chain, bundle)
            }
        };
        let open = Arc::new(ring.open_keys()?);
        let keys = RwLock::new(Keys { ring, chain, bundle: Arc::new(bundle), open });
        let prepared = AtomicBool::new(false);
        Ok(Self { time_line, directory, root, keys, prepared, offered: Mutex::new(None) })
    }

    /// Whether other controllers have keys in the bundle.
    pub(crate) fn is_one_of_several(&self) -> bool {
        self.keys(|keys| keys.ring.is_one_of_several())
    }

    /// A secret that every controller of this installation can make, and the database cannot.
    pub(crate) fn shared_secret(&self) -> Result<[u8; 32], SignError> {
        Ok(self.keys(|keys| keys.ring.shared_secret())?)
    }

    /// Takes the chain that the database has, when it is newer, and the copy of its rotation key, where that is another
    /// one. Blocking: it is written down.
    ///
    /// # Errors
    /// [`SignError`]: it does not verify; the one held goes on.
    pub(crate) fn adopt(&self, text: &str, copies: Option<&str>) -> Result<Rotated, SignError> {
        let chain = TrustChain::parse(text)?;
        let newer = chain.verify(&self.root, self.unfenced_time())?;
        let mut keys = self.keys.write().expect("nothing panics while it holds the keys");
        // What is being put into the database is read back there before it is here with its private halves.
        if self.prepared.load(Ordering::SeqCst) {
            return Ok(Rotated::No);
        }
        // Of two with one number the database's is the one: the other was made by somebody who did not know of it.
        if newer.installation() != keys.ring.installation
            || (newer.epoch(), newer.serial()) < (keys.bundle.epoch(), keys.bundle.serial())
            || (newer == *keys.bundle && keys.ring.has_rotation_of(&newer))
        {
            return Ok(Rotated::No);
        }
        let mut ring = keys.ring.clone();
        if !ring.has_rotation_of(&newer) {
            match copies.and_then(|copies| rotation::own_copy(&ring, &newer, copies)) {
                Some(key) => ring = ring.with_next_rotation(&key),
                None => {
                    tracing::warn!("the trust chain has a rotation key that this controller has no copy of")
                }
            }
        }
        let ring = ring.beside(&newer)?;
        write_keys(&self.directory, &ring, &chain)?;
        let open = Arc::new(ring.open_keys()?);
        *keys = Keys { ring, chain, bundle: Arc::new(newer), open };
        Ok(Rotated::Yes)
    }

    /// What has to become of the chain that several controllers share: keys replaced that near their end, keys named that
    /// nobody was told of. `None`: nothing is due. Nothing is changed by asking.
    ///
    /// # Errors
    /// [`SignError`].
    pub(crate) fn due(&self, renewal: Renewal) -> Result<Option<Due>, SignError> {
        let wall = self.signing_time()?;
        let due = self.keys(|keys| {
            // One that was removed does not put itself back.
            if !keys.ring.is_named_by(&keys.bundle) {
                return Ok(None);
            }
            if let Renewal::Now { published_for } = renewal {
                return keys.ring.renewed(&keys.chain, wall, published_for).map(Some);
            }
            match keys.ring.reconciled(&keys.chain, &keys.bundle, wall)? {
                Some(due) => Ok(Some(due)),
                None => keys.ring.rotated(&keys.chain, wall),
            }
        })?;
        Ok(due.map(|(ring, chain)| Due { ring, chain }))
    }

    /// The private halves first: what the database names is not lost. Blocking.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn prepare(&self, due: &Due) -> Result<(), SignError> {
        let _keys = self.keys.write().expect("nothing panics while it holds the keys");
        self.prepared.store(true, Ordering::SeqCst);
        Ok(self.directory.write_secret(KEYRING, &due.ring.encode())?)
    }

    /// It is in the database and here, or it came to nothing: what the database has is taken again.
    pub(crate) fn settled(&self) {
        self.prepared.store(false, Ordering::SeqCst);
    }

    /// It is in the database: it is the chain now. Blocking.
    ///
    /// # Errors
    /// [`SignError`]; the next start finds it in the database.
    pub(crate) fn install(&self, due: Due) -> Result<u64, SignError> {
        let Due { ring, chain } = due;
        let bundle = Arc::new(chain.verify(&self.root, self.unfenced_time())?);
        let open = Arc::new(ring.open_keys()?);
        let mut keys = self.keys.write().expect("nothing panics while it holds the keys");
        // On the disk with both rotation keys, where there are two: after a crash between the two writes the chain there is
        // the one of before.
        write_keys(&self.directory, &ring, &chain)?;
        let ring = ring.beside(&bundle)?;
        let serial = bundle.serial();
        *keys = Keys { ring, chain, bundle, open };
        Ok(serial)
    }

    fn keys<T>(&self, read: impl FnOnce(&Keys) -> T) -> T {
        read(&self.keys.read().expect("nothing panics while it holds the keys"))
    }

    /// The pinned root.
    #[must_use]
    pub const fn root(&self) -> RootHash {
        self.root
    }

    /// The installation.
    #[must_use]
    pub fn installation(&self) -> InstallationId {
        self.keys(|keys| keys.ring.installation)
    }

    /// This controller.
    #[must_use]
    pub fn controller(&self) -> ControllerId {
        self.keys(|keys| keys.ring.controller)
    }

    /// The chain's text.
    #[must_use]
    pub fn chain_text(&self) -> String {
        self.keys(|keys| keys.chain.to_text())
    }

    /// The newest bundle.
    #[must_use]
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.keys(|keys| Arc::clone(&keys.bundle))
    }

    /// The keys that open control frames.
    #[must_use]
    pub fn open_keys(&self) -> Arc<Vec<OpenKey>> {
        self.keys(|keys| Arc::clone(&keys.open))
    }

    /// The time to sign with.
    ///
    /// # Errors
    /// [`Fenced`].
    pub fn signing_time(&self) -> Result<UnixMs, Fenced> {
        self.time_line.signing_time()
    }

    /// The time to strike with, also when nothing else may be signed.
    ///
    /// # Errors
    /// [`Fenced::Unreadable`].
    pub fn strike_time(&self) -> Result<UnixMs, Fenced> {
        self.time_line.strike_time()
    }

    /// The wall clock, or what is known better when it cannot be believed.
    #[must_use]
    pub fn best_time(&self) -> UnixMs {
        self.time_line.best_time()
    }

    /// The time by which sessions, tokens and codes end.
    #[must_use]
    pub fn proof_time(&self) -> UnixMs {
        self.time_line.proof_time()
    }

    /// Replaces keys that near their end. Says whether the bundle changed.
    ///
    /// # Errors
    /// [`SignError`]; the old keys go on.
    pub fn rotate_if_due(&self) -> Result<Rotated, SignError> {
        let wall = self.signing_time()?;
        let Some((ring, chain)) = self.keys(|keys| keys.ring.rotated(&keys.chain, wall))? else {
            return Ok(Rotated::No);
        };
        let bundle = Arc::new(chain.verify(&self.root, wall)?);
        let open = Arc::new(ring.open_keys()?);
        write_keys(&self.directory, &ring, &chain)?;
        *self.keys.write().expect("nothing panics while it holds the keys") =
            Keys { ring, chain, bundle, open };
        Ok(Rotated::Yes)
    }

    /// Makes new keys of every role now; they sign after `published_for`.
    ///
    /// # Errors
    /// [`SignError`]; the old keys go on.
    pub fn rotate_now(&self, published_for: Duration) -> Result<u64, SignError> {
        let wall = self.signing_time()?;
        let (ring, chain) = self.keys(|keys| keys.ring.renewed(&keys.chain, wall, published_for))?;
        let bundle = Arc::new(chain.verify(&self.root, wall)?);
        let open = Arc::new(ring.open_keys()?);
        write_keys(&self.directory, &ring, &chain)?;
        let serial = bundle.serial();
        *self.keys.write().expect("nothing panics while it holds the keys") =
            Keys { ring, chain, bundle, open };
        Ok(serial)
    }

    /// Puts the offered rotation key in place, for which the root has signed: where no other controller has keys. Blocking.
    ///
    /// # Errors
    /// [`SignError`]; the one of before goes on.
    pub fn replace_rotation_key(&self, signed: &str, without: &[ControllerId]) -> Result<u64, SignError> {
        let Replacing { due, .. } = self.under_rotation(signed, without)?;
        self.prepare(&due)?;
        let installed = self.install(due);
        self.settled();
        let serial = installed?;
        self.rotation_key_is_used();
        Ok(serial)
    }

    /// When the first of the newest keys ends, and an alarm in words when a third of a life or less is left: keys are
    /// replaced before that, so nobody replaces them.
    #[must_use]
    pub fn keys_end(&self) -> (UnixMs, Option<String>) {
        let Some((role, end)) = self.keys(|keys| keys.ring.next_end()) else { return Default::default() };
        let left = end.since(self.unfenced_time());
        let is_low = left.as_secs() * 100 < trust::MAX_KEY_LIFE.as_secs() * ALARM_PERCENT;
        let alarm = is_low.then(|| {
            format!(
                "the newest {role:?} key of this controller ends in {} days and was not replaced: signing stops then",
                left.as_secs() / 86_400
            )
        });
        (end, alarm)
    }

    fn unfenced_time(&self) -> UnixMs {
        self.time_line.unfenced_time()
    }

    fn signing_key(&self, role: KeyRole, wall: UnixMs) -> Result<SigningKey, KeyringError> {
        self.keys(|keys| keys.ring.signing(role, wall))
    }

    /// Signs any document with the key of its role.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign<D: Document>(&self, document: &D) -> Result<String, SignError> {
        let wall = self.signing_time()?;
        Ok(sign_document(&self.signing_key(D::ROLE, wall)?, document)?)
    }

    /// Signs an entry of the strike list.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign_strike(&self, entry: &Revocation) -> Result<String, SignError> {
        let key = self.signing_key(Revocation::ROLE, self.strike_time()?)?;
        Ok(sign_document(&key, entry)?)
    }

    /// Issues a certificate of 30 days.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn certificate(
        &self,
        identity: Identity,
        public_key: VerifyingKey,
        generation: u64,
    ) -> Result<Vec<u8>, SignError> {
        let wall = self.signing_time()?;
        let issuer = self.signing_key(identity.role().issuer(), wall)?;
        let request = CertificateRequest {
            identity,
            public_key,
            generation,
            not_before: wall.minus(BACKDATED),
            not_after: wall.plus(CERTIFICATE_LIFE),
            serial_random: clock::random(),
        };
        Ok(issue_certificate(&issuer, &request)?)
    }

    /// Who this controller is to PoPs: a fresh certificate for its durable key.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn local_identity(&self) -> Result<LocalIdentity, SignError> {
        let key = self.keys(|keys| keys.ring.identity())?;
        let identity = Identity::controller(self.installation(), self.controller());
        let certificate = self.certificate(identity, key.verifying_key(), 1)?;
        Ok(LocalIdentity::new(&certificate, &key)?)
    }

    /// A grant's text.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn grant(&self, grant: &Grant) -> Result<String, SignError> {
        self.sign(grant)
    }

    /// A beacon's text.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn beacon(&self, beacon: &Beacon) -> Result<String, SignError> {
        self.sign(beacon)
    }

    /// A web certificate for the console and API, by the console CA.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn console_certificate(&self, names: &[String]) -> Result<ConsoleCertificate, SignError> {
        // It gives no access to anything: a fenced controller still shows its status by it.
        let wall = self.time_line.unfenced_time();
        let (ca_pair, ca_end) = self.keys(|keys| keys.ring.console_ca(wall))?;
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        ca.distinguished_name
            .push(DnType::CommonName, format!("Tidegate console CA of {}", self.installation()));
        ca.not_before = date(wall.minus(BACKDATED));
        ca.not_after = date(ca_end);
        let ca_certificate = ca.self_signed(&ca_pair)?;
        let issuer = Issuer::from_params(&ca, &ca_pair);

        let mut leaf = CertificateParams::new(names.to_vec())?;
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, "Tidegate console");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.not_before = date(wall.minus(BACKDATED));
        leaf.not_after = date(wall.plus(CONSOLE_CERTIFICATE_LIFE).min(ca_end));
        let leaf_pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let leaf = leaf.signed_by(&leaf_pair, &issuer)?;
        Ok(ConsoleCertificate {
            chain: vec![leaf.der().clone(), ca_certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_pair.serialize_der())),
            ca_pem: ca_certificate.pem(),
        })
    }
}

/// The private halves first: a chain on disk never names keys that are lost. A crash between the two is
/// mended by the next start.
fn write_keys(directory: &StateDir, ring: &Keyring, chain: &TrustChain) -> Result<(), SignError> {
    directory.write_secret(KEYRING, &ring.encode())?;
    directory.write_generation(names::CHAIN, chain.to_text().as_bytes())?;
    Ok(())
}

/// A certificate with its key, for the TLS listener.
pub struct ConsoleCertificate {
    /// The leaf, then the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// The CA as PEM, for people who import it into a browser.
    pub ca_pem: String,
}

/// A chain that is to be the next one, with the private halves of what is new in it.
pub(crate) struct Due {
    ring: Keyring,
    chain: TrustChain,
}

impl Due {
    pub(crate) fn chain_text(&self) -> String {
        self.chain.to_text()
    }
}

/// Why keys are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// Some may near their end.
    WhenDue,
    /// Somebody says so.
    Now {
        /// They sign after this.
        published_for: Duration,
    },
}

/// Whether keys were replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotated {
    /// The bundle changed and must be published.
    Yes,
    /// Nothing was due.
    No,
}

fn date(time: UnixMs) -> time::OffsetDateTime {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trust::{Certificate, Unverified};
    use wire::{DeviceId, OrganizationId};

    #[test]
    fn a_controller_starts_from_its_disk_and_its_signatures_hold_under_the_pinned_root() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controller");
        let made = first_start(&path).unwrap();
        let root = made.directory.of().root;
        drop(made);
        let directory = Arc::new(StateDir::open(&path, trust::Role::Controller).unwrap());
        let signer = Signer::open(directory).unwrap();
        let wall = clock::wall();
        let bundle = TrustChain::parse(&signer.chain_text()).unwrap().verify(&root, wall).unwrap();
        let device = SigningKey::generate();
        let identity = Identity::device(
            signer.installation(),
            OrganizationId::from_bytes([1; 16]),
            DeviceId::from_bytes([2; 16]),
        );
        let der = signer.certificate(identity, device.verifying_key(), 3).unwrap();
        let certificate = Certificate::verify(&der, &bundle, wall).unwrap();
        assert_eq!((certificate.identity(), certificate.generation()), (identity, 3));
        let beacon = Beacon {
            installation: signer.installation(),
            controller: signer.controller(),
            time: wall,
            versions: Default::default(),
            heads: Default::default(),
            nonce: None,
            ext: None,
        };
        let text = signer.beacon(&beacon).unwrap();
        assert_eq!(Unverified::<Beacon>::parse(&text).unwrap().verify(&bundle, wall).unwrap(), beacon);
        signer.local_identity().unwrap();
        assert_eq!(signer.rotate_if_due().unwrap(), Rotated::No);
        let console = signer.console_certificate(&["localhost".into(), "127.0.0.1".into()]).unwrap();
        let ca = trust::subject_public_key(&console.chain[1]).unwrap();
        assert!(bundle.keys(KeyRole::ConsoleCa).any(|key| key.public == ca));
    }

    #[test]
    fn a_key_that_nobody_replaces_is_an_alarm_when_a_third_of_its_life_is_left_and_a_replaced_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controller");
        drop(first_start(&path).unwrap());
        let signer = Signer::open(Arc::new(StateDir::open(&path, trust::Role::Controller).unwrap())).unwrap();
        assert_eq!(signer.keys_end().1, None);
        clock::later(Duration::from_secs(60 * 24 * 3600));
        assert_eq!(signer.keys_end().1, None, "due, and still in time");
        clock::later(Duration::from_secs(61 * 24 * 3600));
        assert!(signer.keys_end().1.unwrap().contains("ends in 28 days"), "{:?}", signer.keys_end());
        drop(signer);
        say_that_it_is_so(&path);
        let signer = Signer::open(Arc::new(StateDir::open(&path, trust::Role::Controller).unwrap())).unwrap();
        assert_eq!(signer.rotate_if_due().unwrap(), Rotated::Yes);
        assert_eq!(signer.keys_end().1, None);
    }

    /// Somebody says that the clock is right, months after the last start.
    fn say_that_it_is_so(path: &std::path::Path) {
        let directory = StateDir::open(path, trust::Role::Controller).unwrap();
        clock::begin_time_line(&directory, clock::wall()).unwrap();
    }

    /// The keys of a bundle with this controller's private halves.
    fn named_and_held(signer: &Signer) -> (usize, usize) {
        (signer.bundle().all_keys().count(), signer.keys(|keys| keys.ring.count()))
    }

    #[test]
    fn a_crash_between_keyring_and_chain_leaves_no_key_that_nobody_was_told_of_and_none_that_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controller");
        let root = first_start(&path).unwrap().directory.of().root;
        let open =
            || Signer::open(Arc::new(StateDir::open(&path, trust::Role::Controller).unwrap())).unwrap();
        let (chain, ring) = (path.join(names::CHAIN), path.join("secrets").join(KEYRING));
        let (old_chain, old_ring) = (std::fs::read(&chain).unwrap(), std::fs::read(&ring).unwrap());
        let roles = KeyRole::ALL.len();
        clock::later(Duration::from_secs(61 * 24 * 3600));
        say_that_it_is_so(&path);
        let signer = open();
        assert_eq!(signer.rotate_if_due().unwrap(), Rotated::Yes);
        assert_eq!((named_and_held(&signer), signer.bundle().serial()), ((2 * roles, 2 * roles), 2));
        let (new_chain, new_ring) = (std::fs::read(&chain).unwrap(), std::fs::read(&ring).unwrap());
        drop(signer);
        // The new keyring, and the chain of before.
        std::fs::write(&chain, &old_chain).unwrap();
        let signer = open();
        assert_eq!((named_and_held(&signer), signer.bundle().serial()), ((2 * roles, 2 * roles), 2));
        drop(signer);
        assert_eq!(open().bundle().serial(), 2, "once is enough");
        // The keyring of before, and the new chain: what it names and nobody has goes away, under a newer number.
        std::fs::write(&chain, &new_chain).unwrap();
        std::fs::write(&ring, &old_ring).unwrap();
        let signer = open();
        assert_eq!((named_and_held(&signer), signer.bundle().serial()), ((roles, roles), 3));
        let on_disk = TrustChain::parse_bytes(&std::fs::read(&chain).unwrap()).unwrap();
        assert_eq!(on_disk.verify(&root, clock::wall()).unwrap().serial(), 3);
        assert_ne!(std::fs::read(&ring).unwrap(), new_ring);
        clock::later(Duration::ZERO);
    }
}
