//! What this controller serves and signs from: everything in memory, with a copy on disk.
//!
//! A read error, a value that does not parse, or a database that went back never replaces a snapshot:
//! the last good one goes on.

use crate::clock;
use policy::{
    ConnectorModel, GroupModel, MembershipModel, Mode, OrganizationModel, PolicyModel, PopEntry, PortRange,
    ResourceModel, SiteModel,
};
use state::{StateDir, StateError};
use std::{collections::BTreeMap, sync::Arc};
use store::{Dataset, Member, OrganizationData, ResourceMode, Store, StoreError};
use tokio::sync::watch;
use trust::{Owner, RevocationSet, RevokedSubject, SealKey, SliceVersion, UnixMs, sha256};
use wire::OrganizationId;

const COPY: &str = "snapshot";

/// Why there is no (newer) snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database has no installation in it.
    #[error("the database is empty; restore it from a backup")]
    Empty,
    /// A value in the database is not what the policy crate reads.
    #[error("{object} {id}: {problem}")]
    Value {
        /// Which kind of object.
        object: &'static str,
        /// Which one.
        id: String,
        /// What is wrong.
        problem: String,
    },
    /// Neither database nor disk copy.
    #[error("neither the database ({0}) nor a copy of the snapshot on disk can be read")]
    Nothing(String),
}

/// Where a snapshot came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotSource {
    /// Read from the database by this process.
    Database,
    /// The copy on disk.
    DiskCopy,
}

/// Everything at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) dataset: Dataset,
    pub(crate) models: BTreeMap<OrganizationId, OrganizationModel>,
    pub(crate) source: SnapshotSource,
    /// When it was read from the database, by the wall clock.
    pub(crate) read_at: UnixMs,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Copy {
    read_at: UnixMs,
    dataset: Dataset,
}

impl Snapshot {
    fn new(dataset: Dataset, source: SnapshotSource, read_at: UnixMs) -> Result<Self, SnapshotError> {
        let models = dataset
            .organizations
            .iter()
            .map(|data| Ok((data.organization.id, model(data)?)))
            .collect::<Result<_, SnapshotError>>()?;
        Ok(Self { dataset, models, source, read_at })
    }

    pub(crate) fn organization(&self, id: OrganizationId) -> Option<&OrganizationData> {
        self.dataset.organizations.iter().find(|data| data.organization.id == id)
    }

    /// The PoPs that agents may use.
    pub(crate) fn pops(&self, revocations: &RevocationSet) -> Vec<PopEntry> {
        self.dataset
            .pops
            .iter()
            .filter(|pop| !revocations.is_struck(RevokedSubject::Pop(pop.id), pop.generation))
            .map(|pop| PopEntry {
                id: pop.id,
                address: pop.address.clone(),
                region: pop.region.clone(),
                zone: pop.zone.clone(),
            })
            .collect()
    }
}

/// The same version for those who verify it.
pub(crate) const fn slice_version(version: store::Version) -> SliceVersion {
    SliceVersion { incarnation: version.incarnation, version: version.version }
}

pub(crate) const fn owner(member: Member) -> Owner {
    match member {
        Member::User(id) => Owner::User(id),
        Member::ServiceAccount(id) => Owner::ServiceAccount(id),
    }
}

fn model(data: &OrganizationData) -> Result<OrganizationModel, SnapshotError> {
    fn wrong(object: &'static str, id: impl ToString, problem: impl ToString) -> SnapshotError {
        SnapshotError::Value { object, id: id.to_string(), problem: problem.to_string() }
    }
    let mut sites = BTreeMap::new();
    for site in &data.sites {
        let prefixes = site.prefixes.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        let prefixes = prefixes.map_err(|error: policy::AddressError| wrong("site", site.id, error))?;
        sites.insert(site.id, SiteModel { name: site.name.clone(), prefixes, regions: site.regions.clone() });
    }
    let mut resources = BTreeMap::new();
    for resource in &data.resources {
        let address = resource.address.parse().map_err(|error| wrong("resource", resource.id, error))?;
        let ports = resource.ports.iter().map(|ports| PortRange::new(ports.first, ports.last));
        let ports = ports.collect::<Result<_, _>>().map_err(|error| wrong("resource", resource.id, error))?;
        let mode = match resource.mode {
            ResourceMode::Standard => Mode::Standard,
            ResourceMode::Strict => Mode::Strict,
        };
        let (name, alias, site) = (resource.name.clone(), resource.alias.clone(), resource.site);
        resources.insert(resource.id, ResourceModel { name, alias, site, address, ports, mode });
    }
    let connectors = data.connectors.iter().map(|connector| {
        let wireguard_key = SealKey::from_bytes(connector.wireguard_key);
        let seal_key = SealKey::from_bytes(connector.seal_key);
        let (name, site) = (connector.name.clone(), connector.site);
        (connector.id, ConnectorModel { name, site, wireguard_key, seal_key })
    });
    let memberships = data.memberships.iter().map(|membership| MembershipModel {
        member: owner(membership.member),
        group: membership.group,
        generation: membership.generation,
    });
    let policies = data.policies.iter().map(|policy| {
        let groups = policy.groups.iter().copied().collect();
        let resources = policy.resources.iter().copied().collect();
        (policy.id, PolicyModel { name: policy.name.clone(), groups, resources })
    });
    Ok(OrganizationModel {
        id: data.organization.id,
        name: data.organization.name.clone(),
        sites,
        connectors: connectors.collect(),
        resources,
        groups: data.groups.iter().map(|group| (group.id, GroupModel { name: group.name.clone() })).collect(),
        memberships: memberships.collect(),
        policies: policies.collect(),
    })
}

/// The current snapshot and how it is replaced.
#[derive(Debug)]
pub(crate) struct Snapshots {
    directory: Arc<StateDir>,
    current: watch::Sender<Arc<Snapshot>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl Snapshots {
    /// Starts from the database, or without one from the newest copy on disk that is whole.
    pub(crate) async fn open(
        directory: Arc<StateDir>,
        database: Result<Store, StoreError>,
    ) -> Result<Self, SnapshotError> {
        let copy = newest_copy(&directory)?;
        let from_database = match database {
            Ok(store) => read(&store, copy.as_ref()).await,
            Err(error) => Err(error.into()),
        };
        let snapshot = match (from_database, copy) {
            (Ok(snapshot), _) => {
                write_copy(&directory, &snapshot);
                snapshot
            }
            (Err(error), Some(copy)) => {
                tracing::warn!(%error, "the database cannot be read: going on from the copy on disk");
                copy
            }
            (Err(error), None) => return Err(SnapshotError::Nothing(error.to_string())),
        };
        let current = watch::Sender::new(Arc::new(snapshot));
        Ok(Self { directory, current, refreshing: tokio::sync::Mutex::default() })
    }

    pub(crate) fn get(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }

    /// Makes the snapshot contain a change. Of several changes at once, the first to come here reads for
    /// all that are committed by then.
    pub(crate) async fn contain(
        &self,
        store: &Store,
        scope: store::Scope,
        version: store::Version,
    ) -> Result<(), SnapshotError> {
        let _one = self.refreshing.lock().await;
        let held = self.get();
        let contained = match scope {
            store::Scope::Installation => held.dataset.installation.version >= version,
            store::Scope::Organization(id) => {
                held.organization(id).is_some_and(|data| data.organization.version >= version)
            }
        };
        if contained { Ok(()) } else { self.read_again(store, &held).await }
    }

    /// Reads the database again. On an error the snapshot held goes on.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), SnapshotError> {
        let _one = self.refreshing.lock().await;
        let held = self.get();
        self.read_again(store, &held).await
    }

    async fn read_again(&self, store: &Store, held: &Snapshot) -> Result<(), SnapshotError> {
        let snapshot = read(store, Some(held)).await?;
        if snapshot.dataset == held.dataset && held.source == SnapshotSource::Database {
            return Ok(());
        }
        write_copy(&self.directory, &snapshot);
        self.current.send_replace(Arc::new(snapshot));
        Ok(())
    }
}

/// Reads everything. A database that is older than what was served before was restored: its
/// incarnation is raised, so that every node takes its states as newer.
async fn read(store: &Store, held: Option<&Snapshot>) -> Result<Snapshot, SnapshotError> {
    let wall = clock::wall();
    let mut dataset = store.load().await?.ok_or(SnapshotError::Empty)?;
    if let Some(held) = held.filter(|held| went_back(&dataset, &held.dataset)) {
        let to =
            held.dataset.installation.version.incarnation.max(dataset.installation.version.incarnation) + 1;
        tracing::warn!(incarnation = to, "the database was restored from a copy: raising its incarnation");
        let mut change = store.change(store::Scope::Installation, "controller", wall.as_millis()).await?;
        change.raise_incarnation(to).await?;
        change.commit("restore", &dataset.installation.id.to_string(), "{}").await?;
        dataset = store.load().await?.ok_or(SnapshotError::Empty)?;
    }
    Snapshot::new(dataset, SnapshotSource::Database, wall)
}

fn went_back(read: &Dataset, held: &Dataset) -> bool {
    read.installation.version < held.installation.version
        || held.organizations.iter().any(|old| {
            let new = read.organizations.iter().find(|data| data.organization.id == old.organization.id);
            new.is_none_or(|new| new.organization.version < old.organization.version)
        })
}

fn write_copy(directory: &StateDir, snapshot: &Snapshot) {
    let copy = Copy { read_at: snapshot.read_at, dataset: snapshot.dataset.clone() };
    let body = serde_json::to_vec(&copy).expect("rows always serialize");
    let bytes = [&sha256(&[&body])[..], &body].concat();
    // A full disk must not take the database's changes away from those who read memory.
    if let Err(error) = directory.write_generation(COPY, &bytes) {
        tracing::warn!(%error, "the snapshot's copy on disk is not up to date");
    }
}

fn newest_copy(directory: &StateDir) -> Result<Option<Snapshot>, SnapshotError> {
    for bytes in directory.read_generations(COPY)? {
        let whole = bytes
            .split_at_checked(32)
            .filter(|(digest, body)| sha256(&[body]) == *digest)
            .and_then(|(_, body)| serde_json::from_slice::<Copy>(body).ok());
        match whole.map(|copy| Snapshot::new(copy.dataset, SnapshotSource::DiskCopy, copy.read_at)) {
            Some(Ok(snapshot)) => return Ok(Some(snapshot)),
            Some(Err(error)) => tracing::warn!(%error, "a copy of the snapshot on disk is not usable"),
            None => tracing::warn!("a copy of the snapshot on disk is damaged"),
        }
    }
    Ok(None)
}
