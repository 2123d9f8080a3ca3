//! The drills' own fault proxy for TCP, between a controller and its database's server: requests pass, and answers pass,
//! come late, or do not come.

use anyhow::Context as _;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::process;

/// More connections than any server of a drill takes.
const MOST: usize = 256;

/// What becomes of answers. The server's work is done in any case: what is slow is to hear of it, which is what a
/// client of a slow server sees, and leaves it not knowing what was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// They pass.
    Pass,
    /// Each comes so much later.
    Late(Duration),
}

/// Runs until dropped.
pub struct FaultProxy {
    address: SocketAddr,
    answers: watch::Sender<Answers>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of loopback and leads to `to`.
    pub async fn start(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the fault proxy's port")?;
        let address = listener.local_addr()?;
        let (answers, told) = watch::channel(Answers::Pass);
        let open = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(serve(listener, to, told, Arc::clone(&open)));
        Ok(Self { address, answers, open, task })
    }

    /// Where it listens.
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on, also for connections that stand and for answers that wait.
    pub fn set(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }

    /// Connections through it right now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One more connection, as long as this lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(
    listener: TcpListener,
    to: SocketAddr,
    told: watch::Receiver<Answers>,
    open: Arc<AtomicUsize>,
) {
    let mut carried = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                if carried.len() < MOST {
                    let (told, counted) = (told.clone(), Counted(Arc::clone(&open)));
                    open.fetch_add(1, Ordering::Relaxed);
                    carried.spawn(async move {
                        let _counted = counted;
                        carry(client, to, told).await
                    });
                }
            }
            // Whoever went is forgotten.
            Some(_) = carried.join_next() => {}
        }
    }
}

/// Until either side ends.
async fn carry(client: TcpStream, to: SocketAddr, told: watch::Receiver<Answers>) -> std::io::Result<()> {
    let server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::select! {
        sent = tokio::io::copy(&mut from_client, &mut to_server) => sent.map(drop),
        answered = answer(from_server, to_client, told) => answered,
    }
}

async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut told: watch::Receiver<Answers>,
) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        hold(&mut told, process::now()).await;
        to.write_all(&buffer[..length]).await?;
    }
}

/// Keeps an answer that came at `came` for as long as it has to wait; less when that is over before.
async fn hold(told: &mut watch::Receiver<Answers>, came: Instant) {
    loop {
        let answers = *told.borrow_and_update();
        let Answers::Late(by) = answers else { return };
        let left = by.saturating_sub(came.elapsed());
        tokio::select! {
            () = tokio::time::sleep(left) => return,
            changed = told.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy before an echo, and a connection through it.
    async fn proxied() -> (FaultProxy, TcpStream) {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let proxy = FaultProxy::start(echo.local_addr().expect("bound")).await.expect("starts");
        tokio::spawn(async move {
            while let Ok((stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.expect("connects");
        (proxy, stream)
    }

    async fn asked(stream: &mut TcpStream) -> Duration {
        let began = process::now();
        stream.write_all(b"tide").await.expect("written");
        stream.read_exact(&mut [0; 4]).await.expect("answered");
        began.elapsed()
    }

    #[tokio::test]
    async fn answers_come_late_on_a_connection_that_stands_and_at_once_when_that_is_over() {
        let (proxy, mut stream) = proxied().await;
        let late = Duration::from_millis(300);
        assert!(asked(&mut stream).await < late);
        proxy.set(Answers::Late(late));
        assert!(asked(&mut stream).await >= late);
        proxy.set(Answers::Late(Duration::from_secs(3_600)));
        stream.write_all(b"tide").await.expect("written");
        tokio::time::timeout(late, stream.read_u8()).await.expect_err("it is held back");
        proxy.set(Answers::Pass);
        let kept = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
        assert_eq!(kept.expect("in time").expect("the kept answer"), b't');
    }

    #[tokio::test]
    async fn a_client_that_gives_up_is_not_counted_any_more_while_its_answer_is_held_back() {
        let (proxy, mut stream) = proxied().await;
        asked(&mut stream).await;
        assert_eq!(proxy.open(), 1);
        proxy.set(Answers::Late(Duration::from_secs(3_600)));
        stream.write_all(b"tide").await.expect("written");
        drop(stream);
        let gone = async {
            while proxy.open() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it is noticed");
    }
}
