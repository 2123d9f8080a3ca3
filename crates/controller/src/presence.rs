//! Who is attached where, as PoPs say: in memory only, and only for people to look at.

use std::collections::{BTreeMap, BTreeSet};
use trust::{Identity, Subject, UnixMs};
use wire::PopId;

/// Subjects that are remembered; a PoP that makes names up costs at most this.
const MAX_SUBJECTS: usize = 200_000;

/// Where a subject is, or when it was last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// PoPs that have a session of it now.
    pub(crate) attached: BTreeSet<PopId>,
    /// Those of them that it reaches by TCP 443 alone.
    pub(crate) by_stream: BTreeSet<PopId>,
    /// Since when it has been attached somewhere without a break; or was, when it is not.
    pub(crate) since: UnixMs,
    /// When a PoP last said something about it.
    pub(crate) last: UnixMs,
}

/// Who has sessions at a PoP, as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Here {
    pub(crate) attached: Vec<Identity>,
    /// Those of them whose session is carried by TCP 443.
    pub(crate) by_stream: Vec<Identity>,
}

/// The state of one PoP's session with this controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PopSeen {
    /// Since when it is attached; `None` when it is not.
    pub(crate) since: Option<UnixMs>,
    /// When it last was.
    pub(crate) last: UnixMs,
}

/// Presence as a value.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    subjects: BTreeMap<Subject, Seen>,
    pops: BTreeMap<PopId, PopSeen>,
    /// Rises with everything that changes here: who shows it looks again then.
    changes: u64,
}

impl Presence {
    /// Rises whenever somebody came or went.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// A PoP's session came up, and these have sessions at it.
    pub(crate) fn pop_attached(&mut self, pop: PopId, here: &Here, wall: UnixMs) {
        self.pop_lost(pop, wall);
        self.changes += 1;
        self.pops.insert(pop, PopSeen { since: Some(wall), last: wall });
        self.came(pop, here, wall);
    }

    /// A PoP's session ended: nobody is known to be attached there.
    pub(crate) fn pop_lost(&mut self, pop: PopId, wall: UnixMs) {
        self.changes += 1;
        if let Some(seen) = self.pops.get_mut(&pop)
            && seen.since.take().is_some()
        {
            seen.last = wall;
        }
        for seen in self.subjects.values_mut() {
            seen.attached.remove(&pop);
            seen.by_stream.remove(&pop);
        }
    }

    /// Sessions came up at a PoP.
    pub(crate) fn came(&mut self, pop: PopId, here: &Here, wall: UnixMs) {
        self.changes += 1;
        let streams: BTreeSet<Subject> = here.by_stream.iter().map(|identity| identity.subject()).collect();
        for identity in &here.attached {
            if self.subjects.len() >= MAX_SUBJECTS && !self.subjects.contains_key(&identity.subject()) {
                continue;
            }
            let seen = self.subjects.entry(identity.subject()).or_default();
            if seen.attached.is_empty() {
                seen.since = wall;
            }
            seen.attached.insert(pop);
            if streams.contains(&identity.subject()) {
                seen.by_stream.insert(pop);
            } else {
                seen.by_stream.remove(&pop);
            }
            seen.last = wall;
        }
    }

    /// Sessions ended at a PoP.
    pub(crate) fn went(&mut self, pop: PopId, identities: &[Identity], wall: UnixMs) {
        self.changes += 1;
        for identity in identities {
            if let Some(seen) = self.subjects.get_mut(&identity.subject()) {
                seen.attached.remove(&pop);
                seen.by_stream.remove(&pop);
                seen.last = wall;
            }
        }
    }

    pub(crate) fn of(&self, subject: Subject) -> Option<&Seen> {
        self.subjects.get(&subject)
    }

    pub(crate) fn pop(&self, pop: PopId) -> Option<PopSeen> {
        self.pops.get(&pop).copied()
    }

    /// PoPs that are attached now.
    pub(crate) fn attached_pops(&self) -> BTreeSet<PopId> {
        self.pops.iter().filter(|(_, seen)| seen.since.is_some()).map(|(pop, _)| *pop).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{ConnectorId, InstallationId, OrganizationId};

    #[test]
    fn a_lost_pop_leaves_nobody_attached_there_and_elsewhere_everybody() {
        let connector = ConnectorId::from_bytes([3; 16]);
        let identity = Identity::connector(
            InstallationId::from_bytes([1; 16]),
            OrganizationId::from_bytes([2; 16]),
            connector,
        );
        let (a, b) = (PopId::from_bytes([1; 16]), PopId::from_bytes([2; 16]));
        let mut presence = Presence::default();
        let here = Here { attached: vec![identity], by_stream: Vec::new() };
        presence.pop_attached(a, &here, UnixMs::from_millis(1));
        presence.pop_attached(b, &here, UnixMs::from_millis(2));
        presence.pop_lost(a, UnixMs::from_millis(3));
        let seen = presence.of(Subject::Connector(connector)).unwrap();
        assert_eq!(seen.attached, BTreeSet::from([b]));
        assert_eq!(presence.attached_pops(), BTreeSet::from([b]));
        presence.went(b, &[identity], UnixMs::from_millis(4));
        let seen = presence.of(Subject::Connector(connector)).unwrap();
        assert_eq!((seen.attached.len(), seen.last), (0, UnixMs::from_millis(4)));
    }

    #[test]
    fn who_comes_again_by_udp_is_not_by_tcp_any_more() {
        let device = wire::DeviceId::from_bytes([3; 16]);
        let identity = Identity::device(
            InstallationId::from_bytes([1; 16]),
            OrganizationId::from_bytes([2; 16]),
            device,
        );
        let pop = PopId::from_bytes([1; 16]);
        let mut presence = Presence::default();
        let by_tcp = Here { attached: vec![identity], by_stream: vec![identity] };
        presence.came(pop, &by_tcp, UnixMs::from_millis(1));
        assert_eq!(presence.of(Subject::Device(device)).unwrap().by_stream, BTreeSet::from([pop]));
        let by_udp = Here { attached: vec![identity], by_stream: Vec::new() };
        presence.came(pop, &by_udp, UnixMs::from_millis(2));
        let seen = presence.of(Subject::Device(device)).unwrap();
        assert_eq!((seen.attached.len(), seen.by_stream.len()), (1, 0));
    }
}
