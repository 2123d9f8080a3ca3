//! How each column is brought about, and cured.

use super::{
    super::router::Nat,
    ground::{Clock, Ground, Machine, START},
    proxy::Mode,
    sqlite::HeldLocks,
    table::{Column, Row},
    zones::BlackHole,
};
use crate::process::{signal_process, wait_until};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// How long a rebooted host is away.
const AWAY: Duration = Duration::from_secs(5);
/// libfaketime looks again when the second after the one in which it last looked is over: up to two seconds.
const JUMP_SEEN: Duration = Duration::from_millis(2500);
/// Of 100 datagrams.
const LOSS: u8 = 30;
const MTU: u16 = 1280;
/// The internet's end of the client's uplink: the topology attaches the server first.
const UPLINK: &str = "port1";
/// The parts of a SQLite database in write-ahead-log mode.
const DATABASE: [&str; 3] = ["tidegate.db", "tidegate.db-wal", "tidegate.db-shm"];

/// A fault that lasts.
#[derive(Debug)]
pub struct Fault {
    column: Column,
    /// When it began.
    pub began: Instant,
    locks: Option<HeldLocks>,
    stopped: Option<u32>,
    /// The PoP that it is about.
    pop: Option<usize>,
    jumped: Vec<Machine>,
    full: Vec<Machine>,
}

/// Whose clocks jump, and by how much. Of two PoPs only the one in use does.
fn jump(ground: &Ground, column: Column) -> Result<Option<(Vec<Machine>, &'static str)>> {
    let connectors = || match ground.zones {
        Some(_) => vec![Machine::Connector, Machine::Connector2],
        None => vec![Machine::Connector],
    };
    Ok(Some(match column {
        Column::ClientAhead => (vec![Machine::Client], "+1d"),
        Column::ClientBehind => (vec![Machine::Client], "-1d"),
        Column::ConnectorAhead => (connectors(), "+1d"),
        Column::ConnectorBehind => (connectors(), "-1d"),
        Column::HostAhead => (vec![Machine::Host], "+1d"),
        Column::HostBehind => (vec![Machine::Host], "-1d"),
        Column::PopAhead => (vec![pop_in_use(ground)?], "+1d"),
        Column::PopBehind => (vec![pop_in_use(ground)?], "-1d"),
        _ => return Ok(None),
    }))
}

fn pop_in_use(ground: &Ground) -> Result<Machine> {
    Ok(ground.zones()?.pops[ground.pop_in_use()?].machine)
}

/// Whose processes are started with a clock that can jump.
fn movable(ground: &Ground, column: Column) -> Result<Vec<Machine>> {
    Ok(match column {
        Column::PopAhead | Column::PopBehind => vec![Machine::Pop1, Machine::Pop2],
        _ => jump(ground, column)?.map(|(machines, _)| machines).unwrap_or_default(),
    })
}

fn full(ground: &Ground, column: Column) -> Result<Vec<Machine>> {
    Ok(match column {
        Column::HostDiskFull => vec![Machine::Host],
        Column::ClientDiskFull => vec![Machine::Client],
        Column::ConnectorDiskFull if ground.zones.is_some() => vec![Machine::Connector, Machine::Connector2],
        Column::ConnectorDiskFull => vec![Machine::Connector],
        Column::PopDiskFull => vec![pop_in_use(ground)?],
        _ => Vec::new(),
    })
}

/// What people's way to the controller does.
const fn https(column: Column) -> Option<Mode> {
    match column {
        Column::HttpsHalfOpen => Some(Mode::HalfOpen),
        Column::HttpsTrickles => Some(Mode::Trickle),
        Column::HttpsLate => Some(Mode::Late),
        _ => None,
    }
}

/// Before the column's processes are looked at: whose clock will jump is started with one that can.
///
/// # Errors
/// A process does not come up again.
pub fn make_ready(ground: &mut Ground, column: Column) -> Result<()> {
    restart_with(ground, &movable(ground, column)?, Clock::Movable)
}

fn restart_with(ground: &mut Ground, machines: &[Machine], clock: Clock) -> Result<()> {
    for machine in machines {
        ground.own_clock(*machine, clock)?;
    }
    if machines.contains(&Machine::Host) {
        ground.kill_serve()?;
        ground.start_serve()?;
        ground.wait_serve()?;
    }
    for (index, machine) in [(0, Machine::Pop1), (1, Machine::Pop2)] {
        if machines.contains(&machine) {
            ground.kill_pop(index)?;
            ground.start_pop(index, None)?;
        }
    }
    if machines.contains(&Machine::Client) {
        let mut alice = ground.alice.take();
        let started = ground.up(&mut alice);
        ground.alice = alice;
        started?;
    }
    if machines.contains(&Machine::Connector) {
        ground.start_connector(None)?;
    }
    Ok(())
}

impl Fault {
    /// Begins.
    ///
    /// # Errors
    /// It cannot be brought about.
    pub fn begin(ground: &mut Ground, column: Column) -> Result<Self> {
        let pop = match column {
            Column::PopDead | Column::PopBlackHole | Column::PopGarbage => Some(ground.pop_in_use()?),
            _ => None,
        };
        let (jumps, full) = (jump(ground, column)?, full(ground, column)?);
        let mut fault =
            Self { column, began: Instant::now(), locks: None, stopped: None, pop, jumped: vec![], full };
        if let Some((machines, by)) = jumps {
            for machine in &machines {
                ground.jump(*machine, by)?;
            }
            fault.jumped = machines;
            // Nothing is asked before every process has the new time.
            thread::sleep(JUMP_SEEN);
        }
        for machine in &fault.full {
            ground.disk(*machine)?.fill()?;
        }
        if let Some(mode) = https(column) {
            ground.zones()?.proxy.set(mode)?;
        }
        match column {
            Column::DatabaseLocked => {
                let state = controller_state(ground);
                fault.locks = Some(HeldLocks::take(&state, &ground.interrupt)?);
            }
            Column::DatabaseGone => {
                move_database(ground, "", ".away")?;
                kill_child(ground, "controller")?;
            }
            Column::ControllerFrozen => {
                let pid = ground.child("controller")?;
                signal_process(pid, libc::SIGSTOP);
                fault.stopped = Some(pid);
            }
            Column::ControllerDead if ground.zones.is_some() => {
                let controller = ground.serve.take().context("the controller")?;
                signal_process(controller.pid(), libc::SIGKILL);
            }
            Column::ControllerDead => {
                // Who would start it again sleeps.
                let serve = ground.serve.as_ref().context("serve")?.pid();
                let controller = ground.child("controller")?;
                signal_process(serve, libc::SIGSTOP);
                fault.stopped = Some(serve);
                signal_process(controller, libc::SIGKILL);
                wait_until("the controller's end", START, &ground.interrupt, || {
                    // Nobody reaps it: a zombie has no program any more.
                    Ok((!fs::exists(format!("/proc/{controller}/exe")).unwrap_or(false)
                        || fs::read_link(format!("/proc/{controller}/exe")).is_err())
                    .then_some(()))
                })?;
            }
            Column::PopKilled => kill_child(ground, "pop")?,
            Column::ServeDead => ground.kill_serve()?,
            Column::HostRebooted => {
                ground.kill_serve()?;
                ground.net.server.ip("link set eth0 down")?;
                thread::sleep(AWAY);
                ground.net.server.ip("link set eth0 up")?;
                ground.start_serve()?;
            }
            Column::UdpBlocked => ground.net.client_router.behave(Nat::UdpBlocked)?,
            Column::Lossy => ground.lose(LOSS)?,
            Column::PopDead => ground.kill_pop(pop.context("a PoP")?)?,
            Column::PopBlackHole => ground.black_hole(pop.context("a PoP")?, BlackHole::Opens)?,
            Column::PopGarbage => ground.garbage_for_pop(pop.context("a PoP")?)?,
            Column::SmallMtu => narrow(ground, MTU)?,
            Column::HostDiskFull
            | Column::ClientDiskFull
            | Column::ConnectorDiskFull
            | Column::ClientAhead
            | Column::ClientBehind
            | Column::ConnectorAhead
            | Column::ConnectorBehind
            | Column::HostAhead
            | Column::HostBehind
            | Column::PopDiskFull
            | Column::PopAhead
            | Column::PopBehind
            | Column::HttpsHalfOpen
            | Column::HttpsTrickles
            | Column::HttpsLate => {}
        }
        Ok(fault)
    }

    /// Once more before some rows, where a fault is over by itself sooner than all rows are.
    ///
    /// # Errors
    /// It cannot be brought about.
    pub fn again(&self, ground: &Ground, row: Row) -> Result<()> {
        let rows = [Row::ClientRoams, Row::ClientRestarts, Row::ConnectorRestarts, Row::EverybodyReconnects];
        if self.column == Column::PopKilled && rows.contains(&row) {
            wait_until("the PoP that serve started again", START, &ground.interrupt, || {
                Ok(ground.child("pop").ok())
            })?;
            kill_child(ground, "pop")?;
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// What was taken cannot be given back.
    pub fn cure(self, ground: &mut Ground) -> Result<()> {
        drop(self.locks);
        if let Some(pid) = self.stopped {
            signal_process(pid, libc::SIGCONT);
        }
        for machine in &self.jumped {
            ground.jump(*machine, "+0")?;
        }
        for machine in &self.full {
            ground.disk(*machine)?.empty()?;
        }
        if https(self.column).is_some() {
            ground.zones()?.proxy.set(Mode::Pass)?;
        }
        match self.column {
            Column::ControllerDead if ground.zones.is_some() => {
                ground.start_serve()?;
                ground.wait_serve()?;
            }
            Column::Lossy => ground.lose(0)?,
            Column::PopDead => ground.start_pop(self.pop.context("a PoP")?, None)?,
            Column::PopBlackHole => ground.black_hole(self.pop.context("a PoP")?, BlackHole::Closes)?,
            Column::PopGarbage => {
                ground.end_garbage()?;
                ground.start_pop(self.pop.context("a PoP")?, None)?;
            }
            Column::DatabaseGone => {
                // Whatever was made in its place is not the database.
                for name in DATABASE {
                    let _ = fs::remove_file(controller_state(ground).join(name));
                }
                move_database(ground, ".away", "")?;
                kill_child(ground, "controller")?;
            }
            Column::ServeDead => {
                ground.start_serve()?;
                ground.wait_serve()?;
            }
            Column::HostRebooted => ground.wait_serve()?,
            Column::UdpBlocked => ground.net.client_router.behave(Nat::Home)?,
            Column::SmallMtu => narrow(ground, 1500)?,
            _ => {}
        }
        Ok(())
    }
}

/// After the cure was looked at: the column's processes have the machine's own clock again.
///
/// # Errors
/// A process does not come up again.
pub fn put_back(ground: &mut Ground, column: Column) -> Result<()> {
    restart_with(ground, &movable(ground, column)?, Clock::Real)
}

fn controller_state(ground: &Ground) -> PathBuf {
    ground.fleet.state("serve").join("controller")
}

fn move_database(ground: &Ground, from: &str, to: &str) -> Result<()> {
    let state = controller_state(ground);
    for name in DATABASE {
        let (from, to) = (state.join(format!("{name}{from}")), state.join(format!("{name}{to}")));
        match fs::rename(&from, &to) {
            // The log and its index are there while somebody has the database open.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && name != DATABASE[0] => {}
            moved => moved.with_context(|| format!("{} to {}", from.display(), to.display()))?,
        }
    }
    Ok(())
}

fn kill_child(ground: &Ground, role: &str) -> Result<()> {
    let pid = ground.child(role)?;
    signal_process(pid, libc::SIGKILL);
    Ok(())
}

/// Both ends of the client's uplink carry no longer packets; the far end drops them without a word.
fn narrow(ground: &Ground, mtu: u16) -> Result<()> {
    let router = ground.net.client_router.namespace();
    let segments = if mtu < 1500 { "gso_max_segs 1" } else { "gso_max_segs 65535" };
    for (host, interface) in [(ground.net.internet(), UPLINK), (router, "ext")] {
        // A bundle of packets passes whatever its packets' size: here each is looked at by itself.
        host.ip(&format!("link set {interface} mtu {mtu} {segments}"))?;
    }
    // As home routers on such lines do: the kernel's TCP, which is not under test, learns of it in its handshake.
    // Tidegate's own UDP is told nothing.
    let clamp = if mtu < 1500 {
        format!("tcp flags syn tcp option maxseg size set {}", mtu - 40)
    } else {
        String::new()
    };
    router.nft(&format!(
        "table ip clamp
        delete table ip clamp
        table ip clamp {{
            chain forward {{
                type filter hook forward priority -150; policy accept;
                {clamp}
            }}
        }}\n"
    ))?;
    for (size, passes) in [(mtu, true), (mtu + 1, false)] {
        // Without the headers of IPv4 and ICMP; never in fragments.
        let payload = (size - 28).to_string();
        let server = super::super::topology::SERVER.to_string();
        let said = router.attempt(START, "ping", &["-c1", "-W1", "-Mdo", "-s", &payload, &server])?;
        ensure!(said.status.success() == passes, "a packet of {size} bytes: {}", said.stdout.trim());
    }
    Ok(())
}
