//! The PoP dies and comes back while bytes flow.

use super::{
    super::{
        bench::Bench,
        kind::{Kind, Path},
    },
    Figures, GAP, Scenario, during_download, gaps, pair,
};
use anyhow::Result;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "direct, the PoP is killed and restarted", run: pop_direct },
    Scenario { name: "direct, all of serve is killed and restarted", run: serve_direct },
    Scenario { name: "relayed, the PoP is killed and restarted", run: pop_relayed },
    Scenario { name: "relayed, all of serve is killed and restarted", run: serve_relayed },
];

/// "0 s" as a program can measure it: the pace's own silence, and a busy machine's.
const NONE: Duration = Duration::from_millis(300);

fn pop_direct(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    Ok(gaps(during_download(bench, &mut pair, NONE, |bench, _| bench.kill_pop())?))
}

fn serve_direct(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    Ok(gaps(during_download(bench, &mut pair, NONE, |bench, _| again(bench))?))
}

fn pop_relayed(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Symmetric, Kind::Symmetric, Path::Relay)?;
    Ok(gaps(during_download(bench, &mut pair, GAP, |bench, _| bench.kill_pop())?))
}

fn serve_relayed(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Symmetric, Kind::Symmetric, Path::Relay)?;
    Ok(gaps(during_download(bench, &mut pair, GAP, |bench, _| again(bench))?))
}

fn again(bench: &mut Bench) -> Result<()> {
    bench.kill_serve()?;
    bench.restart_serve()
}
