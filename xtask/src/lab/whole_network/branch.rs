//! Another site with the same range, and the same addresses in it: names keep them apart.

use super::{Lab, Seen, WebServer, topology};
use crate::{
    lab::{namespace::Namespace, report::Report, router::Nat, router::Router, services, topology::Topology},
    process::Interrupt,
};
use anyhow::{Result, ensure};
use std::{fs, net::Ipv4Addr, path::Path};

/// The branch's router as the internet sees it.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 40);
/// What its web server says.
const PAGE: &str = "the branch's own page\n";

/// The other site.
pub struct Branch {
    _router: Router,
    pub connector: Namespace,
    web: Namespace,
}

impl Branch {
    pub fn create(net: &mut Topology, interrupt: &Interrupt) -> Result<Self> {
        let mut router = Router::create("branch", Ipv4Addr::new(10, 0, 2, 1), Nat::Home, interrupt)?;
        net.attach(router.namespace(), "ext", ROUTER)?;
        let connector = router.host("bconn", topology::CONNECTOR, interrupt)?;
        connector.hosts(&format!("{} web.branch.internal", topology::WEB))?;
        let web = router.host("bweb", topology::WEB, interrupt)?;
        Ok(Self { _router: router, connector, web })
    }

    pub fn web(&self, directory: &Path, interrupt: &Interrupt) -> Result<WebServer> {
        let server = WebServer::start(&self.web, directory, services::SMALL, interrupt)?;
        fs::write(directory.join("www/index.html"), PAGE)?;
        Ok(server)
    }
}

/// The same address twice, and two pages.
pub fn checks(report: &mut Report, lab: &Lab, web: &WebServer, branch_web: &WebServer) {
    report.check(
        "two sites with one range: each name leads to its own, the address to the one that has it",
        || {
            let own = topology::CONNECTOR;
            let before = (web.requests_from(own), branch_web.requests_from(own));
            let fetch = |url: &str| lab.client(20, "curl", &["--disable", "-sS", "--fail", "-m", "15", url]);
            for _ in 0..3 {
                ensure!(fetch("http://web.branch.internal/")? == PAGE, "another page than the branch's");
                ensure!(fetch("http://web.lab.internal/")? == services::PAGE, "another page than the lab's");
                ensure!(fetch("http://10.0.2.10/")? == services::PAGE, "the address led to the branch");
            }
            let after = (web.requests_from(own), branch_web.requests_from(own));
            ensure!(after.1 == before.1 + 3, "the branch saw {} requests", after.1 - before.1);
            let said = lab.client(20, "ping", &["-c", "2", "-i", "0.2", "-W", "2", "web.branch.internal"])?;
            ensure!(said.contains(" 0% packet loss"), "the branch does not answer ping");
            Ok(Seen::new(()))
        },
    );
}
