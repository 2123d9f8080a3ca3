//! What is read from the state directory at the start, and written to it while the client runs.

use agent::{Persisted, StoredState};
use policy::ClientSlice;
use state::{StateDir, StateError, names};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;
use trust::{SigningKey, Slice, TrustChain, UnixMs, Unverified};

/// Reads everything that a client starts from; of what has two generations, the newest that verifies at `wall`.
///
/// # Errors
/// Something that every client needs is missing or damaged.
pub fn load(state: &StateDir, wall: UnixMs) -> Result<StoredState, StateError> {
    let text = |name: &str, bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|_| StateError::Damaged {
            path: state.path().join(name),
            problem: "it is not text".into(),
        })
    };
    let optional = |name: &str| state.read(name)?.map(|bytes| text(name, bytes)).transpose();
    let floor = state.read_floor()?;
    // A machine's clock may be years behind.
    let time = wall.max(floor.unwrap_or_default());
    let chain = usable_chain(state, time)?;
    Ok(StoredState {
        identity_key: SigningKey::from_seed(&state.require_secret(names::IDENTITY_KEY)?),
        root: state.of().root,
        certificate: state.require(names::CERTIFICATE)?,
        grant: optional(names::GRANT)?,
        slice: usable_slice(state, &chain, time)?,
        revocations: optional(names::REVOCATIONS)?,
        time_floor: floor,
        reconnect_window: state.read_reconnect_window()?,
        chain,
    })
}

/// The newest generation of the trust chain that verifies; else the newest, whose fault is said at the start.
fn usable_chain(state: &StateDir, wall: UnixMs) -> Result<String, StateError> {
    let generations = state.read_generations(names::CHAIN)?;
    let texts: Vec<String> =
        generations.into_iter().filter_map(|bytes| String::from_utf8(bytes).ok()).collect();
    let verifies = |text: &&String| {
        TrustChain::parse(text).and_then(|chain| chain.verify(&state.of().root, wall)).is_ok()
    };
    texts.iter().find(verifies).or(texts.first()).cloned().ok_or_else(|| StateError::Damaged {
        path: state.path().join(names::CHAIN),
        problem: "it is missing or no text".into(),
    })
}

/// The newest of the two generations that verifies; a torn or rotten one is passed over.
fn usable_slice(state: &StateDir, chain: &str, wall: UnixMs) -> Result<Option<String>, StateError> {
    let generations = state.read_generations(names::SLICE)?;
    let bundle = TrustChain::parse(chain).and_then(|chain| chain.verify(&state.of().root, wall)).ok();
    let texts: Vec<String> =
        generations.into_iter().filter_map(|bytes| String::from_utf8(bytes).ok()).collect();
    let verifies = |text: &&String| {
        bundle.as_ref().is_some_and(|bundle| {
            Unverified::<Slice<ClientSlice>>::parse(text)
                .is_ok_and(|slice| slice.verify_at_any_time(bundle).is_ok())
        })
    };
    Ok(texts.iter().find(verifies).or(texts.first()).cloned())
}

/// What waits for the disk: the newest of each kind, and nothing older of it. In the order of the kinds, so that a
/// chain is there before what it vouches for.
#[derive(Debug, Default)]
struct Shelf {
    documents: Mutex<BTreeMap<Persisted, Vec<u8>>>,
    changed: Notify,
    is_over: AtomicBool,
}

/// Where documents are put that are to be written; dropping it ends the writer when all are.
#[derive(Debug)]
pub(crate) struct Documents(Arc<Shelf>);

/// What the writer takes from.
#[derive(Debug)]
pub(crate) struct DocumentQueue(Arc<Shelf>);

/// Both ends.
pub(crate) fn documents() -> (Documents, DocumentQueue) {
    let shelf = Arc::<Shelf>::default();
    (Documents(Arc::clone(&shelf)), DocumentQueue(shelf))
}

impl Documents {
    /// Never waits: a slow disk delays no packet.
    pub(crate) fn put(&self, what: Persisted, bytes: Vec<u8>) {
        self.0.documents.lock().unwrap_or_else(PoisonError::into_inner).insert(what, bytes);
        self.0.changed.notify_one();
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }
}

impl DocumentQueue {
    /// The next one; none when there will be none.
    async fn next(&self) -> Option<(Persisted, Vec<u8>)> {
        loop {
            // Read first: what was put before the end is found by the look that follows.
            let is_over = self.0.is_over.load(Ordering::Acquire);
            let first = self.0.documents.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            if first.is_some() || is_over {
                return first;
            }
            self.0.changed.notified().await;
        }
    }
}

/// Writes documents off the driver's task.
pub(crate) async fn write_all(state: Arc<StateDir>, documents: DocumentQueue) {
    while let Some((what, bytes)) = documents.next().await {
        let state = state.clone();
        let write = move || match what {
            Persisted::Chain => state.write_generation(names::CHAIN, &bytes),
            Persisted::Certificate => state.write(names::CERTIFICATE, &bytes),
            Persisted::Grant => state.write(names::GRANT, &bytes),
            Persisted::Slice => state.write_generation(names::SLICE, &bytes),
            Persisted::Revocations => state.write(names::REVOCATIONS, &bytes),
            Persisted::TimeFloor => state.write_floor(&bytes),
            Persisted::ReconnectWindow => state.write(names::RECONNECT_WINDOW, &bytes),
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            // What is in memory stays in force; the next document tries the disk again.
            Ok(Err(error)) => tracing::warn!(%error, document = ?what, "a document was not written"),
            Err(error) => tracing::warn!(%error, document = ?what, "a document was not written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_each_kind_waits_and_all_are_written_before_the_end() {
        let (documents, queue) = documents();
        for number in 0..1_000_u32 {
            documents.put(Persisted::TimeFloor, number.to_be_bytes().to_vec());
            documents.put(Persisted::Chain, vec![1]);
        }
        drop(documents);
        assert_eq!(queue.next().await, Some((Persisted::Chain, vec![1])));
        assert_eq!(queue.next().await, Some((Persisted::TimeFloor, 999_u32.to_be_bytes().to_vec())));
        assert_eq!(queue.next().await, None);
    }
}
