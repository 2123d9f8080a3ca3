//! A second site with a connector of its own: a drill restarts it again and again, and cuts nobody's running connection.

use crate::{
    demo::{
        fetch,
        stage::{Device, Stage},
    },
    process::{self, Role, eventually},
};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

/// Where it listens: loopback addresses that the first site does not have.
const WEB: &str = "127.0.0.4:0";
const ECHO: &str = "127.0.0.5:0";
/// A page comes through a connector that starts from its disk within this, or the restart has failed.
pub const BACK_WITHIN: Duration = Duration::from_secs(10);

/// The site, its connector, and somebody who uses it.
pub struct SecondSite {
    site: Role,
    connector: Role,
    device: Device,
    web: SocketAddr,
    arguments: Vec<OsString>,
    log: PathBuf,
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

impl SecondSite {
    /// Starts everything and fetches a page.
    pub async fn build(stage: &Stage) -> anyhow::Result<Self> {
        let dir = stage.dir().to_owned();
        let file = dir.join("nothing").display().to_string();
        let arguments = words(&["demo-site", "--web", WEB, "--echo", ECHO, "--file", &file]);
        let mut site = Role::start("site", &arguments, &[], Some(&dir.join("site-2.log")))?;
        let ready = site.wait_for("ready").await?;
        let web: SocketAddr = ready["web"].as_str().context("the site's address")?.parse()?;
        let api = stage.api();
        let made: Value =
            api.post("/api/v1/sites", &json!({"name": "quay", "prefixes": ["127.0.0.4/31"]})).await?;
        let resource = json!({
            "name": "quay office", "site": made["id"], "address": web.ip().to_string(), "ports": [web.port().to_string()],
            "mode": "standard",
        });
        let resource: Value = api.post("/api/v1/resources", &resource).await?;
        let policy = json!({
            "name": "the crew reaches the quay", "groups": [stage.crew().await?], "resources": [resource["id"]],
        });
        let _: Value = api.post("/api/v1/policies", &policy).await?;
        let key = stage.key("quay connector", json!({"kind": "connector", "site": made["id"]})).await?;
        let state = dir.join("connector-2").display().to_string();
        let (arguments, log) =
            (words(&["connector", "--state", &state, "--name", "quay-1"]), dir.join("connector-2.log"));
        let mut connector = Role::start("connector", &arguments, &[("TIDEGATE_JOIN", key)], Some(&log))?;
        connector.wait_for("ready").await?;
        let mut device = stage.enrol("quayside").await?;
        device.start().await?;
        let second = Self { site, connector, device, web, arguments, log };
        second.is_served().await?;
        Ok(second)
    }

    async fn is_served(&self) -> anyhow::Result<()> {
        eventually("a page of the second site", BACK_WITHIN, async || {
            fetch::by_ourselves(&self.device, self.web, "/").await.map(drop)
        })
        .await
    }

    /// Kills the connector and starts it from its disk; gives how long it took from its start to a page through it.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.connector.kill().await?;
        let began = process::now();
        self.connector = Role::start("connector", &self.arguments, &[], Some(&self.log))?;
        self.connector.wait_for("ready").await?;
        self.is_served().await?;
        Ok(began.elapsed())
    }

    /// Ends everything.
    pub async fn end(mut self) {
        self.device.stop().await;
        self.connector.stop().await;
        self.site.stop().await;
    }
}
