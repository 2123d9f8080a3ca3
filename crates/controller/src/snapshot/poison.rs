//! What survives of a snapshot that kills its reader: a version that crashed the process twice is not tried
//! again, and no version is served that is older than one that was.

use serde::{Deserialize, Serialize};
use state::{StateDir, StateError};
use std::collections::BTreeMap;
use store::{Dataset, Version};
use wire::OrganizationId;

const FILE: &str = "snapshot.state";
/// What is being tried has a file of its own: it has to outlive the process and not the machine's power, and no disk is
/// waited for.
const TRYING: &str = "snapshot.trying";
/// Tries that ended with the process.
const CRASHES: u32 = 2;
/// Digests that are remembered; the oldest goes.
const QUARANTINED: usize = 16;

/// Which versions of everything a dataset has, as a digest in text: tens of thousands of rows need not be written out before they
/// are served. The same version has the same content, but where a restored backup was changed after a version that is in quarantine
/// here: then its first change may be refused for the other's fault, and the next one is another version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Digest(String);

impl Digest {
    pub(super) fn of(dataset: &Dataset) -> Self {
        let versions = serde_json::to_vec(&Served::of(dataset)).expect("versions always serialize");
        Self(trust::encode_base64url(&trust::sha256(&[b"tidegate/versions\0", &versions])))
    }
}

/// The versions that were served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Served {
    pub(super) installation: Version,
    pub(super) organizations: BTreeMap<OrganizationId, Version>,
}

impl Served {
    pub(super) fn of(dataset: &Dataset) -> Self {
        let organizations = dataset.organizations.iter();
        Self {
            installation: dataset.installation.version,
            organizations: organizations
                .map(|data| (data.organization.id, data.organization.version))
                .collect(),
        }
    }

    /// What of a dataset is older than this, in words; nothing when nothing is.
    pub(super) fn newer_than(&self, dataset: &Dataset) -> Option<String> {
        let text = |version: Version| format!("{}.{}", version.incarnation, version.version);
        let (is, was) = (dataset.installation.version, self.installation);
        if is < was {
            return Some(format!("version {} of the installation where {} was served", text(is), text(was)));
        }
        self.organizations.iter().find_map(|(id, was)| {
            let found = dataset.organizations.iter().find(|data| data.organization.id == *id);
            match found.map(|data| data.organization.version) {
                Some(is) if is < *was => {
                    Some(format!("version {} of {id} where {} was served", text(is), text(*was)))
                }
                // Organizations are not removed: an absent one was not made yet.
                None if is.incarnation <= was.incarnation => {
                    Some(format!("nothing of {id}, which was served"))
                }
                _ => None,
            }
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Trying {
    digest: Digest,
    tries: u32,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    #[serde(default)]
    served: Option<Served>,
    /// Of builds that had it here.
    #[serde(default, skip_serializing)]
    trying: Option<Trying>,
    #[serde(default)]
    quarantined: Vec<Digest>,
}

/// The memory of one state directory.
#[derive(Debug)]
pub(super) struct Memory {
    kept: Kept,
    /// The file was there and could not be read.
    pub(super) damaged: Option<String>,
}

impl Memory {
    /// Reads it. A version whose try ended with the process twice is quarantined now.
    pub(super) fn open(directory: &StateDir) -> Self {
        let read = directory.read(FILE).map_err(|error| error.to_string());
        let parsed = read.and_then(|bytes| match bytes {
            None => Ok(Kept::default()),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        });
        let (mut kept, damaged) = match parsed {
            Ok(kept) => (kept, None),
            Err(problem) => (Kept::default(), Some(problem)),
        };
        // One that the power took is none.
        let trying = directory.read(TRYING).ok().flatten();
        if let Some(trying) = trying.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            kept.trying = trying;
        }
        if let Some(trying) =
            kept.trying.take_if(|trying| trying.tries >= CRASHES && !planted::is("crash-forgotten"))
        {
            tracing::error!("a snapshot ended this process {} times: it is not tried again", trying.tries);
            kept.quarantine(trying.digest);
        }
        Self { kept, damaged }
    }

    pub(super) const fn served(&self) -> Option<&Served> {
        self.kept.served.as_ref()
    }

    pub(super) fn is_quarantined(&self, digest: &Digest) -> bool {
        self.kept.quarantined.contains(digest)
    }

    /// Written before a version is touched: if the process ends now, it was this one's fault.
    pub(super) fn begin(&mut self, directory: &StateDir, digest: &Digest) -> Result<(), StateError> {
        let before = self.kept.trying.as_ref().filter(|trying| trying.digest == *digest);
        let tries = before.map_or(0, |trying| trying.tries) + 1;
        self.kept.trying = Some(Trying { digest: digest.clone(), tries });
        self.note_trying(directory)
    }

    /// The version was tried and the process lives: it is the newest that was served.
    pub(super) fn passed(&mut self, directory: &StateDir, served: Served) -> Result<(), StateError> {
        self.kept.trying = None;
        self.kept.served = Some(served);
        self.note_trying(directory)?;
        self.write(directory)
    }

    /// The version was tried and failed without taking the process with it.
    pub(super) fn failed(&mut self, directory: &StateDir, digest: Digest) -> Result<(), StateError> {
        self.kept.trying = None;
        self.kept.quarantine(digest);
        self.write(directory)?;
        self.note_trying(directory)
    }

    fn write(&self, directory: &StateDir) -> Result<(), StateError> {
        directory.write(FILE, &serde_json::to_vec(&self.kept).expect("versions and digests always serialize"))
    }

    fn note_trying(&self, directory: &StateDir) -> Result<(), StateError> {
        let trying = serde_json::to_vec(&self.kept.trying).expect("digests always serialize");
        directory.write_lightly(TRYING, &trying)
    }
}

impl Kept {
    fn quarantine(&mut self, digest: Digest) {
        if !self.quarantined.contains(&digest) {
            self.quarantined.push(digest);
        }
        if self.quarantined.len() > QUARANTINED {
            self.quarantined.remove(0);
        }
    }
}
