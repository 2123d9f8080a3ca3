//! `tidegate up`, `down`, `status`, `resources`, `why`, `forward`.

use crate::network::why_words;
use crate::{
    cli::{ClientArgs, ForwardArgs, StatusArgs, TunWhen, UpArgs, WhyArgs},
    diagnostics::{self, Watched},
    output::{self, CommandResult, Failure, Format, Outcome, table},
    places,
    process::{self, Role},
    tun,
};
use client::{
    ControlClient, ControlError, Listen, Reachable, ResourceStatus, Status, Target, WhyAnswer, WhySource,
};
use connector::{ConnectorStatus, StrictState};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use policy::{Mode, StepOutcome};
use serde_json::json;
use std::{ffi::OsString, path::Path};
use trust::UnixMs;

/// How long a client may take to end: it writes what it holds and says goodbye to its PoPs.
const DOWN_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);
/// How long the guardian may take to set routes and resolver.
const MACHINE_WITHIN: std::time::Duration = std::time::Duration::from_secs(15);

fn running(state: &Path) -> ControlClient {
    ControlClient::in_run_dir(state)
}

/// A question that the running client did not answer. Where there is no client because nobody enrolled here, that is
/// what is said.
fn asked(state: &Path) -> impl Fn(ControlError) -> Failure {
    move |error| match error {
        ControlError::NotRunning { .. } => match enrolled(state) {
            Ok(()) => Failure::new(Outcome::NotRunning, error),
            Err(failure) => failure,
        },
        ControlError::Ending => Failure::new(Outcome::NotRunning, error),
        error => Failure::new(Outcome::Failed, error),
    }
}

/// Whether a client can be started here.
fn enrolled(state: &Path) -> Result<(), Failure> {
    Ok(state::StateDir::expect(state, trust::Role::Device)?)
}

/// `tidegate up`.
pub async fn up(args: &UpArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    enrolled(&state)?;
    if args.seat {
        let side = client::MachineSide::Guardian { search: args.search.clone() };
        return foreground(args, &state, side, format).await;
    }
    if args.tun.is_none() {
        tun::put_back_leftovers();
    }
    if args.foreground {
        return match args.tun {
            None => foreground(args, &state, client::MachineSide::Proxy, format).await,
            Some(when) => match tun::prepare(args).await {
                Ok(prepared) => tun::guard(prepared, args, &state, format).await,
                Err(error) if when == TunWhen::Auto => {
                    let reason = error.to_string();
                    output::note(&format!("tidegate: no interface, the proxy alone: {reason}"));
                    foreground(args, &state, client::MachineSide::Unavailable(reason), format).await
                }
                Err(error) => Err(Failure::new(Outcome::Failed, error)),
            },
        };
    }
    if running(&state).status().await.is_ok() {
        return Err(Failure::say(Outcome::Failed, "the client runs already; see: tidegate status"));
    }
    let mut arguments = common_arguments(args, &state);
    arguments.push("--foreground".into());
    arguments.extend(tun::arguments(args));
    let log = tun::log_file(args, &state)?;
    let mut daemon = Role::start_to_stay("client", &arguments, Some(&log))?;
    daemon.wait_for("ready").await?;
    daemon.leave_running();
    let status = running(&state).status().await.map_err(asked(&state))?;
    format.print(&json!({"event": "up", "status": status}), || up_text(&status));
    Ok(Outcome::Done)
}

/// What the process that stays is told, whichever it is.
pub fn common_arguments(args: &UpArgs, state: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        vec!["up".into(), "--state".into(), state.into(), "--proxy".into(), args.proxy.to_string().into()];
    if args.no_port_mapping {
        arguments.push("--no-port-mapping".into());
    }
    if let Some(address) = args.diagnostics {
        arguments.extend(["--diagnostics".into(), address.to_string().into()]);
    }
    arguments
}

async fn foreground(
    args: &UpArgs,
    state: &Path,
    machine: client::MachineSide,
    format: Format,
) -> CommandResult {
    let options = client::ClientOptions {
        state: state.to_owned(),
        run_dir: state.to_owned(),
        proxy: args.proxy,
        forwards: Vec::new(),
        port_mapping: places::port_mapping(args.no_port_mapping),
    };
    let client = client::Client::start_with(options, machine).await?;
    match tokio::time::timeout(MACHINE_WITHIN, client.machine_is_ready()).await {
        Ok(true) => {}
        Ok(false) => return Err(Failure::say(Outcome::Failed, "the guardian of the interface is gone")),
        Err(_) => {
            return Err(Failure::say(
                Outcome::Failed,
                format_args!("routes and resolver were not set up within {} s", MACHINE_WITHIN.as_secs()),
            ));
        }
    }
    // Before it is said that the client is up: a port that somebody has ends it.
    diagnostics::start(args.diagnostics, Watched::Client(state.to_owned())).await?;
    let status = running(state).status().await.map_err(asked(state))?;
    // Whoever reads that it is ready may end it at once.
    let mut shutdown = process::Shutdown::listen();
    let ready = json!({"event": "ready", "role": "client", "status": status});
    format.print(&ready, || up_text(&status));
    client
        .wait(async {
            shutdown.asked().await;
        })
        .await;
    Ok(Outcome::Done)
}

fn up_text(status: &Status) -> String {
    let who = status.owner.as_deref().unwrap_or("nobody");
    if status.revoked {
        return format!(
            "The client is up, but access of this device ({who} at {}) was revoked; ask your administrator.",
            status.organization
        );
    }
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
    let client = running(&state);
    // Who puts the machine's resolver back, after the client has ended.
    let guardian = client.status().await.ok().and_then(|status| status.tun?.guardian);
    client.down().await.map_err(asked(&state))?;
    // The answer comes before the end: whoever starts it again next finds the directory free.
    let until = process::now() + DOWN_WITHIN;
    while state::StateDir::is_in_use(&state)? || guardian.is_some_and(process::is_running) {
        if process::now() >= until {
            return Err(Failure::say(
                Outcome::Failed,
                format_args!(
                    "the client was told to end and still runs after {} s; see {}",
                    DOWN_WITHIN.as_secs(),
                    state.join("client.log").display()
                ),
            ));
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    format.print(&json!({"event": "down"}), || "The client is down.".to_owned());
    Ok(Outcome::Done)
}

/// `tidegate status`.
pub async fn status(args: &StatusArgs, format: Format) -> CommandResult {
    if args.connector {
        let state = places::state_dir(args.state.as_deref(), "connector")?;
        let status = connector::ask_status(&state).await.map_err(|error| match error {
            connector::StatusError::NotRunning { .. } => {
                match state::StateDir::expect(&state, trust::Role::Connector) {
                    Ok(()) => Failure::new(Outcome::NotRunning, error),
                    Err(not_enrolled) => not_enrolled.into(),
                }
            }
            error => Failure::new(Outcome::Failed, error),
        })?;
        format.print(&json!(status), || connector_text(&status));
        return Ok(if status.access_until <= status.now { Outcome::Denied } else { Outcome::Done });
    }
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let status = running(&state).status().await.map_err(asked(&state))?;
    format.print(&json!(status), || status_text(&status));
    Ok(if status.access_expired || status.revoked { Outcome::Denied } else { Outcome::Done })
}

/// `tidegate resources`.
pub async fn resources(args: &ClientArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let resources = running(&state).resources().await.map_err(asked(&state))?;
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
    let answer = running(&state).why(&args.resource).await.map_err(asked(&state))?;
    format.print(&json!(answer), || why_text(&answer));
    Ok(if answer.holds { Outcome::Done } else { Outcome::Denied })
}

/// `tidegate forward`.
pub async fn forward(args: &ForwardArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let target: Target =
        args.target.parse().map_err(|error| Failure::new(Outcome::Usage, anyhow::Error::new(error)))?;
    let client = running(&state);
    let before = client.forward_list().await.map_err(asked(&state))?;
    let listen = match &args.socket {
        Some(path) => Listen::Unix(std::path::absolute(path)?),
        None => Listen::Tcp(args.listen),
    };
    let after = client.forward_add(listen.clone(), target.clone()).await.map_err(asked(&state))?;
    let Some(added) = after.iter().find(|forward| !before.contains(forward)) else {
        return Err(Failure::say(Outcome::Failed, format_args!("{listen} is forwarded already")));
    };
    let mut shutdown = process::Shutdown::listen();
    format.print(
        &json!({"event": "ready", "listen": added.listen, "target": added.target.to_string()}),
        || format!("{} leads to {} until Ctrl-C", added.listen, added.target),
    );
    shutdown.asked().await;
    client.forward_remove(added.listen.clone()).await.map_err(asked(&state))?;
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

fn heard(ms: Option<u64>) -> String {
    ms.map_or_else(
        || "control plane not heard in this run".to_owned(),
        |ms| format!("control plane last heard {} ago", duration(ms)),
    )
}

/// How a connector stands, in words.
fn connector_text(status: &ConnectorStatus) -> String {
    let mut text = String::new();
    let end = until(status.access_until, status.now);
    let access = if status.access_until <= status.now {
        format!("Lets nobody in: what it holds ended {end}")
    } else {
        format!("Lets devices in until {end}")
    };
    text.push_str(&format!(
        "{access}; {} ({}).\n",
        heard(status.control_last_heard_ms),
        status.control_plane
    ));
    text.push_str(&format!(
        "Connector of {}: {} devices in, {} connections.\n",
        status.site.as_deref().unwrap_or("a site that it has not heard of yet"),
        status.access.sessions,
        status.access.flows
    ));
    match (status.strict, status.strict_closes_in_ms) {
        (StrictState::Open, _) => {}
        (StrictState::NoNewFlows, Some(ms)) => text.push_str(&format!(
            "Strict resources take no new connection, and close to those that run in {}.\n",
            duration(ms)
        )),
        (StrictState::NoNewFlows, None) => text.push_str("Strict resources take no new connection.\n"),
        (StrictState::Closed, _) => text.push_str("Strict resources are closed.\n"),
    }
    let paths = status.paths;
    text.push_str(&format!(
        "Paths: {} direct, {} by relays, {} by relays over TCP 443.\n",
        paths.direct, paths.relay, paths.tcp
    ));
    for pop in &status.pops {
        text.push_str(&format!("PoP {}: {}", pop.pop, pop.phase));
        if pop.transport.as_deref() == Some("tcp") {
            text.push_str(" by TCP 443");
        }
        text.push('\n');
    }
    text.push('\n');
    let rows: Vec<Vec<String>> = status
        .resources
        .iter()
        .map(|resource| {
            let state = if resource.closed_by_isolation { "no: control plane not heard" } else { "yes" };
            vec![resource.name.clone(), mode(resource.mode).to_owned(), state.to_owned()]
        })
        .collect();
    if rows.is_empty() {
        text.push_str("No policy gives anybody anything here yet.\n");
    } else {
        text.push_str(&table(&["RESOURCE", "MODE", "NEW CONNECTIONS"], &rows));
    }
    text
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Standard => "standard",
        Mode::Strict => "strict",
    }
}

fn status_text(status: &Status) -> String {
    let mut text = String::new();
    let end = until(status.access_until, status.now);
    let heard = heard(status.control_last_heard_ms);
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
    text.push_str(&status.tun.as_ref().map(tun::status_text).unwrap_or_default());
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
                _ if resource.closed_by_isolation => {
                    "no new ones: strict, control plane not heard".to_owned()
                }
                Reachable::Yes => "yes".to_owned(),
                Reachable::No => format!("no: {}", resource.reason.as_deref().unwrap_or("unknown")),
                Reachable::Untried => "not tried".to_owned(),
            };
            vec![
                resource.name.clone(),
                format!("{}:{}", resource.address, resource.ports.join(",")),
                resource.site.clone(),
                mode(resource.mode).to_owned(),
                reachable,
                resource.path.as_ref().map_or_else(|| "–".to_owned(), path_words),
                resource.round_trip_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms")),
            ]
        })
        .collect();
    table(&["RESOURCE", "ADDRESS", "SITE", "MODE", "REACHABLE", "PATH", "ROUND TRIP"], &rows)
}

/// By which way, since when and why.
fn path_words(path: &client::PathView) -> String {
    let way = match (path.kind.as_str(), path.remote) {
        ("direct", Some(remote)) => format!("direct, {remote}"),
        ("tcp", _) => "relay, TCP 443".to_owned(),
        (kind, _) => kind.to_owned(),
    };
    match (&path.why, path.since_ms) {
        (Some(why), Some(since)) => format!("{way}, for {}: {}", duration(since), why_words(why)),
        _ => way,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(strict: &str, closes: Option<u64>, closed: bool) -> ConnectorStatus {
        let counts = json!({"relay_sent": 0, "relay_received": 0, "direct_sent": 0, "direct_received": 0});
        let identity = trust::Identity::connector(
            wire::InstallationId::from_bytes([1; 16]),
            wire::OrganizationId::from_bytes([2; 16]),
            wire::ConnectorId::from_bytes([3; 16]),
        );
        let resource = wire::ResourceId::from_bytes([4; 16]);
        let value = json!({
            "version": "0", "identity": identity, "site": "office", "slice": "1.7", "slice_until": 5_000,
            "ready": true, "control_plane": "isolated", "control_last_heard_ms": 90_000, "now": 1_000,
            "access_until": 90_000_000, "certificate_until": 95_000_000, "strict": strict,
            "strict_closes_in_ms": closes,
            "resources": [{"id": resource, "name": "vault", "mode": "strict", "closed_by_isolation": closed}],
            "struck": 0, "local": "0.0.0.0:1", "uptime_ms": 1, "pops": [],
            "access": {
                "sessions": 3, "flows": 5, "introductions_accepted": 0, "introductions_refused": 0,
                "wrong_source": 0, "malformed": 0, "refusals_not_logged": 0, "direct": 0,
                "moves": {"to_direct": 0, "to_relay": 0}, "packets": counts, "bytes": counts,
            },
            "dropped": {"foreign_datagrams": 0, "relay_frames_refused": 0},
            "targets": 0, "flow_segments_waiting": 0, "flow_records_dropped": 0, "flow_batches_shipped": 0,
        });
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn a_path_is_said_with_its_reason_and_since_when() {
        let path = |kind: &str, remote: Option<&str>, why: &str, since| client::PathView {
            kind: kind.to_owned(),
            pop: None,
            remote: remote.map(|text| text.parse().expect("an address")),
            since_ms: Some(since),
            why: Some(why.to_owned()),
            tried: Vec::new(),
        };
        assert_eq!(
            path_words(&path("direct", Some("203.0.113.7:4000"), "proven", 40_000)),
            "direct, 203.0.113.7:4000, for 40 s: it answered"
        );
        assert_eq!(
            path_words(&path("relay", None, "unanswered", 600_000)),
            "relay, for 10 min: no address of the connector answers directly"
        );
        assert_eq!(
            path_words(&path("tcp", None, "looking", 1_000)),
            "relay, TCP 443, for 1 s: looking for a direct path"
        );
    }

    #[test]
    fn a_connector_says_when_it_heard_how_long_it_lets_in_and_what_isolation_closes() {
        let text = connector_text(&connector("no_new_flows", Some(600_000), true));
        assert!(text.starts_with("Lets devices in until "), "{text}");
        assert!(text.contains("control plane last heard 90 s ago (isolated)"), "{text}");
        assert!(text.contains("take no new connection, and close to those that run in 10 min"), "{text}");
        assert!(text.contains("vault") && text.contains("no: control plane not heard"), "{text}");
        assert!(text.contains("office: 3 devices in, 5 connections"), "{text}");
        let text = connector_text(&connector("open", None, false));
        assert!(!text.contains("Strict") && text.contains("vault     strict  yes"), "{text}");
        assert!(connector_text(&connector("closed", None, true)).contains("Strict resources are closed."));
    }
}
