//! The time floor: what time it was at least.
//!
//! Beside it stands how long the machine had been running when it was written, and which run that was. A process
//! that starts again in the same run of the machine knows how long it was away; only after a reboot does it have to
//! take the floor as it is.

use crate::{StateDir, StateError, names};
use std::{fs, time::Duration};
use trust::UnixMs;

/// The kernel's: one line each.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const UPTIME: &str = "/proc/uptime";

/// A run of the machine, and how long it has lasted, the time asleep included.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    boot: String,
    since: Duration,
}

impl Running {
    fn now() -> Option<Self> {
        let boot = fs::read_to_string(BOOT_ID).ok()?.trim().to_owned();
        let uptime = fs::read_to_string(UPTIME).ok()?;
        let since = Duration::try_from_secs_f64(uptime.split_whitespace().next()?.parse().ok()?).ok()?;
        (!boot.is_empty()).then_some(Self { boot, since })
    }
}

impl StateDir {
    /// Writes the floor: Unix milliseconds as decimal text.
    ///
    /// # Errors
    /// As [`StateDir::write`].
    pub fn write_floor(&self, floor: &[u8]) -> Result<(), StateError> {
        self.write(names::FLOOR, floor)?;
        let Some(running) = Running::now() else { return Ok(()) };
        let line = format!(
            "{} {} {}",
            String::from_utf8_lossy(floor).trim(),
            running.boot,
            running.since.as_millis()
        );
        self.write(names::FLOOR_OF_BOOT, line.as_bytes())
    }

    /// The floor as it is by now; none before the first, or when it is no number.
    ///
    /// # Errors
    /// As [`StateDir::read`].
    pub fn read_floor(&self) -> Result<Option<UnixMs>, StateError> {
        self.read_floor_at(Running::now())
    }

    /// Over how long the PoP that an agent was last at spreads a crowd; zero when none has said, or it is no number: then its
    /// first attempt is not spread.
    ///
    /// # Errors
    /// As [`StateDir::read`].
    pub fn read_reconnect_window(&self) -> Result<Duration, StateError> {
        let text = self.read(names::RECONNECT_WINDOW)?.unwrap_or_default();
        let millis = String::from_utf8_lossy(&text).trim().parse().unwrap_or_default();
        Ok(Duration::from_millis(millis))
    }

    fn read_floor_at(&self, now: Option<Running>) -> Result<Option<UnixMs>, StateError> {
        let text = |name| Ok(self.read(name)?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()));
        let Some(floor) = text(names::FLOOR)?.and_then(|text| text.parse().ok()) else { return Ok(None) };
        let passed = text(names::FLOOR_OF_BOOT)?.zip(now).and_then(|(line, now)| {
            let mut words = line.split(' ');
            // Written with this very floor, in this run of the machine.
            let is_of_it = words.next()?.parse() == Ok(floor) && words.next()? == now.boot;
            let then = Duration::from_millis(words.next()?.parse().ok()?);
            is_of_it.then(|| now.since.saturating_sub(then))
        });
        Ok(Some(UnixMs::from_millis(floor).plus(passed.unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::About;
    use trust::{Role, RootHash};
    use wire::InstallationId;

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let about =
            About::new(InstallationId::from_bytes([1; 16]), Role::Device, RootHash::from_bytes([2; 32]));
        let state = StateDir::create(dir.path(), &about).expect("created");
        (dir, state)
    }

    #[test]
    fn a_process_that_was_away_knows_for_how_long_unless_the_machine_was_started_anew() {
        let (_dir, state) = state();
        assert_eq!(state.read_floor().expect("reads"), None);
        state.write_floor(b"1800000000000").expect("writes");
        let written = Running::now().expect("Linux");
        let later = Running { since: written.since + Duration::from_secs(3600), ..written.clone() };
        let floor = state.read_floor_at(Some(later.clone())).expect("reads").expect("a floor");
        let ahead = floor.since(UnixMs::from_millis(1_800_000_000_000));
        assert!(ahead >= Duration::from_secs(3599) && ahead <= Duration::from_secs(3601), "{ahead:?}");
        let rebooted = Running { boot: "another".into(), ..later.clone() };
        for unknown in [Some(rebooted), None] {
            let floor = state.read_floor_at(unknown).expect("reads");
            assert_eq!(floor, Some(UnixMs::from_millis(1_800_000_000_000)));
        }
        // Another floor than the one that the run was noted with, as an older version leaves behind.
        state.write(names::FLOOR, b"1800000000777").expect("writes");
        let floor = state.read_floor_at(Some(later)).expect("reads");
        assert_eq!(floor, Some(UnixMs::from_millis(1_800_000_000_777)));
    }

    #[test]
    fn what_is_no_floor_is_none_and_what_is_no_run_counts_for_nothing() {
        let (_dir, state) = state();
        state.write(names::FLOOR, b"soon").expect("writes");
        assert_eq!(state.read_floor().expect("reads"), None);
        state.write(names::FLOOR, b"17\n").expect("writes");
        for line in ["", "17", "17 x", "17 x y", "\u{fffd}"] {
            state.write(names::FLOOR_OF_BOOT, line.as_bytes()).expect("writes");
            assert_eq!(state.read_floor().expect("reads"), Some(UnixMs::from_millis(17)), "{line:?}");
        }
    }

    #[test]
    fn a_reconnect_window_that_is_missing_or_no_number_is_none() {
        let scratch = tempfile::tempdir().expect("a directory");
        let about =
            About::new(InstallationId::from_bytes([1; 16]), Role::Device, RootHash::from_bytes([2; 32]));
        let state = StateDir::create(&scratch.path().join("state"), &about).expect("is made");
        assert_eq!(state.read_reconnect_window().expect("reads"), Duration::ZERO);
        for (text, expected) in [("7400", 7_400), ("soon", 0), ("", 0), ("-1", 0)] {
            state.write(names::RECONNECT_WINDOW, text.as_bytes()).expect("writes");
            assert_eq!(
                state.read_reconnect_window().expect("reads"),
                Duration::from_millis(expected),
                "{text}"
            );
        }
    }
}
