//! What can be said to `tidegate admin`.

use super::DatabaseSource;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Arguments of `admin`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tidegate admin --state /var/lib/tidegate/serve create site --name office --prefix 10.0.2.0/24\n  \
    tidegate admin create resource --name wiki --site office --address wiki.office.internal --ports 443\n  \
    tidegate admin create resource --name lab --site office --address '*.lab.office.internal' --ports 443,udp/53,icmp\n  \
    tidegate admin create key --device --user alice > key\n  \
    tidegate admin list devices --json\n  \
    tidegate admin strike dev-…\n\n\
    On the controller's host, --state reaches it over a Unix socket. From elsewhere: --url https://… with a \
    token in TIDEGATE_TOKEN or --token-file, and --ca for a console with its own CA.")]
pub struct AdminArgs {
    /// The state directory of the controller on this host.
    #[arg(long, env = "TIDEGATE_STATE", value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
    /// The controller on this host, by its socket, whatever TIDEGATE_URL says: nobody signs in and no token is needed.
    #[arg(long, global = true, conflicts_with_all = ["token_file", "ca"])]
    pub local: bool,
    /// A controller elsewhere, `https://HOST[:PORT]`.
    #[arg(long, env = "TIDEGATE_URL", value_name = "URL", global = true)]
    pub url: Option<String>,
    /// A file with the API token; else TIDEGATE_TOKEN.
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// The organization that is meant, by name or id; the caller's own, or the first, by default.
    #[arg(long, value_name = "NAME", global = true)]
    pub organization: Option<String>,
    /// The console's CA certificate, PEM.
    #[arg(long, value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Organizations.
    #[value(alias = "organization")]
    Organizations,
    /// Sites.
    #[value(alias = "site")]
    Sites,
    /// Connectors.
    #[value(alias = "connector")]
    Connectors,
    /// PoPs.
    #[value(alias = "pop")]
    Pops,
    /// Resources.
    #[value(alias = "resource")]
    Resources,
    /// Groups.
    #[value(alias = "group")]
    Groups,
    /// Users.
    #[value(alias = "user")]
    Users,
    /// Service accounts.
    #[value(alias = "service-account")]
    ServiceAccounts,
    /// Devices.
    #[value(alias = "device")]
    Devices,
    /// Policies.
    #[value(alias = "policy")]
    Policies,
    /// Enrolment keys.
    #[value(aliases = ["key", "enrolment-key", "enrolment-keys"])]
    Keys,
    /// API tokens.
    #[value(alias = "token")]
    Tokens,
    /// Strikes.
    #[value(alias = "strike")]
    Strikes,
    /// The flow log.
    #[value(alias = "flow")]
    Flows,
    /// Who is connected now.
    #[value(alias = "session")]
    Sessions,
    /// The audit log.
    Audit,
    /// Who signed in, how, from where, and what came of it: of the controller that is asked.
    #[value(alias = "sign-ins")]
    AuthenticationLog,
    /// Roles and how many people have each.
    #[value(alias = "role")]
    Roles,
}

impl Kind {
    /// The path below `/api/v1`.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Organizations => "organizations",
            Self::Sites => "sites",
            Self::Connectors => "connectors",
            Self::Pops => "pops",
            Self::Resources => "resources",
            Self::Groups => "groups",
            Self::Users => "users",
            Self::ServiceAccounts => "service-accounts",
            Self::Devices => "devices",
            Self::Policies => "policies",
            Self::Keys => "enrolment-keys",
            Self::Tokens => "tokens",
            Self::Strikes => "strikes",
            Self::Flows => "flows",
            Self::Sessions => "sessions",
            Self::Audit => "audit",
            Self::AuthenticationLog => "authentication-log",
            Self::Roles => "roles",
        }
    }
}

/// A kind of which one object is looked at, changed or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectKind(pub Kind);

impl ValueEnum for ObjectKind {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(Kind::Organizations),
            Self(Kind::Sites),
            Self(Kind::Connectors),
            Self(Kind::Pops),
            Self(Kind::Resources),
            Self(Kind::Groups),
            Self(Kind::Users),
            Self(Kind::ServiceAccounts),
            Self(Kind::Devices),
            Self(Kind::Policies),
            Self(Kind::Keys),
            Self(Kind::Tokens),
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        self.0.to_possible_value()
    }
}

/// What `admin` does.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// List objects of a kind.
    #[command(after_help = "Examples:\n  tidegate admin list devices --filter state=pending\n  \
        tidegate admin list authentication-log --filter outcome=wrong\n  tidegate admin list flows --all --search orders --json")]
    List {
        /// Of which kind.
        kind: Kind,
        /// At most how many.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Every one of them, however many.
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// Only those with this value, as in `site=hamburg` or `state=pending`; may be given more than once. What the API
        /// calls a filter of this list.
        #[arg(long, value_name = "NAME=VALUE")]
        filter: Vec<String>,
        /// Only what has this text in its name, address or id.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// By what, `-` before it for the other way round.
        #[arg(long, value_name = "MEMBER", allow_hyphen_values = true)]
        sort: Option<String>,
    },
    /// Make the organization what a file says (TOML or JSON), and nothing when it is so already. All of it is one
    /// transaction.
    #[command(
        after_help = "Example file:\n  [[sites]]\n  name = \"office\"\n  prefixes = [\"10.0.2.0/24\"]\n\n  \
        [[resources]]\n  name = \"wiki\"\n  site = \"office\"\n  address = \"wiki.office.internal\"\n  ports = [\"443\"]\n\n  \
        [[groups]]\n  name = \"engineers\"\n  members = [\"ada@example.com\"]\n\n  \
        [[policies]]\n  name = \"wiki for engineers\"\n  groups = [\"engineers\"]\n  resources = [\"wiki\"]\n\n\
        tidegate admin export writes such a file of what there is."
    )]
    Apply {
        /// The file; `-` is standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Remove what the file does not have, of the collections that it names: an empty list (`policies = []`) empties one.
        #[arg(long)]
        prune: bool,
        /// Do it also when more than ten objects, and more than a fifth of their kind, go with it.
        #[arg(long)]
        allow_shrink: bool,
    },
    /// Say what differs between a file and the organization: exit code 0 when nothing does, else 1.
    Diff {
        /// The file; `-` is standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Count what the file does not have as a difference, of the collections that it names, be it by an empty list.
        #[arg(long)]
        prune: bool,
    },
    /// Print the organization as a file for `apply`.
    Export {
        /// As JSON; TOML otherwise.
        #[arg(long)]
        as_json: bool,
    },
    /// The audit log: who did what, before and after.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The flow log as lines of JSON, oldest first.
    Flows {
        /// Behind this place: the `place` of the last line that was read.
        #[arg(long, value_name = "PLACE")]
        after: Option<String>,
        /// Only with this verdict: allowed, denied, withdrawn or failed.
        #[arg(long)]
        verdict: Option<String>,
        /// Go on with what comes.
        #[arg(long)]
        follow: bool,
    },
    /// The log of sign-ins as lines of JSON, oldest first: of the controller that is asked.
    SignIns {
        /// Behind this place: the `place` of the last line that was read.
        #[arg(long, value_name = "PLACE")]
        after: Option<String>,
        /// Go on with what comes.
        #[arg(long)]
        follow: bool,
    },
    /// Who may do what: the table that authorization is decided from.
    Roles,
    /// Give a person a role.
    Role {
        /// Their address, name or id.
        #[arg(long)]
        user: String,
        /// owner, admin, network_admin, support, auditor or member.
        #[arg(long)]
        role: String,
    },
    /// Make a link by which a person sets an account up, or gets into it again. It works once, for 72 hours, and is
    /// shown once.
    #[command(
        after_help = "Examples:\n  tidegate admin create user --name \"Ada Lovelace\" --email ada@example.com\n  \
        tidegate admin invite ada@example.com\n  tidegate admin invite \"Ada Lovelace\" --json\n\n\
        For a person who has an account it is a recovery link: it ends their sessions, their authenticator app and\n\
        what ties them to a sign-in provider, and their passkeys stay."
    )]
    Invite {
        /// Their address, name or id.
        person: String,
    },
    /// Sign people out of every browser, all of them or none. What their devices reach goes on; `strike` ends that too.
    #[command(
        after_help = "Examples:\n  tidegate admin end-sessions ada@example.com\n  tidegate admin end-sessions \"Ada Lovelace\" bob@example.com --json"
    )]
    EndSessions {
        /// Their addresses, names or ids; at most 100.
        #[arg(required = true, num_args = 1..=100)]
        people: Vec<String>,
    },
    /// Explain why somebody reaches something or does not: check by check, as connectors decide it. Exit code 0: they do; 4:
    /// they do not.
    #[command(
        after_help = "Examples:\n  tidegate admin why ada@example.com wiki\n  tidegate admin why laptop db.office.internal --on 5432 --json\n  \
        tidegate admin why ci 10.0.2.53 --on udp/53"
    )]
    Why {
        /// A person, service account or device: id, name or address.
        who: String,
        /// A resource's id, name or alias, or any address or host name.
        to: String,
        /// `443`, `udp/53` or `icmp`; the resource's first port otherwise.
        #[arg(long, value_name = "PORT")]
        on: Option<String>,
    },
    /// Approve a device that waits, block one, or archive it.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Who else may say who somebody is (OpenID Connect).
    #[command(subcommand)]
    Provider(crate::admin::provider::ProviderCommand),
    /// Show how the organization works, or change it.
    Settings {
        /// Whether each new device waits until somebody approves it.
        #[arg(long)]
        approve_devices: Option<bool>,
        /// For how many days audit entries are kept; 0: for ever.
        #[arg(long, value_name = "DAYS")]
        audit_retention_days: Option<u64>,
        /// For how many days flow records are kept, if there is room; 0: as long as there is room.
        #[arg(long, value_name = "DAYS")]
        flow_retention_days: Option<u64>,
        /// How old a person's sign-in may be for what asks for a fresh one, in seconds.
        #[arg(long, value_name = "SECONDS")]
        sign_in_age_seconds: Option<u64>,
        /// How long grants live, in seconds.
        #[arg(long, value_name = "SECONDS")]
        grant_life_seconds: Option<u64>,
        /// After how many seconds devices renew theirs.
        #[arg(long, value_name = "SECONDS")]
        renew_after_seconds: Option<u64>,
    },
    /// Say who is asking, and what they may do.
    Me,
    /// Show one object.
    Get {
        /// Of which kind.
        kind: ObjectKind,
        /// Its id or name.
        id: String,
    },
    /// Make an object.
    #[command(subcommand)]
    Create(CreateCommand),
    /// Give an object other values. Lists stand with commas between their values; nothing behind the = takes a value away.
    #[command(after_help = "Examples:\n  tidegate admin set device laptop name=\"Ada's laptop\"\n  \
        tidegate admin set resource db address=10.0.2.9 ports=5432,5433 alias=\n  \
        tidegate admin set policy \"wiki for engineers\" groups=engineers,operators\n  \
        tidegate admin set pop pop-1 address=pop1.example.com:443 region=eu")]
    Set {
        /// Of which kind.
        kind: ObjectKind,
        /// Its id or name.
        id: String,
        /// What to set.
        #[arg(required = true, value_name = "FIELD=VALUE")]
        settings: Vec<String>,
    },
    /// Remove an object.
    Delete {
        /// Of which kind.
        kind: ObjectKind,
        /// Its id or name.
        id: String,
        /// Remove it also when more than ten objects, and more than a fifth of their kind, go with it.
        #[arg(long)]
        allow_shrink: bool,
        /// Do not ask. On a terminal it is asked otherwise whenever somebody loses access.
        #[arg(long, short)]
        yes: bool,
    },
    /// Put a user or service account into a group, or take them out.
    Member {
        /// The group.
        #[arg(long)]
        group: String,
        /// Whom to add.
        #[arg(long, conflicts_with = "remove")]
        add: Option<String>,
        /// Whom to remove; their sessions lose what the group gave them.
        #[arg(long)]
        remove: Option<String>,
    },
    /// End all access of a device, user, service account, connector, PoP or token, now: of one, or of many in one request.
    /// It needs no database.
    #[command(
        after_help = "Examples:\n  tidegate admin strike dev-…\n  tidegate admin strike usr-… usr-… dev-… --json\n  \
        tidegate admin strike ada@example.com"
    )]
    Strike {
        /// Ids, or `MEMBER/GROUP`, or the names of devices, people and service accounts and people's addresses; at most 100.
        #[arg(required = true, num_args = 1..=100)]
        subjects: Vec<String>,
    },
    /// Give access back that a strike ended. Certificates and grants from before stay revoked: a device, connector or
    /// PoP enrols again. A backup of the database comes back by `restore-backup`.
    Restore {
        /// The id of a device, user, service account, connector or PoP, or the name of one of the first three, or a
        /// person's address.
        subject: String,
    },
    /// Say how the installation is.
    Status,
    /// What the database was asked so far: counted by SQLite's own trace, or as it was sent to PostgreSQL.
    Database,
    /// Write everything that the database has into a file that SQLite and PostgreSQL can be filled from. On the
    /// controller's host, whether it runs or not; nobody has to wait for it.
    Backup(BackupArgs),
    /// Fill the database from such a file, while the controller is stopped.
    RestoreBackup(RestoreBackupArgs),
    /// The root key.
    #[command(subcommand)]
    Root(RootCommand),
    /// Make the keys of one more controller and write them into a file for its first start (`tidegate controller
    /// --controller-file`). On the host of a controller, which may run; the configuration has to be in PostgreSQL.
    AddController(AddControllerArgs),
    /// Take every key of a controller out of the trust bundle: nothing that it signs is believed from then on. On the
    /// host of another controller, which may run.
    RemoveController(RemoveControllerArgs),
    /// Take a database that was restored from a copy for the truth: until then nothing is read from it or
    /// changed in it. What was revoked stays revoked.
    AcceptRestoredDatabase,
    /// New signing keys of every role now. They are published at once and sign after a day; what the keys of before
    /// have signed stays good to its end.
    RotateKeys {
        /// Seconds until they sign: who is off meanwhile gets the newest bundle when it comes back.
        #[arg(long, default_value_t = 86_400, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
        use_after: u64,
    },
    /// A fresh one-time link for an owner who has none or lost the passphrase.
    OwnerLink,
}

/// What `admin backup` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tidegate admin --state /var/lib/tidegate/serve backup /backup/tidegate-2026-11-21"
)]
pub struct BackupArgs {
    /// The file; must not exist.
    pub file: PathBuf,
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseSource,
}

/// What `admin add-controller` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tidegate admin --state /var/lib/tidegate/controller add-controller --database-url-file /etc/tidegate/database second\n  \
    (on the other host)\n  tidegate controller --controller-file second --database-url-file /etc/tidegate/database --listen 0.0.0.0:443 --url https://gate2.example.org"
)]
pub struct AddControllerArgs {
    /// The file; must not exist.
    pub file: PathBuf,
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseSource,
}

/// What `admin remove-controller` takes.
#[derive(Debug, Args)]
pub struct RemoveControllerArgs {
    /// Its id, as `admin status` says it there.
    pub controller: String,
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseSource,
}

/// What `admin restore-backup` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tidegate admin --state /var/lib/tidegate/serve restore-backup /backup/tidegate-2026-11-21\n  \
    TIDEGATE_DATABASE_URL_FILE=/etc/tidegate/database tidegate admin restore-backup FILE   (from SQLite to PostgreSQL)"
)]
pub struct RestoreBackupArgs {
    /// The file that `backup` wrote.
    pub file: PathBuf,
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseSource,
    /// Remove what is in the database first. Without it only an empty one is filled.
    #[arg(long)]
    pub dangerous_replace_everything: bool,
}

/// What `admin audit` does.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Read the whole log and say whether every entry is as it was written: exit code 0, else 1.
    Verify,
    /// Print entries as lines of JSON, oldest first.
    Export {
        /// Behind this number.
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
        /// Of what all organizations share.
        #[arg(long)]
        installation: bool,
        /// Go on with what comes.
        #[arg(long)]
        follow: bool,
    },
}

/// What `admin device` does.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Let a device that waits have access.
    Approve {
        /// Its name or id.
        device: String,
    },
    /// End its access, now, and keep it.
    Block {
        /// Its name or id.
        device: String,
    },
    /// End its access, now, and keep it for the record only.
    Archive {
        /// Its name or id.
        device: String,
    },
}

/// What `admin root` does.
#[derive(Debug, Subcommand)]
pub enum RootCommand {
    /// Write the sealed root key to a file, to be kept away from this host.
    Export {
        /// The file; must not exist.
        file: PathBuf,
        /// A file with the recovery phrase; asked on standard input otherwise.
        #[arg(long, value_name = "FILE")]
        phrase_file: Option<PathBuf>,
        /// Remove the root key from this host afterwards.
        #[arg(long)]
        remove: bool,
    },
    /// Put another rotation key in place, signed for by the root key: the one held signs the trust bundles and ends two
    /// years after it was made at the latest. Nothing that was signed before is lost by it, and nobody reconnects.
    #[command(
        after_help = "Examples:\n  tidegate admin root new-rotation-key\n  tidegate admin root new-rotation-key --root-key /media/safe/root-key\n  \
        (a controller was stolen)\n  tidegate admin root new-rotation-key --root-key /media/safe/root-key --without controller-01j…\n\n\
        The root key is opened by this command alone: the controller gets its signature."
    )]
    NewRotationKey {
        /// The exported root key; that of the state directory otherwise.
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
        /// A file with the recovery phrase; asked on standard input otherwise.
        #[arg(long, value_name = "FILE")]
        phrase_file: Option<PathBuf>,
        /// A controller that somebody else has: its keys go, too, and everybody is signed out of the console. May be given
        /// more than once.
        #[arg(long, value_name = "CONTROLLER")]
        without: Vec<wire::ControllerId>,
    },
}

/// What can be made.
#[derive(Debug, Subcommand)]
pub enum CreateCommand {
    /// A tenant: nothing crosses from one to another.
    Organization {
        /// Its name.
        #[arg(long)]
        name: String,
    },
    /// A private network.
    Site {
        /// Its name.
        #[arg(long)]
        name: String,
        /// What names in the site may resolve to; may be given more than once.
        #[arg(long, value_name = "CIDR")]
        prefix: Vec<String>,
        /// Regions whose PoPs its connectors take first; may be given more than once.
        #[arg(long)]
        region: Vec<String>,
    },
    /// Something to reach.
    Resource {
        /// Its name.
        #[arg(long)]
        name: String,
        /// Its site.
        #[arg(long)]
        site: String,
        /// An IP address, a prefix, a host name or a wildcard like `*.corp.example`.
        #[arg(long)]
        address: String,
        /// Ports, as in `443` or `8000-8999` for TCP and `udp/53` for UDP, or `icmp` for ping; may be given more than
        /// once.
        #[arg(long, required = true, value_delimiter = ',')]
        ports: Vec<String>,
        /// A short name for people.
        #[arg(long)]
        alias: Option<String>,
        /// Close it when its connector is isolated.
        #[arg(long)]
        strict: bool,
    },
    /// A group.
    Group {
        /// Its name.
        #[arg(long)]
        name: String,
    },
    /// A person.
    User {
        /// Their name.
        #[arg(long)]
        name: String,
        /// Their mail address, unique in the organization; may be left out when the name is one.
        #[arg(long)]
        email: Option<String>,
        /// owner, admin, network_admin, support, auditor or member, which is what they are otherwise.
        #[arg(long)]
        role: Option<String>,
        /// Groups to be in; may be given more than once.
        #[arg(long)]
        group: Vec<String>,
    },
    /// A headless subject.
    ServiceAccount {
        /// Its name.
        #[arg(long)]
        name: String,
        /// Groups to be in; may be given more than once.
        #[arg(long)]
        group: Vec<String>,
    },
    /// A rule: these groups reach these resources.
    Policy {
        /// Its name.
        #[arg(long)]
        name: String,
        /// A group; may be given more than once.
        #[arg(long, required = true)]
        group: Vec<String>,
        /// A resource; may be given more than once.
        #[arg(long, required = true)]
        resource: Vec<String>,
    },
    /// An enrolment key. It is shown once.
    Key(KeyArgs),
    /// An API token. It is shown once.
    Token {
        /// Its name.
        #[arg(long)]
        name: String,
        /// What it may do: read, write, strike, enrol, admin, installation; may be given more than once.
        #[arg(long, required_unless_present = "role", conflicts_with = "role", value_delimiter = ',')]
        scope: Vec<String>,
        /// A role in place of scopes: admin, network_admin, support, auditor or member.
        #[arg(long)]
        role: Option<String>,
        /// How long it lives.
        #[arg(long, default_value_t = 90, value_name = "DAYS")]
        days: u64,
    },
}

/// Arguments of `admin create key`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false).args(["device", "connector", "pop"]))]
pub struct KeyArgs {
    /// What it is called in lists.
    #[arg(long)]
    pub name: Option<String>,
    /// For devices of a user or service account.
    #[arg(long)]
    pub device: bool,
    /// For connectors of a site.
    #[arg(long)]
    pub connector: bool,
    /// For PoPs.
    #[arg(long)]
    pub pop: bool,
    /// Whose device.
    #[arg(long, conflicts_with = "service_account")]
    pub user: Option<String>,
    /// Whose device.
    #[arg(long)]
    pub service_account: Option<String>,
    /// The connector's site.
    #[arg(long)]
    pub site: Option<String>,
    /// The PoP's region.
    #[arg(long, default_value = "default")]
    pub region: String,
    /// The PoP's zone.
    #[arg(long, default_value = "default")]
    pub zone: String,
    /// Somebody approves each device before it gets access.
    #[arg(long, requires = "device")]
    pub approval: bool,
    /// How often it can be used.
    #[arg(long, default_value_t = 1)]
    pub cap: u32,
    /// How long it can be used.
    #[arg(long, default_value_t = 24, value_name = "HOURS")]
    pub hours: u64,
}
