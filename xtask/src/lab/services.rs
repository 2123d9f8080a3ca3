//! Real services of the private site: nginx and PostgreSQL, in namespaces of their own.

use super::{daemon::Daemon, namespace::Namespace};
use crate::process::{Interrupt, on_path, run, wait_until};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const START_DEADLINE: Duration = Duration::from_secs(30);

/// The password of the lab's database user.
pub const DATABASE_PASSWORD: &str = "only-in-the-lab";
/// What the sample page says.
pub const PAGE: &str = "first bytes from a private web server\n";

/// Bytes of the file `small`.
pub const SMALL: usize = 1_000_000;
/// Bytes per second under `/paced/`: 50 MB take ten seconds.
pub const PACE: u32 = 5_000_000;

/// A real web server.
#[derive(Debug)]
pub struct WebServer {
    _daemon: Daemon,
    access_log: PathBuf,
}

impl WebServer {
    /// Starts nginx on port 80 of all addresses, with a small page, a `bytes`-long file called `big`, its
    /// first million bytes as `small`, and `big` again under `/paced/` at [`PACE`].
    ///
    /// # Errors
    /// nginx is not installed or does not come up.
    pub fn start(host: &Namespace, directory: &Path, bytes: usize, interrupt: &Interrupt) -> Result<Self> {
        ensure!(on_path("nginx"), "nginx is missing: apt-get install nginx-light");
        let root = directory.join("www");
        fs::create_dir_all(&root)?;
        for open in [directory, &root] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(root.join("index.html"), PAGE)?;
        fs::write(root.join("big"), noise(bytes))?;
        fs::write(root.join("small"), noise(SMALL))?;
        let here = directory.display();
        let access_log = directory.join("access.log");
        let configuration = format!(
            "daemon off; master_process off; worker_processes 1; pid {here}/nginx.pid; error_log {here}/error.log;
             events {{ worker_connections 256; }}
             http {{
                 access_log {};
                 client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;
                 fastcgi_temp_path {here}/fastcgi; uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
                 default_type application/octet-stream;
                 server {{
                     listen 0.0.0.0:80; listen [::]:80; root {root};
                     # Small pieces make an even pace: nginx waits after each for as long as it should take.
                     location /paced/ {{ alias {root}/; limit_rate {PACE}; sendfile on; sendfile_max_chunk 64k; }}
                 }}
             }}\n",
            access_log.display(),
            root = root.display()
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = host.command("nginx");
        command.arg("-e").arg(directory.join("error.log")).arg("-c").arg(&file);
        let daemon = Daemon::start(command, &directory.join("nginx.log"))?;
        wait_until("nginx on its port", START_DEADLINE, interrupt, || {
            let asked = host.run(Duration::from_secs(5), "curl", &["-sf", "http://127.0.0.1/"]);
            Ok(asked.ok())
        })
        .with_context(|| fs::read_to_string(directory.join("error.log")).unwrap_or_default())?;
        Ok(Self { _daemon: daemon, access_log })
    }

    /// The SHA-256 of the small file, by the system's own tool.
    ///
    /// # Errors
    /// The tool fails.
    pub fn small_file_sha256(&self, interrupt: &Interrupt) -> Result<String> {
        sha256(&self.access_log.with_file_name("www").join("small"), interrupt)
    }

    /// The SHA-256 of the big file, by the system's own tool.
    ///
    /// # Errors
    /// The tool fails.
    pub fn big_file_sha256(&self, interrupt: &Interrupt) -> Result<String> {
        sha256(&self.access_log.with_file_name("www").join("big"), interrupt)
    }

    /// How many requests nginx has answered to `address`.
    pub fn requests_from(&self, address: Ipv4Addr) -> usize {
        let log = fs::read_to_string(&self.access_log).unwrap_or_default();
        log.lines().filter(|line| line.starts_with(&format!("{address} "))).count()
    }
}

/// The SHA-256 of a file, by a tool that nobody here wrote.
///
/// # Errors
/// The tool fails.
pub fn sha256(file: &Path, interrupt: &Interrupt) -> Result<String> {
    let said =
        run(Command::new("sha256sum").arg(file), Duration::from_secs(60), interrupt)?.success("sha256sum")?;
    said.stdout.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

/// Bytes that do not compress and are the same in every run (xorshift64*, Marsaglia 2003).
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let words = std::iter::repeat_with(|| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

/// A real database server.
#[derive(Debug)]
pub struct Database {
    _daemon: Daemon,
}

impl Database {
    /// Makes a cluster in `directory` and starts it on port 5432.
    ///
    /// # Errors
    /// PostgreSQL is not installed or does not come up.
    pub fn start(
        host: &Namespace,
        address: Ipv4Addr,
        directory: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let programs = programs()?;
        fs::create_dir_all(directory)?;
        let data = directory.join("data");
        let password = directory.join("password");
        fs::write(&password, DATABASE_PASSWORD)?;
        // PostgreSQL refuses to run as root; Debian's packages make the user `postgres`.
        let mut owner = Command::new("chown");
        owner.args(["-R", "postgres:postgres"]).arg(directory);
        run(&mut owner, Duration::from_secs(10), interrupt)?.success("chown")?;
        let mut initdb = Command::new("setpriv");
        initdb.args(AS_POSTGRES).arg(programs.join("initdb")).arg("--pgdata").arg(&data);
        initdb.args(["--username", "lab", "--auth", "scram-sha-256", "--no-sync", "--locale", "C.UTF-8"]);
        initdb.arg("--pwfile").arg(&password).current_dir("/");
        run(&mut initdb, Duration::from_secs(60), interrupt)?.success("initdb")?;
        let mut rules = fs::read_to_string(data.join("pg_hba.conf"))?;
        rules.push_str("host all all 10.0.2.0/24 scram-sha-256\n");
        fs::write(data.join("pg_hba.conf"), rules)?;
        let mut command = host.command("setpriv");
        command.args(AS_POSTGRES).arg(programs.join("postgres")).arg("-D").arg(&data);
        command.args(["-p", "5432", "-c", "fsync=off", "-c", &format!("listen_addresses={address}")]);
        command.arg("-k").arg(directory).current_dir("/");
        let daemon = Daemon::start(command, &directory.with_extension("log"))?;
        wait_until("PostgreSQL on its port", START_DEADLINE, interrupt, || {
            let asked = query(host, address, 5432, "select 1");
            Ok(asked.ok())
        })
        .with_context(|| daemon.last_words())?;
        Ok(Self { _daemon: daemon })
    }
}

const AS_POSTGRES: [&str; 3] = ["--reuid=postgres", "--regid=postgres", "--init-groups"];

/// Asks a question of the database by psql, from inside `from`.
///
/// # Errors
/// psql fails.
pub fn query(from: &Namespace, address: Ipv4Addr, port: u16, sql: &str) -> Result<String> {
    let target =
        format!("host={address} port={port} user=lab dbname=postgres connect_timeout=10 sslmode=disable");
    let password = format!("PGPASSWORD={DATABASE_PASSWORD}");
    let said = from.run(
        Duration::from_secs(20),
        "env",
        &[
            &password,
            "psql",
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--dbname",
            &target,
            "--command",
            sql,
        ],
    )?;
    Ok(said.stdout.trim().to_owned())
}

/// Debian keeps a version's programs in a directory of its own, off the path.
fn programs() -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.retain(|programs| programs.join("initdb").is_file() && programs.join("postgres").is_file());
    versions.sort();
    versions.pop().context("PostgreSQL's server programs are missing: apt-get install postgresql")
}

/// Whether PostgreSQL's server programs are installed.
pub fn has_database_programs() -> bool {
    programs().is_ok()
}
