//! The demo's stage: every role as its own process of this binary, each with its own state directory.
//! They share sockets and nothing else.

use super::{ports, socks::Proxy};
use crate::process::{Role, eventually};
use anyhow::Context as _;
use enrol::ApiClient;
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::io::AsyncReadExt as _;

/// Where the private services listen: loopback addresses that only a literal resource reaches.
const WEB: &str = "127.0.0.2";
const ECHO: &str = "127.0.0.3";
const BELL: &str = "127.0.0.6";

/// How soon devices renew their grants in the demo, so that one can watch it.
const RENEW_AFTER_S: u64 = 5;

/// A device and its running client.
pub struct Device {
    /// Its id.
    pub id: String,
    state: PathBuf,
    client: Option<Role>,
    log: PathBuf,
}

/// Everything that runs.
pub struct Stage {
    dir: PathBuf,
    controller: Option<Role>,
    pops: Vec<PopProcess>,
    connector: Option<Role>,
    site: Option<Role>,
    /// The controller's console.
    pub url: String,
    /// Shown once.
    pub owner_link: String,
    controller_address: SocketAddr,
    /// What the controller is told of its database by the environment; nothing: a file of its own.
    database: Vec<(&'static str, String)>,
    /// The private web site.
    pub web: SocketAddr,
    /// The private line echo.
    pub echo: SocketAddr,
    /// Another one, under a resource of its own.
    pub bell: SocketAddr,
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

impl Stage {
    /// Starts the control plane, a PoP, a private site and its connector, and enrols them as in a real
    /// installation.
    pub async fn build(dir: &Path, download: &Path) -> anyhow::Result<Self> {
        Self::build_on(dir, download, Vec::new()).await
    }

    /// The same, with what the controller is told of its database by its environment.
    pub async fn build_on(
        dir: &Path,
        download: &Path,
        database: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Self> {
        let controller_address = ports::free()?;
        let mut stage = Self {
            dir: dir.to_owned(),
            controller: None,
            pops: Vec::new(),
            connector: None,
            site: None,
            url: format!("https://localhost:{}", controller_address.port()),
            owner_link: String::new(),
            controller_address,
            database,
            web: SocketAddr::new(WEB.parse()?, 0),
            echo: SocketAddr::new(ECHO.parse()?, 0),
            bell: SocketAddr::new(BELL.parse()?, 0),
        };
        let mut site = Role::start(
            "site",
            &words(&[
                "demo-site",
                "--web",
                &stage.web.to_string(),
                "--echo",
                &stage.echo.to_string(),
                "--echo",
                &stage.bell.to_string(),
                "--file",
                &download.display().to_string(),
            ]),
            &[],
            Some(&dir.join("site.log")),
        )?;
        let first = stage.start_controller().await?;
        stage.owner_link = first["first_start"]["owner_link"].as_str().unwrap_or_default().to_owned();
        let site_ready = site.wait_for("ready").await?;
        stage.web = site_ready["web"].as_str().context("the site's address")?.parse()?;
        for (number, address) in [&mut stage.echo, &mut stage.bell].into_iter().enumerate() {
            *address = site_ready["echoes"][number].as_str().context("the site's address")?.parse()?;
        }
        stage.site = Some(site);
        stage.add_pop().await?;
        stage.configure().await?;
        let api = stage.api();
        let site: Value = api.get("/api/v1/sites").await?;
        let key = stage
            .key("harbour connector", json!({"kind": "connector", "site": site["items"][0]["id"]}))
            .await?;
        stage.start_connector(Some(key)).await?;
        Ok(stage)
    }

    /// Enrols and starts one more PoP, `pop-1` being the first.
    pub async fn add_pop(&mut self) -> anyhow::Result<()> {
        let name = format!("pop-{}", self.pops.len() + 1);
        let key = self.key(&name, json!({"kind": "pop", "region": "here"})).await?;
        let mut pop = PopProcess { state: self.dir.join(&name), name, address: ports::free()?, role: None };
        pop.start(Some(key), &self.dir).await?;
        self.pops.push(pop);
        Ok(())
    }

    /// The PoPs, in the order they were made.
    pub fn pops(&mut self) -> &mut [PopProcess] {
        &mut self.pops
    }

    /// Starts a PoP again from its disk.
    pub async fn start_pop(&mut self, index: usize) -> anyhow::Result<()> {
        let dir = self.dir.clone();
        self.pops.get_mut(index).context("such a PoP")?.start(None, &dir).await
    }

    /// What the first PoP says of itself: sessions and counters.
    pub async fn pop_status(&self) -> anyhow::Result<Value> {
        self.pops.first().context("a PoP")?.status().await
    }

    async fn configure(&self) -> anyhow::Result<()> {
        let api = self.api();
        let organizations: Value = api.get("/api/v1/organizations").await?;
        let organization = organizations["items"][0]["id"].as_str().context("an organization")?;
        let _: Value = api
            .patch(
                &format!("/api/v1/organizations/{organization}"),
                &json!({"name": "Harbour", "renew_after_seconds": RENEW_AFTER_S}),
            )
            .await?;
        let site: Value =
            api.post("/api/v1/sites", &json!({"name": "harbour", "prefixes": ["127.0.0.0/8"]})).await?;
        let mut resources = Vec::new();
        for (name, address) in [("office", self.web), ("echo", self.echo), ("bell", self.bell)] {
            let resource: Value = api
                .post(
                    "/api/v1/resources",
                    &json!({"name": name, "site": site["id"], "address": address.ip().to_string(), "ports": [address.port().to_string()], "mode": "standard"}),
                )
                .await?;
            resources.push(resource["id"].clone());
        }
        let group: Value = api.post("/api/v1/groups", &json!({"name": "crew"})).await?;
        let _: Value = api
            .post("/api/v1/policies", &json!({"name": "the crew reaches the harbour", "groups": [group["id"]], "resources": resources}))
            .await?;
        Ok(())
    }

    /// The controller's API, over its local socket.
    pub fn api(&self) -> ApiClient {
        ApiClient::unix(self.controller_state().join("admin.sock"))
    }

    /// What the controller is told of its database from its next start on.
    pub fn use_database(&mut self, database: Vec<(&'static str, String)>) {
        self.database = database;
    }

    /// Whether the configuration is at a database server.
    pub const fn is_on_a_server(&self) -> bool {
        !self.database.is_empty()
    }

    /// Where everything is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the controller keeps its state.
    pub fn controller_state(&self) -> PathBuf {
        self.dir.join("controller")
    }

    /// Makes an enrolment key, named `name`, valid for ten minutes.
    pub async fn key(&self, name: &str, mut body: Value) -> anyhow::Result<String> {
        body["name"] = name.into();
        body["lifetime_seconds"] = 600.into();
        let made: Value = self.api().post("/api/v1/enrolment-keys", &body).await?;
        Ok(made["join_key"].as_str().context("a key")?.to_owned())
    }

    /// Starts the controller, the first time or again.
    pub async fn start_controller(&mut self) -> anyhow::Result<Value> {
        let state = self.dir.join("controller").display().to_string();
        let listen = self.controller_address.to_string();
        let mut controller = Role::start(
            "controller",
            &words(&["controller", "--state", &state, "--listen", &listen, "--url", &self.url]),
            &self.database,
            Some(&self.dir.join("controller.log")),
        )?;
        let ready = controller.wait_for("ready").await?;
        self.controller = Some(controller);
        Ok(ready)
    }

    /// Kills the controller as a crash would and proves that its port is dead.
    pub async fn kill_controller(&mut self) -> anyhow::Result<()> {
        let mut controller = self.controller.take().context("the controller runs")?;
        controller.kill().await?;
        let address = self.controller_address;
        eventually("the controller's port refusing connections", Duration::from_secs(5), async || {
            match tokio::net::TcpStream::connect(address).await {
                Ok(_) => anyhow::bail!("{address} still accepts connections"),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Starts the connector, the first time with a key.
    pub async fn start_connector(&mut self, key: Option<String>) -> anyhow::Result<()> {
        let state = self.dir.join("connector").display().to_string();
        let environment: Vec<_> = key.into_iter().map(|key| ("TIDEGATE_JOIN", key)).collect();
        let mut connector = Role::start(
            "connector",
            &words(&["connector", "--state", &state, "--name", "harbour-1"]),
            &environment,
            Some(&self.dir.join("connector.log")),
        )?;
        connector.wait_for("ready").await?;
        self.connector = Some(connector);
        eventually("the connector's session to the PoP", Duration::from_secs(15), async || {
            let status = self.pop_status().await?;
            anyhow::ensure!(
                status["sessions"]["connectors"] == 1,
                "the PoP has {} connectors",
                status["sessions"]["connectors"]
            );
            Ok(())
        })
        .await
    }

    /// Stops the connector and starts it again from its disk.
    pub async fn restart_connector(&mut self) -> anyhow::Result<()> {
        self.stop_connector().await;
        self.start_connector(None).await
    }

    /// Stops the connector.
    pub async fn stop_connector(&mut self) {
        if let Some(mut connector) = self.connector.take() {
            connector.stop().await;
        }
    }

    /// What the connector says of itself.
    pub async fn connector_status(&self) -> anyhow::Result<Value> {
        status_of(&self.dir.join("connector").join(connector::STATUS_SOCKET)).await
    }

    /// Makes a person in the crew and enrols their device, as `tidegate login` does.
    pub async fn enrol(&self, owner: &'static str) -> anyhow::Result<Device> {
        let api = self.api();
        let user: Value = api
            .post("/api/v1/users", &json!({"name": owner, "email": format!("{owner}@harbour.example")}))
            .await?;
        let group = self.crew().await?;
        let member = user["id"].as_str().context("a user")?;
        let _: Value = api.put(&format!("/api/v1/groups/{group}/members/{member}"), &json!({})).await?;
        let key = self.key(owner, json!({"kind": "device", "owner": user["id"]})).await?;
        let state = self.dir.join(owner);
        let key_file = self.dir.join(format!("{owner}.key"));
        std::fs::write(&key_file, key)?;
        let log = self.dir.join(format!("{owner}.log"));
        let mut login = Role::start(
            "login",
            &words(&[
                "login",
                "--state",
                &state.display().to_string(),
                "--name",
                &format!("{owner}'s laptop"),
                "--key-file",
                &key_file.display().to_string(),
            ]),
            &[],
            Some(&log),
        )?;
        let enrolled = login.wait_for("enrolled").await?;
        login.ended().await;
        std::fs::remove_file(&key_file)?;
        let id = enrolled["device"].as_str().context("a device id")?.to_owned();
        Ok(Device { id, state, client: None, log })
    }

    /// The controller's process, while it runs.
    pub const fn controller(&self) -> Option<&Role> {
        self.controller.as_ref()
    }

    /// The process id of the controller.
    pub fn controller_pid(&self) -> Option<u32> {
        self.controller.as_ref().and_then(Role::pid)
    }

    /// The connector's process.
    pub fn connector_pid(&self) -> Option<u32> {
        self.connector.as_ref().and_then(Role::pid)
    }

    /// The group's id.
    pub async fn crew(&self) -> anyhow::Result<String> {
        let groups: Value = self.api().get("/api/v1/groups").await?;
        Ok(groups["items"][0]["id"].as_str().context("a group")?.to_owned())
    }

    /// Ends every process, in order.
    pub async fn end(mut self, devices: Vec<Device>) {
        for mut device in devices {
            device.stop().await;
        }
        let pops = self.pops.iter_mut().map(|pop| &mut pop.role);
        for role in
            [&mut self.connector].into_iter().chain(pops).chain([&mut self.controller, &mut self.site])
        {
            if let Some(mut role) = role.take() {
                role.stop().await;
            }
        }
    }
}

/// A PoP of the stage.
pub struct PopProcess {
    /// Its name.
    pub name: String,
    state: PathBuf,
    address: SocketAddr,
    role: Option<Role>,
}

impl PopProcess {
    async fn start(&mut self, key: Option<String>, logs: &Path) -> anyhow::Result<()> {
        let (state, listen) = (self.state.display().to_string(), self.address.to_string());
        let name = &self.name;
        let environment: Vec<_> = key.into_iter().map(|key| ("TIDEGATE_JOIN", key)).collect();
        let mut pop = Role::start(
            "pop",
            // A stage is taken down at once: nobody waits for anybody to leave.
            &words(&[
                "pop",
                "--state",
                &state,
                "--listen",
                &listen,
                "--advertise",
                &listen,
                "--name",
                name,
                "--drain",
                "0",
            ]),
            &environment,
            Some(&logs.join(format!("{name}.log"))),
        )?;
        pop.wait_for("ready").await?;
        self.role = Some(pop);
        Ok(())
    }

    /// Its process.
    pub fn role(&mut self) -> anyhow::Result<&mut Role> {
        self.role.as_mut().with_context(|| format!("{} runs", self.name))
    }

    /// What it says of itself: sessions and counters.
    pub async fn status(&self) -> anyhow::Result<Value> {
        status_of(&self.state.join(pop::STATUS_SOCKET)).await
    }
}

async fn status_of(socket: &Path) -> anyhow::Result<Value> {
    let mut socket = tokio::net::UnixStream::connect(socket).await?;
    let mut text = String::new();
    socket.read_to_string(&mut text).await?;
    Ok(serde_json::from_str(&text)?)
}

impl Device {
    /// Starts a client process from the device's state directory.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let state = self.state.display().to_string();
        let mut client =
            Role::start("client", &words(&["up", "--foreground", "--state", &state]), &[], Some(&self.log))?;
        client.wait_for("ready").await?;
        self.client = Some(client);
        Ok(())
    }

    /// By which kind of path its packets go, as its client says.
    pub async fn path(&self) -> anyhow::Result<String> {
        let status = client::ControlClient::in_run_dir(&self.state).status().await?;
        let status = serde_json::to_value(status)?;
        let resources = status["resources"].as_array().context("resources")?;
        let kind = resources.iter().find_map(|resource| resource["path"]["kind"].as_str());
        Ok(kind.context("no path is in use")?.to_owned())
    }

    /// Stops the client process.
    pub async fn stop(&mut self) {
        if let Some(mut client) = self.client.take() {
            client.stop().await;
        }
    }

    /// The process id of the client.
    pub fn pid(&self) -> Option<u32> {
        self.client.as_ref().and_then(Role::pid)
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The client's SOCKS5 proxy.
    pub fn proxy(&self) -> anyhow::Result<Proxy> {
        Proxy::read(&self.state.join("proxy-url"))
    }

    /// The grant on the device's disk: when it was made, in Unix milliseconds. Read from the file itself, not
    /// asked of the client.
    pub fn grant_issued(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(self.state.join(state::names::GRANT))?;
        let body = text.trim().split('.').nth(2).context("a PASETO token")?;
        let body = trust::decode_base64url(body)?;
        let message = body.get(..body.len().saturating_sub(64)).context("a signed message")?;
        let grant: Value = serde_json::from_slice(message)?;
        grant["iat"].as_u64().context("the time the grant was made")
    }
}
