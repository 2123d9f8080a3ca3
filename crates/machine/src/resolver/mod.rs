//! The machine's resolver: who asks us, and what it said before.

pub mod conf;
pub(crate) mod file;
mod resolved;

use crate::{
    journal::Journal,
    message::{DnsMode, DnsStanding, Network},
};
use conf::ResolvConf;
use file::{FileError, HeldFile, Look, undo};
use policy::Prefix;
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often another program may write the file within [`FIGHT`] before it gets its way: a DHCP client writes at each
/// renewal, a second VPN at each of ours.
const MAX_REWRITES: usize = 6;
const FIGHT: Duration = Duration::from_secs(60);

/// The machine's resolver, as we have it.
#[derive(Debug)]
pub(crate) struct Resolver {
    path: PathBuf,
    own: Ipv4Addr,
    interface: String,
    /// What reverse questions come here about.
    synthetic: [Prefix; 2],
    state: State,
    /// When somebody else wrote the file, lately.
    rewrites: VecDeque<Instant>,
    rewritten: u32,
    note: Option<String>,
}

#[derive(Debug)]
enum State {
    Untouched,
    Resolved {
        upstreams: Vec<SocketAddr>,
        search: Vec<String>,
        told: Vec<String>,
    },
    File {
        held: HeldFile,
        search: Vec<String>,
    },
    /// Another program does not let us.
    Lost,
}

/// Whether there is something new to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing happened.
    Same,
    /// Tell the worker.
    Changed,
}

impl Resolver {
    pub fn new(path: &Path, own: Ipv4Addr, interface: &str, synthetic: [Prefix; 2]) -> Self {
        Self {
            path: path.to_owned(),
            own,
            interface: interface.to_owned(),
            synthetic,
            state: State::Untouched,
            rewrites: VecDeque::new(),
            rewritten: 0,
            note: None,
        }
    }

    /// Where the machine's questions go when they are not ours, before anything is changed: these addresses stay
    /// outside the tunnel.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        match &self.state {
            State::Untouched if resolved::serves(&self.path) => resolved::upstreams(self.own),
            State::Untouched | State::Lost => {
                let conf = ResolvConf::parse(&std::fs::read(&self.path).unwrap_or_default());
                conf.upstreams(self.own)
            }
            State::Resolved { upstreams, .. } => upstreams.clone(),
            State::File { held, .. } => held.upstreams(self.own),
        }
    }

    /// Sends the machine's questions here.
    pub async fn apply(&mut self, journal: &Journal, wanted: &Network) -> Result<(), FileError> {
        let search: Vec<String> = wanted.search.iter().map(ToString::to_string).collect();
        match &mut self.state {
            State::Untouched => {
                if resolved::serves(&self.path) {
                    let domains = resolved::domains(wanted, &self.synthetic);
                    match resolved::take(&self.interface, self.own, &domains).await {
                        Ok(()) => {
                            self.note = resolved::unasked(wanted);
                            self.state = State::Resolved {
                                upstreams: resolved::upstreams(self.own),
                                search,
                                told: domains,
                            };
                            return Ok(());
                        }
                        Err(why) => self.note = Some(format!("systemd-resolved was not told: {why}")),
                    }
                }
                let held = HeldFile::take(journal, &self.path, self.own, &self.interface, &search)?;
                self.state = State::File { held, search };
            }
            State::Resolved { search: known, told, .. } => {
                let domains = resolved::domains(wanted, &self.synthetic);
                if *told != domains {
                    match resolved::take(&self.interface, self.own, &domains).await {
                        Ok(()) => {
                            *told = domains;
                            self.note = resolved::unasked(wanted);
                        }
                        Err(why) => self.note = Some(format!("systemd-resolved was not told: {why}")),
                    }
                }
                *known = search;
            }
            State::File { search: known, .. } if *known != search => {
                if let State::File { held, .. } = std::mem::replace(&mut self.state, State::Untouched) {
                    held.give_back(journal)?;
                }
                let held = HeldFile::take(journal, &self.path, self.own, &self.interface, &search)?;
                self.state = State::File { held, search };
            }
            State::File { .. } | State::Lost => {}
        }
        Ok(())
    }

    /// Looks whether somebody else wrote the file; then what they wrote is what the machine wants from now on, and
    /// ours goes in front of it again. And whether other servers are to be asked for everything that is not ours.
    pub fn look(&mut self, journal: &Journal, now: Instant) -> Result<Seen, FileError> {
        let search = match &mut self.state {
            State::File { held, search } if held.look() == Look::Foreign => search.clone(),
            State::File { held, .. } => {
                return Ok(if held.follow(self.own) { Seen::Changed } else { Seen::Same });
            }
            State::Resolved { upstreams, .. } => {
                let servers = resolved::upstreams(self.own);
                // Without a network it has none; those of the last one do no harm.
                if servers.is_empty() || servers == *upstreams {
                    return Ok(Seen::Same);
                }
                *upstreams = servers;
                return Ok(Seen::Changed);
            }
            State::Untouched | State::Lost => return Ok(Seen::Same),
        };
        self.rewritten += 1;
        while self.rewrites.front().is_some_and(|at| now.saturating_duration_since(*at) > FIGHT) {
            self.rewrites.pop_front();
        }
        self.rewrites.push_back(now);
        if self.rewrites.len() > MAX_REWRITES {
            self.note = Some(format!(
                "another program keeps writing {}: private names are not answered until it stops; end it, then start tidegate again",
                self.path.display()
            ));
            if let State::File { held, .. } = std::mem::replace(&mut self.state, State::Lost) {
                held.give_back(journal)?;
            }
            return Ok(Seen::Changed);
        }
        if let State::File { held, .. } = std::mem::replace(&mut self.state, State::Lost) {
            match held.take_again(journal, self.own, &self.interface, &search) {
                Ok(held) => self.state = State::File { held, search },
                Err(error) => {
                    tracing::warn!(%error, "the resolver file was not taken over again");
                    self.note = Some(format!(
                        "private names are not answered: the resolver file could not be written again ({error}); start tidegate again"
                    ));
                }
            }
        }
        Ok(Seen::Changed)
    }

    pub fn standing(&self) -> DnsStanding {
        let (mode, search) = match &self.state {
            State::Untouched | State::Lost => (DnsMode::Off, Vec::new()),
            State::Resolved { search, .. } => (DnsMode::Resolved, search.clone()),
            State::File { held, .. } => (DnsMode::File, held.search()),
        };
        DnsStanding {
            mode,
            upstreams: self.upstreams(),
            search,
            rewritten: self.rewritten,
            note: self.note.clone(),
        }
    }

    /// Gives everything back.
    pub async fn give_back(&mut self, journal: &Journal) -> Result<(), FileError> {
        if matches!(self.state, State::Resolved { .. }) {
            // What resolved knows of an interface goes with it; this is for when it is slow to notice.
            resolved::revert(&self.interface).await;
        }
        self.give_back_file(journal)
    }

    /// Gives the file back, if it is held, or if taking it failed half-way and could not be undone at once.
    pub fn give_back_file(&mut self, journal: &Journal) -> Result<(), FileError> {
        match std::mem::replace(&mut self.state, State::Untouched) {
            State::File { held, .. } => held.give_back(journal),
            State::Untouched | State::Lost | State::Resolved { .. } => {
                journal.read()?.map_or(Ok(()), |entry| undo(journal, &entry))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test needs one moment to count from")]
    async fn another_network_behind_a_link_is_told_once_and_its_servers_are_asked() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("resolv.conf"), dir.path().join("dhcp.conf"));
        std::fs::write(&target, "nameserver 192.0.2.1\n").unwrap();
        std::os::unix::fs::symlink("dhcp.conf", &path).unwrap();
        let journal = Journal::open(&dir.path().join("journal")).unwrap();
        let synthetic = ["100.97.0.0/16".parse().unwrap(), "fd7a:7467:6e61::/96".parse().unwrap()];
        let mut resolver = Resolver::new(&path, Ipv4Addr::new(100, 64, 0, 2), "tidegate0", synthetic);
        resolver.apply(&journal, &Network::default()).await.unwrap();
        let now = Instant::now();
        assert_eq!(resolver.look(&journal, now).unwrap(), Seen::Same);
        std::fs::write(&target, "nameserver 198.51.100.1\n").unwrap();
        assert_eq!(resolver.look(&journal, now).unwrap(), Seen::Changed);
        assert_eq!(resolver.look(&journal, now).unwrap(), Seen::Same);
        assert_eq!(resolver.standing().upstreams, ["198.51.100.1:53".parse().unwrap()]);
        assert_eq!((resolver.standing().mode, resolver.standing().rewritten), (DnsMode::File, 0));
        resolver.give_back(&journal).await.unwrap();
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test needs one moment to count from")]
    async fn what_could_not_be_undone_at_once_is_undone_at_the_end() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let journal = Journal::open(&dir.path().join("journal")).unwrap();
        let synthetic = ["100.97.0.0/16".parse().unwrap(), "fd7a:7467:6e61::/96".parse().unwrap()];
        let mut resolver = Resolver::new(&path, Ipv4Addr::new(100, 64, 0, 2), "tidegate0", synthetic);
        resolver.apply(&journal, &Network::default()).await.unwrap();
        // Something that is no file: it cannot be taken again, nor put back.
        let aside = dir.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(resolver.look(&journal, Instant::now()).unwrap(), Seen::Changed);
        let standing = resolver.standing();
        assert_eq!(standing.mode, DnsMode::Off);
        assert!(standing.note.unwrap().contains("not answered"));
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        resolver.give_back(&journal).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.1\n");
        assert_eq!(journal.read().unwrap(), None);
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test needs one moment to count from")]
    async fn a_program_that_keeps_writing_the_file_gets_its_way_and_that_is_said() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let journal = Journal::open(&dir.path().join("journal")).unwrap();
        let synthetic = ["100.97.0.0/16".parse().unwrap(), "fd7a:7467:6e61::/96".parse().unwrap()];
        let mut resolver = Resolver::new(&path, Ipv4Addr::new(100, 64, 0, 2), "tidegate0", synthetic);
        resolver.apply(&journal, &Network::default()).await.unwrap();
        assert_eq!(resolver.standing().mode, DnsMode::File);
        let start = Instant::now();
        assert_eq!(resolver.look(&journal, start).unwrap(), Seen::Same);
        // As often as a DHCP client may: ours comes back each time.
        for round in 0..20 {
            let theirs = format!("nameserver 192.0.2.{round}\n");
            std::fs::write(&path, &theirs).unwrap();
            let now = start + FIGHT * round / 5;
            assert_eq!(resolver.look(&journal, now).unwrap(), Seen::Changed);
            assert_eq!(resolver.standing().mode, DnsMode::File, "{round}");
            assert_eq!(resolver.upstreams(), [format!("192.0.2.{round}:53").parse().unwrap()]);
        }
        // Faster than that it is a fight.
        let later = start + FIGHT * 100;
        for round in 0..=MAX_REWRITES {
            std::fs::write(&path, "nameserver 192.0.2.99\n").unwrap();
            assert_eq!(resolver.look(&journal, later).unwrap(), Seen::Changed, "{round}");
        }
        let standing = resolver.standing();
        assert_eq!(standing.mode, DnsMode::Off);
        assert!(standing.note.unwrap().contains("another program"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.99\n");
        assert_eq!(journal.read().unwrap(), None);
        resolver.give_back(&journal).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.99\n");
    }
}
