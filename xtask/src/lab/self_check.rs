//! `cargo xtask lab self-check`: the lab proves that its own networks behave as it says, before
//! anything is concluded from them.

use super::{
    daemon::Daemon,
    namespace,
    nat::premises,
    probe::{self, at},
    report::{Form, Outcome, Report, Seen},
    router::Nat,
    services::{Database, WebServer, query},
    topology::{self, CLIENT_ROUTER, DATABASE, SERVER, SITE_ROUTER, Topology, WEB},
};
use crate::process::Interrupt;
use anyhow::{Result, ensure};
use std::{path::Path, process::Command, time::Duration};

const SHORT: Duration = Duration::from_secs(10);

/// Runs it.
///
/// # Errors
/// The machine cannot hold a lab at all.
pub fn run(form: Form, interrupt: &Interrupt) -> Result<Outcome> {
    let mut report = Report::new(form);
    let directory = super::directory()?;
    let ended = networks(&mut report, directory.path(), interrupt);
    report.ended(ended);
    let ended = premises::check(&mut report, directory.path(), interrupt);
    report.ended(ended);
    report.check("nothing of the lab is left", || {
        let listed = Command::new("ip").args(["netns", "list"]).output()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let ours = format!("{}{}-", namespace::PREFIX, std::process::id());
        let left: Vec<&str> = listed.lines().filter(|name| name.starts_with(&ours)).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(Seen::new(()))
    });
    Ok(report.finish())
}

fn networks(report: &mut Report, directory: &Path, interrupt: &Interrupt) -> Result<()> {
    let lab = report.step("networks up: client behind a home router, site behind a symmetric one", || {
        Ok(Seen::new(Topology::create(Nat::Home, Nat::Symmetric, interrupt)?))
    })?;
    let echoes = [at(SERVER, 4000), at(SERVER, 4001)];
    let _echo_daemons = report.step("UDP echoes on the server", || {
        let started: Result<Vec<Daemon>> =
            echoes.iter().map(|echo| probe::start(&lab.server, *echo, None, directory, interrupt)).collect();
        Ok(Seen::new(started?))
    })?;
    report.check("a home router maps one port to one port, whomever it talks to", || {
        let seen = probe::question_from(&lab.client, at(topology::CLIENT, 5000), &echoes)?;
        ensure!(seen[0] == seen[1], "two mappings: {seen:?}");
        ensure!(
            seen[0] == at(CLIENT_ROUTER, 5000).to_string(),
            "not the router's address and port: {seen:?}"
        );
        Ok(Seen::new(()).with("seen", seen[0].clone()))
    });
    report.check("a symmetric router maps anew for each destination", || {
        let seen = probe::question_from(&lab.connector, at(topology::CONNECTOR, 5000), &echoes)?;
        ensure!(
            seen.iter().all(|seen| seen.starts_with(&SITE_ROUTER.to_string())),
            "not the router's: {seen:?}"
        );
        ensure!(seen[0] != seen[1], "one mapping: {seen:?}");
        Ok(Seen::new(()).with("seen", seen.join(" and ")))
    });
    report.check("an unsolicited datagram is dropped and does not displace a later mapping", || {
        let _inside = probe::start(&lab.client, at(topology::CLIENT, 5001), None, directory, interrupt)?;
        let probe = probe::question_from(
            &lab.server,
            at(SERVER, 4002),
            &[at(CLIENT_ROUTER, 5001), at(CLIENT_ROUTER, 5002)],
        )?;
        ensure!(probe == ["silence", "silence"], "the router answered: {probe:?}");
        let _late = probe::start(&lab.server, at(SERVER, 4002), None, directory, interrupt)?;
        let seen = probe::question_from(&lab.client, at(topology::CLIENT, 5002), &[at(SERVER, 4002)])?;
        ensure!(seen == [at(CLIENT_ROUTER, 5002).to_string()], "another port: {seen:?}");
        Ok(Seen::new(()))
    });
    report.check("neither the internet nor the client has a way into the site", || {
        for from in [&lab.server, &lab.client] {
            let reached = from.attempt(SHORT, "ping", &["-c", "1", "-W", "1", &WEB.to_string()])?;
            ensure!(!reached.status.success(), "{} reached the site", from.name());
        }
        Ok(Seen::new(()))
    });
    report.check("a real web server and a real database answer inside the site", || {
        let web = WebServer::start(&lab.web, &directory.join("web"), 1_000_000, interrupt)?;
        let _database = Database::start(&lab.database, DATABASE, &directory.join("database"), interrupt)?;
        let page = lab.connector.run(SHORT, "curl", &["-sf", "http://web.lab.internal/"])?.stdout;
        ensure!(page == super::services::PAGE, "another page: {page}");
        ensure!(web.requests_from(topology::CONNECTOR) == 1, "nginx did not log the connector's address");
        let version = query(&lab.connector, DATABASE, 5432, "show server_version")?;
        Ok(Seen::new(()).with("postgresql", version))
    });
    Ok(())
}
