//! Lighthouse's judgement of pages: a program of its own, with a browser of its own.

use anyhow::{Context as _, Result, ensure};
use browser::Page;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
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

/// The judge, which ends with what asked for it, and its browser with it.
struct Judge {
    child: Child,
    /// Nothing once everything was asked.
    stdin: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Judge {
    fn start(script: &Path, browser: &Value) -> Result<Self> {
        let mut command = Command::new("node");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting node (Debian package nodejs)")?;
        let stdin = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut judge = Self { child, stdin, answers };
        judge.say(browser)?;
        Ok(judge)
    }

    fn say(&mut self, line: &Value) -> Result<()> {
        let stdin = self.stdin.as_mut().context("everything was asked")?;
        writeln!(stdin, "{line}").context("lighthouse has ended")
    }

    fn answer(&mut self) -> Result<Value> {
        let line = self.answers.next().context("lighthouse has ended")??;
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    /// Nothing more is asked.
    fn end(mut self) -> Result<()> {
        self.stdin = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "lighthouse: {status}");
        Ok(())
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
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
        let mut judge = Judge::start(&self.script, &json!({"chromium": chromium, "cookie": cookie}))?;
        for (name, path) in pages {
            let url = format!("{origin}{path}");
            judge.say(&json!({"name": name, "url": url}))?;
            self.take(&judge.answer()?, name, &url)?;
        }
        judge.end()
    }

    /// Judges what a page in front becomes by what is done there.
    ///
    /// # Errors
    /// It cannot be done or judged.
    pub(crate) fn judge_after(
        &mut self,
        name: &str,
        (port, page): (u16, &Page<'_>),
        steps: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut judge = Judge::start(&self.script, &json!({"port": port, "target": page.target()}))?;
        judge.say(&json!({"name": name}))?;
        let ready = judge.answer()?;
        ensure!(ready["ready"] == name, "lighthouse says {ready}");
        steps()?;
        judge.say(&json!({"done": true}))?;
        let answer = judge.answer()?;
        let url = page.evaluate("location.href")?;
        self.take(&answer, name, url.as_str().context("an address")?)?;
        judge.end()
    }

    fn take(&mut self, answer: &Value, name: &str, url: &str) -> Result<()> {
        ensure!(answer["name"] == name, "{name} was asked about, this is {answer}");
        // A page that leads to the sign-in would be judged in its place.
        ensure!(answer["shown"] == url, "{name}: it shows {} and not {url}", answer["shown"]);
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
