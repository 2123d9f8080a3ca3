//! The status socket: one line of JSON for whoever may open it.

use super::{PopError, ShellCounters, StreamSnapshot, front::FrontSnapshot};
use crate::core::{admission::AdmissionStatus, relay::RelayCounters, sessions::SessionsStatus};
use serde::Serialize;
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

/// The socket's name in the state directory.
pub const STATUS_SOCKET: &str = "status.sock";
/// Whoever does not read one line in this time gets none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What a PoP says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct PopStatus {
    /// The build.
    pub version: &'static str,
    /// The UDP address.
    pub listen: SocketAddr,
    /// How long it runs.
    pub uptime_ms: u64,
    /// Sessions.
    pub sessions: SessionsStatus,
    /// The queues in front of them.
    pub admission: AdmissionStatus,
    /// The relay.
    pub relay: RelayCounters,
    /// The loops.
    pub shell: ShellCounters,
    /// The TCP port, where there is one.
    pub front: Option<FrontSnapshot>,
    /// Sessions' streams by it.
    pub streams: StreamSnapshot,
}

#[derive(Debug)]
pub(super) struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    pub(super) fn bind(state_dir: &Path) -> Result<Self, PopError> {
        let path = state_dir.join(STATUS_SOCKET);
        let bind = || {
            // What an earlier process left; a living one would hold the lock of the directory.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        match bind() {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(PopError::Status { path, source }),
        }
    }

    /// One asker at a time: status is for people and probes, not for load.
    pub(super) async fn serve(self, questions: mpsc::Sender<oneshot::Sender<PopStatus>>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors: this socket can wait.
                tokio::time::sleep(ANSWER_TIMEOUT).await;
                continue;
            };
            let _ = timeout(ANSWER_TIMEOUT, answer(stream, &questions)).await;
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, questions: &mpsc::Sender<oneshot::Sender<PopStatus>>) {
    let (sender, status) = oneshot::channel();
    if questions.send(sender).await.is_err() {
        return;
    }
    let Ok(status) = status.await else { return };
    let Ok(mut line) = serde_json::to_vec(&status) else { return };
    line.push(b'\n');
    let _ = stream.write_all(&line).await;
    let _ = stream.shutdown().await;
}
