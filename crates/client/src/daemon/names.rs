//! The resolver's sockets: moves questions and answers between programs, the core of `dns`, and the machine's own
//! name servers.

use super::driver::clock;
use dns::{ForwardId, Origin, Output, Resolver, Transport};
use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{sleep, sleep_until, timeout},
};

/// Programs that wait for an answer by UDP. More than the core passes on at once: the others were answered already.
const MAX_ASKED: usize = 2_048;
/// Connections of programs at once.
const MAX_CONNECTIONS: usize = 64;
/// Answers that wait for a slow reader of one connection; what does not fit is lost, as on any full connection.
const MAX_ANSWERS: usize = 32;
/// A connection on which nothing is asked for so long is closed (RFC 7766 section 6.2.3 speaks of seconds).
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// Words of the tasks that wait.
const QUEUE: usize = 256;
/// The longest datagram.
const MAX_DATAGRAM: usize = 65_535;
/// Answers of servers under one id: a forger's and the real one, and not more than anybody would read.
const MAX_UPSTREAM_ANSWERS: usize = 64;

/// The resolver, which the driver asks what an address stands for.
pub(super) type SharedResolver = Arc<Mutex<Resolver>>;

/// For as long as it takes to compute, never across a wait.
pub(super) fn lock(resolver: &SharedResolver) -> MutexGuard<'_, Resolver> {
    resolver.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Word {
    Asked { connection: u64, bytes: Vec<u8> },
    Closed { connection: u64 },
    Answer { id: ForwardId, bytes: Vec<u8> },
    Unreachable { id: ForwardId },
}

struct Shell {
    resolver: SharedResolver,
    udp: UdpSocket,
    /// Who asked by UDP.
    asked: BTreeMap<u64, SocketAddr>,
    connections: BTreeMap<u64, mpsc::Sender<Vec<u8>>>,
    next: u64,
    forwards: BTreeMap<ForwardId, Vec<AbortHandle>>,
    tasks: JoinSet<()>,
    words: mpsc::Sender<Word>,
}

/// Serves both sockets until dropped.
pub(super) async fn serve(resolver: SharedResolver, udp: UdpSocket, tcp: TcpListener) {
    let (words, mut queue) = mpsc::channel(QUEUE);
    let mut shell = Shell {
        resolver,
        udp,
        asked: BTreeMap::new(),
        connections: BTreeMap::new(),
        next: 0,
        forwards: BTreeMap::new(),
        tasks: JoinSet::new(),
        words,
    };
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        while shell.tasks.try_join_next().is_some() {}
        let wake = shell.drain().await;
        tokio::select! {
            received = shell.udp.recv_from(&mut datagram) => match received {
                Ok((length, from)) => shell.datagram(from, &datagram[..length]),
                // An ICMP error about an earlier answer.
                Err(error) => tracing::trace!(%error, "the DNS socket gave an error"),
            },
            accepted = tcp.accept() => match accepted {
                Ok((stream, _)) => shell.connection(stream),
                Err(error) => {
                    tracing::debug!(%error, "a DNS connection was not accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(word) = queue.recv() => shell.word(word),
            () = async {
                match wake {
                    Some(at) => sleep_until(net::clock::until(at).into()).await,
                    None => std::future::pending().await,
                }
            } => lock(&shell.resolver).handle_timeout(clock()),
        }
    }
}

impl Shell {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        let number = self.number();
        self.asked.insert(number, from);
        lock(&self.resolver).handle_query(clock(), Origin::udp(number), bytes);
        while self.asked.len() > MAX_ASKED {
            self.asked.pop_first();
        }
    }

    fn connection(&mut self, stream: TcpStream) {
        if self.connections.len() >= MAX_CONNECTIONS {
            return;
        }
        let connection = self.number();
        let (answers, queue) = mpsc::channel(MAX_ANSWERS);
        self.connections.insert(connection, answers);
        let words = self.words.clone();
        self.tasks.spawn(async move {
            let _ = converse(stream, connection, queue, &words).await;
            let _ = words.send(Word::Closed { connection }).await;
        });
    }

    fn word(&mut self, word: Word) {
        let mut resolver = lock(&self.resolver);
        match word {
            Word::Asked { connection, bytes } => {
                resolver.handle_query(clock(), Origin::tcp(connection), &bytes);
            }
            Word::Closed { connection } => {
                self.connections.remove(&connection);
                resolver.handle_gone(Origin::tcp(connection));
            }
            Word::Answer { id, bytes } => resolver.handle_upstream(id, &bytes),
            Word::Unreachable { id } => resolver.handle_unreachable(clock(), id),
        }
    }

    /// Does what the core wants; gives when it wants to be woken.
    async fn drain(&mut self) -> Option<std::time::Instant> {
        loop {
            let output = lock(&self.resolver).poll_output();
            match output {
                Output::Reply { to: Origin { transport: Transport::Udp, number }, bytes } => {
                    if let Some(to) = self.asked.remove(&number) {
                        let _ = self.udp.send_to(&bytes, to).await;
                    }
                }
                Output::Reply { to: Origin { transport: Transport::Tcp, number }, bytes } => {
                    if let Some(connection) = self.connections.get(&number) {
                        let _ = connection.try_send(bytes);
                    }
                }
                Output::Forward { id, server, transport, bytes } => {
                    let words = self.words.clone();
                    let task = self.tasks.spawn(async move {
                        let asked = match transport {
                            Transport::Udp => ask_udp(id, server, &bytes, &words).await,
                            Transport::Tcp => ask_tcp(id, server, &bytes, &words).await,
                        };
                        if let Err(error) = asked {
                            tracing::debug!(%error, %server, "a name server cannot be asked");
                            let _ = words.send(Word::Unreachable { id }).await;
                        }
                    });
                    self.forwards.entry(id).or_default().push(task);
                }
                Output::Done(id) => {
                    for task in self.forwards.remove(&id).into_iter().flatten() {
                        task.abort();
                    }
                }
                Output::Timeout(timeout) => return timeout.map(|timeout| timeout.at),
            }
        }
    }
}

/// One question from a port of its own; every datagram that the server sends there is passed on, until nobody waits
/// any more.
async fn ask_udp(
    id: ForwardId,
    server: SocketAddr,
    query: &[u8],
    words: &mpsc::Sender<Word>,
) -> io::Result<()> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = Vec::with_capacity(MAX_DATAGRAM);
    for _ in 0..MAX_UPSTREAM_ANSWERS {
        answer.clear();
        socket.recv_buf(&mut answer).await?;
        if words.send(Word::Answer { id, bytes: answer.clone() }).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// One question on a connection of its own.
async fn ask_tcp(
    id: ForwardId,
    server: SocketAddr,
    query: &[u8],
    words: &mpsc::Sender<Word>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    let bytes = read_message(&mut stream).await?;
    let _ = words.send(Word::Answer { id, bytes }).await;
    Ok(())
}

/// A program's connection: questions in, answers out, in whatever order they come (RFC 7766 section 6.2.1.1).
async fn converse(
    stream: TcpStream,
    connection: u64,
    mut answers: mpsc::Receiver<Vec<u8>>,
    words: &mpsc::Sender<Word>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let asking = async {
        loop {
            let bytes = timeout(CONNECTION_IDLE, read_message(&mut reader)).await??;
            if words.send(Word::Asked { connection, bytes }).await.is_err() {
                return Ok::<_, io::Error>(());
            }
        }
    };
    let answering = async {
        while let Some(bytes) = answers.recv().await {
            timeout(CONNECTION_IDLE, write_message(&mut writer, &bytes)).await??;
        }
        Ok::<_, io::Error>(())
    };
    // A program may close its half when it has asked everything: what it still waits for comes within the deadline of
    // a question, or not at all.
    let asked = async {
        let _ = asking.await;
        sleep(CONNECTION_IDLE).await;
    };
    tokio::select! {
        () = asked => Ok(()),
        answered = answering => answered,
    }
}

async fn read_message(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_message(stream: &mut (impl tokio::io::AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("too long for DNS"))?;
    // In one write: some resolvers do not wait for the second segment.
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}
