//! The file that has the audit log's ends: signed with this controller's own durable key, so that neither the database nor a
//! text editor nor another controller's file speaks for it.
//!
//! A file that does not verify is never replaced unseen: it is put aside under another name, and the signed file that takes
//! its place says so from then on. The ends in it are believed no more than any other text of unknown hand.

use super::End;
use crate::{
    api::rfc3339,
    clock,
    signer::{KEYRING, Keyring, SignError},
};
use serde::{Deserialize, Serialize};
use state::{StateDir, StateError};
use std::{collections::BTreeMap, fmt, sync::Arc};
use trust::{
    SigningKey, UnixMs,
    paseto::{self, UnverifiedToken},
};

const FILE: &str = "audit.heads";
/// Says that a signed file was written: from then on neither an unsigned one nor none at all is what this controller left.
const SIGNED: &str = "audit.signed";
/// What the signature is for; the key signs other things, too.
const DOMAIN: &[u8] = b"tidegate/audit-ends/1";
/// How a file that was refused is named, with the time behind it.
const ASIDE: &str = "audit.heads.refused-";
/// Most that are put aside: a directory that somebody keeps writing into does not fill.
const MAX_ASIDE: usize = 16;

/// A file that was not this controller's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    at_ms: u64,
    why: String,
    /// Under which name it was put aside, when there was a file and room.
    aside: Option<String>,
    /// How many were put aside before it.
    earlier: usize,
}

/// What is signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) ends: BTreeMap<String, End>,
    /// The last file that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
    /// When the ends came from a file of a version that did not sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unsigned_ms: Option<u64>,
}

impl Remembered {
    /// What is certainly wrong with what was remembered.
    pub(super) fn broken(&self) -> Option<String> {
        let Refused { at_ms, why, aside, earlier } = self.refused.as_ref()?;
        let at = rfc3339(UnixMs::from_millis(*at_ms));
        let place = aside.as_ref().map(|aside| format!("; it is kept as {aside}")).unwrap_or_default();
        let times = earlier + 1;
        Some(format!(
            "what this controller remembers outside the database was tampered with ({times} times, last found at {at}): {why}{place}"
        ))
    }

    /// What may have a good reason.
    pub(super) fn doubt(&self) -> Option<String> {
        self.unsigned_ms.map(|at| {
            let at = rfc3339(UnixMs::from_millis(at));
            format!("the ends were taken over on {at} from a file that an earlier version left unsigned")
        })
    }
}

/// The file, and the key that signs it.
pub(super) struct Kept {
    directory: Arc<StateDir>,
    key: SigningKey,
    /// The installation and this controller: a file of another one is no word of this one.
    assertion: Vec<u8>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("key", &self.key.verifying_key()).finish_non_exhaustive()
    }
}

impl Kept {
    /// With the key that lasts as long as this controller.
    ///
    /// # Errors
    /// The keyring.
    pub(super) fn open(directory: Arc<StateDir>) -> Result<Self, SignError> {
        let ring = directory.read_secret(KEYRING)?.ok_or(SignError::Incomplete(KEYRING))?;
        let key = Keyring::decode(&ring)?.identity()?;
        let installation = directory.of().installation;
        let assertion = [DOMAIN, installation.as_bytes(), key.verifying_key().as_bytes()].concat();
        Ok(Self { directory, key, assertion })
    }

    /// Reads what is remembered. What does not verify is put aside, and that is remembered.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub(super) fn read(&self) -> Result<Remembered, StateError> {
        let was_signed = self.directory.read(SIGNED)?.is_some();
        let Some(bytes) = self.directory.read(FILE)? else {
            if was_signed {
                return self.refuse("the file was removed", None);
            }
            return Ok(Remembered::default());
        };
        match self.verified(&bytes) {
            Ok(remembered) => Ok(remembered),
            Err(_) if !was_signed && let Ok(ends) = serde_json::from_slice(&bytes) => {
                let unsigned_ms = Some(clock::wall().as_millis());
                let taken = Remembered { ends, unsigned_ms, ..Remembered::default() };
                tracing::info!("the ends of the audit log are signed from now on");
                self.write(&taken)?;
                Ok(taken)
            }
            Err(why) => self.refuse(&why, Some(&bytes)),
        }
    }

    /// Signs what is remembered and writes it down.
    ///
    /// # Errors
    /// Not written.
    pub(super) fn write(&self, remembered: &Remembered) -> Result<(), StateError> {
        let message = serde_json::to_vec(remembered).expect("numbers and texts always serialize");
        let footer = self.key.verifying_key().key_id();
        let token = paseto::sign(&self.key, &message, footer.as_bytes(), &self.assertion);
        self.directory.write(FILE, token.as_bytes())?;
        // After the file: a crash in between leaves a signed file, which verifies without this.
        if self.directory.read(SIGNED)?.is_none() {
            self.directory.write(SIGNED, footer.to_string().as_bytes())?;
        }
        Ok(())
    }

    fn verified(&self, bytes: &[u8]) -> Result<Remembered, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let token = UnverifiedToken::parse(text).map_err(|_| "it is not signed".to_owned())?;
        if token.footer() != self.key.verifying_key().key_id().as_bytes() {
            return Err("it is signed with another key than this controller's".to_owned());
        }
        let message = token
            .verify(&self.key.verifying_key(), &self.assertion)
            .map_err(|_| "it was changed after it was signed".to_owned())?;
        serde_json::from_slice(&message).map_err(|error| format!("it was signed and cannot be read: {error}"))
    }

    /// Begins anew and says why.
    fn refuse(&self, why: &str, bytes: Option<&[u8]>) -> Result<Remembered, StateError> {
        let at_ms = clock::wall().as_millis();
        // The list in a file that is not believed is not believed either: what was put aside tells of earlier ones.
        let earlier = self.put_aside_before();
        let aside = match bytes {
            Some(bytes) if earlier < MAX_ASIDE => {
                let aside = format!("{ASIDE}{at_ms}");
                self.directory.write(&aside, bytes)?;
                Some(aside)
            }
            _ => None,
        };
        tracing::error!(
            why,
            aside,
            "what was remembered of the audit log's ends is not this controller's word"
        );
        let refused = Refused { at_ms, why: why.to_owned(), aside, earlier };
        let remembered = Remembered { refused: Some(refused), ..Remembered::default() };
        self.write(&remembered)?;
        Ok(remembered)
    }

    fn put_aside_before(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.directory.path()) else { return 0 };
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(ASIDE)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::About;
    use trust::{Role, RootHash};
    use wire::{ControllerId, InstallationId};

    const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);

    struct Machine {
        _scratch: tempfile::TempDir,
        directory: Arc<StateDir>,
    }

    /// A controller's directory with the keyring that it would have.
    fn machine(controller: u8) -> Machine {
        let scratch = tempfile::tempdir().unwrap();
        let about = About::new(INSTALLATION, Role::Controller, RootHash::from_bytes([2; 32]));
        let directory = Arc::new(StateDir::create(&scratch.path().join("state"), &about).unwrap());
        let root = SigningKey::from_seed(&[1; 32]);
        let controller = ControllerId::from_bytes([controller; 16]);
        let (ring, _) = Keyring::generate(INSTALLATION, controller, &root, clock::wall()).unwrap();
        directory.write_secret(KEYRING, &ring.encode()).unwrap();
        Machine { _scratch: scratch, directory }
    }

    impl Machine {
        fn kept(&self) -> Kept {
            Kept::open(Arc::clone(&self.directory)).unwrap()
        }

        fn file(&self) -> String {
            String::from_utf8(self.directory.read(FILE).unwrap().unwrap()).unwrap()
        }
    }

    fn ends(seq: u64) -> Remembered {
        let end = End { seq, hash: "AA".into(), strangers: 0, first: None };
        Remembered { ends: [("installation".to_owned(), end)].into(), ..Remembered::default() }
    }

    /// The same token with something else in it, as by somebody without the key.
    fn cut_back(text: &str) -> String {
        let mut parts = text.split('.');
        let body = trust::decode_base64url(parts.nth(2).unwrap()).unwrap();
        let (message, signature) = body.split_at(body.len() - 64);
        let edited = std::str::from_utf8(message).unwrap().replace("\"seq\":7", "\"seq\":3");
        let body = trust::encode_base64url(&[edited.as_bytes(), signature].concat());
        format!("v4.public.{body}.{}", parts.next().unwrap())
    }

    #[test]
    fn what_is_signed_is_read_back_and_nothing_is_said_of_it() {
        let machine = machine(2);
        assert_eq!(machine.kept().read().unwrap(), Remembered::default(), "a first start");
        machine.kept().write(&ends(7)).unwrap();
        let read = machine.kept().read().unwrap();
        assert_eq!((&read, read.broken(), read.doubt()), (&ends(7), None, None));
    }

    #[test]
    fn a_file_that_this_controller_did_not_sign_is_put_aside_and_said_from_then_on() {
        let other = machine(3);
        other.kept().write(&ends(7)).unwrap();
        for (why, altered) in [
            ("changed after it was signed", cut_back as fn(&str) -> String),
            ("not signed", |_| r#"{"installation":{"seq":3,"hash":"AA"}}"#.to_owned()),
            ("not signed", |_| String::new()),
        ] {
            let machine = machine(2);
            machine.kept().write(&ends(7)).unwrap();
            let altered = altered(&machine.file());
            machine.directory.write(FILE, altered.as_bytes()).unwrap();
            let read = machine.kept().read().unwrap();
            let said = read.broken().unwrap();
            assert!(said.contains(why) && said.contains("(1 times"), "{said}");
            assert!(read.ends.is_empty(), "what it says is not believed");
            let aside = read.refused.as_ref().unwrap().aside.clone().unwrap();
            assert_eq!(machine.directory.read(&aside).unwrap().unwrap(), altered.as_bytes());
            assert_eq!(machine.kept().read().unwrap().broken(), Some(said), "after a restart, too");
        }
    }

    #[test]
    fn another_controller_s_file_is_no_word_of_this_one() {
        let (machine, other) = (machine(2), machine(3));
        machine.kept().write(&ends(7)).unwrap();
        other.kept().write(&ends(7)).unwrap();
        machine.directory.write(FILE, other.file().as_bytes()).unwrap();
        let said = machine.kept().read().unwrap().broken().unwrap();
        assert!(said.contains("signed with another key"), "{said}");
        // Whoever names this controller's key without having it gets no further.
        let own = machine.kept();
        let stranger = SigningKey::generate();
        let message = serde_json::to_vec(&ends(3)).unwrap();
        let footer = own.key.verifying_key().key_id();
        let forged = paseto::sign(&stranger, &message, footer.as_bytes(), &own.assertion);
        machine.directory.write(FILE, forged.as_bytes()).unwrap();
        let said = machine.kept().read().unwrap().broken().unwrap();
        assert!(said.contains("changed after it was signed") && said.contains("(2 times"), "{said}");
    }

    #[test]
    fn a_file_that_was_removed_is_missed() {
        let machine = machine(2);
        machine.kept().write(&ends(7)).unwrap();
        machine.directory.remove(FILE).unwrap();
        let said = machine.kept().read().unwrap().broken().unwrap();
        assert!(said.contains("the file was removed"), "{said}");
    }

    #[test]
    fn a_file_of_a_version_that_did_not_sign_is_taken_over_once_and_that_is_said() {
        let machine = machine(2);
        let unsigned = br#"{"installation":{"seq":7,"hash":"AA"}}"#;
        machine.directory.write(FILE, unsigned).unwrap();
        let read = machine.kept().read().unwrap();
        assert_eq!((read.ends["installation"].seq, read.broken()), (7, None));
        assert!(read.doubt().unwrap().contains("left unsigned"));
        assert!(machine.file().starts_with("v4.public."));
        assert_eq!(machine.kept().read().unwrap(), read);
        machine.directory.write(FILE, unsigned).unwrap();
        assert!(machine.kept().read().unwrap().broken().unwrap().contains("not signed"));
    }
}
