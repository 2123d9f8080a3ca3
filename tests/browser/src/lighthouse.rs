//! Lighthouse's judgement of pages: a program of its own, with a browser of its own.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// What each page has to reach in each category (issue 6).
const LEAST: u64 = 95;
const CATEGORIES: [&str; 2] = ["accessibility", "best-practices"];

/// `judge.mjs` beside its modules, and what it has said so far.
#[derive(Debug)]
pub(crate) struct Lighthouse {
    script: PathBuf,
    /// The least score of each category, and the page that has it.
    least: [Option<(u64, String)>; 2],
    judged: usize,
    findings: Vec<String>,
}

/// The judge ends with what asked for it, and its browser with it.
struct Judge(Child);

impl Drop for Judge {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.0.try_wait(), pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lighthouse {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { script: folder.join("judge.mjs"), least: [None, None], judged: 0, findings: Vec::new() }
    }

    /// Judges pages, (name, path) each, for whoever has this cookie.
    ///
    /// # Errors
    /// It cannot judge one of them, or a page leads somewhere else.
    pub(crate) fn judge(&mut self, origin: &str, cookie: Option<&str>, pages: &[(&str, &str)]) -> Result<()> {
        let chromium = std::env::var("TIDEGATE_TEST_CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
        let mut command = Command::new("node");
        command.arg(&self.script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut judge = Judge(command.spawn().context("starting node (Debian package nodejs)")?);
        let pages: Vec<_> = pages.iter().map(|(name, path)| json!({"name": name, "path": path})).collect();
        let asked = json!({"chromium": chromium, "origin": origin, "cookie": cookie, "pages": pages});
        let mut stdin = judge.0.stdin.take().context("its input")?;
        stdin.write_all(asked.to_string().as_bytes())?;
        drop(stdin);
        let before = self.judged;
        for line in BufReader::new(judge.0.stdout.take().context("its output")?).lines() {
            let line = line?;
            let answer: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
            self.take(&answer, origin, &pages)?;
        }
        let status = judge.0.wait()?;
        ensure!(status.success(), "lighthouse: {status}");
        ensure!(self.judged - before == pages.len(), "it judged {} pages", self.judged - before);
        Ok(())
    }

    fn take(&mut self, answer: &Value, origin: &str, pages: &[Value]) -> Result<()> {
        let name = answer["name"].as_str().context("a name")?;
        let asked = pages.iter().find(|page| page["name"] == name).context("a page that was asked about")?;
        let wanted = format!("{origin}{}", asked["path"].as_str().unwrap_or_default());
        // A page that leads to the sign-in would be judged in its place.
        ensure!(answer["shown"] == wanted, "{name}: it shows {} and not {wanted}", answer["shown"]);
        for (category, least) in CATEGORIES.iter().zip(&mut self.least) {
            let score = answer[category].as_u64().with_context(|| format!("{name}: {category}"))?;
            if least.as_ref().is_none_or(|(least, _)| score < *least) {
                *least = Some((score, name.to_owned()));
            }
            if score < LEAST {
                self.findings.push(format!("{name}: {category} {score} (≥ {LEAST}): {}", answer["failed"]));
            }
        }
        self.judged += 1;
        eprintln!("judged {name}: {} and {}", answer[CATEGORIES[0]], answer[CATEGORIES[1]]);
        Ok(())
    }

    /// Prints what came of it.
    ///
    /// # Errors
    /// A page does not reach what it has to.
    pub(crate) fn conclude(&self) -> Result<()> {
        for finding in &self.findings {
            println!("lighthouse: {finding}");
        }
        let least = CATEGORIES.iter().zip(&self.least).map(|(category, least)| match least {
            Some((score, name)) => format!("{category} {score} at least ({name})"),
            None => format!("{category} not judged"),
        });
        println!("lighthouse: {} pages, {}", self.judged, least.collect::<Vec<_>>().join(", "));
        ensure!(self.judged > 0 && self.findings.is_empty(), "lighthouse has findings");
        Ok(())
    }
}
