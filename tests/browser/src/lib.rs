//! The console as a person uses it: Debian's Chromium without a window, in front of real processes.
//!
//! This crate owns: a browser driven by its own debugging protocol over two pipes ([`Chromium`], [`Page`]), and a small
//! installation made of the built binary in a temporary directory ([`Stage`]). It refuses to know any crate of the
//! product: what it sees is what a browser and a shell see.
//!
//! ```no_run
//! # fn example() -> anyhow::Result<()> {
//! let stage = browser::Stage::start()?;
//! let chromium = browser::Chromium::start()?;
//! let page = chromium.page()?;
//! page.open(&stage.owner_link)?;
//! page.fill("#n", "lena")?;
//! page.click("button[type=submit]")?;
//! page.wait_for_text("h1", "Overview")?;
//! # Ok(())
//! # }
//! ```

#![allow(clippy::disallowed_methods, reason = "it watches real processes by the real clock")]

mod chromium;
mod page;
mod stage;
mod terminal;
mod totp;

pub use chromium::Chromium;
pub use page::{Authenticator, Page, Screen, Theme, Verified};
pub use stage::{Client, Connector, DatabaseLock, Held, Stage, WebSite, binary};
pub use terminal::Terminal;
pub use totp::totp_code;

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long anything may take that a person waits for. Generous: the machine runs other tests beside this one.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is there.
///
/// # Errors
/// What was missing at the deadline, in the words of the last answer.
pub fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match ask() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= deadline => bail!("{what}, within {within:?}: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(40)),
        }
    }
}
