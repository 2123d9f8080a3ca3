//! What a PoP reads from its state directory, and the two files it writes there: what was struck,
//! and the newest trust chain. Both are signed by others; losing them costs nothing but the time
//! until a controller says it again.

use super::PopError;
use crate::core::sessions::{PopMaterial, Record, WriteId, Written, limits};
use state::{StateDir, StateError, names};
use std::{
    io,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};
use tokio::sync::mpsc;
use trust::{Role, SigningKey, TrustChain, UnixMs};

/// Writes that wait: all that the session core lets wait, and some chains.
const JOBS: usize = limits::MAX_PENDING_WRITES + 16;

pub(super) struct Job {
    pub(super) id: WriteId,
    pub(super) record: Record,
}

/// The disk's thread at work.
pub(super) struct Writer {
    pub(super) jobs: SyncSender<Job>,
    /// How each write ended, in order.
    pub(super) written: mpsc::Receiver<(WriteId, Written)>,
    pub(super) thread: JoinHandle<()>,
}

#[derive(Debug)]
pub(super) struct Disk {
    state: StateDir,
}

impl Disk {
    /// Opens and locks the directory that enrolment wrote.
    pub(super) fn open(path: &Path) -> Result<Self, PopError> {
        Ok(Self { state: StateDir::open(path, Role::Pop)? })
    }

    /// What the session core starts from. Of the two generations of the chain, the newer one that is
    /// believed; the core says what is wrong when neither is.
    pub(super) fn material(&self, wall: UnixMs) -> Result<PopMaterial, PopError> {
        let root = self.state.of().root;
        let chains: Vec<String> = self
            .state
            .read_generations(names::CHAIN)?
            .into_iter()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect();
        let believed =
            |text: &&String| TrustChain::parse(text).and_then(|chain| chain.verify(&root, wall)).is_ok();
        let chain = chains.iter().find(believed).or(chains.first()).ok_or_else(|| StateError::Damaged {
            path: self.state.path().join(names::CHAIN),
            problem: "it is missing".into(),
        })?;
        let revocations = self.state.read(names::REVOCATIONS)?.unwrap_or_default();
        let revocations = String::from_utf8_lossy(&revocations).lines().map(str::to_owned).collect();
        Ok(PopMaterial {
            key: SigningKey::from_seed(&self.state.require_secret(names::IDENTITY_KEY)?),
            certificate: self.state.require(names::CERTIFICATE)?,
            root,
            chain: chain.clone(),
            revocations,
        })
    }

    /// The slices that were written, the newest first; none is needed.
    pub(super) fn slices(&self) -> Vec<String> {
        let slices = self.state.read_generations(names::SLICE).unwrap_or_default();
        slices.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    /// A thread of its own, one write after the other: a slow disk delays acknowledgements and
    /// nothing else.
    pub(super) fn start(self) -> io::Result<Writer> {
        let (jobs, queue) = sync_channel(JOBS);
        let (done, written) = mpsc::channel(JOBS);
        let thread =
            thread::Builder::new().name("pop-disk".to_owned()).spawn(move || self.serve(&queue, &done))?;
        Ok(Writer { jobs, written, thread })
    }

    fn serve(&self, queue: &Receiver<Job>, done: &mpsc::Sender<(WriteId, Written)>) {
        while let Ok(Job { id, record }) = queue.recv() {
            let result = match record {
                Record::Revocations(texts) => {
                    self.state.write(names::REVOCATIONS, texts.join("\n").as_bytes())
                }
                Record::Certificate(der) => self.state.write(names::CERTIFICATE, &der),
                Record::Slice(text) => self.state.write_generation(names::SLICE, text.as_bytes()),
                Record::Chain(text) => self.state.write_generation(names::CHAIN, text.as_bytes()),
            };
            let written = match result {
                Ok(()) => Written::Durable,
                Err(error) => {
                    tracing::warn!(%error, "the state directory cannot be written; strikes are enforced and not acknowledged");
                    Written::Failed
                }
            };
            // What was asked for is written even when the session loop has ended meanwhile.
            let _ = done.blocking_send((id, written));
        }
    }
}
