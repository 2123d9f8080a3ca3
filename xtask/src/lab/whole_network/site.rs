//! A site of real servers that nobody here wrote, on one host: dnsmasq, OpenSSH, Samba, iperf3, and an HTTP/3 server on
//! aioquic. And dnsmasq once more, as the resolver that the client's own network gives it.

use crate::{
    lab::{daemon::Daemon, namespace::Namespace, services},
    process::{Interrupt, run, wait_until},
    python,
};
use anyhow::{Context as _, Result};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const START: Duration = Duration::from_secs(30);
/// What is copied by scp and smbclient.
pub const FILE: usize = 5_000_000;
/// The port of the HTTP/3 server.
pub const HTTP3: u16 = 443;

/// A resolver with what it was asked.
#[derive(Debug)]
pub struct Resolver {
    _daemon: Daemon,
    log: PathBuf,
}

impl Resolver {
    /// Starts dnsmasq on `address`, with `records` as it writes them in its configuration.
    ///
    /// # Errors
    /// dnsmasq is not installed or does not come up.
    pub fn start(
        host: &Namespace,
        address: Ipv4Addr,
        directory: &Path,
        records: &str,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let log = directory.join("dnsmasq.log");
        let file = directory.join("dnsmasq.conf");
        fs::write(
            &file,
            format!(
                "no-resolv\nno-hosts\nbind-interfaces\nlisten-address={address}\nlog-queries\nlog-facility={}\n\
                 pid-file=\nuser=root\ncache-size=0\n{records}\n",
                log.display()
            ),
        )?;
        let mut command = host.command("dnsmasq");
        command.arg("--keep-in-foreground").arg(format!("--conf-file={}", file.display()));
        let daemon = Daemon::start(command, &directory.join("said.log"))?;
        wait_until("dnsmasq on its port", START, interrupt, || {
            let server = format!("@{address}");
            let asked =
                host.attempt(Duration::from_secs(5), "dig", &[&server, "+time=1", "+tries=1", "ready.test"])?;
            Ok(asked.status.success().then_some(()))
        })
        .with_context(|| daemon.last_words())?;
        Ok(Self { _daemon: daemon, log })
    }

    /// The questions that contain `text`.
    pub fn questions(&self, text: &str) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines()
            .filter(|line| line.contains(": query[") && line.contains(text))
            .map(str::to_owned)
            .collect()
    }
}

/// The host with the other servers.
#[derive(Debug)]
pub struct Servers {
    _daemons: Vec<Daemon>,
    directory: PathBuf,
}

impl Servers {
    /// Starts them on `address`; `name` is what the HTTP/3 server's certificate says.
    ///
    /// # Errors
    /// One of them is not installed or does not come up.
    pub fn start(
        host: &Namespace,
        address: Ipv4Addr,
        name: &str,
        directory: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let share = directory.join("share");
        fs::create_dir_all(&share)?;
        for open in [directory, &share] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(share.join("file"), services::noise(FILE))?;
        let mut daemons = vec![
            sshd(host, address, directory, interrupt)?,
            samba(host, address, directory)?,
            iperf(host, address)?,
        ];
        daemons.push(http3(host, address, name, directory, interrupt)?);
        for (what, port) in [("sshd", 22), ("smbd", 445), ("iperf3", 5201)] {
            wait_until(&format!("{what} on its port"), START, interrupt, || {
                let listening = host.run(Duration::from_secs(5), "ss", &["-Hltn"])?.stdout;
                Ok(listening.contains(&format!(":{port} ")).then_some(()))
            })
            .with_context(|| daemons.iter().map(Daemon::last_words).collect::<Vec<_>>().join("\n"))?;
        }
        Ok(Self { _daemons: daemons, directory: directory.to_owned() })
    }

    /// The file that is copied.
    pub fn file(&self) -> PathBuf {
        self.directory.join("share/file")
    }

    /// The key that logs in by SSH, and the file with the server's own.
    pub fn ssh_keys(&self) -> (PathBuf, PathBuf) {
        (self.directory.join("user-key"), self.directory.join("known-hosts"))
    }

    /// The certificate that the HTTP/3 server shows.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("http3.pem")
    }

    /// The page of the HTTP/3 server.
    pub fn page(&self) -> PathBuf {
        self.directory.join("page")
    }
}

fn sshd(host: &Namespace, address: Ipv4Addr, directory: &Path, interrupt: &Interrupt) -> Result<Daemon> {
    for key in ["host-key", "user-key"] {
        let mut made = Command::new("ssh-keygen");
        made.args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(directory.join(key));
        run(&mut made, START, interrupt)?.success("ssh-keygen")?;
    }
    let public = fs::read_to_string(directory.join("host-key.pub"))?;
    let mut words = public.split_whitespace();
    let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    fs::write(directory.join("known-hosts"), format!("* {kind} {key}\n"))?;
    let file = directory.join("sshd.conf");
    let here = directory.display();
    fs::write(
        &file,
        format!(
            "ListenAddress {address}\nPort 22\nHostKey {here}/host-key\nAuthorizedKeysFile {here}/user-key.pub\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n\
             Subsystem sftp internal-sftp\n"
        ),
    )?;
    // Where Debian's own service unit makes it.
    fs::create_dir_all("/run/sshd")?;
    let mut command = host.command("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(&file);
    Daemon::start(command, &directory.join("sshd.log"))
}

fn samba(host: &Namespace, address: Ipv4Addr, directory: &Path) -> Result<Daemon> {
    let state = directory.join("samba");
    fs::create_dir_all(state.join("private"))?;
    let file = directory.join("smb.conf");
    let here = state.display();
    fs::write(
        &file,
        format!(
            "[global]\n interfaces = {address}/24 127.0.0.1\n bind interfaces only = yes\n smb ports = 445\n\
             disable netbios = yes\n server role = standalone server\n map to guest = Bad User\n\
             guest account = nobody\n private dir = {here}/private\n lock directory = {here}\n\
             state directory = {here}\n cache directory = {here}\n pid directory = {here}\n\
             ncalrpc dir = {here}/ncalrpc\n log file = {here}/log\n load printers = no\n disable spoolss = yes\n\
             [share]\n path = {}\n guest ok = yes\n read only = yes\n",
            directory.join("share").display()
        ),
    )?;
    let mut command = host.command("smbd");
    command.arg("--foreground").arg("--no-process-group").arg(format!("--configfile={}", file.display()));
    Daemon::start(command, &directory.join("smbd.log"))
}

fn iperf(host: &Namespace, address: Ipv4Addr) -> Result<Daemon> {
    let mut command = host.command("iperf3");
    command.args(["--server", "--bind", &address.to_string()]);
    Daemon::start(command, Path::new("/dev/null"))
}

fn http3(
    host: &Namespace,
    address: Ipv4Addr,
    name: &str,
    directory: &Path,
    interrupt: &Interrupt,
) -> Result<Daemon> {
    let (certificate, key) = (directory.join("http3.pem"), directory.join("http3.key"));
    let mut made = Command::new("openssl");
    made.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
    ]);
    made.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}"), "-keyout"]);
    made.arg(&key).arg("-out").arg(&certificate);
    run(&mut made, START, interrupt)?.success("openssl req")?;
    fs::write(directory.join("page"), services::noise(300_000))?;
    let python = python::environment("http3", interrupt)?;
    let mut command = host.command(python);
    command.arg(crate::repository().join("tests/http3/serve.py"));
    command
        .args([address.to_string(), HTTP3.to_string()])
        .arg(&certificate)
        .arg(&key)
        .arg(directory.join("page"));
    let mut daemon = Daemon::start(command, &directory.join("http3.log"))?;
    daemon.wait_line("the HTTP/3 server", START, interrupt, |line| (line == "ready").then_some(()))?;
    Ok(daemon)
}
