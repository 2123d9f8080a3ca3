//! The flow log's thread: it alone touches the spool, so that a slow disk slows nobody.

use crate::record::FlowRecord;
use crate::spool::Spool;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::{io, thread};
use tokio::sync::mpsc;
use trust::UnixMs;

/// Records that wait for the disk: 4,096 × 1 kB.
const WAITING: usize = 4_096;

enum Command {
    Append(Box<FlowRecord>, UnixMs),
    Next,
    Acknowledge(u64),
}

/// A batch from the spool; none when it is empty.
pub(crate) type Batch = Option<(u64, Vec<u8>)>;

/// What the thread last said of itself.
#[derive(Debug, Default)]
pub(crate) struct LogCounts {
    /// Records lost: the spool was full, the disk failed, or the thread did not keep up.
    dropped: AtomicU64,
    /// Segments that wait for a controller.
    waiting: AtomicU64,
}

/// The way to the thread. Dropping it ends the thread, after what is queued is written.
pub(crate) struct FlowLog {
    commands: SyncSender<Command>,
    counts: Arc<LogCounts>,
}

impl FlowLog {
    /// Opens the spool and starts its thread; batches come by the channel.
    pub fn start(directory: PathBuf) -> io::Result<(Self, mpsc::Receiver<Batch>, thread::JoinHandle<()>)> {
        let spool = Spool::open(&directory)?;
        let (commands, work) = sync_channel(WAITING);
        // One batch is asked for at a time.
        let (batches, read) = mpsc::channel(2);
        let counts = Arc::new(LogCounts::default());
        let own = Arc::clone(&counts);
        let thread = thread::Builder::new()
            .name("flow-log".to_owned())
            .spawn(move || serve(spool, &work, &batches, &own))?;
        Ok((Self { commands, counts }, read, thread))
    }

    /// Adds a record, or counts it as dropped. Never waits.
    pub fn append(&self, record: Box<FlowRecord>, wall: UnixMs) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.commands.try_send(Command::Append(record, wall))
        {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks for the oldest batch. False when the thread is too busy; ask again.
    pub fn ask_next(&self) -> bool {
        self.commands.try_send(Command::Next).is_ok()
    }

    /// A controller has a batch. When the thread is too busy the batch stays and is shipped once more,
    /// which stores it once.
    pub fn acknowledge(&self, batch: u64) {
        let _ = self.commands.try_send(Command::Acknowledge(batch));
    }

    /// Records lost since the start.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Segments that wait for a controller.
    pub fn waiting(&self) -> u64 {
        self.counts.waiting.load(Ordering::Relaxed)
    }
}

fn serve(mut spool: Spool, work: &Receiver<Command>, batches: &mpsc::Sender<Batch>, counts: &LogCounts) {
    let mut lost = 0;
    while let Ok(command) = work.recv() {
        match command {
            Command::Append(record, wall) => {
                spool.append(&record, wall);
            }
            Command::Next => {
                if batches.blocking_send(spool.next_batch()).is_err() {
                    tracing::debug!("nobody waits for the batch");
                }
            }
            Command::Acknowledge(batch) => spool.acknowledge(batch),
        }
        counts.dropped.fetch_add(spool.dropped() - lost, Ordering::Relaxed);
        lost = spool.dropped();
        counts.waiting.store(u64::try_from(spool.segments()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
