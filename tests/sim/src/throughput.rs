//! How fast virtual time passes: one connector and three clients behind translators, a packet a second each, each
//! client somewhere else once an hour.
#![expect(clippy::disallowed_methods, reason = "it measures by the real clock")]

use crate::fast::{Echo, Part, Place, Program, Record, Site, World};
use crate::world::{LinkRules, Time};
use std::time::Instant;

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Virtual minutes.
    pub minutes: f64,
    /// Real seconds.
    pub seconds: f64,
    /// Of these, seconds in which this thread had a processor: what it takes when nobody else wants one.
    pub processor: f64,
    /// Data packets that arrived.
    pub arrived: u64,
}

/// Runs for so many virtual hours, on the calling thread alone.
#[must_use]
pub fn measure(echo: Echo, hours: u64) -> Figure {
    let (began, had) = (Instant::now(), processor_time());
    let mut world = World::new(1, Record::Counts);
    let link = LinkRules::of_delay(Time::from_millis(10));
    let connector_at = Site::build(&mut world.net, Place::Home, 1, link).address();
    let connector = world.add(Part::Connector, &connector_at);
    world.with(connector, |agent, _| agent.echo = echo);
    world.run_for(Time::from_secs(1));
    let mut sites: Vec<[Site; 2]> = Vec::new();
    for number in 0..3_u8 {
        let mut pair =
            [10 + number, 20 + number].map(|number| Site::build(&mut world.net, Place::Home, number, link));
        let client = world.add(Part::Client, &pair[0].address());
        sites.push(pair);
        world.with(client, |agent, now| {
            agent.want(now, connector);
            agent.set_program(now, Program { every: Some(Time::from_secs(1)) });
        });
    }
    for hour in 1..=hours {
        // A third of an hour apart.
        for (client, pair) in (connector + 1..).zip(&mut sites) {
            world.run_for(Time::from_secs(1_200));
            let at = pair[usize::try_from(hour % 2).expect("0 or 1")].address();
            world.roam(client, &at);
        }
    }
    let arrived = (0..world.len()).map(|agent| world.agent(agent).experience.came).sum();
    let (seconds, processor) = (began.elapsed().as_secs_f64(), processor_time() - had);
    Figure { minutes: world.now().as_secs_f64() / 60.0, seconds, processor, arrived }
}

/// For how many seconds this thread has run, as Linux counts it.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_ascii_whitespace().next().and_then(|field| field.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e9
}
