//! Who has the places of the TCP port, and who gives one up when all are taken.
//!
//! A connection is unproven until a session on it is registered; one to the console stays so. When every place is
//! taken, a new connection gets that of the oldest unproven one of the source that has most of them, as long as that
//! source has more than the newcomer's: two addresses that hold every place keep nobody out.

use super::streams::source_of;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Connections from one address, and from one /64, whatever they have said: an office behind one NAT.
pub(super) const PER_SOURCE: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Number(u64);

#[derive(Debug, Default)]
struct Source {
    open: usize,
    unproven: BTreeMap<Number, oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Table {
    /// Places taken, those given up among them until their connections are closed.
    open: usize,
    given_up: BTreeSet<Number>,
    last: u64,
    sources: BTreeMap<IpAddr, Source>,
}

/// The places: as many entries as connections at most.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    table: Mutex<Table>,
}

/// Why a connection gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// Its source has its share.
    Share,
    /// Every place is taken by somebody who has it with more right.
    Full,
}

impl Places {
    /// At most `most` at once.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, table: Mutex::default() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection that was just accepted, by where it comes from.
    pub(super) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<Place, NoPlace> {
        let source = source_of(peer.ip());
        let mut table = self.table();
        if table.sources.get(&source).is_some_and(|of_source| of_source.open >= PER_SOURCE) {
            return Err(NoPlace::Share);
        }
        if table.open - table.given_up.len() >= self.most {
            let own = table.sources.get(&source).map_or(0, |of_source| of_source.unproven.len());
            let most = table.sources.values_mut().max_by_key(|of_source| of_source.unproven.len());
            let most = most.filter(|of_source| of_source.unproven.len() > own).ok_or(NoPlace::Full)?;
            let (number, give_up) = most.unproven.pop_first().ok_or(NoPlace::Full)?;
            // Whoever does not listen any more is about to close.
            let _ = give_up.send(());
            table.given_up.insert(number);
        }
        table.last += 1;
        table.open += 1;
        let number = Number(table.last);
        let (give_up, wanted) = oneshot::channel();
        let of_source = table.sources.entry(source).or_default();
        of_source.open += 1;
        of_source.unproven.insert(number, give_up);
        Ok(Place { proof: Proof { places: Arc::clone(self), source, number }, wanted })
    }
}

/// Says of one connection that a session on it is registered.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    places: Arc<Places>,
    source: IpAddr,
    number: Number,
}

impl Proof {
    /// It is, and its place is no longer taken away.
    pub(super) fn is_given(&self) {
        let mut table = self.places.table();
        if let Some(of_source) = table.sources.get_mut(&self.source) {
            of_source.unproven.remove(&self.number);
        }
    }
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    proof: Proof,
    wanted: oneshot::Receiver<()>,
}

impl Place {
    pub(super) fn proof(&self) -> Proof {
        self.proof.clone()
    }

    /// Ends when the place goes to somebody else; never for one that is proven.
    pub(super) async fn wanted(&mut self) {
        if (&mut self.wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Proof { places, source, number } = &self.proof;
        let mut table = places.table();
        table.open -= 1;
        table.given_up.remove(number);
        if let Some(of_source) = table.sources.get_mut(source) {
            of_source.open -= 1;
            of_source.unproven.remove(number);
            if of_source.open == 0 {
                table.sources.remove(source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 40_000))
    }

    fn is_wanted(place: &mut Place) -> bool {
        place.wanted.try_recv().is_ok()
    }

    #[test]
    fn two_sources_that_hold_every_place_make_room_for_a_third() {
        let places = Places::new(8);
        let mut held: Vec<Place> =
            (0..8).map(|number| places.admit(from(number % 2)).expect("a place")).collect();
        let third = places.admit(from(9)).expect("somebody makes room");
        assert_eq!(held.iter_mut().map(is_wanted).collect::<Vec<_>>().iter().filter(|is| **is).count(), 1);
        // Its own place is not the next to go: it has fewer than they.
        let mut third = third;
        let _fourth = places.admit(from(10)).expect("somebody makes room");
        assert!(!is_wanted(&mut third));
    }

    #[test]
    fn the_oldest_of_the_source_with_most_goes_first() {
        let places = Places::new(3);
        let mut alone = places.admit(from(1)).expect("a place");
        let mut older = places.admit(from(2)).expect("a place");
        let mut newer = places.admit(from(2)).expect("a place");
        let _new = places.admit(from(3)).expect("a place");
        assert_eq!(
            [is_wanted(&mut alone), is_wanted(&mut older), is_wanted(&mut newer)],
            [false, true, false]
        );
    }

    #[test]
    fn a_proven_connection_keeps_its_place_and_a_full_port_of_them_says_so() {
        let places = Places::new(2);
        let mut first = places.admit(from(1)).expect("a place");
        let mut second = places.admit(from(1)).expect("a place");
        first.proof().is_given();
        second.proof().is_given();
        assert_eq!(places.admit(from(2)).expect_err("no place"), NoPlace::Full);
        assert!(!is_wanted(&mut first) && !is_wanted(&mut second));
        drop(first);
        places.admit(from(2)).expect("one is free");
    }

    #[test]
    fn nobody_takes_a_place_from_those_who_have_no_more_than_himself() {
        let places = Places::new(2);
        let mut first = places.admit(from(1)).expect("a place");
        let mut second = places.admit(from(2)).expect("a place");
        let third = places.admit(from(3)).expect("one of two that have one each, by somebody who has none");
        assert_eq!(usize::from(is_wanted(&mut first)) + usize::from(is_wanted(&mut second)), 1);
        assert_eq!(places.admit(from(3)).expect_err("he has one now"), NoPlace::Full);
        drop(third);
    }

    #[test]
    fn a_source_has_its_share_and_a_place_that_is_dropped_is_free() {
        let places = Places::new(2 * PER_SOURCE);
        let held: Vec<Place> = (0..PER_SOURCE).map(|_| places.admit(from(1)).expect("a place")).collect();
        assert_eq!(places.admit(from(1)).expect_err("its share"), NoPlace::Share);
        drop(held);
        let table = places.table();
        assert_eq!((table.open, table.given_up.len(), table.sources.len()), (0, 0, 0));
    }
}
