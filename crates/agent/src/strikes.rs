//! What is struck, the signed entries that say so, and which of them are missing.
//!
//! Entries are state: what was taken stays, also when the key that signed it leaves the bundle. Each signer's
//! entries are a chain by their hashes, and beacons name its head: an entry that never came shows as a hole, and
//! is asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use trust::{DocumentError, Head, Revocation, RevocationSet, TrustBundle, UnixMs, Unverified};
use wire::{ControllerId, Document, GetRevocations};

/// Entries held; at 400 bytes each some 8 MB.
const MAX_HELD: usize = 20_000;

type Hash = [u8; 32];

#[derive(Debug)]
struct Held {
    text: String,
    signer: ControllerId,
    seq: u64,
    previous: Hash,
    keep_until: UnixMs,
}

/// One signer's chain, as far as it is here.
#[derive(Debug, Default)]
struct Chain {
    /// By number; a controller that was restored from an old journal uses numbers again.
    entries: BTreeSet<(u64, Hash)>,
    /// The head, as beacons name it.
    head: Option<Head>,
    /// The answer for this head, until another one or an entry comes.
    looked: Option<Option<Hole>>,
    /// The head of the first beacon of this run. What is behind it may be too old for anybody to hold.
    first_head: Option<u64>,
}

/// Entries that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hole {
    /// What to ask for.
    pub(crate) asked: GetRevocations,
    /// Made while this agent runs: whoever withholds it holds back a strike.
    pub(crate) is_new: bool,
}

/// What came of some entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Learned {
    pub(crate) taken: u64,
    pub(crate) refused: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Strikes {
    set: Arc<RevocationSet>,
    held: BTreeMap<Hash, Held>,
    chains: BTreeMap<ControllerId, Chain>,
}

impl Strikes {
    pub(crate) const fn set(&self) -> &Arc<RevocationSet> {
        &self.set
    }

    /// From the disk, where only what was verified is written.
    pub(crate) fn load(&mut self, lines: &str, bundle: &TrustBundle) -> Learned {
        let mut learned = Learned::default();
        for line in lines.lines() {
            let entry = Unverified::<Revocation>::parse(line).and_then(|entry| {
                match entry.clone().verify_at_any_time(bundle) {
                    Err(DocumentError::UnknownKey(_)) => entry.verified_before(bundle.installation()),
                    verified => verified,
                }
            });
            match entry {
                Ok(entry) => self.take(line, &entry, &mut learned),
                Err(_) => learned.refused += 1,
            }
        }
        learned
    }

    /// From a PoP, who is believed in nothing.
    pub(crate) fn learn(&mut self, documents: &[Document], bundle: &TrustBundle, wall: UnixMs) -> Learned {
        let mut learned = Learned::default();
        if planted::is("the-last-list-of-strikes-counts") {
            *self = Self::default();
        }
        for document in documents {
            let text = std::str::from_utf8(document.as_slice()).unwrap_or_default();
            let entry = Unverified::<Revocation>::parse(text).and_then(|entry| {
                if planted::is("strikes-need-no-signature") {
                    return entry.verified_before(bundle.installation());
                }
                entry.verify_at_any_time(bundle)
            });
            match entry {
                Ok(entry) => self.take(text, &entry, &mut learned),
                Err(_) => learned.refused += 1,
            }
        }
        if self.held.len() > MAX_HELD {
            self.forget(wall);
        }
        learned
    }

    fn take(&mut self, text: &str, entry: &Revocation, learned: &mut Learned) {
        // By its own text: a controller that was restored from an old journal uses numbers again.
        let hash = trust::sha256(&[text.as_bytes()]);
        let Revocation { signer, seq, previous, keep_until, .. } = *entry;
        if self.held.contains_key(&hash) {
            return;
        }
        let _ = Arc::make_mut(&mut self.set).insert(entry);
        self.held.insert(hash, Held { text: text.to_owned(), signer, seq, previous, keep_until });
        let chain = self.chains.entry(signer).or_default();
        chain.entries.insert((seq, hash));
        chain.looked = None;
        learned.taken += 1;
    }

    /// Drops what has served its time. What has not is kept, however much it is: controllers bound it.
    fn forget(&mut self, wall: UnixMs) {
        let chains = &mut self.chains;
        self.held.retain(|hash, held| {
            let is_kept = held.keep_until > wall;
            if !is_kept && let Some(chain) = chains.get_mut(&held.signer) {
                chain.entries.remove(&(held.seq, *hash));
            }
            is_kept
        });
        Arc::make_mut(&mut self.set).forget_before(wall);
    }

    /// What is written: a line for each entry.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut lines = String::new();
        for held in self.held.values() {
            lines.push_str(&held.text);
            lines.push('\n');
        }
        lines.into_bytes()
    }

    /// A beacon names the heads that its controller knows. Of its own chain a controller knows best: after a
    /// restore it goes back. Of another's, the highest counts.
    pub(crate) fn heard(&mut self, by: ControllerId, heads: &BTreeMap<ControllerId, Head>) {
        if !heads.contains_key(&by) && !planted::is("a-first-strike-is-not-missed") {
            // It has struck nobody yet: its first strike is one of this run.
            self.chains.entry(by).or_default().first_head.get_or_insert(0);
        }
        for (signer, head) in heads {
            let chain = self.chains.entry(*signer).or_default();
            if chain.head.is_none_or(|known| known != *head && (by == *signer || known.seq < head.seq)) {
                chain.head = Some(*head);
                chain.looked = None;
                chain.first_head.get_or_insert(head.seq);
            }
        }
    }

    /// What is missing of the chains that beacons speak of.
    pub(crate) fn holes(&mut self) -> Vec<Hole> {
        let mut holes = Vec::new();
        for (signer, chain) in &mut self.chains {
            let Some(head) = chain.head.filter(|head| head.seq > 0) else { continue };
            let entries = &chain.entries;
            let hole = *chain.looked.get_or_insert_with(|| hole(&self.held, entries, *signer, head));
            let first_head = chain.first_head.unwrap_or(head.seq);
            holes.extend(hole.map(|hole| Hole { is_new: hole.asked.last > first_head, ..hole }));
        }
        // What is new comes first.
        holes.sort_by_key(|hole| !hole.is_new);
        holes
    }
}

/// Walks back from a head, to the first entry or to the first that is missing.
fn hole(
    held: &BTreeMap<Hash, Held>,
    entries: &BTreeSet<(u64, Hash)>,
    signer: ControllerId,
    head: Head,
) -> Option<Hole> {
    let (mut hash, mut seq) = (head.hash, head.seq);
    loop {
        let Some(entry) = held.get(&hash) else {
            // Everything from the next one below that is here; nothing below: from the beginning.
            let below = entries.range(..(seq, [0; 32])).next_back().map_or(0, |(below, _)| *below);
            return Some(Hole {
                asked: GetRevocations { signer, first: below + 1, last: seq },
                is_new: false,
            });
        };
        if entry.seq <= 1 || entry.seq > seq {
            return None;
        }
        (hash, seq) = (entry.previous, entry.seq - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use trust::{
        BundleKey, BundleStatement, KeyRole, RevokedSubject, RootHash, RotationStatement, SigningKey,
        TrustChain, sign_document,
    };
    use wire::{Bounded, DeviceId, InstallationId};

    const SIGNER: ControllerId = ControllerId::from_bytes([1; 16]);
    const INSTALLATION: InstallationId = InstallationId::from_bytes([2; 16]);
    const WALL: UnixMs = UnixMs::from_millis(1_800_000_000_000);

    fn key() -> SigningKey {
        SigningKey::from_seed(&[5; 32])
    }

    fn bundle() -> TrustBundle {
        let (root, rotation) = (SigningKey::from_seed(&[3; 32]), SigningKey::from_seed(&[4; 32]));
        let day = Duration::from_secs(86_400);
        let statement = RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: WALL.minus(day),
            exp: WALL.plus(day),
        };
        let keys = vec![BundleKey {
            role: KeyRole::Beacon,
            owner: SIGNER,
            public: key().verifying_key().as_bytes().to_vec(),
            nbf: WALL.minus(day),
            exp: WALL.plus(day),
        }];
        let keys = BundleStatement { installation: INSTALLATION, serial: 1, iat: WALL, keys };
        TrustChain::sign(&root, &rotation, &statement, &keys)
            .expect("signs")
            .verify(&RootHash::of(&root.verifying_key()), WALL)
            .expect("verifies")
    }

    /// A chain of so many entries.
    fn chain(length: u64) -> (Vec<Document>, Vec<Head>) {
        let (mut previous, mut entries, mut heads) = ([0; 32], Vec::new(), Vec::new());
        for seq in 1..=length {
            let entry = Revocation {
                installation: INSTALLATION,
                signer: SIGNER,
                seq,
                previous,
                at: WALL,
                subject: RevokedSubject::Device(DeviceId::from_bytes([u8::try_from(seq).expect("few"); 16])),
                generation: 1,
                keep_until: WALL.plus(Duration::from_secs(60)),
                ext: None,
            };
            let text = sign_document(&key(), &entry).expect("signs");
            previous = trust::sha256(&[text.as_bytes()]);
            heads.push(Head { seq, hash: previous });
            entries.push(Bounded::new(text.into_bytes()).expect("short"));
        }
        (entries, heads)
    }

    fn asked(strikes: &mut Strikes, head: Head) -> Option<(u64, u64, bool)> {
        strikes.heard(SIGNER, &BTreeMap::from([(SIGNER, head)]));
        match &strikes.holes()[..] {
            [] => None,
            [hole] => Some((hole.asked.first, hole.asked.last, hole.is_new)),
            more => panic!("{more:?}"),
        }
    }

    #[test]
    fn every_hole_in_a_chain_is_found_and_nothing_is_asked_for_when_there_is_none() {
        let (entries, heads) = chain(12);
        let bundle = bundle();
        for missing in 0_u16..4096 {
            let is_missing = |seq: u64| missing & (1 << (seq - 1)) != 0;
            let mut strikes = Strikes::default();
            let here: Vec<Document> = (1..=12)
                .filter(|seq| !is_missing(*seq))
                .map(|seq| entries[seq as usize - 1].clone())
                .collect();
            strikes.learn(&here, &bundle, WALL);
            // Ask and get, as long as something is missing: each question brings what it asks for.
            let mut questions = 0;
            while let Some((first, last, _)) = asked(&mut strikes, heads[11]) {
                assert!((first..=last).all(is_missing), "{missing:b}: {first} to {last}");
                let answer: Vec<Document> =
                    (first..=last).map(|seq| entries[seq as usize - 1].clone()).collect();
                strikes.learn(&answer, &bundle, WALL);
                questions += 1;
                assert!(questions <= 6, "{missing:b}");
            }
            assert_eq!(strikes.set().len(), 12, "{missing:b}");
        }
    }

    #[test]
    fn a_head_of_the_beginning_may_be_too_old_to_be_had_and_a_later_one_is_not() {
        let (entries, heads) = chain(3);
        let mut strikes = Strikes::default();
        assert_eq!(asked(&mut strikes, heads[0]), Some((1, 1, false)));
        assert_eq!(asked(&mut strikes, heads[2]), Some((1, 3, true)));
        strikes.learn(&entries[2..], &bundle(), WALL);
        assert_eq!(asked(&mut strikes, heads[2]), Some((1, 2, true)));
        strikes.learn(&entries[1..2], &bundle(), WALL);
        assert_eq!(asked(&mut strikes, heads[2]), Some((1, 1, false)));
    }

    #[test]
    fn a_restored_controllers_second_entry_of_a_number_is_asked_for() {
        let (entries, heads) = chain(3);
        let mut strikes = Strikes::default();
        strikes.learn(&entries, &bundle(), WALL);
        assert_eq!(asked(&mut strikes, heads[2]), None);
        // It went back to 2 and struck another: the number is known, the text is not.
        let other = Head { seq: 3, hash: [9; 32] };
        assert_eq!(asked(&mut strikes, other), Some((3, 3, false)));
    }

    #[test]
    fn what_was_taken_outlives_its_key_on_disk_and_nothing_off_the_wire_does() {
        let (entries, _) = chain(2);
        let mut strikes = Strikes::default();
        strikes.learn(&entries, &bundle(), WALL);
        let text = String::from_utf8(strikes.text()).expect("text");
        let mut without = bundle();
        let mut keys: Vec<BundleKey> = without.all_keys().cloned().collect();
        keys[0].public = SigningKey::from_seed(&[6; 32]).verifying_key().as_bytes().to_vec();
        let (root, rotation) = (SigningKey::from_seed(&[3; 32]), SigningKey::from_seed(&[4; 32]));
        let statement = RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 2,
            nbf: WALL.minus(Duration::from_secs(60)),
            exp: WALL.plus(Duration::from_secs(60)),
        };
        let keys = BundleStatement { installation: INSTALLATION, serial: 1, iat: WALL, keys };
        let chain = TrustChain::sign(&root, &rotation, &statement, &keys).expect("signs");
        let next = chain.verify(&RootHash::of(&root.verifying_key()), WALL).expect("verifies");
        without.replace_with(next).expect("newer");
        let mut again = Strikes::default();
        assert_eq!(again.load(&text, &without), Learned { taken: 2, refused: 0 });
        assert_eq!(again.set().len(), 2);
        let mut wire = Strikes::default();
        assert_eq!(wire.learn(&entries, &without, WALL), Learned { taken: 0, refused: 2 });
        assert_eq!(again.load("v4.public.AAAA\n\n", &without).refused, 2);
    }
}
