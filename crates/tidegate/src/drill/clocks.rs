//! The clocks of a test build: a file for each role, which its process reads while it runs.

use crate::process::CLOCKS;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A machine with a clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The controller's.
    Controller,
    /// That of every PoP.
    Pop,
    /// The connector's.
    Connector,
    /// That of every client.
    Clients,
}

impl Owner {
    /// Each.
    pub const ALL: [Self; 4] = [Self::Controller, Self::Pop, Self::Connector, Self::Clients];

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Controller => "the controller's clock",
            Self::Pop => "the PoPs' clocks",
            Self::Connector => "the connector's clock",
            Self::Clients => "every client's clock",
        }
    }

    /// As its processes are called.
    const fn role(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Pop => "pop",
            Self::Connector => "connector",
            Self::Clients => "load-worker",
        }
    }
}

/// The clocks of a drill.
pub struct Clocks {
    place: PathBuf,
}

impl Clocks {
    /// Every process that this one starts from now on has a clock that can be set.
    pub fn give(dir: &Path) -> anyhow::Result<Self> {
        let place = CLOCKS.get_or_init(|| dir.join("clocks")).clone();
        std::fs::create_dir_all(&place)?;
        Ok(Self { place })
    }

    /// A machine's wall clock is off by so many milliseconds, and it has slept for so long in all: nothing takes sleep back.
    pub fn set(&self, owner: Owner, wall_ms: i64, slept: Duration) -> anyhow::Result<()> {
        let place = self.place.join(owner.role());
        let new = place.with_extension("new");
        std::fs::write(&new, format!("{wall_ms} {}\n", slept.as_millis()))?;
        // At once: nobody reads half a number.
        Ok(std::fs::rename(new, place)?)
    }

    /// Every machine sleeps, and its battery keeps the time.
    pub fn sleep(&self, slept: Duration) -> anyhow::Result<()> {
        let wall = i64::try_from(slept.as_millis())?;
        Owner::ALL.into_iter().try_for_each(|owner| self.set(owner, wall, slept))
    }
}
