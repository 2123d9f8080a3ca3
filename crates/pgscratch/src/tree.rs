//! A process and those it started: each of PostgreSQL's processes leads a session of its own, so that no process group
//! has them all.

use rustix::process::{Pid, Signal, kill_process};
use std::{collections::BTreeMap, fs};

/// `root` and all below it, the oldest first.
pub(crate) fn below(root: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(parent) = parent_of(id) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = vec![root.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(id) = found.get(next).copied() {
        found.extend(children.remove(&id).unwrap_or_default());
        next += 1;
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// The fourth field of `/proc/PID/stat`; the second is a name in parentheses that may contain anything.
fn parent_of(id: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The third field of `/proc/PID/stat`; none when there is no such process.
fn state_of(id: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().next().map(str::to_owned)
}

/// Whether none of them runs: stopped, or ended and not waited for, as nobody waits whose parent is stopped.
pub(crate) fn are_stopped(root: Pid) -> bool {
    below(root).into_iter().all(|id| state_of(id).is_none_or(|state| matches!(&*state, "T" | "Z" | "X")))
}

/// Whether none of them is there any more, but for those that nobody waits for.
pub(crate) fn have_ended(all: &[Pid]) -> bool {
    all.iter().all(|id| state_of(*id).is_none_or(|state| matches!(&*state, "Z" | "X")))
}

pub(crate) fn signal_all(root: Pid, signal: Signal) {
    for id in below(root) {
        let _ = kill_process(id, signal);
    }
}
