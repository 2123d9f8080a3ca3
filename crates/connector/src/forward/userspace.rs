//! The userspace mode: one TCP connection to the target for each flow, bytes pumped both ways.
//!
//! Back-pressure is end to end. Towards the target: a flow is read only while its pump has room, so the
//! client's window closes when the target is slow. Towards the client: the target is read only while the
//! flow has taken what was read before. What a flow holds here at most is its [`Room`].
//!
//! Nothing here decides: which addresses may be connected to comes from the core.

use crate::core::{ConnectorCore, DatagramNews, DialFault, Ending, PassageId};
use crate::forward::datagrams::DatagramSockets;
use flow::{FlowId, FlowLimits, Read};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use trust::UnixMs;

/// What one flow may have between the loop and its connection, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    /// Bytes read from a flow or a target at once.
    chunk: usize,
    /// Chunks under way.
    chunks: usize,
}

impl Room {
    /// Some fifty segments at once.
    const FULL: Self = Self { chunk: 64 * 1024, chunks: 4 };
    /// In a crowd.
    const SMALL: Self = Self { chunk: 12 * 1024, chunks: 2 };

    const fn bytes(self) -> usize {
        2 * self.chunk * self.chunks
    }
}

/// How many flows may have [`Room::FULL`]; what is opened while there are more of them is a crowd's.
const FULL: usize = FlowLimits::CONNECTOR.full;
const _: () = assert!(
    FULL * Room::FULL.bytes() + (FlowLimits::CONNECTOR.flows - FULL) * Room::SMALL.bytes() <= 1 << 30,
    "a GiB here, beside the flows' own"
);
/// Events that wait for the loop; a pump waits when it is full.
const EVENTS: usize = 1_024;
/// Connection attempts at once, the others in turn. A site whose hosts drop SYNs must not eat all descriptors.
const DIALS: usize = 256;
/// Look-ups at once: each holds a thread of the blocking pool, for as long as the resolver wants one.
const LOOKUPS: usize = 32;
/// How long a name may take to resolve: the resolver's own default for one server (resolv.conf(5)).
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// How long one address may take: two SYN retransmissions of Linux (1 s and 3 s) and a margin.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(5);
/// How long all addresses together may take, and the wait for a turn; the client's SYN is held 45 s.
const DIAL_DEADLINE: Duration = Duration::from_secs(15);

/// What comes from the site.
#[derive(Debug)]
pub(crate) enum SiteEvent {
    /// The resolver answered; an empty list when it did not.
    Resolved { flow: FlowId, addresses: Vec<IpAddr> },
    /// The resolver takes too long; its answer follows, when nobody waits for it any more.
    Overdue { flow: FlowId },
    /// The same for a passage.
    PassageResolved { passage: PassageId, addresses: Vec<IpAddr> },
    /// The same for a passage.
    PassageOverdue { passage: PassageId },
    /// A connection attempt ended.
    Dialled { flow: FlowId, result: Result<(SocketAddr, TcpStream), DialFault> },
    /// The target sent bytes.
    Data { flow: FlowId, bytes: Vec<u8> },
    /// The target has no more to send.
    Finished { flow: FlowId },
    /// The connection to the target broke.
    Lost { flow: FlowId },
    /// The target took a chunk.
    Room { flow: FlowId },
    /// Something of a UDP or ICMP conversation.
    Datagrams {
        news: DatagramNews,
        /// Its part of what may wait for the loop, given back when the loop has it.
        held: Option<OwnedSemaphorePermit>,
    },
}

impl From<DatagramNews> for SiteEvent {
    /// News that take no room to speak of.
    fn from(news: DatagramNews) -> Self {
        Self::Datagrams { news, held: None }
    }
}

struct Pipe {
    /// To the pump; gone when the client has no more to send.
    to_target: Option<mpsc::Sender<Vec<u8>>>,
    /// The pump had no room when there was something to read.
    blocked: bool,
    /// From the target, not yet taken by the flow; the first one from `taken` on.
    held: VecDeque<Vec<u8>>,
    taken: usize,
    target_finished: bool,
    credit: Arc<Semaphore>,
    cut: Option<oneshot::Sender<()>>,
    room: Room,
}

/// The connections into the site.
pub(crate) struct Userspace {
    events: mpsc::Sender<SiteEvent>,
    dials: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    pipes: BTreeMap<FlowId, Pipe>,
    full: usize,
    buffer: Vec<u8>,
    /// UDP and ICMP echo.
    pub datagrams: DatagramSockets,
}

impl Userspace {
    /// No connections, and where their news will come from.
    pub fn new() -> (Self, mpsc::Receiver<SiteEvent>) {
        let (events, news) = mpsc::channel(EVENTS);
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        let userspace = Self {
            datagrams: DatagramSockets::new(events.clone(), Arc::clone(&lookups)),
            events,
            dials: Arc::new(Semaphore::new(DIALS)),
            lookups,
            pipes: BTreeMap::new(),
            full: FULL,
            buffer: vec![0; Room::FULL.chunk],
        };
        (userspace, news)
    }

    /// Resolves a name with the system's resolver: in the site.
    pub fn resolve(&self, flow: FlowId, host: String) {
        let (events, lookups) = (self.events.clone(), Arc::clone(&self.lookups));
        tokio::spawn(async move {
            let addresses = look_up(lookups, host, &events, SiteEvent::Overdue { flow }).await;
            let _ = events.send(SiteEvent::Resolved { flow, addresses }).await;
        });
    }

    /// The same for a passage.
    pub fn resolve_passage(&self, passage: PassageId, host: String) {
        let (events, lookups) = (self.events.clone(), Arc::clone(&self.lookups));
        tokio::spawn(async move {
            let addresses = look_up(lookups, host, &events, SiteEvent::PassageOverdue { passage }).await;
            let _ = events.send(SiteEvent::PassageResolved { passage, addresses }).await;
        });
    }

    /// Connects to the first address that accepts.
    pub fn dial(&self, flow: FlowId, addresses: Vec<SocketAddr>) {
        let (events, dials) = (self.events.clone(), Arc::clone(&self.dials));
        tokio::spawn(async move {
            // In turn: many at once, as after the failure of another connector, are not too many.
            let dial = async {
                let Ok(_slot) = dials.acquire().await else { return Err(DialFault::Full) };
                connect(&addresses).await
            };
            let result = timeout(DIAL_DEADLINE, dial).await.unwrap_or(Err(DialFault::Unreachable));
            let _ = events.send(SiteEvent::Dialled { flow, result }).await;
        });
    }

    /// Starts pumping for a flow that was accepted.
    pub fn open(&mut self, flow: FlowId, stream: TcpStream) {
        let room = if self.pipes.len() < self.full { Room::FULL } else { Room::SMALL };
        let (to_target, from_client) = mpsc::channel(room.chunks);
        let credit = Arc::new(Semaphore::new(room.chunks));
        let (cut, was_cut) = oneshot::channel();
        let pump = Pump {
            flow,
            chunk: room.chunk,
            from_client,
            events: self.events.clone(),
            credit: Arc::clone(&credit),
        };
        tokio::spawn(pump.run(stream, was_cut));
        let pipe = Pipe {
            to_target: Some(to_target),
            blocked: false,
            held: VecDeque::new(),
            taken: 0,
            target_finished: false,
            credit,
            cut: Some(cut),
            room,
        };
        self.pipes.insert(flow, pipe);
    }

    /// Moves what the client sent towards the target, as far as there is room.
    pub fn client_to_target(&mut self, core: &mut ConnectorCore, now: Instant, flow: FlowId) {
        let Some(pipe) = self.pipes.get_mut(&flow) else {
            return;
        };
        pipe.blocked = false;
        while let Some(to_target) = &pipe.to_target {
            let Ok(place) = to_target.try_reserve() else {
                pipe.blocked = true;
                return;
            };
            match core.read(now, flow, &mut self.buffer[..pipe.room.chunk]) {
                Read::Bytes(read) => place.send(self.buffer[..read].to_vec()),
                Read::Empty => return,
                Read::End => {
                    drop(place);
                    // The pump writes what it has and then says the same to the target.
                    pipe.to_target = None;
                }
            }
        }
    }

    /// Moves what the target sent towards the client, as far as the flow takes it.
    pub fn target_to_client(&mut self, core: &mut ConnectorCore, now: Instant, flow: FlowId) {
        let Some(pipe) = self.pipes.get_mut(&flow) else {
            return;
        };
        while let Some(chunk) = pipe.held.front() {
            pipe.taken += core.write(now, flow, &chunk[pipe.taken..]);
            if pipe.taken < chunk.len() {
                return;
            }
            pipe.held.pop_front();
            pipe.taken = 0;
            pipe.credit.add_permits(1);
        }
        if pipe.target_finished {
            pipe.target_finished = false;
            core.target_finished(now, flow);
        }
    }

    /// Takes bytes or the end from a target, or its loss.
    pub fn take_from_target(
        &mut self,
        core: &mut ConnectorCore,
        now: Instant,
        wall: UnixMs,
        event: SiteEvent,
    ) {
        match event {
            SiteEvent::Data { flow, bytes } => {
                if let Some(pipe) = self.pipes.get_mut(&flow) {
                    pipe.held.push_back(bytes);
                    self.target_to_client(core, now, flow);
                }
            }
            SiteEvent::Finished { flow } => {
                if let Some(pipe) = self.pipes.get_mut(&flow) {
                    pipe.target_finished = true;
                    self.target_to_client(core, now, flow);
                }
            }
            SiteEvent::Lost { flow } => {
                if self.pipes.remove(&flow).is_some() {
                    core.target_lost(now, wall, flow);
                }
            }
            SiteEvent::Room { flow } => {
                if self.pipes.get(&flow).is_some_and(|pipe| pipe.blocked) {
                    self.client_to_target(core, now, flow);
                }
            }
            SiteEvent::Resolved { .. }
            | SiteEvent::Overdue { .. }
            | SiteEvent::PassageResolved { .. }
            | SiteEvent::PassageOverdue { .. }
            | SiteEvent::Dialled { .. }
            | SiteEvent::Datagrams { .. } => {}
        }
    }

    /// The flow is over.
    pub fn end(&mut self, flow: FlowId, ending: Ending) {
        let Some(mut pipe) = self.pipes.remove(&flow) else {
            return;
        };
        // A finished pump has written everything or will, and ends by itself: its cut is just dropped.
        if let (Ending::Cut, Some(cut)) = (ending, pipe.cut.take()) {
            let _ = cut.send(());
        }
    }

    /// Connections to targets that are open.
    pub fn len(&self) -> usize {
        self.pipes.len()
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<(SocketAddr, TcpStream), DialFault> {
    let mut fault = DialFault::Unreachable;
    for address in addresses {
        match timeout(ADDRESS_DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // What is pumped was written by a program that decided its own batching.
                let _ = stream.set_nodelay(true);
                return Ok((*address, stream));
            }
            Ok(Err(error)) => {
                fault = match error.kind() {
                    io::ErrorKind::ConnectionRefused => DialFault::Refused,
                    _ if is_out_of_descriptors(&error) => DialFault::Full,
                    _ => DialFault::Unreachable,
                };
            }
            Err(_) => fault = DialFault::Unreachable,
        }
    }
    Err(fault)
}

/// The addresses of a name by the system's resolver; none when it did not answer in time. When it takes longer than that,
/// `overdue` is said at once, and this ends when the thread does: nobody can take it from the resolver.
pub(super) async fn look_up(
    lookups: Arc<Semaphore>,
    host: String,
    events: &mpsc::Sender<SiteEvent>,
    overdue: SiteEvent,
) -> Vec<IpAddr> {
    look_up_by(lookups, move || resolve(&host), LOOKUP_DEADLINE, events, overdue).await
}

fn resolve(host: &str) -> Vec<IpAddr> {
    let found = (host, 0).to_socket_addrs();
    found.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
}

async fn look_up_by(
    lookups: Arc<Semaphore>,
    resolve: impl FnOnce() -> Vec<IpAddr> + Send + 'static,
    deadline: Duration,
    events: &mpsc::Sender<SiteEvent>,
    overdue: SiteEvent,
) -> Vec<IpAddr> {
    let deadline = sleep(deadline);
    tokio::pin!(deadline);
    let slot = tokio::select! {
        slot = lookups.acquire_owned() => slot,
        () = &mut deadline => return Vec::new(),
    };
    let mut thread = spawn_blocking(move || {
        let found = resolve();
        drop(slot);
        found
    });
    tokio::select! {
        found = &mut thread => found.unwrap_or_default(),
        () = &mut deadline => {
            let _ = events.send(overdue).await;
            let _ = thread.await;
            Vec::new()
        }
    }
}

/// EMFILE and ENFILE have no kind of their own in std.
pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// Both ways of one connection.
struct Pump {
    flow: FlowId,
    chunk: usize,
    from_client: mpsc::Receiver<Vec<u8>>,
    events: mpsc::Sender<SiteEvent>,
    /// One for each chunk that the flow has taken.
    credit: Arc<Semaphore>,
}

impl Pump {
    async fn run(self, mut stream: TcpStream, was_cut: oneshot::Receiver<()>) {
        let Self { flow, chunk, mut from_client, events, credit } = self;
        let lost = {
            let (from_target, mut to_target) = stream.split();
            let up = async {
                while let Some(bytes) = from_client.recv().await {
                    to_target.write_all(&bytes).await?;
                    let _ = events.send(SiteEvent::Room { flow }).await;
                }
                to_target.shutdown().await
            };
            let down = async {
                loop {
                    // Given back when the flow has taken the chunk.
                    let Ok(permit) = credit.acquire().await else { return Ok(()) };
                    permit.forget();
                    // Nothing is kept for a flow that waits, and no more for one that got little than it got.
                    let mut bytes = loop {
                        from_target.readable().await?;
                        let mut bytes = Vec::with_capacity(chunk);
                        match from_target.try_read_buf(&mut bytes) {
                            Ok(_) => break bytes,
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            Err(error) => return Err(error),
                        }
                    };
                    if bytes.is_empty() {
                        let _ = events.send(SiteEvent::Finished { flow }).await;
                        return Ok(());
                    }
                    if bytes.len() < chunk / 2 {
                        bytes.shrink_to_fit();
                    }
                    if events.send(SiteEvent::Data { flow, bytes }).await.is_err() {
                        return Ok(());
                    }
                }
            };
            let both = async { tokio::try_join!(up, down) };
            tokio::select! {
                // First, so that the end of the channel, which comes with it, is not taken for a close. A sender
                // that is dropped says nothing; only a cut ends the pump here.
                biased;
                Ok(()) = was_cut => {
                    let _ = stream.set_zero_linger();
                    return;
                }
                ended = both => ended.is_err(),
            }
        };
        if lost {
            let _ = events.send(SiteEvent::Lost { flow }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Output;
    use crate::core::tests::{World, literal};
    use crate::record::Verdict;
    use flow::{CloseReason, Event};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    /// The world of the core's tests with real connections into a real site.
    struct Site {
        world: World,
        userspace: Userspace,
        news: mpsc::Receiver<SiteEvent>,
    }

    impl Site {
        fn new(target: SocketAddr) -> Self {
            let (userspace, news) = Userspace::new();
            Self { world: World::new(literal(&target.to_string())), userspace, news }
        }

        /// Does everything that is due, then waits for the site or for TCP's timers.
        async fn turn(&mut self) {
            #[allow(clippy::disallowed_methods, reason = "the connections are real, so is the clock")]
            let now = Instant::now();
            self.world.advance(now.saturating_duration_since(self.world.now));
            let (world, userspace) = (&mut self.world, &mut self.userspace);
            loop {
                let asked = std::mem::take(&mut world.asked);
                if asked.is_empty() {
                    break;
                }
                for output in asked {
                    match output {
                        Output::Resolve { flow, host } => userspace.resolve(flow, host),
                        Output::Dial { flow, addresses } => userspace.dial(flow, addresses),
                        Output::Readable(flow) => userspace.client_to_target(&mut world.core, now, flow),
                        Output::Writable(flow) => userspace.target_to_client(&mut world.core, now, flow),
                        Output::Ended { flow, ending } => userspace.end(flow, ending),
                        // The clock is real: on a busy machine the other end may be late.
                        Output::RelayQuiet => {}
                        other => panic!("{other:?}"),
                    }
                }
                world.settle();
            }
            if let Ok(Some(event)) = timeout(Duration::from_millis(5), self.news.recv()).await {
                match event {
                    SiteEvent::Dialled { flow, result } => {
                        let (result, stream) = match result {
                            Ok((address, stream)) => (Ok(address), Some(stream)),
                            Err(fault) => (Err(fault), None),
                        };
                        let open = world.dialled(flow, result);
                        if let (true, Some(stream)) = (open, stream) {
                            userspace.open(flow, stream);
                        }
                    }
                    event => userspace.take_from_target(&mut world.core, now, world.wall, event),
                }
                world.settle();
            }
        }

        async fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
            let waited = timeout(Duration::from_secs(20), async {
                while !done(&mut self.world) {
                    self.turn().await;
                }
            });
            waited.await.unwrap_or_else(|_| panic!("no {what}: {:?}", self.world.records));
        }

        async fn connected(&mut self, target: SocketAddr) -> FlowId {
            let inner = self.world.enter();
            let client = self.world.dial(inner, &target.to_string());
            self.until("connection", |world| world.client_events.contains(&(client, Event::Established)))
                .await;
            client
        }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from((n * 7 + n / 255) % 256).expect("a byte")).collect()
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_both_ends_close() {
        for full in [FULL, 0] {
            carries_both_ways(full).await;
        }
    }

    async fn carries_both_ways(full: usize) {
        let (listener, target) = listener().await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.expect("reads to the end");
            stream.write_all(&got).await.expect("writes");
            stream.shutdown().await.expect("closes");
            got
        });
        let mut site = Site::new(target);
        site.userspace.full = full;
        let client = site.connected(target).await;
        let sent = pattern(3_000_000);
        let (mut written, mut back) = (0, Vec::new());
        site.until("echo of 3 MB", |world| {
            let now = world.now;
            if written < sent.len() {
                written += world.flows.write(now, client, &sent[written..]).expect("open");
                if written == sent.len() {
                    world.flows.shutdown_write(now, client).expect("open");
                }
            }
            let mut buffer = vec![0; 65_536];
            loop {
                match world.flows.read(now, client, &mut buffer).expect("open") {
                    Read::Bytes(read) => back.extend_from_slice(&buffer[..read]),
                    Read::Empty => return false,
                    Read::End => return true,
                }
            }
        })
        .await;
        assert!(back == sent && server.await.expect("no panic") == sent);
        site.until("record", |world| !world.records.is_empty()).await;
        let record = &site.world.records[0];
        assert_eq!(
            (record.verdict, record.bytes_up, record.bytes_down),
            (Verdict::Allowed, 3_000_000, 3_000_000)
        );
        site.turn().await;
        assert_eq!(site.userspace.len(), 0);
    }

    #[tokio::test]
    async fn a_target_that_refuses_is_a_refused_connection() {
        let (listener, target) = listener().await;
        drop(listener);
        let mut site = Site::new(target);
        let inner = site.world.enter();
        let client = site.world.dial(inner, &target.to_string());
        site.until("refusal", |world| world.client_end(client).is_some()).await;
        assert_eq!(site.world.client_end(client), Some(CloseReason::Refused));
        assert_eq!(site.world.records[0].reason, "target_refused");
    }

    #[tokio::test]
    async fn a_target_that_resets_resets_the_client() {
        let (listener, target) = listener().await;
        let mut site = Site::new(target);
        let client = site.connected(target).await;
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_zero_linger().expect("set");
        drop(stream);
        site.until("reset", |world| world.client_end(client).is_some()).await;
        assert_eq!(site.world.client_end(client), Some(CloseReason::Reset));
        assert_eq!(site.world.records[0].reason, "target_reset");
    }

    #[tokio::test]
    async fn a_client_that_resets_resets_the_target() {
        let (listener, target) = listener().await;
        let mut site = Site::new(target);
        let client = site.connected(target).await;
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let now = site.world.now;
        site.world.flows.abort(now, client).expect("open");
        site.until("record", |world| !world.records.is_empty()).await;
        site.turn().await;
        let error = stream.read(&mut [0; 8]).await.expect_err("a reset, not an end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_target_that_does_not_read_stops_the_client() {
        let (listener, target) = listener().await;
        let mut site = Site::new(target);
        let client = site.connected(target).await;
        let (_stream, _) = listener.accept().await.expect("a connection");
        let (mut written, mut quiet) = (0_usize, 0);
        site.until("a stop", |world| {
            let took = world.flows.write(world.now, client, &[7; 65_536]).expect("open");
            written += took;
            quiet = if took == 0 { quiet + 1 } else { 0 };
            quiet > 40
        })
        .await;
        // The kernel's buffers (a few MB on loopback) and ours; not without end.
        assert!(written < 16 << 20, "{written}");
        assert_eq!(site.world.client_end(client), None);
    }

    #[tokio::test]
    async fn more_connections_at_once_than_are_tried_at_once_all_stand_in_the_end() {
        let (listener, target) = listener().await;
        let accepting = tokio::spawn(async move {
            let mut streams = Vec::new();
            while streams.len() < DIALS + 50 {
                streams.push(listener.accept().await.expect("a connection"));
            }
        });
        let (userspace, mut news) = Userspace::new();
        let mut world = World::new(literal(&target.to_string()));
        let inner = world.enter();
        let flow = world.dial(inner, &target.to_string());
        for _ in 0..DIALS + 50 {
            userspace.dial(flow, vec![target]);
        }
        for _ in 0..DIALS + 50 {
            let Some(SiteEvent::Dialled { result, .. }) = news.recv().await else { panic!("an answer") };
            assert_eq!(result.expect("in turn").0, target);
        }
        accepting.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_look_up_that_takes_too_long_is_said_at_once_and_keeps_its_place_until_its_thread_ends() {
        let mut world = World::new(literal("10.0.0.5:80"));
        let inner = world.enter();
        let flow = world.dial(inner, "10.0.0.5:80");
        let (events, mut news) = mpsc::channel(EVENTS);
        let places = Arc::new(Semaphore::new(1));
        let (end, ends) = std::sync::mpsc::channel();
        let resolver = move || ends.recv().expect("an end");
        let look_up = tokio::spawn({
            let (places, overdue) = (Arc::clone(&places), SiteEvent::Overdue { flow });
            async move { look_up_by(places, resolver, Duration::from_millis(20), &events, overdue).await }
        });
        let said = timeout(Duration::from_secs(20), news.recv()).await.expect("in time");
        assert!(matches!(said, Some(SiteEvent::Overdue { flow: of }) if of == flow));
        assert!(places.available_permits() == 0 && !look_up.is_finished());
        end.send(vec!["10.0.0.8".parse().expect("address")]).expect("the thread is there");
        assert_eq!(look_up.await.expect("no panic"), Vec::<IpAddr>::new(), "too late");
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn names_are_resolved_by_the_system() {
        let (userspace, mut news) = Userspace::new();
        let mut world = World::new(literal("10.0.0.5:80"));
        let inner = world.enter();
        let flow = world.dial(inner, "10.0.0.5:80");
        userspace.resolve(flow, "localhost".into());
        let Some(SiteEvent::Resolved { addresses, .. }) = news.recv().await else { panic!("an answer") };
        assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        userspace.resolve(flow, "no-such-host.invalid".into());
        let Some(SiteEvent::Resolved { addresses, .. }) = news.recv().await else { panic!("an answer") };
        assert!(addresses.is_empty());
    }
}
