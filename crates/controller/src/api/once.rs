//! The same request twice, where there is no transaction that could keep its answer: strikes, which never wait for the
//! database, and what is done to keys and to the database itself. What was begun and what was answered is in one bounded
//! file of the state directory, of this controller, for a day.
//!
//! The file says "begun" before anything is done: a controller that fell in between does not do it again, and says that it
//! does not know. A strike goes on without the file: striking twice is striking once.

use super::{
    Problem,
    caller::Caller,
    idempotency::{AnswerSeal, IdempotencyKey},
    operate::Intent,
    problem::Outcome,
    tag::Tagged,
};
use crate::parts::Core;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use state::StateDir;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};
use store::Kept;
use trust::{UnixMs, decode_base64url, encode_base64url};

const FILE: &str = "answers";
const KEPT_MS: u64 = 24 * 3600 * 1000;
/// Requests of a day that are remembered, some 600 bytes each; the oldest goes.
const MOST: usize = 1_024;

/// Room for their answers, in bytes: the file is written anew for each. That of a hundred strikes takes some 60 kB.
const MOST_KEPT: usize = 2 * 1024 * 1024;

/// Whether a request may be made where it cannot be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unremembered {
    /// It does no harm twice, and must not wait for a disk.
    Goes,
    /// It does not.
    Waits,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    fingerprint: String,
    at_ms: u64,
    /// Sealed; none while nobody knows what became of it.
    answer: Option<String>,
    /// This process is at it.
    #[serde(skip)]
    running: bool,
}

/// What is remembered.
pub(crate) struct Once {
    directory: Arc<StateDir>,
    all: Mutex<BTreeMap<String, Entry>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}

/// What a request finds.
enum Found {
    /// It was made before.
    Before(Kept),
    /// It is being made.
    Running,
    /// It is to be made.
    Nothing,
}

impl Once {
    /// Reads what an earlier process remembered. A file that cannot be read is none: those requests would be made again.
    ///
    /// # Errors
    /// The directory.
    pub(crate) fn open(directory: Arc<StateDir>) -> Result<Self, state::StateError> {
        let held = directory.read(FILE)?.unwrap_or_default();
        let all = serde_json::from_slice(&held).unwrap_or_else(|error| {
            if !held.is_empty() {
                tracing::warn!(%error, "what was kept of requests that were made cannot be read");
            }
            BTreeMap::new()
        });
        Ok(Self { directory, all: Mutex::new(all) })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.all.lock().expect("nothing panics while it holds the kept answers")
    }

    fn write(&self, all: &BTreeMap<String, Entry>) -> Result<(), state::StateError> {
        let bytes = serde_json::to_vec(all).expect("what is kept always serializes");
        self.directory.write(FILE, &bytes)
    }

    /// Looks, and remembers that it is begun when there was nothing.
    fn begin(
        &self,
        digest: &[u8; 32],
        fingerprint: &[u8; 32],
        now: UnixMs,
    ) -> Result<Found, state::StateError> {
        let name = encode_base64url(digest);
        let mut all = self.all();
        let oldest = now.as_millis().saturating_sub(KEPT_MS);
        all.retain(|_, entry| entry.at_ms > oldest || entry.running);
        if let Some(entry) = all.get(&name) {
            let known = decode_base64url(&entry.fingerprint).ok().and_then(|bytes| bytes.try_into().ok());
            // What cannot be read is the fingerprint of no request.
            let kept = Kept { fingerprint: known.unwrap_or_default(), answer: entry.answer.clone() };
            let other = kept.fingerprint != *fingerprint;
            return Ok(if entry.running && !other { Found::Running } else { Found::Before(kept) });
        }
        // A long answer goes before the request itself does: nobody knows its answer then, and it is not done twice.
        let mut kept: usize = all.values().filter_map(|entry| entry.answer.as_ref()).map(String::len).sum();
        while kept > MOST_KEPT {
            let answered = all.values_mut().filter(|entry| entry.answer.is_some());
            let Some(first) = answered.min_by_key(|entry| entry.at_ms) else { break };
            kept -= first.answer.take().map_or(0, |answer| answer.len());
        }
        while all.len() >= MOST {
            let settled = all.iter().filter(|(_, entry)| !entry.running);
            let Some(first) = settled.min_by_key(|(_, entry)| entry.at_ms).map(|(name, _)| name.clone())
            else {
                break;
            };
            all.remove(&first);
        }
        let fingerprint = encode_base64url(fingerprint);
        all.insert(name.clone(), Entry { fingerprint, at_ms: now.as_millis(), answer: None, running: true });
        let written = self.write(&all);
        if written.is_err() {
            all.remove(&name);
        }
        written.map(|()| Found::Nothing)
    }

    /// What became of it: an answer, nothing (it may be made again), or nobody knows.
    fn end(&self, digest: &[u8; 32], became: Became) {
        let name = encode_base64url(digest);
        let mut all = self.all();
        match became {
            Became::NotDone => {
                all.remove(&name);
            }
            Became::Unknown => {
                all.entry(name).and_modify(|entry| entry.running = false);
            }
            Became::Answered(answer) => {
                all.entry(name).and_modify(|entry| {
                    entry.running = false;
                    entry.answer = answer;
                });
            }
        }
        if let Err(error) = self.write(&all) {
            tracing::warn!(%error, "what became of a request is remembered until this controller ends");
        }
    }
}

enum Became {
    NotDone,
    Unknown,
    Answered(Option<String>),
}

/// Makes a request once, whoever hangs up, or gives the answer that it had.
///
/// # Errors
/// What it meets; the key was used for another request; what became of it is not known.
pub(super) async fn once<F>(
    core: &Arc<Core>,
    caller: &Caller,
    intent: &Intent,
    unremembered: Unremembered,
    make: F,
) -> Result<Tagged, Problem>
where
    F: Future<Output = Result<(StatusCode, Value), Problem>> + Send + 'static,
{
    let Some(key) = intent.key().cloned() else {
        let (status, body) = tokio::spawn(make).await.map_err(ended)??;
        return Ok(Tagged::value(status, &body));
    };
    let digest = key.digest(&caller.actor, caller.organization);
    let core = Arc::clone(core);
    let work = async move {
        let (begin, fingerprint) = (Arc::clone(&core), key.fingerprint());
        let now = core.signer.best_time();
        let begun = tokio::task::spawn_blocking(move || begin.once.begin(&digest, &fingerprint, now)).await;
        let remembered = match begun.map_err(ended)? {
            Ok(Found::Before(kept)) => return before(&key, &digest, &kept, &core.answers),
            Ok(Found::Running) => return Err(being_made(&key)),
            Ok(Found::Nothing) => true,
            Err(error) if unremembered == Unremembered::Goes => {
                tracing::warn!(%error, "a request is made without being remembered");
                false
            }
            Err(error) => {
                return Err(Problem::unavailable(format!("the request cannot be remembered here: {error}")));
            }
        };
        let made = make.await;
        if remembered {
            let became = match &made {
                Ok((status, body)) => {
                    Became::Answered(key.kept(&digest, *status, body, &core.answers).answer)
                }
                Err(problem) if is_unknown(problem) => Became::Unknown,
                Err(_) => Became::NotDone,
            };
            let end = Arc::clone(&core);
            tokio::task::spawn_blocking(move || end.once.end(&digest, became)).await.map_err(ended)?;
        }
        made.map(|(status, body)| Tagged::value(status, &body))
    };
    tokio::spawn(work).await.map_err(ended)?
}

fn ended(error: tokio::task::JoinError) -> Problem {
    Problem::internal(format!("the request's task ended: {error}"))
}

/// Whether it may have been done all the same.
fn is_unknown(problem: &Problem) -> bool {
    problem.outcome == Some(Outcome::Unknown)
        || problem.kind == "/problems/outcome-unknown"
        || problem.status == StatusCode::INTERNAL_SERVER_ERROR.as_u16()
}

fn before(
    key: &IdempotencyKey,
    digest: &[u8; 32],
    kept: &Kept,
    seal: &AnswerSeal,
) -> Result<Tagged, Problem> {
    key.replay(digest, kept, seal).map_err(|mut problem| {
        if kept.answer.is_none() && problem.status == StatusCode::CONFLICT.as_u16() {
            problem.detail =
                "the request of this key was begun; what became of it is not known, or not kept any more: read what is there"
                    .into();
            problem.outcome = Some(Outcome::Unknown);
        }
        problem
    })
}

fn being_made(key: &IdempotencyKey) -> Problem {
    let mut problem = Problem::new(
        StatusCode::CONFLICT,
        "being-made",
        "This is being made",
        "the request of this key is not answered yet",
    );
    problem.field = Some("idempotency-key".into());
    problem.rule = Some("one request at a time".into());
    problem.value = Some(key.shown().into());
    problem.retry_after = Some(1);
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> UnixMs {
        UnixMs::from_millis(ms)
    }

    fn open(path: &std::path::Path) -> Once {
        let installation = wire::InstallationId::from_bytes([1; 16]);
        let root = trust::RootHash::from_bytes([2; 32]);
        let about = state::About::new(installation, trust::Role::Controller, root);
        Once::open(Arc::new(StateDir::create(path, &about).unwrap())).unwrap()
    }

    #[test]
    fn what_was_begun_and_never_answered_is_not_made_again_after_a_restart_and_what_failed_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state");
        let once = open(&path);
        assert!(matches!(once.begin(&[1; 32], &[9; 32], at(1)).unwrap(), Found::Nothing));
        assert!(matches!(once.begin(&[1; 32], &[9; 32], at(1)).unwrap(), Found::Running));
        assert!(matches!(once.begin(&[2; 32], &[9; 32], at(1)).unwrap(), Found::Nothing));
        once.end(&[2; 32], Became::NotDone);
        assert!(matches!(once.begin(&[3; 32], &[9; 32], at(1)).unwrap(), Found::Nothing));
        once.end(&[3; 32], Became::Answered(Some("sealed".into())));
        drop(once);
        let once = open(&path);
        let kept = |digest: u8| match once.begin(&[digest; 32], &[9; 32], at(2)).unwrap() {
            Found::Before(kept) => Some(kept),
            Found::Running | Found::Nothing => None,
        };
        assert_eq!(kept(1), Some(Kept { fingerprint: [9; 32], answer: None }));
        assert_eq!(kept(2), None);
        assert_eq!(kept(3).unwrap().answer.as_deref(), Some("sealed"));
        assert!(matches!(once.begin(&[3; 32], &[9; 32], at(KEPT_MS + 2)).unwrap(), Found::Nothing));
    }

    #[test]
    fn a_day_of_requests_is_bounded_and_the_oldest_goes() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("state");
        let once = open(&path);
        let digest = |n: usize| trust::sha256(&[&n.to_be_bytes()]);
        // Not through the disk each time: what is asked is the bound.
        for n in 0..MOST {
            let entry = Entry {
                fingerprint: encode_base64url(&[9; 32]),
                at_ms: n as u64 + 1,
                answer: None,
                running: false,
            };
            once.all().insert(encode_base64url(&digest(n)), entry);
        }
        assert!(matches!(once.begin(&digest(MOST), &[9; 32], at(5_000)).unwrap(), Found::Nothing));
        assert_eq!(once.all().len(), MOST);
        assert!(!once.all().contains_key(&encode_base64url(&digest(0))));
        assert!(once.all().contains_key(&encode_base64url(&digest(1))));
    }

    #[test]
    fn long_answers_of_a_day_are_bounded_and_whose_went_is_not_made_again() {
        let scratch = tempfile::tempdir().unwrap();
        let once = open(&scratch.path().join("state"));
        for n in 0..4_u8 {
            assert!(matches!(once.begin(&[n; 32], &[9; 32], at(u64::from(n) + 1)).unwrap(), Found::Nothing));
            once.end(&[n; 32], Became::Answered(Some("a".repeat(MOST_KEPT * 2 / 5))));
        }
        // The fourth was begun with room for two beside it.
        let left = (0..4_u8).map(|n| match once.begin(&[n; 32], &[9; 32], at(10)).unwrap() {
            Found::Before(kept) => kept.answer.is_some(),
            Found::Running | Found::Nothing => panic!("{n} would be made again"),
        });
        assert_eq!(left.collect::<Vec<_>>(), [false, true, true, true]);
    }
}
