//! The two files a PoP writes: what was struck, and the newest trust chain. Both are signed by
//! others; losing them costs nothing but the time until a controller says it again.

use super::PopError;
use crate::core::sessions::{Record, WriteId, Written, limits};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};
use tokio::sync::mpsc;

/// One signed revocation a line.
const REVOCATIONS: &str = "revocations.txt";
/// The newest chain that a controller has pushed.
const CHAIN: &str = "trust-chain.pushed.txt";
/// Writes that wait: all that the session core lets wait, and some chains.
const JOBS: usize = limits::MAX_PENDING_WRITES + 16;

/// How each write ended, in order.
pub(super) type WriteResults = mpsc::Receiver<(WriteId, Written)>;

pub(super) struct Job {
    pub(super) id: WriteId,
    pub(super) record: Record,
}

#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
}

impl Disk {
    pub(super) const fn open(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn read(&self, name: &str) -> Result<Option<String>, PopError> {
        let path = self.directory.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PopError::State { path, source }),
        }
    }

    pub(super) fn revocations(&self) -> Result<Vec<String>, PopError> {
        let text = self.read(REVOCATIONS)?.unwrap_or_default();
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub(super) fn chain(&self) -> Result<Option<String>, PopError> {
        self.read(CHAIN)
    }

    /// A thread of its own, one write after the other: a slow disk delays acknowledgements and
    /// nothing else.
    pub(super) fn start(self) -> io::Result<(SyncSender<Job>, WriteResults)> {
        let (sender, jobs) = sync_channel(JOBS);
        let (done, written) = mpsc::channel(JOBS);
        thread::Builder::new().name("pop-disk".to_owned()).spawn(move || self.serve(&jobs, &done))?;
        Ok((sender, written))
    }

    fn serve(&self, jobs: &Receiver<Job>, done: &mpsc::Sender<(WriteId, Written)>) {
        while let Ok(Job { id, record }) = jobs.recv() {
            let result = match record {
                Record::Revocations(texts) => self.replace(REVOCATIONS, texts.join("\n").as_bytes()),
                Record::Chain(text) => self.replace(CHAIN, text.as_bytes()),
            };
            let written = match result {
                Ok(()) => Written::Durable,
                Err(error) => {
                    tracing::warn!(directory = %self.directory.display(), %error, "the state directory cannot be written; strikes are enforced and not acknowledged");
                    Written::Failed
                }
            };
            if done.blocking_send((id, written)).is_err() {
                return;
            }
        }
    }

    /// Old or new, never half: written aside, synced, renamed, and the directory synced.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.directory.join(name);
        let aside = self.directory.join(format!(".{name}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        sync_directory(&self.directory)
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
