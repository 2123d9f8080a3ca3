//! One cell: real processes in two networks, what the client says of the path, and what the server's kernel
//! counted of it.

use super::{
    super::{daemon::Daemon, fleet::connector_status},
    bench::{Bench, DOWNLOAD, Pair},
    kind::{Cell, Kind, Path},
    meter::Meter,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// The four bursts of probes are at 0, 0.25, 1 and 3 s: who has not found a direct path a second after the
/// last has tried.
const TRIED: Duration = Duration::from_millis(4500);
/// A direct path comes within this, or not.
const DIRECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a path that was found is watched before it is believed.
const SETTLE: Duration = Duration::from_millis(700);
/// Figure to reach: home to home, from the first byte.
const HOME_TO_HOME: Duration = Duration::from_secs(2);

/// What was seen in a cell.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// The path.
    pub path: Path,
    /// From the request to the first byte of the first page.
    pub first: Duration,
    /// From that byte until packets went direct in both directions.
    pub direct_after: Option<Duration>,
    /// The downloads' mean rate.
    pub mbit_per_s: f64,
    /// What client and connector together took of the processors for the downloads.
    pub processor: Duration,
}

/// Runs a cell and compares it with what is expected.
///
/// # Errors
/// Something else was seen.
pub fn run(bench: &mut Bench, cell: Cell, expected: Path, downloads: u32) -> Result<Figures> {
    let pair = match cell {
        Cell::Apart { client, connector } => bench.apart(client, connector)?,
        Cell::Lan(kind) => bench.lan(kind)?,
        Cell::Rooms => bench.rooms()?,
    };
    let seen = judge(bench, &pair, cell, expected, downloads);
    // Both at once: a process that ends well takes its time to say goodbye.
    pair.client_process.signal(libc::SIGTERM);
    pair.connector_process.signal(libc::SIGTERM);
    seen
}

fn judge(bench: &Bench, pair: &Pair, cell: Cell, expected: Path, downloads: u32) -> Result<Figures> {
    let page = bench.page(pair).context("the first page")?;
    let direct_after = match expected {
        Path::Direct => {
            bench.wait_direct(pair, DIRECT_DEADLINE)?;
            let after = page.at.elapsed();
            if cell == (Cell::Apart { client: Kind::Home, connector: Kind::Home }) {
                ensure!(after <= HOME_TO_HOME, "direct after {after:?}, to reach: {HOME_TO_HOME:?}");
            }
            Some(after)
        }
        Path::Relay | Path::Tcp => None,
    };
    let before = Meter::read(&bench.net.server)?;
    let processor = || Ok::<_, anyhow::Error>(taken(&pair.client_process)? + taken(&pair.connector_process)?);
    let counted_before = counted(bench)?;
    let (taken_before, mut rates) = (processor()?, 0.0);
    for _ in 0..downloads {
        rates += bench.download(pair).context("50 MB")?;
    }
    let mbit_per_s = rates / f64::from(downloads);
    let processor = processor()?.saturating_sub(taken_before);
    let carried = Meter::read(&bench.net.server)? - before;
    let path = carried.path(u64::from(DOWNLOAD) * u64::from(downloads), cell.blocked())?;
    ensure!(path == expected, "50 MB went by {path}, expected {expected}");
    let counted = counted(bench)?.since(counted_before);
    counted.judge(u64::from(DOWNLOAD) * u64::from(downloads), cell, expected)?;
    let until = match expected {
        Path::Direct => Instant::now() + SETTLE,
        Path::Relay | Path::Tcp => (page.at + TRIED).max(Instant::now()),
    };
    loop {
        let says = bench.path()?.context("the client has no path")?;
        ensure!(says == own_word(cell, expected), "the client says {says}, expected {expected}");
        bench.interrupt.check()?;
        if Instant::now() >= until {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    if expected == Path::Relay && tries(cell) {
        let probes = probes(bench)?;
        ensure!(probes > 0, "the client stayed on the relay without having tried");
    }
    bench.page(pair).context("the last page")?;
    Ok(Figures { path, first: page.first, direct_after, mbit_per_s, processor })
}

/// Bytes of downloads by kind of path, in the agents' own metrics.
#[derive(Debug, Clone, Copy)]
struct Counted {
    /// What the client received: straight, by relays, on streams.
    client: [u64; 3],
    /// What the connector sent.
    connector: [u64; 3],
}

impl Counted {
    fn since(self, before: Self) -> Self {
        let less = |after: [u64; 3], before: [u64; 3]| std::array::from_fn(|n| after[n] - before[n]);
        Self { client: less(self.client, before.client), connector: less(self.connector, before.connector) }
    }

    /// Each side counts the download under the path that it took, and next to nothing under the others.
    fn judge(self, downloaded: u64, cell: Cell, expected: Path) -> Result<()> {
        let blocked = cell.blocked();
        for (who, of, is_blocked) in
            [("client", self.client, blocked.client), ("connector", self.connector, blocked.connector)]
        {
            let [direct, relayed, streamed] = of;
            let is_relayed = expected != Path::Direct;
            let wanted = [!is_relayed, is_relayed, is_relayed && is_blocked];
            for (kind, bytes, wanted) in [
                ("direct", direct, wanted[0]),
                ("relay", relayed, wanted[1]),
                ("TCP 443", streamed, wanted[2]),
            ] {
                let holds = if wanted { bytes >= downloaded } else { bytes < downloaded / 10 };
                ensure!(
                    holds,
                    "the {who}'s metrics have {bytes} bytes under {kind} of a download of {downloaded} that went by {expected}"
                );
            }
        }
        Ok(())
    }
}

fn counted(bench: &Bench) -> Result<Counted> {
    let of = |status: &Value, way: &str| -> Result<[u64; 3]> {
        let traffic = &status["traffic"];
        let figures = [
            &traffic[format!("direct_bytes_{way}")],
            &traffic[format!("relay_bytes_{way}")],
            &status["streams"][format!("bytes_{way}")],
        ];
        let mut bytes = [0; 3];
        for (bytes, figure) in bytes.iter_mut().zip(figures) {
            *bytes = figure.as_u64().context("a status has bytes by kind of path")?;
        }
        Ok(bytes)
    };
    let connector = connector_status(&bench.fleet.state("connector")).context("the connector's status")?;
    Ok(Counted { client: of(&bench.fleet.status()?, "received")?, connector: of(&connector, "sent")? })
}

/// What a process took of the processors so far (proc(5): utime and stime, in ticks).
fn taken(process: &Daemon) -> Result<Duration> {
    /// USER_HZ, which Linux shows to every program (include/asm-generic/param.h).
    const TICKS_A_SECOND: u64 = 100;
    let path = format!("/proc/{}/stat", process.pid());
    let stat = fs::read_to_string(&path).context(path)?;
    // Behind the name in parentheses, which may hold blanks.
    let (_, fields) = stat.rsplit_once(')').context("no name in it")?;
    let ticks = |nth: usize| fields.split_whitespace().nth(nth).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("no times in it")?;
    Ok(Duration::from_millis((user + system) * 1_000 / TICKS_A_SECOND))
}

/// What the client calls the path. It knows how it reaches the PoP itself, and not how the connector does.
fn own_word(cell: Cell, expected: Path) -> Path {
    match expected {
        Path::Tcp if !cell.blocked().client => Path::Relay,
        other => other,
    }
}

/// Whether there is anything to send probes to: an address of one's own family.
fn tries(cell: Cell) -> bool {
    let (client, connector) = cell.kinds();
    client.can_address(connector)
}

fn probes(bench: &Bench) -> Result<u64> {
    let path = bench.fleet.path()?;
    let tried = path["tried"].as_array().context("what was tried")?;
    Ok(tried.iter().filter_map(|tried| tried["probes"].as_u64()).sum())
}
