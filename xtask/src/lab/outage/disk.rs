//! Small disks of their own for the state directories, so that one role's disk can be full and no other's.

use crate::process::{Interrupt, run};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const SHORT: Duration = Duration::from_secs(20);
/// Enough for a lab's state, and filled in no time.
const BYTES: u64 = 96 * 1024 * 1024;
/// Tries until nothing is given back any more.
const FILLS: u32 = 20;
/// The name of what fills a disk.
const BALLAST: &str = "ballast";

/// An ext4 file system in a file. It is unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
}

impl Disk {
    /// Makes one and mounts it at `place`.
    ///
    /// # Errors
    /// The machine has no loop devices, or the programs fail.
    pub fn create(place: &Path, interrupt: &Interrupt) -> Result<Self> {
        let image = place.with_extension("ext4");
        fs::create_dir_all(place)?;
        File::create(&image)?.set_len(BYTES)?;
        // No blocks are kept for root, who all roles are in the lab.
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-m", "0"]).arg(&image);
        run(&mut make, SHORT, interrupt)?.success("mkfs.ext4")?;
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(place);
        run(&mut mount, SHORT, interrupt)?.success("mount -o loop")?;
        Ok(Self { place: place.to_owned() })
    }

    /// Writes until nothing more can be written; gives how many bytes that took.
    ///
    /// # Errors
    /// The disk has room for ever.
    pub fn fill(&self) -> Result<u64> {
        let mut ballast = File::create(self.place.join(BALLAST))?;
        let mut written = 0;
        // First in large pieces, then what they left.
        for piece in [64 * 1024, 512] {
            let bytes = vec![b'#'; piece];
            while let Ok(length @ 1..) = ballast.write(&bytes) {
                written += u64::try_from(length)?;
                ensure!(written <= BYTES, "the disk at {} has no end", self.place.display());
            }
        }
        ballast.sync_all().or_else(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => Ok(()),
            _ => Err(error),
        })?;
        // Whoever writes a file anew meanwhile gives its old blocks back: those are filled as well.
        for _ in 0..FILLS {
            let more = fs::write(self.place.join("more"), b"one more byte");
            let _ = fs::remove_file(self.place.join("more"));
            if more.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull) {
                return Ok(written);
            }
            while let Ok(length @ 1..) = ballast.write(&[b'#'; 512]) {
                written += u64::try_from(length)?;
            }
            let _ = ballast.sync_all();
        }
        anyhow::bail!("the disk at {} is not full", self.place.display())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// It was not filled.
    pub fn empty(&self) -> Result<()> {
        fs::remove_file(self.place.join(BALLAST)).context("the ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.place);
    }
}

/// What is still open there does not keep the file system in the tree.
fn unmount(place: &Path) -> std::io::Result<std::process::ExitStatus> {
    Command::new("umount").arg("--lazy").arg(place).status()
}

/// Unmounts what labs left behind that were killed before they could.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn clean_leftovers(is_orphan: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let temporary = std::env::temp_dir();
    let mut removed = Vec::new();
    for place in mounts.lines().filter_map(|line| line.split_whitespace().nth(1)).map(Path::new) {
        let name = place.strip_prefix(&temporary).ok().and_then(|rest| rest.iter().next());
        if name.is_some_and(|name| is_orphan(&name.to_string_lossy())) {
            unmount(place)?;
            removed.push(place.display().to_string());
        }
    }
    Ok(removed)
}
