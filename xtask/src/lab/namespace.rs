//! One network namespace: a host of the lab. Dropping it ends every process inside and removes it.

use crate::process::{Finished, Interrupt, run, signal_process};
use anyhow::{Context as _, Result};
use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Every name of the lab begins with this; the process id of the lab follows.
pub const PREFIX: &str = "tglab-";

/// No command that sets up a network takes longer.
const SETUP_DEADLINE: Duration = Duration::from_secs(10);

/// A network namespace with a name of its own.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    interrupt: Interrupt,
}

impl Namespace {
    /// Makes the namespace `tglab-PID-ROLE` with its loopback up.
    ///
    /// # Errors
    /// Needs root, `ip`, and a kernel with network namespaces.
    pub fn create(role: &str, interrupt: &Interrupt) -> Result<Self> {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]), SETUP_DEADLINE, interrupt)?
            .success("ip netns add")?;
        // From here on the value owns the namespace: a failure below removes it again.
        let namespace = Self { name, interrupt: interrupt.clone() };
        // No address of the lab is there twice: looking for duplicates would only delay each interface.
        namespace.sysctl("net.ipv6.conf.default.accept_dad=0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside. `ip netns exec` replaces itself, so the child's process id is
    /// the program's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip ARGUMENTS` inside; words are separated by spaces.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn ip(&self, arguments: &str) -> Result<Finished> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name]).args(arguments.split_whitespace());
        run(&mut command, SETUP_DEADLINE, &self.interrupt)?.success(&format!("ip {arguments}"))
    }

    /// Gives an interface an address, with the size its network has in the lab: /24 or /64.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn address(&self, interface: &str, address: IpAddr) -> Result<()> {
        match address {
            IpAddr::V4(address) => self.ip(&format!("address add {address}/24 dev {interface}"))?,
            IpAddr::V6(address) => self.ip(&format!("-6 address add {address}/64 dev {interface} nodad"))?,
        };
        Ok(())
    }

    /// Sets a kernel variable of this namespace.
    ///
    /// # Errors
    /// The kernel has no such variable.
    pub fn sysctl(&self, setting: &str) -> Result<()> {
        let mut command = self.command("sysctl");
        command.args(["-q", "-w", setting]);
        run(&mut command, SETUP_DEADLINE, &self.interrupt)?.success(&format!("sysctl {setting}"))?;
        Ok(())
    }

    /// Loads an nftables rule set inside, atomically.
    ///
    /// # Errors
    /// `nft` refuses the rules.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new().context("cannot make a temporary file for rules")?;
        fs::write(file.path(), rules)?;
        let mut command = self.command("nft");
        command.arg("-f").arg(file.path());
        run(&mut command, SETUP_DEADLINE, &self.interrupt)?.success("nft -f")?;
        Ok(())
    }

    /// Runs a program inside and captures what it says.
    ///
    /// # Errors
    /// It cannot start, fails, or does not end in time.
    pub fn run(&self, deadline: Duration, program: &str, arguments: &[&str]) -> Result<Finished> {
        self.attempt(deadline, program, arguments)?.success(program)
    }

    /// Runs a program inside whose failure is a finding: the status is the caller's to judge.
    ///
    /// # Errors
    /// It cannot start or does not end in time.
    pub fn attempt(&self, deadline: Duration, program: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(program);
        command.args(arguments);
        run(&mut command, deadline, &self.interrupt)
    }

    /// Gives the host its own `/etc/hosts`, which `ip netns exec` mounts over the machine's.
    ///
    /// # Errors
    /// `/etc/netns` cannot be written.
    pub fn hosts(&self, lines: &str) -> Result<()> {
        self.etc_file("hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{lines}\n"))
    }

    /// Gives the host its own file in `/etc`, in the same way.
    ///
    /// # Errors
    /// `/etc/netns` cannot be written.
    pub fn etc_file(&self, name: &str, content: &str) -> Result<()> {
        let directory = self.etc();
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        fs::write(directory.join(name), content)?;
        Ok(())
    }

    /// Where the host's own files in `/etc` are.
    pub fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// A link between two namespaces: the two ends, named from the inside.
///
/// # Errors
/// The kernel refuses the pair.
pub fn veth(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
    let mut command = Command::new("ip");
    // Both ends are made where they belong, so no name of the machine's own namespace is used.
    command.args(["link", "add", left.1, "netns", &left.0.name, "type", "veth"]);
    command.args(["peer", "name", right.1, "netns", &right.0.name]);
    run(&mut command, SETUP_DEADLINE, &left.0.interrupt)?.success("ip link add type veth")?;
    left.0.ip(&format!("link set {} up", left.1))?;
    right.0.ip(&format!("link set {} up", right.1))?;
    Ok(())
}

/// Ends the processes of a namespace and removes it with its files. Best effort: it runs in drops.
fn remove(name: &str) {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let listed = Command::new("ip").args(["netns", "pids", name]).stderr(Stdio::null()).output();
        let Ok(listed) = listed else { break };
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        let pids: Vec<u32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        if pids.is_empty() || Instant::now() >= until {
            break;
        }
        for pid in pids {
            signal_process(pid, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
    let _ = fs::remove_dir_all(PathBuf::from("/etc/netns").join(name));
}

/// Removes what labs left behind that were killed before they could: names whose process is gone.
///
/// # Errors
/// The list of namespaces cannot be read.
pub fn clean_leftovers() -> Result<Vec<String>> {
    let listed = Command::new("ip").args(["netns", "list"]).output().context("cannot run `ip netns list`")?;
    let mut removed = Vec::new();
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if is_orphan(name) {
            remove(name);
            removed.push(name.to_owned());
        }
    }
    for entry in fs::read_dir(std::env::temp_dir())?.filter_map(Result::ok) {
        if is_orphan(&entry.file_name().to_string_lossy()) {
            fs::remove_dir_all(entry.path())?;
            removed.push(entry.path().display().to_string());
        }
    }
    Ok(removed)
}

/// Whether a name is a lab's whose process is gone.
pub fn is_orphan(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
    owner.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
}
