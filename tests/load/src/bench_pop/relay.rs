//! Registrations while the relay gets more than it can carry.

use crate::{
    Bench, Figure, Goal,
    registrations::{FIRST, register},
};
use anyhow::{Context as _, Result, ensure};
use load_rig::{AgentKind, Crowd, Outcome, PopProcess, WideSender};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use wire::{ChannelId, ConnectorId, RelayKind};

/// Channels that are flooded; the relay lets 250 MB/s through each.
const CHANNELS: usize = 16;
/// Bytes of a frame, header included.
const FRAME: usize = 1_000;
/// Frames in one send: the kernel cuts them, so that a flood costs its sender little.
const BURST: usize = 60;
/// What is sent a second: a core carries 1,560 k of 1,600 k when arrivals are merged. Much more would only keep the sender from
/// its other work.
const OFFERED: u64 = 2_400_000;
/// Agents that come in one run, at most.
const COMING: usize = 12_000;
const RUN: Duration = Duration::from_secs(4);
const AT_ONCE: usize = 64;
const DEADLINE: Duration = Duration::from_secs(10);
const CONNECTORS: Ipv4Addr = Ipv4Addr::new(127, 24, 0, 1);

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut pop = bench.start_pop()?;
    let to = pop.address();
    let runs = bench.options.runs;
    let connectors = bench.installation.agents(AgentKind::Connectors, 1)?;
    let connector: ConnectorId = *connectors.connectors.first().context("one connector")?;
    let mut connectors = Crowd::new(&bench.installation, connectors, CONNECTORS, to, 3)?;
    let devices = bench.installation.agents(AgentKind::Devices, CHANNELS + runs * COMING)?;
    let mut devices = Crowd::new(&bench.installation, devices, FIRST, to, 4)?;
    register(&mut connectors, 0, 1, 1)?;
    register(&mut devices, 0, CHANNELS, CHANNELS)?;
    let channels = open_channels(&mut devices, &mut connectors, connector)?;
    let (mut rates, mut offered, mut carried, mut waits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        let flood = Flood::start(devices.sender()?, to, &channels)?;
        // The queues fill first.
        devices.turn(Duration::from_millis(300))?;
        let (relayed, sent, began) = (relayed(&pop)?, flood.sent(), Instant::now());
        let from = CHANNELS + run * COMING;
        let registered = register_for(&mut devices, from, from + COMING, &mut waits)?;
        let seconds = began.elapsed().as_secs_f64();
        offered.push((flood.sent() - sent) as f64 / seconds / 1e3);
        carried.push((self::relayed(&pop)? - relayed) as f64 / seconds / 1e3);
        rates.push(registered as f64 / seconds);
        flood.stop();
        eprintln!(
            "{:.0} registrations a second; relay: {:.0} k frames a second offered, {:.0} k carried",
            rates[run], offered[run], carried[run]
        );
        // What waits in buffers goes first; the next run begins from rest.
        devices.turn(Duration::from_secs(1))?;
        pop.check()?;
    }
    let behind = offered.iter().zip(&carried).all(|(offered, carried)| *carried < offered * 0.95);
    let flood = if behind { "a saturating relay flood" } else { "a relay flood that did not saturate it" };
    waits.sort_unstable();
    let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or_default();
    Ok(vec![
        Figure {
            name: format!("registrations under {flood}"),
            unit: "a second",
            goal: Some(Goal::AtLeast(500.0)),
            runs: rates,
            remark: format!("; 99 of 100 within {} ms, both threads of the PoP on one core", p99.as_millis()),
        },
        Figure {
            name: format!("frames of {FRAME} bytes relayed meanwhile"),
            unit: "k a second",
            goal: None,
            runs: carried,
            remark: "; arrivals merged".to_owned(),
        },
        Figure {
            name: "frames offered".to_owned(),
            unit: "k a second",
            goal: None,
            runs: offered,
            remark: String::new(),
        },
    ])
}

/// Each of the first devices gets a channel to the connector; their ids.
fn open_channels(
    devices: &mut Crowd,
    connectors: &mut Crowd,
    connector: ConnectorId,
) -> Result<Vec<ChannelId>> {
    let began = Instant::now();
    let mut channels = vec![None; CHANNELS];
    for number in 0..CHANNELS {
        devices.open(number, connector);
    }
    while channels.contains(&None) {
        ensure!(began.elapsed() < DEADLINE, "no channels within {} s", DEADLINE.as_secs());
        devices.turn(Duration::from_millis(2))?;
        connectors.turn(Duration::from_millis(2))?;
        for (number, introduce) in connectors.take().introduced {
            connectors.accept(number, &introduce);
        }
        for (number, opened) in devices.take().opened {
            channels[number] = Some(opened.channel);
        }
    }
    Ok(channels.into_iter().flatten().collect())
}

/// Lets as many come as can within a run; how many registered. Attempts that fail are made again by the next agent.
fn register_for(crowd: &mut Crowd, from: usize, to: usize, waits: &mut Vec<Duration>) -> Result<usize> {
    let began = Instant::now();
    let (mut next, mut under_way, mut registered) = (from, 0, 0);
    while began.elapsed() < RUN {
        while next < to && under_way < AT_ONCE {
            crowd.register(next);
            next += 1;
            under_way += 1;
        }
        crowd.turn(Duration::from_millis(1))?;
        // Those who were still coming when the run before ended are not counted.
        let mine = |(number, _): &(usize, Outcome)| (from..to).contains(number);
        for (_, outcome) in crowd.take().outcomes.into_iter().filter(mine) {
            under_way -= 1;
            if let Outcome::Registered(took) = outcome {
                registered += 1;
                waits.push(took);
            }
        }
    }
    Ok(registered)
}

fn relayed(pop: &PopProcess) -> Result<u64> {
    Ok(pop.status()?["relay"]["forwarded_frames"].as_u64().unwrap_or_default())
}

/// Frames on channels that are there, from a thread of its own.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    fn start(sender: WideSender, to: SocketAddr, channels: &[ChannelId]) -> Result<Self> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let bursts: Vec<Vec<u8>> = channels
            .iter()
            .map(|channel| {
                let mut frame = wire::encode_relay_header(RelayKind::Data, *channel).to_vec();
                frame.resize(FRAME, 0x5A);
                frame.repeat(BURST)
            })
            .collect();
        let (is_over, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::Builder::new().name("relay-flood".to_owned()).spawn(move || {
            let began = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                let owed =
                    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX) * OFFERED / 1_000_000;
                if counter.load(Ordering::Relaxed) >= owed {
                    thread::sleep(Duration::from_micros(300));
                    continue;
                }
                for (number, burst) in bursts.iter().enumerate() {
                    if sender.send(number, to, burst, FRAME) {
                        counter.fetch_add(BURST as u64, Ordering::Relaxed);
                    }
                }
            }
        })?;
        Ok(Self { stop, sent, thread })
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
    }
}
