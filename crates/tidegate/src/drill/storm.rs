//! `reconnect-storm`: a PoP dies and comes back, and every client comes at once; then the controller does.

use super::{
    api::Writes,
    run::{Databases, Needs, Phase, Run, Sample, Weather},
};
use crate::demo::stage::PopProcess;
use load::{Order, Waits};
use std::time::Duration;

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::No, databases: Databases::File };

/// Down for this long: longer than any client waits before it tries again.
const DOWN: Duration = Duration::from_secs(5);
/// A reset, a handshake and what a busy machine adds: few clients are not back sooner.
const LEAST: Duration = Duration::from_secs(5);
/// Fewer that come say nothing of a rate: by chance alone, the slowest fifth of a perfectly even return of 2,000 has less than
/// 90 % of the fastest one's rate in three of five runs, of 10,000 in one of fifty.
const ENOUGH: f64 = 10_000.0;
/// Nothing shorter than that is a queue: below it two medians of one machine differ by as much.
const NOTHING: Duration = Duration::from_millis(10);

const NORMAL: &str = "as always";
const STORM: &str = "the PoP is back, and everybody notices at once";

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let (held, flows) = (run.crowd.held, run.crowd.flows);
    let relayed = (flows / 2).max(1);
    run.enter("the networks of half of the running connections let only PoPs through", Weather::Fair);
    let apart = run.divide_cores()?;
    run.clients.order(Order::Relay { from: 0, to: relayed }).await?;
    run.go_on(Duration::from_secs(5)).await?;
    let ready = run.until_answered(Duration::from_secs(30)).await?;
    anyhow::ensure!(
        ready,
        "the running connections by relay are not all answered within 30 s, before any fault"
    );

    run.enter(NORMAL, Weather::Fair);
    run.go_on(run.part(0.2)).await?;
    let before = run.costs().await;

    run.enter("the PoP is killed", Weather::Fault);
    let pop = run.stage.pops().first_mut().map(PopProcess::role);
    pop.transpose()?.ok_or_else(|| anyhow::anyhow!("the stage has a PoP"))?.kill().await?;
    run.go_on(DOWN).await?;
    run.enter("the PoP is back", Weather::Fault);
    run.stage.start_pop(0).await?;
    run.divide_cores()?;
    let answered = run.until_answered(Duration::from_secs(30)).await?;
    // Some of those who have nothing to send have heard of it by now.
    let early: u64 = run.phases.iter().rev().take(2).map(|phase| phase.clients.registered).sum();

    run.enter(STORM, Weather::Fault);
    let began = run.elapsed_s();
    run.clients.order(Order::Notice { from: 0, to: held }).await?;
    let admit = u32::try_from(pop::core::sessions::limits::ADMIT_PER_SECOND).unwrap_or(u32::MAX);
    let allowed = Duration::from_secs_f64(1.5 * held as f64 / f64::from(admit)).max(LEAST);
    // The PoP has forgotten everybody: each of them has to register anew.
    let all = u64::try_from(held)?.saturating_sub(early);
    let back = run
        .until(allowed * 2 + Duration::from_secs(60), |phase| {
            phase.clients.registered >= all && phase.clients.up >= held
        })
        .await?;
    let open = run.until(Duration::from_secs(30), |phase| phase.clients.flows_open >= flows).await?;
    let rates = rates(&run.samples, began);
    run.enter("everybody is back", Weather::Fair);
    run.go_on(run.part(0.1)).await?;
    let after = run.costs().await;

    run.enter("the controller is killed", Weather::Fault);
    run.stage.kill_controller().await?;
    run.go_on(run.part(0.2)).await?;
    run.enter("the controller is back", Weather::Fair);
    run.stage.start_controller().await?;
    run.go_on(run.part(0.2)).await?;

    let text = back.map_or(format!("not within {} s", (allowed * 2).as_secs() + 60), |took| {
        format!("{:.1} s for {held}", took.as_secs_f64())
    });
    let to_reach =
        format!("≤ {:.1} s (1.5 × clients ÷ {admit} a second, at least 5 s)", allowed.as_secs_f64());
    run.level(
        "everybody is registered again after the PoP's death",
        &to_reach,
        text,
        back.is_some_and(|took| took <= allowed),
    );
    match rates {
        Some((least, most)) => run.level(
            "registrations a second in the slowest fifth of the storm's middle, of those in the fastest",
            "≥ 90 %",
            format!("{:.0} % ({least:.0} and {most:.0} a second)", 100.0 * least / most),
            least >= 0.9 * most,
        ),
        None => run.remarks.push(format!(
            "How evenly they came back is judged from {ENOUGH:.0} of them on: run it with --clients {:.0}.",
            1.3 * ENOUGH
        )),
    }
    let cut = run.seen(|_| true).cut();
    let whole = open.is_some() && answered;
    let text = format!("{cut} cut{}", if whole { "" } else { "; not all answered again" });
    run.level("running connections cut", "0", text, cut == 0 && whole);
    relays(run, apart);
    let reconnects: u64 = run
        .phases
        .iter()
        .filter(|phase| phase.name.starts_with("the controller"))
        .map(|phase| phase.clients.registered + phase.clients.lost.values().sum::<u64>())
        .sum();
    run.level(
        "sessions lost or made because of the controller's death",
        "0",
        reconnects.to_string(),
        reconnects == 0,
    );
    again(run);
    let text = match (before, after) {
        (Some(before), Some(after)) => format!(
            "{} and {}",
            after.statements.saturating_sub(before.statements),
            after.rows.saturating_sub(before.rows)
        ),
        _ => "the controller did not say".to_owned(),
    };
    run.level(
        "database statements caused by the storm, and rows written",
        "0 and 0",
        text,
        before.is_some() && before == after,
    );
    Ok(())
}

/// How much was sent once more.
fn again(run: &mut Run<'_>) {
    // Who dials while nobody is there dials again: that is of the death, and not of the storm.
    let of_the_storm = |phase: &&Phase| phase.name.starts_with("the PoP is back");
    let (mut dials, mut made) = (0, 0);
    for phase in run.phases.iter().filter(of_the_storm) {
        dials += phase.clients.dials;
        made += phase.clients.registered;
    }
    let share = |again: u64, first: u64| 100.0 * again as f64 / first.max(1) as f64;
    let redialled = share(dials.saturating_sub(made), made);
    run.level(
        "sessions dialled again in the storm, of those that were made",
        "≤ 10 %",
        format!("{redialled:.1} % ({dials} dialled for {made} made)"),
        redialled <= 10.0,
    );
    // Ten requests earn one that is sent again: of the drill as a whole.
    let clients = || run.phases.iter().map(|phase| &phase.clients);
    let requests: u64 = clients().map(|clients| clients.requests).sum();
    let retries: u64 = clients().map(|clients| clients.retries).sum();
    run.remarks.push(format!(
        "Requests to the controller that were sent again, while the PoP was away and since: {:.1} % ({retries} of {requests}; devices of a drill renew every 20 s).",
        share(retries, requests)
    ));
}

/// What the storm does to connections that go by the PoP.
fn relays(run: &mut Run<'_>, apart: bool) {
    let waits = |name: &str| {
        let mut waits = Waits::default();
        for phase in run.phases.iter().filter(|phase| phase.name == name) {
            waits.join(&phase.clients.relayed_waits);
        }
        (waits.quantile(0.99), waits.count())
    };
    let ((normal, some), (storm, many)) = (waits(NORMAL), waits(STORM));
    let ms = |wait: Option<Duration>| {
        wait.map_or("none".to_owned(), |wait| format!("{:.1} ms", wait.as_secs_f64() * 1e3))
    };
    let text = format!("{} of {many}, and {} of {some} before", ms(storm), ms(normal));
    if apart {
        run.level(
            "what 99 of 100 answers by relay take in the storm, the PoP on a core of its own",
            "≤ 2 × what they take before it, or ≤ 10 ms",
            text,
            normal.zip(storm).is_some_and(|(normal, storm)| storm <= (normal * 2).max(NOTHING)),
        );
    } else {
        run.remarks.push(format!(
            "Answers by relay, 99 of 100, on a machine with one core, which the PoP shares with its clients: {text}."
        ));
    }
}

/// Registrations a second in the slowest and in the fastest fifth of the time in which the middle 90 % of them came; none
/// when too few came to say.
fn rates(samples: &[Sample], from_s: f64) -> Option<(f64, f64)> {
    // How many had come at which time.
    let mut curve = vec![(from_s, 0.0)];
    let (mut at, mut sum) = (from_s, 0.0);
    for sample in samples.iter().filter(|sample| sample.at_s > from_s) {
        sum += sample.values.get("registered_per_s").copied().unwrap_or_default() * (sample.at_s - at);
        at = sample.at_s;
        curve.push((at, sum));
    }
    if sum < ENOUGH {
        return None;
    }
    let when = |count: f64| {
        let pair = curve.windows(2).find(|pair| pair[1].1 >= count)?;
        let [(t0, n0), (t1, n1)] = [pair[0], pair[1]];
        Some(if n1 > n0 { t0 + (t1 - t0) * (count - n0) / (n1 - n0) } else { t1 })
    };
    let came = |at: f64| {
        let pair = curve.windows(2).find(|pair| pair[1].0 >= at).or(curve.windows(2).last());
        pair.map_or(0.0, |pair| {
            let [(t0, n0), (t1, n1)] = [pair[0], pair[1]];
            n0 + (n1 - n0) * ((at - t0) / (t1 - t0).max(1e-9)).clamp(0.0, 1.0)
        })
    };
    let (first, last) = (when(0.05 * sum)?, when(0.95 * sum)?);
    let fifth = (last - first) / 5.0;
    let rates = (0..5).map(|n| {
        let from = first + fifth * f64::from(n);
        (came(from + fifth) - came(from)) / fifth
    });
    let rates: Vec<f64> = rates.collect();
    Some((rates.iter().copied().fold(f64::INFINITY, f64::min), rates.iter().copied().fold(0.0, f64::max)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A sample every three seconds, with so many a second.
    fn samples(rates: &[f64]) -> Vec<Sample> {
        let sample = |(index, rate): (usize, &f64)| Sample {
            at_s: 10.0 + 3.0 * (index as f64 + 1.0),
            values: BTreeMap::from([("registered_per_s", *rate)]),
        };
        rates.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn an_even_return_has_one_rate_and_one_that_stands_still_has_not() {
        let even = [0.0, 500.0, 500.0, 500.0, 500.0, 500.0, 500.0, 500.0, 500.0, 500.0, 500.0, 0.0, 0.0];
        let (least, most) = rates(&samples(&even), 10.0).unwrap();
        assert!((least - 500.0).abs() < 1.0 && (most - 500.0).abs() < 1.0, "{least} {most}");
        let mut stalls = even;
        stalls[5..8].fill(50.0);
        stalls[8..10].fill(1_000.0);
        let (least, most) = rates(&samples(&stalls), 10.0).unwrap();
        assert!(least < 0.3 * most, "{least} {most}");
        assert_eq!(rates(&samples(&even[..6]), 10.0), None, "too few to say");
    }
}
