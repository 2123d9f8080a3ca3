//! Overload control: each class of requests has places of its own, and who finds none waits a bounded while or is told when
//! to come back.
//!
//! What agents ask through PoPs, beacons and the spreading of strikes are not requests of this API; they run apart from it
//! ([`crate::server`] has a runtime of its own), and no class here can take their turn.

mod lanes;
#[cfg(test)]
mod tests;

pub(crate) use lanes::{Class, Full, Party};

use crate::{api::types::RequestsStatus, clock};
use lanes::{Asked, Counts, Lane, Ticket};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

#[derive(Debug)]
struct Waiters {
    lane: Lane,
    /// Who is told what became of a ticket.
    waiting: BTreeMap<Ticket, oneshot::Sender<Option<Full>>>,
}

/// All classes.
#[derive(Debug)]
pub(crate) struct Admission {
    lanes: [Mutex<Waiters>; Class::ALL.len()],
}

/// A place that was given; dropped, it is the next one's.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    class: Class,
    party: Party,
    since: Instant,
}

/// Somebody waits. Dropped before an answer came, nobody waits any more, and a place that was given meanwhile goes on.
struct Waits {
    admission: Arc<Admission>,
    class: Class,
    party: Party,
    ticket: Ticket,
    told: oneshot::Receiver<Option<Full>>,
    is_over: bool,
}

impl Admission {
    /// For a machine with so many cores.
    pub(crate) fn new(cores: usize) -> Arc<Self> {
        Arc::new(Self::with(|class| class.room(cores)))
    }

    fn with(room: impl Fn(Class) -> lanes::Room) -> Self {
        let lanes = Class::ALL
            .map(|class| Mutex::new(Waiters { lane: Lane::new(room(class)), waiting: BTreeMap::new() }));
        Self { lanes }
    }

    fn lane(&self, class: Class) -> MutexGuard<'_, Waiters> {
        self.lanes[class as usize].lock().expect("nothing panics while it holds a lane")
    }

    /// Takes a place, at once or after a while.
    ///
    /// # Errors
    /// There is none within the time that a request of this class waits.
    pub(crate) async fn enter(self: &Arc<Self>, class: Class, party: Party) -> Result<Place, Full> {
        let (mut waits, patience) = {
            let mut waiters = self.lane(class);
            match waiters.lane.asks(party, clock::now()) {
                Asked::Go => return Ok(self.place(class, party)),
                Asked::Full(full) => return Err(full),
                Asked::Wait { ticket, out } => {
                    if let Some((out, full)) = out
                        && let Some(sender) = waiters.waiting.remove(&out)
                    {
                        let _ = sender.send(Some(full));
                    }
                    let (sender, told) = oneshot::channel();
                    waiters.waiting.insert(ticket, sender);
                    let admission = Arc::clone(self);
                    let waits = Waits { admission, class, party, ticket, told, is_over: false };
                    (waits, waiters.lane.room().patience)
                }
            }
        };
        let told = tokio::time::timeout(patience, &mut waits.told).await;
        let told = match told {
            Ok(Ok(told)) => told,
            // In this moment a place may have been given, or somebody else's.
            Ok(Err(_)) | Err(_) => waits.give_up(),
        };
        waits.is_over = true;
        told.map_or_else(|| Ok(self.place(class, party)), Err)
    }

    /// Takes a place for work that has begun already, however long that takes.
    pub(crate) async fn enter_in_the_end(self: &Arc<Self>, class: Class, party: Party) -> Place {
        loop {
            match self.enter(class, party).await {
                Ok(place) => return place,
                Err(full) => tokio::time::sleep(full.retry_after).await,
            }
        }
    }

    fn place(self: &Arc<Self>, class: Class, party: Party) -> Place {
        Place { admission: Arc::clone(self), class, party, since: clock::now() }
    }

    fn leave(&self, class: Class, party: Party, took: Duration) {
        let mut waiters = self.lane(class);
        let next = waiters.lane.finished(party, took, clock::now());
        if let Some(sender) = next.and_then(|next| waiters.waiting.remove(&next)) {
            // Whoever goes away in this moment passes the place on ([`Waits`]).
            let _ = sender.send(None);
        }
    }

    /// What each class does now, by its name.
    pub(crate) fn load(&self) -> BTreeMap<&'static str, RequestsStatus> {
        Class::ALL
            .into_iter()
            .map(|class| {
                let lane = &self.lane(class).lane;
                let (served, waiting) = lane.load();
                let Counts { at_once, waited, sent_away, gone } = lane.counts();
                (class.word(), RequestsStatus { served, waiting, at_once, waited, sent_away, gone })
            })
            .collect()
    }
}

impl Waits {
    /// `None`: a place was given in this moment.
    fn give_up(&mut self) -> Option<Full> {
        let mut waiters = self.admission.lane(self.class);
        waiters.waiting.remove(&self.ticket);
        // Whoever is not in line any more was told what became of it while the lane was held.
        waiters.lane.given_up(self.party, self.ticket).or_else(|| self.told.try_recv().ok().flatten())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut waiters = self.admission.lane(self.class);
        waiters.waiting.remove(&self.ticket);
        let waited = waiters.lane.gone(self.party, self.ticket);
        drop(waiters);
        // A place that was given and not taken goes on; who was sent away had none.
        if !waited && matches!(self.told.try_recv(), Ok(None)) {
            self.admission.leave(self.class, self.party, Duration::ZERO);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let took = clock::now().saturating_duration_since(self.since);
        self.admission.leave(self.class, self.party, took);
    }
}
