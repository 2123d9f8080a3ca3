//! The sealing of secrets at rest.

use crate::{StateError, create_private_dir, read_bounded, write_durably};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::{
    fmt,
    path::{Path, PathBuf},
};

const KEY_LEN: usize = 32;
/// The name systemd passes the key under (`LoadCredentialEncrypted=tidegate-seal:…`).
const CREDENTIAL: &str = "tidegate-seal";

/// Where the sealing key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealSource {
    /// A systemd credential: `$CREDENTIALS_DIRECTORY/tidegate-seal`. Never created by us.
    Credential(PathBuf),
    /// A file named by `TIDEGATE_SEAL_FILE`. Created when missing.
    File(PathBuf),
    /// `DIR/secrets/seal.key`. Created when missing: keeps secrets out of a copied single file, not
    /// out of a copied directory.
    Beside(PathBuf),
}

impl SealSource {
    /// Credential, else named file, else beside the secrets.
    #[must_use]
    pub fn from_environment(dir: &Path) -> Self {
        if let Some(credentials) = std::env::var_os("CREDENTIALS_DIRECTORY") {
            let path = Path::new(&credentials).join(CREDENTIAL);
            if path.exists() {
                return Self::Credential(path);
            }
        }
        match std::env::var_os("TIDEGATE_SEAL_FILE") {
            Some(file) => Self::File(file.into()),
            None => Self::Beside(dir.join("secrets").join("seal.key")),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Credential(path) | Self::File(path) | Self::Beside(path) => path,
        }
    }
}

pub(crate) struct Sealer {
    key: LessSafeKey,
    from: String,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer(from {})", self.from)
    }
}

impl Sealer {
    pub(crate) fn open(dir: &Path, source: &SealSource) -> Result<Self, StateError> {
        let path = source.path();
        match read_bounded(path)? {
            Some(bytes) => Self::from_bytes(path, &bytes),
            None => Err(StateError::Damaged {
                path: path.to_owned(),
                problem: format!("the sealing key of {} is missing", dir.display()),
            }),
        }
    }

    pub(crate) fn create(dir: &Path, source: &SealSource) -> Result<Self, StateError> {
        let path = source.path();
        let may_create = !matches!(source, SealSource::Credential(_));
        if may_create && read_bounded(path)?.is_none() {
            let mut key = [0; KEY_LEN];
            aws_lc_rs::rand::fill(&mut key).expect("the operating system's random source works");
            let (parent, name) = (path.parent(), path.file_name().and_then(|name| name.to_str()));
            let (Some(parent), Some(name)) = (parent, name) else {
                return Err(StateError::Damaged { path: path.to_owned(), problem: "not a file path".into() });
            };
            create_private_dir(parent)?;
            write_durably(parent, name, &key)?;
        }
        Self::open(dir, source)
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, StateError> {
        if bytes.len() != KEY_LEN {
            return Err(StateError::Damaged {
                path: path.to_owned(),
                problem: format!("a sealing key has {KEY_LEN} bytes, this file {}", bytes.len()),
            });
        }
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("the length was checked");
        Ok(Self { key: LessSafeKey::new(key), from: path.display().to_string() })
    }

    pub(crate) fn seal(&self, name: &str, secret: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        // Random 96-bit nonces: a directory sees far fewer than the 2^32 writes they are good for.
        aws_lc_rs::rand::fill(&mut nonce).expect("the operating system's random source works");
        let mut sealed = secret.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut sealed,
            )
            .expect("secrets are far below the cipher's limit");
        [&nonce[..], &sealed].concat()
    }

    pub(crate) fn open_secret(
        &self,
        path: &Path,
        name: &str,
        mut sealed: Vec<u8>,
    ) -> Result<Vec<u8>, StateError> {
        let error = || StateError::Sealed { path: path.to_owned(), from: self.from.clone() };
        if sealed.len() < NONCE_LEN {
            return Err(error());
        }
        let mut body = sealed.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| error())?;
        let plain =
            self.key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut body).map_err(|_| error())?;
        Ok(plain.to_vec())
    }
}
