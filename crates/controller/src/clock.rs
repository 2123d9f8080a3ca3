//! The machine's clocks and random source: everything else in this crate gets values.
#![expect(clippy::disallowed_methods, reason = "this shell module is where the controller asks the machine")]

use state::{StateDir, StateError, names};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use trust::UnixMs;

/// How far the wall clock may be from what was persisted or measured before signing stops
/// (architecture, "Time": 60 s).
pub const TOLERANCE: Duration = Duration::from_secs(60);

/// How much later than the time it had reached a controller may find itself without being told that this is true. By a
/// clock that is months ahead keys would end and be replaced, and none of before would be there once it is right again.
pub const LONGEST_AWAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// The wall clock. Before 1970 it reads 1970.
#[must_use]
pub fn wall() -> UnixMs {
    let since = Duration::from_millis(net::clock::wall_millis());
    #[cfg(test)]
    let since = since + LATER.get();
    UnixMs::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
thread_local! {
    static LATER: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

/// Turns this test's wall clock forward.
#[cfg(test)]
pub(crate) fn later(by: Duration) {
    LATER.set(by);
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

/// The time since the machine was started, suspends included: the clock that nobody sets.
#[must_use]
pub fn boot() -> Duration {
    net::clock::boot()
}

/// Why nothing may be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fenced {
    /// The wall clock is behind the time this controller had reached before.
    #[error(
        "the clock is {} s behind the time this controller had already reached; set the clock right (if it was ahead \
         before, write the right time over it with: date +%s000 > {}, and start again)", .by.as_secs(), .line.display()
    )]
    Behind {
        /// By how much.
        by: Duration,
        /// Where that time is kept.
        line: PathBuf,
    },
    /// The wall clock is further ahead of the time this controller had reached than downtime explains.
    #[error(
        "the clock is {} days after the last time that this controller knew of; if the clock is right, and it was away \
         for so long, say so with: date +%s000 > {}, and start it again; else set the clock right and start it again",
        .by.as_secs() / 86_400, .line.display()
    )]
    Ahead {
        /// By how much.
        by: Duration,
        /// Where that time is kept.
        line: PathBuf,
    },
    /// The wall clock moved against the machine's own elapsed time.
    #[error(
        "the clock jumped by {} s while this controller runs; set it back, or start the controller again when it is right",
        .0.as_secs()
    )]
    Jumped(Duration),
    /// What this controller had reached before is not known.
    #[error(
        "the time this controller had reached cannot be read from {} ({problem}); see that the clock is right, write \
         the time into it with: date +%s000 > {}, and start again", .line.display(), .line.display()
    )]
    Unreadable {
        /// Where it is kept.
        line: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The line in time below which this controller never signs, kept on disk.
#[derive(Debug)]
pub struct TimeLine {
    directory: Arc<StateDir>,
    state: Mutex<Line>,
}

#[derive(Debug, Clone)]
struct Line {
    /// The latest time that was ever signed with; or why that is not known.
    floor: Result<UnixMs, String>,
    started_wall: UnixMs,
    started: Duration,
    /// When the floor was the time, by what the machine counts.
    floor_at: Duration,
    written: Option<Duration>,
    path: PathBuf,
}

/// How often the floor is written (architecture: every 10 min).
const WRITE_EVERY: Duration = Duration::from_secs(600);

/// Writes the first line of a new controller.
///
/// # Errors
/// The disk.
pub fn begin_time_line(directory: &StateDir, wall: UnixMs) -> Result<(), StateError> {
    directory.write(names::FLOOR, wall.as_millis().to_string().as_bytes())
}

fn read_floor(directory: &StateDir) -> Result<UnixMs, String> {
    // Absent is not "nothing was reached yet": the first start writes it.
    let bytes = directory.read(names::FLOOR).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes.ok_or("it is missing")?).map_err(|_| "it is not text")?;
    let millis = text.trim().parse().map_err(|_| "it is not a number of milliseconds")?;
    Ok(UnixMs::from_millis(millis))
}

impl TimeLine {
    /// Reads the persisted line. One that cannot be read fences; it is not the beginning of time.
    pub fn open(directory: Arc<StateDir>) -> Self {
        let line = Line {
            floor: read_floor(&directory),
            started_wall: wall(),
            started: boot(),
            floor_at: boot(),
            written: None,
            path: directory.path().join(names::FLOOR),
        };
        Self { directory, state: Mutex::new(line) }
    }

    /// The time to sign with.
    ///
    /// # Errors
    /// [`Fenced`] when the clock cannot be believed.
    pub fn signing_time(&self) -> Result<UnixMs, Fenced> {
        let (wall, boot) = (wall(), boot());
        let mut line = self.state.lock().expect("nothing panics while it holds the time line");
        line.set_right(wall, boot);
        let floor = judge(&line, wall, boot)?.max(wall);
        (line.floor, line.floor_at) = (Ok(floor), boot);
        let first = line.written.is_none();
        if line.written.is_none_or(|written| boot.saturating_sub(written) >= WRITE_EVERY) {
            line.written = Some(boot);
            drop(line);
            let directory = Arc::clone(&self.directory);
            let write = move || {
                if let Err(error) = directory.write(names::FLOOR, floor.as_millis().to_string().as_bytes()) {
                    tracing::warn!(%error, "the time line was not written");
                }
            };
            // At the start it waits for the disk; after that a disk that hangs stops no beacon.
            if first {
                write();
            } else {
                std::thread::spawn(write);
            }
        }
        Ok(wall)
    }

    /// The time to strike with, also when nothing else may be signed: a strike is state and not time, every node
    /// applies it whenever it was made, and it only ever takes access away (ADR 0011). A clock that jumped is
    /// answered by the machine's own elapsed time, one that is behind by the line.
    ///
    /// # Errors
    /// [`Fenced::Unreadable`] and [`Fenced::Ahead`]: then nothing says what time it may be, and nodes would keep the entry
    /// for a time that nobody knows.
    pub fn strike_time(&self) -> Result<UnixMs, Fenced> {
        match self.signing_time() {
            Err(Fenced::Behind { .. } | Fenced::Jumped(_)) => Ok(self.best_time()),
            time => time,
        }
    }

    /// The wall clock when it can be believed; else what this controller knows better.
    pub fn best_time(&self) -> UnixMs {
        let (wall, boot) = (wall(), boot());
        let mut line = self.state.lock().expect("nothing panics while it holds the time line");
        line.set_right(wall, boot);
        best(&line, wall, boot)
    }

    /// The time by which sessions, tokens and codes end: [`TimeLine::best_time`], and of a start that is far ahead the wall
    /// clock all the same. Perhaps this controller was away for that long: what ended meanwhile is not good again. What
    /// begins by such a clock is of the future once it is set right, and is not taken.
    pub fn proof_time(&self) -> UnixMs {
        let (wall, boot) = (wall(), boot());
        let mut line = self.state.lock().expect("nothing panics while it holds the time line");
        line.set_right(wall, boot);
        let best = best(&line, wall, boot);
        if matches!(judge(&line, wall, boot), Err(Fenced::Ahead { .. })) { best.max(wall) } else { best }
    }

    /// The best guess, to open what was written before with, and for what gives no access: the console's web certificate,
    /// so that a fenced controller can still be looked at.
    pub fn unfenced_time(&self) -> UnixMs {
        let (wall, boot) = (wall(), boot());
        let line = self.state.lock().expect("nothing panics while it holds the time line");
        match (judge(&line, wall, boot), &line.floor) {
            // By a clock that is months ahead nothing is valid. What it had reached was written down that often.
            (Err(Fenced::Ahead { .. }), Ok(floor)) => floor.plus(WRITE_EVERY),
            (_, floor) => floor.clone().unwrap_or_default().max(wall),
        }
    }
}

impl Line {
    /// A clock that was months ahead when this process started, and with which nothing was signed, has been set right: it
    /// begins anew, as a start in this moment would.
    fn set_right(&mut self, wall: UnixMs, boot: Duration) {
        let Ok(floor) = self.floor else { return };
        let most = floor.plus(LONGEST_AWAY);
        let is_right = wall <= most && wall.plus(TOLERANCE) >= floor;
        if self.started_wall > most && is_right && !planted::is("a-start-months-ahead-signs") {
            (self.started_wall, self.started, self.floor_at) = (wall, boot, boot);
        }
    }
}

fn best(line: &Line, wall: UnixMs, boot: Duration) -> UnixMs {
    match judge(line, wall, boot) {
        Ok(_) | Err(Fenced::Unreadable { .. }) => wall,
        // What it had reached was written down that often.
        Err(Fenced::Ahead { .. }) => {
            let since = boot.saturating_sub(line.floor_at);
            line.floor.clone().unwrap_or_default().plus(WRITE_EVERY).plus(since)
        }
        Err(Fenced::Behind { .. } | Fenced::Jumped(_)) => {
            let expected = line.started_wall.plus(boot.saturating_sub(line.started));
            line.floor.clone().unwrap_or_default().max(expected)
        }
    }
}

/// The line, if the clock can be believed.
fn judge(line: &Line, wall: UnixMs, boot: Duration) -> Result<UnixMs, Fenced> {
    let unreadable =
        |problem: &String| Fenced::Unreadable { line: line.path.clone(), problem: problem.clone() };
    let floor = *line.floor.as_ref().map_err(unreadable)?;
    let most = floor.plus(LONGEST_AWAY);
    let is_ahead = |reached: UnixMs| reached > most && !planted::is("a-start-months-ahead-signs");
    // Of a start that far ahead nothing counts but a clock that is right, and that begins anew; also when the clock was set
    // too far back since.
    if is_ahead(line.started_wall) {
        return Err(Fenced::Ahead { by: line.started_wall.since(floor), line: line.path.clone() });
    }
    if wall.plus(TOLERANCE) < floor {
        return Err(Fenced::Behind { by: floor.since(wall), line: line.path.clone() });
    }
    let expected = line.started_wall.plus(boot.saturating_sub(line.started));
    let drift = expected.since(wall).max(wall.since(expected));
    if drift > TOLERANCE && !planted::is("fenced-clock-signs") {
        return Err(Fenced::Jumped(drift));
    }
    if is_ahead(wall) {
        return Err(Fenced::Ahead { by: wall.since(floor), line: line.path.clone() });
    }
    Ok(floor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trust::{Role, RootHash};
    use wire::InstallationId;

    const HOUR: Duration = Duration::from_secs(3600);

    fn line() -> (Line, UnixMs, Duration) {
        let (wall, boot) = (UnixMs::from_millis(1_800_000_000_000), HOUR);
        let path = PathBuf::from("floor");
        (
            Line {
                floor: Ok(wall),
                started_wall: wall,
                started: boot,
                floor_at: boot,
                written: Some(boot),
                path,
            },
            wall,
            boot,
        )
    }

    fn directory(path: &std::path::Path) -> Arc<StateDir> {
        let installation = InstallationId::from_bytes([1; 16]);
        let about = state::About::new(installation, Role::Controller, RootHash::from_bytes([1; 32]));
        Arc::new(StateDir::create(path, &about).unwrap())
    }

    #[test]
    fn a_clock_behind_the_persisted_line_signs_nothing() {
        let (mut line, wall, boot) = line();
        line.floor = Ok(wall.plus(Duration::from_secs(61)));
        assert!(matches!(judge(&line, wall, boot), Err(Fenced::Behind { .. })));
        line.floor = Ok(wall.plus(Duration::from_secs(59)));
        assert!(judge(&line, wall, boot).is_ok());
    }

    #[test]
    fn a_clock_that_jumps_while_running_signs_nothing_and_downtime_is_no_jump() {
        let (line, wall, boot) = line();
        assert_eq!(judge(&line, wall.plus(HOUR), boot + HOUR), Ok(wall));
        assert!(matches!(judge(&line, wall.plus(HOUR), boot), Err(Fenced::Jumped(_))));
        assert!(matches!(judge(&line, wall, boot + HOUR), Err(Fenced::Jumped(_))));
        // Set right again, it signs again.
        assert!(judge(&line, wall.plus(HOUR), boot + HOUR + Duration::from_secs(59)).is_ok());
    }

    #[test]
    fn a_start_months_after_the_persisted_line_signs_nothing_until_somebody_says_that_it_is_so() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = directory(scratch.path());
        let line = wall().minus(LONGEST_AWAY + HOUR);
        begin_time_line(&directory, line).unwrap();
        let away = TimeLine::open(Arc::clone(&directory));
        let error = away.signing_time().unwrap_err();
        assert!(
            matches!(error, Fenced::Ahead { .. }) && error.to_string().contains("is 30 days after"),
            "{error}"
        );
        assert!(matches!(away.strike_time(), Err(Fenced::Ahead { .. })));
        assert_eq!(read_floor(&directory), Ok(line), "and its line stays");
        assert!(away.unfenced_time() < line.plus(HOUR));
        begin_time_line(&directory, wall()).unwrap();
        assert!(TimeLine::open(directory).signing_time().is_ok());
    }

    #[test]
    fn a_start_far_ahead_is_over_only_by_a_clock_that_is_right_and_what_ended_by_it_is_over() {
        let (mut line, floor, boot) = line();
        line.started_wall = floor.plus(HOUR * 24 * 365);
        let part = floor.plus(HOUR * 24 * 100);
        for wrong in [part, line.started_wall.plus(HOUR), floor.minus(HOUR), floor.minus(TOLERANCE * 2)] {
            line.set_right(wrong, boot + HOUR);
            let judged = judge(&line, wrong, boot + HOUR);
            assert!(matches!(judged, Err(Fenced::Ahead { .. })), "{judged:?}");
            let told = best(&line, wrong, boot + HOUR);
            assert_eq!(told, floor.plus(WRITE_EVERY).plus(HOUR), "it goes on with the machine");
        }
        line.set_right(floor.plus(HOUR), boot + HOUR * 2);
        assert!(judge(&line, floor.plus(HOUR * 2), boot + HOUR * 3).is_ok());
    }

    #[test]
    fn a_clock_that_jumped_is_answered_by_elapsed_time_and_one_that_is_behind_by_the_line() {
        let (mut line, wall, boot) = line();
        let day = HOUR * 24;
        assert_eq!(best(&line, wall.plus(day), boot + HOUR), wall.plus(HOUR));
        assert_eq!(best(&line, wall.minus(day), boot + HOUR), wall.plus(HOUR));
        // Started with a clock that is behind: not before the line.
        line.floor = Ok(wall.plus(day));
        assert_eq!(best(&line, wall.plus(HOUR), boot + HOUR), wall.plus(day));
        line.floor = Err("gone".to_owned());
        assert_eq!(best(&line, wall.plus(day), boot), wall.plus(day));
    }

    #[test]
    fn a_line_that_cannot_be_read_fences_and_says_what_to_do_and_weeks_of_downtime_do_not() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = directory(scratch.path());
        for damage in [None, Some(&b"\xff\xfe"[..]), Some(b""), Some(b"yesterday"), Some(b"-1")] {
            match damage {
                Some(bytes) => directory.write(names::FLOOR, bytes).unwrap(),
                None => directory.remove(names::FLOOR).unwrap(),
            }
            let error = TimeLine::open(Arc::clone(&directory)).signing_time().unwrap_err();
            assert!(error.to_string().contains("date +%s000 > "), "{error}");
        }
        begin_time_line(&directory, wall().minus(Duration::from_secs(29 * 24 * 3600))).unwrap();
        let signed = TimeLine::open(Arc::clone(&directory)).signing_time().unwrap();
        // What was signed with is the line of the next start.
        let next = read_floor(&directory).unwrap();
        assert_eq!(next, signed);
        begin_time_line(&directory, wall().plus(HOUR)).unwrap();
        let behind = TimeLine::open(directory);
        assert!(matches!(behind.signing_time(), Err(Fenced::Behind { .. })));
        assert!(behind.unfenced_time() > wall());
    }

    #[test]
    fn the_boot_clock_goes_forward_only() {
        let (first, second) = (boot(), boot());
        assert!(second >= first && first > Duration::ZERO);
    }
}
