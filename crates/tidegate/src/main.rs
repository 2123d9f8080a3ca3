//! `tidegate`: one binary, every role.
//!
//! This crate owns: the command line, what is printed, processes and signals, and the demo. It refuses to
//! know anything about packets, policy or keys.

#![allow(clippy::large_futures, reason = "one future a process, made once")]

mod admin;
mod agents;
mod cli;
mod client_commands;
mod control;
mod database;
mod demo;
mod device_code;
mod diagnostics;
mod documentation;
mod drill;
mod forwarding;
mod network;
mod output;
mod places;
mod process;
mod run;
mod serve;
mod site;
mod tun;

use clap::Parser as _;
use cli::{Cli, Command};
use output::{CommandResult, Failure, Format, Outcome};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let exec = process::now();
    let cli = Cli::parse();
    let format = if cli.json { Format::Json } else { Format::Text };
    if let Err(failure) = start_log(&cli) {
        return failure.report(format);
    }
    process::end_with_parent();
    let given_up = match &cli.command {
        Command::Up(args) => tun::give_up_privileges(args),
        Command::Connector(args) => forwarding::give_up_privileges(args),
        _ => Ok(()),
    };
    if let Err(error) = given_up {
        return Failure::say(Outcome::Failed, format_args!("privileges could not be given up: {error}"))
            .report(format);
    }
    // One provider for every TLS library that asks the process for a default.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Failure::say(Outcome::Failed, "another TLS provider is installed already").report(format);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(format),
    };
    match runtime.block_on(run(&cli, format, exec)) {
        Ok(outcome) => outcome.into(),
        Err(failure) => failure.report(format),
    }
}

fn start_log(cli: &Cli) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&cli.log)
        .map_err(|error| Failure::say(Outcome::Usage, format_args!("--log {:?}: {error}", cli.log)))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if cli.log_json {
        log.json().init()
    } else {
        log.init()
    }
    Ok(())
}

async fn run(cli: &Cli, format: Format, exec: std::time::Instant) -> CommandResult {
    match &cli.command {
        Command::Demo(args) => demo::run(args, format, exec).await,
        Command::Serve(args) => serve::run(args, format).await,
        Command::Controller(args) => control::run(args, format).await,
        Command::Pop(args) => agents::pop(args, format).await,
        Command::Connector(args) => agents::connector(args, format).await,
        Command::Login(args) => agents::login(args, format).await,
        Command::Up(args) => client_commands::up(args, format).await,
        Command::Run(args) => run::run(args).await,
        Command::Down(args) => client_commands::down(args, format).await,
        Command::Cleanup => tun::cleanup(format),
        Command::Status(args) => client_commands::status(args, format).await,
        Command::Resources(args) => client_commands::resources(args, format).await,
        Command::Why(args) => client_commands::why(args, format).await,
        Command::Ping(args) => network::ping(args, format).await,
        Command::Netcheck(args) => network::netcheck(args, format).await,
        Command::Forward(args) => client_commands::forward(args, format).await,
        Command::Admin(args) => admin::run(args, format).await,
        Command::Drill(args) => drill::run(args, format).await,
        Command::Completions { shell } => documentation::completions(*shell),
        Command::ManPages { directory } => documentation::man_pages(directory, format),
        Command::DemoSite(args) => site::run(args, format).await,
        Command::LoadWorker(args) => tokio::task::block_in_place(|| drill::worker::run(args)),
    }
}
