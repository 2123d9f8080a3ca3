//! The command line: what can be said, and how it is explained.

mod admin;

pub use admin::*;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};

/// Private access that goes on when the control plane does not.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about,
    long_about = "Private access that goes on when the control plane does not.\n\n\
        People's devices reach named resources in private networks through outbound-only connectors, by \
        policy, end to end encrypted.",
    after_help = "Start here:\n  tidegate demo                 the whole system on this machine, until Ctrl-C\n  \
        tidegate demo --check         the same as a test, one line a step\n  \
        tidegate serve --help         a small installation of your own\n\n\
        Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not enrolled or not running · \
        4 refused by policy or revoked · 5 not possible right now, try again",
    propagate_version = true
)]
pub struct Cli {
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log to standard error, as in `info` or `pop=debug`.
    #[arg(long, global = true, env = "TIDEGATE_LOG", default_value = "warn", value_name = "FILTER")]
    pub log: String,
    /// Log JSON lines.
    #[arg(long, global = true, env = "TIDEGATE_LOG_JSON")]
    pub log_json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole system on this machine: every role its own process, a private web site, a tunnel.
    Demo(DemoArgs),
    /// Run a small installation: a controller and a PoP on this host, each its own process.
    Serve(ServeArgs),
    /// Run a controller.
    Controller(ControllerArgs),
    /// Run a PoP (point of presence).
    Pop(PopArgs),
    /// Run a connector in a site.
    Connector(ConnectorArgs),
    /// Enrol this device: by a code that you confirm in a browser, or with a key or one-time link.
    Login(LoginArgs),
    /// Start the client.
    Up(UpArgs),
    /// Run one command whose connections go to resources, without privileges.
    Run(RunArgs),
    /// Stop the client.
    Down(ClientArgs),
    /// Put back resolver settings that a killed client left behind (root).
    Cleanup,
    /// Say what works, over which path, and until when.
    Status(StatusArgs),
    /// List the resources this device may reach.
    Resources(ClientArgs),
    /// Explain why a resource can or cannot be reached.
    Why(WhyArgs),
    /// Measure the way to a resource's connector: round trip, loss, direct or relayed.
    Ping(PingArgs),
    /// Say what this network does to packets: UDP, address translation, paths tried.
    #[command(after_help = "Examples:\n  tidegate netcheck\n  tidegate netcheck --json | jq .mapping")]
    Netcheck(ClientArgs),
    /// Make a resource's port a local port.
    Forward(ForwardArgs),
    /// Administer an installation.
    Admin(AdminArgs),
    /// Replay a real outage on this machine with real processes, and say whether access went on.
    Drill(DrillArgs),
    /// Print what a shell needs to complete this program's commands.
    #[command(after_help = "Examples:\n  tidegate completions bash > /etc/bash_completion.d/tidegate\n  \
        tidegate completions zsh > ~/.zfunc/_tidegate\n  tidegate completions fish > ~/.config/fish/completions/tidegate.fish")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of this program and its commands into a directory.
    ManPages {
        /// The directory; it is made when it does not exist.
        directory: PathBuf,
    },
    /// A private web site and a TCP service to try things on (used by the demo).
    #[command(hide = true)]
    DemoSite(DemoSiteArgs),
    /// Many clients in one process, told what to do on standard input (used by drills).
    #[command(hide = true)]
    LoadWorker(LoadWorkerArgs),
}

/// Which outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DrillName {
    /// The database gets slow, then nothing comes back from it.
    DatabaseBrownout,
    /// Broken clients start over a hundred times as often, and the database is gone.
    HolepunchSurge,
    /// A PoP dies and everybody comes back at once; then the controller dies.
    ReconnectStorm,
    /// The controller starts again while its database does not answer.
    ColdCache,
    /// A PoP accepts TCP and drops every datagram.
    BlackHoleRelay,
    /// Damaged, duplicated, oversized, truncated and empty snapshots reach the controller.
    PoisonSnapshot,
    /// Every signing key is replaced again and again, and who was away missed some of it.
    KeyRotation,
    /// The database's primary is killed under writes, a standby takes over, and the old primary comes back. On PostgreSQL.
    PrimaryLoss,
    /// Somebody else's transaction has every table locked, for a moment and for long. On PostgreSQL.
    LockBlip,
    /// Somebody else takes every connection that the database's server gives. On PostgreSQL.
    PoolExhaustion,
    /// A newer version changes the database and does not come up; the older one goes back into service. On PostgreSQL.
    BadRollout,
    /// The provider that people sign in at takes connections and never answers.
    HungThirdParty,
    /// The clock of each role jumps in turn, and the host sleeps. Needs a build whose clocks can be set.
    ClockJump,
}

/// Where the controller of a drill keeps its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DrillDatabase {
    /// In a file of its state directory.
    Sqlite,
    /// In a PostgreSQL that the drill makes from the installed programs, and ends.
    Postgres,
}

/// Arguments of `drill`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate drill database-brownout\n  tidegate drill database-brownout --database postgres\n  \
    tidegate drill holepunch-surge --clients 2000 --duration 120\n  tidegate drill database-brownout --json | jq 'select(.holds == false)'\n\n\
    Everything runs on this host, in a temporary directory, on loopback addresses, and is gone at the end; only the report stays. \
    Exit code 0 when every pass level is reached, else 1."
)]
pub struct DrillArgs {
    /// Which outage.
    #[arg(value_enum)]
    pub drill: DrillName,
    /// Where the configuration is: SQLite, unless the drill is one of PostgreSQL's own. `database-brownout`, `cold-cache` and
    /// `hung-third-party` run on both.
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub database: Option<DrillDatabase>,
    /// How many devices.
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(20..=60_000))]
    pub clients: usize,
    /// How long the phases take together, in seconds (setting the stage not counted).
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(20..=86_400))]
    pub duration: u32,
    /// The seed of the clients' randomness.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub seed: u64,
    /// Where the report goes: one HTML file. `tidegate-drill-NAME.html` here by default.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Arguments of `load-worker`.
#[derive(Debug, Args)]
pub struct LoadWorkerArgs {
    /// The directory that holds the state directories `c0`, `c1`, ….
    #[arg(long, value_name = "DIR")]
    pub states: PathBuf,
    /// First member.
    #[arg(long)]
    pub from: usize,
    /// One behind the last.
    #[arg(long)]
    pub to: usize,
    /// `HOST:PORT` of a service that sends back each line.
    #[arg(long)]
    pub target: String,
    /// Seed of the clients' randomness.
    #[arg(long)]
    pub seed: u64,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate demo\n  tidegate demo --check\n  tidegate demo --check --json | jq ."
)]
pub struct DemoArgs {
    /// Prove the claims step by step and exit: 0 when every step holds, else 1.
    #[arg(long)]
    pub check: bool,
    /// Where the state directories go; removed at the end. A fresh temporary directory by default.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many mebibytes the download step moves.
    #[arg(long, default_value_t = 50, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub download: u32,
}

/// Arguments of `demo-site`.
#[derive(Debug, Args)]
pub struct DemoSiteArgs {
    /// Where the web site listens.
    #[arg(long, value_name = "ADDR")]
    pub web: SocketAddr,
    /// Where the line-echo service listens; may be given more than once.
    #[arg(long, value_name = "ADDR", required = true)]
    pub echo: Vec<SocketAddr>,
    /// A file to serve at `/download`.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate serve --state /var/lib/tidegate/serve --listen 0.0.0.0:443 --advertise tide.example.org:443\n  \
    tidegate serve --advertise tide.example.org:443 --database-url-file /etc/tidegate/database --replica-url-file /etc/tidegate/replicas\n\n\
    The first start makes the root key, shows its recovery phrase once and prints a one-time link for the first owner."
)]
pub struct ServeArgs {
    /// Serve `/livez`, `/readyz` and `/metrics` (Prometheus) of the controller on this address and of the PoP on the port
    /// behind it, best loopback ones: `127.0.0.1:9460`.
    #[arg(long, value_name = "ADDR")]
    pub diagnostics: Option<SocketAddr>,
    /// The state directory; the controller's and the PoP's are inside.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// UDP and TCP address that clients, connectors and browsers reach.
    #[arg(long, default_value = "0.0.0.0:443", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// `HOST:PORT` under which they reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: String,
    /// The console's certificate chain, PEM; our own CA by default.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// The key of `--tls-certificate`, PEM.
    #[arg(long, requires = "tls_certificate", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Where the configuration is kept.
    #[command(flatten)]
    pub database: DatabaseSource,
    /// What follows it.
    #[command(flatten)]
    pub replicas: ReplicaSource,
    /// The container image that the console's commands for Docker and Kubernetes start connectors from, with this program as
    /// its entry point. Without one they say how to make it.
    #[arg(long, value_name = "IMAGE")]
    pub connector_image: Option<controller::ConnectorImage>,
    /// Issue certificates, grants and slices also when no PoP can be reached and the snapshot is older than a
    /// day: what was revoked elsewhere meanwhile may come back to life.
    #[arg(long)]
    pub dangerous_issue_from_old_snapshot: bool,
}

/// Arguments of `controller`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate controller --listen 0.0.0.0:443 --url https://gate.example.org\n  \
    tidegate controller --listen 0.0.0.0:443 --url https://gate.example.org --database-url-file /etc/tidegate/database \
    --replica-url-file /etc/tidegate/replicas\n\n\
    A replica is a streaming standby of the database's server (pg_basebackup). While the primary does not answer, the \
    configuration is read from it; changes wait. `tidegate admin status` says which replicas can be read from, and why not."
)]
pub struct ControllerArgs {
    /// Serve `/livez`, `/readyz` and `/metrics` (Prometheus) on this address, best a loopback one: `127.0.0.1:9460`.
    #[arg(long, value_name = "ADDR")]
    pub diagnostics: Option<SocketAddr>,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// TCP address of the console and API.
    #[arg(long, value_name = "ADDR", required_unless_present = "unix")]
    pub listen: Option<SocketAddr>,
    /// Take console connections from a PoP on this host over this Unix socket instead.
    #[arg(long, value_name = "PATH")]
    pub unix: Option<PathBuf>,
    /// The address people and agents use, `https://HOST[:PORT]`.
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// The console's certificate chain, PEM; our own CA by default.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// The key of `--tls-certificate`, PEM.
    #[arg(long, requires = "tls_certificate", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Where the configuration is kept.
    #[command(flatten)]
    pub database: DatabaseSource,
    /// What follows it.
    #[command(flatten)]
    pub replicas: ReplicaSource,
    /// The container image that the console's commands for Docker and Kubernetes start connectors from, with this program as
    /// its entry point. Without one they say how to make it.
    #[arg(long, value_name = "IMAGE")]
    pub connector_image: Option<controller::ConnectorImage>,
    /// Issue certificates, grants and slices also when no PoP can be reached and the snapshot is older than a
    /// day: what was revoked elsewhere meanwhile may come back to life.
    #[arg(long)]
    pub dangerous_issue_from_old_snapshot: bool,
    /// The first start of a further controller of an installation: the file that `tidegate admin add-controller` wrote
    /// for it. It has private keys: remove it when the controller has started.
    #[arg(long, value_name = "FILE")]
    pub controller_file: Option<PathBuf>,
    /// Whoever started this process shows the recovery phrase and says so itself.
    #[arg(long, hide = true)]
    pub first_start_is_shown_by_supervisor: bool,
}

/// Where the configuration is kept.
#[derive(Debug, Clone, Default, Args)]
pub struct DatabaseSource {
    /// Keep the configuration in PostgreSQL and not in a file of the state directory:
    /// `postgres://USER:PASSWORD@HOST:PORT[,HOST:PORT…]/DATABASE?sslmode=verify-full&sslrootcert=FILE`. As an argument
    /// without a password only; with one in the environment or in a file.
    #[arg(long, env = "TIDEGATE_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// A file with that URL, readable by this user alone.
    #[arg(long, env = "TIDEGATE_DATABASE_URL_FILE", value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,
}

/// Servers that follow the one with the configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct ReplicaSource {
    /// Read the configuration from this streaming replica when the server of --database-url does not answer. Can be given
    /// several times; in the environment, several with spaces between them. As an argument without a password only; with
    /// one in the environment or in a file.
    #[arg(
        long,
        env = "TIDEGATE_REPLICA_URL",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ' '
    )]
    pub replica_url: Vec<String>,
    /// A file with such URLs, one a line, readable by this user alone.
    #[arg(long, env = "TIDEGATE_REPLICA_URL_FILE", value_name = "FILE")]
    pub replica_url_file: Option<PathBuf>,
}

/// A key from wherever it is kept.
#[derive(Debug, Args)]
pub struct KeySource {
    /// The join key itself. Other users of this host can read it in the process list:
    /// prefer --join-file.
    #[arg(long, env = "TIDEGATE_JOIN", hide_env_values = true, value_name = "KEY")]
    pub join: Option<String>,
    /// A file with the join key; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    pub join_file: Option<PathBuf>,
}

/// Arguments of `pop`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tidegate pop --join-file key --advertise pop1.example.org:443\n  tidegate pop          (later starts need no key)"
)]
pub struct PopArgs {
    /// Serve `/livez`, `/readyz` and `/metrics` (Prometheus) on this address, best a loopback one: `127.0.0.1:9460`.
    #[arg(long, value_name = "ADDR")]
    pub diagnostics: Option<SocketAddr>,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The first start's key.
    #[command(flatten)]
    pub key: KeySource,
    /// `HOST:PORT` under which agents and controllers reach this PoP; needed once, with the key.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// UDP address to listen on.
    #[arg(long, default_value = "0.0.0.0:443", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// TCP address to listen on, for agents in networks without UDP; that of --listen by default.
    #[arg(long, value_name = "ADDR")]
    pub tcp_front: Option<SocketAddr>,
    /// Do not listen on TCP.
    #[arg(long, conflicts_with_all = ["tcp_front", "console_socket"])]
    pub no_tcp: bool,
    /// Pass console connections to the controller's Unix socket.
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Enrol by the admin socket of a controller on this host: `serve` does, whose controller is reached from
    /// elsewhere only through this PoP.
    #[arg(long, value_name = "PATH", hide = true)]
    pub join_socket: Option<PathBuf>,
    /// How long a SIGTERM gives agents to go to their next PoP, in seconds. The only PoP of an installation ends at once.
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub drain: u32,
    /// The PoP's name; this host's by default.
    #[arg(long)]
    pub name: Option<String>,
}

/// Arguments of `connector`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tidegate connector --join-file key      enrols and runs\n  tidegate connector                      later starts need no key, and no controller"
)]
pub struct ConnectorArgs {
    /// Serve `/livez`, `/readyz` and `/metrics` (Prometheus) on this address, best a loopback one: `127.0.0.1:9460`.
    #[arg(long, value_name = "ADDR")]
    pub diagnostics: Option<SocketAddr>,
    /// Ask no router for a port mapping (PCP, NAT-PMP, UPnP).
    #[arg(long, env = "TIDEGATE_NO_PORT_MAPPING")]
    pub no_port_mapping: bool,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The first start's key.
    #[command(flatten)]
    pub key: KeySource,
    /// The connector's name; this host's by default.
    #[arg(long)]
    pub name: Option<String>,
    /// Who carries flows into the site: this process, without privileges; or this machine's kernel, by an interface and
    /// a table of nftables (as root). `auto` is the kernel where that is possible.
    #[arg(long, env = "TIDEGATE_MODE", value_name = "MODE", default_value = "userspace")]
    pub mode: ForwardingMode,
    /// The interface's name in kernel mode; each connector of a machine needs its own, best with `tidesite` in front.
    #[arg(long, default_value = "tidesite0", value_name = "NAME", value_parser = interface_name)]
    pub interface: String,
    /// Four IPv4 addresses that nobody uses (a /30) for kernel mode, if the usual ones are taken.
    #[arg(long, value_name = "PREFIX", value_parser = site_range)]
    pub site_range: Option<policy::Prefix>,
    /// This process was started by a guardian, which offers an interface on standard input.
    #[arg(long, hide = true)]
    pub seat: bool,
}

/// Who carries a connector's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ForwardingMode {
    /// The connector's own process.
    Userspace,
    /// The machine's kernel; where that is not possible, the connector does not start.
    Kernel,
    /// The kernel where that is possible.
    Auto,
}

fn site_range(text: &str) -> Result<policy::Prefix, String> {
    let prefix: policy::Prefix = text.parse().map_err(|error| format!("{error}"))?;
    if prefix.address().is_ipv4() && prefix.length() == 30 {
        Ok(prefix)
    } else {
        Err("expected an IPv4 range of four addresses, such as 198.18.0.0/30".to_owned())
    }
}

/// Arguments of `login`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate login https://tide.example.org          shows a code; you confirm it in a browser\n  tidegate login --key-file key\n  tidegate login < key\n  tidegate login https://tide.example.org/join#tg1.…"
)]
pub struct LoginArgs {
    /// The controller's address, or a key or link. Other users of this host can read a key in the process list:
    /// prefer --key-file or standard input for it.
    #[arg(value_name = "CONTROLLER-LINK-OR-KEY", conflicts_with = "key_file")]
    pub key: Option<String>,
    /// With a controller's address: its root's hash, as the console shows it. The controller is believed by it alone.
    #[arg(long, value_name = "HASH")]
    pub root: Option<String>,
    /// With a controller's address: the certificate of its own CA (PEM), besides those that this machine believes.
    #[arg(long, value_name = "FILE", conflicts_with = "root")]
    pub ca: Option<PathBuf>,
    /// A file with the key; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The device's name; this host's by default.
    #[arg(long)]
    pub name: Option<String>,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate up                       starts the client in the background\n  tidegate up --foreground --socks 127.0.0.1:1080\n  printf 'proxy = %s' \"$(cat ~/.local/state/tidegate/client/proxy-url)\" | curl -K - http://wiki/\n  sudo tidegate up --tun --state ~/.local/state/tidegate/client    every program, no proxy"
)]
pub struct UpArgs {
    /// Serve `/livez`, `/readyz` and `/metrics` (Prometheus) on this address, best a loopback one: `127.0.0.1:9460`.
    #[arg(long, value_name = "ADDR")]
    pub diagnostics: Option<SocketAddr>,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Stay in the foreground.
    #[arg(long)]
    pub foreground: bool,
    /// Loopback address of the proxy: SOCKS5 and HTTP CONNECT on one port.
    #[arg(long, visible_alias = "socks", default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub proxy: SocketAddr,
    /// Ask no router for a port mapping (PCP, NAT-PMP, UPnP).
    #[arg(long, env = "TIDEGATE_NO_PORT_MAPPING")]
    pub no_port_mapping: bool,
    /// Reach resources without a proxy: every program finds their names and addresses by an interface of this
    /// machine (as root). `auto` goes on with the proxy alone where that is not possible.
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub tun: Option<TunWhen>,
    /// The interface's name.
    #[arg(long, requires = "tun", default_value = "tidegate0", value_name = "NAME", value_parser = interface_name)]
    pub interface: String,
    /// Where the IPv4 addresses of private names are taken from, if not from the first usual range that is free.
    #[arg(long, requires = "tun", value_name = "PREFIX")]
    pub synthetic_v4: Option<policy::Prefix>,
    /// The same for IPv6.
    #[arg(long, requires = "tun", value_name = "PREFIX")]
    pub synthetic_v6: Option<policy::Prefix>,
    /// A domain that short names are tried in, behind this machine's own; may be said up to six times.
    #[arg(long, value_name = "DOMAIN")]
    pub search: Vec<policy::HostName>,
    /// This process was started by a guardian, which offers an interface on standard input.
    #[arg(long, hide = true, conflicts_with = "tun")]
    pub seat: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate run -- curl http://wiki/\n  tidegate run --key-file /run/secrets/tidegate --state /var/lib/tidegate/client -- ./backup.sh\n\nThe command gets a SOCKS5 and HTTP proxy in ALL_PROXY, HTTP_PROXY and HTTPS_PROXY, in capitals and in small letters.\nA program that looks at none of them is not helped by it: tidegate up --tun helps every program. The exit code is the\ncommand's own."
)]
pub struct RunArgs {
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// A file with a key to enrol with, where this state directory is not enrolled yet: best a service account's.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The device's name when it enrols; this host's by default.
    #[arg(long, requires = "key_file")]
    pub name: Option<String>,
    /// Ask no router for a port mapping (PCP, NAT-PMP, UPnP).
    #[arg(long, env = "TIDEGATE_NO_PORT_MAPPING")]
    pub no_port_mapping: bool,
    /// What to run, behind two dashes.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
}

/// When an interface is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TunWhen {
    /// Always; where it is not possible, the client does not start.
    On,
    /// Where it is possible.
    Auto,
}

/// What the kernel takes as a name (IFNAMSIZ), without what shells and paths make something else of.
fn interface_name(text: &str) -> Result<String, String> {
    let is_fine = (1..=15).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && !text.starts_with('-');
    if is_fine { Ok(text.to_owned()) } else { Err("expected 1 to 15 letters, digits, - or _".to_owned()) }
}

/// Arguments of commands that ask the running client.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Of the connector on this machine, not of the client.
    #[arg(long)]
    pub connector: bool,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// A resource's name, alias, host name or address.
    pub resource: String,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// Arguments of `ping`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate ping wiki\n  tidegate ping db --count 20 --interval-ms 100 --json"
)]
pub struct PingArgs {
    /// A resource's name, alias, host name or address.
    pub resource: String,
    /// How many times.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub count: u32,
    /// Milliseconds from one to the next.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    pub interval_ms: u64,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// Arguments of `forward`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate forward db:5432 --listen 127.0.0.1:5432\n  psql -h 127.0.0.1 …\n  \
    tidegate forward db:5432 --socket ~/pg/.s.PGSQL.5432\n  psql -h ~/pg …\n\n\
    Every user of this machine can connect to a port on 127.0.0.1, and reaches the resource as you. On a machine \
    that others use, take --socket: a Unix socket that only you can open (mode 0600)."
)]
pub struct ForwardArgs {
    /// `RESOURCE:PORT`.
    pub target: String,
    /// The local address; every user of this machine can connect to it.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// A Unix socket instead, which only you can open.
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub socket: Option<PathBuf>,
    /// The state directory.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_kind_of_key_takes_its_own_arguments_and_exactly_one_kind_is_named() {
        let parse = |words: &str| {
            Cli::try_parse_from(
                ["tidegate", "admin", "create", "key"].into_iter().chain(words.split_whitespace()),
            )
        };
        assert!(parse("--connector --site lab").is_ok());
        assert!(parse("--device --user alice --cap 5").is_ok());
        assert!(parse("--pop --region eu").is_ok());
        assert!(parse("--device --connector").is_err());
        assert!(parse("--user alice").is_err());
    }
}
