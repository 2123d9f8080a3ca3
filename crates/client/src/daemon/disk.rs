//! What is read from the state directory at the start, and written to it while the client runs.

use agent::{Persisted, StoredState};
use policy::ClientSlice;
use state::{StateDir, StateError, names};
use std::sync::Arc;
use tokio::sync::mpsc;
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
    let chain = usable_chain(state, wall)?;
    let floor = state.read_floor()?;
    Ok(StoredState {
        identity_key: SigningKey::from_seed(&state.require_secret(names::IDENTITY_KEY)?),
        root: state.of().root,
        certificate: state.require(names::CERTIFICATE)?,
        grant: optional(names::GRANT)?,
        slice: usable_slice(state, &chain, wall)?,
        revocations: optional(names::REVOCATIONS)?,
        time_floor: floor,
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

/// Writes documents in order, off the driver's task: a slow disk delays no packet. A full queue is at most
/// one document of each kind behind.
pub(crate) async fn write_all(
    state: Arc<StateDir>,
    mut documents: mpsc::UnboundedReceiver<(Persisted, Vec<u8>)>,
) {
    while let Some((what, bytes)) = documents.recv().await {
        let state = state.clone();
        let write = move || match what {
            Persisted::Chain => state.write_generation(names::CHAIN, &bytes),
            Persisted::Certificate => state.write(names::CERTIFICATE, &bytes),
            Persisted::Grant => state.write(names::GRANT, &bytes),
            Persisted::Slice => state.write_generation(names::SLICE, &bytes),
            Persisted::Revocations => state.write(names::REVOCATIONS, &bytes),
            Persisted::TimeFloor => state.write_floor(&bytes),
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            // What is in memory stays in force; the next document tries the disk again.
            Ok(Err(error)) => tracing::warn!(%error, document = ?what, "a document was not written"),
            Err(error) => tracing::warn!(%error, document = ?what, "a document was not written"),
        }
    }
}
