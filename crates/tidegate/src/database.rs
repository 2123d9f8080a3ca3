//! Where the configuration database is, from whatever says so; its backups, and the controllers that share it.
//!
//! A connection string carries a password: it comes from a file or the environment. On the command line it is taken
//! without one only, since every user of a host can read the arguments of its processes.

use crate::{
    cli::{
        AddControllerArgs, BackupArgs, DatabaseSource, RemoveControllerArgs, ReplicaSource, RestoreBackupArgs,
    },
    output::{CommandResult, Failure, Format, Outcome},
    places, process,
};
use anyhow::Context as _;
use serde_json::json;
use std::{
    fs::{File, OpenOptions},
    io::{BufReader, BufWriter, Read as _, Write as _},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
};
use store::{Existing, Location, Opening, PostgresUrl, Store};

/// A connection string is far below this.
const MAX_URL_FILE: u64 = 16 * 1024;
/// Under this name children get what this process was given.
pub const URL: &str = "TIDEGATE_DATABASE_URL";
/// The file's name under which they get it.
pub const URL_FILE: &str = "TIDEGATE_DATABASE_URL_FILE";

/// Under this name they get its replicas, with spaces between them.
pub const REPLICAS: &str = "TIDEGATE_REPLICA_URL";
/// The name of the file with its replicas.
pub const REPLICAS_FILE: &str = "TIDEGATE_REPLICA_URL_FILE";
/// What may have a password in it, or leads to one.
pub const SECRETS: [&str; 4] = [URL, URL_FILE, REPLICAS, REPLICAS_FILE];
/// What this process was told of databases by its environment, for the one of its children that uses them.
pub fn inherited() -> Vec<(&'static str, String)> {
    SECRETS.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))).collect()
}

/// More replicas than anybody has for one controller; each is looked at every few seconds.
const MAX_REPLICAS: usize = 8;

/// The server that was named, if one was.
pub fn server(source: &DatabaseSource) -> Result<Option<PostgresUrl>, Failure> {
    let text = match (&source.database_url, &source.database_url_file) {
        (Some(text), None) => text.clone(),
        (None, Some(file)) => read(file)?,
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Failure::say(
                Outcome::Usage,
                format_args!(
                    "expected either --database-url ({URL}) or --database-url-file ({URL_FILE}), got both"
                ),
            ));
        }
    };
    parsed(&text, "the database's connection string", "--database-url", URL).map(Some)
}

fn parsed(text: &str, what: &str, option: &str, variable: &str) -> Result<PostgresUrl, Failure> {
    let url: PostgresUrl =
        text.parse().map_err(|error| Failure::say(Outcome::Usage, format_args!("{what}: {error}")))?;
    if url.has_password() && is_argument(text) {
        return Err(Failure::say(
            Outcome::Usage,
            format_args!(
                "{option} with a password can be read by every user of this host in the process list: put it into a file \
                 and say {option}-file FILE, or into the environment as {variable}"
            ),
        ));
    }
    Ok(url)
}

/// The replicas that were named.
pub fn replicas(source: &ReplicaSource, database: &DatabaseSource) -> Result<Vec<PostgresUrl>, Failure> {
    let said = |text: std::fmt::Arguments<'_>| Failure::say(Outcome::Usage, text);
    let texts = match (source.replica_url.as_slice(), &source.replica_url_file) {
        (texts, None) => texts.to_vec(),
        ([], Some(file)) => {
            let lines = read(file)?;
            lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
        _ => {
            return Err(said(format_args!(
                "expected either --replica-url ({REPLICAS}) or --replica-url-file ({REPLICAS_FILE}), got both"
            )));
        }
    };
    let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    if texts.len() > MAX_REPLICAS {
        return Err(said(format_args!("expected at most {MAX_REPLICAS} replicas, got {}", texts.len())));
    }
    if !texts.is_empty() && database.database_url.is_none() && database.database_url_file.is_none() {
        return Err(said(format_args!(
            "replicas follow a server: expected --database-url or --database-url-file beside --replica-url"
        )));
    }
    let text_of = |(number, text): (usize, &String)| {
        let what = format!("the connection string of replica {}", number + 1);
        parsed(text, &what, "--replica-url", REPLICAS)
    };
    texts.iter().enumerate().map(text_of).collect()
}

fn is_argument(text: &str) -> bool {
    std::env::args_os().any(|argument| argument.to_string_lossy().contains(text))
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MAX_URL_FILE).read_to_string(&mut text));
    read.map_err(|error| {
        Failure::say(
            Outcome::Usage,
            format_args!("the file with the database's URL, {}: {error}", file.display()),
        )
    })?;
    Ok(text.trim().to_owned())
}

/// The database that a controller with this state directory uses.
fn location(source: &DatabaseSource, state: Option<&Path>) -> Result<(Location, PathBuf), Failure> {
    let state = places::state_dir(state, "serve")?;
    // `serve` keeps its controller's below.
    let below = state.join("controller");
    let state = if below.join("admin.sock").exists() || below.join(controller::DATABASE).exists() {
        below
    } else {
        state
    };
    let location = match server(source)? {
        Some(url) => url.into(),
        None => state.join(controller::DATABASE).into(),
    };
    Ok((location, state))
}

/// `tidegate admin backup`.
pub async fn backup(args: &BackupArgs, state: Option<&Path>, format: Format) -> CommandResult {
    let (location, _) = location(&args.database, state)?;
    let store = Store::open(location.clone(), Opening::MustExist).await?;
    // Never seen half: it has its name when it is whole and on the disk.
    let unfinished = args.file.with_extension("unfinished");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let file = file.with_context(|| format!("the file {}", unfinished.display()))?;
    let mut writer = BufWriter::new(file);
    let made = store.backup(process::unix_ms(), &mut writer).await;
    store.close().await;
    let summary = match made {
        Ok(summary) => summary,
        Err(error) => {
            let _ = std::fs::remove_file(&unfinished);
            return Err(anyhow::Error::new(error)
                .context(format!("no backup of {location} was made"))
                .into());
        }
    };
    writer.flush()?;
    writer.get_ref().sync_all()?;
    std::fs::hard_link(&unfinished, &args.file)
        .with_context(|| format!("{} (an existing file is not replaced)", args.file.display()))
        .inspect_err(|_| drop(std::fs::remove_file(&unfinished)))?;
    std::fs::remove_file(&unfinished)?;
    format.print(&json!({"file": args.file, "from": location.to_string(), "backup": summary}), || {
        format!(
            "{} rows of {} tables of {location}, state {}.{}, are in {}\nIt has no private keys: those are in the \
             controller's state directory, the root key under the recovery phrase.",
            summary.rows,
            summary.tables,
            summary.version.incarnation,
            summary.version.version,
            args.file.display()
        )
    });
    Ok(Outcome::Done)
}

/// `tidegate admin restore-backup`.
pub async fn restore(args: &RestoreBackupArgs, state: Option<&Path>, format: Format) -> CommandResult {
    let (location, state) = location(&args.database, state)?;
    if UnixStream::connect(state.join("admin.sock")).is_ok() {
        return Err(Failure::say(
            Outcome::Failed,
            format_args!(
                "the controller of {} runs: stop it first, so that it does not write into what is replaced",
                state.display()
            ),
        ));
    }
    let file = File::open(&args.file).with_context(|| args.file.display().to_string())?;
    let existing =
        if args.dangerous_replace_everything { Existing::DangerouslyReplace } else { Existing::Refuse };
    let store = Store::open(location.clone(), Opening::CreateIfMissing).await?;
    let restored =
        store.restore(process::unix_ms(), "command line", existing, &mut BufReader::new(file)).await;
    store.close().await;
    let summary = restored
        .map_err(|error| anyhow::Error::new(error).context(format!("nothing of {location} was changed")))?;
    controller::moved_to(&state, &location)?;
    format.print(&json!({"file": args.file, "into": location.to_string(), "restored": summary}), || {
        format!(
            "{} rows of {} tables are in {location}, as state {}.{} of {}\nStart every controller of this installation \
             again; what was revoked stays revoked.",
            summary.rows,
            summary.tables,
            summary.version.incarnation,
            summary.version.version,
            summary.installation
        )
    });
    Ok(Outcome::Done)
}

fn local_actor() -> String {
    format!("local uid {}", rustix::process::getuid().as_raw())
}

/// `tidegate admin add-controller`.
pub async fn add_controller(args: &AddControllerArgs, state: Option<&Path>, format: Format) -> CommandResult {
    let (location, state) = location(&args.database, state)?;
    if args.file.exists() {
        return Err(Failure::say(
            Outcome::Usage,
            format_args!("{} exists already: nothing was made", args.file.display()),
        ));
    }
    let store = Store::open(location, Opening::MustExist).await?;
    let added = controller::add_controller(&state, &store, &local_actor()).await;
    store.close().await;
    let added = added.map_err(anyhow::Error::new)?;
    controller::write_controller_file(&args.file, &added).with_context(|| {
        format!(
            "{}; the keys of {id} are in the trust bundle and nowhere else: take them out again with `tidegate admin \
             remove-controller {id}`",
            args.file.display(),
            id = added.controller
        )
    })?;
    let said = json!({"file": args.file, "controller": added.controller.to_string(), "bundle": added.serial});
    format.print(&said, || {
        format!(
            "{} is a controller of this installation from now on, by bundle {}.\nIts private keys are in {}: carry the file to its \
             host, start it there with --controller-file, and remove the file.",
            added.controller,
            added.serial,
            args.file.display()
        )
    });
    Ok(Outcome::Done)
}

/// `tidegate admin remove-controller`.
pub async fn remove_controller(
    args: &RemoveControllerArgs,
    state: Option<&Path>,
    format: Format,
) -> CommandResult {
    let id = args.controller.parse().map_err(|error| {
        Failure::say(Outcome::Usage, format_args!("expected a controller's id (ctl-…): {error}"))
    })?;
    let (location, state) = location(&args.database, state)?;
    let store = Store::open(location, Opening::MustExist).await?;
    let removed = controller::remove_controller(&state, &store, &local_actor(), id).await;
    store.close().await;
    let serial = removed.map_err(anyhow::Error::new)?;
    format.print(&json!({"controller": args.controller, "bundle": serial}), || {
        format!("Nothing that {} signs is believed any more, by bundle {serial}.", args.controller)
    });
    Ok(Outcome::Done)
}
