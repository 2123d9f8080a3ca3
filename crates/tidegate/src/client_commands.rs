//! `tidegate up`, `down`, `status`, `resources`, `why`, `forward`.

use crate::{
    cli::{ClientArgs, ForwardArgs, UpArgs, WhyArgs},
    output::{CommandResult, Failure, Format, Outcome, table},
    places,
    process::{self, Role},
};
use client::{ControlClient, ControlError, Reachable, ResourceStatus, Status, Target, WhyAnswer, WhySource};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use policy::StepOutcome;
use serde_json::json;
use std::{ffi::OsString, path::Path};
use trust::UnixMs;

fn running(state: &Path) -> ControlClient {
    ControlClient::in_run_dir(state)
}

fn asked(error: ControlError) -> Failure {
    let outcome =
        if matches!(error, ControlError::NotRunning { .. }) { Outcome::NotRunning } else { Outcome::Failed };
    Failure::new(outcome, error)
}

/// `tidegate up`.
pub async fn up(args: &UpArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    if args.foreground {
        return foreground(args, &state, format).await;
    }
    if running(&state).status().await.is_ok() {
        return Err(Failure::say(Outcome::Failed, "the client runs already; see: tidegate status"));
    }
    let mut arguments: Vec<OsString> = vec![
        "up".into(),
        "--foreground".into(),
        "--state".into(),
        state.clone().into(),
        "--proxy".into(),
        args.proxy.to_string().into(),
    ];
    if args.no_port_mapping {
        arguments.push("--no-port-mapping".into());
    }
    let log = state.join("client.log");
    let mut daemon = Role::start_to_stay("client", &arguments, Some(&log))?;
    daemon.wait_for("ready").await?;
    daemon.leave_running();
    let status = running(&state).status().await.map_err(asked)?;
    format.print(&json!({"event": "up", "status": status}), || up_text(&status));
    Ok(Outcome::Done)
}

async fn foreground(args: &UpArgs, state: &Path, format: Format) -> CommandResult {
    let options = client::ClientOptions {
        state: state.to_owned(),
        run_dir: state.to_owned(),
        proxy: args.proxy,
        forwards: Vec::new(),
        port_mapping: places::port_mapping(args.no_port_mapping),
    };
    let client = client::Client::start(options).await?;
    let status = running(state).status().await.map_err(asked)?;
    let ready = json!({"event": "ready", "role": "client", "status": status});
    format.print(&ready, || up_text(&status));
    client
        .wait(async {
            process::shutdown().await;
        })
        .await;
    Ok(Outcome::Done)
}

fn up_text(status: &Status) -> String {
    let who = status.owner.as_deref().unwrap_or("nobody");
    if status.resources.is_empty() {
        return format!(
            "The client is up. No policy gives this device anything yet; it is signed in as {who} at {}.",
            status.organization
        );
    }
    format!(
        "The client is up, signed in as {who} at {}.\n\n{}",
        status.organization,
        resources_text(&status.resources)
    )
}

/// `tidegate down`.
pub async fn down(args: &ClientArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    running(&state).down().await.map_err(asked)?;
    format.print(&json!({"event": "down"}), || "The client is down.".to_owned());
    Ok(Outcome::Done)
}

/// `tidegate status`.
pub async fn status(args: &ClientArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let status = running(&state).status().await.map_err(asked)?;
    format.print(&json!(status), || status_text(&status));
    Ok(if status.access_expired || status.revoked { Outcome::Denied } else { Outcome::Done })
}

/// `tidegate resources`.
pub async fn resources(args: &ClientArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let resources = running(&state).resources().await.map_err(asked)?;
    format.print(&json!({"items": resources}), || {
        if resources.is_empty() {
            "No policy gives this device anything yet.".to_owned()
        } else {
            resources_text(&resources)
        }
    });
    Ok(Outcome::Done)
}

/// `tidegate why`.
pub async fn why(args: &WhyArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let answer = running(&state).why(&args.resource).await.map_err(asked)?;
    format.print(&json!(answer), || why_text(&answer));
    Ok(if answer.holds { Outcome::Done } else { Outcome::Denied })
}

/// `tidegate forward`.
pub async fn forward(args: &ForwardArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let target: Target =
        args.target.parse().map_err(|error| Failure::new(Outcome::Usage, anyhow::Error::new(error)))?;
    let client = running(&state);
    let before = client.forward_list().await.map_err(asked)?;
    let after = client.forward_add(args.listen, target.clone()).await.map_err(asked)?;
    let Some(added) = after.iter().find(|forward| !before.contains(forward)) else {
        return Err(Failure::say(Outcome::Failed, format_args!("{} is forwarded already", args.listen)));
    };
    format.print(
        &json!({"event": "ready", "listen": added.listen, "target": added.target.to_string()}),
        || format!("{} leads to {} until Ctrl-C", added.listen, added.target),
    );
    process::shutdown().await;
    client.forward_remove(added.listen).await.map_err(asked)?;
    Ok(Outcome::Done)
}

/// A time as people say it: today `16:42`, within a week `Tue 14:05`, else `30 Sep`.
fn until(time: UnixMs, now: UnixMs) -> String {
    let zone = TimeZone::system();
    let at = |time: UnixMs| -> Option<Zoned> {
        let ms = i64::try_from(time.as_millis()).ok()?;
        Some(Timestamp::from_millisecond(ms).ok()?.to_zoned(zone.clone()))
    };
    let (Some(then), Some(now)) = (at(time), at(now)) else { return time.to_string() };
    if then.date() == now.date() {
        then.strftime("%H:%M").to_string()
    } else if (then.timestamp().as_second() - now.timestamp().as_second()).abs() < 7 * 24 * 3600 {
        then.strftime("%a %H:%M").to_string()
    } else {
        then.strftime("%-d %b").to_string()
    }
}

fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn status_text(status: &Status) -> String {
    let mut text = String::new();
    let end = until(status.access_until, status.now);
    let heard = match status.control_last_heard_ms {
        Some(ms) => format!("control plane last heard {} ago", duration(ms)),
        None => "control plane not heard in this run".to_owned(),
    };
    // Access first: it is what people ask about.
    let access = if status.revoked {
        "Access of this device was revoked; ask your administrator. Its cached authorization would have lasted until"
            .to_owned()
            + &format!(" {end}")
    } else if status.access_expired {
        format!("Access ended {end}")
    } else {
        format!("Access until {end}")
    };
    text.push_str(&format!("{access}; {heard} ({}).\n", status.freshness));
    text.push_str(&format!(
        "Signed in as {} at {} on {}.\n",
        status.owner.as_deref().unwrap_or("nobody yet"),
        status.organization,
        status.device_name.as_deref().unwrap_or("this device"),
    ));
    for pop in &status.pops {
        text.push_str(&format!("PoP {} ({}): {}", pop.address, pop.region, pop.session));
        if pop.transport.as_deref() == Some("tcp") {
            text.push_str(" by TCP 443");
        }
        if let Some(observed) = pop.observed {
            text.push_str(&format!(", sees this device as {observed}"));
        }
        text.push('\n');
    }
    if let Some(problem) = &status.last_session_problem {
        text.push_str(&format!("No session: {problem}.\n"));
    }
    text.push_str(&format!(
        "Proxy {}; URL with credential in {}\n",
        status.proxy.address,
        status.proxy.url_file.display()
    ));
    for forward in &status.forwards {
        text.push_str(&format!("Forward {} → {}\n", forward.listen, forward.target));
    }
    text.push('\n');
    if status.resources.is_empty() {
        text.push_str("No policy gives this device anything yet.\n");
    } else {
        text.push_str(&resources_text(&status.resources));
    }
    text
}

fn resources_text(resources: &[ResourceStatus]) -> String {
    let rows: Vec<Vec<String>> = resources
        .iter()
        .map(|resource| {
            let reachable = match resource.reachable {
                Reachable::Yes => "yes".to_owned(),
                Reachable::No => format!("no: {}", resource.reason.as_deref().unwrap_or("unknown")),
                Reachable::Untried => "not tried".to_owned(),
            };
            vec![
                resource.name.clone(),
                format!("{}:{}", resource.address, resource.ports.join(",")),
                resource.site.clone(),
                reachable,
                resource.path.as_ref().map_or_else(
                    || "–".to_owned(),
                    |path| match (path.kind.as_str(), path.remote) {
                        ("direct", Some(remote)) => format!("direct, {remote}"),
                        ("tcp", _) => "relay, TCP 443".to_owned(),
                        (kind, _) => kind.to_owned(),
                    },
                ),
                resource.round_trip_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms")),
            ]
        })
        .collect();
    table(&["RESOURCE", "ADDRESS", "SITE", "REACHABLE", "PATH", "ROUND TRIP"], &rows)
}

fn why_text(answer: &WhyAnswer) -> String {
    let verdict = if answer.holds { "can be reached" } else { "cannot be reached" };
    let source = match answer.source {
        WhySource::Slice => "from this device's own policy",
        WhySource::Controller => "says the controller",
        WhySource::Local => "as far as this device can know without a controller",
    };
    let mut text = format!("{} {verdict}, {source}.\n", answer.asked);
    for step in &answer.explanation.steps {
        let mark = match step.outcome {
            StepOutcome::Held => "ok ",
            StepOutcome::Failed => "NO ",
            StepOutcome::Unknown => "?  ",
        };
        text.push_str(&format!("  {mark} {}", step.what));
        if !step.detail.is_empty() {
            text.push_str(&format!(" ({})", step.detail));
        }
        text.push('\n');
    }
    text
}
