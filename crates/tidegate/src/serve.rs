//! `tidegate serve`: a controller and a PoP on one host, each its own process, each restarted when it
//! ends. Either restarts without the other.

use crate::{
    cli::ServeArgs,
    database,
    output::{CommandResult, Failure, Format, Outcome, print_line},
    places,
    process::{self, Role},
};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long to wait before starting a role again: the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A role that ran this long starts again without a longer pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// How long a role may take to end: a PoP that is not the only one first lets its agents go to the next
/// (`tidegate pop --drain`).
const END_WITHIN: Duration = Duration::from_secs(30);

struct Layout {
    controller: PathBuf,
    pop: PathBuf,
    console_socket: PathBuf,
}

impl Layout {
    fn of(state: &Path) -> Self {
        let controller = state.join("controller");
        Self { console_socket: controller.join("console.sock"), pop: state.join("pop"), controller }
    }

    fn controller_arguments(&self, args: &ServeArgs) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            vec!["controller".into(), "--state".into(), self.controller.clone().into()];
        arguments.extend(["--unix".into(), self.console_socket.clone().into()]);
        arguments.extend(["--url".into(), console_url(&args.advertise).into()]);
        if let (Some(certificate), Some(key)) = (&args.tls_certificate, &args.tls_key) {
            arguments.extend([
                "--tls-certificate".into(),
                certificate.into(),
                "--tls-key".into(),
                key.into(),
            ]);
        }
        // What came by the environment goes on by it.
        if std::env::var_os(database::URL).is_none()
            && let Some(url) = &args.database.database_url
        {
            arguments.extend(["--database-url".into(), url.into()]);
        }
        if std::env::var_os(database::URL_FILE).is_none()
            && let Some(file) = &args.database.database_url_file
        {
            arguments.extend(["--database-url-file".into(), file.into()]);
        }
        if std::env::var_os(database::REPLICAS).is_none() {
            for url in &args.replicas.replica_url {
                arguments.extend(["--replica-url".into(), url.into()]);
            }
        }
        if std::env::var_os(database::REPLICAS_FILE).is_none()
            && let Some(file) = &args.replicas.replica_url_file
        {
            arguments.extend(["--replica-url-file".into(), file.into()]);
        }
        if let Some(image) = &args.connector_image {
            arguments.extend(["--connector-image".into(), image.to_string().into()]);
        }
        if args.dangerous_issue_from_old_snapshot {
            arguments.push("--dangerous-issue-from-old-snapshot".into());
        }
        if let Some(address) = args.diagnostics {
            arguments.extend(["--diagnostics".into(), address.to_string().into()]);
        }
        arguments
    }

    fn pop_arguments(&self, args: &ServeArgs) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "pop".into(),
            "--state".into(),
            self.pop.clone().into(),
            "--advertise".into(),
            args.advertise.clone().into(),
            "--listen".into(),
            args.listen.to_string().into(),
            "--tcp-front".into(),
            args.listen.to_string().into(),
            "--console-socket".into(),
            self.console_socket.clone().into(),
        ];
        if let Some(address) = args.diagnostics {
            let behind = SocketAddr::new(address.ip(), address.port().saturating_add(1));
            arguments.extend(["--diagnostics".into(), behind.to_string().into()]);
        }
        arguments
    }
}

/// The console's address under an advertised `HOST:PORT`; 443 is what https means anyway.
fn console_url(advertise: &str) -> String {
    format!("https://{}", advertise.strip_suffix(":443").unwrap_or(advertise))
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(args: &ServeArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "serve")?;
    if args
        .advertise
        .rsplit_once(':')
        .is_none_or(|(host, port)| host.is_empty() || port.parse::<std::num::NonZeroU16>().is_err())
    {
        return Err(Failure::say(
            Outcome::Usage,
            format_args!("--advertise: expected HOST:PORT, got {:?}", args.advertise),
        ));
    }
    // Said here and not by a child that is started again and again.
    database::server(&args.database)?;
    database::replicas(&args.replicas, &args.database)?;
    // From here on: a signal in the middle of the start ends what was started.
    let mut shutdown = process::Shutdown::listen();
    std::fs::create_dir_all(&state).with_context(|| format!("the state directory {}", state.display()))?;
    let layout = Layout::of(&state);
    // A first start shows its phrase once: not before the PoP can have its port. Later the PoP says it itself, since one
    // of a serve that was killed may still be letting go of it.
    if !layout.controller.join(state::ABOUT_FILE).exists() {
        port_is_free(args.listen)?;
    }
    let mut roles = Roles::default();
    let started = tokio::select! {
        started = start(args, &layout, &mut roles, format) => Some(started),
        signal = shutdown.asked() => {
            tracing::info!(signal, "ending before everything was started");
            None
        }
    };
    let pop_ready = match started {
        Some(Ok(ready)) => ready,
        Some(Err(error)) => {
            roles.stop().await;
            return Err(error);
        }
        None => {
            roles.stop().await;
            return Ok(Outcome::Done);
        }
    };
    let (Some(controller), Some(pop)) = (roles.controller, roles.pop) else {
        return Err(Failure::say(Outcome::Failed, "the start ended without its processes"));
    };
    let value = json!({
        "event": "ready", "role": "serve", "url": console_url(&args.advertise),
        "listen": pop_ready["listen"], "state": state,
        "controller_pid": controller.pid(), "pop_pid": pop.pid(),
    });
    format.print(&value, || {
        format!(
            "Tidegate is ready.\n  console  {}\n  state    {}\n  try      tidegate admin --state {} status",
            console_url(&args.advertise),
            state.display(),
            state.display()
        )
    });
    let of_controller = (layout.controller_arguments(args), database::inherited());
    let controller = keep("controller", controller, of_controller, format);
    let pop = keep("pop", pop, (layout.pop_arguments(args), Vec::new()), format);
    let (stop, stopped) = tokio::sync::watch::channel(());
    let both = async { tokio::join!(controller(stopped.clone()), pop(stopped)) };
    let end = async {
        let signal = shutdown.asked().await;
        tracing::info!(signal, "ending");
        drop(stop);
        let signal = shutdown.asked().await;
        tracing::info!(signal, "ending at once");
    };
    // A second signal waits for nobody: what still runs is killed with its handle.
    tokio::select! {
        _ = both => {}
        () = end => {}
    }
    Ok(Outcome::Done)
}

/// What runs so far.
#[derive(Default)]
struct Roles {
    controller: Option<Role>,
    pop: Option<Role>,
}

impl Roles {
    async fn stop(&mut self) {
        for role in [&mut self.pop, &mut self.controller].into_iter().flatten() {
            role.stop().await;
        }
    }
}

/// Whether a PoP can have this address, for UDP and TCP.
fn port_is_free(listen: SocketAddr) -> Result<(), Failure> {
    let taken = |protocol: &str, error: std::io::Error| {
        Failure::say(
            Outcome::Failed,
            format_args!(
                "--listen {listen}: cannot be bound for {protocol}: {error}{}. Nothing was made yet",
                net::bind_hint(&error)
            ),
        )
    };
    std::net::UdpSocket::bind(listen).map_err(|error| taken("UDP", error))?;
    std::net::TcpListener::bind(listen).map_err(|error| taken("TCP", error))?;
    Ok(())
}

/// Starts both, enrolling this host's PoP unless it is enrolled already; gives what the PoP says when it is
/// ready.
async fn start(
    args: &ServeArgs,
    layout: &Layout,
    roles: &mut Roles,
    format: Format,
) -> Result<Value, Failure> {
    let mut arguments = layout.controller_arguments(args);
    arguments.push("--first-start-is-shown-by-supervisor".into());
    let controller =
        roles.controller.insert(Role::start("controller", &arguments, &database::inherited(), None)?);
    let ready = controller.wait_for("ready").await?;
    if let Some(first) = ready.get("first_start").filter(|first| !first.is_null()) {
        announce_first_start(first, format);
        controller::first_start_was_shown(&layout.controller)?;
    }
    let mut environment = Vec::new();
    let mut arguments = layout.pop_arguments(args);
    // A directory is not enough: a start that was interrupted leaves one that is only half enrolled.
    let about = state::StateDir::about(&layout.controller)?.context("the controller's state directory")?;
    if enrol::already_enrolled(&layout.pop, trust::Role::Pop, &about.root)?.is_none() {
        // The controller's listener is the PoP's own: until there is one, the admin socket stands in for it.
        let admin_socket = layout.controller.join("admin.sock");
        environment.push(("TIDEGATE_JOIN", pop_join_key(&admin_socket).await?));
        arguments.extend(["--join-socket".into(), admin_socket.into()]);
    }
    let pop = roles.pop.insert(Role::start("pop", &arguments, &environment, None)?);
    Ok(pop.wait_for("ready").await?)
}

fn announce_first_start(first: &Value, format: Format) {
    match format {
        Format::Json => print_line(&json!({"event": "first_start", "first_start": first}).to_string()),
        Format::Text => print_line(&format!(
            "This is the first start. Write the recovery phrase down and keep it away from this host; it is \
             shown once:\n\n    {}\n\nThe first owner sets a passphrase here (works once, for 24 h):\n\n    {}\n\n\
             The root key is on this host. Take it away with:\n    tidegate admin root export FILE --remove\n",
            first["recovery_phrase"].as_str().unwrap_or_default(),
            first["owner_link"].as_str().unwrap_or_default(),
        )),
    }
}

/// Makes the join key of this host's own PoP.
async fn pop_join_key(admin_socket: &Path) -> Result<String, Failure> {
    let admin = enrol::ApiClient::unix(admin_socket.to_owned());
    let key = json!({"kind": "pop", "name": "this host's PoP", "lifetime_seconds": 600});
    let made: Value = admin.post("/api/v1/enrolment-keys", &key).await?;
    Ok(made["join_key"].as_str().context("the controller's answer has no join key")?.to_owned())
}

/// Restarts a role whenever it ends, until told to stop.
fn keep(
    name: &'static str,
    mut role: Role,
    (arguments, environment): (Vec<OsString>, Vec<(&'static str, String)>),
    format: Format,
) -> impl AsyncFnOnce(tokio::sync::watch::Receiver<()>) {
    async move |mut stop: tokio::sync::watch::Receiver<()>| {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = process::now();
            let ended = tokio::select! {
                ended = role.ended() => ended,
                _ = stop.changed() => {
                    role.stop_within(END_WITHIN).await;
                    return;
                }
            };
            if process::now() - started > HEALTHY_AFTER {
                pause = FIRST_PAUSE;
            }
            format.print(
                &json!({"event": "restart", "role": name, "ended": ended, "pause_ms": pause.as_millis()}),
                || format!("the {name} ended ({ended}); starting it again in {} ms", pause.as_millis()),
            );
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = stop.changed() => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                match Role::start(name, &arguments, &environment, None) {
                    Ok(next) => {
                        role = next;
                        format.print(&json!({"event": "restarted", "role": name, "pid": role.pid()}), || {
                            format!("the {name} is running again")
                        });
                        break;
                    }
                    Err(error) => tracing::error!(role = name, "cannot be started: {error:#}"),
                }
            }
        }
    }
}
