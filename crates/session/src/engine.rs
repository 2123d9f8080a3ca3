//! What dialler and acceptor share: QUIC connections, their timers, their one stream.

use crate::{
    close::{self, CloseCode, LostReason},
    output::{Event, NOTHING_DUE, Output, SendError, SessionId},
    vetting::{Expected, PeerRefused, Vetting},
};
use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event as QuicEvent, Incoming, ReadError,
    StreamEvent, StreamId, Transmit, WriteError,
};
use rustls::pki_types::CertificateDer;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use trust::{Certificate, Role};
use wire::{FrameReader, MAX_AGENT_MESSAGE, MAX_CONTROLLER_MESSAGE};

/// What may wait in one session's queue besides the frame it begins with: the longest sealed reply and as
/// much again in small messages. An empty queue takes any frame that the peer takes.
const SEND_QUEUE: usize = wire::MAX_SEALED_REPLY + 64 * 1024;
/// Packets of one session in a row before the others get their turn.
const PACKETS_IN_A_ROW: usize = 16;

/// Which side of a session the engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialler,
    Acceptor,
}

enum Phase {
    Handshaking {
        until: Instant,
        expected: Expected,
    },
    Up {
        peer: Box<Certificate>,
    },
    /// `Lost` was told (or nobody was told of the session at all); QUIC drains.
    Over,
}

struct Session {
    handle: ConnectionHandle,
    connection: Connection,
    phase: Phase,
    stream: Option<StreamId>,
    reader: FrameReader,
    send_limit: usize,
    queue: VecDeque<Bytes>,
    queued: usize,
    remote: SocketAddr,
    timer: Option<Instant>,
    is_dirty: bool,
}

/// The sessions of one side.
pub(crate) struct Engine {
    side: Side,
    endpoint: Endpoint,
    vetting: Arc<Vetting>,
    sessions: BTreeMap<SessionId, Session>,
    by_handle: BTreeMap<usize, SessionId>,
    dirty: VecDeque<SessionId>,
    timers: BTreeSet<(Instant, SessionId)>,
    out: VecDeque<Output>,
    next_id: u64,
    handshakes: usize,
    /// Handshakes in the order they began; those that are over are passed over.
    begun: VecDeque<(Instant, SessionId)>,
    /// With whom handshakes are under way.
    handshaking: BTreeMap<SocketAddr, usize>,
    scratch: Vec<u8>,
}

impl Engine {
    pub(crate) fn new(side: Side, endpoint: Endpoint, vetting: Arc<Vetting>) -> Self {
        Self {
            side,
            endpoint,
            vetting,
            sessions: BTreeMap::new(),
            by_handle: BTreeMap::new(),
            dirty: VecDeque::new(),
            timers: BTreeSet::new(),
            out: VecDeque::new(),
            next_id: 1,
            handshakes: 0,
            begun: VecDeque::new(),
            handshaking: BTreeMap::new(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    pub(crate) fn endpoint_ref(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sessions including those that drain.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes
    }

    pub(crate) fn is_handshaking(&self, remote: SocketAddr) -> bool {
        self.handshaking.contains_key(&remote)
    }

    /// Gives up the handshake that began first, if that was before `before`; says whether it did.
    pub(crate) fn give_up_oldest(&mut self, now: Instant, before: Instant) -> bool {
        while let Some(&(at, id)) = self.begun.front() {
            let is_handshaking = |session: &Session| matches!(session.phase, Phase::Handshaking { .. });
            if self.sessions.get(&id).is_some_and(is_handshaking) {
                if at > before {
                    return false;
                }
                self.begun.pop_front();
                self.close(now, id, CloseCode::Full, None);
                return true;
            }
            self.begun.pop_front();
        }
        false
    }

    fn handshake_over(&mut self, remote: SocketAddr) {
        self.handshakes = self.handshakes.saturating_sub(1);
        if let Some(count) = self.handshaking.get_mut(&remote) {
            *count -= 1;
            if *count == 0 {
                self.handshaking.remove(&remote);
            }
        }
    }

    pub(crate) fn up(&self) -> impl Iterator<Item = (SessionId, &Certificate)> {
        self.sessions.iter().filter_map(|(id, session)| match &session.phase {
            Phase::Up { peer } => Some((*id, peer.as_ref())),
            Phase::Handshaking { .. } | Phase::Over => None,
        })
    }

    pub(crate) fn peer(&self, id: SessionId) -> Option<&Certificate> {
        match &self.sessions.get(&id)?.phase {
            Phase::Up { peer } => Some(peer),
            Phase::Handshaking { .. } | Phase::Over => None,
        }
    }

    pub(crate) fn remote(&self, id: SessionId) -> Option<SocketAddr> {
        self.sessions.get(&id).map(|session| session.remote)
    }

    pub(crate) fn add(
        &mut self,
        handle: ConnectionHandle,
        connection: Connection,
        expected: Expected,
        now: Instant,
        until: Instant,
    ) -> SessionId {
        let id = SessionId(self.next_id);
        self.next_id += 1;
        let remote = connection.remote_address();
        self.by_handle.insert(handle.0, id);
        self.handshakes += 1;
        *self.handshaking.entry(remote).or_default() += 1;
        if self.side == Side::Acceptor {
            while self.begun.front().is_some_and(|(_, id)| {
                !self
                    .sessions
                    .get(id)
                    .is_some_and(|session| matches!(session.phase, Phase::Handshaking { .. }))
            }) {
                self.begun.pop_front();
            }
            self.begun.push_back((now, id));
        }
        self.sessions.insert(
            id,
            Session {
                handle,
                connection,
                phase: Phase::Handshaking { until, expected },
                stream: None,
                reader: FrameReader::new(0),
                send_limit: 0,
                queue: VecDeque::new(),
                queued: 0,
                remote,
                timer: None,
                is_dirty: false,
            },
        );
        self.touch(id);
        id
    }

    /// Gives a datagram to QUIC; what may become a new session comes back.
    pub(crate) fn handle_input(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Option<Incoming> {
        self.scratch.clear();
        let event =
            self.endpoint.handle(now, from, None, None, BytesMut::from(datagram), &mut self.scratch)?;
        match event {
            DatagramEvent::ConnectionEvent(handle, event) => {
                let id = *self.by_handle.get(&handle.0)?;
                self.sessions.get_mut(&id)?.connection.handle_event(event);
                self.touch(id);
                None
            }
            DatagramEvent::Response(transmit) => {
                self.respond(&transmit);
                None
            }
            DatagramEvent::NewConnection(incoming) => Some(incoming),
        }
    }

    /// Runs what produces one packet of the endpoint's own (Retry, refusal) and queues the packet.
    pub(crate) fn reply<R>(
        &mut self,
        produce: impl FnOnce(&mut Endpoint, &mut Vec<u8>) -> (Option<Transmit>, R),
    ) -> R {
        self.scratch.clear();
        let (transmit, result) = produce(&mut self.endpoint, &mut self.scratch);
        if let Some(transmit) = transmit {
            self.respond(&transmit);
        }
        result
    }

    /// Queues a packet that belongs to no session.
    pub(crate) fn answer(&mut self, to: SocketAddr, payload: Option<Vec<u8>>) {
        self.out.extend(payload.map(|payload| Output::Transmit { to, payload }));
    }

    fn respond(&mut self, transmit: &Transmit) {
        let payload = self.scratch[..transmit.size].to_vec();
        self.out.push_back(Output::Transmit { to: transmit.destination, payload });
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.timer = None;
            if let Phase::Handshaking { until, .. } = session.phase
                && until <= now
            {
                session.connection.close(now, CloseCode::Silent.var_int(), Bytes::new());
                self.over(id, LostReason::TimedOut, None);
            } else {
                session.connection.handle_timeout(now);
            }
            self.touch(id);
        }
    }

    pub(crate) fn send(&mut self, id: SessionId, frame_type: u16, body: &[u8]) -> Result<(), SendError> {
        let session = self.sessions.get_mut(&id).ok_or(SendError::NoSession)?;
        match session.phase {
            Phase::Up { .. } => {}
            Phase::Handshaking { .. } => return Err(SendError::NotUp),
            Phase::Over => return Err(SendError::NoSession),
        }
        let length = body.len().saturating_add(size_of::<u16>());
        if length > session.send_limit {
            return Err(SendError::TooLong);
        }
        if session.queued > 0 && session.queued + length > SEND_QUEUE {
            return Err(SendError::Full);
        }
        let frame = wire::encode_frame(frame_type, body);
        session.queued += frame.len();
        session.queue.push_back(frame.into());
        self.touch(id);
        Ok(())
    }

    /// Ends a session that is known; `Lost` follows.
    pub(crate) fn close(
        &mut self,
        now: Instant,
        id: SessionId,
        code: CloseCode,
        retry_after: Option<Duration>,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.connection.close(now, code.var_int(), Bytes::from(close::phrase(code, retry_after)));
        self.over(id, LostReason::ClosedHere(code), None);
        self.touch(id);
    }

    pub(crate) fn touch(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && !session.is_dirty
        {
            session.is_dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// The next thing to do; `None` when only timers are left.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Output> {
        loop {
            if let Some(output) = self.out.pop_front() {
                return Some(output);
            }
            let id = self.dirty.pop_front()?;
            if let Some(session) = self.sessions.get_mut(&id) {
                session.is_dirty = false;
                self.service(now, id);
            }
        }
    }

    pub(crate) fn next_timeout(&self, now: Instant) -> Output {
        match self.timers.first() {
            Some(&(at, _)) => Output::Timeout { at, reason: "a session's QUIC timer" },
            None => Output::Timeout { at: now + NOTHING_DUE, reason: "nothing is due" },
        }
    }

    /// Tells the owner once that a session ended.
    fn over(&mut self, id: SessionId, reason: LostReason, retry_after: Option<Duration>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut ended = None;
        let tell = match (&session.phase, self.side) {
            (Phase::Up { .. }, _) => true,
            (Phase::Handshaking { .. }, side) => {
                // The acceptor's owner never heard of a handshake that failed.
                ended = Some(session.remote);
                side == Side::Dialler
            }
            (Phase::Over, _) => return,
        };
        session.phase = Phase::Over;
        session.queue = VecDeque::new();
        session.queued = 0;
        session.reader = FrameReader::new(0);
        if let Some(remote) = ended {
            self.handshake_over(remote);
        }
        if tell {
            self.out.push_back(Output::Event(Event::Lost { id, reason, retry_after }));
        }
    }

    /// Does what one session has to do now, and asks for another turn when that was something.
    fn service(&mut self, now: Instant, id: SessionId) {
        let mut worked = self.drain_events(now, id);
        worked |= self.read(now, id);
        worked |= self.write(now, id);
        if self.drain_endpoint_events(id) {
            return;
        }
        worked |= self.transmit(now, id);
        self.notice_address(id);
        self.arm(id);
        if worked {
            self.touch(id);
        }
    }

    fn drain_events(&mut self, now: Instant, id: SessionId) -> bool {
        let mut worked = false;
        while let Some(session) = self.sessions.get_mut(&id)
            && let Some(event) = session.connection.poll()
        {
            worked = true;
            match event {
                QuicEvent::Connected => self.connected(now, id),
                QuicEvent::ConnectionLost { reason } => {
                    self.over(id, LostReason::of(&reason), close::retry_after(&reason));
                }
                QuicEvent::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    session.stream = session.stream.or(session.connection.streams().accept(Dir::Bi));
                }
                QuicEvent::Stream(StreamEvent::Stopped { .. } | StreamEvent::Finished { .. }) => {
                    self.close(now, id, CloseCode::StreamEnded, None);
                }
                QuicEvent::Stream(
                    StreamEvent::Opened { .. }
                    | StreamEvent::Readable { .. }
                    | StreamEvent::Writable { .. }
                    | StreamEvent::Available { .. },
                )
                | QuicEvent::HandshakeDataReady
                | QuicEvent::DatagramReceived
                | QuicEvent::DatagramsUnblocked => {}
            }
        }
        worked
    }

    /// The handshake is complete. Whatever the TLS library did about the certificate, it is judged here
    /// again: nothing is up without it.
    fn connected(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Phase::Handshaking { expected, .. } = session.phase else { return };
        let chain = session
            .connection
            .crypto_session()
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let judged = match chain.as_deref().map(Vec::as_slice) {
            Some([certificate]) => self.vetting.judge(certificate, expected),
            _ => Err(PeerRefused::None),
        };
        let peer = match judged {
            Ok(peer) => Box::new(peer),
            Err(refused) => {
                let code = match refused {
                    PeerRefused::Struck => CloseCode::Struck,
                    PeerRefused::Role(_) | PeerRefused::OtherPop { .. } => CloseCode::WrongRole,
                    PeerRefused::Certificate(_) | PeerRefused::None => CloseCode::NotTrusted,
                };
                return self.close(now, id, code, None);
            }
        };
        (session.reader, session.send_limit) = limits(self.side, peer.identity().role());
        if self.side == Side::Dialler {
            session.stream = session.connection.streams().open(Dir::Bi);
            if session.stream.is_none() {
                return self.close(now, id, CloseCode::StreamEnded, None);
            }
        }
        let remote = session.connection.remote_address();
        let began = std::mem::replace(&mut session.remote, remote);
        session.phase = Phase::Up { peer: peer.clone() };
        self.handshake_over(began);
        self.out.push_back(Output::Event(Event::Connected { id, peer, remote }));
    }

    fn read(&mut self, now: Instant, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let (Phase::Up { .. }, Some(stream)) = (&session.phase, session.stream) else { return false };
        let mut receive = session.connection.recv_stream(stream);
        let Ok(mut chunks) = receive.read(true) else {
            // The stream was ended and its end was read before.
            return false;
        };
        let mut worked = false;
        let mut problem = None;
        while problem.is_none() {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    worked = true;
                    session.reader.push(&chunk.bytes);
                    problem = take_frames(&mut session.reader, id, &mut self.out);
                }
                Ok(None) | Err(ReadError::Reset(_)) => problem = Some(CloseCode::StreamEnded),
                Err(ReadError::Blocked) => break,
            }
        }
        // Returns credit to the peer; whether that makes a packet is found out by asking for packets.
        let _ = chunks.finalize();
        if let Some(code) = problem {
            self.close(now, id, code, None);
        }
        worked
    }

    fn write(&mut self, now: Instant, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let (Phase::Up { .. }, Some(stream)) = (&session.phase, session.stream) else { return false };
        let mut worked = false;
        while let Some(front) = session.queue.front_mut() {
            match session.connection.send_stream(stream).write(front) {
                Ok(written) => {
                    worked = true;
                    session.queued = session.queued.saturating_sub(written);
                    if written == front.len() {
                        session.queue.pop_front();
                    } else {
                        let _ = front.split_to(written);
                    }
                }
                Err(WriteError::Blocked) => break,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    self.close(now, id, CloseCode::StreamEnded, None);
                    return true;
                }
            }
        }
        worked
    }

    /// Passes events between connection and endpoint. Says whether the session is gone.
    fn drain_endpoint_events(&mut self, id: SessionId) -> bool {
        while let Some(session) = self.sessions.get_mut(&id)
            && let Some(event) = session.connection.poll_endpoint_events()
        {
            let handle = session.handle;
            let gone = event.is_drained();
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                session.connection.handle_event(event);
            }
            if gone {
                self.over(id, LostReason::TimedOut, None);
                self.by_handle.remove(&handle.0);
                if let Some(at) = self.sessions.remove(&id).and_then(|session| session.timer) {
                    self.timers.remove(&(at, id));
                }
                return true;
            }
        }
        false
    }

    fn transmit(&mut self, now: Instant, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let mut worked = false;
        for _ in 0..PACKETS_IN_A_ROW {
            self.scratch.clear();
            let Some(transmit) = session.connection.poll_transmit(now, 1, &mut self.scratch) else { break };
            worked = true;
            let payload = self.scratch[..transmit.size].to_vec();
            self.out.push_back(Output::Transmit { to: transmit.destination, payload });
        }
        worked
    }

    fn notice_address(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let remote = session.connection.remote_address();
        if remote != session.remote {
            session.remote = remote;
            if matches!(session.phase, Phase::Up { .. }) {
                self.out.push_back(Output::Event(Event::AddressChanged { id, remote }));
            }
        }
    }

    fn arm(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let quic = session.connection.poll_timeout();
        let wanted = match session.phase {
            Phase::Handshaking { until, .. } => Some(quic.map_or(until, |at| at.min(until))),
            Phase::Up { .. } | Phase::Over => quic,
        };
        if wanted != session.timer {
            if let Some(at) = session.timer.take() {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = wanted {
                self.timers.insert((at, id));
            }
            session.timer = wanted;
        }
    }
}

/// What may come from the peer, and what it takes: only agents are held to the short bound, and only in
/// what they send.
fn limits(side: Side, peer: Role) -> (FrameReader, usize) {
    let from_peer = match (side, peer) {
        (Side::Acceptor, Role::Device | Role::Connector) => MAX_AGENT_MESSAGE,
        (Side::Acceptor, Role::Pop | Role::Controller) | (Side::Dialler, _) => MAX_CONTROLLER_MESSAGE,
    };
    // A dialling agent is held to MAX_AGENT_MESSAGE by the message bounds and by the PoP.
    (FrameReader::new(from_peer), MAX_CONTROLLER_MESSAGE)
}

fn take_frames(reader: &mut FrameReader, id: SessionId, out: &mut VecDeque<Output>) -> Option<CloseCode> {
    loop {
        match reader.next_frame() {
            Ok(Some((frame_type, body))) => {
                out.push_back(Output::Event(Event::Frame { id, frame_type, body }));
            }
            Ok(None) => return None,
            Err(wire::FrameError::TooLong) => return Some(CloseCode::TooLong),
            Err(wire::FrameError::TooShort) => return Some(CloseCode::Malformed),
        }
    }
}
