//! Sessions to PoPs: this controller dials each of them, publishes what is signed for everybody, and
//! answers the agents' sealed frames that come through.

use crate::{
    clock, control,
    gate::ToWrite,
    issue::{IssueError, Issuer},
    parts::{Core, SyncCommand},
    presence::Here,
    signer::SignError,
};
use net::{RecvBatch, SendBatch, UdpPort};
use session::{CloseCode, Dialler, Event, LocalIdentity, Output, SessionId};
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc, watch};
use trust::{Beacon, Changed, Identity, Unverified};
use wire::{
    Bounded, Document, Forward, FromSigner, MAX_DOCUMENTS, OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, PopId,
    PublishBeacon, PublishBundle, PublishSlice, Reply, SignerHello, Strike, ToSigner,
};

/// Architecture: a beacon each second.
const BEACON_EVERY: Duration = Duration::from_secs(1);
/// First and longest wait between two tries to reach a PoP.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// Control frames that are worked on at once; each costs well under a millisecond of a core.
const AT_WORK: usize = 64;
/// Frames that wait for that; beyond it they are dropped and the agents ask again.
const REPLIES: usize = 1024;
/// How often the own certificate, keys and PoP list are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The own certificate is shown anew each day; it lives 30.
const IDENTITY_EVERY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
struct Link {
    address: String,
    session: Option<SessionId>,
    up: bool,
    retry_at: Instant,
    wait: Duration,
    /// Entries that this session's queue had no room for yet. It is begun with every entry there is at
    /// each attachment, and gone with the session.
    unsent: VecDeque<Arc<str>>,
    /// The version of the slice that this session was sent.
    slice: Option<store::Version>,
}

enum Done {
    Resolved(PopId, Option<SocketAddr>),
    Answered(SessionId, Reply),
}

/// The sync task.
pub(crate) struct Sync {
    core: Arc<Core>,
    port: UdpPort,
    dialler: Dialler,
    links: BTreeMap<PopId, Link>,
    done: mpsc::Sender<Done>,
    at_work: Arc<Semaphore>,
    /// By the clock that counts sleep: the certificate ends also when nobody is awake.
    identity_at: Duration,
    /// Why there is none, as it was last said.
    identity_trouble: Option<String>,
}

/// Sync cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    #[error(transparent)]
    Bind(#[from] net::BindError),
}

fn bind() -> Result<UdpPort, net::BindError> {
    let v6 = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    // A host without IPv6 has no socket for it.
    UdpPort::bind(v6).or_else(|_| UdpPort::bind(SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0))))
}

/// Runs until `shutdown` says so.
pub(crate) async fn run(
    core: Arc<Core>,
    mut commands: mpsc::Receiver<SyncCommand>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), SyncError> {
    let port = bind()?;
    let (done, mut finished) = mpsc::channel(REPLIES);
    let Some(local) = identity(&core, &mut commands, &mut shutdown).await else { return Ok(()) };
    let bundle = core.signer.bundle();
    let mut dialler = Dialler::new(local, (*bundle).clone(), clock::wall(), clock::random());
    let mut revocations = core.strikes.watch();
    dialler.set_revocations(revocations.borrow_and_update().clone());
    let mut snapshots = core.snapshots.watch();
    let mut sync = Sync {
        core,
        port,
        dialler,
        links: BTreeMap::new(),
        done,
        at_work: Arc::new(Semaphore::new(AT_WORK)),
        identity_at: clock::boot(),
        identity_trouble: None,
    };
    let mut incoming = RecvBatch::for_agent();
    let mut next_beacon = clock::now();
    let mut next_look = clock::now();
    sync.follow_pops();
    loop {
        let due = sync.drain().await.min(next_beacon).min(next_look).min(sync.next_retry());
        tokio::select! {
            received = sync.port.recv_batch(&mut incoming) => match received {
                Ok(()) => {
                    let now = clock::now();
                    for datagram in incoming.iter() {
                        sync.dialler.handle_input(now, datagram.from, datagram.payload);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the controller's UDP socket");
                    tokio::time::sleep(RETRY_FIRST).await;
                }
            },
            Some(done) = finished.recv() => sync.finish(done),
            Some(command) = commands.recv() => sync.command(&command),
            Ok(()) = snapshots.changed() => {
                snapshots.borrow_and_update();
                sync.follow_pops();
                next_beacon = clock::now();
            }
            Ok(()) = revocations.changed() => {
                sync.dialler.set_revocations(revocations.borrow_and_update().clone());
            }
            _ = shutdown.changed() => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        let now = clock::now();
        sync.dialler.handle_timeout(now);
        if now >= next_beacon {
            // Counted from now: after a suspend there is one beacon, not one for each second.
            next_beacon = now + BEACON_EVERY;
            sync.keep_identity();
            sync.send_strikes();
            sync.publish_slices();
            sync.publish_beacon();
            sync.write_down();
        }
        if now >= next_look {
            next_look = now + LOOK_EVERY;
            sync.look();
        }
        sync.retry(now);
    }
    sync.goodbye().await;
    Ok(())
}

/// Who this controller is to PoPs. A fenced one is nobody: it waits until its clock can be believed, and
/// serves reads meanwhile. `None`: it was told to end first.
async fn identity(
    core: &Core,
    commands: &mut mpsc::Receiver<SyncCommand>,
    shutdown: &mut watch::Receiver<bool>,
) -> Option<LocalIdentity> {
    let mut said = false;
    loop {
        match core.signer.local_identity() {
            Ok(local) => return Some(local),
            Err(error) if !said => {
                said = true;
                tracing::error!(%error, "this controller holds no sessions to PoPs");
            }
            Err(_) => {}
        }
        let wait = tokio::time::sleep(RETRY_LONGEST);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                // Every entry goes to each PoP when it attaches.
                Some(_) = commands.recv() => {}
                _ = shutdown.changed() => return None,
            }
        }
    }
}

fn document(text: &str) -> Option<Document> {
    match Document::new(text.as_bytes().to_vec()) {
        Ok(document) => Some(document),
        Err(error) => {
            tracing::warn!(%error, "a public document is too long to publish");
            None
        }
    }
}

impl Sync {
    /// Sends everything that waits and takes every event; gives the time of the next timeout.
    async fn drain(&mut self) -> Instant {
        let mut batch = SendBatch::new();
        let now = clock::now();
        loop {
            match self.dialler.poll_output(now) {
                Output::Transmit { to, payload } => batch.push(to, &payload),
                Output::Event(event) => self.event(event),
                Output::Timeout { at, .. } => {
                    let report = self.port.send_batch(&mut batch).await;
                    tracing::trace!(?report, "sent");
                    return at;
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { id, .. } => self.connected(id),
            Event::Frame { id, frame_type, body } => self.frame(id, frame_type, &body),
            Event::AddressChanged { .. } => {}
            Event::Lost { id, reason, .. } => {
                let now = clock::now();
                let lost = self.links.iter_mut().find(|(_, link)| link.session == Some(id));
                if let Some((pop, link)) = lost {
                    if link.up {
                        tracing::info!(%pop, reason = reason.label(), "the session to a PoP ended");
                        link.wait = RETRY_FIRST;
                    }
                    link.session = None;
                    link.up = false;
                    link.slice = None;
                    link.unsent.clear();
                    link.retry_at = now + link.wait;
                    link.wait = (link.wait * 2).min(RETRY_LONGEST);
                    let pop = *pop;
                    self.core.presence().pop_lost(pop, clock::wall());
                    self.core.gate.lost(pop);
                }
            }
        }
    }

    fn pop_of(&self, id: SessionId) -> Option<PopId> {
        self.links.iter().find(|(_, link)| link.session == Some(id)).map(|(pop, _)| *pop)
    }

    fn connected(&mut self, id: SessionId) {
        let hello = SignerHello { oldest: OLDEST_PROTOCOL_VERSION, newest: PROTOCOL_VERSION };
        self.send(id, &hello.into());
        if let Some(chain) = document(&self.core.signer.chain_text()) {
            self.send(id, &PublishBundle { chain }.into());
        }
        let entries = self.core.strikes.entries(clock::wall());
        if let Some(link) = self.links.values_mut().find(|link| link.session == Some(id)) {
            link.unsent = entries.into_iter().map(|entry| entry.text).collect();
        }
        self.send_strikes();
        if let Some(pop) = self.pop_of(id) {
            self.core.gate.reached(pop, clock::now());
        }
        if let Some(beacon) = self.beacon() {
            self.send(id, &PublishBeacon { beacon }.into());
        }
    }

    fn frame(&mut self, id: SessionId, frame_type: u16, body: &[u8]) {
        let Some(pop) = self.pop_of(id) else { return };
        match ToSigner::decode_body(frame_type, body) {
            Ok(Some(message)) => self.message(pop, id, message),
            Ok(None) => tracing::debug!(%pop, frame_type, "a message of a newer version was skipped"),
            Err(error) => {
                tracing::warn!(%pop, %error, "a PoP sent a message that does not parse");
                self.dialler.close(clock::now(), id, CloseCode::Malformed);
            }
        }
    }

    fn message(&mut self, pop: PopId, id: SessionId, message: ToSigner) {
        let wall = clock::wall();
        match message {
            ToSigner::SignerWelcome(welcome) => {
                if let Some(link) = self.links.get_mut(&pop) {
                    link.up = true;
                    link.wait = RETRY_FIRST;
                }
                tracing::info!(%pop, "attached to a PoP");
                let here =
                    Here { attached: identities(&welcome.attached), by_stream: identities(&welcome.streams) };
                self.core.presence().pop_attached(pop, &here, wall);
                self.take_held(pop, welcome.held, welcome.beacons);
            }
            ToSigner::Forward(forward) => self.forward(id, forward),
            ToSigner::StrikesHeld(held) => {
                let hashes: Vec<[u8; 32]> =
                    held.hashes.iter().filter_map(|hash| hash.as_slice().try_into().ok()).collect();
                self.core.strikes.held_by(pop, &hashes, &held.connectors);
            }
            ToSigner::StrikesElsewhere(elsewhere) => self.take_elsewhere(elsewhere.entries),
            ToSigner::Presence(change) => {
                let mut presence = self.core.presence();
                presence.went(pop, &identities(&change.detached), wall);
                let here =
                    Here { attached: identities(&change.attached), by_stream: identities(&change.streams) };
                presence.came(pop, &here, wall);
            }
        }
    }

    /// The union of what PoPs hold: a controller whose disk was lost learns again what is struck, and
    /// spreads it to the PoPs that missed it.
    ///
    /// What its beacons name is known before the PoP counts as heard.
    fn take_held(&self, pop: PopId, held: Vec<Document>, beacons: Vec<Document>) {
        let texts: Vec<String> =
            held.into_iter().filter_map(|document| String::from_utf8(document.into_vec()).ok()).collect();
        let core = Arc::clone(&self.core);
        tokio::task::spawn_blocking(move || {
            let bundle = core.signer.bundle();
            for beacon in beacons {
                let beacon = Unverified::<Beacon>::parse_bytes(beacon.as_slice());
                match beacon.and_then(|beacon| beacon.verify_at_any_time(&bundle)) {
                    Ok(beacon) => core.gate.observe(&beacon),
                    Err(error) => tracing::debug!(%pop, %error, "a PoP holds a beacon that does not verify"),
                }
            }
            let changed = core.strikes.take(&bundle, &texts);
            core.gate.taken(pop);
            // Full: the next look at it is a second away.
            let _ = core.sync.try_send(SyncCommand::Taken);
            if changed == Changed::Yes {
                for entry in core.strikes.entries(clock::wall()) {
                    // Full: the PoPs get every entry when they attach again.
                    let _ = core.sync.try_send(SyncCommand::Strike(entry.text));
                }
            }
        });
    }

    /// What another controller struck: applied here, and given to the PoPs that the other does not reach.
    fn take_elsewhere(&self, entries: Vec<Document>) {
        let texts: Vec<String> =
            entries.into_iter().filter_map(|entry| String::from_utf8(entry.into_vec()).ok()).collect();
        let core = Arc::clone(&self.core);
        tokio::task::spawn_blocking(move || {
            if core.strikes.take(&core.signer.bundle(), &texts) == Changed::Yes {
                for text in texts {
                    // Full: the PoPs get every entry when they attach again. What does not verify is refused there, too.
                    let _ = core.sync.try_send(SyncCommand::Strike(text.into()));
                }
            }
        });
    }

    fn forward(&self, id: SessionId, forward: Forward) {
        let Ok(permit) = Arc::clone(&self.at_work).try_acquire_owned() else {
            tracing::debug!("too many control frames at once: one was dropped");
            return;
        };
        let (core, done) = (Arc::clone(&self.core), self.done.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let Forward { route, seq, sealed } = forward;
            let Some(answer) = control::answer(&core, sealed.as_slice()).await else { return };
            if let Ok(sealed) = Bounded::new(answer) {
                let _ = done.send(Done::Answered(id, Reply { route, seq, sealed })).await;
            }
        });
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Answered(id, reply) => self.send(id, &reply.into()),
            Done::Resolved(pop, address) => {
                let now = clock::now();
                let Some(link) = self.links.get_mut(&pop) else { return };
                let dialled = address.map(|address| self.dialler.dial(now, pop, address));
                match dialled {
                    Some(Ok(id)) => link.session = Some(id),
                    Some(Err(error)) => tracing::warn!(%pop, %error, "a PoP cannot be dialled"),
                    None => tracing::debug!(%pop, address = link.address, "a PoP's name does not resolve"),
                }
                if link.session.is_none() {
                    link.retry_at = now + link.wait;
                    link.wait = (link.wait * 2).min(RETRY_LONGEST);
                }
            }
        }
    }

    fn command(&mut self, command: &SyncCommand) {
        match command {
            SyncCommand::Strike(_) if planted::is("strike-not-spread") => {}
            SyncCommand::Strike(text) => {
                for link in self.links.values_mut().filter(|link| link.session.is_some()) {
                    link.unsent.push_back(Arc::clone(text));
                }
                self.send_strikes();
                // The head in the next beacon tells those who miss the entry.
                self.publish_beacon();
            }
            SyncCommand::Taken => self.publish_slices(),
            SyncCommand::Bundle => {
                self.dialler.set_bundle((*self.core.signer.bundle()).clone());
                if let Some(chain) = document(&self.core.signer.chain_text()) {
                    self.broadcast(&PublishBundle { chain }.into());
                }
            }
        }
    }

    /// Sends entries as far as the sessions' queues have room; the rest with the next beacon.
    fn send_strikes(&mut self) {
        for link in self.links.values_mut() {
            let Some(id) = link.session else { continue };
            while !link.unsent.is_empty() {
                let count = link.unsent.len().min(MAX_DOCUMENTS);
                let entries = link.unsent.iter().take(count).filter_map(|text| document(text)).collect();
                let message = FromSigner::from(Strike { entries });
                match self.dialler.send(id, message.frame_type(), &message.encode_body()) {
                    Ok(()) => drop(link.unsent.drain(..count)),
                    Err(error) => {
                        tracing::debug!(%error, waiting = link.unsent.len(), "strikes wait for a PoP");
                        break;
                    }
                }
            }
        }
    }

    /// One link for each PoP of the snapshot, and none for others.
    fn follow_pops(&mut self) {
        let snapshot = self.core.snapshot();
        let pops = snapshot.pops(&self.core.strikes.set());
        let now = clock::now();
        let gone: Vec<PopId> = self
            .links
            .iter()
            .filter(|(id, link)| !pops.iter().any(|pop| pop.id == **id && pop.address == link.address))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(session) = self.links.remove(&id).and_then(|link| link.session) {
                self.dialler.close(now, session, CloseCode::Done);
                self.core.presence().pop_lost(id, clock::wall());
                self.core.gate.lost(id);
            }
        }
        for pop in pops {
            self.links.entry(pop.id).or_insert_with(|| Link {
                address: pop.address,
                session: None,
                up: false,
                retry_at: now,
                wait: RETRY_FIRST,
                unsent: VecDeque::new(),
                slice: None,
            });
        }
    }

    fn next_retry(&self) -> Instant {
        let waiting = self.links.values().filter(|link| link.session.is_none());
        waiting.map(|link| link.retry_at).min().unwrap_or_else(|| clock::now() + LOOK_EVERY)
    }

    fn retry(&mut self, now: Instant) {
        for (pop, link) in &mut self.links {
            if link.session.is_some() || link.retry_at > now {
                continue;
            }
            // Until the look-up has answered; a hanging resolver hangs one look-up.
            link.retry_at = now + 2 * RETRY_LONGEST;
            let (pop, address, done) = (*pop, link.address.clone(), self.done.clone());
            tokio::spawn(async move {
                let found = tokio::time::timeout(RETRY_LONGEST, tokio::net::lookup_host(address)).await;
                let address = found.ok().and_then(Result::ok).and_then(|mut addresses| addresses.next());
                let _ = done.send(Done::Resolved(pop, address)).await;
            });
        }
    }

    /// Rotates what is due.
    fn look(&mut self) {
        if self.core.signer.is_one_of_several() {
            let core = Arc::clone(&self.core);
            // Of its own: it waits for the database.
            tokio::spawn(async move { core.look_after_shared_keys().await });
        } else {
            match self.core.signer.rotate_if_due() {
                Ok(crate::signer::Rotated::Yes) => self.command(&SyncCommand::Bundle),
                Ok(crate::signer::Rotated::No) => {}
                Err(error) => tracing::warn!(%error, "keys were not looked at"),
            }
        }
    }

    /// Judges PoPs' certificates by what time it is, and shows a fresh one. Each second: after a night asleep every
    /// certificate that was held may have ended.
    fn keep_identity(&mut self) {
        self.dialler.set_wall(self.core.signer.best_time());
        if clock::boot().saturating_sub(self.identity_at) >= IDENTITY_EVERY {
            match self.core.signer.local_identity() {
                Ok(local) => {
                    self.dialler.set_identity(local);
                    self.identity_at = clock::boot();
                }
                // For as long as that lasts, and said where it is.
                Err(SignError::Fenced(fenced)) => {
                    tracing::debug!(%fenced, "no fresh certificate for this controller");
                }
                Err(error) => {
                    let said = error.to_string();
                    if self.identity_trouble.as_ref() != Some(&said) {
                        tracing::warn!(
                            %error,
                            "no fresh certificate for this controller; within 30 days PoPs let it in no more"
                        );
                        self.identity_trouble = Some(said);
                    }
                }
            }
        }
    }

    fn beacon(&self) -> Option<Document> {
        match control::beacon(&self.core, &self.core.snapshot(), None) {
            Ok(text) => document(&text),
            Err(error) => {
                tracing::debug!(%error, "no beacon");
                None
            }
        }
    }

    fn publish_beacon(&mut self) {
        if self.links.values().any(|link| link.up)
            && let Some(beacon) = self.beacon()
        {
            self.broadcast(&PublishBeacon { beacon }.into());
            if self.core.gate.beaconed(clock::now()) == ToWrite::LastBeacon {
                let core = Arc::clone(&self.core);
                // Of its own: a disk that hangs stops no beacon.
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = core.gate.write_last_beacon(clock::wall()) {
                        tracing::warn!(%error, "the time of the last beacon was not written");
                    }
                });
            }
        }
    }

    /// What the journal's disk refused is tried again.
    fn write_down(&self) {
        if self.core.strikes.has_unwritten() {
            let core = Arc::clone(&self.core);
            tokio::task::spawn_blocking(move || core.strikes.flush());
        }
    }

    /// Sends each PoP that is up its slice, once for each version.
    fn publish_slices(&mut self) {
        let (snapshot, revocations) = (self.core.snapshot(), self.core.strikes.set());
        let version = snapshot.dataset.installation.version;
        let core = Arc::clone(&self.core);
        let issuer = Issuer::new(&core, &snapshot, &revocations);
        let due = self.links.iter().filter(|(_, link)| link.up && link.slice != Some(version));
        let due: Vec<(PopId, SessionId)> =
            due.filter_map(|(pop, link)| Some((*pop, link.session?))).collect();
        for (pop, id) in due {
            match issuer.pop(pop) {
                Ok(text) => {
                    if let Some(slice) = document(&text) {
                        self.send(id, &PublishSlice { slice }.into());
                    }
                    if let Some(link) = self.links.get_mut(&pop) {
                        link.slice = Some(version);
                    }
                }
                // Said by the status; tried again with the next beacon.
                Err(IssueError::Withheld(_)) => {}
                Err(error) => tracing::warn!(%pop, %error, "no slice for a PoP"),
            }
        }
    }

    fn broadcast(&mut self, message: &FromSigner) {
        let up: Vec<SessionId> =
            self.links.values().filter(|link| link.up).filter_map(|link| link.session).collect();
        for id in up {
            self.send(id, message);
        }
    }

    fn send(&mut self, id: SessionId, message: &FromSigner) {
        if let Err(error) = self.dialler.send(id, message.frame_type(), &message.encode_body()) {
            tracing::debug!(message = message.name(), %error, "a message to a PoP was not queued");
        }
    }

    async fn goodbye(&mut self) {
        let now = clock::now();
        for session in self.links.values().filter_map(|link| link.session) {
            self.dialler.close(now, session, CloseCode::ShuttingDown);
        }
        self.drain().await;
    }
}

fn identities(texts: &[Bounded<256>]) -> Vec<Identity> {
    texts.iter().filter_map(|text| std::str::from_utf8(text.as_slice()).ok()?.parse().ok()).collect()
}
