//! What the checks need from the machine: found, installed when root, else named.

use crate::{
    lab,
    process::{Interrupt, on_path, run, run_visible},
};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Downloads over a slow line, and the longest compilation of a tool on two cores.
const INSTALL_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Who needs a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// The fast checks.
    Checks,
    /// The lab too.
    Lab,
}

/// A Debian package, and how to see that what it brings is there.
struct Package {
    name: &'static str,
    present: fn() -> bool,
    needed_for: For,
}

const PACKAGES: &[Package] = &[
    Package { name: "gcc", present: || on_path("cc"), needed_for: For::Checks },
    Package { name: "g++", present: || on_path("c++"), needed_for: For::Checks },
    Package { name: "cmake", present: || on_path("cmake"), needed_for: For::Checks },
    Package { name: "python3", present: || on_path("python3"), needed_for: For::Checks },
    Package { name: "python3-venv", present: has_venv, needed_for: For::Checks },
    Package { name: "chromium", present: || on_path("chromium"), needed_for: For::Checks },
    Package { name: "curl", present: || on_path("curl"), needed_for: For::Checks },
    Package { name: "nodejs", present: || on_path("node"), needed_for: For::Checks },
    Package { name: "npm", present: || on_path("npm"), needed_for: For::Checks },
    Package { name: "iproute2", present: || on_path("ip"), needed_for: For::Lab },
    Package { name: "nftables", present: || on_path("nft"), needed_for: For::Lab },
    Package { name: "miniupnpd-nftables", present: || on_path("miniupnpd"), needed_for: For::Lab },
    Package { name: "procps", present: || on_path("sysctl"), needed_for: For::Lab },
    Package { name: "iputils-ping", present: || on_path("ping"), needed_for: For::Lab },
    Package { name: "util-linux", present: || on_path("setpriv"), needed_for: For::Lab },
    Package { name: "conntrack", present: || on_path("conntrack"), needed_for: For::Lab },
    Package { name: "coturn", present: || on_path("turnutils_natdiscovery"), needed_for: For::Lab },
    Package { name: "libfaketime", present: lab::outage::has_faketime, needed_for: For::Lab },
    Package { name: "e2fsprogs", present: || on_path("mkfs.ext4"), needed_for: For::Lab },
    Package { name: "mount", present: || on_path("mount"), needed_for: For::Lab },
    Package { name: "nginx-light", present: || on_path("nginx"), needed_for: For::Lab },
    Package { name: "postgresql", present: lab::services::has_database_programs, needed_for: For::Checks },
    Package { name: "dnsmasq-base", present: || on_path("dnsmasq"), needed_for: For::Lab },
    Package { name: "bind9-dnsutils", present: || on_path("dig"), needed_for: For::Lab },
    Package { name: "openssh-server", present: || on_path("sshd"), needed_for: For::Lab },
    Package { name: "openssh-client", present: || on_path("scp"), needed_for: For::Lab },
    Package { name: "samba", present: || on_path("smbd"), needed_for: For::Lab },
    Package { name: "smbclient", present: || on_path("smbclient"), needed_for: For::Lab },
    Package { name: "iperf3", present: || on_path("iperf3"), needed_for: For::Lab },
    Package { name: "openssl", present: || on_path("openssl"), needed_for: For::Checks },
    Package { name: "postgresql-client", present: || on_path("psql"), needed_for: For::Lab },
];

fn has_venv() -> bool {
    let asked = Command::new("python3").args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// Makes sure of every tool that `what` needs.
///
/// # Errors
/// Something is missing and cannot be installed; the message names it and says what to do.
pub fn ensure_all(what: For, interrupt: &Interrupt) -> Result<String> {
    let wanted = |package: &&Package| what == For::Lab || package.needed_for == For::Checks;
    let missing = |packages: &[Package]| -> Vec<&'static str> {
        packages
            .iter()
            .filter(wanted)
            .filter(|package| !(package.present)())
            .map(|package| package.name)
            .collect()
    };
    let absent = missing(PACKAGES);
    let mut done = Vec::new();
    if !absent.is_empty() {
        let by_hand = format!("apt-get install {}", absent.join(" "));
        ensure!(lab::is_root(), "missing, and only root can install them: {by_hand}");
        ensure!(
            on_path("apt-get"),
            "missing, and this is not Debian: what these packages bring: {}",
            absent.join(" ")
        );
        install_packages(&absent, interrupt)?;
        let still = missing(PACKAGES);
        ensure!(still.is_empty(), "installed, yet not found: {}", still.join(" "));
        done.push(format!("installed {}", absent.join(" ")));
    }
    if install_nextest(interrupt)? {
        done.push("installed cargo-nextest".to_owned());
    }
    Ok(if done.is_empty() { "everything is here".to_owned() } else { done.join(", ") })
}

fn install_packages(names: &[&str], interrupt: &Interrupt) -> Result<()> {
    let _services_stay_down = NoServices::declare()?;
    for arguments in
        [&["update", "-q"][..], &[&["install", "-q", "-y", "--no-install-recommends"], names].concat()[..]]
    {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut apt, INSTALL_DEADLINE, interrupt)?.success("apt-get")?;
    }
    Ok(())
}

/// While it lives, Debian's packages start no service (policy-rc.d, Debian policy section 9.3.3.1):
/// the lab wants the programs of nginx and PostgreSQL, not servers on this machine's ports.
struct NoServices(Option<PathBuf>);

impl NoServices {
    fn declare() -> Result<Self> {
        let policy = Path::new("/usr/sbin/policy-rc.d");
        if policy.exists() {
            // The machine has a policy of its own, which stays.
            return Ok(Self(None));
        }
        fs::write(policy, "#!/bin/sh\nexit 101\n").context("cannot write policy-rc.d")?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(policy.to_owned())))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = &self.0 {
            let _ = fs::remove_file(policy);
        }
    }
}

fn install_nextest(interrupt: &Interrupt) -> Result<bool> {
    let mut present = Command::new(env!("CARGO"));
    present.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if present.status().is_ok_and(|status| status.success()) {
        return Ok(false);
    }
    let mut install = Command::new(env!("CARGO"));
    install.args(["install", "cargo-nextest", "--locked"]);
    let status = run_visible(&mut install, INSTALL_DEADLINE, interrupt)?;
    ensure!(status.success(), "cannot install cargo-nextest: run `cargo install cargo-nextest --locked`");
    Ok(true)
}
