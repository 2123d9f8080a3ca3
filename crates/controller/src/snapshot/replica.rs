//! What the builder takes from a replica: never less than what is held, and never less than what was served.

use super::{
    Alarms, Origin, Reading, Served, Snapshot, SnapshotError, SnapshotSource, Snapshots, judge, read,
};
use crate::replicas::{Candidate, Replicas};
use std::time::Duration;
use store::{Dataset, Mark};
use trust::UnixMs;
use wire::InstallationId;

/// A start that has nothing else asks its replicas so often: one that misses a deadline costs a second, and no start.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(500);

impl Snapshots {
    /// Comes to the state that a replica was found to have. One that is older than what is held is not read.
    pub(crate) async fn follow_replica(&self, replica: &Candidate) -> Result<(), SnapshotError> {
        let mut memory = self.memory.lock().await;
        let held = self.get();
        let (found, here) = (replica.look.mark, Mark::of(&held.dataset));
        // Where nobody says how new it is, it is no older than what it is the same as.
        let as_of = replica.as_of.unwrap_or(held.read_at).max(held.read_at);
        if found == here && held.source != SnapshotSource::DiskCopy {
            self.verified_since(as_of);
            return Ok(());
        }
        if is_older(&found, &here) && !planted::is("replica-not-judged") {
            return Err(SnapshotError::Behind { found: said(&found), held: said(&here) });
        }
        let (store, origin) = (&replica.store, Origin::Replica(as_of));
        self.read_again(store, &held, &mut memory, Reading::Everything, origin).await
    }

    pub(super) fn verified_since(&self, at: UnixMs) {
        let mut verified = self.verified_at.lock().expect("nothing panics while it holds a time");
        *verified = at.max(*verified);
    }
}

/// The newest state that a replica has and that is not older than what is on disk or was ever served.
pub(super) async fn boot(
    replicas: &Replicas,
    installation: InstallationId,
    held: Option<(&Dataset, UnixMs)>,
    served: Option<&Served>,
    alarms: &mut Alarms,
) -> Option<Snapshot> {
    let tries = if held.is_some() || replicas.is_empty() { 1 } else { TRIES };
    for again in 0..tries {
        if again > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        if let Some(found) = boot_once(replicas, installation, held, served, alarms).await {
            return Some(found);
        }
    }
    None
}

async fn boot_once(
    replicas: &Replicas,
    installation: InstallationId,
    held: Option<(&Dataset, UnixMs)>,
    served: Option<&Served>,
    alarms: &mut Alarms,
) -> Option<Snapshot> {
    for replica in replicas.look().await {
        let copied = held.map_or(UnixMs::from_millis(0), |(_, read_at)| read_at);
        let as_of = replica.as_of.unwrap_or(copied).max(copied);
        let found = read(&replica.store, installation, None, Origin::Replica(as_of)).await;
        let judged = found.and_then(|snapshot| {
            judge(&snapshot, held.map(|(dataset, _)| dataset), served)?;
            Ok(snapshot)
        });
        match judged {
            Ok(found) => {
                tracing::info!(replica = replica.name, "the configuration is read from a replica");
                return Some(found);
            }
            Err(error) => alarms.raise(error.label(), format!("{}: {error}", replica.name)),
        }
    }
    None
}

/// Whether a state came before another one of the same database.
fn is_older(found: &Mark, held: &Mark) -> bool {
    if found.installation.incarnation != held.installation.incarnation {
        return found.installation < held.installation;
    }
    found.installation.version < held.installation.version
        || found.organizations < held.organizations
        || found.versions < held.versions
}

fn said(mark: &Mark) -> String {
    let Mark { installation, organizations, versions } = mark;
    format!(
        "version {}.{} with {organizations} organizations at {versions}",
        installation.incarnation, installation.version
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Version;

    #[test]
    fn a_state_is_older_when_any_of_its_numbers_is_and_an_incarnation_decides_alone() {
        let mark = |incarnation, version, organizations, versions| Mark {
            installation: Version { incarnation, version },
            organizations,
            versions,
        };
        let held = mark(2, 5, 3, 40);
        for (found, older) in [
            (held, false),
            (mark(2, 6, 3, 41), false),
            (mark(2, 5, 3, 41), false),
            (mark(2, 4, 3, 41), true),
            (mark(2, 5, 3, 39), true),
            (mark(2, 6, 2, 41), true),
            (mark(1, 9, 9, 99), true),
            (mark(3, 1, 1, 1), false),
        ] {
            assert_eq!(is_older(&found, &held), older, "{found:?}");
        }
    }
}
