//! Judges that nobody here wrote: schemathesis asks a real controller, redocly reads its document, and Kubernetes' schemas are
//! held against what the console has a cluster run.

use crate::{
    npm,
    process::{Interrupt, run},
    python,
};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// What a run may take altogether.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// About a minute.
    Short,
    /// Many examples of every operation.
    Long,
}

/// A controller on loopback that ends with this.
struct Running {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(tidegate: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // The address is part of what the controller says of itself, so that the port is chosen first.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut child = Command::new(tidegate)
            .args(["--json", "controller", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--url", &format!("https://localhost:{port}"), "--state"])
            .arg(directory.path().join("controller"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", tidegate.display()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the controller's output was asked for")?;
        let read = BufReader::new(stdout).read_line(&mut line);
        let running = Self { child, directory, port };
        read?;
        let ready: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("not ready: {line}"))?;
        ensure!(ready["event"] == "ready", "not ready: {line}");
        Ok(running)
    }

    fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("controller")
    }

    fn admin(&self, tidegate: &Path, arguments: &[&str], interrupt: &Interrupt) -> Result<serde_json::Value> {
        let mut command = Command::new(tidegate);
        command.arg("--json").arg("admin").arg("--state").arg(self.state()).args(arguments);
        let said = run(&mut command, Duration::from_secs(30), interrupt)?.success("tidegate admin")?;
        serde_json::from_str(said.stdout.trim()).with_context(|| format!("no JSON: {}", said.stdout))
    }
}

/// What the organization has before anything is asked.
const FURNITURE: &str = r#"
[[sites]]
name = "hamburg"
prefixes = ["10.0.0.0/8"]
[[resources]]
name = "orders"
site = "hamburg"
address = "10.1.2.3"
ports = ["5432"]
[[users]]
email = "ada@example.com"
name = "Ada"
[[groups]]
name = "engineers"
members = ["ada@example.com"]
[[policies]]
name = "orders for engineers"
groups = ["engineers"]
resources = ["orders"]
"#;

/// Runs schemathesis against a controller of `tidegate`, on one path of the document or on all; says how much it asked. What it
/// said is below the build directory.
///
/// # Errors
/// The tools cannot be had, or it found something.
pub fn schemathesis(
    tidegate: &Path,
    depth: Depth,
    only: Option<&str>,
    interrupt: &Interrupt,
) -> Result<String> {
    let python = python::environment("judges/schemathesis", interrupt)?;
    let running = Running::start(tidegate)?;
    let furniture = running.directory.path().join("furniture.toml");
    fs::write(&furniture, FURNITURE)?;
    let file = furniture.to_string_lossy().into_owned();
    running.admin(tidegate, &["apply", "--file", &file], interrupt)?;
    let scopes = "read,write,strike,enrol,admin,installation";
    let made =
        running.admin(tidegate, &["create", "token", "--name", "judge", "--scope", scopes], interrupt)?;
    let token = made["token"].as_str().context("no token")?;
    // Not on the command line, which everybody can read.
    let configuration = running.directory.path().join("schemathesis.toml");
    fs::write(&configuration, format!("[headers]\nAuthorization = \"Bearer {token}\"\n"))?;
    let mut judge = Command::new(python.with_file_name("schemathesis"));
    let (examples, seconds) = match depth {
        Depth::Short => ("8", "60"),
        Depth::Long => ("200", "900"),
    };
    judge
        .current_dir(running.directory.path())
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", crate::repository().join("tests/judges/schemathesis"))
        .args(["--config-file", "schemathesis.toml", "run"])
        .arg(crate::repository().join("docs/openapi.json").canonicalize()?)
        .args(["--url", &format!("https://localhost:{}", running.port)])
        .arg("--tls-verify")
        .arg(running.state().join("console-ca.pem"))
        .args(["--checks", CHECKS, "--max-examples", examples, "--seed", "1", "--max-time", seconds])
        .args(["--request-timeout", "20", "--rate-limit", RATE])
        .args(["--phases", "examples,coverage,fuzzing,stateful", "--no-color", "--continue-on-failure"]);
    if let Some(path) = only {
        judge.args(["--include-path", path]);
    }
    let said = run(&mut judge, LIMIT, interrupt)?;
    let all = crate::target_directory().join("judges/schemathesis.txt");
    fs::write(&all, format!("{}{}", said.stdout, said.stderr))
        .with_context(|| format!("writing {}", all.display()))?;
    ensure!(
        said.status.success(),
        "schemathesis found something; {} has it all:\n{}",
        all.display(),
        crate::process::tail(&said.stdout, 60)
    );
    let count = said.stdout.lines().rev().find(|line| line.contains("generated") || line.contains("cases"));
    Ok(count.unwrap_or("nothing found").trim().to_owned())
}

/// What one caller may change in a minute is 6,000: what asks faster judges the limit and little else.
const RATE: &str = "95/s";

/// Server errors, undocumented answers in every respect, and authentication that a request gets around.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,ignored_auth,unsupported_method";

/// Lints the OpenAPI document.
///
/// # Errors
/// The tools cannot be had, or it found an error.
pub fn redocly(interrupt: &Interrupt) -> Result<String> {
    let place = npm::modules("redocly", interrupt)?;
    let judge = crate::repository().join("tests/judges/redocly");
    let mut lint = Command::new(place.join("node_modules/.bin/redocly"));
    lint.current_dir(&judge)
        .env("REDOCLY_TELEMETRY", "off")
        .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true")
        .args(["lint", "--config", "redocly.yaml"])
        .arg(crate::repository().join("docs/openapi.json").canonicalize()?);
    let said = run(&mut lint, Duration::from_secs(120), interrupt)?;
    let text = format!("{}{}", said.stdout, said.stderr);
    ensure!(said.status.success(), "redocly found something:\n{}", crate::process::tail(&text, 80));
    Ok("0 errors".to_owned())
}

/// Holds what the console's command for Kubernetes applies against Kubernetes' own schemas.
///
/// # Errors
/// The tool cannot be had, or it found something.
pub fn kubernetes(interrupt: &Interrupt) -> Result<String> {
    let python = python::environment("judges/kubernetes", interrupt)?;
    let mut judge = Command::new(python.with_file_name("kubernetes-validate"));
    judge.arg("--strict").arg(crate::repository().join("docs/connector.yaml"));
    let said = run(&mut judge, Duration::from_secs(60), interrupt)?;
    let text = format!("{}{}", said.stdout, said.stderr);
    ensure!(
        said.status.success(),
        "kubernetes-validate found something:\n{}",
        crate::process::tail(&text, 40)
    );
    Ok("docs/connector.yaml is as the schemas ask".to_owned())
}
