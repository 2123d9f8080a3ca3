//! What a process has cost so far, from proc(5).

use anyhow::{Context as _, Result};
use std::{fs, time::Duration};

/// Processor time, memory and descriptors of a process.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Time on a processor, all threads that live, to the nanosecond.
    pub cpu: Duration,
    /// Resident memory, bytes.
    pub rss: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

/// Reads them. Threads that have ended are not counted: a PoP's live as long as it does.
///
/// # Errors
/// The process is gone.
pub fn cost_of(pid: u32) -> Result<Cost> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanos += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = resident.split_whitespace().next().context("VmRSS")?.parse()?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(Cost { cpu: Duration::from_nanos(nanos), rss: kib * 1024, descriptors })
}
