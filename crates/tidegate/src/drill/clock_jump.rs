//! `clock-jump`: the clock of each role jumps in turn, then the whole host sleeps, then every lease is over.

use super::{
    brownout::because,
    clocks::{Clocks, Owner},
    run::{Phase, Run, Visits, Weather},
};
use std::time::Duration;

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const YEARS: i64 = 3_652 * DAY;
const JUMPS: &[(&str, i64)] = &[
    ("5 minutes ahead", 5 * MINUTE),
    ("5 minutes behind", -5 * MINUTE),
    ("a day ahead", DAY),
    ("a day behind", -DAY),
    ("ten years ahead", YEARS),
    ("ten years behind", -YEARS),
];
const NIGHT: Duration = Duration::from_secs(8 * 3600);
/// Longer than the 24 h that a grant lives.
const LEASE_OVER: Duration = Duration::from_secs(25 * 3600);
/// Processes look at their clock's file twenty times a second, clients at their clock once a second.
const NOTICED: Duration = Duration::from_millis(1_500);
/// After a night every session is dead at both ends: a client that has nothing to send learns it at its next keepalive.
const BACK_WITHIN: Duration = Duration::from_secs(45);
/// When a lease has ended, what runs on it is ended within this.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

fn name(owner: Owner, words: &str) -> String {
    format!("{}: {words}", owner.words())
}

/// Runs it.
pub async fn drill(run: &mut Run<'_>, clocks: &Clocks) -> anyhow::Result<()> {
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.1).max(Duration::from_secs(5))).await?;
    let hold = run.part(0.03).max(Duration::from_secs(6));
    let pause = run.part(0.015).max(Duration::from_secs(3));
    let mut fenced = 0;
    for owner in Owner::ALL {
        for (words, by) in JUMPS {
            run.enter(&format!("a jump of {}", owner.words()), Weather::Fault);
            clocks.set(owner, *by, Duration::ZERO)?;
            run.go_on(NOTICED).await?;
            run.enter(&name(owner, words), Weather::Fault);
            run.go_on(hold).await?;
            if owner == Owner::Controller {
                let status: serde_json::Value = run.stage.api().get("/api/v1/status").await?;
                fenced += usize::from(status["not_signing"].is_string());
            }
            run.enter("it is set right", Weather::Fair);
            clocks.set(owner, 0, Duration::ZERO)?;
            run.go_on(pause).await?;
        }
    }
    run.enter("every clock is right", Weather::Fair);
    run.go_on(run.part(0.1).max(Duration::from_secs(10))).await?;
    judge_jumps(run, fenced);
    sleep(run, clocks).await?;
    leases_end(run, clocks).await
}

fn judge_jumps(run: &mut Run<'_>, fenced: usize) {
    let seen = run.seen(|_| true);
    let (lost, cut, visits, failures) = (seen.lost(), seen.cut(), seen.visits(), seen.failures());
    let longest = seen.longest_wait_ms();
    run.level("sessions lost because a clock jumped", "0", lost.to_string(), lost == 0);
    let text = format!("{cut} cut; longest wait for an answer {longest} ms");
    run.level("running connections cut", "0", text, cut == 0);
    let percent = Visits::percent(visits.in_time, visits.all);
    let text = format!("{percent:.2} % ({} of {}){}", visits.in_time, visits.all, because(&failures));
    run.level(
        "new connections while a clock is wrong, first byte within 5 s",
        "≥ 99.9 %",
        text,
        visits.all > 0 && percent >= 99.9,
    );
    let is_controllers = |phase: &Phase| phase.name.starts_with("the controller's clock: ");
    let grants = run.seen(is_controllers).renewed();
    let text = format!("{grants} grants in {} jumps; it said why in {fenced}", JUMPS.len());
    run.level(
        "signed by a controller whose clock jumped",
        "0, and it says so",
        text,
        grants == 0 && fenced == JUMPS.len(),
    );
    let others = run
        .seen(|phase| phase.weather == Weather::Fault && !phase.name.contains("the controller's clock"))
        .renewed();
    let text = others.to_string();
    run.level("re-authentications while another's clock is wrong", "they go on", text, others > 0);
    let right = run.seen(|phase| phase.name == "every clock is right").renewed();
    run.level("re-authentications once every clock is right", "they go on", right.to_string(), right > 0);
}

/// The host sleeps for a night: for its processes the night is over in an instant, and every session is eight hours old.
async fn sleep(run: &mut Run<'_>, clocks: &Clocks) -> anyhow::Result<()> {
    run.enter("the whole host has slept for 8 hours", Weather::Fault);
    clocks.sleep(NIGHT)?;
    let (held, flows) = (run.crowd.held, run.crowd.flows);
    run.go_on(NOTICED).await?;
    let back = run
        .until(BACK_WITHIN * 2, |phase| {
            phase.clients.up >= held
                && phase.clients.flows_open >= flows
                && phase.clients.renewed >= held as u64
        })
        .await?;
    run.enter("the morning after", Weather::Fair);
    run.go_on(run.part(0.1).max(Duration::from_secs(6))).await?;
    let (up, open) = run.phases.last().map_or((0, 0), |phase| (phase.clients.up, phase.clients.flows_open));
    let text = match back {
        Some(took) => format!(
            "all {held}, {flows} connections and a newer grant each, after {:.1} s",
            took.as_secs_f64() + NOTICED.as_secs_f64()
        ),
        None => format!("{up} of {held}, {open} of {flows} connections"),
    };
    run.level(
        "everybody is back after a night asleep",
        "≤ 45 s",
        text,
        back.is_some_and(|took| took + NOTICED <= BACK_WITHIN),
    );
    let morning = run.seen(|phase| phase.name == "the morning after");
    let (visits, failures) = (morning.visits(), morning.failures());
    let percent = Visits::percent(visits.in_time, visits.all);
    let text = format!("{percent:.2} % ({} of {}){}", visits.in_time, visits.all, because(&failures));
    run.level(
        "new connections the morning after, first byte within 5 s",
        "≥ 99.9 %",
        text,
        visits.all > 0 && percent >= 99.9,
    );
    Ok(())
}

/// The controller is dead, a day and an hour pass, and everybody's wall clock says that it is ten years ago.
async fn leases_end(run: &mut Run<'_>, clocks: &Clocks) -> anyhow::Result<()> {
    run.enter(
        "the controller is dead, 25 hours pass, and every wall clock is ten years behind",
        Weather::Fault,
    );
    run.stage.kill_controller().await?;
    let slept = NIGHT + LEASE_OVER;
    for owner in [Owner::Connector, Owner::Pop, Owner::Clients] {
        clocks.set(owner, i64::try_from(slept.as_millis())? - YEARS, slept)?;
    }
    let ended = run.until(Duration::from_secs(30), |phase| phase.clients.flows_open == 0).await?;
    run.enter("every lease is over", Weather::Fault);
    run.go_on(run.part(0.1).max(Duration::from_secs(15))).await?;
    let over = run.seen(|phase| phase.name == "every lease is over");
    let (visits, open) = (over.visits(), run.phases.last().map_or(0, |phase| phase.clients.flows_open));
    let answered = run.phases.last().map_or(0, |phase| phase.clients.silences.answered);
    let text = match ended {
        Some(took) => format!("all ended within {:.1} s; {answered} answers after that", took.as_secs_f64()),
        None => format!("{open} still open"),
    };
    let holds = ended.is_some_and(|took| took <= ENDED_WITHIN) && answered == 0;
    run.level("connections whose lease is over", "ended within 5 s", text, holds);
    let passed = visits.in_time;
    // Whoever began before the leases were over may end in this stretch; nobody gets a byte in it.
    let text = format!("{passed} of {} that were tried", visits.all);
    run.level("new connections on a lease that is over", "0", text, passed == 0 && visits.all > 0);
    Ok(())
}
