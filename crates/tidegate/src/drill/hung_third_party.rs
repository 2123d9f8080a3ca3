//! `hung-third-party`: the provider that people sign in at takes connections and never answers.

use super::{
    api::{self, Call, Writes},
    brownout::{because, judge_clients, judge_ledger, judge_reads_and_errors},
    clients,
    run::{Databases, Needs, Run, Weather},
};
use crate::process;
use anyhow::Context as _;
use enrol::{ApiClient, ServerUrl};
use http::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use trust::JoinKey;

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::Yes, databases: Databases::Either };

/// Somebody tries to sign in at the provider this often, whatever became of those before.
const SIGN_IN_EVERY: Duration = Duration::from_millis(200);
/// Whoever tries is told within this: as long as people look at a page that loads.
const TOLD_WITHIN: Duration = Duration::from_secs(12);
/// Another page of the sign-in comes within this.
const PAGE_WITHIN_MS: u32 = 1_000;
/// So many more descriptors of the controller than before: those who wait, twice.
const MORE_DESCRIPTORS: f64 = 150.0;
/// Connections that the provider takes; each is one more that never gets an answer.
const MOST: usize = 512;

const HUNG_NAME: &str = "the provider takes connections and never answers";

/// Takes connections and says nothing, until dropped.
struct Silent {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Silent {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut held: Vec<TcpStream> = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                if held.len() >= MOST {
                    held.clear();
                }
                held.push(stream);
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Seen = Arc<Mutex<Vec<Call>>>;

/// Calls a page again and again until dropped.
struct Visitors {
    seen: Seen,
    _tasks: JoinSet<()>,
}

impl Visitors {
    fn start(client: &ApiClient, path: &'static str) -> Self {
        let seen = Seen::default();
        let (calls, client) = (Arc::clone(&seen), client.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(api::every(SIGN_IN_EVERY, move || {
            let (calls, client, at) = (Arc::clone(&calls), client.clone(), process::now());
            tokio::spawn(async move {
                let answer = client.call(Method::GET, path, bytes::Bytes::new()).await.map(|_| Value::Null);
                calls.lock().unwrap_or_else(PoisonError::into_inner).push(Call::ended(at, None, answer));
            });
        }));
        Self { seen, _tasks: tasks }
    }

    /// Those that have come back.
    fn seen(&self) -> Vec<Call> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let silent = Silent::start().await?;
    let provider = json!({
        "title": "The third party", "issuer": format!("https://{}", silent.address), "client_id": "drill",
    });
    let _: Value = run.stage.api().put("/api/v1/oidc-providers/third", &provider).await?;
    let users: Value = run.stage.api().get("/api/v1/users").await?;
    let owner = users["items"][0]["id"].clone();
    let key: JoinKey =
        run.stage.key("late", json!({"kind": "device", "owner": owner, "cap": 1})).await?.parse()?;
    let url: ServerUrl = key.controller.parse()?;
    let (_, servers) = enrol::discover_trust(&url, &key.root).await?;
    let browser = ApiClient::https(url, servers, None);

    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.20).max(Duration::from_secs(6))).await?;
    run.enter(HUNG_NAME, Weather::Fault);
    let begun_s = run.elapsed_s();
    let at_the_provider = Visitors::start(&browser, "/signin/oidc/third");
    let at_the_page = Visitors::start(&browser, "/signin");
    run.go_on(run.part(0.30).max(Duration::from_secs(10))).await?;
    let states = run.stage.dir().join("late");
    std::fs::create_dir_all(&states)?;
    let enrolled = clients::enrol(&states, &[(key, 1)], 1).await;
    run.go_on(run.part(0.25).max(Duration::from_secs(5))).await?;
    let (tried, pages) = (at_the_provider.seen(), at_the_page.seen());
    drop((at_the_provider, at_the_page));

    run.enter("nobody tries any more", Weather::Fair);
    drop(silent);
    run.go_on(TOLD_WITHIN + Duration::from_secs(2)).await?;

    judge_clients(run);
    judge_reads_and_errors(run);
    judge_sign_ins(run, &tried, &pages);
    let text = enrolled.as_ref().map_or_else(|error| format!("{error:#}"), |_| "it did".to_owned());
    run.level("a device enrols with a key meanwhile", "it does", text, enrolled.is_ok());
    let writes = run.seen(|_| true).writes().into_iter().cloned().collect::<Vec<Call>>();
    let done = writes.iter().filter(|call| call.outcome == Ok(200)).count();
    let text = format!("{done} of {}", writes.len());
    run.level("writes of the API that are done", "all", text, done > 0 && done == writes.len());
    let most = |from_s: f64, to_s: f64| {
        let within = run.samples.iter().filter(|sample| (from_s..to_s).contains(&sample.at_s));
        within.filter_map(|sample| sample.values.get("controller_descriptors").copied()).fold(0.0, f64::max)
    };
    let (before, meanwhile) = (most(0.0, begun_s), most(begun_s, f64::INFINITY));
    let after = run.samples.last().and_then(|sample| sample.values.get("controller_descriptors").copied());
    let after = after.context("descriptors of the controller")?;
    let text = format!("{before:.0} before, at most {meanwhile:.0}, {after:.0} at the end");
    // Connections of the API come and go: some are open in any moment.
    let holds = meanwhile <= before + MORE_DESCRIPTORS && after <= before + 10.0;
    run.level("descriptors of the controller", "at most 150 more, and given back", text, holds);
    judge_ledger(run).await
}

fn judge_sign_ins(run: &mut Run<'_>, tried: &[Call], pages: &[Call]) {
    let mut wrong: BTreeMap<String, usize> = BTreeMap::new();
    for call in tried {
        if call.outcome != Ok(503) {
            let word = call.outcome.as_ref().map_or_else(Clone::clone, ToString::to_string);
            *wrong.entry(word).or_default() += 1;
        }
    }
    let slowest = tried.iter().map(|call| call.ms).max().unwrap_or_default();
    let text =
        format!("{} told, slowest {:.1} s{}", tried.len(), f64::from(slowest) / 1_000.0, because(&wrong));
    let told = Duration::from_millis(u64::from(slowest)) <= TOLD_WITHIN;
    run.level(
        "new sign-ins at that provider are told so: 503, never 500 or 502",
        "all, within 12 s",
        text,
        !tried.is_empty() && wrong.is_empty() && told,
    );
    let good = pages.iter().filter(|call| call.outcome == Ok(200)).count();
    let p99 = api::Spread::of(pages).map(|spread| spread.p99_ms);
    let text = format!("{good} of {}, p99 {} ms", pages.len(), p99.unwrap_or_default());
    let holds = good > 0 && good == pages.len() && p99.is_some_and(|p99| p99 <= PAGE_WITHIN_MS);
    run.level("the page with the other ways of signing in", "all, p99 ≤ 1 s", text, holds);
}
