//! What a long outage came to: sums, pass levels, and docs/outage-long.md.

use super::{
    document::machine,
    long::{Crowd, Cure},
};
use crate::process::Interrupt;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

/// A first byte that comes later than this is as good as none (guarantees).
const IN_TIME_MS: u64 = 5_000;
/// A running connection that waits longer for an answer hangs: it neither goes on nor ends.
const HANGS_MS: u64 = 15_000;
/// A connector that was killed is back within this.
const CONNECTOR_BACK: Duration = Duration::from_secs(5);
/// At least this many of a thousand.
const MOST: u64 = 999;

/// Everything that was seen in the outage.
#[derive(Debug, Default)]
pub struct Tally {
    /// How long it was.
    pub length: Duration,
    /// Sessions of held clients that were lost, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Sessions of held clients that were made.
    pub registered: u64,
    /// Connections cut while no connector had just been killed, and those that were cut because one had.
    pub cut: u64,
    /// See [`Tally::cut`].
    pub cut_with_connector: u64,
    /// Lines that were answered.
    pub answered: u64,
    /// The longest that one was waited for outside a connector's restart, in milliseconds.
    pub longest_ms: u64,
    /// Milliseconds from a client's start from its disk to the first byte of its new connection.
    pub first_bytes: Vec<u64>,
    /// Why visits failed.
    pub failed_visits: BTreeMap<String, u64>,
    /// Changes of network.
    pub roamed: u64,
    /// Of these, connections that were cut before that, with their connector.
    pub roams_cut: u64,
    /// Milliseconds from one to the next answer.
    pub roam_answers: Vec<u64>,
    /// Control requests that were sent again.
    pub retries: u64,
    /// Grants that were renewed.
    pub renewed: u64,
    /// From a connector's death to its new session.
    pub connector_restarts: Vec<Duration>,
    /// From a whole client's end to the page of its successor.
    pub client_restarts: Vec<Duration>,
    /// What went wrong otherwise.
    pub failures: Vec<String>,
    /// Sessions and connections now.
    pub up: usize,
    /// See [`Tally::up`].
    pub open: usize,
    /// What `tidegate status` said at the end.
    pub status: Value,
}

impl Tally {
    /// Adds a report of a worker.
    pub fn add(&mut self, report: &Value, in_shadow: bool) {
        let count = |name: &str| report[name].as_u64().unwrap_or(0);
        let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
        for (reason, count) in report["lost"].as_object().into_iter().flatten() {
            *self.lost.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        self.registered += count("registered");
        if in_shadow {
            self.cut_with_connector += count("flows_cut");
        } else {
            self.cut += count("flows_cut");
            self.longest_ms = self.longest_ms.max(report["silences"]["longest_ms"].as_u64().unwrap_or(0));
        }
        self.answered += report["silences"]["answered"].as_u64().unwrap_or(0);
        for visit in list("visits") {
            match (visit["first_byte_ms"].as_u64(), visit["failed"].as_str()) {
                (Some(ms), _) => self.first_bytes.push(ms),
                (None, why) => {
                    *self.failed_visits.entry(why.unwrap_or("unknown").to_owned()).or_default() += 1;
                }
            }
        }
        self.roamed += count("roamed");
        if in_shadow {
            self.roams_cut += count("roams_cut");
        }
        self.roam_answers.extend(list("roam_answers").iter().filter_map(Value::as_u64));
        self.retries += count("retries");
        self.renewed += count("renewed");
    }

    /// Something went wrong that no count has.
    pub fn failed(&mut self, what: String) {
        eprintln!("  {what}");
        self.failures.push(what);
    }

    /// How it is going.
    pub fn line(&self) -> String {
        format!(
            "{} sessions, {} lost; {} connections, {} cut ({} with a connector); {} lines, longest wait {} ms; {} new \
             connections, {} failed; {} of {} roams; {} connector and {} client restarts",
            self.up,
            self.sessions_lost(),
            self.open,
            self.cut,
            self.cut_with_connector,
            self.answered,
            self.longest_ms,
            self.first_bytes.len(),
            self.failed_visits.values().sum::<u64>(),
            self.roam_answers.len(),
            self.roamed,
            self.connector_restarts.len(),
            self.client_restarts.len()
        )
    }

    fn sessions_lost(&self) -> u64 {
        self.lost.values().sum()
    }
}

/// What the verdict needs to know besides.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Running connections.
    pub connections: usize,
}

/// One pass level.
#[derive(Debug)]
pub struct Verdict {
    /// Of what.
    pub what: String,
    /// The level.
    pub to_reach: String,
    /// What was measured.
    pub measured: String,
    /// Whether it is reached.
    pub holds: bool,
}

/// Of a sorted list; 0 of none.
fn percentile(sorted: &[u64], of_thousand: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * of_thousand / 1000).min(last)).copied().unwrap_or(0)
}

fn waits(mut waits: Vec<u64>) -> String {
    waits.sort_unstable();
    format!(
        "p50 {} ms, p99 {} ms, longest {} ms",
        percentile(&waits, 500),
        percentile(&waits, 990),
        waits.last().copied().unwrap_or(0)
    )
}

fn millis(times: &[Duration]) -> Vec<u64> {
    times.iter().map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).collect()
}

/// Whether so many of all are enough, and of nothing nothing is.
fn enough(good: u64, all: u64) -> bool {
    all > 0 && good * 1000 >= all * MOST
}

fn percent(good: u64, all: u64) -> String {
    if all == 0 {
        return "none was tried".to_owned();
    }
    format!("{:.2} % ({good} of {all})", 100.0 * good as f64 / all as f64)
}

fn in_time(times: &[u64]) -> u64 {
    times.iter().filter(|ms| **ms <= IN_TIME_MS).count() as u64
}

impl Verdict {
    fn new(what: &str, to_reach: &str, measured: String, holds: bool) -> Self {
        Self { what: what.to_owned(), to_reach: to_reach.to_owned(), measured, holds }
    }

    /// Every pass level of the long outage.
    pub fn all(tally: &Tally, cure: &Cure, limits: &Limits) -> Vec<Self> {
        let lost = tally.sessions_lost();
        let why: Vec<String> = tally.lost.iter().map(|(why, count)| format!("{count} × {why}")).collect();
        let visits = tally.first_bytes.len() as u64 + tally.failed_visits.values().sum::<u64>();
        let good = in_time(&tally.first_bytes);
        let why_not: Vec<String> =
            tally.failed_visits.iter().map(|(why, count)| format!("; {count} × {why}")).collect();
        let roams = in_time(&tally.roam_answers);
        // A roam whose connection was cut by a connector's death has no answer, and is none of its faults.
        let excused =
            tally.cut_with_connector.min(tally.roamed.saturating_sub(tally.roam_answers.len() as u64));
        let back = tally.connector_restarts.iter().filter(|time| **time <= CONNECTOR_BACK).count();
        let connector_failures = tally.failures.iter().filter(|what| what.starts_with("a connector")).count();
        let client_failures = tally.failures.len() - connector_failures;
        let status = &tally.status;
        vec![
            Self::new("sessions dropped", "0", format!("{lost} {}", why.join(", ")).trim().into(), lost == 0),
            Self::new(
                "running connections cut, without those of a connector that was killed",
                "0",
                format!("{} of {}; {} lines answered", tally.cut, limits.connections, tally.answered),
                tally.cut == 0 && tally.answered > 0,
            ),
            Self::new(
                "longest wait of a running connection for an answer, roams included",
                "≤ 15 s",
                format!("{} ms", tally.longest_ms),
                tally.answered > 0 && tally.longest_ms <= HANGS_MS,
            ),
            Self::new(
                "clients that start from their disk and open a new connection, first byte within 5 s",
                "≥ 99.9 %",
                format!(
                    "{}{}; {}",
                    percent(good, visits),
                    why_not.concat(),
                    waits(tally.first_bytes.clone())
                ),
                enough(good, visits),
            ),
            Self::new(
                "running connections that change their network, next answer within 5 s",
                "≥ 99.9 %",
                format!("{}; {}", percent(roams, tally.roamed - excused), waits(tally.roam_answers.clone())),
                enough(roams, tally.roamed - excused),
            ),
            Self::new(
                "connectors that are killed and start from their disk, session within 5 s",
                "all",
                format!(
                    "{back} of {}; {}",
                    tally.connector_restarts.len() + connector_failures,
                    waits(millis(&tally.connector_restarts))
                ),
                back > 0 && back == tally.connector_restarts.len() && connector_failures == 0,
            ),
            Self::new(
                "`tidegate up` ended and started from its disk, first page within 15 s",
                "all",
                format!(
                    "{} of {}; {}",
                    tally.client_restarts.len(),
                    tally.client_restarts.len() + client_failures,
                    waits(millis(&tally.client_restarts))
                ),
                !tally.client_restarts.is_empty() && client_failures == 0,
            ),
            Self::new(
                "what `tidegate status` says at the end",
                "isolated, and until when access lasts",
                format!("{}, access until {}", status["freshness"], status["access_until"]),
                status["freshness"] == "isolated" && status["access_until"].as_u64().is_some(),
            ),
            Self::new(
                "sessions made anew in the minute after the controller came back",
                "0",
                format!("{}; its ready line after {} ms", cure.registered, cure.ready.as_millis()),
                cure.registered == 0,
            ),
            Self::new(
                "a device struck after the controller came back, its session ends",
                "≤ 5 s",
                cure.struck
                    .map_or_else(|| "it did not".to_owned(), |time| format!("{} ms", time.as_millis())),
                cure.struck.is_some_and(|time| time <= Duration::from_secs(5)),
            ),
        ]
    }
}

/// Writes docs/outage-long.md.
///
/// # Errors
/// The file cannot be written.
pub fn write(
    verdicts: &[Verdict],
    tally: &Tally,
    minutes: f64,
    crowd: Crowd,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut text = format!(
        "# An hour without a controller\n\n\
         Controller killed and its database taken away for {:.1} minutes of real time, with real processes: two PoPs, two\n\
         connectors of one site, {} clients with a session, of which {} have a running connection (a line each 200 ms),\n\
         {} more that start from their disk for one new connection each, and one whole `tidegate up`. A program\n\
         writes this file; what is changed by hand is lost.\n\n\
         Written by `cargo xtask lab long-outage --minutes {minutes} --clients {} --write` on {}.\n\n\
         | | to reach | measured | |\n| --- | --- | --- | --- |\n",
        tally.length.as_secs_f64() / 60.0,
        crowd.held,
        crowd.flows,
        crowd.all - crowd.held,
        crowd.held,
        machine(interrupt)?,
    );
    for verdict in verdicts {
        let word = if verdict.holds { "holds" } else { "**does not hold**" };
        let _ = writeln!(text, "| {} | {} | {} | {word} |", verdict.what, verdict.to_reach, verdict.measured);
    }
    let _ = writeln!(
        text,
        "\nA connector was killed every two minutes, by turns; {} connections that it carried were cut with it and opened\n\
         again through the other one. Control requests sent again in vain by {} clients in that time: {}. Grants\n\
         renewed: {}, since there was nobody to renew them.",
        tally.cut_with_connector, crowd.held, tally.retries, tally.renewed
    );
    for failure in &tally.failures {
        let _ = writeln!(text, "\n- {failure}");
    }
    fs::write(crate::repository().join("docs/outage-long.md"), text).context("docs/outage-long.md")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict<'a>(all: &'a [Verdict], start: &str) -> &'a Verdict {
        all.iter().find(|verdict| verdict.what.starts_with(start)).expect(start)
    }

    #[test]
    fn what_workers_report_is_summed_and_judged() {
        let mut tally = Tally::default();
        tally.add(
            &json!({
                "registered": 1, "flows_cut": 0, "lost": {}, "silences": {"answered": 9, "longest_ms": 30},
                "visits": [{"registered_ms": 2, "first_byte_ms": 8, "failed": null}],
                "roamed": 1, "roam_answers": [70],
            }),
            false,
        );
        let judge = |tally: &Tally| Verdict::all(tally, &Cure::default(), &Limits { connections: 3 });
        let all = judge(&tally);
        for start in
            ["sessions dropped", "running connections cut", "clients that start", "running connections that"]
        {
            assert!(verdict(&all, start).holds, "{:?}", verdict(&all, start));
        }
        // What was never tried does not hold.
        assert!(!verdict(&all, "connectors that").holds && !verdict(&all, "a device struck").holds);
        tally.add(
            &json!({
                "flows_cut": 1, "lost": {"idle": 2}, "roamed": 1, "roam_answers": [],
                "visits": [{"registered_ms": null, "first_byte_ms": null, "failed": "not_registered"}],
            }),
            false,
        );
        let all = judge(&tally);
        for start in
            ["sessions dropped", "running connections cut", "clients that start", "running connections that"]
        {
            assert!(!verdict(&all, start).holds, "{:?}", verdict(&all, start));
        }
        assert!(verdict(&all, "sessions dropped").measured.contains("2 × idle"));
    }
}
