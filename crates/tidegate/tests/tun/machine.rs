//! A machine to break, and a site beside it.

use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Says to the test binary that it runs inside the machine, in which test.
const INSIDE: &str = "TIDEGATE_TUN_INSIDE";
const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");
/// The site's end of the cable, and the machine's way out: the public name server.
const SITE: &str = "192.0.2.1";
/// PoP and controller, behind that, in a range that a resource has as well.
pub const POP: &str = "203.0.113.9";

/// Runs the body of a test on a machine of its own, which is gone afterwards with everything on it.
pub fn in_own_machine(body: impl FnOnce(&mut Machine)) {
    let thread = std::thread::current();
    let name = thread.name().unwrap().to_owned();
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        return body(&mut Machine::new());
    }
    if let Some(missing) = missing() {
        eprintln!("left out, nothing checked: {missing}");
        return;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, &name)
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    for line in
        said.lines().filter(|line| ["rounds", "SEED", "left out"].iter().any(|word| line.contains(word)))
    {
        eprintln!("{line}");
    }
}

fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("namespaces need root");
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun");
    }
    let can = Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "ip", "link"]).output();
    if can.is_ok_and(|output| output.status.success()) {
        None
    } else {
        Some("unshare or ip is missing, or not allowed")
    }
}

/// Runs a command that has to succeed.
pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits for a condition.
pub fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < until, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal; a process that is gone already is as good.
pub fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Whether a process runs; what only waits to be collected does not.
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// What a web server says, by the machine's own resolver and routes.
pub fn http(at: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap_or_else(|error| panic!("{at}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// What the name server at an address says to one question for an IPv4 address, by TCP: the message's code and its
/// number of answers.
pub fn ask_by_tcp(server: &str, name: &str) -> (u8, u8) {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&query).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..2], query[..2]);
    (answer[3] & 0xf, answer[7])
}

/// By which interface the kernel sends to an address.
pub fn interface_to(address: &str) -> String {
    let output = Command::new("ip").args(["-o", "route", "get", address]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).unwrap_or_else(|| panic!("{address}: {text}")).to_owned()
}

/// What the machine's resolver makes of a name, IPv4 only.
pub fn look_up(name: &str) -> Vec<String> {
    let found = name.to_socket_addrs().unwrap_or_else(|error| panic!("{name}: {error}"));
    found.filter(std::net::SocketAddr::is_ipv4).map(|address| address.to_string()).collect()
}

/// Small and repeatable (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// How a command ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{} {}", self.stdout, self.stderr);
        self
    }
}

/// The machine that a test runs on.
pub struct Machine {
    scratch: PathBuf,
    children: Vec<Child>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What else runs in this machine's own process namespace ends with it.
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Machine {
    fn new() -> Self {
        // Everything that a client writes to is this machine's own.
        run("mount", &["-t", "tmpfs", "none", "/run"]);
        run("mount", &["-t", "tmpfs", "none", "/var/lib"]);
        // On a file system that goes with the machine.
        let scratch = PathBuf::from("/run/test");
        fs::create_dir(&scratch).unwrap();
        let mut machine = Self { scratch, children: Vec::new() };
        let etc = machine.scratch("etc");
        run("mount", &["-t", "tmpfs", "none", etc.to_str().unwrap()]);
        run("cp", &["-a", "/etc/.", etc.to_str().unwrap()]);
        run("mount", &["--bind", etc.to_str().unwrap(), "/etc"]);
        for setting in ["default", "all"] {
            // Nothing here is there twice; looking for it would change the snapshots by itself.
            fs::write(format!("/proc/sys/net/ipv6/conf/{setting}/accept_dad"), "0").unwrap();
        }
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["netns", "add", "site"]);
        run("ip", &["link", "add", "c0", "type", "veth", "peer", "name", "s0", "netns", "site"]);
        run("ip", &["address", "add", "192.0.2.2/24", "dev", "c0"]);
        run("ip", &["link", "set", "c0", "up"]);
        run("ip", &["route", "add", "default", "via", SITE]);
        for arguments in [
            &["address", "add", "192.0.2.1/24", "dev", "s0"][..],
            &["address", "add", "192.0.2.53/24", "dev", "s0"],
            &["link", "set", "s0", "up"],
            &["link", "set", "lo", "up"],
            &["address", "add", "10.9.9.9/32", "dev", "lo"],
            &["address", "add", "203.0.113.9/32", "dev", "lo"],
        ] {
            let mut all = vec!["-n", "site"];
            all.extend(arguments);
            run("ip", &all);
        }
        let text = format!("# of the test\nnameserver {SITE}\noptions timeout:2 attempts:2\n");
        let _ = fs::remove_file("/etc/resolv.conf");
        fs::write("/etc/resolv.conf", text).unwrap();
        fs::write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n").unwrap();
        fs::create_dir_all("/etc/netns/site").unwrap();
        fs::write(
            "/etc/netns/site/hosts",
            "10.9.9.9 wiki.office.internal build.lab.internal\n127.0.0.1 localhost\n",
        )
        .unwrap();
        machine.start_site();
        machine
    }

    /// A command in the site.
    fn in_site(program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "site"]).arg(program);
        command
    }

    fn start_site(&mut self) {
        let services = Self::in_site(std::env::current_exe().unwrap())
            .args(["--exact", "site_services", "--nocapture"])
            .env("TIDEGATE_TUN_SERVICES", self.asked_file())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(services);
        let serve = self.scratch.join("serve");
        let listen = format!("{POP}:8443");
        let arguments = ["--json", "serve", "--listen", &listen, "--advertise", &listen, "--state"];
        self.start_role(Self::in_site(TIDEGATE).args(arguments).arg(&serve));
        let admin = |arguments: &[&str]| -> Value {
            let mut command = Self::in_site(TIDEGATE);
            let output =
                command.args(["--json", "admin", "--state"]).arg(&serve).args(arguments).output().unwrap();
            let words = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{arguments:?}: {words}");
            serde_json::from_str(&words).unwrap()
        };
        admin(&["create", "site", "--name", "office", "--prefix", "10.9.9.0/24"]);
        admin(&[
            "create",
            "resource",
            "--name",
            "web",
            "--site",
            "office",
            "--address",
            "10.9.9.9",
            "--ports",
            "80",
        ]);
        let edge = ["--name", "edge", "--site", "office", "--address", "203.0.113.0/24", "--ports", "80"];
        let mut create = vec!["create", "resource"];
        create.extend(edge);
        admin(&create);
        let wiki = ["--address", "wiki.office.internal", "--ports", "80", "--alias", "portal"];
        let mut create = vec!["create", "resource", "--name", "wiki", "--site", "office"];
        create.extend(wiki);
        admin(&create);
        admin(&["create", "group", "--name", "staff"]);
        admin(&["create", "user", "--name", "ann", "--email", "ann@example.org", "--group", "staff"]);
        let lab = ["--name", "lab", "--site", "office", "--address", "*.lab.internal", "--ports", "80"];
        let mut create = vec!["create", "resource"];
        create.extend(lab);
        admin(&create);
        let mut create = vec!["create", "policy", "--name", "all", "--group", "staff"];
        create.extend(["--resource", "web", "--resource", "wiki", "--resource", "edge", "--resource", "lab"]);
        admin(&create);
        let key = |name: &str, arguments: &[&str]| {
            let file = self.scratch.join(name);
            fs::write(&file, admin(arguments)["key"].as_str().unwrap()).unwrap();
            file
        };
        let connector = key("connector.key", &["create", "key", "--connector", "--site", "office"]);
        let device = key("device.key", &["create", "key", "--device", "--user", "ann"]);
        let mut command = Self::in_site(TIDEGATE);
        command.args(["--json", "connector", "--join-file"]).arg(connector).arg("--state");
        command.arg(self.scratch.join("connector"));
        self.start_role(&mut command);
        self.tidegate_with_state(&["login", "--key-file", device.to_str().unwrap()]).success();
    }

    fn start_role(&mut self, command: &mut Command) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        self.children.push(child);
        assert!(lines.any(|line| line.unwrap().contains("\"ready\"")), "a role of the site ended");
        // What it says later is read and forgotten, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
    }

    fn asked_file(&self) -> PathBuf {
        self.scratch.join("asked")
    }

    /// The names that the public name server was asked for.
    pub fn asked_upstream(&self) -> Vec<String> {
        fs::read_to_string(self.asked_file()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// A directory of this machine's own.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.scratch.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The client's state directory: where root's is by itself.
    pub fn client(&self) -> PathBuf {
        PathBuf::from("/var/lib/tidegate/client")
    }

    /// Starts systemd-resolved on this machine, with the site's name server; `false` where there is none to start.
    pub fn start_resolved(&mut self) -> bool {
        if let Some(root) = std::env::var_os("TIDEGATE_TEST_SYSTEMD").map(PathBuf::from) {
            let files = self.scratch("systemd");
            for part in ["usr/.", "lib"] {
                let part = root.join(part);
                if part.exists() {
                    run("cp", &["-a", part.to_str().unwrap(), files.to_str().unwrap()]);
                }
            }
            let layers = format!("lowerdir={}:/usr", files.display());
            run("mount", &["-t", "overlay", "overlay", "-o", &layers, "/usr"]);
        }
        let daemon = Path::new("/usr/lib/systemd/systemd-resolved");
        if !daemon.exists() || !Path::new("/usr/bin/dbus-daemon").exists() {
            return false;
        }
        for (file, line) in [
            ("/etc/passwd", "systemd-resolve:x:991:991::/:/usr/sbin/nologin\n"),
            ("/etc/group", "systemd-resolve:x:991:\n"),
        ] {
            let text = fs::read_to_string(file).unwrap();
            if !text.contains("systemd-resolve:") {
                fs::write(file, text + line).unwrap();
            }
        }
        fs::create_dir_all("/run/dbus").unwrap();
        fs::create_dir_all("/run/systemd/resolve").unwrap();
        run("chown", &["systemd-resolve:systemd-resolve", "/run/systemd/resolve"]);
        fs::create_dir_all("/etc/systemd").unwrap();
        let settings = format!(
            "[Resolve]\nDNS={SITE}\nDNSSEC=no\nDNSOverTLS=opportunistic\nMulticastDNS=no\nLLMNR=no\nCache=no\n"
        );
        fs::write("/etc/systemd/resolved.conf", settings).unwrap();
        run("dbus-daemon", &["--system", "--fork", "--nopidfile"]);
        let resolved = Command::new(daemon).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.children.push(resolved);
        let stub = Path::new("/run/systemd/resolve/stub-resolv.conf");
        wait_until("systemd-resolved runs", Duration::from_secs(10), || {
            stub.exists()
                && Command::new("resolvectl")
                    .arg("status")
                    .output()
                    .is_ok_and(|output| output.status.success())
        });
        fs::remove_file("/etc/resolv.conf").unwrap();
        std::os::unix::fs::symlink(stub, "/etc/resolv.conf").unwrap();
        true
    }

    /// Makes the state directory another user's.
    pub fn give_state_to(&self, uid: u32) {
        let mut rest = vec![self.client()];
        while let Some(path) = rest.pop() {
            chown(&path, Some(uid), Some(uid)).unwrap();
            if path.is_dir() {
                rest.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }

    fn command(arguments: &[&str]) -> Command {
        let mut command = Command::new(TIDEGATE);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn ended(mut command: Command) -> Ended {
        let output = command.output().unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn tidegate(&self, arguments: &[&str]) -> Ended {
        Self::ended(Self::command(arguments))
    }

    pub fn tidegate_with_state(&self, arguments: &[&str]) -> Ended {
        let mut command = Self::command(arguments);
        command.arg("--state").arg(self.client());
        Self::ended(command)
    }

    /// Starts the client with an interface.
    pub fn up(&self, arguments: &[&str]) {
        let mut all = vec!["up", "--tun", "--no-port-mapping"];
        all.extend(arguments);
        self.tidegate_with_state(&all).success();
    }

    /// The same, not waited for.
    pub fn start(&self) -> Child {
        let mut command = Self::command(&["up", "--tun", "--no-port-mapping", "--state"]);
        command.arg(self.client()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub fn down(&self) {
        self.tidegate_with_state(&["down"]).success();
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.tidegate_with_state(&["--json", "status"]).success().stdout).unwrap()
    }

    pub fn guardian(&self) -> u32 {
        u32::try_from(self.status()["tun"]["guardian"].as_u64().unwrap()).unwrap()
    }

    pub fn worker(&self) -> u32 {
        u32::try_from(self.status()["pid"].as_u64().unwrap()).unwrap()
    }

    /// The process of the client that was started with this argument, in the background.
    pub fn find(&self, argument: &str) -> Option<u32> {
        let processes =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        processes.into_iter().find(|pid: &u32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0);
            arguments.next() == Some(TIDEGATE.as_bytes()) && arguments.any(|word| word == argument.as_bytes())
        })
    }

    /// Ends what a start left running.
    pub fn end_whatever_runs(&self) {
        wait_until("guardian and worker have ended", Duration::from_secs(12), || {
            let (guardian, worker) = (self.find("--tun=on"), self.find("--seat"));
            match (guardian, worker) {
                (Some(guardian), _) => kill(guardian, rustix::process::Signal::TERM),
                // Without a guardian it ends by itself.
                (None, Some(_)) => {}
                (None, None) => return true,
            }
            false
        });
    }

    /// Everything that has to be as it was.
    pub fn snapshot(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for arguments in
            ["address", "-4 route show table all", "-6 route show table all", "-4 rule", "-6 rule"]
        {
            let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
            assert!(output.status.success());
            found.push((format!("ip {arguments}"), String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        let mut names: Vec<String> = fs::read_dir("/etc")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        found.push(("ls /etc".into(), names.join("\n")));
        let path = Path::new("/etc/resolv.conf");
        let about = fs::symlink_metadata(path).unwrap();
        // A link's own time changes when it is made again; no program reads it.
        let time = if about.is_symlink() { (0, 0) } else { (about.mtime(), about.mtime_nsec()) };
        let about = format!("{:o} {}:{} {time:?}", about.mode(), about.uid(), about.gid());
        found.push(("about resolv.conf".into(), about));
        found.push(("link of resolv.conf".into(), format!("{:?}", fs::read_link(path).ok())));
        found.push(("resolv.conf".into(), String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()));
        found
    }

    /// Waits until everything is as it was, at most so long; what is not is for [`Self::assert_same`] to say.
    pub fn settle(&self, before: &[(String, String)], within: Duration) {
        let until = Instant::now() + within;
        while self.snapshot() != before && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn assert_same(&self, before: &[(String, String)], what: &str) {
        let after = self.snapshot();
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            assert_eq!(before, after, "{what}: {name} changed");
        }
    }
}

/// The site's web server and the public name server, until the machine is gone.
pub fn serve_site() {
    let asked = PathBuf::from(std::env::var_os("TIDEGATE_TUN_SERVICES").unwrap());
    let web = TcpListener::bind("10.9.9.9:80").unwrap();
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request);
            let body = "from the site";
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    let by_tcp = TcpListener::bind("0.0.0.0:53").unwrap();
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in by_tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut length = [0; 2];
            let _ = stream.read_exact(&mut length);
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            let _ = stream.read_exact(&mut query);
            if let Some(answer) = public_answer(&log, &query) {
                let _ = stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes());
                let _ = stream.write_all(&answer);
            }
        }
    });
    let names = UdpSocket::bind("0.0.0.0:53").unwrap();
    let mut query = [0; 4_096];
    while let Ok((length, from)) = names.recv_from(&mut query) {
        if let Some(answer) = public_answer(&asked, &query[..length]) {
            let _ = names.send_to(&answer, from);
        }
    }
}

/// A recursive server's answer: the question, and an address if one was asked for. What was asked is written down.
fn public_answer(asked: &Path, query: &[u8]) -> Option<Vec<u8>> {
    let (name, question) = question(query)?;
    let mut log = fs::OpenOptions::new().create(true).append(true).open(asked).unwrap();
    writeln!(log, "{name}").unwrap();
    let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    if is_a {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 198, 51, 100, 7]);
    }
    Some(answer)
}

/// The name that is asked for, and the question's bytes.
fn question(query: &[u8]) -> Option<(String, &[u8])> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            return Some((labels.join("."), query.get(12..at + 5)?));
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
}
