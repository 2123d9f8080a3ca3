//! The machine's resolver: who asks us, and what it said before.

pub mod conf;
pub(crate) mod file;
mod resolved;

use crate::{
    journal::Journal,
    message::{DnsMode, DnsStanding, Network},
};
use conf::ResolvConf;
use file::{FileError, HeldFile, Look};
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
    /// ours goes in front of it again.
    pub fn look(&mut self, journal: &Journal, now: Instant) -> Result<Seen, FileError> {
        let search = match &self.state {
            State::File { held, search } if held.look() == Look::Foreign => search.clone(),
            _ => return Ok(Seen::Same),
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
            self.state = State::Lost;
            journal.clear()?;
            return Ok(Seen::Changed);
        }
        if let State::File { held, .. } = std::mem::replace(&mut self.state, State::Lost) {
            let held = held.take_again(journal, self.own, &self.interface, &search)?;
            self.state = State::File { held, search };
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
        match std::mem::replace(&mut self.state, State::Untouched) {
            State::Untouched | State::Lost => Ok(()),
            State::Resolved { .. } => {
                // What resolved knows of an interface goes with it; this is for when it is slow to notice.
                resolved::revert(&self.interface).await;
                Ok(())
            }
            State::File { held, .. } => held.give_back(journal),
        }
    }
}
