//! By which way devices' packets went, as connectors last reported it with a flow: in memory only, and only for people to
//! look at. A path that nobody reported is nowhere here.

use serde::Deserialize;
use std::collections::BTreeMap;
use trust::UnixMs;
use wire::{ConnectorId, DeviceId, PopId};

/// Pairs of device and connector that are remembered; the one reported longest ago goes.
const MAX_PAIRS: usize = 50_000;

/// How packets between a device and a connector travelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// From socket to socket.
    Direct,
    /// Through this PoP.
    Relay(PopId),
}

/// What was reported last of a device at a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) connector: ConnectorId,
    pub(crate) device: DeviceId,
    pub(crate) way: Way,
    /// When the flow that it was reported with ended.
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

/// The newest report of each device at each connector.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    last: BTreeMap<(ConnectorId, DeviceId), (Way, UnixMs)>,
    changes: u64,
}

impl Paths {
    /// Takes what a connector's flow records say. Lines that say nothing about a path are left out.
    pub(crate) fn take(&mut self, connector: ConnectorId, ndjson: &[u8]) {
        for line in ndjson.split(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
            // What was denied went no way at all.
            if record.verdict == "denied" {
                continue;
            }
            let way = record.relay.map_or(Way::Direct, Way::Relay);
            let held = self.last.get(&(connector, record.device)).copied();
            if held.is_some_and(|(_, at)| at > record.ended) {
                continue;
            }
            if held.is_none() && self.last.len() >= MAX_PAIRS {
                let oldest = self.last.iter().min_by_key(|(_, (_, at))| *at).map(|(pair, _)| *pair);
                oldest.and_then(|pair| self.last.remove(&pair));
            }
            self.last.insert((connector, record.device), (way, record.ended));
            if held.is_none_or(|(before, _)| before != way) {
                self.changes += 1;
            }
        }
    }

    /// Rises with each way that is another one than before.
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    /// Everything that was reported since then.
    pub(crate) fn since(&self, then: UnixMs) -> Vec<Reported> {
        let all = self.last.iter().filter(|(_, (_, at))| *at >= then);
        all.map(|((connector, device), (way, at))| Reported {
            connector: *connector,
            device: *device,
            way: *way,
            at: *at,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTOR: ConnectorId = ConnectorId::from_bytes([2; 16]);

    fn line(verdict: &str, relay: Option<PopId>, ended: u64) -> String {
        let device = DeviceId::from_bytes([1; 16]);
        let relay = relay.map_or("null".to_owned(), |pop| format!("\"{pop}\""));
        format!(
            "{{\"device\":\"{device}\",\"relay\":{relay},\"verdict\":\"{verdict}\",\"ended\":{ended},\"more\":1}}\n"
        )
    }

    #[test]
    fn the_newest_report_counts_and_what_was_denied_went_no_way() {
        let pop = PopId::from_bytes([3; 16]);
        let mut paths = Paths::default();
        paths.take(CONNECTOR, line("denied", Some(pop), 50).as_bytes());
        assert!(paths.since(UnixMs::from_millis(0)).is_empty());
        paths.take(
            CONNECTOR,
            [line("allowed", Some(pop), 100), line("allowed", None, 200), "rubbish\n".into()]
                .concat()
                .as_bytes(),
        );
        let changes = paths.changes();
        paths.take(CONNECTOR, line("allowed", Some(pop), 150).as_bytes());
        assert_eq!(paths.changes(), changes, "an older one changes nothing");
        let reported = paths.since(UnixMs::from_millis(200));
        assert_eq!((reported.len(), reported[0].way), (1, Way::Direct));
        assert!(paths.since(UnixMs::from_millis(201)).is_empty());
    }
}
