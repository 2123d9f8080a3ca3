//! Controllers: beacons, the trust chain, strikes, sealed control frames, presence.

use super::{
    Due, Record, SessionCounters, Sessions, SessionsOutput, Stage, WriteId, Written, limits, register,
    renewal::OWN_ROUTE,
};
use session::{CloseCode, SessionId};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use trust::{
    Beacon, Changed, Document as _, DocumentError, Identity, KeyRole, Revocation, RevocationSet,
    RevokedSubject, Subject, TrustBundle, TrustChain, UnixMs, Unverified,
};
use wire::{
    BeaconPush, Bounded, BundlePush, ConnectorId, ControllerId, ControllerUnavailable, Document, Forward,
    FromController, FromSigner, GetRevocations, Presence, PublishBeacon, Refusal, Reply, SignerHello,
    SignerWelcome, Strike, StrikesElsewhere, StrikesHeld, ToAgent, ToController, ToSigner,
};

/// What a wrong clock may cost: entries are kept this much longer than they say.
const KEEP_LONGER: Duration = Duration::from_secs(7 * 24 * 3600);

/// The newest beacon of each controller, as it came.
#[derive(Debug, Default)]
pub(super) struct Beacons {
    by_signer: BTreeMap<ControllerId, (UnixMs, Document)>,
    /// Whose came last, and when.
    latest: Option<(ControllerId, Instant)>,
}

impl Beacons {
    pub(super) fn newest(&self) -> Option<Document> {
        self.by_signer.get(&self.latest?.0).map(|(_, document)| document.clone())
    }

    /// What the one that came last says, and when it came.
    pub(super) fn newest_time(&self) -> Option<(UnixMs, Instant)> {
        let (signer, heard) = self.latest?;
        self.by_signer.get(&signer).map(|(time, _)| (*time, heard))
    }
}

#[derive(Debug)]
struct HeldEntry {
    document: Document,
    signer: ControllerId,
    seq: u64,
    keep_until: UnixMs,
    written: Written,
}

/// What is owed to a controller once a write has ended.
#[derive(Debug)]
struct Ack {
    /// Who sent them; nobody, where what could not be written before was written again: every controller hears of it.
    session: Option<SessionId>,
    hashes: Vec<[u8; 32]>,
    connectors: Vec<ConnectorId>,
}

/// Everything struck, the signed texts that say so, and what waits for the disk.
#[derive(Debug)]
pub(super) struct Revocations {
    set: Arc<RevocationSet>,
    held: BTreeMap<[u8; 32], HeldEntry>,
    bytes: usize,
    waiting: BTreeMap<WriteId, Ack>,
    last_write: u64,
    /// Something is not on the disk, and a time to try again is set.
    is_to_be_written: bool,
}

impl Revocations {
    /// From the disk. What was believed when it came stays, also when its key has left the bundle since.
    pub(super) fn load(texts: &[String], bundle: &TrustBundle, counters: &mut SessionCounters) -> Self {
        let set = Arc::new(RevocationSet::new());
        let mut revocations = Self {
            set,
            held: BTreeMap::new(),
            bytes: 0,
            waiting: BTreeMap::new(),
            last_write: 0,
            is_to_be_written: false,
        };
        for text in texts {
            let verified = Unverified::<Revocation>::parse(text).and_then(|entry| {
                match entry.clone().verify_at_any_time(bundle) {
                    Err(DocumentError::UnknownKey(_)) => entry.verified_before(bundle.installation()),
                    verified => verified,
                }
            });
            match (verified, Bounded::new(text.clone().into_bytes())) {
                (Ok(entry), Ok(document)) => {
                    revocations.hold(&document, &entry, Written::Durable);
                }
                (Err(error), _) => counters.refused.add(error.label()),
                (Ok(_), Err(_)) => counters.refused.add("too_long"),
            }
        }
        revocations
    }

    pub(super) fn set(&self) -> Arc<RevocationSet> {
        Arc::clone(&self.set)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn documents(&self) -> Vec<Document> {
        self.held.values().map(|entry| entry.document.clone()).collect()
    }

    /// Some of one signer's strikes, in the order of their numbers.
    fn some(&self, asked: &GetRevocations) -> Vec<Document> {
        let is_asked =
            |held: &&HeldEntry| held.signer == asked.signer && (asked.first..=asked.last).contains(&held.seq);
        let mut some: Vec<&HeldEntry> = self.held.values().filter(is_asked).collect();
        some.sort_unstable_by_key(|held| held.seq);
        some.into_iter().take(wire::MAX_DOCUMENTS).map(|held| held.document.clone()).collect()
    }

    fn texts(&self) -> Vec<String> {
        // What is held was verified as text.
        self.held.values().map(|e| String::from_utf8_lossy(e.document.as_slice()).into_owned()).collect()
    }

    /// Strikes at once; says whether more is struck now, and whether the text is held too.
    fn hold(&mut self, document: &Document, entry: &Revocation, written: Written) -> (Changed, Held) {
        let known = self.set.struck_generation(entry.subject).is_some();
        if !known && self.set.len() >= limits::MAX_STRUCK {
            return (Changed::No, Held::NoRoom);
        }
        let changed = Arc::make_mut(&mut self.set).insert(entry);
        let length = document.as_slice().len();
        if self.bytes + length > limits::MAX_HELD_BYTES {
            return (changed, Held::NoRoom);
        }
        let hash = trust::sha256(&[document.as_slice()]);
        let held = HeldEntry {
            document: document.clone(),
            signer: entry.signer,
            seq: entry.seq,
            keep_until: entry.keep_until,
            written,
        };
        if self.held.insert(hash, held).is_none() {
            self.bytes += length;
        }
        (changed, Held::Yes)
    }

    pub(super) fn forget_old(&mut self, wall: UnixMs) {
        let cut = wall.minus(KEEP_LONGER);
        let old = |entry: &HeldEntry| entry.keep_until < cut;
        if self.held.values().any(old) {
            self.held.retain(|_, entry| !old(entry));
            self.bytes = self.held.values().map(|entry| entry.document.as_slice().len()).sum();
            Arc::make_mut(&mut self.set).forget_before(cut);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Yes,
    NoRoom,
}

impl Sessions {
    pub(super) fn hear_signer(
        &mut self,
        now: Instant,
        id: SessionId,
        controller: ControllerId,
        message: FromSigner,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.frames.take(limits::CONTROLLER_FRAMES, now, 1).is_err() {
            return self.counters.refused.add("budget");
        }
        match (session.stage, message) {
            (Stage::AwaitingHello(_), FromSigner::SignerHello(hello)) => {
                self.signer_hello(now, id, controller, &hello);
            }
            (Stage::Registered, FromSigner::PublishBeacon(beacon)) => {
                self.publish_beacon(now, controller, &beacon);
            }
            (Stage::Registered, FromSigner::PublishBundle(bundle)) => {
                self.publish_bundle(now, &bundle.chain);
            }
            (Stage::Registered, FromSigner::Strike(strike)) => self.strike(now, id, strike),
            (Stage::Registered, FromSigner::Reply(reply)) => self.reply(now, reply),
            (Stage::Registered, FromSigner::PublishSlice(published)) => {
                self.publish_slice(now, published.slice.as_slice());
            }
            _ => self.refuse_peer(now, id, "wrong_role", CloseCode::WrongRole),
        }
    }

    fn signer_hello(&mut self, now: Instant, id: SessionId, controller: ControllerId, hello: &SignerHello) {
        let Some(version) = register::common_version(hello.oldest, hello.newest) else {
            return self.refuse_peer(now, id, "version", CloseCode::Version);
        };
        if !self.signers.contains_key(&controller) && self.signers.len() >= limits::MAX_SIGNERS {
            return self.refuse_for_now(now, id, "full", CloseCode::Full);
        }
        // Before this one joins: what it is told now, it is not told again.
        self.tell_presence(now);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.stage = Stage::Registered;
        self.counters.registered += 1;
        if let Some(before) = self.signers.insert(controller, id) {
            self.close(now, before, CloseCode::Replaced);
        }
        let attached: Vec<Identity> = self
            .agents
            .values()
            .filter_map(|agent| self.sessions.get(&agent.session?))
            .map(|session| session.identity)
            .collect();
        // The rest in pages, as the queue takes them: all at once they are more than it holds.
        let (first, rest) = attached.split_at(attached.len().min(limits::PRESENCE_PAGE));
        let held = self.revocations.documents();
        let beacons = self.beacons.by_signer.values().map(|(_, document)| document.clone()).collect();
        let streams = uris(&self.by_stream(first));
        let welcome = SignerWelcome { version, held, attached: uris(first), beacons, streams };
        self.send_signer(now, id, &welcome.into());
        if !rest.is_empty() {
            self.untold.insert(id, rest.to_vec());
            self.tell_attached(now, id);
        }
        self.renew_with_a_controller(now);
    }

    /// Tells a controller of more agents that were here when it came, as many as its queue takes.
    pub(super) fn tell_attached(&mut self, now: Instant, id: SessionId) {
        let Some(mut untold) = self.untold.remove(&id) else { return };
        while !untold.is_empty() {
            let rest = untold.len().saturating_sub(limits::PRESENCE_PAGE);
            let page: Vec<Identity> = untold[rest..].to_vec();
            // Who has gone since was told as gone, and must not be told as here after that.
            let here: Vec<Identity> = page
                .into_iter()
                .filter(|identity| {
                    self.agents.get(&identity.subject()).is_some_and(|agent| agent.session.is_some())
                })
                .collect();
            let streams = uris(&self.by_stream(&here));
            let presence = ToSigner::from(Presence { attached: uris(&here), detached: Vec::new(), streams });
            match self.acceptor.send(id, presence.frame_type(), &presence.encode_body()) {
                Ok(()) => untold.truncate(rest),
                Err(session::SendError::Full) => {
                    self.untold.insert(id, untold);
                    self.deadlines.insert((now + limits::PRESENCE_PAUSE, Due::Attached(id)));
                    return;
                }
                Err(error) => return self.counters.not_sent.add(error.label()),
            }
        }
    }

    fn publish_beacon(&mut self, now: Instant, controller: ControllerId, publish: &PublishBeacon) {
        // A PoP's wall clock decides nothing here: agents hold the beacon's time against their own.
        let beacon = Unverified::<Beacon>::parse_bytes(publish.beacon.as_slice())
            .and_then(|unverified| unverified.verify_at_any_time(&self.bundle));
        let beacon = match beacon {
            Ok(beacon) => beacon,
            Err(error) => return self.counters.refused.add(error.label()),
        };
        let held = self.beacons.by_signer.get(&beacon.controller).map(|(time, _)| *time);
        // A controller may set its own clock right; nobody else turns its time back.
        if beacon.controller != controller && held.is_some_and(|held| beacon.time <= held) {
            return self.counters.refused.add("older_beacon");
        }
        if held.is_none() && self.beacons.by_signer.len() >= limits::MAX_SIGNERS {
            return self.counters.refused.add("full");
        }
        let first = self.beacons.latest.is_none();
        self.beacons.by_signer.insert(beacon.controller, (beacon.time, publish.beacon.clone()));
        self.beacons.latest = Some((beacon.controller, now));
        if first {
            // Whoever registered before the first controller came has waited long enough.
            self.push_beacons(now);
        }
    }

    pub(super) fn push_beacons(&mut self, now: Instant) {
        let beacons: Vec<Document> =
            self.beacons.by_signer.values().map(|(_, document)| document.clone()).collect();
        for beacon in beacons {
            self.push_to_connectors(now, &BeaconPush { beacon }.into());
        }
    }

    /// Sends to all connectors and says to which.
    fn push_to_connectors(&mut self, now: Instant, message: &ToAgent) -> Vec<ConnectorId> {
        let connectors: Vec<(ConnectorId, SessionId)> = self
            .agents
            .iter()
            .filter_map(|(subject, agent)| match subject {
                Subject::Connector(id) => Some((*id, agent.session?)),
                _ => None,
            })
            .collect();
        let body = message.encode_body();
        for (_, session) in &connectors {
            self.send_frame(now, *session, message.frame_type(), &body);
        }
        connectors.into_iter().map(|(id, _)| id).collect()
    }

    pub(super) fn publish_bundle(&mut self, now: Instant, chain: &Document) {
        if *chain == self.chain {
            return;
        }
        let newer = TrustChain::parse_bytes(chain.as_slice())
            .and_then(|parsed| parsed.verify(&self.root, self.wall))
            .and_then(|newer| self.bundle.replace_with(newer));
        if newer.is_err() {
            return self.counters.refused.add("chain");
        }
        self.root = self.bundle.root();
        self.chain = chain.clone();
        self.acceptor.set_bundle(self.bundle.clone());
        let text = String::from_utf8_lossy(chain.as_slice()).into_owned();
        let id = self.next_write();
        self.out.push_back(SessionsOutput::Persist { id, record: Record::Chain(text) });
        let push = ToAgent::from(BundlePush { chain: chain.clone() });
        let body = push.encode_body();
        for session in self.agents.values().filter_map(|agent| agent.session).collect::<Vec<_>>() {
            self.send_frame(now, session, push.frame_type(), &body);
        }
    }

    pub(super) fn next_write(&mut self) -> WriteId {
        self.revocations.last_write += 1;
        WriteId(self.revocations.last_write)
    }

    /// Applies at once, then writes, then acknowledges.
    fn strike(&mut self, now: Instant, id: SessionId, strike: Strike) {
        if strike.entries.len() > wire::MAX_DOCUMENTS {
            return self.refuse_peer(now, id, "malformed", CloseCode::Malformed);
        }
        let mut durable = Vec::new();
        let mut to_write = Vec::new();
        let mut news = Vec::new();
        let mut more_is_struck = false;
        for document in strike.entries {
            let hash = trust::sha256(&[document.as_slice()]);
            match self.revocations.held.get(&hash).map(|entry| entry.written) {
                Some(Written::Durable) => durable.push(hash),
                Some(Written::Failed) => to_write.push(hash),
                None => match self.believe(&document) {
                    Ok(entry) => {
                        let (changed, held) = self.revocations.hold(&document, &entry, Written::Failed);
                        more_is_struck |= changed == Changed::Yes;
                        match held {
                            Held::Yes => to_write.push(hash),
                            // Struck, but not held: never acknowledged, so the controller knows.
                            Held::NoRoom => self.counters.refused.add("revocations_full"),
                        }
                        news.push(document);
                    }
                    Err(error) => self.counters.refused.add(error.label()),
                },
            }
        }
        if more_is_struck {
            self.acceptor.set_revocations(now, self.revocations.set());
            self.close_struck_channels();
        }
        let connectors = if news.is_empty() {
            Vec::new()
        } else {
            self.tell_other_signers(now, id, &news);
            self.push_to_connectors(now, &wire::Revocations { entries: news }.into())
        };
        if planted::is("strike-acknowledged-before-it-is-written") {
            self.acknowledge(now, id, &to_write, Vec::new());
        }
        if !durable.is_empty() {
            self.acknowledge(now, id, &durable, Vec::new());
        }
        if to_write.is_empty() {
            return;
        }
        if self.revocations.waiting.len() >= limits::MAX_PENDING_WRITES {
            self.counters.refused.add("writes_full");
            return self.write_later(now);
        }
        self.write_strikes(Ack { session: Some(id), hashes: to_write, connectors });
    }

    fn write_strikes(&mut self, ack: Ack) {
        let write = self.next_write();
        self.revocations.waiting.insert(write, ack);
        let record = Record::Revocations(self.revocations.texts());
        self.out.push_back(SessionsOutput::Persist { id: write, record });
    }

    /// A disk that was full has room again, some time: no controller may be there to send it all again.
    fn write_later(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.revocations.is_to_be_written, true) {
            self.deadlines.insert((now + limits::REWRITE_AFTER, Due::Rewrite));
        }
    }

    /// Tries to write what is not on the disk.
    pub(super) fn rewrite(&mut self, now: Instant) {
        self.revocations.is_to_be_written = false;
        if !self.revocations.waiting.is_empty() {
            // What is being written has all of it.
            return self.write_later(now);
        }
        let unwritten = self.revocations.held.iter().filter(|(_, entry)| entry.written == Written::Failed);
        let hashes: Vec<[u8; 32]> = unwritten.map(|(hash, _)| *hash).collect();
        if !hashes.is_empty() {
            self.write_strikes(Ack { session: None, hashes, connectors: Vec::new() });
        }
    }

    /// The other controllers do not talk to each other: each new entry is told once, to each of them.
    fn tell_other_signers(&mut self, now: Instant, from: SessionId, entries: &[Document]) {
        let others: Vec<SessionId> = self.signers.values().copied().filter(|id| *id != from).collect();
        for id in others {
            self.send_signer(now, id, &StrikesElsewhere { entries: entries.to_vec() }.into());
        }
    }

    /// A connector lacks what a beacon's head speaks of. An answer with nothing in it is one too.
    pub(super) fn give_revocations(&mut self, now: Instant, id: SessionId, asked: &GetRevocations) {
        let entries = self.revocations.some(asked);
        self.send(now, id, &wire::Revocations { entries }.into());
    }

    fn believe(&self, document: &Document) -> Result<Revocation, DocumentError> {
        const { assert!(Revocation::MAX_TEXT <= wire::MAX_PUBLIC_DOCUMENT, "every entry fits a message") };
        Unverified::<Revocation>::parse_bytes(document.as_slice())?.verify_at_any_time(&self.bundle)
    }

    /// Channels outlive sessions, so an agent without one may have some too.
    fn close_struck_channels(&mut self) {
        let set = self.revocations.set();
        let struck: Vec<_> = self
            .agents
            .iter()
            .filter(|(subject, agent)| {
                agent.channels > 0 && set.is_struck(RevokedSubject::of(**subject), agent.generation)
            })
            .map(|(_, agent)| agent.owner)
            .collect();
        for owner in struck {
            self.close_channels(owner, Refusal::Struck);
        }
    }

    fn acknowledge(
        &mut self,
        now: Instant,
        id: SessionId,
        hashes: &[[u8; 32]],
        connectors: Vec<ConnectorId>,
    ) {
        let hashes = hashes.iter().filter_map(|hash| Bounded::new(hash.to_vec()).ok()).collect();
        self.send_signer(now, id, &StrikesHeld { hashes, connectors }.into());
    }

    /// A write has ended.
    pub fn handle_written(&mut self, now: Instant, id: WriteId, written: Written) {
        let Some(ack) = self.revocations.waiting.remove(&id) else { return };
        match written {
            Written::Durable => {
                for hash in &ack.hashes {
                    if let Some(entry) = self.revocations.held.get_mut(hash) {
                        entry.written = Written::Durable;
                    }
                }
                if let Some(session) = ack.session {
                    return self.acknowledge(now, session, &ack.hashes, ack.connectors);
                }
                let signers: Vec<SessionId> = self.signers.values().copied().collect();
                for some in ack.hashes.chunks(wire::MAX_DOCUMENTS) {
                    for signer in &signers {
                        self.acknowledge(now, *signer, some, Vec::new());
                    }
                }
            }
            Written::Failed => {
                self.counters.refused.add("write_failed");
                self.write_later(now);
            }
        }
    }

    pub(super) fn forward_sealed(&mut self, now: Instant, id: SessionId, frame: ToController) {
        let ToController { seq, sealed } = frame;
        let Some(signer) = self.controller_for(sealed.as_slice()) else {
            return self.controller_unavailable(now, id, seq, Refusal::NoController);
        };
        let forward = ToSigner::from(Forward { route: id.as_u64() ^ self.route_mask, seq, sealed });
        if let Err(error) = self.acceptor.send(signer, forward.frame_type(), &forward.encode_body()) {
            self.counters.not_sent.add(error.label());
            self.controller_unavailable(now, id, seq, Refusal::Full);
        }
    }

    /// Only the controller that owns the seal key can open the frame.
    pub(super) fn controller_for(&self, sealed: &[u8]) -> Option<SessionId> {
        let owner = trust::control::sealed_to(sealed)
            .and_then(|id| self.bundle.key(id, KeyRole::ControlSeal))
            .map(|key| key.owner);
        match owner {
            Some(owner) => self.signers.get(&owner).copied(),
            // A key newer than this PoP's bundle.
            None => self.signers.values().next().copied(),
        }
    }

    fn controller_unavailable(&mut self, now: Instant, id: SessionId, seq: u64, reason: Refusal) {
        self.counters.refused.add(reason.label());
        let retry_after_ms = limits::millis(limits::RETRY_LATER);
        self.send(now, id, &ControllerUnavailable { seq, reason, retry_after_ms }.into());
    }

    fn reply(&mut self, now: Instant, reply: Reply) {
        if reply.route ^ self.route_mask == OWN_ROUTE {
            return self.renewed(now, reply.sealed.as_slice());
        }
        let id = SessionId::from_u64(reply.route ^ self.route_mask);
        let registered_agent = self.sessions.get(&id).is_some_and(|session| {
            session.stage == Stage::Registered
                && !matches!(session.identity.subject(), Subject::Controller(_))
        });
        if !registered_agent {
            // The agent has gone meanwhile; it asks again from where it is now.
            return self.counters.refused.add("no_such_route");
        }
        self.send(now, id, &FromController { seq: reply.seq, sealed: reply.sealed }.into());
    }

    pub(super) fn came(&mut self, now: Instant, identity: Identity) {
        self.went.remove(&identity);
        self.came.insert(identity);
        self.schedule_presence(now);
    }

    pub(super) fn went(&mut self, now: Instant, identity: Identity) {
        self.came.remove(&identity);
        self.went.insert(identity);
        self.schedule_presence(now);
    }

    fn schedule_presence(&mut self, now: Instant) {
        if self.came.len() + self.went.len() >= limits::MAX_PRESENCE {
            self.tell_presence(now);
        } else if self.presence_at.is_none() {
            let at = now + limits::PRESENCE_INTERVAL;
            self.presence_at = Some(at);
            self.deadlines.insert((at, Due::Presence));
        }
    }

    pub(super) fn tell_presence(&mut self, now: Instant) {
        if let Some(at) = self.presence_at.take() {
            self.deadlines.remove(&(at, Due::Presence));
        }
        let came: Vec<Identity> = std::mem::take(&mut self.came).into_iter().collect();
        let went: Vec<Identity> = std::mem::take(&mut self.went).into_iter().collect();
        if came.is_empty() && went.is_empty() {
            return;
        }
        let streams = uris(&self.by_stream(&came));
        let presence = Presence { attached: uris(&came), detached: uris(&went), streams };
        for session in self.signers.values().copied().collect::<Vec<_>>() {
            self.send_signer(now, session, &presence.clone().into());
        }
    }

    /// Whose sessions are carried by TCP 443 now.
    fn by_stream(&self, identities: &[Identity]) -> Vec<Identity> {
        let is_by_stream = |identity: &&Identity| {
            let agent = self.agents.get(&identity.subject());
            let session = agent.and_then(|agent| self.sessions.get(&agent.session?));
            session.is_some_and(|session| wire::is_stream_address(session.observed()))
        };
        identities.iter().filter(is_by_stream).copied().collect()
    }
}

fn uris(identities: &[Identity]) -> Vec<Bounded<256>> {
    // Four parts of at most 31 characters and the words between them: below 256.
    identities.iter().filter_map(|identity| Bounded::new(identity.to_string().into_bytes()).ok()).collect()
}
