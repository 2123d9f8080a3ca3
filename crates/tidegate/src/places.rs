//! Where state lives when nobody says, and where join keys come from.

use crate::{
    cli::KeySource,
    output::{Failure, Outcome},
};
use std::{
    io::{IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};
use trust::JoinKey;

/// A join key is below a kibibyte; a file that is much longer is not one.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// The state directory: the one named, else `/var/lib/tidegate/ROLE` for root, else
/// `~/.local/state/tidegate/ROLE` (XDG base directory specification).
pub fn state_dir(named: Option<&Path>, role: &str) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        return Ok(std::path::absolute(named)?);
    }
    if is_root() {
        return Ok(Path::new("/var/lib/tidegate").join(role));
    }
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")));
    match base {
        Some(base) if base.is_absolute() => Ok(base.join("tidegate").join(role)),
        _ => Err(Failure::say(
            Outcome::Usage,
            "neither HOME nor XDG_STATE_HOME is set; name the state directory with --state DIR",
        )),
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// This host's name, for naming what it enrols.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unnamed".into())
}

/// The key that was given in any of the ways, if one was.
pub fn join_key(source: &KeySource) -> Result<Option<JoinKey>, Failure> {
    match (&source.join, &source.join_file) {
        (Some(key), _) => parse(key).map(Some),
        (None, Some(file)) => parse(&read_key_file(file)?).map(Some),
        (None, None) => Ok(None),
    }
}

/// A key as argument, in a file, or on standard input when it is not a terminal.
pub fn login_key(key: Option<&str>, file: Option<&Path>) -> Result<JoinKey, Failure> {
    match (key, file) {
        (Some(key), _) => parse(key),
        (None, Some(file)) => parse(&read_key_file(file)?),
        (None, None) if std::io::stdin().is_terminal() => Err(Failure::say(
            Outcome::Usage,
            "expected a controller, a key or a link: tidegate login https://CONTROLLER to confirm in a browser, tidegate login LINK-OR-KEY, or --key-file FILE; your administrator makes a key with: tidegate admin create key --device --user YOU",
        )),
        (None, None) => parse(&read_key_file(Path::new("-"))?),
    }
}

fn parse(text: &str) -> Result<JoinKey, Failure> {
    text.parse().map_err(|error| Failure::new(Outcome::Usage, anyhow::Error::new(error)))
}

fn read_key_file(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MAX_KEY_FILE).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_KEY_FILE).read_to_string(&mut text))
    };
    read.map_err(|error| {
        Failure::say(Outcome::Usage, format_args!("the key file {}: {error}", path.display()))
    })?;
    Ok(text)
}

/// The public key of a CA's certificate in PEM.
pub fn public_key_of_ca(ca: &Path) -> Result<Vec<u8>, Failure> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let wrong = |problem: &dyn std::fmt::Display| {
        Failure::say(Outcome::Usage, format_args!("{}: expected a PEM certificate: {problem}", ca.display()))
    };
    let certificate = CertificateDer::from_pem_file(ca).map_err(|error| wrong(&error))?;
    trust::subject_public_key(&certificate).map_err(|error| wrong(&error))
}

/// What kind of file system a directory is on, if that is one whose files go with the container or the machine's next
/// start.
pub fn passing_storage(dir: &Path) -> Option<&'static str> {
    // Linux' own numbers (include/uapi/linux/magic.h).
    const OVERLAY: u64 = 0x794C_7630;
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58F6;
    let found = rustix::fs::statfs(dir).ok()?;
    match u64::try_from(found.f_type).ok()? {
        OVERLAY => Some("a container's own layer (overlay)"),
        TMPFS | RAMFS => Some("memory (tmpfs)"),
        _ => None,
    }
}

/// How routers may be asked for port mappings.
pub const fn port_mapping(is_off: bool) -> portmap::Protocols {
    if is_off { portmap::Protocols::NONE } else { portmap::Protocols::ALL }
}
