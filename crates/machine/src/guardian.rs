//! The guardian: sets the machine up, starts the worker, does what it asks within bounds, and takes everything back.

use crate::{
    confine,
    error::{GuardianError, Unavailable},
    journal::{Journal, JournalError},
    link::{GuardianEnd, LinkError},
    message::{Applied, Conflict, FromGuardian, FromWorker, Network, SeatFacts},
    netlink::Netlink,
    offload::Offload,
    plan::{KnownKind, KnownRoute, choose_range, plan},
    resolver::{
        Resolver, Seen,
        file::{FileError, PutBack, is_nobodys, put_back},
    },
    tun,
};
use policy::Prefix;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::BTreeSet,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::{Duration, Instant},
};
use tokio::{
    process::{Child, Command},
    time::{MissedTickBehavior, interval, timeout},
};

/// How often the resolver file is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A worker says that it is alive each second. One that does not for so long stands still, and every program on the
/// machine that asks for a name waits for it.
const SILENCE: Duration = Duration::from_secs(15);
/// How long a worker may take from its start to its first word: it reads its state directory.
const HELLO: Duration = Duration::from_secs(20);
/// How long a worker may take to end when it is asked to: it says goodbye to its PoPs.
const GOODBYE: Duration = Duration::from_secs(5);
/// A worker that does not take its messages is as good as gone.
const SEND: Duration = Duration::from_secs(2);
/// An interface of a worker that was killed a moment ago goes within this.
const INTERFACE_GOES: Duration = Duration::from_secs(3);

/// What a guardian is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The interface's name.
    pub interface: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Ranges for synthetic IPv4 addresses, the best first: the first that is free is taken.
    pub synthetic_v4: Vec<Prefix>,
    /// The same for IPv6.
    pub synthetic_v6: Vec<Prefix>,
    /// The resolver file.
    pub resolv_conf: PathBuf,
    /// Where the journal is.
    pub journal: PathBuf,
}

impl Options {
    /// What most machines need.
    #[must_use]
    pub fn new(interface: &str, v4: Ipv4Addr) -> Self {
        let ranges = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        Self {
            interface: interface.to_owned(),
            v4,
            // All inside 100.64.0.0/10 (RFC 6598, which homes and offices do not use) and fd7a:7467:6e00::/40: only
            // there connectors know an address as one that stands for a name. Spread, because other VPNs and providers
            // have parts of the first. Not 100.98.0.0/16 and fd7a:7467:6e62::/96, which the proxies' names have.
            synthetic_v4: ranges(&[
                "100.97.0.0/16",
                "100.113.0.0/16",
                "100.81.0.0/16",
                "100.73.0.0/16",
                "100.105.0.0/16",
                "100.121.0.0/16",
            ]),
            synthetic_v6: ranges(&["fd7a:7467:6e61::/96", "fd7a:7467:6e63::/96", "fd7a:7467:6e64::/96"]),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            journal: PathBuf::from("/var/lib/tidegate/machine"),
        }
    }
}

fn open_journal(dir: &Path) -> Result<Journal, Unavailable> {
    Journal::open(dir).map_err(|error| match error {
        JournalError::Io { .. } => Unavailable::NoJournal(error.to_string()),
        other => other.into(),
    })
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself; its exit code, none after a signal.
    Worker(Option<i32>),
    /// The guardian was asked to end.
    Asked,
}

/// What [`cleanup`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaned {
    /// Nothing to do.
    Nothing,
    /// The resolver settings are as they were.
    Restored,
    /// Somebody else has written them since: they stay.
    Foreign,
}

/// Puts back what a guardian with these options that was killed left behind.
///
/// # Errors
/// A guardian runs, what is in the journal cannot be put back or is not to be believed, or there is nothing in it and the
/// resolver file is ours all the same.
pub fn cleanup(options: &Options) -> Result<Cleaned, Unavailable> {
    if !rustix::process::geteuid().is_root() {
        return Err(Unavailable::NotRoot);
    }
    if !options.journal.exists() {
        return nothing(options);
    }
    replay(&open_journal(&options.journal)?, options)
}

fn nothing(options: &Options) -> Result<Cleaned, Unavailable> {
    if is_nobodys(&options.resolv_conf, options.v4) {
        return Err(Unavailable::LeftOver(options.resolv_conf.clone()));
    }
    Ok(Cleaned::Nothing)
}

fn replay(journal: &Journal, options: &Options) -> Result<Cleaned, Unavailable> {
    let Some(entry) = journal.read()? else { return nothing(options) };
    if entry.path != options.resolv_conf {
        let why = format!("is about {}, not {}", entry.path.display(), options.resolv_conf.display());
        return Err(Unavailable::Untrusted { path: journal.file(), why });
    }
    // The lock says so already; where the directory is shared with another machine, it does not.
    if entry.guardian.is_alive() && entry.guardian.pid != std::process::id() {
        return Err(Unavailable::Running);
    }
    let done = put_back(&entry).map_err(|error| Unavailable::Journal(error.to_string()))?;
    journal.clear()?;
    Ok(match done {
        PutBack::Restored => Cleaned::Restored,
        PutBack::NotOurs => Cleaned::Foreign,
    })
}

/// A machine with an interface that nothing leads to yet. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Prepared {
    options: Options,
    journal: Journal,
    netlink: Netlink,
    index: u32,
    tun: OwnedFd,
    offload: Offload,
    udp: Socket,
    tcp: Socket,
    synthetic_v4: Prefix,
    synthetic_v6: Prefix,
    cleaned: Cleaned,
}

/// Makes the interface and its DNS sockets, after putting back what an earlier guardian left behind.
///
/// # Errors
/// [`Unavailable`]; then nothing is left changed.
pub async fn prepare(options: Options) -> Result<Prepared, Unavailable> {
    if !confine::may_administer() {
        return Err(Unavailable::NoCapability);
    }
    let journal = open_journal(&options.journal)?;
    let cleaned = replay(&journal, &options)?;
    let netlink = Netlink::open().map_err(Unavailable::Netlink)?;
    wait_for_name(&netlink, &options.interface).await?;
    let known = netlink.known(None).await.map_err(Unavailable::Netlink)?;
    let address = IpAddr::V4(options.v4);
    if let Some(taken) = known.iter().find(|known| known.prefix == Prefix::host(address)) {
        return Err(Unavailable::AddressTaken { address, interface: taken.interface.clone() });
    }
    let synthetic_v4 = range(&options.synthetic_v4, &known, "--synthetic-v4")?;
    let synthetic_v6 = range(&options.synthetic_v6, &known, "--synthetic-v6")?;

    let (tun, offload) = tun::create(&options.interface, tun::MTU)?;
    let links = netlink.links().await.map_err(Unavailable::Netlink)?;
    let index = links.iter().find(|(_, name)| **name == options.interface).map(|(index, _)| *index);
    let gone = || Unavailable::Interface {
        name: options.interface.clone(),
        source: io::Error::other("it is gone again"),
    };
    let index = index.ok_or_else(gone)?;
    let interface_error = |source| Unavailable::Interface { name: options.interface.clone(), source };
    netlink.add_address(index, address).await.map_err(interface_error)?;
    netlink.set_up(index).await.map_err(interface_error)?;
    let udp = listen(&options.interface, options.v4, Type::DGRAM)?;
    let tcp = listen(&options.interface, options.v4, Type::STREAM)?;
    Ok(Prepared {
        options,
        journal,
        netlink,
        index,
        tun,
        offload,
        udp,
        tcp,
        synthetic_v4,
        synthetic_v6,
        cleaned,
    })
}

/// The interface of a worker that was killed goes by itself, in a moment.
pub(crate) async fn wait_for_name(netlink: &Netlink, name: &str) -> Result<(), Unavailable> {
    let is_there = async || {
        let links = netlink.links().await.map_err(Unavailable::Netlink)?;
        Ok::<_, Unavailable>(links.values().any(|known| known == name))
    };
    let until = now() + INTERFACE_GOES;
    while is_there().await? {
        // Only a TUN interface can be one that goes.
        let is_tun = Path::new(&format!("/sys/class/net/{name}/tun_flags")).exists();
        if !is_tun || now() >= until {
            return Err(Unavailable::InterfaceTaken(name.to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn range(candidates: &[Prefix], known: &[KnownRoute], option: &'static str) -> Result<Prefix, Unavailable> {
    choose_range(candidates, known).ok_or_else(|| Unavailable::NoRange { tried: candidates.to_vec(), option })
}

/// A DNS socket on the interface's own address that this machine alone reaches. What the machine sends to its own
/// address counts as coming in by the interface that has it; what a neighbour sends there comes in by another one.
fn listen(interface: &str, address: Ipv4Addr, kind: Type) -> Result<Socket, Unavailable> {
    let (protocol, name) = if kind == Type::DGRAM { (Protocol::UDP, "UDP") } else { (Protocol::TCP, "TCP") };
    let make = || {
        let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
        if kind == Type::STREAM {
            // Connections of a run before may still be in TIME-WAIT.
            socket.set_reuse_address(true)?;
        }
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddr::from((address, 53)).into())?;
        if kind == Type::STREAM {
            socket.listen(64)?;
        }
        Ok(socket)
    };
    make().map_err(|source| Unavailable::PortTaken { address, protocol: name, source })
}

#[expect(clippy::disallowed_methods, reason = "the guardian is a process of its own, at the machine's clock")]
fn now() -> Instant {
    Instant::now()
}

impl Prepared {
    /// What an earlier guardian had left behind.
    #[must_use]
    pub const fn cleaned(&self) -> Cleaned {
        self.cleaned
    }

    /// Starts the worker and serves it until it ends or `shutdown` resolves; then everything is as it was. The worker
    /// finds its seat on standard input ([`crate::take_seat`]).
    ///
    /// # Errors
    /// [`GuardianError`]; everything that can be put back has been.
    pub async fn run(
        self,
        mut worker: Command,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Ended, GuardianError> {
        let (link, theirs) = GuardianEnd::pair().map_err(GuardianError::Start)?;
        worker.stdin(std::process::Stdio::from(theirs)).kill_on_drop(true);
        let child = worker.spawn().map_err(GuardianError::Start)?;
        // The command holds the worker's end of the socket; without it the link ends with the worker.
        drop(worker);
        let Self {
            options, journal, netlink, index, tun, offload, udp, tcp, synthetic_v4, synthetic_v6, ..
        } = self;
        let synthetic = [synthetic_v4, synthetic_v6];
        let resolver = Resolver::new(&options.resolv_conf, options.v4, &options.interface, synthetic);
        let mut guardian = Guardian {
            options,
            journal,
            netlink,
            index,
            offload,
            synthetic,
            v6: None,
            notes: Vec::new(),
            routes: BTreeSet::new(),
            wanted: None,
            is_told: false,
            resolver,
            link,
            child,
        };
        let served = guardian.serve((tun, udp, tcp), shutdown).await;
        guardian.end(served).await
    }
}

struct Guardian {
    options: Options,
    journal: Journal,
    netlink: Netlink,
    index: u32,
    offload: Offload,
    synthetic: [Prefix; 2],
    v6: Option<Ipv6Addr>,
    notes: Vec<String>,
    /// What leads into the interface.
    routes: BTreeSet<Prefix>,
    wanted: Option<Network>,
    /// Whether the worker knows its upstreams.
    is_told: bool,
    resolver: Resolver,
    link: GuardianEnd,
    child: Child,
}

impl Guardian {
    async fn serve(
        &mut self,
        (tun, udp, tcp): (OwnedFd, Socket, Socket),
        shutdown: impl Future<Output = ()>,
    ) -> Result<Ended, GuardianError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let hello = tokio::select! {
            hello = timeout(HELLO, self.link.recv()) => hello,
            () = &mut shutdown => return Ok(Ended::Asked),
        };
        match hello {
            Ok(Ok(FromWorker::Hello { v6 })) => self.seat(v6, &tun, &udp, &tcp).await?,
            Ok(Err(LinkError::Ended | LinkError::Io(_))) | Err(_) => {
                // It says itself why.
                let status = timeout(Duration::from_secs(1), self.child.wait()).await;
                let code = status.ok().and_then(Result::ok).and_then(|status| status.code());
                return match code {
                    Some(code) => Ok(Ended::Worker(Some(code))),
                    None => Err(GuardianError::Early("it said nothing".to_owned())),
                };
            }
            Ok(other) => return Err(GuardianError::Worker(format!("its first word was {other:?}"))),
        }
        // The worker alone holds the interface now: it goes with the worker.
        drop((tun, udp, tcp));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = now();
        let mut was_silent = false;
        loop {
            tokio::select! {
                message = self.link.recv() => match message {
                    Ok(FromWorker::Alive {}) => heard = now(),
                    Ok(FromWorker::Network(wanted)) => {
                        heard = now();
                        self.apply(wanted).await?;
                    }
                    Ok(FromWorker::Told {}) => {
                        heard = now();
                        let is_news = !std::mem::replace(&mut self.is_told, true);
                        if let Some(wanted) = self.wanted.clone().filter(|_| is_news) {
                            self.apply(wanted).await?;
                        }
                    }
                    Ok(FromWorker::Hello { .. }) => {
                        return Err(GuardianError::Worker("it said hello twice".to_owned()));
                    }
                    Err(LinkError::Ended | LinkError::Io(_)) => return Ok(self.collect().await),
                    Err(error) => return Err(GuardianError::Worker(error.to_string())),
                },
                _ = self.child.wait() => return Ok(self.collect().await),
                _ = look.tick() => {
                    // Twice: after this process itself stood still (Ctrl-Z, a paused machine), what the worker said
                    // meanwhile has to be read first.
                    let is_silent = now().saturating_duration_since(heard) > SILENCE;
                    if std::mem::replace(&mut was_silent, is_silent) && is_silent {
                        return Err(GuardianError::Worker(format!(
                            "it stood still for {} s", SILENCE.as_secs()
                        )));
                    }
                    match self.resolver.look(&self.journal, now()) {
                        Ok(Seen::Same) => {}
                        Ok(Seen::Changed) => {
                            // Other name servers: they stay outside the tunnel as well.
                            if let Some(wanted) = self.wanted.clone() {
                                self.apply(wanted).await?;
                            }
                        }
                        Err(error) => tracing::warn!(%error, "the resolver file was not taken over again"),
                    }
                }
                () = &mut shutdown => return Ok(Ended::Asked),
            }
        }
    }

    async fn seat(
        &mut self,
        v6: Ipv6Addr,
        tun: &OwnedFd,
        udp: &Socket,
        tcp: &Socket,
    ) -> Result<(), GuardianError> {
        // A unique local address (RFC 4193), and nothing else: a worker names no address of somebody else's.
        if v6.octets()[0] != 0xfd {
            return Err(GuardianError::Worker(format!("{v6} is no unique local address")));
        }
        match self.netlink.add_address(self.index, v6.into()).await {
            Ok(()) => self.v6 = Some(v6),
            Err(error) => self.notes.push(format!(
                "the interface has no IPv6 address ({error}): is IPv6 switched off on this machine? Resources are reached by IPv4"
            )),
        }
        let facts = SeatFacts {
            interface: self.options.interface.clone(),
            guardian: std::process::id(),
            v4: self.options.v4,
            v6: self.v6,
            offload: self.offload,
            synthetic_v4: self.synthetic[0],
            synthetic_v6: self.synthetic[1],
            notes: self.notes.clone(),
        };
        self.link
            .give_seat(facts, [tun.as_fd(), udp.as_fd(), tcp.as_fd()])
            .await
            .map_err(|error| GuardianError::Worker(error.to_string()))
    }

    /// Does what the worker wants, within bounds, and says what came of it.
    async fn apply(&mut self, wanted: Network) -> Result<(), GuardianError> {
        let servers = self.resolver.upstreams();
        let mut conflicts = self.lead(&wanted, &servers).await?;
        self.wanted = Some(wanted.clone());
        // The resolver last: from then on every program asks the worker, which has to know whom to ask, and what it
        // answers has to lead somewhere.
        if !self.is_told {
            return self.say(FromGuardian::Upstreams { servers }).await;
        }
        self.resolver
            .apply(&self.journal, &wanted)
            .await
            .map_err(|error: FileError| GuardianError::Resolver(error.to_string()))?;
        let asked = self.resolver.upstreams();
        if asked != servers {
            // Somebody wrote the file in between, or systemd-resolved did not take it.
            conflicts = self.lead(&wanted, &asked).await?;
        }
        let routes = self.routes.iter().copied().collect();
        let dns = self.resolver.standing();
        self.say(FromGuardian::Applied(Applied { routes, conflicts, dns })).await
    }

    /// Makes the routes that the worker wants, within bounds, around name servers.
    async fn lead(
        &mut self,
        wanted: &Network,
        servers: &[SocketAddr],
    ) -> Result<Vec<Conflict>, GuardianError> {
        let known = self.netlink.known(Some(self.index)).await.map_err(GuardianError::Netlink)?;
        let servers: Vec<IpAddr> = servers.iter().map(SocketAddr::ip).collect();
        let mut own: Vec<Prefix> = vec![Prefix::host(self.options.v4.into())];
        own.extend(self.v6.map(|v6| Prefix::host(v6.into())));
        own.extend(self.synthetic);
        let mut plan = plan(wanted, &servers, &own, &known);
        plan.routes.extend(self.synthetic);
        if self.v6.is_none() {
            plan.routes.retain(|route| route.address().is_ipv4());
        }
        let sources = (IpAddr::V4(self.options.v4), self.v6.map(IpAddr::V6));
        let source = |prefix: &Prefix| {
            if prefix.address().is_ipv4() { sources.0 } else { sources.1.unwrap_or(sources.0) }
        };
        for gone in self.routes.difference(&plan.routes) {
            if let Err(error) = self.netlink.remove_route(self.index, *gone, source(gone)).await {
                tracing::warn!(%error, route = %gone, "a route was not removed");
            }
        }
        let mut routes = BTreeSet::new();
        for route in plan.routes {
            if self.routes.contains(&route) {
                routes.insert(route);
                continue;
            }
            match self.netlink.add_route(self.index, route, source(&route)).await {
                Ok(()) => {
                    routes.insert(route);
                }
                Err(error) => plan.conflicts.push(Conflict {
                    prefix: route,
                    routed: false,
                    why: format!("the kernel did not take the route: {error}"),
                }),
            }
        }
        self.routes = routes;
        Ok(plan.conflicts)
    }

    async fn say(&mut self, message: FromGuardian) -> Result<(), GuardianError> {
        match timeout(SEND, self.link.send(&message)).await {
            Ok(Ok(())) => Ok(()),
            // It has ended; the next wait says so.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(GuardianError::Worker("it does not take its messages".to_owned())),
        }
    }

    async fn collect(&mut self) -> Ended {
        let status = timeout(Duration::from_millis(200), self.child.wait()).await;
        Ended::Worker(status.ok().and_then(Result::ok).and_then(|status: ExitStatus| status.code()))
    }

    /// Ends the worker, if it still runs, and puts everything back; the resolver first when the worker is gone already:
    /// programs wait for it.
    async fn end(mut self, served: Result<Ended, GuardianError>) -> Result<Ended, GuardianError> {
        let is_worker_gone = matches!(served, Ok(Ended::Worker(_)));
        if !is_worker_gone && matches!(served, Ok(Ended::Asked)) {
            if let Some(pid) = self
                .child
                .id()
                .and_then(|pid| i32::try_from(pid).ok())
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = timeout(GOODBYE, self.child.wait()).await;
        }
        let restored = self.resolver.give_back(&self.journal).await;
        // Whatever happens, no worker outlives its guardian.
        let _ = self.child.kill().await;
        restored.map_err(|error| GuardianError::Restore(error.to_string()))?;
        served
    }
}

impl Drop for Guardian {
    /// For an end that nobody foresaw, such as a panic: what was given back already is not touched again.
    fn drop(&mut self) {
        if let Err(error) = self.resolver.give_back_file(&self.journal) {
            tracing::error!(%error, "the resolver file was not put back; `tidegate cleanup` tries again");
        }
    }
}

impl KnownRoute {
    /// An address of this machine.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.kind == KnownKind::Own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{journal::Process, resolver::conf::Before};

    #[test]
    fn every_range_is_one_that_connectors_know_and_the_proxies_do_not_use() {
        let options = Options::new("tidegate0", Ipv4Addr::new(100, 64, 0, 2));
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => u128::from(v6),
        };
        let inside = |range: Prefix, whole: Prefix| {
            range.length() >= whole.length() && whole.contains(range.address())
        };
        for (ranges, count, known, proxies) in [
            (&options.synthetic_v4, 6, "100.64.0.0/10", "100.98.0.0/16"),
            (&options.synthetic_v6, 3, "fd7a:7467:6e00::/40", "fd7a:7467:6e62::/96"),
        ] {
            assert_eq!(ranges.len(), count, "one of them is no prefix");
            assert!(ranges.iter().all(|range| inside(*range, prefix(known))), "{ranges:?}");
            assert!(
                !ranges.contains(&prefix(proxies))
                    && !ranges.iter().any(|range| inside(prefix(proxies), *range))
            );
            assert!(!ranges.iter().any(|range| range.contains(options.v4.into())));
            let mut starts: Vec<u128> = ranges.iter().map(|range| bits(range.address())).collect();
            starts.sort_unstable();
            starts.dedup();
            assert_eq!(starts.len(), count, "one of them is there twice");
        }
    }

    /// A place where a guardian with these options was killed.
    fn left_behind(dir: &Path, about: &Path) -> Options {
        let mut options = Options::new("tidegate0", Ipv4Addr::new(100, 64, 0, 2));
        options.resolv_conf = dir.join("resolv.conf");
        options.journal = dir.join("journal");
        std::fs::write(about, "ours").unwrap();
        let before = Before::Missing;
        let entry = crate::journal::Entry {
            guardian: Process::own(),
            path: about.to_owned(),
            before,
            ours: b"ours".to_vec(),
            in_place: false,
        };
        Journal::open(&options.journal).unwrap().write(&entry).unwrap();
        options
    }

    #[test]
    fn a_journal_about_another_file_is_refused_and_nothing_is_changed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("shadow");
        let options = left_behind(dir.path(), &other);
        let refused = cleanup(&options).unwrap_err();
        assert!(matches!(&refused, Unavailable::Untrusted { .. }), "{refused:?}");
        assert!(refused.to_string().contains("shadow"), "{refused}");
        assert_eq!(std::fs::read(&other).unwrap(), b"ours");
        assert!(options.journal.join("resolver.json").exists());
        // About the right one it is believed.
        let options = left_behind(dir.path(), &options.resolv_conf);
        assert_eq!(cleanup(&options).unwrap(), Cleaned::Restored);
        assert!(!options.resolv_conf.exists());
        assert_eq!(cleanup(&options).unwrap(), Cleaned::Nothing);
    }
}
