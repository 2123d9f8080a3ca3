//! The audit log's ends, remembered outside the database and signed: whoever changes the database changes nothing here.
//!
//! Each change of this controller tells the end of its chain before and after it. What does not join up was written by
//! somebody else, or while an answer of the database was lost; the verification says so.

mod kept;

use crate::signer::SignError;
use kept::{Kept, Remembered};
use serde::{Deserialize, Serialize};
use state::StateDir;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};
use store::{AuditEnds, AuditEntry, Chain, Linked, Store, StoreError};
use tokio::sync::watch;
use trust::{decode_base64url, encode_base64url};

/// Links that do not join up yet: as many changes may be on their way at once.
const MAX_LOOSE: usize = 64;
/// Entries in one piece of a verification.
const PIECE: u32 = 500;
/// Findings that are listed.
const MAX_FINDINGS: usize = 20;

/// The end of a chain as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    seq: u64,
    hash: String,
    /// How often something that this controller did not write was before something that it wrote.
    #[serde(default)]
    strangers: u64,
    /// The latest entry that the chain may begin with, by what this controller itself has removed. Nothing: not known yet, or
    /// other controllers remove some, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
}

#[derive(Debug, Default)]
struct Known {
    remembered: Remembered,
    /// By chain and the number before them.
    loose: BTreeMap<(String, u64), Linked>,
}

/// What this controller remembers of every chain.
#[derive(Debug)]
pub(crate) struct AuditHeads {
    known: Mutex<Known>,
    /// Held while the ends are written down: an older state never replaces a newer one.
    kept: Mutex<Kept>,
    /// Counts changes, for who waits for the next entry.
    changed: watch::Sender<u64>,
}

/// Who writes into the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// This controller: what does not join up is somebody else's.
    Alone,
    /// Other controllers, too: between two changes of this one there may be some of theirs.
    Several,
}

/// Whether what is remembered is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Saved {
    Yes,
    No,
}

/// What a verification of one chain found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) entries: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) head: String,
    pub(crate) remembered: u64,
    /// What is certainly wrong.
    pub(crate) broken: Vec<String>,
    /// What may have a good reason.
    pub(crate) doubts: Vec<String>,
}

impl AuditHeads {
    /// Reads what is remembered. A file that this controller did not sign is not believed, and said by each verification.
    ///
    /// # Errors
    /// The keyring or the directory.
    pub(crate) fn open(directory: Arc<StateDir>) -> Result<Self, SignError> {
        let kept = Kept::open(directory)?;
        let known = Known { remembered: kept.read()?, loose: BTreeMap::new() };
        Ok(Self { known: Mutex::new(known), kept: Mutex::new(kept), changed: watch::Sender::new(0) })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds the audit log's ends")
    }

    /// Tells of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes what a change has written.
    pub(crate) fn remember(&self, links: &[Linked], writers: Writers) {
        let mut known = self.known();
        for link in links {
            known.take(link.clone(), writers);
        }
        drop(known);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Signs the ends and writes them down; says whether they are. Blocking.
    pub(crate) fn save(&self) -> Saved {
        let kept = self.kept.lock().expect("nothing panics while it writes the audit log's ends");
        let remembered = self.known().remembered.clone();
        match kept.write(&remembered) {
            Ok(()) => Saved::Yes,
            Err(error) => {
                tracing::warn!(%error, "the end of the audit log is not remembered on disk");
                Saved::No
            }
        }
    }

    /// Whether it is not known yet where a chain begins, of which this controller knows the end.
    pub(crate) fn begins_somewhere(&self, chain: Chain) -> bool {
        self.known().remembered.ends.get(&chain.name()).is_some_and(|end| end.first.is_none())
    }

    /// A chain begins with the entry `now`, and may begin with one up to `at_most` from now on: before entries are removed, and
    /// with the first that is left afterwards. One that begins later than it may is not believed from then on either.
    pub(crate) fn begins(&self, chain: Chain, now: u64, at_most: u64) {
        if let Some(end) = self.known().remembered.ends.get_mut(&chain.name())
            && end.first.is_none_or(|first| now <= first)
        {
            end.first = Some(at_most.max(now));
        }
    }

    /// Where others remove entries, too, no one controller knows where a chain begins.
    pub(crate) fn begins_anywhere(&self, chain: Chain) {
        if let Some(end) = self.known().remembered.ends.get_mut(&chain.name()) {
            end.first = None;
        }
    }

    /// A database that was accepted for the truth begins anew: what was remembered is of the one before.
    pub(crate) fn forget(&self) {
        let mut known = self.known();
        known.remembered.ends.clear();
        known.loose.clear();
    }

    /// Reads a whole chain and holds it against itself and against what is remembered.
    pub(crate) async fn verify(
        &self,
        store: &Store,
        chain: Chain,
        writers: Writers,
    ) -> Result<Verdict, StoreError> {
        if writers == Writers::Several {
            self.begins_anywhere(chain);
        }
        // Before the database is asked: it may only have more by then.
        let (mut end, loose, broken, doubt) = {
            let known = self.known();
            let name = chain.name();
            let loose = known.loose.keys().filter(|(of, _)| *of == name).count();
            let remembered = &known.remembered;
            (remembered.ends.get(&name).cloned(), loose, remembered.broken(), remembered.doubt())
        };
        let ends = store.audit_ends(chain).await?;
        // Meanwhile this controller may have removed some: where the chain may begin is known before that.
        if let Some(end) = &mut end {
            let now = self.known().remembered.ends.get(&chain.name()).and_then(|end| end.first);
            end.first = end.first.zip(now).map(|(then, now)| then.max(now));
        }
        let mut reading = Reading::new(ends.as_ref(), end.as_ref());
        if let Some(broken) = broken {
            reading.broken(broken);
        }
        if let Some(doubt) = doubt {
            reading.doubt(doubt);
        }
        if loose > 0 {
            reading
                .doubt(format!("{loose} changes of this controller do not join up with those before them"));
        }
        let mut after = ends.as_ref().map_or(0, |ends| ends.first_seq.saturating_sub(1));
        loop {
            let entries = store.audit_on(chain, after, PIECE).await?;
            let Some(last) = entries.last().and_then(|entry| entry.seq) else { break };
            for entry in &entries {
                reading.take(entry);
            }
            after = last;
        }
        // What was removed between two pieces is missing nowhere: the chain begins behind it now.
        reading.gaps(store.audit_ends(chain).await?.map_or(0, |ends| ends.first_seq));
        Ok(reading.end(ends.as_ref(), end.as_ref()))
    }
}

impl Known {
    fn take(&mut self, link: Linked, writers: Writers) {
        let name = link.head.chain.name();
        let Some(end) = self.remembered.ends.get(&name) else {
            // The first that this controller writes into this chain.
            let hash = encode_base64url(&link.head.hash);
            // Of one that begins with it, nothing can have been removed.
            let first = (writers == Writers::Alone && link.before.0 == 0).then_some(1);
            self.remembered.ends.insert(name, End { seq: link.head.seq, hash, strangers: 0, first });
            return;
        };
        if writers == Writers::Several {
            // The newest of its own: whatever stands at or before it cannot be changed without being found.
            if link.head.seq > end.seq {
                self.follow(&name, &link);
            }
            self.loose.retain(|key, _| key.0 != name);
            return;
        }
        let joins = link.before.0 == end.seq && encode_base64url(&link.before.1) == end.hash;
        if !joins {
            self.loose.insert((name.clone(), link.before.0), link);
            self.make_room(&name);
            return;
        }
        self.follow(&name, &link);
        while let Some((seq, hash)) = self.remembered.ends.get(&name).map(|end| (end.seq, end.hash.clone())) {
            let key = (name.clone(), seq);
            match self.loose.get(&key) {
                Some(next) if encode_base64url(&next.before.1) == hash => {
                    let Some(next) = self.loose.remove(&key) else { break };
                    self.follow(&name, &next);
                }
                _ => break,
            }
        }
    }

    fn follow(&mut self, name: &str, link: &Linked) {
        if let Some(end) = self.remembered.ends.get_mut(name) {
            end.seq = link.head.seq;
            end.hash = encode_base64url(&link.head.hash);
        }
    }

    /// What never joins up ends here: somebody else wrote in between.
    fn make_room(&mut self, name: &str) {
        let own = |key: &&(String, u64)| key.0 == name;
        if self.loose.keys().filter(own).count() <= MAX_LOOSE {
            return;
        }
        let Some(newest) = self.loose.keys().filter(own).max().cloned() else { return };
        if let Some(link) = self.loose.remove(&newest) {
            self.follow(name, &link);
        }
        self.loose.retain(|key, _| key.0 != name);
        if let Some(end) = self.remembered.ends.get_mut(name) {
            end.strangers += 1;
        }
    }
}

/// A chain while it is read.
struct Reading {
    verdict: Verdict,
    previous: [u8; 32],
    next: u64,
    /// What was found at the number that is remembered.
    at_remembered: Option<[u8; 32]>,
    /// First and last number of what was not there.
    gaps: Vec<(u64, u64)>,
}

impl Reading {
    fn new(ends: Option<&AuditEnds>, end: Option<&End>) -> Self {
        let verdict = Verdict {
            first: ends.map_or(1, |ends| ends.first_seq),
            remembered: end.map_or(0, |end| end.seq),
            ..Verdict::default()
        };
        let previous = ends.map_or([0; 32], |ends| ends.before_first);
        let next = verdict.first;
        Self { verdict, previous, next, at_remembered: None, gaps: Vec::new() }
    }

    fn broken(&mut self, text: String) {
        if self.verdict.broken.len() < MAX_FINDINGS {
            self.verdict.broken.push(text);
        }
    }

    fn doubt(&mut self, text: String) {
        self.verdict.doubts.push(text);
    }

    fn take(&mut self, entry: &AuditEntry) {
        let seq = entry.seq.unwrap_or_default();
        if seq != self.next && self.gaps.len() < MAX_FINDINGS {
            self.gaps.push((self.next, seq.saturating_sub(1)));
        }
        let written = entry.written_hash();
        let expected = entry.chained(&self.previous);
        if seq == self.next && written != Some(expected) {
            self.broken(format!("entry {seq} ({}) is not as it was written", entry.action));
        }
        // One finding for one entry: what is behind it is held against what is written.
        self.previous = written.unwrap_or(expected);
        self.next = seq + 1;
        if seq == self.verdict.remembered {
            self.at_remembered = Some(self.previous);
        }
        self.verdict.entries += 1;
        self.verdict.last = seq;
    }

    /// Says what was not there, of a chain that begins here once it was read.
    fn gaps(&mut self, begins: u64) {
        for (first, last) in std::mem::take(&mut self.gaps) {
            if last >= begins {
                self.broken(if first == last {
                    format!("entry {first} is missing")
                } else {
                    format!("entries {first} to {last} are missing")
                });
            }
        }
    }

    fn end(mut self, ends: Option<&AuditEnds>, end: Option<&End>) -> Verdict {
        self.verdict.head = hexadecimal(&self.previous);
        if let Some(ends) = ends
            && ends.head.seq > self.verdict.last
        {
            self.broken(format!("the last entries are missing: there were {}", ends.head.seq));
        }
        if let Some(ends) = ends
            && ends.head.seq == self.verdict.last
            && ends.head.hash != self.previous
        {
            self.broken("the last entry is not the one that the table of ends has".to_owned());
        }
        if let Some(end) = end {
            let remembered = decode_base64url(&end.hash).unwrap_or_default();
            match self.at_remembered {
                Some(found) if found[..] == remembered[..] => {}
                Some(_) => {
                    self.broken(format!("entry {} is another than this controller remembers", end.seq))
                }
                None if end.seq < self.verdict.first => {}
                None => {
                    self.broken(format!("entry {}, which this controller remembers, is missing", end.seq))
                }
            }
            if let Some(first) = end.first.filter(|first| self.verdict.first > *first) {
                let last = self.verdict.first - 1;
                self.broken(format!("entries {first} to {last} are missing at the beginning: they were not removed by the retention that is set"));
            }
            let behind = self.verdict.last.saturating_sub(end.seq);
            if behind > 0 {
                self.doubt(format!(
                    "{behind} entries are behind the last one that this controller remembers: it ended, or lost an answer, \
                     while it wrote them, or somebody else did (another controller, where there are several)"
                ));
            }
            if end.strangers > 0 {
                self.doubt(format!(
                    "{} times something else was written between changes of this controller",
                    end.strangers
                ));
            }
        }
        self.verdict
    }
}

/// A hash as people compare it.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::AuditHead;

    fn link(before: u64, seq: u64) -> Linked {
        let hash = |seq: u64| [u8::try_from(seq).unwrap(); 32];
        let head = AuditHead { chain: Chain::Installation, seq, hash: hash(seq) };
        Linked { before: (before, hash(before)), head }
    }

    #[test]
    fn changes_that_are_told_out_of_order_join_up() {
        let mut known = Known::default();
        known.take(link(0, 1), Writers::Alone);
        known.take(link(3, 4), Writers::Alone);
        known.take(link(2, 3), Writers::Alone);
        assert_eq!((known.remembered.ends["installation"].seq, known.loose.len()), (1, 2));
        known.take(link(1, 2), Writers::Alone);
        assert_eq!((known.remembered.ends["installation"].seq, known.loose.len()), (4, 0));
    }

    #[test]
    fn what_never_joins_up_is_counted_and_the_table_is_bounded() {
        let mut known = Known::default();
        known.take(link(0, 1), Writers::Alone);
        for number in 0..100 {
            known.take(link(10 + number, 11 + number), Writers::Alone);
        }
        assert!(known.loose.len() <= MAX_LOOSE);
        let end = &known.remembered.ends["installation"];
        assert_eq!(end.strangers, 1);
        assert!(end.seq > 1);
    }

    #[test]
    fn with_several_controllers_the_newest_of_its_own_is_remembered_and_nothing_is_strange() {
        let mut known = Known::default();
        for (before, seq) in [(0, 1), (4, 5), (2, 3), (8, 9)] {
            known.take(link(before, seq), Writers::Several);
        }
        let end = &known.remembered.ends["installation"];
        assert_eq!((end.seq, end.strangers, known.loose.len()), (9, 0, 0));
    }
}
