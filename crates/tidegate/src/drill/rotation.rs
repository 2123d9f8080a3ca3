//! `key-rotation`: every signing key is replaced, again and again; a connector and a controller miss some of it.

use super::{
    api::Writes,
    brownout::because,
    run::{Databases, Needs, Phase, Run, Visits, Weather},
};
use crate::process;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::time::Duration;

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::No, databases: Databases::File };

/// Rotations under load, one after the other.
const ROTATIONS: u32 = 4;
/// New keys are published for so long before they sign. In an installation it is a day: agents that are off meanwhile get
/// the newest bundle when they come back, and here nobody is off for longer than a rotation or two.
const PUBLISHED_S: u64 = 4;
/// A connector that missed a rotation serves again within this.
const SERVES_WITHIN: Duration = Duration::from_secs(10);

/// What the verifiers count: introductions that the connector refused, and messages and documents that the PoP did.
async fn refusals(run: &Run<'_>) -> anyhow::Result<(u64, Value)> {
    let connector = run.stage.connector_status().await?;
    let pop = run.stage.pop_status().await?;
    let introductions =
        connector["access"]["introductions_refused"].as_u64().context("the connector's count")?;
    Ok((introductions, pop["sessions"]["counters"]["refused"].clone()))
}

async fn rotate(run: &Run<'_>) -> anyhow::Result<u64> {
    let body = json!({"use_after_seconds": PUBLISHED_S});
    let answer: Value = run.stage.api().post("/api/v1/key-rotations", &body).await?;
    answer["serial"].as_u64().context("the number of a bundle")
}

fn is_judged(phase: &Phase) -> bool {
    !phase.name.starts_with("the connector")
}

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.1)).await?;
    let before = refusals(run).await?;
    let mut serial = 0;
    for number in 1..=ROTATIONS {
        run.enter(
            &format!("rotation {number}: new keys of every role, which sign after {PUBLISHED_S} s"),
            Weather::Fault,
        );
        serial = rotate(run).await?;
        if number == ROTATIONS {
            // Between publishing and use: what was decided is on its disk.
            run.stage.kill_controller().await?;
            run.stage.start_controller().await?;
        }
        run.go_on(run.part(0.15).max(Duration::from_secs(PUBLISHED_S + 5))).await?;
    }
    let after = refusals(run).await?;
    run.enter("the newest keys sign", Weather::Fair);
    // Every grant is renewed in here: each is signed by a key that did not exist when the load began.
    let held = run.crowd.held as u64;
    run.until(Duration::from_secs(40), |phase| phase.clients.renewed >= held).await?;
    let renewed = run.phases.last().map_or(0, |phase| phase.clients.renewed);
    let followed = run.stage.pop_status().await?["sessions"]["bundle"][1].as_u64();

    let users: Value = run.stage.api().get("/api/v1/users").await?;
    let key = run.stage.key("late", json!({"kind": "device", "owner": users["items"][0]["id"]})).await?;
    let scratch = tempfile::tempdir()?;
    let late = enrol::enrol_device(&key.parse()?, &scratch.path().join("late"), "late").await;

    let missed = miss_one(run).await?;
    judge(run, &before, &after, (serial, followed), renewed);
    let text = late.map_or_else(|error| error.to_string(), |_| "enrolled".to_owned());
    run.level("an agent that enrols after all of it", "enrols", text.clone(), text == "enrolled");
    let text = missed
        .map_or("not within 30 s".to_owned(), |took| format!("{:.1} s after its start", took.as_secs_f64()));
    let holds = missed.is_some_and(|took| took <= SERVES_WITHIN);
    run.level(
        "a connector that was off while keys were replaced and used serves again",
        "≤ 10 s",
        text,
        holds,
    );
    Ok(())
}

/// The connector is off while a rotation is published and used: it comes back knowing only keys that sign nothing any
/// more, and every grant that it is shown is signed by one that it has never heard of.
async fn miss_one(run: &mut Run<'_>) -> anyhow::Result<Option<Duration>> {
    run.enter("the connector is off; keys are replaced, and the new ones sign", Weather::Fault);
    run.stage.stop_connector().await;
    rotate(run).await?;
    run.go_on(Duration::from_secs(PUBLISHED_S + 6)).await?;
    run.enter("the connector starts from its disk", Weather::Fault);
    let start = process::now();
    run.stage.start_connector(None).await?;
    let came = |phase: &Phase| phase.clients.visits.iter().any(|visit| visit.first_byte_ms.is_some());
    let served = run.until(Duration::from_secs(30), came).await?.map(|_| start.elapsed());
    run.enter("the connector has caught up", Weather::Fair);
    run.go_on(run.part(0.1).max(Duration::from_secs(5))).await?;
    Ok(served)
}

fn judge(
    run: &mut Run<'_>,
    before: &(u64, Value),
    after: &(u64, Value),
    (serial, followed): (u64, Option<u64>),
    renewed: u64,
) {
    let text = format!(
        "the controller's bundle {serial}, the PoP's {}",
        followed.map_or("unknown".to_owned(), |is| is.to_string())
    );
    let holds = followed == Some(serial) && serial > u64::from(ROTATIONS);
    run.level("every rotation reached the PoP", "all", text, holds);
    let refused = after.0.saturating_sub(before.0);
    let text = format!(
        "{refused} introductions refused by the connector; by the PoP: {}",
        if before.1 == after.1 { "nothing".into() } else { after.1.to_string() }
    );
    run.level("failed verifications", "0", text, refused == 0 && before.1 == after.1);
    let seen = run.seen(is_judged);
    let (lost, cut, visits, failures) = (seen.lost(), seen.cut(), seen.visits(), seen.failures());
    run.level("sessions lost", "0", lost.to_string(), lost == 0);
    run.level("running connections cut", "0", cut.to_string(), cut == 0);
    let text = format!("{renewed} by the newest keys, of {}", run.crowd.held);
    run.level("re-authentications (grants renewed)", "each client's", text, renewed >= run.crowd.held as u64);
    let percent = Visits::percent(visits.in_time, visits.all);
    let text = format!("{percent:.2} % ({} of {}){}", visits.in_time, visits.all, because(&failures));
    run.level(
        "clients that start from a disk with older keys, first byte within 5 s",
        "≥ 99.9 %",
        text,
        visits.all > 0 && percent >= 99.9,
    );
    if cfg!(not(feature = "test-clock")) {
        run.remarks.push(
            "Not in this build: a certificate that ends, and the alarm when a third of a key's life is left. Both take a month; \
             a build whose clocks can be set passes it in a minute (cargo build --package tidegate --features test-clock)."
                .to_owned(),
        );
    }
}

/// A month passes, in two nights of 16 days, while one device is off: its certificate ends. Then the controller's clock is
/// not believed for two months, so that nobody replaces its keys.
#[cfg(feature = "test-clock")]
pub async fn months_pass(run: &mut Run<'_>, clocks: &super::clocks::Clocks) -> anyhow::Result<()> {
    use super::clocks::Owner;
    const DAY: Duration = Duration::from_secs(24 * 3600);
    // Certificates are renewed from their tenth day: whoever is on in between has a new one.
    let held = run.crowd.held;
    run.clients.order(load::Order::Visit { from: run.crowd.held, to: run.crowd.all, per_second: 0 }).await?;
    let mut back = Vec::new();
    for (word, days) in [("half a month passes", 16), ("and another half", 32)] {
        run.enter(word, Weather::Fault);
        clocks.sleep(DAY * days)?;
        run.go_on(Duration::from_secs(2)).await?;
        back.push(
            run.until(Duration::from_secs(90), |phase| {
                phase.clients.up >= held && phase.clients.renewed >= held as u64
            })
            .await?,
        );
        // Time for certificates, which are asked for after grants.
        run.go_on(Duration::from_secs(10)).await?;
    }
    let seconds = |took: &Option<Duration>| {
        took.map_or("not within 92 s".to_owned(), |took| format!("{:.1} s", took.as_secs_f64() + 2.0))
    };
    let halves: Vec<String> = back.iter().map(seconds).collect();
    let text = match back.as_slice() {
        [Some(_), Some(_)] => format!("all {held}, {} after each half", halves.join(" and ")),
        _ => format!(
            "{} of {held}; all of them after each half: {}",
            run.phases.last().map_or(0, |phase| phase.clients.up),
            halves.join(", ")
        ),
    };
    let all_back = back.iter().all(Option::is_some);
    run.level("whoever is on renews its certificate and is there a month later", "all", text, all_back);

    run.enter("a device comes whose certificate has ended", Weather::Fault);
    let last = run.crowd.all - 1;
    run.clients.order(load::Order::Visit { from: last, to: run.crowd.all, per_second: 1 }).await?;
    run.go_on(Duration::from_secs(16)).await?;
    run.clients.order(load::Order::Visit { from: last, to: run.crowd.all, per_second: 0 }).await?;
    let phase = run.phases.last().context("a phase")?;
    let (tried, passed) = (
        phase.clients.visits.len(),
        phase.clients.visits.iter().filter(|visit| visit.first_byte_ms.is_some()).count(),
    );
    let (up, lost): (usize, u64) = (phase.clients.up, phase.clients.lost.values().sum());
    let text =
        format!("{passed} of {tried} visits; {up} of {held} others hold their session, {lost} lost it");
    run.level(
        "a device whose certificate has ended is let in, and it hurts nobody else",
        "0, 0",
        text,
        tried > 0 && passed == 0 && up >= held && lost == 0,
    );

    run.enter("two months in which the controller's clock is not believed", Weather::Fault);
    let alarm = async |run: &Run<'_>| -> anyhow::Result<Option<String>> {
        let status: Value = run.stage.api().get("/api/v1/status").await?;
        Ok(status["keys"]["alarm"].as_str().map(str::to_owned))
    };
    let slept = DAY * 32;
    let ahead = async |run: &mut Run<'_>, days: u32| -> anyhow::Result<Option<String>> {
        let wall = i64::try_from((slept + DAY * days).as_millis())?;
        clocks.set(Owner::Controller, wall, slept)?;
        run.go_on(Duration::from_secs(2)).await?;
        alarm(run).await
    };
    // The newest keys are from the beginning of the drill, 32 days ago, and live for 90.
    let (early, late) = (ahead(run, 27).await?, ahead(run, 29).await?);
    run.enter("its clock is set right", Weather::Fair);
    clocks.sleep(slept)?;
    run.go_on(Duration::from_secs(3)).await?;
    let text = format!(
        "with 31 days left: {}; with 29: {}",
        early.as_deref().unwrap_or("none"),
        late.as_deref().unwrap_or("none")
    );
    run.level(
        "an alarm when a third of a key's life is left and nobody replaced it",
        "none before, one after",
        text,
        early.is_none() && late.is_some(),
    );
    Ok(())
}
