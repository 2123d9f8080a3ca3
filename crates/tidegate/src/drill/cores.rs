//! Which process runs on which core: a PoP that shares none with its clients is slowed by nothing but its own work.

use anyhow::Context as _;
use rustix::{
    io::Errno,
    process::{Pid, getpid},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Gives the last core to `alone`, and the others to this process and every other child of it; false on a machine that
/// has one core.
pub fn divide(alone: &[u32]) -> anyhow::Result<bool> {
    // Of the first thread of this process: the others may have been moved already.
    let all = ALL.get_or_init(|| sched_getaffinity(None)).as_ref().map_err(|error| *error)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect::<Vec<_>>();
    let last = cores.pop().context("a core to run on")?;
    if cores.is_empty() {
        return Ok(false);
    }
    let mut rest = CpuSet::new();
    cores.iter().for_each(|core| rest.set(*core));
    let mut own = CpuSet::new();
    own.set(last);
    let this = u32::try_from(getpid().as_raw_nonzero().get())?;
    for pid in children(this)?.into_iter().chain([this]) {
        pin(pid, if alone.contains(&pid) { &own } else { &rest })?;
    }
    Ok(true)
}

static ALL: std::sync::OnceLock<Result<CpuSet, Errno>> = std::sync::OnceLock::new();

/// Every thread of a process; those that it starts later are where the one was that starts them.
fn pin(pid: u32, cores: &CpuSet) -> anyhow::Result<()> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Ok(()) };
    for task in tasks.filter_map(Result::ok) {
        let thread = task.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        match sched_setaffinity(thread.context("the number of a thread")?.into(), cores) {
            // It ended meanwhile.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error).context("giving a process its core"),
        }
    }
    Ok(())
}

/// Processes that this one started, from proc(5).
fn children(of: u32) -> anyhow::Result<Vec<u32>> {
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let pids = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    let pids = pids.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    Ok(pids.filter(|pid| parent(*pid) == Some(of)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn cores_of(pid: u32) -> Vec<usize> {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        let set = sched_getaffinity(pid).unwrap();
        (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
    }

    #[test]
    fn one_child_has_a_core_for_itself_and_everybody_else_the_others() {
        let asleep = || {
            let mut sleep = Command::new("sleep");
            sleep.arg("60").stdin(Stdio::null()).spawn().unwrap()
        };
        let before = cores_of(std::process::id());
        let mut both = [asleep(), asleep()];
        let [alone, other] = both.each_ref().map(std::process::Child::id);
        let divided = divide(&[alone]).unwrap();
        let after = [alone, other, std::process::id()].map(cores_of);
        both.iter_mut().for_each(|child| {
            child.kill().unwrap();
            child.wait().unwrap();
        });
        assert_eq!(divided, before.len() > 1);
        if divided {
            assert_eq!(after[0], before[before.len() - 1..]);
            assert_eq!(after[1], before[..before.len() - 1]);
            assert_eq!(after[2], after[1]);
        }
    }
}
