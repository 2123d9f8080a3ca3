//! `tidegate controller`.

use crate::{
    cli::ControllerArgs,
    database,
    diagnostics::{self, Watched},
    output::{CommandResult, Format, Outcome},
    places, process,
};
use controller::{Controller, ControllerOptions, OldSnapshots, TlsSource};
use serde_json::json;

/// Runs a controller.
pub async fn run(args: &ControllerArgs, format: Format) -> CommandResult {
    let tls = match (&args.tls_certificate, &args.tls_key) {
        (Some(certificates), Some(key)) => {
            TlsSource::Files { certificate: certificates.clone(), key: key.clone() }
        }
        _ => TlsSource::Own,
    };
    let options = ControllerOptions {
        state: places::state_dir(args.state.as_deref(), "controller")?,
        listen: args.listen,
        unix: args.unix.clone(),
        url: args.url.clone(),
        replicas: database::replicas(&args.replicas, &args.database)?,
        database: database::server(&args.database)?,
        join: args.controller_file.clone(),
        tls,
        old_snapshots: if args.dangerous_issue_from_old_snapshot {
            OldSnapshots::DangerouslyIssue
        } else {
            OldSnapshots::Refuse
        },
        connector_image: args.connector_image.clone(),
    };
    let state = options.state.clone();
    // Before a first start shows anything: a port that somebody has ends it.
    diagnostics::start(args.diagnostics, Watched::Controller(state.clone())).await?;
    let (controller, first) = Controller::start(options).await?;
    let first = first.map(|first| {
        // The one time that these two are shown.
        json!({"recovery_phrase": first.recovery_phrase.to_secret_text(), "owner_link": first.owner_link})
    });
    // Whoever reads that it is ready may end it at once.
    let mut shutdown = process::Shutdown::listen();
    let ready = json!({
        "event": "ready", "role": "controller", "url": args.url, "listen": controller.tcp_address(), "first_start": first,
    });
    format.print(&ready, || match &first {
        Some(first) => format!(
            "This is the first start. Write the recovery phrase down and keep it away from this host; it is \
             shown once:\n\n    {}\n\nThe first owner sets a passphrase here (works once, for 24 h):\n\n    {}\n\n\
             The controller is ready on {}",
            first["recovery_phrase"].as_str().unwrap_or_default(),
            first["owner_link"].as_str().unwrap_or_default(),
            args.url,
        ),
        None => format!("The controller is ready on {}", args.url),
    });
    // Only now: what was interrupted before is a first start that nobody saw.
    if first.is_some() && !args.first_start_is_shown_by_supervisor {
        controller::first_start_was_shown(&state)?;
    }
    controller
        .run(async {
            shutdown.asked().await;
        })
        .await?;
    Ok(Outcome::Done)
}
