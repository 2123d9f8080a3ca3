//! Replays the committed corpus, and mutations of it from a printed seed.
//!
//! `replay` runs every file of `tests/fuzz/corpus/TARGET/` and a fixed number of mutations of each.
//! `replay --target T --seconds N [--seed S]` explores one target; an input that panics is written next to the
//! corpus, named by its hash, and from then on replayed. The mutations are blind: no coverage guides them.
#![expect(clippy::print_stdout, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "an exploration ends by the clock")]

use anyhow::{Context as _, Result, bail, ensure};
use fuzz_targets::{TARGETS, Target, genuine};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Mutations of each file in CI: the suite stays below a minute.
const fn mutations(target: &str) -> u32 {
    // Their targets open a preallocated file and sync it, twice for each input; fill a database.
    if target.eq_ignore_ascii_case("strike_journal") || target.eq_ignore_ascii_case("restored") {
        100
    } else if target.eq_ignore_ascii_case("list_query") {
        // Every list, page by page, some of them several times.
        1000
    } else {
        3000
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// xorshift64* (Marsaglia 2003): enough for choosing bytes, and the same everywhere.
struct Choice(u64);

impl Choice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        usize::try_from(wide >> 33).unwrap_or(0) % bound.max(1)
    }

    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap_or(0),
                2 => bytes.insert(at, u8::try_from(self.below(256)).unwrap_or(0)),
                3 if at < bytes.len() => {
                    bytes.remove(at);
                }
                4 => bytes.truncate(at),
                5 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => {
                    let value = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)];
                    let end = (at + 4).min(bytes.len());
                    bytes[at..end].fill(value);
                }
            }
        }
        bytes.truncate(70_000);
        bytes
    }
}

fn holds(target: Target, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| target(bytes))).is_ok()
}

fn keep(directory: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let name: String = trust::sha256(&[bytes])[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let file = directory.join(format!("panicked-{name}"));
    fs::write(&file, bytes)?;
    Ok(file)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    if arguments.iter().any(|argument| argument == "--write-genuine") {
        for (target, name, bytes) in genuine() {
            fs::create_dir_all(corpus().join(target))?;
            fs::write(corpus().join(target).join(name), bytes)?;
        }
        return Ok(());
    }
    let seed: u64 = value("--seed").map_or(Ok(1), |text| text.parse())?;
    let time = value("--seconds").map(|text| text.parse().map(Duration::from_secs)).transpose()?;
    let only = value("--target");
    ensure!(
        only.is_none_or(|only| TARGETS.iter().any(|(name, _)| name == only)),
        "no such target; there are: {}",
        TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    );
    println!("seed {seed}");
    let (mut passed, mut failed) = (0, 0);
    for (name, target) in TARGETS.iter().filter(|(name, _)| only.is_none_or(|only| only == name)) {
        let directory = corpus().join(name);
        let mut files: Vec<PathBuf> = fs::read_dir(&directory)
            .with_context(|| format!("no corpus at {}", directory.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
        ensure!(!seeds.is_empty(), "an empty corpus at {}", directory.display());
        for (file, bytes) in files.iter().zip(&seeds) {
            if holds(*target, bytes) {
                passed += 1;
            } else {
                failed += 1;
                println!("{name}: {} panics", file.display());
            }
        }
        let mut choice = Choice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (began, mut tried, count) =
            (Instant::now(), 0_u64, u64::from(mutations(name)) * seeds.len() as u64);
        while time.map_or(tried < count, |time| began.elapsed() < time) {
            let bytes = choice.mutate(&seeds);
            tried += 1;
            if !holds(*target, &bytes) {
                bail!("{name}: an input panics, kept at {}", keep(&directory, &bytes)?.display());
            }
        }
        passed += 1;
        println!("{name}: {} files and {tried} mutations", seeds.len());
    }
    println!("{passed} passed, {failed} failed");
    ensure!(failed == 0, "{failed} failed");
    Ok(())
}
