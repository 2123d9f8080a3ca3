//! A connector's machine in kernel mode: an interface that the connector writes its devices' packets to, one table of
//! nftables that gives them this machine's address, and forwarding. The guardian takes all of it back, however the
//! connector ends; if it is killed too, the next start or [`cleanup_sites`] does, from a journal.

mod forwarding;
mod nft;

use crate::{
    confine,
    error::{GuardianError, Unavailable},
    guardian::{Cleaned, Ended, wait_for_name},
    journal::{Journal, JournalError, Process},
    link::GuardianEnd,
    netlink::Netlink,
    offload::Offload,
    plan::choose_range,
    tun,
};
use forwarding::{Before, Switches};
use nft::Ruleset;
use policy::Prefix;
use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::{MissedTickBehavior, interval, timeout},
};

const JOURNAL: &str = "site.json";
/// The interface's MTU: what a site's hosts send. What is longer than a tunnel carries is cut there.
const MTU: u16 = 1_500;
/// How often it is looked whether table and forwarding are still there: a firewall that is loaded again takes all tables
/// out.
const LOOK: Duration = Duration::from_secs(5);
/// How long a worker may take to end when it is asked to: it says goodbye to its PoPs and clients.
const GOODBYE: Duration = Duration::from_secs(10);

/// What a guardian of a connector is told.
#[derive(Debug, Clone)]
pub struct SiteOptions {
    /// The interface's name, which its table is called after.
    pub interface: String,
    /// Below which directory the journal is.
    pub journals: PathBuf,
    /// Ranges of four addresses for the connector's side, the best first.
    pub ranges_v4: Vec<Prefix>,
    /// The same for IPv6.
    pub ranges_v6: Vec<Prefix>,
}

impl SiteOptions {
    /// What most machines need; `machine` is the directory of the client's journal, which this one's lie beside.
    #[must_use]
    pub fn new(interface: &str, machine: &Path) -> Self {
        let ranges = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        let mut journals = machine.as_os_str().to_owned();
        journals.push("-site");
        Self {
            interface: interface.to_owned(),
            journals: journals.into(),
            // In the range of RFC 6598, spread as the client's are; the last is RFC 2544's for measurements.
            ranges_v4: ranges(&[
                "100.127.254.0/30",
                "100.119.254.0/30",
                "100.87.254.0/30",
                "100.127.253.0/30",
                "198.18.254.0/30",
            ]),
            ranges_v6: ranges(&["fd7a:7467:6e6f::/126", "fd7a:7467:6e6f:1::/126"]),
        }
    }

    fn journal(&self) -> PathBuf {
        self.journals.join(&self.interface)
    }

    /// Letters, digits and underscores: what nft takes for a name in every place.
    fn table(&self) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        format!("tidegate_{}", self.interface.chars().map(plain).collect::<String>())
    }
}

/// The interface that a connector's worker gets.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteFacts {
    /// Its name.
    pub interface: String,
    /// The guardian's process.
    pub guardian: u32,
    /// What packets into the site come from before they get this machine's address.
    pub v4: Ipv4Addr,
    /// The same for IPv6; none where the machine does not forward IPv6.
    pub v6: Option<Ipv6Addr>,
    /// What the interface's packets come with.
    pub offload: Offload,
    /// What is not as one might expect, in sentences.
    pub notes: Vec<String>,
}

/// What was changed, and how it was before.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    guardian: Process,
    table: String,
    /// How forwarding was, where it was switched on.
    forwarding: Option<Before>,
}

/// Puts back what guardians of connectors that were killed left behind; those that run are left alone.
///
/// # Errors
/// The first thing that could not be put back; the others were.
pub fn cleanup_sites(machine: &Path) -> Result<Cleaned, Unavailable> {
    if !rustix::process::geteuid().is_root() {
        return Err(Unavailable::NotRoot);
    }
    let options = SiteOptions::new("", machine);
    let entries = match std::fs::read_dir(&options.journals) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cleaned::Nothing),
        Err(error) => return Err(Unavailable::SiteJournal(error.to_string())),
    };
    let mut cleaned = Ok(Cleaned::Nothing);
    for entry in entries.filter_map(Result::ok) {
        match open_journal(&entry.path()).and_then(|journal| replay(&journal)) {
            Ok(Cleaned::Nothing) | Err(Unavailable::SiteRunning(_)) => {}
            Ok(done) => cleaned = cleaned.map(|_| done),
            Err(error) => cleaned = Err(error),
        }
    }
    cleaned
}

fn open_journal(dir: &Path) -> Result<Journal, Unavailable> {
    Journal::open(dir).map_err(|error| match error {
        JournalError::Held(dir) => {
            let name = dir.file_name().map(|name| name.to_string_lossy().into_owned());
            Unavailable::SiteRunning(name.unwrap_or_default())
        }
        JournalError::Untrusted { path, why } => {
            Unavailable::SiteJournal(format!("{} {why}", path.display()))
        }
        error @ JournalError::Io { .. } => Unavailable::NoJournal(error.to_string()),
    })
}

fn replay(journal: &Journal) -> Result<Cleaned, Unavailable> {
    let unreadable = |error: JournalError| Unavailable::SiteJournal(error.to_string());
    let Some(entry) = journal.read_of::<Entry>(JOURNAL).map_err(unreadable)? else {
        return Ok(Cleaned::Nothing);
    };
    undo(&entry)?;
    journal.clear_of(JOURNAL).map_err(unreadable)?;
    Ok(Cleaned::Restored)
}

fn undo(entry: &Entry) -> Result<(), Unavailable> {
    // Forwarding first: without the table's drop rule the machine must not forward for a moment.
    let restored = match &entry.forwarding {
        Some(before) => Switches::default().restore(before).map(drop),
        None => Ok(()),
    };
    nft::remove(&entry.table)?;
    restored.map_err(Unavailable::Forwarding)
}

/// A machine that is ready for a connector's worker. Dropping it takes everything back.
#[derive(Debug)]
pub struct PreparedSite {
    tun: OwnedFd,
    facts: SiteFacts,
    ruleset: Ruleset,
    changes: Changes,
    cleaned: Cleaned,
}

/// What is changed, and its journal.
#[derive(Debug)]
struct Changes {
    journal: Journal,
    entry: Option<Entry>,
}

impl Changes {
    fn write(&mut self, entry: Entry) -> Result<(), Unavailable> {
        self.journal.write_to(JOURNAL, &entry).map_err(|error| Unavailable::NoJournal(error.to_string()))?;
        self.entry = Some(entry);
        Ok(())
    }

    fn undo(&mut self) -> Result<(), Unavailable> {
        let Some(entry) = &self.entry else { return Ok(()) };
        undo(entry)?;
        self.entry = None;
        self.journal.clear_of(JOURNAL).map_err(|error| Unavailable::SiteJournal(error.to_string()))
    }
}

impl Drop for Changes {
    /// For a set-up that failed half-way, and an end that nobody foresaw.
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::error!(%error, "not everything was put back; `tidegate cleanup` tries again");
        }
    }
}

/// Sets the machine up, after putting back what an earlier guardian left behind.
///
/// # Errors
/// [`Unavailable`]; then nothing is left changed.
pub async fn prepare_site(options: &SiteOptions) -> Result<PreparedSite, Unavailable> {
    if !confine::may_administer() || !rustix::process::geteuid().is_root() {
        return Err(Unavailable::NoSitePrivileges);
    }
    let journal = open_journal(&options.journal())?;
    let cleaned = replay(&journal)?;
    let mut changes = Changes { journal, entry: None };
    let netlink = Netlink::open().map_err(Unavailable::Netlink)?;
    wait_for_name(&netlink, &options.interface).await?;
    let known = netlink.known(None).await.map_err(Unavailable::Netlink)?;
    let none = |tried: &[Prefix]| Unavailable::NoRange { tried: tried.to_vec(), option: "--site-range" };
    let range_v4 = choose_range(&options.ranges_v4, &known).ok_or_else(|| none(&options.ranges_v4))?;
    let mut notes = Vec::new();
    let range_v6 = if forwarding::is_ipv6_router() {
        Some(choose_range(&options.ranges_v6, &known).ok_or_else(|| none(&options.ranges_v6))?)
    } else {
        notes.push(
            "this machine does not forward IPv6 (net.ipv6.conf.all.forwarding=0): targets with IPv6 addresses are \
             reached in userspace"
                .to_owned(),
        );
        None
    };
    let second = |range: Prefix| match range.address() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4) + 2)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) + 2)),
    };
    let (IpAddr::V4(v4), v6) = (second(range_v4), range_v6.map(second)) else {
        return Err(none(&options.ranges_v4));
    };
    let v6 = v6.and_then(|v6| if let IpAddr::V6(v6) = v6 { Some(v6) } else { None });

    let (tun, offload) = tun::create(&options.interface, MTU)?;
    let interface_error = |source| Unavailable::Interface { name: options.interface.clone(), source };
    let links = netlink.links().await.map_err(Unavailable::Netlink)?;
    let index = links.iter().find(|(_, name)| **name == options.interface).map(|(index, _)| *index);
    let index = index.ok_or_else(|| interface_error(io::Error::other("it is gone again")))?;
    netlink.set_up(index).await.map_err(interface_error)?;
    for address in [Some(IpAddr::V4(v4)), v6.map(IpAddr::V6)].into_iter().flatten() {
        netlink.add_plain_route(index, Prefix::host(address)).await.map_err(interface_error)?;
    }

    let switches = Switches::default();
    let before = switches.before()?;
    let only_ours = before.is_some();
    if only_ours {
        notes.push(
            "IPv4 forwarding was off and is on while this connector runs, for it alone: other packets are not \
             forwarded. A machine that forwards for others too needs net.ipv4.ip_forward=1 before the connector starts"
                .to_owned(),
        );
    }
    let ruleset = Ruleset { table: options.table(), interface: options.interface.clone(), v4, v6, only_ours };
    changes.write(Entry { guardian: Process::own(), table: ruleset.table.clone(), forwarding: before })?;
    ruleset.install()?;
    if only_ours {
        switches.switch_on()?;
    }
    let facts = SiteFacts {
        interface: options.interface.clone(),
        guardian: std::process::id(),
        v4,
        v6,
        offload,
        notes,
    };
    Ok(PreparedSite { tun, facts, ruleset, changes, cleaned })
}

impl PreparedSite {
    /// What an earlier guardian had left behind.
    #[must_use]
    pub const fn cleaned(&self) -> Cleaned {
        self.cleaned
    }

    /// Starts the worker and waits until it ends or `shutdown` resolves; then everything is as it was. The worker finds
    /// its seat on standard input ([`crate::take_site_seat`]).
    ///
    /// # Errors
    /// [`GuardianError`]; everything that can be put back has been.
    pub async fn run(
        self,
        mut worker: Command,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Ended, GuardianError> {
        let Self { tun, facts, ruleset, mut changes, .. } = self;
        let (mut link, theirs) = GuardianEnd::pair().map_err(GuardianError::Start)?;
        worker.stdin(std::process::Stdio::from(theirs)).kill_on_drop(true);
        let mut child = worker.spawn().map_err(GuardianError::Start)?;
        // The command holds the worker's end of the socket; without it the link ends with the worker.
        drop(worker);
        let given = link.give_site(&facts, tun.as_fd()).await;
        // The worker alone holds the interface now: it goes with the worker.
        drop(tun);
        let served = match given {
            Ok(()) => {
                let guarded = Guarded { ruleset, changes: &mut changes };
                guarded.serve(&mut link, &mut child, shutdown).await
            }
            Err(_) => collect(&mut child).await,
        };
        if served == Ended::Asked {
            ask_to_end(&mut child).await;
        }
        let undone = changes.undo();
        // Whatever happens, no worker outlives its guardian.
        let _ = child.kill().await;
        undone.map_err(|error| GuardianError::SiteRestore(error.to_string()))?;
        Ok(served)
    }
}

struct Guarded<'a> {
    ruleset: Ruleset,
    changes: &'a mut Changes,
}

impl Guarded<'_> {
    async fn serve(
        mut self,
        link: &mut GuardianEnd,
        child: &mut Child,
        shutdown: impl Future<Output = ()>,
    ) -> Ended {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = link.ended() => return collect(child).await,
                status = child.wait() => return ended(status),
                _ = look.tick() => self.look(),
                () = &mut shutdown => return Ended::Asked,
            }
        }
    }

    /// Puts right what another program took away meanwhile.
    fn look(&mut self) {
        let switches = Switches::default();
        match switches.before() {
            // Another connector that had switched it on has ended, or somebody else switched it off.
            Ok(Some(before)) => {
                let entry = Entry {
                    guardian: Process::own(),
                    table: self.ruleset.table.clone(),
                    forwarding: Some(before),
                };
                // Whoever it was does not want this machine to forward: from now on it does so for this connector alone.
                self.ruleset.only_ours = true;
                let done = self
                    .changes
                    .write(entry)
                    .and_then(|()| self.ruleset.install())
                    .and_then(|()| switches.switch_on());
                tracing::warn!(?done, "IPv4 forwarding was switched off; it is switched on again");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "forwarding was not looked at"),
        }
        if !nft::is_there(&self.ruleset.table) {
            let done = self.ruleset.install();
            tracing::warn!(?done, "another program took the connector's table out; it is put in again");
        }
    }
}

async fn collect(child: &mut Child) -> Ended {
    match timeout(Duration::from_millis(500), child.wait()).await {
        Ok(status) => ended(status),
        Err(_) => Ended::Worker(None),
    }
}

fn ended(status: io::Result<ExitStatus>) -> Ended {
    Ended::Worker(status.ok().and_then(|status| status.code()))
}

async fn ask_to_end(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let _ = timeout(GOODBYE, child.wait()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_one_of_four_addresses_and_none_of_the_clients() {
        let options = SiteOptions::new("tidesite0", Path::new("/var/lib/tidegate/machine"));
        assert_eq!((options.ranges_v4.len(), options.ranges_v6.len()), (5, 2), "one of them is no prefix");
        let client = crate::Options::new("tidegate0", Ipv4Addr::new(100, 64, 0, 2));
        for range in options.ranges_v4.iter().chain(&options.ranges_v6) {
            let is_taken = |of: &Prefix| of.contains(range.address());
            assert!(!client.synthetic_v4.iter().chain(&client.synthetic_v6).any(is_taken), "{range}");
            assert_eq!(range.length(), if range.address().is_ipv4() { 30 } else { 126 });
        }
        assert_eq!(options.journal(), Path::new("/var/lib/tidegate/machine-site/tidesite0"));
    }

    #[test]
    fn a_table_is_called_after_its_interface_in_letters_that_nft_takes() {
        let named = |name: &str| SiteOptions::new(name, Path::new("/x")).table();
        assert_eq!(named("tidesite0"), "tidegate_tidesite0");
        assert_eq!(named("a.b-c"), "tidegate_a_b_c");
    }

    #[test]
    fn a_journal_that_somebody_else_may_have_written_is_refused_and_an_empty_place_is_nothing() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().join("machine");
        assert_eq!(cleanup_sites(&machine).unwrap(), Cleaned::Nothing);
        let options = SiteOptions::new("tidesite9", &machine);
        let journal = open_journal(&options.journal()).unwrap();
        let entry = Entry { guardian: Process::own(), table: "tidegate_x".into(), forwarding: None };
        journal.write_to(JOURNAL, &entry).unwrap();
        assert!(matches!(open_journal(&options.journal()), Err(Unavailable::SiteRunning(_))));
        assert_eq!(cleanup_sites(&machine).unwrap(), Cleaned::Nothing, "it runs");
        drop(journal);
        let path = options.journal().join(JOURNAL);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(cleanup_sites(&machine), Err(Unavailable::SiteJournal(_))));
        assert!(path.exists());
    }
}
