//! What a connector in kernel mode leaves on its machine when it is killed: nothing.

use super::{Lab, Mode, RESTORED, START, Seen, connector, machine::Snapshot, restored, worker};
use crate::{
    lab::{
        daemon::Daemon,
        report::{Report, whole_ms},
    },
    process::{Interrupt, run as run_program, signal_process, wait_until},
};
use anyhow::{Result, ensure};

fn begin(lab: &Lab, before: &Snapshot) -> Result<Daemon> {
    let daemon = connector(lab, &lab.second, "lab", "two", Mode::Kernel)?;
    let changed = before.differences(&Snapshot::take(&lab.second)?);
    ensure!(
        changed.contains("masquerade") && changed.contains("ip_forward = 1"),
        "nothing is changed: {changed}"
    );
    Ok(daemon)
}

/// Kills a worker and its guardian, and waits until both are gone: a process that ends still holds its locks.
fn kill_both(daemon: Daemon, interrupt: &Interrupt) -> Result<()> {
    let own = worker(&daemon)?;
    for pid in [daemon.pid(), own] {
        signal_process(pid, libc::SIGKILL);
    }
    drop(daemon);
    wait_until("the end of both", START, interrupt, || {
        Ok((!std::path::Path::new(&format!("/proc/{own}")).exists()).then_some(()))
    })
}

/// `before` is the second connector's machine without one.
pub fn checks(report: &mut Report, lab: &Lab, before: &Snapshot, interrupt: &Interrupt) {
    let host = &lab.second;
    report.about("kernel mode");
    report.check("a connector's worker is killed with SIGKILL: its machine is as before within 2 s", || {
        let daemon = begin(lab, before)?;
        signal_process(worker(&daemon)?, libc::SIGKILL);
        let took = restored(host, before, interrupt)?;
        ensure!(took <= RESTORED, "it took {} ms", took.as_millis());
        Ok(Seen::new(()).with("ms", whole_ms(took)))
    });
    report.check("worker and guardian are killed: as before after tidegate cleanup", || {
        let daemon = begin(lab, before)?;
        kill_both(daemon, interrupt)?;
        let left = before.differences(&Snapshot::take(host)?);
        ensure!(left.contains("masquerade"), "nothing was left behind, so nothing is shown");
        let mut cleanup = lab.fleet.tidegate(host, &["cleanup"]);
        run_program(&mut cleanup, START, interrupt)?.success("cleanup")?;
        Ok(Seen::new(()).with("ms", whole_ms(restored(host, before, interrupt)?)))
    });
    report.check("both are killed once more: the next start, without kernel mode, puts it right", || {
        let daemon = begin(lab, before)?;
        kill_both(daemon, interrupt)?;
        let next = connector(lab, host, "lab", "two", Mode::Userspace)?;
        let took = restored(host, before, interrupt)?;
        drop(next);
        Ok(Seen::new(()).with("ms", whole_ms(took)))
    });
    report.check(
        "another program takes the table out, as a firewall does that is loaded again: it is put in again",
        || {
            let daemon = begin(lab, before)?;
            host.run(START, "nft", &["flush", "ruleset"])?;
            wait_until("the table", START, interrupt, || {
                let rules = host.run(START, "nft", &["list", "ruleset"])?.stdout;
                Ok(rules.contains("masquerade").then_some(()))
            })?;
            daemon.terminate(START, interrupt)?;
            Ok(Seen::new(()).with("ms", whole_ms(restored(host, before, interrupt)?)))
        },
    );
    for (what, hidden, words) in
        [("without nft", "/usr/sbin", "nft"), ("without /dev/net/tun", "/dev/net", "/dev/net/tun")]
    {
        report.check(&format!("{what}: said plainly, nothing changed; mode auto goes on in userspace"), || {
            let state = lab.fleet.state("two").display().to_string();
            // Hidden in a mount namespace of the command's own.
            let start = |mode: &str| {
                let binary = crate::test::release_binary().display().to_string();
                let script = format!(
                    "mount -t tmpfs none {hidden} && exec timeout -s INT 6 {binary} --json connector --state {state} \
                     --mode {mode} --interface tidesite-two"
                );
                host.attempt(START, "unshare", &["--mount", "--propagation", "private", "sh", "-c", &script])
            };
            let refused = start("kernel")?;
            ensure!(!refused.status.success(), "it started");
            ensure!(refused.stderr.contains(words) || refused.stdout.contains(words), "it said {}", refused.stderr);
            ensure!(!refused.stdout.contains("\"ready\""), "it said that it is ready");
            let auto = start("auto")?;
            ensure!(auto.stdout.contains("\"ready\""), "auto did not start: {}", auto.stderr);
            let left = before.differences(&Snapshot::take(host)?);
            ensure!(left.is_empty(), "{left}");
            Ok(Seen::new(()))
        });
    }
}
