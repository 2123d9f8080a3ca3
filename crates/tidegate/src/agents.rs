//! `tidegate pop`, `connector`, `login`: enrolment where a key is given, then the role itself.

use crate::{
    admin,
    cli::{ConnectorArgs, LoginArgs, PopArgs},
    device_code,
    diagnostics::{self, Watched},
    forwarding,
    output::{CommandResult, Failure, Format, Outcome, note},
    places, process,
};
use anyhow::anyhow;
use std::{path::Path, time::Duration};
use trust::{JoinKey, Role};

/// Console connections that a PoP passes on at once: an office of browsers at six each.
const FRONT_CONNECTIONS: usize = 512;

/// Enrols unless this directory already is enrolled under the key's root: a service that starts with
/// the same `--join` each time enrols once.
async fn enrol_once<F>(key: Option<&JoinKey>, state: &Path, role: Role, enrol: F) -> Result<(), Failure>
where
    F: AsyncFnOnce(&JoinKey) -> Result<enrol::EnrolledAgent, enrol::EnrolError>,
{
    let Some(key) = key else { return Ok(()) };
    if enrol::already_enrolled(state, role, &key.root)?.is_some() {
        tracing::info!("already enrolled; the key is not used again");
        return Ok(());
    }
    enrol(key).await.map_err(not_enrolled)?;
    warn_of_passing_storage(state);
    Ok(())
}

/// An enrolment that the controller put off or refused, or where nobody answered, ends with the same code as any
/// other question to it.
fn not_enrolled(error: enrol::EnrolError) -> Failure {
    match error {
        enrol::EnrolError::Api(error) => admin::refused(error),
        other => other.into(),
    }
}

/// `tidegate pop`.
pub async fn pop(args: &PopArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "pop")?;
    let key = places::join_key(&args.key)?;
    let name = args.name.clone().unwrap_or_else(places::host_name);
    enrol_once(key.as_ref(), &state, Role::Pop, async |key| {
        let advertise = args.advertise.as_deref().unwrap_or_default();
        enrol::enrol_pop(key, &state, &name, advertise, args.join_socket.as_deref()).await
    })
    .await?;
    state::StateDir::expect(&state, Role::Pop)?;
    let mut options = pop::PopOptions::new(state.clone(), args.listen);
    if !args.no_tcp {
        options.tcp_front = Some(pop::TcpFrontOptions {
            listen: args.tcp_front.unwrap_or(args.listen),
            console: args.console_socket.clone(),
            max_connections: FRONT_CONNECTIONS,
        });
    }
    let pop = pop::Pop::open(options)?;
    // Before it is said that it is ready: a port that somebody has ends it.
    diagnostics::start(args.diagnostics, Watched::Pop(state)).await?;
    // Whoever reads that it is ready may end it at once.
    let (mut first, mut second) = (process::Shutdown::listen(), process::Shutdown::listen());
    let ready = serde_json::json!({"event": "ready", "role": "pop", "listen": pop.local_addr()});
    format.print(&ready, || match pop.tcp_addr() {
        Some(tcp) => format!("PoP ready on UDP {} and TCP {tcp}", pop.local_addr()),
        None => format!("PoP ready on UDP {}", pop.local_addr()),
    });
    // Two signals before the second listener has looked count as one: it looks before anybody is told of the first.
    let (counted, is_counted) = tokio::sync::oneshot::channel();
    let leave = async {
        let signal = first.asked().await;
        let _ = is_counted.await;
        tracing::info!(signal, "leaving");
        let leaving = serde_json::json!({"event": "leaving", "role": "pop", "within_seconds": args.drain});
        format.print(&leaving, || {
            format!(
                "leaving: agents are asked to go to their next PoP, for {} s at most; a second signal ends this at once",
                args.drain
            )
        });
    };
    let at_once = async {
        second.asked().await;
        let _ = counted.send(());
        second.asked().await;
    };
    pop.run_until_left(leave, Duration::from_secs(args.drain.into()), at_once).await?;
    Ok(Outcome::Done)
}

/// `tidegate connector`.
pub async fn connector(args: &ConnectorArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "connector")?;
    let key = places::join_key(&args.key)?;
    let name = args.name.clone().unwrap_or_else(places::host_name);
    enrol_once(key.as_ref(), &state, Role::Connector, async |key| {
        enrol::enrol_connector(key, &state, &name).await
    })
    .await?;
    state::StateDir::expect(&state, Role::Connector)?;
    let forwarding = match forwarding::choose(args, &state, format).await? {
        forwarding::Chosen::Worker(forwarding) => forwarding,
        forwarding::Chosen::Guardian(outcome) => return Ok(outcome),
    };
    let options = connector::ConnectorOptions {
        port_mapping: places::port_mapping(args.no_port_mapping),
        own_listeners: args.diagnostics.into_iter().collect(),
        ..connector::ConnectorOptions::new(state.clone())
    };
    process::raise_descriptor_limit();
    let connector = connector::Connector::open_forwarding(options, forwarding)?;
    diagnostics::start(args.diagnostics, Watched::Connector(state)).await?;
    // Whoever reads that it is ready may end it at once.
    let mut shutdown = process::Shutdown::listen();
    let ready = serde_json::json!({"event": "ready", "role": "connector"});
    format.print(&ready, || "connector ready".to_owned());
    connector
        .run(async {
            shutdown.asked().await;
        })
        .await?;
    Ok(Outcome::Done)
}

/// `tidegate login`.
pub async fn login(args: &LoginArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let key = match device_code::controller(args.key.as_deref()) {
        Some(address) => device_code::key(address, args, format).await?,
        None => places::login_key(args.key.as_deref(), args.key_file.as_deref())?,
    };
    if let Some(identity) = enrol::already_enrolled(&state, Role::Device, &key.root)? {
        return Err(Failure::new(
            Outcome::Failed,
            anyhow!(
                "{} is already enrolled as {}; start it with: tidegate up, or choose another directory with --state",
                state.display(),
                identity.subject()
            ),
        ));
    }
    let enrolled = enrol_device(&key, &state, args.name.clone()).await?;
    let owner = enrolled.owner.clone().unwrap_or_default();
    let value = serde_json::json!({
        "event": "enrolled",
        "identity": enrolled.identity.to_string(),
        "device": enrolled.identity.subject().to_string(),
        "name": enrolled.name,
        "organization": enrolled.belongs_to,
        "owner": enrolled.owner,
        "state": state,
    });
    format.print(&value, || {
        format!(
            "This device is {} of {owner} at {}.\nStart the client with: tidegate up",
            enrolled.name, enrolled.belongs_to
        )
    });
    Ok(Outcome::Done)
}

/// Enrols a device in a state directory.
pub async fn enrol_device(
    key: &JoinKey,
    state: &Path,
    name: Option<String>,
) -> Result<enrol::EnrolledAgent, Failure> {
    let name = name.unwrap_or_else(places::host_name);
    let enrolled = enrol::enrol_device(key, state, &name).await.map_err(not_enrolled)?;
    warn_of_passing_storage(state);
    Ok(enrolled)
}

/// Says that an identity will be gone with its directory, if it will.
fn warn_of_passing_storage(state: &Path) {
    if let Some(kind) = places::passing_storage(state) {
        note(&format!(
            "This identity is not on persistent storage: {} is on {kind}. When it is gone, this has to be enrolled again with a new key. Put the state directory on a volume.",
            state.display()
        ));
    }
}
