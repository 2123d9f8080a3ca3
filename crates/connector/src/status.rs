//! What a connector says of itself, and the socket that says it: one line of JSON for whoever may open
//! the state directory.

use crate::core::CoreStatus;
use crate::node::NodeStats;
use policy::Mode;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use trust::{Identity, UnixMs};
use wire::{PopId, ResourceId};

/// The socket's name in the state directory.
pub const STATUS_SOCKET: &str = "status.sock";
/// Whoever does not read one line in this time gets none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest status: 20,000 resources of 400 bytes.
const MAX_STATUS: u64 = 8 * 1024 * 1024;

/// How a connector stands with one PoP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PopReport {
    /// Which PoP.
    pub pop: PopId,
    /// `idle`, `resolving`, `connecting`, `registered` or `leaving`.
    pub phase: String,
    /// The PoP's address in use.
    pub address: Option<SocketAddr>,
    /// What carries the session, `udp` or `tcp` (443); none without one.
    pub transport: Option<String>,
    /// This connector's address as that PoP sees it; none by TCP.
    pub observed: Option<SocketAddr>,
    /// Failures in a row.
    pub failures: u32,
}

/// What isolation does to strict resources now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrictState {
    /// Controllers are heard: they are open.
    Open,
    /// No new connection; what runs goes on for its grace.
    NoNewFlows,
    /// Closed.
    Closed,
}

/// How a connector carries flows into its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardingMode {
    /// By this process itself, without privileges.
    #[default]
    Userspace,
    /// By the machine's kernel.
    Kernel,
}

/// The same with everything there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ForwardingReport {
    /// Which.
    pub mode: ForwardingMode,
    /// Why it is userspace where the kernel was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The guardian's process, which puts the machine right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardian: Option<u32>,
    /// What packets into the site come from before they get this machine's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// What this process may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileges: Option<machine::Privileges>,
    /// What is not as one might expect, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Packets that the kernel did not take.
    #[serde(default)]
    pub refused: u64,
}

/// A resource of this connector's site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceReport {
    /// Its id.
    pub id: ResourceId,
    /// Its name.
    pub name: String,
    /// What isolation does to it.
    pub mode: Mode,
    /// Whether isolation takes new connections from it now.
    pub closed_by_isolation: bool,
}

/// Tunnels by the kind of path that packets take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PathCounts {
    /// Straight to the device.
    pub direct: usize,
    /// By a relay, over UDP.
    pub relay: usize,
    /// By a relay that this connector reaches over TCP 443.
    pub tcp: usize,
}

/// Packets and bytes of tunnels by kind of path, since the start. What went by relays over TCP 443 is among the relays'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Packets sent by relays.
    pub relay_packets_sent: u64,
    /// Their bytes.
    pub relay_bytes_sent: u64,
    /// Packets from relays.
    pub relay_packets_received: u64,
    /// Their bytes.
    pub relay_bytes_received: u64,
    /// Packets sent straight to devices.
    pub direct_packets_sent: u64,
    /// Their bytes.
    pub direct_bytes_sent: u64,
    /// Packets straight from devices.
    pub direct_packets_received: u64,
    /// Their bytes.
    pub direct_bytes_received: u64,
    /// Probes that were not sent because a device or an address had its share.
    pub probes_over_budget: u64,
}

impl TrafficReport {
    pub(crate) const fn new(traffic: tunnel::Traffic, probes_over_budget: u64) -> Self {
        Self {
            relay_packets_sent: traffic.relay_sent.packets,
            relay_bytes_sent: traffic.relay_sent.bytes,
            relay_packets_received: traffic.relay_received.packets,
            relay_bytes_received: traffic.relay_received.bytes,
            direct_packets_sent: traffic.direct_sent.packets,
            direct_bytes_sent: traffic.direct_sent.bytes,
            direct_packets_received: traffic.direct_received.packets,
            direct_bytes_received: traffic.direct_received.bytes,
            probes_over_budget,
        }
    }
}

/// What a connector says of itself. Ready means: it can do its job with what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorStatus {
    /// The build.
    pub version: String,
    /// Who it is.
    pub identity: Identity,
    /// Its site, as its slice names it.
    pub site: Option<String>,
    /// The slice in force, as `incarnation.version`.
    pub slice: Option<String>,
    /// The slice's hard end.
    pub slice_until: Option<UnixMs>,
    /// Registered at a PoP, with a valid slice.
    pub ready: bool,
    /// `fresh`, `stale` or `isolated`. Stale is not unhealthy.
    pub control_plane: String,
    /// How long ago a controller spoke, in milliseconds; none in this run so far.
    pub control_last_heard_ms: Option<u64>,
    /// This connector's own time.
    pub now: UnixMs,
    /// Until when it lets anybody in if no controller is heard again: the earlier of slice and certificate.
    pub access_until: UnixMs,
    /// The certificate's end.
    pub certificate_until: UnixMs,
    /// What isolation does to strict resources now.
    pub strict: StrictState,
    /// When strict resources close to what runs too, in milliseconds from now; none unless they are about to.
    pub strict_closes_in_ms: Option<u64>,
    /// The site's resources, by name.
    pub resources: Vec<ResourceReport>,
    /// How many subjects are struck.
    pub struck: usize,
    /// The UDP address.
    pub local: SocketAddr,
    /// How long it runs.
    pub uptime_ms: u64,
    /// Each PoP of the list.
    pub pops: Vec<PopReport>,
    /// Devices, flows, refusals.
    pub access: CoreStatus,
    /// Tunnels of devices, by the kind of path that packets to them take.
    #[serde(default)]
    pub paths: PathCounts,
    /// What went by each kind of path.
    #[serde(default)]
    pub traffic: TrafficReport,
    /// What was dropped before it was looked at.
    pub dropped: NodeStats,
    /// How flows get into the site.
    #[serde(default)]
    pub forwarding: ForwardingReport,
    /// TCP connections into the site that are open.
    pub targets: usize,
    /// Sockets of UDP and ICMP conversations that are open.
    #[serde(default)]
    pub datagram_sockets: usize,
    /// Datagrams that the kernel had no room for.
    #[serde(default)]
    pub datagrams_unsent: u64,
    /// Streams to PoPs by TCP 443.
    #[serde(default)]
    pub streams: net::StreamTotals,
    /// Segments of flow records that wait for a controller.
    pub flow_segments_waiting: u64,
    /// Flow records lost because the spool was full or the disk failed.
    pub flow_records_dropped: u64,
    /// Batches of flow records that a controller has.
    pub flow_batches_shipped: u64,
}

/// The socket, bound.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    pub fn bind(state_dir: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let path = state_dir.join(STATUS_SOCKET);
        let bind = || {
            // What an earlier process left; a living one would hold the directory's lock.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        match bind() {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err((path, source)),
        }
    }

    /// One asker at a time: status is for people and probes, not for load.
    pub async fn serve(self, questions: mpsc::Sender<oneshot::Sender<ConnectorStatus>>) {
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

/// Asks the connector that runs on a state directory how it stands.
///
/// # Errors
/// [`StatusError`].
pub async fn ask_status(state_dir: &Path) -> Result<ConnectorStatus, StatusError> {
    let path = state_dir.join(STATUS_SOCKET);
    let asked = timeout(ANSWER_TIMEOUT, async {
        let mut line = Vec::new();
        UnixStream::connect(&path).await?.take(MAX_STATUS).read_to_end(&mut line).await?;
        Ok::<_, io::Error>(line)
    });
    let line = match asked.await {
        Ok(Ok(line)) => line,
        Ok(Err(source)) => return Err(StatusError::NotRunning { path, source }),
        Err(_) => return Err(StatusError::Timeout),
    };
    serde_json::from_slice(&line).map_err(|error| StatusError::Unreadable(error.to_string()))
}

/// A connector did not say how it stands.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody is there.
    #[error("no connector is running here ({} does not answer); start it with `tidegate connector`", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Silence.
    #[error("the connector did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// Not what this version expects.
    #[error(
        "the connector answered something that this command does not read ({0}); is it of another version?"
    )]
    Unreadable(String),
}

async fn answer(mut stream: UnixStream, questions: &mpsc::Sender<oneshot::Sender<ConnectorStatus>>) {
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
