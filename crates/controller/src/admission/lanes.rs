//! Who is served next: a lane for each class, with places, a queue of bounded length and time, and a fair share of it for
//! each organization.
//!
//! Sans-IO: time is given, and whoever waits is a number.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};
use wire::OrganizationId;

/// What a request is to the controller, the most important first. Each class has places of its own, so that none of them
/// waits for another. Who signs in is in none of them: passphrases and providers have limits of their own, in which known
/// browsers do not stand behind strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    /// Takes access away: strikes, and what is removed, blocked or archived. (Beacons, and what agents ask through PoPs,
    /// are not requests of this API: the task that sends them runs apart from all of these.)
    Strikes,
    /// Devices, connectors and PoPs that enrol.
    Enrolment,
    /// One change of the configuration.
    Changes,
    /// From memory: the API's reads, and the console's pages.
    Reads,
    /// Many changes in one request.
    Bulk,
    /// Logs, as pages and as lines: from the database or the disk.
    Exports,
}

impl Class {
    pub(crate) const ALL: [Self; 6] =
        [Self::Strikes, Self::Enrolment, Self::Changes, Self::Reads, Self::Bulk, Self::Exports];

    /// How it is called in problems and metrics.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Strikes => "strikes",
            Self::Enrolment => "enrolment",
            Self::Changes => "changes",
            Self::Reads => "reads",
            Self::Bulk => "bulk",
            Self::Exports => "exports",
        }
    }

    /// What it has, on a machine with so many cores.
    ///
    /// Reads are work for a core and nothing else: more at once make each of them, and everything beside, wait longer.
    /// Changes and strikes wait for a disk, a database or a PoP most of their time.
    pub(crate) fn room(self, cores: usize) -> Room {
        let cores = cores.max(1);
        let (places, waiting, patience) = match self {
            Self::Strikes => (256, 1024, 5_000),
            Self::Enrolment => (32, 1024, 5_000),
            Self::Changes => (64, 512, 2_000),
            Self::Reads => (2 * cores, 1024, 1_000),
            Self::Bulk => (4, 32, 5_000),
            Self::Exports => (2 * cores, 128, 2_000),
        };
        Room { places, waiting, patience: Duration::from_millis(patience) }
    }
}

/// How much a class has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Requests that are served at once.
    pub(crate) places: usize,
    /// Requests that wait for a place.
    pub(crate) waiting: usize,
    /// How long one may wait.
    pub(crate) patience: Duration,
}

/// One that waits.
pub(crate) type Ticket = u64;

/// Who asks, and shares a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Party {
    /// Somebody of an organization.
    Organization(OrganizationId),
    /// Somebody who is not known yet: an IPv4 address or an IPv6 /64 ([`crate::limiter::party`]).
    Source([u8; 8]),
    /// The host itself.
    Local,
}

/// While somebody has waited longer than this the newest of a party is served first: it is the one whose sender still
/// waits.
const TARGET: Duration = Duration::from_millis(100);
/// What a request takes, before one was seen.
const USUAL: Duration = Duration::from_millis(5);
/// The longest that anybody is sent away for.
const LONGEST_AWAY: Duration = Duration::from_secs(30);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It is served now.
    Go,
    /// It waits until [`Lane::finished`] names it. One of a party that has more of the queue went out for it.
    Wait {
        /// Its number.
        ticket: Ticket,
        /// Who does not wait any more.
        out: Option<(Ticket, Full)>,
    },
    /// There is no room.
    Full(Full),
}

/// A request that is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// After this there would be room, as things are.
    pub(crate) retry_after: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    ticket: Ticket,
    since: Instant,
}

#[derive(Debug, Default)]
struct Share {
    waiting: VecDeque<Waiting>,
    running: usize,
    /// What its requests took, since it came among those that share.
    used: Duration,
}

/// What a class did, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Served at once.
    pub(crate) at_once: u64,
    /// Served after they waited.
    pub(crate) waited: u64,
    /// Sent away.
    pub(crate) sent_away: u64,
    /// Waited, and nobody was there any more for the answer.
    pub(crate) gone: u64,
}

/// A class and who waits for it.
#[derive(Debug)]
pub(crate) struct Lane {
    room: Room,
    running: usize,
    waiting: usize,
    next: Ticket,
    shares: BTreeMap<Party, Share>,
    /// Where a party begins that comes now: nobody saves up for later by being away.
    level: Duration,
    /// What a request takes, on the average of late.
    took: Duration,
    counts: Counts,
}

impl Lane {
    pub(crate) const fn new(room: Room) -> Self {
        Self {
            room,
            running: 0,
            waiting: 0,
            next: 0,
            shares: BTreeMap::new(),
            level: Duration::ZERO,
            took: USUAL,
            counts: Counts { at_once: 0, waited: 0, sent_away: 0, gone: 0 },
        }
    }

    pub(crate) const fn room(&self) -> Room {
        self.room
    }

    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Served now, and waiting.
    pub(crate) const fn load(&self) -> (usize, usize) {
        (self.running, self.waiting)
    }

    /// How long one more of a party would wait: behind all, or behind its own where others have their turns between.
    fn expected(&self, party: Party) -> Duration {
        let own = self.shares.get(&party).map_or(0, |share| share.waiting.len());
        let parties = self.shares.values().filter(|share| !share.waiting.is_empty()).count();
        let parties = parties + usize::from(own == 0);
        let ahead = (self.waiting + 1).min((own + 1).saturating_mul(parties));
        let places = u32::try_from(self.room.places).unwrap_or(u32::MAX).max(1);
        self.took.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX)) / places
    }

    fn full(&mut self, party: Party) -> Full {
        self.counts.sent_away += 1;
        Full { retry_after: self.expected(party).clamp(Duration::from_secs(1), LONGEST_AWAY) }
    }

    /// A request comes.
    pub(crate) fn asks(&mut self, party: Party, now: Instant) -> Asked {
        if self.running < self.room.places && self.waiting == 0 {
            self.running += 1;
            self.share(party).running += 1;
            self.counts.at_once += 1;
            return Asked::Go;
        }
        if self.expected(party) > self.room.patience {
            return Asked::Full(self.full(party));
        }
        let mut out = None;
        if self.waiting >= self.room.waiting {
            out = self.push_out(party);
            if out.is_none() {
                return Asked::Full(self.full(party));
            }
        }
        let ticket = self.next;
        self.next += 1;
        self.waiting += 1;
        self.share(party).waiting.push_back(Waiting { ticket, since: now });
        Asked::Wait { ticket, out }
    }

    /// Makes room for a party in a full queue, where another one has more of it: its oldest goes, whose sender is the
    /// nearest to giving up.
    fn push_out(&mut self, party: Party) -> Option<(Ticket, Full)> {
        let own = self.shares.get(&party).map_or(0, |share| share.waiting.len());
        let (most, share) = self.shares.iter_mut().max_by_key(|(_, share)| share.waiting.len())?;
        if share.waiting.len() <= own + 1 {
            return None;
        }
        let (most, oldest) = (*most, share.waiting.pop_front()?);
        self.waiting -= 1;
        Some((oldest.ticket, self.full(most)))
    }

    /// One that was served is over, after so long. Says who is served now in its place.
    pub(crate) fn finished(&mut self, party: Party, took: Duration, now: Instant) -> Option<Ticket> {
        self.running = self.running.saturating_sub(1);
        // Sixteen requests are what is of late.
        self.took = (self.took * 15 + took) / 16;
        if let Some(share) = self.shares.get_mut(&party) {
            share.running = share.running.saturating_sub(1);
            share.used += took;
        }
        let next = self.next(now);
        self.settle(party);
        next
    }

    /// Who is served next, if there is a place: of the party that had least.
    fn next(&mut self, now: Instant) -> Option<Ticket> {
        if self.running >= self.room.places {
            return None;
        }
        let usual = self.took;
        let had = |share: &Share| {
            share.used + usual.saturating_mul(u32::try_from(share.running).unwrap_or(u32::MAX))
        };
        let waits = self.shares.values_mut().filter(|share| !share.waiting.is_empty());
        let share = waits.min_by_key(|share| had(share))?;
        let is_late =
            share.waiting.front().is_some_and(|oldest| now.saturating_duration_since(oldest.since) > TARGET);
        let chosen = if is_late { share.waiting.pop_back() } else { share.waiting.pop_front() }?;
        share.running += 1;
        self.level = self.level.max(share.used);
        self.running += 1;
        self.waiting -= 1;
        self.counts.waited += 1;
        Some(chosen.ticket)
    }

    /// Somebody has waited for too long. `None`: it was named already.
    pub(crate) fn given_up(&mut self, party: Party, ticket: Ticket) -> Option<Full> {
        self.out_of_line(party, ticket).then(|| self.full(party))
    }

    /// Nobody is there any more for the answer. Says whether it still waited.
    pub(crate) fn gone(&mut self, party: Party, ticket: Ticket) -> bool {
        let waited = self.out_of_line(party, ticket);
        self.counts.gone += u64::from(waited);
        waited
    }

    fn out_of_line(&mut self, party: Party, ticket: Ticket) -> bool {
        let Some(share) = self.shares.get_mut(&party) else { return false };
        let Some(place) = share.waiting.iter().position(|one| one.ticket == ticket) else { return false };
        share.waiting.remove(place);
        self.waiting -= 1;
        self.settle(party);
        true
    }

    fn share(&mut self, party: Party) -> &mut Share {
        let level = self.level;
        self.shares.entry(party).or_insert_with(|| Share { used: level, ..Share::default() })
    }

    fn settle(&mut self, party: Party) {
        if self.shares.get(&party).is_some_and(|share| share.running == 0 && share.waiting.is_empty()) {
            self.shares.remove(&party);
        }
    }
}
