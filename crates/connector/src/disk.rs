//! What a connector reads from its state directory and writes there, on a thread of its own: a slow disk
//! delays a write and nothing else.

use crate::shell::ConnectorError;
use agent::{Persisted, StoredState};
use policy::ConnectorSlice;
use state::{StateDir, StateError, names};
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use trust::{OpenKey, Role, SigningKey, Slice, TrustChain, UnixMs, Unverified};
use tunnel::WireGuardPrivateKey;

/// Writes that wait. Each replaces the one before of its kind, so that a lost one costs a look at what a
/// controller or PoP says anyway.
const WAITING: usize = 64;

/// What enrolment wrote, and what came since.
pub(crate) struct Material {
    pub stored: StoredState,
    pub open_key: OpenKey,
    pub wireguard_key: WireGuardPrivateKey,
}

pub(crate) struct Disk {
    state: StateDir,
}

/// The way to the thread. Dropping it ends the thread, after what is queued is written.
pub(crate) struct DiskWriter {
    writes: SyncSender<(Persisted, Vec<u8>)>,
}

impl DiskWriter {
    /// Queues a write. Never waits.
    pub fn persist(&self, what: Persisted, bytes: Vec<u8>) {
        if self.writes.try_send((what, bytes)).is_err() {
            tracing::warn!(?what, "the disk does not keep up; this document is in force and not written");
        }
    }
}

impl Disk {
    /// Opens and locks the directory that enrolment wrote.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        Ok(Self { state: StateDir::open(path, Role::Connector)? })
    }

    pub fn path(&self) -> &Path {
        self.state.path()
    }

    /// Reads everything. Of two generations, the newer one that verifies.
    pub fn material(&self, wall: UnixMs) -> Result<Material, ConnectorError> {
        let root = self.state.of().root;
        let time_floor = self.state.read_floor()?;
        let time = wall.max(time_floor.unwrap_or_default());
        let chains = self.generations(names::CHAIN)?;
        let bundle_of =
            |text: &String| TrustChain::parse(text).and_then(|chain| chain.verify(&root, time)).ok();
        let believed = chains.iter().find_map(|text| Some((text, bundle_of(text)?)));
        let chain = believed.as_ref().map(|(text, _)| *text).or(chains.first()).ok_or_else(|| {
            StateError::Damaged {
                path: self.state.path().join(names::CHAIN),
                problem: "it is missing".into(),
            }
        })?;
        let verifies = |text: &&String| {
            believed.as_ref().is_some_and(|(_, bundle)| {
                Unverified::<Slice<ConnectorSlice>>::parse(text)
                    .and_then(|slice| slice.verify_at_any_time(bundle))
                    .is_ok()
            })
        };
        let slices = self.generations(names::SLICE)?;
        let slice = slices.iter().find(verifies).or(slices.first()).cloned();
        let open_key = OpenKey::from_private(&self.state.require_secret(names::SEAL_KEY)?).map_err(|_| {
            StateError::Damaged {
                path: self.state.path().join("secrets").join(names::SEAL_KEY),
                problem: "it is no X25519 private key".into(),
            }
        })?;
        Ok(Material {
            stored: StoredState {
                identity_key: SigningKey::from_seed(&self.state.require_secret(names::IDENTITY_KEY)?),
                root,
                chain: chain.clone(),
                certificate: self.state.require(names::CERTIFICATE)?,
                grant: None,
                slice,
                revocations: self.text(names::REVOCATIONS)?,
                time_floor,
                reconnect_window: self.state.read_reconnect_window()?,
            },
            open_key,
            wireguard_key: WireGuardPrivateKey::from_bytes(self.state.require_secret(names::WIREGUARD_KEY)?),
        })
    }

    fn text(&self, name: &str) -> Result<Option<String>, StateError> {
        Ok(self.state.read(name)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn generations(&self, name: &str) -> Result<Vec<String>, StateError> {
        let generations = self.state.read_generations(name)?;
        Ok(generations.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).collect())
    }

    /// Starts the thread that writes.
    pub fn start(self) -> io::Result<(DiskWriter, JoinHandle<()>)> {
        let (writes, queue) = sync_channel(WAITING);
        let thread =
            thread::Builder::new().name("connector-disk".to_owned()).spawn(move || self.serve(&queue))?;
        Ok((DiskWriter { writes }, thread))
    }

    fn serve(&self, queue: &Receiver<(Persisted, Vec<u8>)>) {
        while let Ok((what, bytes)) = queue.recv() {
            let written = match what {
                Persisted::Chain => self.state.write_generation(names::CHAIN, &bytes),
                Persisted::Slice => self.state.write_generation(names::SLICE, &bytes),
                Persisted::Certificate => self.state.write(names::CERTIFICATE, &bytes),
                Persisted::Grant => self.state.write(names::GRANT, &bytes),
                Persisted::Revocations => self.state.write(names::REVOCATIONS, &bytes),
                Persisted::TimeFloor => self.state.write_floor(&bytes),
                Persisted::ReconnectWindow => self.state.write(names::RECONNECT_WINDOW, &bytes),
            };
            if let Err(error) = written {
                tracing::warn!(%error, ?what, "the state directory cannot be written; this document is in force and not kept");
            }
        }
    }
}
