//! The console's picture of the network, as an owner's browser gets it.

use super::{super::fleet::Fleet, kind::Path};
use crate::{
    lab::namespace::Namespace,
    process::{Interrupt, run},
};
use anyhow::{Context as _, Result, bail};
use std::{fs, path::PathBuf, time::Duration};

const WITHIN: Duration = Duration::from_secs(10);
const EMAIL: &str = "olga@lab.example";

/// A signed-in session.
pub struct Picture {
    /// curl's arguments: cookies and the CA.
    config: PathBuf,
    /// `https://HOST`.
    console: String,
    interrupt: Interrupt,
}

impl Picture {
    /// Makes an owner by a link from the host, and signs in.
    ///
    /// # Errors
    /// A page is not what it should be.
    pub fn sign_in(fleet: &Fleet, server: &Namespace, interrupt: &Interrupt) -> Result<Self> {
        let made = fleet.admin(server, &["owner-link"])?;
        let link = made["link"].as_str().context("no link")?;
        let end = link.match_indices('/').nth(2).context("no path in the link")?.0;
        let place = fleet.place();
        let config = place.join("console.conf");
        let jar = place.join("console.jar").display().to_string();
        let ca = fleet.state("serve").join("controller/console-ca.pem").display().to_string();
        fs::write(&config, format!("cookie = \"{jar}\"\ncookie-jar = \"{jar}\"\ncacert = \"{ca}\"\n"))?;
        let picture = Self { config, console: link[..end].to_owned(), interrupt: interrupt.clone() };
        let form = picture.get(server, &[link])?;
        let token =
            form.split_once("name=\"form_token\" value=\"").and_then(|(_, rest)| rest.split('"').next());
        let token = token.context("no form behind the link")?;
        let passphrase = "low water, high water, slack";
        let fields = [
            ("name", "Olga"),
            ("email", EMAIL),
            ("passphrase", passphrase),
            ("again", passphrase),
            ("form_token", token),
        ];
        // Not on the command line.
        let filled = place.join("console.form");
        let lines = fields.iter().map(|(name, value)| format!("data-urlencode = \"{name}={value}\"\n"));
        fs::write(&filled, lines.collect::<String>())?;
        let filled = filled.display().to_string();
        picture.get(server, &["--config", &filled, link])?;
        picture.path(server)?;
        Ok(picture)
    }

    fn get(&self, server: &Namespace, arguments: &[&str]) -> Result<String> {
        let mut command = server.command("curl");
        command.args(["--disable", "--silent", "--show-error", "--fail", "--config"]).arg(&self.config);
        let said = run(command.args(arguments), WITHIN, &self.interrupt)?.success("curl of the console")?;
        Ok(said.stdout)
    }

    /// The one path that the picture draws; none when it draws none.
    ///
    /// # Errors
    /// It is no picture, or draws several.
    pub fn path(&self, server: &Namespace) -> Result<Option<Path>> {
        let page = self.get(server, &[&format!("{}/topology", self.console)])?;
        let (_, svg) = page.split_once("<svg class=\"topo\"").context("no picture on the page")?;
        let drawn = |class: &str| svg.contains(&format!("<path class=\"p {class}\""));
        let lines = [(Path::Direct, "p--direct"), (Path::Relay, "p--relay"), (Path::Tcp, "p--tcp")];
        let mut drawn = lines.into_iter().filter(|(_, class)| drawn(class)).map(|(path, _)| path);
        let first = drawn.next();
        if let (Some(first), Some(second)) = (first, drawn.next()) {
            bail!("the picture draws {first} and {second} of one client with one connector");
        }
        Ok(first)
    }
}
