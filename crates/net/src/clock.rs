//! The clocks of a machine that sleeps.
//!
//! On Linux an `Instant` stands still while the machine is asleep: a lease would last as long as the lid was
//! closed. The [`now`] of this module goes on; timers of the runtime do not, so they wait [`until`] a moment
//! that is shifted back, and whoever waits looks up about once a second.
#![expect(clippy::disallowed_methods, reason = "this is where shells read the clocks for the cores")]

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// Milliseconds asleep since this process looked first.
static ASLEEP: AtomicU64 = AtomicU64::new(0);
/// What the two clocks of the system were apart by then.
static FIRST: OnceLock<Duration> = OnceLock::new();
/// Less than this is no sleep, but the two clocks read one after the other.
const LEAST: Duration = Duration::from_millis(200);

/// The time, counting what the machine slept since this process looked first.
#[must_use]
pub fn now() -> Instant {
    Instant::now() + asleep()
}

/// What a timer of the runtime has to wait for, so that it wakes at `at` of [`now`], unless the machine sleeps
/// meanwhile.
#[must_use]
pub fn until(at: Instant) -> Instant {
    at.checked_sub(asleep()).unwrap_or(at)
}

/// How long the machine slept since this process looked first.
#[must_use]
pub fn asleep() -> Duration {
    let before = Duration::from_millis(ASLEEP.load(Ordering::Relaxed));
    let asleep = measured().map_or(before, |apart| {
        let first = *FIRST.get_or_init(|| apart);
        let asleep = apart.saturating_sub(first);
        if asleep < before + LEAST { before } else { asleep }
    });
    if asleep > before {
        ASLEEP.fetch_max(u64::try_from(asleep.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    asleep + test_offsets().1
}

/// Milliseconds since 1970 by the machine's wall clock.
#[must_use]
pub fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    millis.saturating_add_signed(test_offsets().0)
}

/// The time since the machine was started, sleep included: the clock that nobody sets.
#[cfg(target_os = "linux")]
#[must_use]
pub fn boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since =
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    since + test_offsets().1
}

/// By how much the clock that counts sleep leads the one that does not.
#[cfg(target_os = "linux")]
fn measured() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let (before, boot, after) = (read(ClockId::Monotonic), read(ClockId::Boottime), read(ClockId::Monotonic));
    // Interrupted between two readings: the next call tries again.
    (after.saturating_sub(before) < LEAST / 4).then(|| boot.saturating_sub(before))
}

#[cfg(not(target_os = "linux"))]
const fn measured() -> Option<Duration> {
    None
}

#[cfg(not(feature = "test-clock"))]
const fn test_offsets() -> (i64, Duration) {
    (0, Duration::ZERO)
}

/// For outage tests, never in a shipped binary: the file that `TIDEGATE_TEST_CLOCK` names holds by how many
/// milliseconds the wall clock is off, and how many the machine has slept. It is read about 20 times a second.
#[cfg(feature = "test-clock")]
fn test_offsets() -> (i64, Duration) {
    use std::sync::Mutex;
    type Offsets = (Option<Instant>, i64, Duration);
    static READ: Mutex<Offsets> = Mutex::new((None, 0, Duration::ZERO));
    let mut read = READ.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let now = Instant::now();
    if read.0.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_millis(50)) {
        read.0 = Some(now);
        let text =
            std::env::var_os("TIDEGATE_TEST_CLOCK").and_then(|path| std::fs::read_to_string(path).ok());
        let mut numbers = text.iter().flat_map(|text| text.split_whitespace());
        if let (Some(Ok(wall)), Some(Ok(slept))) =
            (numbers.next().map(str::parse), numbers.next().map(str::parse::<u64>))
        {
            // Nothing takes sleep back.
            (read.1, read.2) = (wall, read.2.max(Duration::from_millis(slept)));
        }
    }
    (read.1, read.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_does_not_sleep_has_one_time() {
        let (before, now, after) = (Instant::now(), now(), Instant::now());
        let slept = asleep();
        assert!(before + slept <= now && now <= after + slept);
        assert_eq!(until(now), now.checked_sub(slept).expect("later than the boot"));
    }

    #[test]
    fn time_never_goes_back_whoever_reads_it() {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    let mut last = now();
                    for _ in 0..200_000 {
                        let next = now();
                        assert!(next >= last);
                        last = next;
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().expect("no reader saw time go back");
        }
    }
}
