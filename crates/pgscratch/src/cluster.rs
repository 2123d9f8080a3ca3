use crate::{
    ScratchError,
    programs::{Owner, programs},
    tree,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// A machine whose cores are busy with other tests.
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Of the role that databases are made for: no superuser, so that the server's rules hold for it.
const ROLE: &str = "tidegate";
const PASSWORD: &str = "scratch-password";

/// The server lives as long as somebody holds the other end of this program's standard input: also a test that is
/// killed leaves nothing behind, unless it said `keep` to start the same cluster again.
const KEEPER: &str = r#"
directory=$1; shift
"$@" </dev/null >>"$directory/log" 2>&1 &
child=$!
echo "$child" >"$directory/pid.new"; mv "$directory/pid.new" "$directory/pid"
IFS= read -r word || word=
kill -CONT "$child" 2>/dev/null
kill -QUIT "$child" 2>/dev/null
wait "$child"
[ "$word" = keep ] || rm -rf "$directory"
"#;

/// What a cluster is started with.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Further settings of the server, as `name=value`.
    pub server: Vec<String>,
    /// A certificate and its key, both PEM: the server then offers TLS.
    pub tls: Option<(String, String)>,
}

/// A running server, ended when dropped and when this process ends.
#[derive(Debug)]
pub struct Cluster {
    directory: tempfile::TempDir,
    programs: PathBuf,
    owner: Owner,
    port: u16,
    settings: Settings,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    keeper: Child,
    hold: Option<ChildStdin>,
    server: Pid,
}

impl Cluster {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// [`ScratchError`].
    pub fn start() -> Result<Self, ScratchError> {
        Self::start_with(Settings::default())
    }

    /// Makes a cluster and starts it with more settings.
    ///
    /// # Errors
    /// [`ScratchError`].
    pub fn start_with(settings: Settings) -> Result<Self, ScratchError> {
        let programs = programs()?;
        let owner = Owner::find()?;
        let directory = tempfile::Builder::new()
            .prefix("pgscratch-")
            .tempdir()
            .map_err(|error| ScratchError::Io("a temporary directory", error))?;
        owner.takes(directory.path())?;
        let mut initdb = owner.command(programs.join("initdb"));
        initdb.arg("--pgdata").arg(directory.path().join("data"));
        initdb.args(["--username", "postgres", "--no-sync", "--locale", "C.UTF-8", "--encoding", "UTF8"]);
        // Whoever may open the socket's directory is the superuser; by TCP everybody signs in.
        initdb.args(["--auth-local", "trust", "--auth-host", "scram-sha-256"]);
        run(&mut initdb, "initdb")?;
        if let Some((certificate, key)) = &settings.tls {
            for (name, text) in [("server.crt", certificate), ("server.key", key)] {
                let path = directory.path().join("data").join(name);
                write_private(&path, text)?;
                owner.takes(&path)?;
            }
        }
        let cluster =
            Self { directory, programs, owner, port: free_port()?, settings, running: Mutex::new(None) };
        cluster.resume()?;
        let role = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}' NOSUPERUSER NOBYPASSRLS");
        cluster.sql("postgres", &role)?;
        Ok(cluster)
    }

    /// Makes a standby that follows this server by streaming, and starts it: it answers reads and takes no writes.
    ///
    /// # Errors
    /// [`ScratchError`].
    pub fn standby(&self) -> Result<Self, ScratchError> {
        let directory = tempfile::Builder::new()
            .prefix("pgscratch-")
            .tempdir()
            .map_err(|error| ScratchError::Io("a temporary directory", error))?;
        self.owner.takes(directory.path())?;
        self.copy_to(&directory.path().join("data"))?;
        let standby = Self {
            directory,
            programs: self.programs.clone(),
            owner: self.owner,
            port: free_port()?,
            settings: self.settings.clone(),
            running: Mutex::new(None),
        };
        standby.resume()?;
        Ok(standby)
    }

    fn copy_to(&self, data: &Path) -> Result<(), ScratchError> {
        let mut copy = self.owner.command(self.programs.join("pg_basebackup"));
        copy.arg("--pgdata").arg(data);
        copy.arg("--host").arg(self.directory.path()).args(["--port", &self.port.to_string()]);
        copy.args(["--username", "postgres", "--wal-method", "stream", "--checkpoint", "fast"]);
        copy.args(["--write-recovery-conf", "--no-sync"]);
        run(&mut copy, "pg_basebackup").map(drop)
    }

    /// From now on a commit waits until a standby has it. Make the standby first: its copy of the settings has this too.
    ///
    /// # Errors
    /// [`ScratchError`], also when no standby follows.
    pub fn commit_to_a_standby(&self) -> Result<(), ScratchError> {
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        let state = "SELECT COUNT(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        self.wait_for(|| self.sql("postgres", state).ok().filter(|count| count == "1"))
            .map(|_| ())
            .ok_or_else(|| ScratchError::Silent(START.as_secs(), self.log()))
    }

    /// From now on a commit waits until one of `standbys` standbys has it, whichever: either may be missing.
    ///
    /// # Errors
    /// [`ScratchError`], also when fewer follow.
    pub fn commit_to_any_of(&self, standbys: usize) -> Result<(), ScratchError> {
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'")?;
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        let state = "SELECT COUNT(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        let wanted = standbys.to_string();
        self.wait_for(|| self.sql("postgres", state).ok().filter(|count| *count == wanted))
            .map(|_| ())
            .ok_or_else(|| ScratchError::Silent(START.as_secs(), self.log()))
    }

    /// How far a standby has come in what it received, in bytes of its primary's log: of several that may take over, the
    /// one with the most has every commit that was acknowledged.
    ///
    /// # Errors
    /// [`ScratchError`], also when it is no standby.
    pub fn received(&self) -> Result<u64, ScratchError> {
        let said =
            self.sql("postgres", "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')::bigint")?;
        said.parse().map_err(|_| ScratchError::Program { program: "psql".into(), said })
    }

    /// Makes a standby that follows `primary` of this server, which was killed: its data is replaced, its port is kept.
    /// It is what a failover manager does with an old primary that comes back.
    ///
    /// # Errors
    /// [`ScratchError`], also while it runs.
    pub fn follow(&self, primary: &Self) -> Result<(), ScratchError> {
        if self.running().is_some() {
            let said = "it runs: kill it before it follows another server".to_owned();
            return Err(ScratchError::Program { program: "postgres".into(), said });
        }
        let data = self.directory.path().join("data");
        fs::remove_dir_all(&data).map_err(|error| ScratchError::Io("the old primary's data", error))?;
        primary.copy_to(&data)?;
        self.resume()
    }

    /// Makes a server of its own of a standby: it takes writes when this returns.
    ///
    /// # Errors
    /// [`ScratchError::Program`] with what the server said.
    pub fn promote(&self) -> Result<(), ScratchError> {
        match self.sql("postgres", "SELECT pg_promote(true, 30)")?.as_str() {
            "t" => Ok(()),
            other => Err(ScratchError::Program { program: "pg_promote".into(), said: other.to_owned() }),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the server, again after [`Cluster::kill`].
    ///
    /// # Errors
    /// [`ScratchError`].
    pub fn resume(&self) -> Result<(), ScratchError> {
        let mut running = self.running();
        if running.is_some() {
            return Ok(());
        }
        let directory = self.directory.path();
        let _ = fs::remove_file(directory.join("pid"));
        let mut keeper = self.owner.command("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(directory).arg(self.programs.join("postgres"));
        keeper.arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
        keeper.args(["-p", &self.port.to_string()]);
        // Nobody needs what a test wrote after a power cut.
        let fixed = ["listen_addresses=127.0.0.1", "fsync=off", "max_connections=60", "shared_buffers=16MB"];
        for setting in fixed.into_iter().chain(self.settings.server.iter().map(String::as_str)) {
            keeper.args(["-c", setting]);
        }
        if self.settings.tls.is_some() {
            keeper.args(["-c", "ssl=on"]);
        }
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C ends who started it, and that ends the server: a keeper that heard it too would clean nothing up.
        keeper.process_group(0);
        let mut keeper = keeper.spawn().map_err(|error| ScratchError::Io("starting the server", error))?;
        let hold = keeper.stdin.take();
        let ready = self.wait_for(|| {
            let id = fs::read_to_string(directory.join("pid")).ok()?;
            let server = Pid::from_raw(id.trim().parse().ok()?)?;
            self.sql("postgres", "SELECT 1").ok().map(|_| server)
        });
        let Some(server) = ready else {
            drop(hold);
            let _ = keeper.wait();
            return Err(ScratchError::Silent(START.as_secs(), self.log()));
        };
        *running = Some(Running { keeper, hold, server });
        Ok(())
    }

    fn wait_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        for _ in 0..START.as_millis() / LOOK.as_millis() {
            if let Some(found) = look() {
                return Some(found);
            }
            thread::sleep(LOOK);
        }
        None
    }

    /// Makes an empty database and says where it is, for a role that is no superuser and owns it.
    ///
    /// # Errors
    /// [`ScratchError`].
    pub fn database(&self, name: &str) -> Result<String, ScratchError> {
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {ROLE}"))?;
        Ok(self.url(name))
    }

    /// Where a database is, by TCP on loopback.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_behind(self.port, database)
    }

    /// The same for whoever goes through something else on 127.0.0.1 that leads here.
    #[must_use]
    pub fn url_behind(&self, port: u16, database: &str) -> String {
        format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{port}/{database}")
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs SQL as the superuser, by psql; what it printed, unaligned and without headings.
    ///
    /// # Errors
    /// [`ScratchError::Program`] with what psql said.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, ScratchError> {
        let mut psql = self.owner.command(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]);
        psql.arg("--host").arg(self.directory.path()).args(["--port", &self.port.to_string()]);
        psql.args(["--username", "postgres", "--dbname", database, "--command", sql]);
        psql.env("PGCONNECT_TIMEOUT", "5");
        run(&mut psql, "psql").map(|said| said.trim_end().to_owned())
    }

    /// Stops every process of the server where it stands: connections stay open and nobody answers.
    pub fn freeze(&self) {
        let Some(server) = self.running().as_ref().map(|running| running.server) else { return };
        // The oldest first: whoever could start more is stopped before the rest is looked for again.
        while !tree::are_stopped(server) {
            tree::signal_all(server, Signal::STOP);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        if let Some(running) = self.running().as_ref() {
            tree::signal_all(running.server, Signal::CONT);
        }
    }

    /// Kills it without a chance to say goodbye.
    pub fn kill(&self) {
        let Some(mut running) = self.running().take() else { return };
        let all = tree::below(running.server);
        tree::signal_all(running.server, Signal::KILL);
        // While one of them is still there its memory is, and no server starts beside that.
        let _ = self.wait_for(|| tree::have_ended(&all).then_some(()));
        if let Some(mut hold) = running.hold.take() {
            let _ = hold.write_all(b"keep\n");
        }
        let _ = running.keeper.wait();
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(mut running) = self.running().take() else { return };
        tree::signal_all(running.server, Signal::CONT);
        // At once: nobody will look at this data again.
        let _ = kill_process(running.server, Signal::QUIT);
        drop(running.hold.take());
        let _ = running.keeper.wait();
    }
}

fn free_port() -> Result<u16, ScratchError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(|error| ScratchError::Io("a free port", error))
}

fn write_private(path: &Path, text: &str) -> Result<(), ScratchError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| ScratchError::Io("the server's certificate", error))
}

fn run(command: &mut Command, program: &str) -> Result<String, ScratchError> {
    let ended =
        command.output().map_err(|error| ScratchError::Io("starting a program of PostgreSQL", error))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    Err(ScratchError::Program { program: program.to_owned(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_starts_freezes_dies_comes_back_and_is_gone_at_the_end() {
        let cluster = Cluster::start().expect("a cluster");
        let url = cluster.database("one").expect("a database");
        assert!(url.contains("/one"), "{url}");
        assert_eq!(cluster.sql("one", "SELECT 40 + 2").expect("an answer"), "42");
        assert!(cluster.sql("one", "SELECT nothing").is_err());
        let server = cluster.running().as_ref().expect("it runs").server;
        cluster.freeze();
        assert!(tree::below(server).len() > 3 && tree::are_stopped(server));
        cluster.thaw();
        assert_eq!(cluster.sql("one", "SELECT 1").expect("an answer"), "1");
        cluster.kill();
        assert!(cluster.sql("one", "SELECT 1").is_err());
        cluster.resume().expect("it starts again");
        assert_eq!(cluster.sql("one", "SELECT 1").expect("an answer"), "1");
        let (directory, server) =
            (cluster.directory.path().to_owned(), cluster.running().as_ref().expect("it runs").server);
        drop(cluster);
        assert!(!directory.exists());
        assert!(rustix::process::test_kill_process(server).is_err(), "the server still runs");
    }

    #[test]
    fn a_standby_is_frozen_killed_and_started_again_like_any_server_and_catches_up() {
        let cluster = Cluster::start().expect("a cluster");
        cluster.database("one").expect("a database");
        let standby = cluster.standby().expect("a standby");
        cluster.sql("one", "CREATE TABLE t (n INT)").expect("committed");
        let follows = |rows: &str| {
            let counted = || standby.sql("one", "SELECT COUNT(*) FROM t").ok().filter(|count| count == rows);
            cluster.wait_for(counted).expect("it follows");
        };
        follows("0");
        standby.freeze();
        let server = standby.running().as_ref().expect("it runs").server;
        assert!(tree::are_stopped(server));
        cluster.sql("one", "INSERT INTO t VALUES (1)").expect("nobody waits for it");
        standby.thaw();
        follows("1");
        standby.kill();
        assert!(standby.sql("one", "SELECT 1").is_err());
        cluster.sql("one", "INSERT INTO t VALUES (2)").expect("nobody waits for it");
        standby.resume().expect("it starts again");
        follows("2");
    }

    #[test]
    fn a_standby_has_what_was_committed_takes_no_writes_and_takes_them_when_it_is_promoted() {
        let cluster = Cluster::start().expect("a cluster");
        cluster.database("one").expect("a database");
        let standby = cluster.standby().expect("a standby");
        cluster.commit_to_a_standby().expect("a standby that follows");
        cluster.sql("one", "CREATE TABLE t (n INT); INSERT INTO t VALUES (7)").expect("committed");
        assert!(standby.sql("one", "INSERT INTO t VALUES (8)").is_err());
        cluster.kill();
        standby.promote().expect("promoted");
        standby.sql("one", "INSERT INTO t VALUES (9)").expect("it takes writes");
        assert_eq!(
            standby.sql("one", "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t").expect("rows"),
            "7 9"
        );
    }

    #[test]
    fn an_old_primary_comes_back_as_a_standby_of_the_new_one_at_its_old_port() {
        let old = Cluster::start().expect("a cluster");
        old.database("one").expect("a database");
        let new = old.standby().expect("a standby");
        assert!(old.follow(&new).is_err(), "it runs");
        let port = old.port();
        old.kill();
        new.promote().expect("promoted");
        new.sql("one", "CREATE TABLE t (n INT); INSERT INTO t VALUES (1)").expect("it takes writes");
        old.follow(&new).expect("it follows");
        let counted = || old.sql("one", "SELECT COUNT(*) FROM t").ok().filter(|count| count == "1");
        old.wait_for(counted).expect("it has what the new one has");
        assert!(old.sql("one", "INSERT INTO t VALUES (2)").is_err());
        assert_eq!(old.port(), port);
    }
}
