//! What really happens to each row while a fault lasts.

use super::{
    fault::Fault,
    flow::Flow,
    ground::{Answer, Device, EXTRA, Ground, STRICT, WEB, words},
    table::{Cell, Column, Row, Word},
};
use crate::process::wait_until;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// A page comes within this where a row is on (docs/outage-expected.md).
const PAGE_WITHIN: Duration = Duration::from_secs(15);
/// Where everybody starts at once, and where a fault is over by itself.
const SLOWLY: Duration = Duration::from_secs(30);
/// One try for a page.
const TRY: Duration = Duration::from_secs(8);
/// Silence of a running flow that nobody notices, and while TCP 443 is being found.
const SILENCE: Duration = Duration::from_secs(1);
const SILENCE_TO_TCP: Duration = Duration::from_secs(5);
/// While the path gets narrower under it, and while a third of what it sends is lost (docs/outage-expected.md).
const SILENCE_TO_SMALL: Duration = Duration::from_millis(3500);
const SILENCE_IN_LOSS: Duration = Duration::from_secs(10);
/// A running flow is watched for at least this long after the fault began.
const WATCHED: Duration = Duration::from_secs(6);
/// A beacon is stale after 15 s (architecture), and a client that is asked says so then: two seconds for the last one
/// on its way.
const STALE_AFTER: Duration = Duration::from_secs(17);
/// A client that hears the control plane says so within this.
const FRESH_WITHIN: Duration = Duration::from_secs(8);
/// Strict resources take no new flow this long after the fault (guarantees), and a little later it is looked at.
const STRICT_AFTER: Duration = Duration::from_secs(71);
/// A strike is enforced within this (guarantees).
const STRIKE_WITHIN: Duration = Duration::from_secs(5);
const TIGHTENED_WITHIN: Duration = Duration::from_secs(15);
/// Grants are renewed each 5 s ± 25 %, with a try or two more.
const RENEWED_WITHIN: Duration = Duration::from_secs(15);
/// And by another PoP, when the one in use falls silent (docs/outage-expected-a.md).
const RENEWED_ELSEWHERE: Duration = Duration::from_secs(30);
/// What was under way when the fault began is over.
const UNDER_WAY: Duration = Duration::from_millis(2500);
/// A command that does not end by itself.
const COMMAND: Duration = Duration::from_secs(60);

/// What was made before the fault for the rows that need it.
#[derive(Debug)]
pub struct Scene {
    column: Column,
    number: u32,
    running: Option<Flow>,
    victim: Option<(Device, Flow)>,
    leaver: Option<(Device, String, Flow)>,
    key: Option<String>,
    /// Names that a write did not store.
    refused: Vec<String>,
    /// Who was removed, enforced, and is to be gone from the database after the cure.
    left: Option<String>,
    enrolment_refused: bool,
    cli_said: Option<String>,
}

impl Scene {
    /// Whatever the chosen rows need, while nothing is broken.
    ///
    /// # Errors
    /// Something of it does not work.
    pub fn set(
        ground: &mut Ground,
        column: Column,
        number: u32,
        takes: impl Fn(Row) -> bool,
    ) -> Result<Self> {
        let mut scene = Self {
            column,
            number,
            running: None,
            victim: None,
            leaver: None,
            key: None,
            refused: Vec::new(),
            left: None,
            enrolment_refused: false,
            cli_said: None,
        };
        // A new process: what it learnt of the ways of the column before does not make this one wait.
        restart_client(ground)?;
        if takes(Row::Revoke) {
            let mut device = ground.enrol(&format!("victim{number}"), "alice")?;
            ground.up(&mut device)?;
            reach(ground, &device, WEB, SLOWLY)?.map_err(anyhow::Error::msg).context("the victim's page")?;
            let flow = ground.flow(&device).context("the victim's flow")?;
            scene.victim = Some((device, flow));
        }
        if takes(Row::RemoveFromGroup) {
            let name = format!("bob{number}");
            let email = format!("{name}@lab.example");
            let user = ["create", "user", "--name", &name, "--email", &email, "--group", "crew"];
            let user = ground.admin(&user)?["id"].as_str().context("the user's id")?.to_owned();
            let mut device = ground.enrol(&format!("laptop{number}"), &name)?;
            ground.up(&mut device)?;
            reach(ground, &device, WEB, SLOWLY)?
                .map_err(anyhow::Error::msg)
                .context("the page of who leaves")?;
            let flow = ground.flow(&device).context("the flow of who will leave")?;
            scene.leaver = Some((device, user, flow));
        }
        if takes(Row::Enrol) {
            scene.key = Some(ground.device_key(&format!("new{number}"), "alice")?);
        }
        if takes(Row::Tighten) {
            let (policy, values) = ground.policy.clone();
            ground.api("PUT", &format!("policies/{policy}"), Some(&values))?.done()?;
            reach(ground, &ground.alice, EXTRA, SLOWLY)?.map_err(anyhow::Error::msg).context("extra")?;
        }
        reach(ground, &ground.alice, WEB, SLOWLY)?.map_err(anyhow::Error::msg).context("the page")?;
        reach(ground, &ground.alice, STRICT, SLOWLY)?.map_err(anyhow::Error::msg).context("strict")?;
        // It shows by which way its bytes come, also where no row is about it.
        scene.running = Some(ground.flow(&ground.alice).context("the running flow")?);
        for device in scene.victim.iter().map(|(device, _)| device).chain(scene.leaver.iter().map(|it| &it.0))
        {
            ground.wait_own_path(device)?;
        }
        ground.wait_direct(&ground.alice)?;
        Ok(scene)
    }

    /// The fault begins now: silences count from here.
    pub fn mark(&self) {
        if let Some(running) = &self.running {
            running.mark();
        }
    }

    /// In which order rows are looked at: what breaks less first.
    pub fn order(column: Column) -> Vec<Row> {
        let mut rows = vec![
            Row::Reads,
            Row::Writes,
            Row::Revoke,
            Row::RemoveFromGroup,
            Row::Tighten,
            Row::Enrol,
            Row::GrantRenewal,
            Row::NewFlow,
            Row::RunningFlow,
            Row::ClientRoams,
            Row::ClientRestarts,
            Row::ConnectorRestarts,
            Row::NoValidGrant,
            Row::EverybodyReconnects,
        ];
        // Strict ones are compared with standard ones: without any PoP these work in tunnels that stand.
        let at = if column == Column::ServeDead { 9 } else { rows.len() };
        rows.insert(at, Row::Strict);
        rows
    }

    /// Looks at one row.
    ///
    /// # Errors
    /// What happened fits no word.
    pub fn look(&mut self, ground: &mut Ground, fault: &Fault, row: Row) -> Result<Cell> {
        fault.again(ground, row)?;
        match row {
            Row::RunningFlow => self.running_flow(ground, fault),
            Row::NewFlow => self.new_flow(ground, fault),
            Row::ClientRestarts => {
                self.wait_stale(ground, fault)?;
                restart_client(ground)?;
                self.access(ground, PAGE_WITHIN)
            }
            Row::ConnectorRestarts => {
                self.wait_stale(ground, fault)?;
                ground.start_connector(None)?;
                self.access(ground, PAGE_WITHIN)
            }
            Row::ClientRoams => {
                self.wait_stale(ground, fault)?;
                ground.roam()?;
                self.access(ground, PAGE_WITHIN)
            }
            Row::EverybodyReconnects => self.everybody(ground),
            Row::NoValidGrant => self.no_valid_grant(ground, fault),
            Row::GrantRenewal => self.grant_renewal(ground, fault),
            Row::Enrol => self.enrol(ground),
            Row::Reads => self.reads(ground),
            Row::Writes => self.writes(ground),
            Row::Revoke => self.revoke(ground),
            Row::RemoveFromGroup => self.remove(ground),
            Row::Tighten => self.tighten(ground),
            Row::Strict => self.strict(ground, fault),
        }
    }

    fn patience(&self) -> Duration {
        if self.column.passes() { SLOWLY } else { PAGE_WITHIN }
    }

    /// Where no beacon is made nobody waits for one.
    fn fresh_within(&self) -> Duration {
        if self.column.silences() { Duration::from_secs(1) } else { FRESH_WITHIN }
    }

    /// Sleeps until the fault is that old.
    fn wait_age(ground: &Ground, fault: &Fault, age: Duration) -> Result<()> {
        while fault.began.elapsed() < age {
            ground.interrupt.check()?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn wait_stale(&self, ground: &Ground, fault: &Fault) -> Result<()> {
        if self.column.silences() { Self::wait_age(ground, fault, STALE_AFTER) } else { Ok(()) }
    }

    fn running_flow(&self, ground: &Ground, fault: &Fault) -> Result<Cell> {
        self.wait_stale(ground, fault)?;
        Self::wait_age(ground, fault, WATCHED)?;
        let flow = self.running.as_ref().context("the running flow")?;
        let allowed = match self.column {
            Column::UdpBlocked => SILENCE_TO_TCP,
            Column::SmallMtu => SILENCE_TO_SMALL,
            Column::Lossy => SILENCE_IN_LOSS,
            _ => SILENCE,
        };
        if flow.silent_for() > allowed {
            // Once more for a flow that comes back late: then the silence is known.
            thread::sleep(Duration::from_secs(5));
        }
        let silence = flow.longest_silence();
        let seconds = fault.began.elapsed().as_secs_f64();
        ensure!(flow.ended().is_none(), "the flow ended; longest silence {} ms", silence.as_millis());
        ensure!(silence <= allowed, "longest silence {} ms in {seconds:.0} s", silence.as_millis());
        Ok(Cell::new(Word::On, format!("longest silence {} ms in {seconds:.0} s", silence.as_millis())))
    }

    fn new_flow(&self, ground: &Ground, fault: &Fault) -> Result<Cell> {
        self.wait_stale(ground, fault)?;
        self.access(ground, PAGE_WITHIN)
    }

    /// A page by a new connection, and how fresh the client says that it is.
    fn access(&self, ground: &Ground, within: Duration) -> Result<Cell> {
        let within = within.max(self.patience());
        match reach(ground, &ground.alice, WEB, within)? {
            Ok(reached) => {
                let (word, freshness) = freshness(ground, &ground.alice, self.fresh_within())?;
                Ok(Cell::new(word, format!("{reached}, status {freshness}")))
            }
            Err(error) => nobody(ground, &ground.alice, &error),
        }
    }

    fn everybody(&self, ground: &mut Ground) -> Result<Cell> {
        let began = Instant::now();
        ground.end_connectors();
        ground.alice.process = None;
        let connector = ground.start_connector(None);
        restart_client(ground)?;
        connector?;
        match reach(ground, &ground.alice, WEB, SLOWLY)? {
            Ok(reached) => {
                let ms = began.elapsed().as_millis();
                Ok(Cell::new(Word::On, format!("{reached}, {ms} ms after both were ended")))
            }
            Err(error) => nobody(ground, &ground.alice, &error),
        }
    }

    fn no_valid_grant(&self, ground: &mut Ground, fault: &Fault) -> Result<Cell> {
        self.wait_stale(ground, fault)?;
        let mut device = ground.grantless.take();
        device.process = None;
        let file = ground.state(&device.name).join("grant");
        let kept = fs::read(&file).context("the grant that is taken away")?;
        fs::remove_file(&file)?;
        let cell = self.without_grant(ground, &mut device);
        device.process = None;
        if !file.exists() {
            // For the next column; where the disk is full the cure gives the room for it.
            let _ = fs::write(&file, kept);
        }
        ground.grantless = device;
        cell
    }

    fn without_grant(&self, ground: &Ground, device: &mut Device) -> Result<Cell> {
        if let Err(error) = ground.up(device) {
            return Ok(Cell::new(
                Word::Refused,
                format!("the client says: {}", one_line(&format!("{error:#}"))),
            ));
        }
        match reach(ground, device, WEB, self.patience())? {
            Ok(reached) => {
                let disk = ground.grant_issued(device).map_or("in memory only", |_| "on its disk");
                Ok(Cell::new(Word::On, format!("issued one ({disk}), {reached}")))
            }
            Err(error) => nobody(ground, device, &error),
        }
    }

    fn grant_renewal(&self, ground: &Ground, fault: &Fault) -> Result<Cell> {
        Self::wait_age(ground, fault, UNDER_WAY)?;
        let access_until = || -> Result<u64> {
            ground.status(&ground.alice)?["access_until"].as_u64().context("access_until")
        };
        let (before, until) = (ground.grant_issued(&ground.alice)?, access_until()?);
        let began = Instant::now();
        let deadline = match self.column {
            Column::PopBlackHole | Column::PopGarbage => RENEWED_ELSEWHERE,
            _ => RENEWED_WITHIN.max(self.patience()),
        };
        while began.elapsed() < deadline {
            ground.interrupt.check()?;
            if ground.grant_issued(&ground.alice)? > before {
                let ms = began.elapsed().as_millis();
                return Ok(Cell::new(Word::On, format!("a newer one on the disk after {ms} ms")));
            }
            if access_until()? > until {
                let ms = began.elapsed().as_millis();
                // The disk may follow at once.
                thread::sleep(Duration::from_millis(500));
                let on_disk = ground.grant_issued(&ground.alice)? > before;
                let place = if on_disk { "on the disk" } else { "in memory only" };
                return Ok(Cell::new(Word::On, format!("a newer one {place} after {ms} ms")));
            }
            thread::sleep(Duration::from_millis(100));
        }
        let page = reach(ground, &ground.alice, WEB, TRY)?.map_err(anyhow::Error::msg)?;
        Ok(Cell::new(Word::Stale, format!("the old one holds after {} s: {page}", deadline.as_secs())))
    }

    fn enrol(&mut self, ground: &Ground) -> Result<Cell> {
        let key = self.key.clone().context("a key")?;
        let began = Instant::now();
        let until = began + if self.column.passes() { SLOWLY } else { Duration::ZERO };
        loop {
            let said = ground.login(&format!("new{}", self.number), &key, COMMAND)?;
            let ms = began.elapsed().as_millis();
            if said.status.success() {
                return Ok(Cell::new(Word::On, format!("enrolled after {ms} ms")));
            }
            // Who answers has answered, unless the answer is "in a moment".
            let final_answer = self.column == Column::DatabaseGone && said.status.code() != Some(3);
            if Instant::now() < until && !final_answer {
                thread::sleep(Duration::from_millis(300));
                continue;
            }
            self.enrolment_refused = true;
            let text = words(&said);
            ensure!(!text.is_empty(), "login ended without a word: {}", said.status);
            let detail = format!("exit {} after {ms} ms: {text}", said.status.code().unwrap_or(-1));
            return match said.status.code() {
                Some(3) => Ok(Cell::new(Word::Gone, detail)),
                Some(4 | 5) => Ok(Cell::new(Word::Refused, detail)),
                // What is wrong on this machine is neither: it says so and fails.
                Some(1) if text.contains("No space left") => Ok(Cell::new(Word::Refused, detail)),
                _ => bail!("{detail}"),
            };
        }
    }

    /// The API's answer; asked again while a fault is over by itself.
    fn ask(&self, ground: &Ground, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let began = Instant::now();
        loop {
            let mut answer = ground.api(method, path, body)?;
            let temporary = !answer.is_done() && matches!(answer.status, None | Some(503));
            let cures_itself = matches!(self.column, Column::PopKilled | Column::HostRebooted);
            if !temporary || !cures_itself || began.elapsed() > SLOWLY {
                answer.took = began.elapsed();
                return Ok(answer);
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn reads(&mut self, ground: &Ground) -> Result<Cell> {
        let mut answer = self.ask(ground, "GET", "groups", None)?;
        if self.column == Column::DatabaseGone && !answer.is_done() {
            // A cold start from the copy on disk, by serve.
            let began = Instant::now();
            while !answer.is_done() && began.elapsed() < SLOWLY {
                answer = ground.api("GET", "groups", None)?;
            }
            answer.took = began.elapsed();
        }
        match word(ground, &answer)? {
            Word::On => {
                let items = answer.body["items"].as_array().map_or(0, Vec::len);
                ensure!(items >= 2, "{items} groups were read, there are more");
                let status = ground.api("GET", "status", None)?;
                let (source, age) =
                    (&status.body["snapshot"]["source"], &status.body["snapshot"]["age_seconds"]);
                let word = if source == "disk_copy" { Word::Stale } else { Word::On };
                let detail = format!("{}, snapshot from {source}, {age} s old", answer.words());
                Ok(Cell::new(word, detail.replace('"', "")))
            }
            other => self.cell(ground, other, &answer),
        }
    }

    fn writes(&mut self, ground: &Ground) -> Result<Cell> {
        let name = format!("written {} {}", self.column.name(), self.number);
        let answer = self.ask(ground, "POST", "groups", Some(&json!({"name": name})))?;
        let word = word(ground, &answer)?;
        if word == Word::Refused {
            self.refused.push(name);
        }
        self.cell(ground, word, &answer)
    }

    /// What the answer says, and the CLI where there is none: asked once a column, since it may wait for long.
    fn cell(&mut self, ground: &Ground, word: Word, answer: &Answer) -> Result<Cell> {
        if word == Word::Gone {
            let said = match &self.cli_said {
                Some(_) => "admin as in the rows before",
                None => self.cli_said.insert(cli_says_so(ground, self.column)?),
            };
            return Ok(Cell::new(word, format!("{}; {said}", answer.words())));
        }
        Ok(Cell::new(word, answer.words()))
    }

    fn revoke(&mut self, ground: &Ground) -> Result<Cell> {
        let victim = self.victim.take().context("the victim")?;
        let answer = self.ask(ground, "POST", "strikes", Some(&json!({"subject": victim.0.id})))?;
        self.enforced(ground, &answer, &victim.1)
    }

    fn remove(&mut self, ground: &Ground) -> Result<Cell> {
        let (_device, user, flow) = self.leaver.take().context("who leaves")?;
        let path = format!("groups/{}/members/{user}", ground.crew);
        let answer = self.ask(ground, "DELETE", &path, None)?;
        let cell = self.enforced(ground, &answer, &flow)?;
        self.left = (cell.word == Word::On).then_some(user);
        Ok(cell)
    }

    /// The running flow of who was revoked has ended, or goes on when nothing was done.
    fn enforced(&mut self, ground: &Ground, answer: &Answer, flow: &Flow) -> Result<Cell> {
        let answered = Instant::now();
        let asked = answered.checked_sub(answer.took).unwrap_or(answered);
        let word = word(ground, answer)?;
        let limit = STRIKE_WITHIN + if self.column.passes() { SLOWLY } else { Duration::ZERO };
        // Beyond the limit, so that a late end is told from none.
        let until = asked + limit + Duration::from_secs(5);
        let ends = loop {
            ground.interrupt.check()?;
            if let Some(end) = flow.ended() {
                break Some(end);
            }
            let now = Instant::now();
            // What the API refused or did not answer is given a little time to be enforced all the same.
            if now > until || (word != Word::On && now > answered + STRIKE_WITHIN) {
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let durable = answer.body["durable"].as_str().or_else(|| answer.body["strike"]["durable"].as_str());
        let durable = durable.map(|durable| format!(", {durable}")).unwrap_or_default();
        match (word, ends) {
            (Word::On | Word::Refused, Some(end)) => {
                let end = end.min(flow.last_byte().max(asked) + STRIKE_WITHIN);
                let ms = end.saturating_duration_since(asked).as_millis();
                ensure!(end <= asked + limit, "the flow ended only after {ms} ms; {}", answer.words());
                Ok(Cell::new(Word::On, format!("flow ended after {ms} ms{durable}; {}", answer.words())))
            }
            // Its bytes are what counts: a client that hears of nothing keeps a silent connection open.
            (Word::On, None) if flow.last_byte() <= asked + limit => {
                let ms = flow.last_byte().saturating_duration_since(asked).as_millis();
                let detail =
                    format!("no byte later than {ms} ms, connection still open{durable}; {}", answer.words());
                Ok(Cell::new(Word::On, detail))
            }
            (Word::On, None) => {
                bail!("acknowledged, and bytes went on; {}{durable}", answer.words())
            }
            (other, None) => {
                ensure!(flow.silent_for() < SILENCE, "the flow is silent; {}", answer.words());
                self.cell(ground, other, answer)
            }
            (other, Some(_)) => bail!("{other}, and the flow ended; {}", answer.words()),
        }
    }

    fn tighten(&mut self, ground: &Ground) -> Result<Cell> {
        let (policy, values) = &ground.policy;
        let mut values = values.clone();
        let web = values["resources"][0].clone();
        values["resources"] = json!([web]);
        let answer = self.ask(ground, "PUT", &format!("policies/{policy}"), Some(&values))?;
        let began = Instant::now();
        let word = word(ground, &answer)?;
        if word != Word::On {
            ensure!(
                reach(ground, &ground.alice, EXTRA, TRY)?.is_ok(),
                "{}, and the resource is closed",
                answer.words()
            );
            return self.cell(ground, word, &answer);
        }
        let closed = wait_until("the resource is closed", TIGHTENED_WITHIN, &ground.interrupt, || {
            Ok(ground.page(&ground.alice, EXTRA, TRY)?.err())
        });
        let error = closed.with_context(|| answer.words())?;
        let ms = began.elapsed().as_millis();
        reach(ground, &ground.alice, WEB, TRY)?.map_err(anyhow::Error::msg).context("the other resource")?;
        Ok(Cell::new(Word::On, format!("closed after {ms} ms ({}); {}", one_line(&error), answer.words())))
    }

    fn strict(&self, ground: &Ground, fault: &Fault) -> Result<Cell> {
        if self.column.silences() {
            Self::wait_age(ground, fault, STRICT_AFTER)?;
        }
        let standard = reach(ground, &ground.alice, WEB, self.patience())?;
        let strict = if self.column.silences() {
            ground.page(&ground.alice, STRICT, TRY)?.map(|took| format!("page after {} ms", took.as_millis()))
        } else {
            reach(ground, &ground.alice, STRICT, self.patience())?
        };
        let age = fault.began.elapsed().as_secs();
        match (standard, strict) {
            (Ok(_), Ok(reached)) => Ok(Cell::new(Word::On, format!("{reached}, {age} s after the fault"))),
            (Ok(standard), Err(error)) => {
                let why = words(&ground.why(&ground.alice, "strict")?);
                let why = why.rsplit(" ok ").next().unwrap_or_default();
                ensure!(!why.is_empty(), "refused ({error}), and `why` says nothing");
                let detail = format!(
                    "refused {age} s after the fault ({}); standard: {standard}; why: {why}",
                    one_line(&error)
                );
                Ok(Cell::new(Word::Refused, detail))
            }
            (Err(error), _) => bail!("a standard resource does not work either: {error}"),
        }
    }

    /// After the cure a write and a page work, and what was refused was not half done.
    ///
    /// # Errors
    /// Something of it does not hold within `within`.
    pub fn cured(&self, ground: &Ground, within: Duration) -> Result<String> {
        let began = Instant::now();
        let name = format!("cured {} {}", self.column.name(), self.number);
        let mut last = String::new();
        let written = wait_until("a write after the cure", within, &ground.interrupt, || {
            let answer = ground.api("POST", "groups", Some(&json!({"name": name})))?;
            last = answer.words();
            // An answer that was lost stored it all the same.
            Ok((answer.is_done() || answer.status == Some(409)).then(|| began.elapsed()))
        })
        .with_context(|| last.clone())?;
        let left = within.saturating_sub(began.elapsed()).max(TRY);
        let page = reach(ground, &ground.alice, WEB, left)?;
        let page = page.map_err(anyhow::Error::msg).context("a page after the cure")?;
        let page_after = began.elapsed();
        let groups = ground.api("GET", "groups?limit=1000", None)?.done()?;
        let groups = groups["items"].as_array().context("groups")?;
        for refused in &self.refused {
            ensure!(
                !groups.iter().any(|group| group["name"] == refused.as_str()),
                "{refused:?} was refused and is there"
            );
        }
        if let Some(user) = &self.left {
            wait_until("the membership is gone from the database", within, &ground.interrupt, || {
                let members = ground.api("GET", &format!("groups/{}/members", ground.crew), None)?.done()?;
                let members = members["items"].as_array().context("members")?;
                let there = members.iter().any(|it| it["member"] == user.as_str() && it["struck"] != true);
                Ok((!there).then_some(()))
            })?;
        }
        if self.enrolment_refused {
            let key = self.key.clone().context("the key")?;
            let mut last = String::new();
            wait_until("the same key enrols after the cure", within, &ground.interrupt, || {
                let said = ground.login(&format!("new{}", self.number), &key, COMMAND)?;
                last = words(&said);
                Ok(said.status.success().then_some(()))
            })
            .with_context(|| last.clone())?;
        }
        Ok(format!(
            "a write after {} ms, a page after {} ms ({page})",
            written.as_millis(),
            page_after.as_millis()
        ))
    }
}

fn restart_client(ground: &mut Ground) -> Result<()> {
    let mut alice = ground.alice.take();
    let started = ground.up(&mut alice);
    ground.alice = alice;
    started
}

/// Tries until a page comes; says how long that took and which try it was, or what the last one said.
fn reach(ground: &Ground, device: &Device, url: &str, within: Duration) -> Result<Result<String, String>> {
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let left = within.saturating_sub(began.elapsed()).max(Duration::from_millis(500));
        match ground.page(device, url, left.min(TRY))? {
            Ok(_) => {
                let ms = began.elapsed().as_millis();
                let tries = if tries == 1 { String::new() } else { format!(" (try {tries})") };
                return Ok(Ok(format!("page after {ms} ms{tries}")));
            }
            Err(error) if began.elapsed() >= within => {
                return Ok(Err(format!("{} ({tries} tries in {} s)", one_line(&error), within.as_secs())));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// On when the client hears the control plane, stale when it says that it does not.
fn freshness(ground: &Ground, device: &Device, patience: Duration) -> Result<(Word, String)> {
    let began = Instant::now();
    loop {
        let status = ground.status(device)?;
        let freshness = status["freshness"].as_str().context("freshness")?;
        let heard = status["control_last_heard_ms"].as_u64().map(|ms| format!(", heard {ms} ms ago"));
        let words = format!("{freshness}{}", heard.unwrap_or_default());
        if freshness == "fresh" {
            let waited = began.elapsed().as_millis();
            let after = if waited > 200 { format!(" {waited} ms later") } else { String::new() };
            return Ok((Word::On, format!("{words}{after}")));
        }
        if began.elapsed() > patience {
            ensure!(["stale", "isolated"].contains(&freshness), "status says {freshness:?}");
            return Ok((Word::Stale, words));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// No page came: who says what. A PoP that has this device's session is somebody.
fn nobody(ground: &Ground, device: &Device, error: &str) -> Result<Cell> {
    let status = ground.status(device)?;
    let registered =
        status["pops"].as_array().is_some_and(|pops| pops.iter().any(|pop| pop["session"] == "registered"));
    let why = ground.why(device, "web")?;
    let text = words(&why);
    ensure!(
        !why.status.success() && !text.is_empty(),
        "no page ({error}), and `why` says all is well: {text}"
    );
    let word = if registered { Word::Refused } else { Word::Gone };
    let problem = status["last_session_problem"].as_str().map(|problem| format!("; session: {problem}"));
    // What is well is said first, and at length.
    let text = text.rsplit(" ok ").next().unwrap_or_default();
    Ok(Cell::new(word, format!("{error}{}; why: {text}", problem.unwrap_or_default())))
}

/// The word of an API's answer.
fn word(ground: &Ground, answer: &Answer) -> Result<Word> {
    ground.interrupt.check()?;
    match answer.status {
        Some(200..300) => Ok(Word::On),
        Some(503) if answer.retry_after.is_some() => Ok(Word::Refused),
        None => Ok(Word::Gone),
        Some(_) => bail!("{}", answer.words()),
    }
}

/// Where nobody answers a person is told so by the command line.
fn cli_says_so(ground: &Ground, column: Column) -> Result<String> {
    let began = Instant::now();
    // On the controller's own host there is another way, which no proxy stands in.
    let said = if column.is_https() {
        ground.try_admin_by_https(&["list", "groups"])
    } else {
        ground.try_admin(&["list", "groups"])
    };
    let said = said.context("tidegate admin")?;
    let text = words(&said);
    ensure!(!said.status.success() && !text.is_empty(), "nobody answers, and tidegate admin says: {text:?}");
    let ms = began.elapsed().as_millis();
    Ok(format!("admin exits {} after {ms} ms: {text}", said.status.code().unwrap_or(-1)))
}

/// Words in one line, without which command of the lab said them.
fn one_line(text: &str) -> String {
    let text = text.split(": ip netns exec").next().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
