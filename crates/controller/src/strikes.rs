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
    sync::{Arc, Mutex, MutexGuard, RwLock},
    time::Duration,
};
use tokio::sync::{Notify, watch};
use trust::{
    Changed, Head, MAX_GRANT_LIFE, Revocation, RevocationSet, RevokedSubject, TrustBundle, UnixMs,
    Unverified, decode_base64url, encode_base64url, sha256,
};
use wire::{ConnectorId, ControllerId, InstallationId, PopId};

/// Other nodes keep an entry until the last certificate of the generation has ended (30 days and the hour it
/// was dated back); grants end before that, and none is issued any more.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600 + 3600);
const _: () = assert!(KEEP.as_secs() > MAX_GRANT_LIFE.as_secs());
/// What a wrong clock may cost: entries are spread this much longer than they say, as PoPs keep them.
const KEEP_LONGER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Strikes whose holders are remembered; older ones are on every disk that answers.
const TRACKED: usize = 1024;
/// A journal is written anew when what has lapsed is this much of it.
const COMPACT_BYTES: u64 = 64 * 1024;

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

/// What the journal said when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JournalHealth {
    /// Everything that was ever written.
    Whole,
    /// Something is missing: a controller that is alone does not know what is struck.
    Incomplete,
}

/// The union of every strike this controller has heard of.
///
/// A generation that was struck once stays struck here for good, also when its entry has lapsed and no node
/// keeps it any more: whoever could still issue for it is this controller.
#[derive(Debug)]
pub(crate) struct Strikes {
    journal: Mutex<Log>,
    chains: RwLock<Chains>,
    set: watch::Sender<Arc<RevocationSet>>,
    holders: Mutex<BTreeMap<[u8; 32], Holders>>,
    held: Notify,
    health: JournalHealth,
}

#[derive(Debug)]
struct Log {
    journal: Journal,
    /// Lines that the disk refused; tried again.
    unwritten: Vec<String>,
}

impl Log {
    /// Writes what waits, then this.
    fn append(&mut self, lines: String) -> io::Result<()> {
        self.unwritten.push(lines);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.journal.append(&self.unwritten.join("\n"))?;
        self.unwritten.clear();
        Ok(())
    }
}

/// One line of the journal.
enum Line {
    /// A signed entry.
    Entry(String),
    /// Struck for good, also when its entry has lapsed.
    Struck(RevokedSubject, u64),
    /// Where a chain goes on when its entries have lapsed.
    Head(ControllerId, Head),
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let parsed = match words.next()? {
            "struck" => Self::Struck(words.next()?.parse().ok()?, words.next()?.parse().ok()?),
            "head" => {
                let (signer, seq) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let hash = decode_base64url(words.next()?).ok()?.try_into().ok()?;
                Self::Head(signer, Head { seq, hash })
            }
            _ => Self::Entry(line.to_owned()),
        };
        words.next().is_none().then_some(parsed)
    }
}

fn struck_line(subject: RevokedSubject, generation: u64) -> String {
    format!("struck {subject} {generation}")
}

fn head_line(signer: ControllerId, head: &Head) -> String {
    format!("head {signer} {} {}", head.seq, encode_base64url(&head.hash))
}

/// What an entry leaves behind when it lapses is written with it, in plain text: its key may have left the
/// bundle before the line is read again.
fn lines_of(revocation: &Revocation, text: &str) -> String {
    let head = Head { seq: revocation.seq, hash: sha256(&[text.as_bytes()]) };
    let Revocation { subject, generation, signer, .. } = *revocation;
    format!("{text}\n{}\n{}", struck_line(subject, generation), head_line(signer, &head))
}

/// Strikes for good, in a set that only knows entries.
fn for_good(set: &mut RevocationSet, subject: RevokedSubject, generation: u64) {
    set.insert(&Revocation {
        installation: InstallationId::from_bytes([0; 16]),
        signer: ControllerId::from_bytes([0; 16]),
        seq: 1,
        previous: [0; 32],
        at: UnixMs::default(),
        subject,
        generation,
        keep_until: UnixMs::from_millis(u64::MAX),
        ext: None,
    });
}

impl Strikes {
    /// Reads the journal. What does not verify is left out and said: whoever is to issue must ask others then.
    pub(crate) fn open(path: &Path, bundle: &TrustBundle) -> Result<Self, StrikeError> {
        let (journal, replay) = Journal::open(path)?;
        let (mut chains, mut set) = (Chains::default(), RevocationSet::new());
        let mut damaged = replay.damaged;
        for line in &replay.lines {
            match Line::parse(line) {
                Some(Line::Entry(text)) => match verify(&text, bundle) {
                    Ok(revocation) => {
                        for_good(&mut set, revocation.subject, revocation.generation);
                        chains.add(revocation, &text);
                    }
                    // Signed by a key that has left the bundle since: older than every lease. What it struck
                    // is in the line behind it.
                    Err(trust::DocumentError::UnknownKey(_)) => {}
                    Err(error) => {
                        tracing::error!(%error, "an entry of the strike journal does not verify");
                        damaged += 1;
                    }
                },
                Some(Line::Struck(subject, generation)) => for_good(&mut set, subject, generation),
                Some(Line::Head(signer, head)) => chains.reach(signer, head),
                None => damaged += 1,
            }
        }
        let health = if damaged > 0 || replay.absent {
            tracing::warn!(damaged, absent = replay.absent, "the strike journal is not complete");
            JournalHealth::Incomplete
        } else {
            JournalHealth::Whole
        };
        Ok(Self {
            journal: Mutex::new(Log { journal, unwritten: Vec::new() }),
            chains: RwLock::new(chains),
            set: watch::Sender::new(Arc::new(set)),
            holders: Mutex::default(),
            held: Notify::new(),
            health,
        })
    }

    /// What the journal said at the start.
    pub(crate) const fn health(&self) -> JournalHealth {
        self.health
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.journal.lock().expect("nothing panics while it holds the journal")
    }

    /// What was struck, as another place remembers it: the database, or an older list. Blocking.
    pub(crate) fn absorb(&self, struck: &[(RevokedSubject, u64)]) {
        let mut log = self.log();
        let set = self.set();
        let news: Vec<_> = struck.iter().filter(|(subject, g)| !set.is_struck(*subject, *g)).collect();
        if news.is_empty() {
            return;
        }
        self.set.send_modify(|set| {
            let mut next = RevocationSet::clone(set);
            for (subject, generation) in &news {
                for_good(&mut next, *subject, *generation);
            }
            *set = Arc::new(next);
        });
        let lines: Vec<_> = news.iter().map(|(subject, g)| struck_line(*subject, *g)).collect();
        if let Err(error) = log.append(lines.join("\n")) {
            tracing::error!(%error, "what another place knows to be struck is not on this controller's disk");
        }
    }

    /// Writes what the disk refused before. Blocking.
    pub(crate) fn flush(&self) {
        if let Err(error) = self.log().flush() {
            tracing::debug!(%error, "the strike journal still cannot be written");
        }
    }

    /// Whether lines wait for the disk.
    pub(crate) fn has_unwritten(&self) -> bool {
        // Whoever holds the lock is writing.
        self.journal.try_lock().is_ok_and(|log| !log.unwritten.is_empty())
    }

    /// Turns entries that have lapsed into what must never be forgotten, and gives their room back. Says how
    /// many there were. Blocking.
    pub(crate) fn compact(&self, wall: UnixMs) -> Result<usize, StrikeError> {
        let cut = wall.minus(KEEP_LONGER);
        let mut log = self.log();
        log.flush()?;
        let mut chains = self.chains.write().expect("nothing panics while it holds the chains");
        let lapsed = |entry: &Entry| entry.revocation.keep_until < cut;
        let count = chains.entries.values().filter(|entry| lapsed(entry)).count();
        let kept: u64 = chains.entries.values().filter(|e| !lapsed(e)).map(|e| e.text.len() as u64).sum();
        if count == 0 || log.journal.used() < kept + COMPACT_BYTES {
            return Ok(0);
        }
        let mut lines: Vec<String> =
            self.set.borrow().iter().map(|(subject, generation)| struck_line(subject, generation)).collect();
        lines.extend(chains.heads.iter().map(|(signer, head)| head_line(*signer, head)));
        lines.extend(chains.entries.values().filter(|e| !lapsed(e)).map(|entry| entry.text.to_string()));
        log.journal.replace(&lines)?;
        chains.entries.retain(|_, entry| !lapsed(entry));
        Ok(count)
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

    /// Every entry that other nodes still need, oldest first.
    pub(crate) fn entries(&self, wall: UnixMs) -> Vec<Entry> {
        let cut = wall.minus(KEEP_LONGER);
        let chains = self.chains.read().expect("nothing panics while it holds the chains");
        chains.entries.values().filter(|entry| entry.revocation.keep_until >= cut).cloned().collect()
    }

    /// One, as [`Strikes::strike_each`].
    #[cfg(test)]
    pub(crate) fn strike(
        &self,
        signer: &Signer,
        subject: RevokedSubject,
        generation: u64,
        spread: impl FnMut(Arc<str>),
    ) -> Result<Struck, StrikeError> {
        let mut struck = self.strike_each(signer, &[(subject, generation)], spread)?;
        Ok(struck.pop().expect("one for each that was asked for"))
    }

    /// Strikes each, all or none: signed, applied, given to `spread`, and then written, once: a disk that hangs keeps no PoP
    /// from hearing of them. The caller waits for holders.
    ///
    /// Blocking: it syncs a file.
    pub(crate) fn strike_each(
        &self,
        signer: &Signer,
        asked: &[(RevokedSubject, u64)],
        mut spread: impl FnMut(Arc<str>),
    ) -> Result<Vec<Struck>, StrikeError> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        // One strike at a time: the chain has one order.
        let mut log = self.log();
        let at = signer.strike_time().map_err(SignError::from)?;
        let mut head =
            self.heads().get(&signer.controller()).copied().unwrap_or(Head { seq: 0, hash: [0; 32] });
        let mut signed = Vec::with_capacity(asked.len());
        for (subject, generation) in asked {
            let revocation = Revocation {
                installation: signer.installation(),
                signer: signer.controller(),
                seq: head.seq + 1,
                previous: head.hash,
                at,
                subject: *subject,
                generation: *generation,
                keep_until: at.plus(KEEP),
                ext: None,
            };
            let text = signer.sign_strike(&revocation)?;
            head = Head { seq: revocation.seq, hash: sha256(&[text.as_bytes()]) };
            signed.push((revocation, text, head.hash));
        }
        let (mut lines, mut hashes) = (Vec::with_capacity(signed.len()), Vec::with_capacity(signed.len()));
        for (revocation, text, hash) in signed {
            lines.push(lines_of(&revocation, &text));
            hashes.push(hash);
            self.apply(revocation, &text);
            self.track(hash);
            spread(text.into());
        }
        let on_disk = match log.append(lines.join("\n")) {
            Ok(()) => OnDisk::Yes,
            Err(error) => {
                tracing::error!(%error, strikes = hashes.len(), "strikes are not on this controller's disk");
                OnDisk::No
            }
        };
        Ok(hashes.into_iter().map(|hash| Struck { hash, at, on_disk }).collect())
    }

    /// Takes entries that a PoP holds; what is new is applied and written. Blocking.
    pub(crate) fn take(&self, bundle: &TrustBundle, texts: &[String]) -> Changed {
        // Signatures first: a strike that is made meanwhile does not wait for them.
        let verified = texts.iter().filter_map(|text| match verify(text, bundle) {
            Ok(revocation) => Some((revocation, text)),
            Err(error) => {
                tracing::warn!(%error, "a PoP holds an entry that does not verify");
                None
            }
        });
        let verified: Vec<(Revocation, &String)> =
            verified.filter(|(revocation, text)| self.is_news(revocation, text)).collect();
        let mut changed = Changed::No;
        // From the second look to the last line: two PoPs that hold the same entry give it once.
        let mut log = self.log();
        let mut lines = Vec::new();
        for (revocation, text) in verified {
            if self.is_news(&revocation, text) {
                lines.push(lines_of(&revocation, text));
                self.apply(revocation, text);
                changed = Changed::Yes;
            }
        }
        if !lines.is_empty()
            && let Err(error) = log.append(lines.join("\n"))
        {
            tracing::error!(%error, "strikes that a PoP held are not on this controller's disk");
        }
        changed
    }

    fn is_news(&self, revocation: &Revocation, text: &str) -> bool {
        let known = (revocation.signer, revocation.seq, sha256(&[text.as_bytes()]));
        let chains = self.chains.read().expect("nothing panics while it holds the chains");
        if chains.entries.contains_key(&known) {
            return false;
        }
        drop(chains);
        // What has lapsed here and is kept elsewhere for a while is no news.
        let lapsed = revocation.keep_until < clock::wall().minus(KEEP_LONGER);
        !(lapsed && self.set.borrow().is_struck(revocation.subject, revocation.generation))
    }

    fn apply(&self, revocation: Revocation, text: &str) {
        self.set.send_modify(|set| {
            let mut next = RevocationSet::clone(set);
            for_good(&mut next, revocation.subject, revocation.generation);
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
    fn reach(&mut self, signer: ControllerId, reached: Head) {
        let head = self.heads.entry(signer).or_insert(Head { seq: 0, hash: [0; 32] });
        if reached.seq > head.seq {
            *head = reached;
        }
    }

    fn add(&mut self, revocation: Revocation, text: &str) {
        let hash = sha256(&[text.as_bytes()]);
        self.reach(revocation.signer, Head { seq: revocation.seq, hash });
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
        let first = strikes.strike(&signer, device(1), 4, |_| {}).unwrap();
        assert_eq!(first.on_disk, OnDisk::Yes);
        drop(strikes);
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        assert!(strikes.set().is_struck(device(1), 4) && !strikes.set().is_struck(device(1), 5));
        strikes.strike(&signer, device(2), 1, |_| {}).unwrap();
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
        held.strike(&signer_a, subject, 2, |_| {}).unwrap();
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

    const MONTHS: Duration = Duration::from_secs(90 * 24 * 3600);

    /// An entry as it was made long ago.
    fn old_entry(signer: &Signer, seq: u64, device: u8, at: UnixMs) -> String {
        let revocation = Revocation {
            installation: signer.installation(),
            signer: signer.controller(),
            seq,
            previous: [0; 32],
            at,
            subject: RevokedSubject::Device(DeviceId::from_bytes([device; 16])),
            generation: 3,
            keep_until: at.plus(KEEP),
            ext: None,
        };
        signer.sign(&revocation).unwrap()
    }

    #[test]
    fn a_generation_that_was_struck_once_stays_struck_when_its_entry_has_lapsed_also_across_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let path = directory.path().join("journal");
        let device = |seed| RevokedSubject::Device(DeviceId::from_bytes([seed; 16]));
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        for seed in 1..=200 {
            strikes.strike(&signer, device(seed), 3, |_| {}).unwrap();
        }
        let (heads, before) = (strikes.heads(), strikes.log().journal.used());
        let later = clock::wall().plus(MONTHS);
        assert!(strikes.entries(later).is_empty(), "nobody else needs them any more");
        assert_eq!(strikes.compact(clock::wall()).unwrap(), 0);
        assert_eq!(strikes.compact(later).unwrap(), 200);
        assert!(strikes.log().journal.used() < before / 4, "{}", strikes.log().journal.used());
        for strikes in [strikes, Strikes::open(&path, &signer.bundle()).unwrap()] {
            assert!((1..=200).all(|seed| strikes.set().is_struck(device(seed), 3)));
            assert!(!strikes.set().is_struck(device(1), 4));
            assert_eq!(strikes.heads(), heads);
        }
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        assert_eq!(strikes.health(), JournalHealth::Whole);
        strikes.strike(&signer, device(201), 1, |_| {}).unwrap();
        assert_eq!(strikes.heads()[&signer.controller()].seq, 201);
    }

    #[test]
    fn an_entry_whose_key_has_left_the_bundle_still_strikes_and_its_chain_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let signer_a = signer(&directory.path().join("a"));
        let signer_b = signer(&directory.path().join("b"));
        let path = directory.path().join("journal");
        let subject = RevokedSubject::Device(DeviceId::from_bytes([1; 16]));
        let strikes = Strikes::open(&path, &signer_a.bundle()).unwrap();
        strikes.strike(&signer_a, subject, 2, |_| {}).unwrap();
        let heads = strikes.heads();
        drop(strikes);
        // The bundle of another installation has none of the keys: as after a rotation.
        let strikes = Strikes::open(&path, &signer_b.bundle()).unwrap();
        assert!(strikes.set().is_struck(subject, 2) && strikes.entries(clock::wall()).is_empty());
        assert_eq!((strikes.heads(), strikes.health()), (heads, JournalHealth::Whole));
    }

    #[test]
    fn two_pops_that_hold_the_same_entry_and_a_journal_with_it_twice_give_it_once() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let path = directory.path().join("journal");
        let text = old_entry(&signer, 1, 1, clock::wall());
        let strikes = Arc::new(Strikes::open(&path, &signer.bundle()).unwrap());
        let bundle = signer.bundle();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| strikes.take(&bundle, std::slice::from_ref(&text)));
            }
        });
        let written = std::fs::read(&path).unwrap();
        let times = written.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
        assert_eq!(times, 1);
        strikes.log().append(text.clone()).unwrap();
        assert_eq!(Strikes::open(&path, &bundle).unwrap().entries(clock::wall()).len(), 1);
    }

    #[test]
    fn to_strike_nobody_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let path = directory.path().join("journal");
        drop(Strikes::open(&path, &signer.bundle()).unwrap());
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        assert_eq!(strikes.health(), JournalHealth::Whole);
        let used = strikes.log().journal.used();
        assert!(strikes.strike_each(&signer, &[], |_| {}).unwrap().is_empty());
        assert_eq!(strikes.log().journal.used(), used);
        drop(strikes);
        assert_eq!(Strikes::open(&path, &signer.bundle()).unwrap().health(), JournalHealth::Whole);
    }

    #[test]
    fn a_journal_that_lost_something_says_so_and_keeps_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let path = directory.path().join("journal");
        let device = |seed| RevokedSubject::Device(DeviceId::from_bytes([seed; 16]));
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        strikes.strike(&signer, device(1), 1, |_| {}).unwrap();
        strikes.strike(&signer, device(2), 1, |_| {}).unwrap();
        drop(strikes);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[60] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        assert_eq!(strikes.health(), JournalHealth::Incomplete);
        assert!(strikes.set().is_struck(device(1), 1) && strikes.set().is_struck(device(2), 1));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Strikes::open(&path, &signer.bundle()).unwrap().health(), JournalHealth::Incomplete);
    }

    #[test]
    fn what_the_database_remembers_is_struck_and_survives_in_the_journal() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let path = directory.path().join("journal");
        let subject = RevokedSubject::Device(DeviceId::from_bytes([1; 16]));
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        strikes.absorb(&[(subject, 5)]);
        strikes.absorb(&[(subject, 4)]);
        for strikes in [strikes, Strikes::open(&path, &signer.bundle()).unwrap()] {
            assert_eq!(strikes.set().struck_generation(subject), Some(5));
        }
    }

    #[test]
    fn a_strike_is_enforced_here_and_on_its_way_before_the_disk_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let path = directory.path().join("journal");
        let subject = RevokedSubject::Device(DeviceId::from_bytes([1; 16]));
        let strikes = Strikes::open(&path, &signer.bundle()).unwrap();
        let mut sent = None;
        strikes
            .strike(&signer, subject, 1, |text| {
                assert!(strikes.set().is_struck(subject, 1));
                let on_disk = std::fs::read(&path).unwrap();
                assert!(!on_disk.windows(text.len()).any(|window| window == text.as_bytes()));
                sent = Some(text);
            })
            .unwrap();
        assert_eq!(strikes.entries(clock::wall())[0].text, sent.unwrap());
    }

    #[tokio::test]
    async fn holders_are_counted_until_all_have_answered_or_the_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let signer = signer(&directory.path().join("c"));
        let strikes = Strikes::open(&directory.path().join("journal"), &signer.bundle()).unwrap();
        let subject = RevokedSubject::Device(DeviceId::from_bytes([1; 16]));
        let struck = strikes.strike(&signer, subject, 1, |_| {}).unwrap();
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
