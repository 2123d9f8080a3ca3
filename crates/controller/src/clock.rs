//! The machine's clocks and random source: everything else in this crate gets values.
#![expect(clippy::disallowed_methods, reason = "this shell module is where the controller asks the machine")]

use state::{StateDir, names};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use trust::UnixMs;

/// How far the wall clock may be from what was persisted or measured before signing stops
/// (architecture, "Time": 60 s).
pub const TOLERANCE: Duration = Duration::from_secs(60);

/// The wall clock. Before 1970 it reads 1970.
#[must_use]
pub fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The monotonic clock.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Random bytes of the operating system.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's random source works");
    bytes
}

/// Why nothing may be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fenced {
    /// The wall clock is behind the time this controller had reached before.
    #[error("the clock is {0:?} behind the time this controller had already reached; set the clock right")]
    Behind(Duration),
    /// The wall clock moved against the machine's own elapsed time.
    #[error("the clock jumped by {0:?} while this controller runs; set the clock right and restart it")]
    Jumped(Duration),
}

/// The line in time below which this controller never signs, kept on disk.
#[derive(Debug)]
pub struct TimeLine {
    directory: Arc<StateDir>,
    state: Mutex<Line>,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    floor: UnixMs,
    started_wall: UnixMs,
    started: Instant,
    written: Instant,
}

/// How often the floor is written (architecture: every 10 min).
const WRITE_EVERY: Duration = Duration::from_secs(600);

impl TimeLine {
    /// Reads the persisted line; none is the beginning of time.
    pub fn open(directory: Arc<StateDir>) -> Self {
        let floor = directory
            .read(names::FLOOR)
            .ok()
            .flatten()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| text.trim().parse().ok())
            .map_or(UnixMs::default(), UnixMs::from_millis);
        let started = now();
        let written = started.checked_sub(WRITE_EVERY).unwrap_or(started);
        Self { directory, state: Mutex::new(Line { floor, started_wall: wall(), started, written }) }
    }

    /// The time to sign with.
    ///
    /// # Errors
    /// [`Fenced`] when the clock cannot be believed.
    pub fn signing_time(&self) -> Result<UnixMs, Fenced> {
        let (wall, now) = (wall(), now());
        let mut line = self.state.lock().expect("nothing panics while it holds the time line");
        judge(&line, wall, now)?;
        if wall > line.floor {
            line.floor = wall;
        }
        if now.duration_since(line.written) >= WRITE_EVERY {
            line.written = now;
            let text = line.floor.as_millis().to_string();
            if let Err(error) = self.directory.write(names::FLOOR, text.as_bytes()) {
                tracing::warn!(%error, "the time line was not written");
            }
        }
        Ok(wall)
    }
}

fn judge(line: &Line, wall: UnixMs, now: Instant) -> Result<(), Fenced> {
    if wall.plus(TOLERANCE) < line.floor {
        return Err(Fenced::Behind(line.floor.since(wall)));
    }
    let expected = line.started_wall.plus(now.duration_since(line.started));
    let drift = expected.since(wall).max(wall.since(expected));
    if drift > TOLERANCE { Err(Fenced::Jumped(drift)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> (Line, UnixMs, Instant) {
        let (wall, now) = (UnixMs::from_millis(1_800_000_000_000), Instant::now());
        (Line { floor: wall, started_wall: wall, started: now, written: now }, wall, now)
    }

    #[test]
    fn a_clock_behind_the_persisted_line_signs_nothing() {
        let (mut line, wall, now) = line();
        line.floor = wall.plus(Duration::from_secs(61));
        assert!(matches!(judge(&line, wall, now), Err(Fenced::Behind(_))));
        line.floor = wall.plus(Duration::from_secs(59));
        assert_eq!(judge(&line, wall, now), Ok(()));
    }

    #[test]
    fn a_clock_that_jumps_while_running_signs_nothing_and_downtime_is_no_jump() {
        let (line, wall, now) = line();
        let hour = Duration::from_secs(3600);
        assert_eq!(judge(&line, wall.plus(hour), now + hour), Ok(()));
        assert!(matches!(judge(&line, wall.plus(hour), now), Err(Fenced::Jumped(_))));
        assert!(matches!(judge(&line, wall, now + hour), Err(Fenced::Jumped(_))));
    }
}
