//! Which servers belong together, and how far each of them is: what a replica is held against before anything is read
//! from it.

use std::{
    collections::VecDeque,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// Places of the primary that are remembered, with the time at which each was first seen there: at most one each
/// [`APART`], so that they reach back for two minutes of steady writing, and for ever where nothing is written.
const REMEMBERED: usize = 256;
const APART: Duration = Duration::from_millis(500);

/// A place in the log that a server writes ahead of everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lsn(u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected two hexadecimal numbers with a slash between them, as in 16/B374D848")]
pub struct LsnError;

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let half = |text: &str| u32::from_str_radix(text, 16).map_err(|_| LsnError);
        let (high, low) = text.split_once('/').ok_or(LsnError)?;
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

/// A change was acknowledged, and the connection broke before its place was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a change was acknowledged here, and where it ends is not known before the primary answers again")]
pub struct Unplaced;

/// All servers that began as copies of one, and the newest of the histories that they had since: each promotion begins
/// another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cluster {
    /// PostgreSQL's system identifier: made by `initdb`, and the same in every physical copy.
    pub system: i64,
    /// PostgreSQL's timeline.
    pub timeline: u32,
}

/// A place in one of a cluster's histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which history.
    pub timeline: u32,
    /// Where in it.
    pub lsn: Lsn,
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Of which cluster it is, and on which timeline as far as the asking role may see.
    pub cluster: Cluster,
    /// What it has replayed; where it takes writes, what it has on its disk.
    pub lsn: Lsn,
    /// How long ago the last commit that it has was made, by the servers' clocks: its state may be as old as this, and
    /// is younger where nothing was written since. Nothing where it has replayed no commit since it was started; zero
    /// where it takes writes.
    pub age: Option<Duration>,
}

impl Sighting {
    /// Where it is.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { timeline: self.cluster.timeline, lsn: self.lsn }
    }
}

/// How far a cluster is, as this process has seen it: shared by the store that writes and those that read from replicas.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    cluster: Option<Cluster>,
    /// The last commit that was acknowledged to this process.
    written: Option<Position>,
    /// When another one was, and nobody said where it ended.
    unplaced: Option<Instant>,
    /// Where the primary was, and when it was first seen there; the oldest first.
    passed: VecDeque<(Instant, Position)>,
}

impl Progress {
    /// Of a cluster that was known before this process began.
    #[must_use]
    pub fn of(cluster: Option<Cluster>) -> Self {
        Self { known: Arc::new(Mutex::new(Known { cluster, ..Known::default() })) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds what is known of the cluster")
    }

    /// The cluster, once its primary was seen.
    #[must_use]
    pub fn cluster(&self) -> Option<Cluster> {
        self.known().cluster
    }

    /// Where the last commit ended that was acknowledged to this process.
    ///
    /// # Errors
    /// Nobody knows it, until the primary is seen again.
    pub fn written(&self) -> Result<Option<Position>, Unplaced> {
        let known = self.known();
        if known.unplaced.is_some() { Err(Unplaced) } else { Ok(known.written) }
    }

    /// A commit was acknowledged, and ended there as far as anybody said.
    pub(crate) fn wrote(&self, position: Option<Position>, now: Instant) {
        let mut known = self.known();
        if position.is_none() {
            known.unplaced = Some(now);
        }
        known.written = known.written.max(position);
    }

    /// Takes what a primary said when it was asked at `at` for the truth: its state was judged and taken. Says what is new about the cluster,
    /// to be remembered.
    pub fn believe(&self, seen: &Sighting, at: Instant) -> Option<Cluster> {
        let mut known = self.known();
        let before = known.cluster;
        if before.is_some_and(|before| before.system != seen.cluster.system) {
            // A restored backup in a cluster of its own: places of the other one mean nothing here.
            *known = Known::default();
        }
        // An old primary that came back is no reason to believe its replicas again.
        if known.cluster.is_none_or(|cluster| cluster.timeline < seen.cluster.timeline) {
            known.cluster = Some(seen.cluster);
        }
        let position = seen.position();
        // Whatever was acknowledged before is not behind it.
        if known.unplaced.take_if(|since| *since < at).is_some() {
            known.written = known.written.max(Some(position));
        }
        match known.passed.back_mut() {
            Some((_, last)) if *last >= position => {}
            Some((since, last)) if at.saturating_duration_since(*since) < APART => *last = position,
            _ => known.passed.push_back((at, position)),
        }
        if known.passed.len() > REMEMBERED {
            known.passed.pop_front();
        }
        known.cluster.filter(|cluster| before != Some(*cluster))
    }

    /// For how long a server has not had something that its primary had: nothing when it has all that the primary was ever
    /// seen to have. Unknown before a primary was seen.
    #[must_use]
    pub fn lag(&self, seen: &Sighting, now: Instant) -> Option<Duration> {
        let known = self.known();
        known.passed.back()?;
        let missing = known.passed.iter().find(|(_, position)| *position > seen.position());
        Some(missing.map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since)))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any time will do to count from")]
mod tests {
    use super::*;

    fn seen(timeline: u32, lsn: &str) -> Sighting {
        Sighting { cluster: Cluster { system: 7, timeline }, lsn: lsn.parse().expect("a place"), age: None }
    }

    #[test]
    fn a_place_is_read_and_said_as_the_server_says_it() {
        for text in ["0/0", "0/3031068", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().map(|lsn| lsn.to_string()), Ok(text.to_owned()));
        }
        let place = |text: &str| text.parse::<Lsn>().expect("a place");
        assert!(place("1/0") > place("0/FFFFFFFF"));
        for wrong in ["", "1", "1/", "x/1", "1/100000000", "-1/1"] {
            assert_eq!(wrong.parse::<Lsn>(), Err(LsnError), "{wrong}");
        }
    }

    #[test]
    fn a_lag_is_how_long_ago_the_primary_had_what_is_missing() {
        let progress = Progress::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(progress.lag(&seen(1, "0/100"), at(0)), None, "no primary was seen");
        assert_eq!(progress.believe(&seen(1, "0/100"), at(0)), Some(Cluster { system: 7, timeline: 1 }));
        assert_eq!(progress.believe(&seen(1, "0/100"), at(50)), None);
        assert_eq!(
            progress.lag(&seen(1, "0/100"), at(99)),
            Some(Duration::ZERO),
            "nothing was written since"
        );
        progress.believe(&seen(1, "0/200"), at(100));
        progress.believe(&seen(1, "0/300"), at(110));
        let lag = |lsn: &str| progress.lag(&seen(1, lsn), at(130)).map(|lag| lag.as_secs());
        assert_eq!((lag("0/80"), lag("0/100"), lag("0/200")), (Some(130), Some(30), Some(20)));
        assert_eq!((lag("0/300"), lag("0/400")), (Some(0), Some(0)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_reaches_back_for_two_minutes() {
        let progress = Progress::default();
        let start = Instant::now();
        for number in 0..10_000_u32 {
            let at = start + Duration::from_millis(50) * number;
            progress.believe(&seen(1, &format!("0/{:X}", number + 1)), at);
        }
        assert_eq!(progress.known().passed.len(), REMEMBERED);
        let lag = progress.lag(&seen(1, "0/0"), start + Duration::from_secs(500)).expect("a lag");
        assert!(lag > Duration::from_secs(120), "{lag:?}");
    }

    #[test]
    fn an_old_primary_that_comes_back_takes_no_timeline_away_and_another_cluster_begins_anew() {
        let progress = Progress::of(Some(Cluster { system: 7, timeline: 2 }));
        let now = Instant::now();
        assert_eq!(progress.believe(&seen(1, "0/900"), now), None);
        assert_eq!(progress.cluster(), Some(Cluster { system: 7, timeline: 2 }));
        progress.wrote(Some(Position { timeline: 2, lsn: "0/950".parse().expect("a place") }), now);
        let other = Sighting { cluster: Cluster { system: 8, timeline: 1 }, ..seen(1, "0/10") };
        assert_eq!(progress.believe(&other, now), Some(other.cluster));
        assert_eq!((progress.cluster(), progress.written()), (Some(other.cluster), Ok(None)));
    }

    #[test]
    fn a_commit_whose_place_nobody_said_is_before_the_next_place_of_the_primary() {
        let progress = Progress::default();
        let asked = Instant::now();
        let at = |seconds: u64| asked + Duration::from_secs(seconds);
        progress.wrote(None, at(1));
        progress.believe(&seen(1, "0/60"), at(0));
        assert_eq!(progress.written(), Err(Unplaced), "the primary was asked before");
        progress.believe(&seen(1, "0/70"), at(2));
        assert_eq!(progress.written(), Ok(Some(seen(1, "0/70").position())));
    }
}
