//! By which way devices' packets go, as connectors say: in memory only, bounded, and only for people to look at. A path
//! that nobody reported is nowhere here.
//!
//! A connector tells each way that changes as it changes (`wire::TellPaths`). One of an earlier version says it with a
//! flow that has ended, which counts for ten minutes.

use crate::presence::Presence;
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};
use trust::{Subject, UnixMs};
use wire::{ConnectorId, DeviceId, PopId, TellPaths};

/// Pairs of device and connector that are remembered of flow records; the one reported longest ago goes.
const MAX_PAIRS: usize = 50_000;
/// Pairs that connectors may tell, of all together: 100,000 × 80 bytes. More are not taken, and not shown.
const MAX_TOLD: usize = 100_000;
/// A connector says at least twice a minute that it still means what it told: three silences and it counts no more.
const TOLD_WORTH: Duration = Duration::from_secs(90);
/// How long a path counts that was reported with a flow.
const RECORD_WORTH: Duration = Duration::from_secs(600);

/// How packets between a device and a connector travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// From socket to socket.
    Direct,
    /// Through this PoP.
    Relay(PopId),
    /// Through this PoP, which the device reaches by TCP 443 alone.
    Tcp(PopId),
}

/// What the connector reaches a relay by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectorSide {
    Udp,
    Tcp,
}

/// What is known of a device at a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) connector: ConnectorId,
    pub(crate) device: DeviceId,
    pub(crate) way: Way,
    /// By what the connector reaches the relay, where it said so.
    pub(crate) connector_side: Option<ConnectorSide>,
    /// Since when; with what came from a flow record, when the flow ended.
    pub(crate) at: UnixMs,
}

/// What this needs of a flow record.
#[derive(Deserialize)]
struct Record {
    device: DeviceId,
    relay: Option<PopId>,
    verdict: String,
    ended: UnixMs,
}

/// What a connector tells of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    pop: Option<PopId>,
    stream: bool,
    since: UnixMs,
}

/// What a connector tells of all its devices.
#[derive(Debug, Default)]
struct OfConnector {
    told: BTreeMap<DeviceId, Told>,
    heard: UnixMs,
}

/// The newest report of each device at each connector.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    live: BTreeMap<ConnectorId, OfConnector>,
    last: BTreeMap<(ConnectorId, DeviceId), (Option<PopId>, UnixMs)>,
    changes: u64,
}

impl Paths {
    /// Takes what a connector tells of its paths; gives how many of it are held now.
    pub(crate) fn tell(&mut self, connector: ConnectorId, report: &TellPaths, wall: UnixMs) -> u32 {
        let elsewhere = self.told_elsewhere(connector, wall);
        let mine = self.live.entry(connector).or_default();
        let before = if report.afresh { std::mem::take(&mut mine.told) } else { BTreeMap::new() };
        mine.heard = wall;
        let mut changed = false;
        for device in &report.gone {
            changed |= mine.told.remove(device).is_some();
        }
        for path in &report.paths {
            let known = mine.told.get(&path.device).or_else(|| before.get(&path.device)).copied();
            let mut told = Told { pop: path.pop, stream: path.stream, since: wall };
            if let Some(known) = known {
                // Told anew is no news.
                told.since =
                    if (known.pop, known.stream) == (told.pop, told.stream) { known.since } else { wall };
            }
            if mine.told.len() + elsewhere >= MAX_TOLD && !mine.told.contains_key(&path.device) {
                continue;
            }
            changed |= known != Some(told);
            mine.told.insert(path.device, told);
        }
        changed |= before.keys().any(|device| !mine.told.contains_key(device));
        self.changes += u64::from(changed);
        u32::try_from(mine.told.len()).unwrap_or(u32::MAX)
    }

    /// How many are held of other connectors. Those that say nothing any more are forgotten when room is scarce.
    fn told_elsewhere(&mut self, connector: ConnectorId, wall: UnixMs) -> usize {
        let count = |live: &BTreeMap<ConnectorId, OfConnector>| {
            live.iter().filter(|(id, _)| **id != connector).map(|(_, one)| one.told.len().max(1)).sum()
        };
        let all = count(&self.live);
        if all < MAX_TOLD {
            return all;
        }
        self.live.retain(|id, one| *id == connector || wall.since(one.heard) < TOLD_WORTH);
        count(&self.live)
    }

    /// Takes what a connector's flow records say. Lines that say nothing about a path are left out.
    pub(crate) fn take(&mut self, connector: ConnectorId, ndjson: &[u8], wall: UnixMs) {
        if self.told_by(connector, wall).is_some() {
            // It tells by itself, and earlier.
            return;
        }
        for line in ndjson.split(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
            // What was denied went no way at all.
            if record.verdict == "denied" {
                continue;
            }
            let held = self.last.get(&(connector, record.device)).copied();
            if held.is_some_and(|(_, at)| at > record.ended) {
                continue;
            }
            if held.is_none() && self.last.len() >= MAX_PAIRS {
                let oldest = self.last.iter().min_by_key(|(_, (_, at))| *at).map(|(pair, _)| *pair);
                oldest.and_then(|pair| self.last.remove(&pair));
            }
            self.last.insert((connector, record.device), (record.relay, record.ended));
            if held.is_none_or(|(before, _)| before != record.relay) {
                self.changes += 1;
            }
        }
    }

    /// Rises with each way that is another one than before.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// What is known of one connector's devices that have sessions now.
    pub(crate) fn of_connector<'a>(
        &'a self,
        connector: ConnectorId,
        presence: &'a Presence,
        wall: UnixMs,
    ) -> impl Iterator<Item = Reported> + 'a {
        let told = self.live.get(&connector).into_iter().flat_map(|one| one.told.keys()).copied();
        let pairs =
            (connector, DeviceId::from_bytes([0; 16]))..=(connector, DeviceId::from_bytes([0xFF; 16]));
        let recorded = self.last.range(pairs).map(|((_, device), _)| *device);
        let recorded = recorded.filter(move |_| self.told_by(connector, wall).is_none());
        told.chain(recorded).filter_map(move |device| self.of(connector, device, presence, wall))
    }

    /// What is known of a device at a connector, while it has a session.
    pub(crate) fn of(
        &self,
        connector: ConnectorId,
        device: DeviceId,
        presence: &Presence,
        wall: UnixMs,
    ) -> Option<Reported> {
        let (pop, connector_side, at) = if let Some(one) = self.told_by(connector, wall) {
            let told = one.told.get(&device)?;
            let side = if told.stream { ConnectorSide::Tcp } else { ConnectorSide::Udp };
            (told.pop, told.pop.map(|_| side), told.since)
        } else {
            let (pop, at) =
                self.last.get(&(connector, device)).filter(|(_, at)| wall.since(*at) < RECORD_WORTH)?;
            (*pop, None, *at)
        };
        let seen = presence.of(Subject::Device(device)).filter(|seen| !seen.attached.is_empty())?;
        let way = match pop {
            None => Way::Direct,
            Some(pop) if seen.by_stream.contains(&pop) => Way::Tcp(pop),
            Some(pop) => Way::Relay(pop),
        };
        Some(Reported { connector, device, way, connector_side, at })
    }

    /// What a connector tells by itself, while it goes on doing so.
    fn told_by(&self, connector: ConnectorId, wall: UnixMs) -> Option<&OfConnector> {
        self.live.get(&connector).filter(|one| wall.since(one.heard) < TOLD_WORTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Here;
    use trust::Identity;
    use wire::{InstallationId, OrganizationId, PathTold};

    const CONNECTOR: ConnectorId = ConnectorId::from_bytes([2; 16]);
    const DEVICE: DeviceId = DeviceId::from_bytes([1; 16]);
    const POP: PopId = PopId::from_bytes([3; 16]);

    fn at(seconds: u64) -> UnixMs {
        UnixMs::from_millis(seconds * 1_000)
    }

    fn line(verdict: &str, relay: Option<PopId>, ended: u64) -> String {
        let relay = relay.map_or("null".to_owned(), |pop| format!("\"{pop}\""));
        format!(
            "{{\"device\":\"{DEVICE}\",\"relay\":{relay},\"verdict\":\"{verdict}\",\"ended\":{ended},\"more\":1}}\n"
        )
    }

    fn told(device: DeviceId, pop: Option<PopId>) -> PathTold {
        PathTold { device, pop, stream: false }
    }

    fn report(afresh: bool, paths: &[PathTold], gone: &[DeviceId]) -> TellPaths {
        TellPaths { afresh, paths: paths.to_vec(), gone: gone.to_vec() }
    }

    /// The device has a session, by UDP or by TCP 443.
    fn attached(by_stream: bool) -> Presence {
        let of = InstallationId::from_bytes([1; 16]);
        let identity = Identity::device(of, OrganizationId::from_bytes([2; 16]), DEVICE);
        let by_stream = if by_stream { vec![identity] } else { Vec::new() };
        let mut presence = Presence::default();
        presence.came(POP, &Here { attached: vec![identity], by_stream }, at(0));
        presence
    }

    fn way(paths: &Paths, presence: &Presence, wall: UnixMs) -> Option<Way> {
        let all: Vec<Reported> = paths.of_connector(CONNECTOR, presence, wall).collect();
        let one = paths.of(CONNECTOR, DEVICE, presence, wall);
        assert_eq!(all, one.into_iter().collect::<Vec<_>>());
        one.map(|one| one.way)
    }

    #[test]
    fn of_flow_records_the_newest_counts_for_ten_minutes_and_what_was_denied_went_no_way() {
        let (mut paths, here) = (Paths::default(), attached(false));
        paths.take(CONNECTOR, line("denied", Some(POP), 50).as_bytes(), at(1));
        assert_eq!(way(&paths, &here, at(1)), None);
        let lines = [line("allowed", Some(POP), 100), line("allowed", None, 200), "rubbish\n".into()];
        paths.take(CONNECTOR, lines.concat().as_bytes(), at(1));
        let changes = paths.changes();
        paths.take(CONNECTOR, line("allowed", Some(POP), 150).as_bytes(), at(1));
        assert_eq!(paths.changes(), changes, "an older one changes nothing");
        assert_eq!(way(&paths, &here, at(600)), Some(Way::Direct));
        assert_eq!(way(&paths, &here, at(601)), None);
    }

    #[test]
    fn what_a_connector_tells_is_shown_as_the_device_reaches_its_pop_and_flow_records_count_no_more() {
        let mut paths = Paths::default();
        paths.take(CONNECTOR, line("allowed", None, 1_000).as_bytes(), at(1));
        assert_eq!(paths.tell(CONNECTOR, &report(true, &[told(DEVICE, Some(POP))], &[]), at(2)), 1);
        paths.take(CONNECTOR, line("allowed", None, 3_000).as_bytes(), at(3));
        assert_eq!(way(&paths, &attached(false), at(3)), Some(Way::Relay(POP)));
        assert_eq!(way(&paths, &attached(true), at(3)), Some(Way::Tcp(POP)));
        assert_eq!(way(&paths, &Presence::default(), at(3)), None, "nobody is there");
        let changes = paths.changes();
        assert_eq!(paths.tell(CONNECTOR, &report(false, &[], &[]), at(30)), 1);
        assert_eq!(paths.changes(), changes, "a question is no news");
        assert_eq!(paths.tell(CONNECTOR, &report(false, &[], &[DEVICE]), at(31)), 0);
        assert_eq!((way(&paths, &attached(false), at(31)), paths.changes()), (None, changes + 1));
    }

    #[test]
    fn what_is_told_anew_keeps_since_when_it_is_so_and_what_is_not_told_anew_is_gone() {
        let (mut paths, here) = (Paths::default(), attached(false));
        let other = DeviceId::from_bytes([9; 16]);
        let both = [told(DEVICE, None), told(other, None)];
        paths.tell(CONNECTOR, &report(true, &both, &[]), at(2));
        assert_eq!(paths.tell(CONNECTOR, &report(true, &both[..1], &[]), at(60)), 1);
        assert_eq!(paths.of(CONNECTOR, DEVICE, &here, at(60)).unwrap().at, at(2));
        paths.tell(CONNECTOR, &report(false, &[told(DEVICE, Some(POP))], &[]), at(61));
        assert_eq!(paths.of(CONNECTOR, DEVICE, &here, at(61)).unwrap().at, at(61));
    }

    #[test]
    fn a_connector_that_says_nothing_any_more_is_not_believed_for_longer_than_a_minute_and_a_half() {
        let (mut paths, here) = (Paths::default(), attached(false));
        paths.tell(CONNECTOR, &report(true, &[told(DEVICE, None)], &[]), at(2));
        assert_eq!(way(&paths, &here, at(91)), Some(Way::Direct));
        assert_eq!(way(&paths, &here, at(92)), None);
    }

    #[test]
    fn connectors_that_tell_too_much_fill_no_more_than_there_is_room_for_and_silent_ones_make_room() {
        let mut paths = Paths::default();
        let mut next = 0_u128;
        let mut page = |count: usize| -> Vec<PathTold> {
            let one = |_| {
                next += 1;
                told(DeviceId::from_bytes(next.to_be_bytes()), None)
            };
            (0..count).map(one).collect()
        };
        for _ in 0..MAX_TOLD / 500 {
            paths.tell(CONNECTOR, &report(false, &page(500), &[]), at(1));
        }
        assert_eq!(paths.tell(CONNECTOR, &report(false, &page(500), &[]), at(1)) as usize, MAX_TOLD);
        let another = ConnectorId::from_bytes([7; 16]);
        assert_eq!(paths.tell(another, &report(true, &page(5), &[]), at(2)), 0, "no room");
        assert_eq!(paths.tell(another, &report(true, &page(5), &[]), at(100)), 5, "the other one is silent");
        let all: usize = paths.live.values().map(|one| one.told.len()).sum();
        assert_eq!(all, 5);
    }
}
