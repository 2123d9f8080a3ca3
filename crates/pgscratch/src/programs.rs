//! Where the server's programs are, and as whom they run.

use crate::ScratchError;
use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The directory of the newest installed version's programs. Debian keeps it off the path.
///
/// # Errors
/// [`ScratchError::NotInstalled`].
pub fn programs() -> Result<PathBuf, ScratchError> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, directory)| is_complete(directory))
        .collect();
    found.sort();
    if let Some((_, directory)) = found.pop() {
        return Ok(directory);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(|directory| is_complete(directory)).ok_or(ScratchError::NotInstalled)
}

fn is_complete(directory: &Path) -> bool {
    ["initdb", "postgres", "psql", "pg_basebackup"].iter().all(|program| directory.join(program).is_file())
}

/// As whom the server runs: PostgreSQL refuses root, and Debian's packages make the user `postgres` for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    ids: Option<(u32, u32)>,
}

impl Owner {
    pub(crate) fn find() -> Result<Self, ScratchError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { ids: None });
        }
        let users =
            fs::read_to_string("/etc/passwd").map_err(|error| ScratchError::Io("/etc/passwd", error))?;
        let entry = users.lines().find_map(|line| line.strip_prefix("postgres:"));
        let mut fields = entry.ok_or(ScratchError::NoUser)?.split(':').skip(1);
        let mut id = || fields.next().and_then(|field| field.parse().ok());
        Ok(Self { ids: Some((id().ok_or(ScratchError::NoUser)?, id().ok_or(ScratchError::NoUser)?)) })
    }

    pub(crate) fn takes(&self, path: &Path) -> Result<(), ScratchError> {
        let Some((user, group)) = self.ids else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(user), Some(group))
            .map_err(|error| ScratchError::Io("giving the directory to postgres", error))
    }

    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        // Nothing of the caller's environment says where the database is.
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/");
        command.stdin(Stdio::null());
        command
    }
}
