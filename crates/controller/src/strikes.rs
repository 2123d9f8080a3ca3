//! Revocation: apply at once, write, then say honestly who holds it.

use crate::{
    clock,
    journal::Journal,
    signer::{SignError, Signer},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};
use tokio::sync::{Notify, watch};
use trust::{
    Changed, Head, MAX_GRANT_LIFE, Revocation, RevocationSet, RevokedSubject, TrustBundle, UnixMs,
    Unverified, sha256,
};
use wire::{ConnectorId, ControllerId, PopId};

/// An entry is kept until the last certificate of the generation has ended (30 days and the hour it
/// was dated back); grants end before that.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600 + 3600);
const _: () = assert!(KEEP.as_secs() > MAX_GRANT_LIFE.as_secs());
/// Strikes whose holders are remembered; older ones are on every disk that answers.
const TRACKED: usize = 1024;

/// A strike could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StrikeError {
    /// Not signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The journal cannot be opened.
    #[error("the strike journal cannot be used: {0}")]
    Journal(#[from] io::Error),
}

/// One signed entry.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) revocation: Revocation,
    pub(crate) text: Arc<str>,
}

/// Who says that it holds an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    pub(crate) pops: BTreeSet<PopId>,
    pub(crate) connectors: BTreeSet<ConnectorId>,
}

/// Whether the entry is on this controller's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDisk {
    Yes,
    No,
}

/// A strike that was made.
#[derive(Debug, Clone)]
pub(crate) struct Struck {
    pub(crate) hash: [u8; 32],
    pub(crate) text: Arc<str>,
    pub(crate) at: UnixMs,
    pub(crate) on_disk: OnDisk,
}

#[derive(Debug, Default)]
struct Chains {
    /// By signer, number and the hash of the text: a controller restored from an old journal uses numbers again,
    /// and both entries count.
    entries: BTreeMap<(ControllerId, u64, [u8; 32]), Entry>,
    heads: BTreeMap<ControllerId, Head>,
}

/// The union of every strike this controller has heard of.
#[derive(Debug)]
pub(crate) struct Strikes {
    journal: Mutex<Journal>,
    chains: RwLock<Chains>,
    set: watch::Sender<Arc<RevocationSet>>,
    holders: Mutex<BTreeMap<[u8; 32], Holders>>,
    held: Notify,
}

impl Strikes {
    /// Reads the journal. Entries that do not verify stop the start: the file is damaged or another
    /// installation's, and issuing without knowing what is struck is what must not happen.
    pub(crate) fn open(path: &Path, bundle: &TrustBundle) -> Result<Self, StrikeError> {
        let (journal, lines) = Journal::open(path)?;
        let mut chains = Chains::default();
        let mut set = RevocationSet::new();
        for line in &lines {
            let revocation = match verify(line, bundle) {
                Ok(revocation) => revocation,
                // Signed by a key that has left the bundle since: older than every lease.
                Err(trust::DocumentError::UnknownKey(_)) => continue,
                Err(error) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()).into());
                }
            };
            set.insert(&revocation);
            chains.add(revocation, line);
        }
        set.forget_before(clock::wall());
        Ok(Self {
            journal: Mutex::new(journal),
            chains: RwLock::new(chains),
            set: watch::Sender::new(Arc::new(set)),
            holders: Mutex::default(),
            held: Notify::new(),
        })
    }

    /// What is struck now.
    pub(crate) fn set(&self) -> Arc<RevocationSet> {
        Arc::clone(&self.set.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<RevocationSet>> {
        self.set.subscribe()
    }

    /// The newest link of every signer's chain.
    pub(crate) fn heads(&self) -> BTreeMap<ControllerId, Head> {
        self.chains.read().expect("nothing panics while it holds the chains").heads.clone()
    }

    /// Every entry that is still needed, oldest first.
    pub(crate) fn entries(&self, wall: UnixMs) -> Vec<Entry> {
        let chains = self.chains.read().expect("nothing panics while it holds the chains");
        chains.entries.values().filter(|entry| entry.revocation.keep_until > wall).cloned().collect()
    }

    /// Strikes: signed, applied, written. The caller spreads it and waits for holders.
    ///
    /// Blocking: it syncs a file.
    pub(crate) fn strike(
        &self,
        signer: &Signer,
        subject: RevokedSubject,
        generation: u64,
    ) -> Result<Struck, StrikeError> {
        // One strike at a time: the chain has one order.
        let mut journal = self.journal.lock().expect("nothing panics while it holds the journal");
        let at = signer.signing_time().map_err(SignError::from)?;
        let head = self.heads().get(&signer.controller()).copied().unwrap_or(Head { seq: 0, hash: [0; 32] });
        let revocation = Revocation {
            installation: signer.installation(),
            signer: signer.controller(),
            seq: head.seq + 1,
            previous: head.hash,
            at,
            subject,
            generation,
            keep_until: at.plus(KEEP),
            ext: None,
        };
        let text = signer.sign(&revocation)?;
        let hash = sha256(&[text.as_bytes()]);
        self.apply(revocation, &text);
        self.track(hash);
        let on_disk = match journal.append(&text) {
            Ok(()) => OnDisk::Yes,
            Err(error) => {
                tracing::error!(%error, "a strike is not on this controller's disk");
                OnDisk::No
            }
        };
        Ok(Struck { hash, text: text.into(), at, on_disk })
    }

    /// Takes entries that a PoP holds; what is new is applied and written. Blocking.
    pub(crate) fn take(&self, bundle: &TrustBundle, texts: &[String]) -> Changed {
        let mut changed = Changed::No;
        for text in texts {
            match verify(text, bundle) {
                Ok(revocation) => {
                    let known = (revocation.signer, revocation.seq, sha256(&[text.as_bytes()]));
                    let chains = self.chains.read().expect("nothing panics while it holds the chains");
                    let held = chains.entries.contains_key(&known);
                    drop(chains);
                    if held {
                        continue;
                    }
                    self.apply(revocation, text);
                    changed = Changed::Yes;
                    let mut journal = self.journal.lock().expect("nothing panics while it holds the journal");
                    if let Err(error) = journal.append(text) {
                        tracing::error!(%error, "a strike that a PoP held is not on this controller's disk");
                    }
                }
                Err(error) => tracing::warn!(%error, "a PoP holds an entry that does not verify"),
            }
        }
        changed
    }

    fn apply(&self, revocation: Revocation, text: &str) {
        self.set.send_modify(|set| {
            let mut next = RevocationSet::clone(set);
            next.insert(&revocation);
            *set = Arc::new(next);
        });
        self.chains.write().expect("nothing panics while it holds the chains").add(revocation, text);
    }

    fn track(&self, hash: [u8; 32]) {
        let mut holders = self.holders.lock().expect("nothing panics while it holds the holders");
        while holders.len() >= TRACKED {
            holders.pop_first();
        }
        holders.insert(hash, Holders::default());
    }

    /// A PoP has entries on its disk and sent them to these connectors.
    pub(crate) fn held_by(&self, pop: PopId, hashes: &[[u8; 32]], connectors: &[ConnectorId]) {
        let mut holders = self.holders.lock().expect("nothing panics while it holds the holders");
        for hash in hashes {
            if let Some(entry) = holders.get_mut(hash) {
                entry.pops.insert(pop);
                entry.connectors.extend(connectors);
            }
        }
        drop(holders);
        self.held.notify_waiters();
    }

    /// Waits until every one of `pops` holds the entry, or the time is over; says who holds it then.
    pub(crate) async fn holders(&self, hash: [u8; 32], pops: &BTreeSet<PopId>, within: Duration) -> Holders {
        let read = || {
            let holders = self.holders.lock().expect("nothing panics while it holds the holders");
            holders.get(&hash).cloned().unwrap_or_default()
        };
        let all = async {
            loop {
                let changed = self.held.notified();
                if pops.is_subset(&read().pops) {
                    break;
                }
                changed.await;
            }
        };
        // Late is an answer too: who holds it by now is what counts.
        let _ = tokio::time::timeout(within, all).await;
        read()
    }
}

impl Chains {
    fn add(&mut self, revocation: Revocation, text: &str) {
        let hash = sha256(&[text.as_bytes()]);
        let head = self.heads.entry(revocation.signer).or_insert(Head { seq: 0, hash: [0; 32] });
        if revocation.seq > head.seq {
            *head = Head { seq: revocation.seq, hash };
        }
        self.entries
            .insert((revocation.signer, revocation.seq, hash), Entry { revocation, text: text.into() });
    }
}

fn verify(text: &str, bundle: &TrustBundle) -> Result<Revocation, trust::DocumentError> {
    Unverified::<Revocation>::parse(text)?.verify_at_any_time(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::first_start;
    use wire::DeviceId;

    fn signer(path: &Path) -> Signer {
        let made = first_start(path).unwrap();
        Signer::open(Arc::new(made.directory)).unwrap()
    }

    #[test]
    fn a_strike_survives_a_restart_and_the_chain_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let path = directory.path().join("journal");
        let device = |seed| RevokedSubject::Device(DeviceId::from_bytes([seed; 16]));
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        let first = strikes.strike(&signer, device(1), 4).unwrap();
        assert_eq!(first.on_disk, OnDisk::Yes);
        drop(strikes);
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        assert!(strikes.set().is_struck(device(1), 4) && !strikes.set().is_struck(device(1), 5));
        strikes.strike(&signer, device(2), 1).unwrap();
        let entries = strikes.entries(clock::wall());
        assert_eq!(entries.iter().map(|entry| entry.revocation.seq).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(entries[1].revocation.previous, first.hash);
        assert_eq!(strikes.heads()[&signer.controller()].seq, 2);
    }

    #[test]
    fn the_union_of_what_a_pop_holds_is_taken_and_forgeries_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let signer_a = signer(&directory.path().join("a"));
        let signer_b = signer(&directory.path().join("b"));
        let held = Strikes::open(&directory.path().join("held"), &signer_a.bundle()).unwrap();
        let subject = RevokedSubject::Device(DeviceId::from_bytes([1; 16]));
        held.strike(&signer_a, subject, 2).unwrap();
        let text = held.entries(clock::wall())[0].text.to_string();
        let fresh = Strikes::open(&directory.path().join("fresh"), &signer_a.bundle()).unwrap();
        assert_eq!(fresh.take(&signer_a.bundle(), std::slice::from_ref(&text)), Changed::Yes);
        assert_eq!(fresh.take(&signer_a.bundle(), std::slice::from_ref(&text)), Changed::No);
        assert!(fresh.set().is_struck(subject, 2));
        // The chain goes on behind what was lost with the disk.
        assert_eq!(fresh.heads(), held.heads());
        let other = Strikes::open(&directory.path().join("other"), &signer_b.bundle()).unwrap();
        assert_eq!(other.take(&signer_b.bundle(), &[text]), Changed::No);
        assert!(other.set().is_empty());
    }

    #[tokio::test]
    async fn holders_are_counted_until_all_have_answered_or_the_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let strikes = Strikes::open(&directory.path().join("journal"), &signer.bundle()).unwrap();
        let subject = RevokedSubject::Device(DeviceId::from_bytes([1; 16]));
        let struck = strikes.strike(&signer, subject, 1).unwrap();
        let pops: BTreeSet<PopId> = [1, 2].map(|seed| PopId::from_bytes([seed; 16])).into();
        let connector = ConnectorId::from_bytes([7; 16]);
        strikes.held_by(PopId::from_bytes([1; 16]), &[struck.hash], &[connector]);
        let holders = strikes.holders(struck.hash, &pops, Duration::from_millis(20)).await;
        assert_eq!((holders.pops.len(), holders.connectors.len()), (1, 1));
        let waiting = strikes.holders(struck.hash, &pops, Duration::from_secs(30));
        let answer = async { strikes.held_by(PopId::from_bytes([2; 16]), &[struck.hash], &[]) };
        let (holders, ()) = tokio::join!(waiting, answer);
        assert_eq!(holders.pops, pops);
    }
}
