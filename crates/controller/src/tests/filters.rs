//! What each list of the document is narrowed and sorted by means what it says. What is expected is written by hand; a
//! filter, a word of a filter or a sort of the document that has no row here fails.

use super::filled::Filled;
use crate::openapi_json;
use serde_json::Value;
use std::collections::BTreeSet;

/// Every object of each list, in its order when nobody says.
const ALL: &[(&str, &[&str])] = &[
    ("/sites", &["bremen", "Kiel", "Aachen"]),
    ("/connectors", &["beta", "Gamma", "alpha"]),
    ("/pops", &["pop-b", "Pop-c", "pop-a"]),
    ("/resources", &["billing", "Crm", "archive"]),
    ("/groups", &["builders", "Curators", "admins"]),
    ("/groups/{builders}/members", &["robot", "backup", "Bea", "Eve"]),
    ("/users", &["Bea", "Cyd", "ada", "Eve", "dan", "Fay"]),
    ("/service-accounts", &["robot", "Scraper", "backup"]),
    ("/service-accounts/{robot}/keys", &["key-e", "Key-f", "key-d"]),
    ("/devices", &["dev-b", "Dev-c", "dev-a", "dev-e", "Dev-d"]),
    ("/policies", &["pol-b", "Pol-c", "pol-a"]),
    ("/enrolment-keys", &["key-b", "Key-c", "key-a", "key-e", "Key-f", "key-d"]),
    ("/tokens", &["tok-b", "Tok-c", "tok-a"]),
    ("/organizations", &["org-c", "Acme", "default"]),
    ("/sessions", &["beta", "Gamma", "dev-b", "Dev-c"]),
    ("/strikes", &["tok-b", "Dev-d", "Scraper"]),
];

/// List, filter, what it is given, and what it leaves.
const FILTERS: &[(&str, &str, &str, &[&str])] = &[
    ("/sites", "name", "Kiel", &["Kiel"]),
    ("/sites", "region", "us", &["bremen", "Kiel"]),
    ("/sites", "region", "eu", &["bremen"]),
    ("/sites", "q", "AACH", &["Aachen"]),
    ("/sites", "q", "10.2.", &["Kiel"]),
    ("/sites", "q", "{bremen}", &["bremen"]),
    ("/connectors", "name", "beta", &["beta"]),
    ("/connectors", "site", "{bremen}", &["beta", "alpha"]),
    ("/connectors", "q", "gam", &["Gamma"]),
    ("/connectors", "q", "{alpha}", &["alpha"]),
    ("/pops", "name", "Pop-c", &["Pop-c"]),
    ("/pops", "region", "asia", &["Pop-c"]),
    ("/pops", "zone", "a", &["pop-b", "pop-a"]),
    ("/pops", "q", "2.POPS", &["Pop-c"]),
    ("/pops", "q", "pop-a", &["pop-a"]),
    ("/resources", "name", "archive", &["archive"]),
    ("/resources", "alias", "people", &["Crm"]),
    ("/resources", "site", "{bremen}", &["billing", "archive"]),
    ("/resources", "group", "{builders}", &["billing", "Crm"]),
    ("/resources", "group", "{admins}", &["billing", "archive"]),
    ("/resources", "mode", "strict", &["Crm"]),
    ("/resources", "mode", "standard", &["billing", "archive"]),
    ("/resources", "q", "MONEY", &["billing"]),
    ("/resources", "q", "0.30", &["archive"]),
    ("/groups", "name", "admins", &["admins"]),
    ("/groups", "member", "{Eve}", &["builders"]),
    ("/groups", "member", "{Scraper}", &["Curators"]),
    ("/groups", "q", "min", &["admins"]),
    ("/groups/{builders}/members", "kind", "user", &["Bea", "Eve"]),
    ("/groups/{builders}/members", "kind", "service_account", &["robot", "backup"]),
    ("/groups/{builders}/members", "q", "b", &["robot", "backup", "Bea"]),
    ("/groups/{builders}/members", "q", "{Eve}", &["Eve"]),
    ("/users", "name", "ada", &["ada"]),
    ("/users", "email", "Q@Example.com", &["dan"]),
    ("/users", "group", "{builders}", &["Bea", "Eve"]),
    ("/users", "role", "owner", &["ada"]),
    ("/users", "role", "admin", &["Cyd"]),
    ("/users", "role", "network_admin", &["Fay"]),
    ("/users", "role", "support", &["dan"]),
    ("/users", "role", "auditor", &["Bea"]),
    ("/users", "role", "member", &["Eve"]),
    ("/users", "q", "b@", &["Eve"]),
    ("/users", "q", "d", &["Cyd", "ada", "dan"]),
    ("/service-accounts", "name", "Scraper", &["Scraper"]),
    ("/service-accounts", "group", "{builders}", &["robot", "backup"]),
    ("/service-accounts", "q", "SCR", &["Scraper"]),
    ("/service-accounts/{robot}/keys", "name", "key-e", &["key-e"]),
    // All of them are for its devices, and for nobody else's.
    ("/service-accounts/{robot}/keys", "kind", "device", &["key-e", "Key-f", "key-d"]),
    ("/service-accounts/{robot}/keys", "kind", "connector", &[]),
    ("/service-accounts/{robot}/keys", "kind", "pop", &[]),
    ("/service-accounts/{robot}/keys", "site", "{bremen}", &[]),
    ("/service-accounts/{robot}/keys", "owner", "{robot}", &["key-e", "Key-f", "key-d"]),
    ("/service-accounts/{robot}/keys", "owner", "{Bea}", &[]),
    ("/service-accounts/{robot}/keys", "q", "y-f", &["Key-f"]),
    ("/devices", "name", "dev-a", &["dev-a"]),
    ("/devices", "owner", "{Bea}", &["Dev-c", "dev-e"]),
    ("/devices", "owner", "{robot}", &["dev-b"]),
    ("/devices", "group", "{builders}", &["dev-b", "Dev-c", "dev-e", "Dev-d"]),
    ("/devices", "group", "{Curators}", &["dev-a"]),
    ("/devices", "state", "pending", &["dev-b"]),
    ("/devices", "state", "active", &["Dev-c"]),
    // By its row, and by a strike.
    ("/devices", "state", "blocked", &["dev-a", "Dev-d"]),
    ("/devices", "state", "archived", &["dev-e"]),
    ("/devices", "q", "BEA", &["Dev-c", "dev-e"]),
    ("/policies", "name", "pol-a", &["pol-a"]),
    ("/policies", "group", "{builders}", &["pol-b", "Pol-c"]),
    ("/policies", "resource", "{billing}", &["pol-b", "pol-a"]),
    ("/policies", "q", "L-C", &["Pol-c"]),
    ("/enrolment-keys", "name", "key-a", &["key-a"]),
    ("/enrolment-keys", "kind", "pop", &["key-a"]),
    ("/enrolment-keys", "kind", "connector", &["key-b"]),
    ("/enrolment-keys", "kind", "device", &["Key-c", "key-e", "Key-f", "key-d"]),
    ("/enrolment-keys", "site", "{bremen}", &["key-b"]),
    ("/enrolment-keys", "owner", "{Bea}", &["Key-c"]),
    ("/enrolment-keys", "q", "{key-a}", &["key-a"]),
    ("/tokens", "name", "tok-a", &["tok-a"]),
    ("/tokens", "q", "K-C", &["Tok-c"]),
    ("/organizations", "name", "Acme", &["Acme"]),
    ("/organizations", "closed", "true", &["Old"]),
    ("/organizations", "closed", "false", &["org-c", "Acme", "default"]),
    ("/organizations", "q", "acm", &["Acme"]),
    ("/sessions", "kind", "device", &["dev-b", "Dev-c"]),
    ("/sessions", "kind", "connector", &["beta", "Gamma"]),
    ("/sessions", "pop", "{pop-b}", &["beta", "Dev-c"]),
    ("/sessions", "owner", "{Bea}", &["Dev-c"]),
    ("/sessions", "site", "{Kiel}", &["Gamma"]),
    ("/sessions", "q", "ROBOT", &["dev-b"]),
    ("/strikes", "subject", "{Dev-d}", &["Dev-d"]),
    ("/strikes", "q", "{Scraper}", &["Scraper"]),
];

/// List, sort, and the ascending order: none is that of the ids, nor the other way round of it.
const SORTS: &[(&str, &str, &[&str])] = &[
    ("/sites", "name", &["Aachen", "bremen", "Kiel"]),
    ("/sites", "created", &["bremen", "Aachen", "Kiel"]),
    ("/connectors", "name", &["alpha", "beta", "Gamma"]),
    ("/connectors", "created", &["beta", "alpha", "Gamma"]),
    ("/pops", "name", &["pop-a", "pop-b", "Pop-c"]),
    ("/pops", "region", &["Pop-c", "pop-b", "pop-a"]),
    ("/pops", "created", &["pop-b", "pop-a", "Pop-c"]),
    ("/resources", "name", &["archive", "billing", "Crm"]),
    ("/resources", "address", &["Crm", "billing", "archive"]),
    ("/resources", "created", &["billing", "archive", "Crm"]),
    ("/groups", "name", &["admins", "builders", "Curators"]),
    ("/groups", "created", &["builders", "admins", "Curators"]),
    ("/groups/{builders}/members", "name", &["backup", "Bea", "Eve", "robot"]),
    ("/users", "name", &["ada", "Bea", "Cyd", "dan", "Eve", "Fay"]),
    ("/users", "email", &["Fay", "Eve", "Cyd", "Bea", "dan", "ada"]),
    ("/users", "created", &["Cyd", "Eve", "Fay", "Bea", "dan", "ada"]),
    ("/service-accounts", "name", &["backup", "robot", "Scraper"]),
    ("/service-accounts", "created", &["robot", "backup", "Scraper"]),
    ("/service-accounts/{robot}/keys", "name", &["key-d", "key-e", "Key-f"]),
    ("/service-accounts/{robot}/keys", "expires", &["key-e", "key-d", "Key-f"]),
    ("/service-accounts/{robot}/keys", "created", &["Key-f", "key-d", "key-e"]),
    ("/devices", "name", &["dev-a", "dev-b", "Dev-c", "Dev-d", "dev-e"]),
    // Bea's, Cyd's, Eve's, robot's; of one owner by id.
    ("/devices", "owner", &["Dev-c", "dev-e", "dev-a", "Dev-d", "dev-b"]),
    ("/devices", "created", &["Dev-c", "dev-e", "Dev-d", "dev-b", "dev-a"]),
    ("/policies", "name", &["pol-a", "pol-b", "Pol-c"]),
    ("/policies", "created", &["pol-b", "pol-a", "Pol-c"]),
    ("/enrolment-keys", "name", &["key-a", "key-b", "Key-c", "key-d", "key-e", "Key-f"]),
    ("/enrolment-keys", "expires", &["Key-c", "key-e", "key-b", "key-d", "key-a", "Key-f"]),
    ("/enrolment-keys", "created", &["key-b", "Key-f", "key-a", "key-d", "key-e", "Key-c"]),
    ("/tokens", "name", &["tok-a", "tok-b", "Tok-c"]),
    ("/tokens", "expires", &["Tok-c", "tok-b", "tok-a"]),
    ("/tokens", "created", &["tok-b", "tok-a", "Tok-c"]),
    ("/organizations", "name", &["Acme", "default", "org-c"]),
    ("/organizations", "created", &["default", "org-c", "Acme"]),
    ("/sessions", "name", &["beta", "dev-b", "Dev-c", "Gamma"]),
    // 0, 120, 123 and 1000 ms after a whole second.
    ("/sessions", "since", &["Gamma", "Dev-c", "beta", "dev-b"]),
    ("/strikes", "at", &["Dev-d", "Scraper", "tok-b"]),
];

/// A list as the document has it.
struct Documented {
    path: String,
    /// Ascending, without `id`.
    sorts: Vec<String>,
    /// Names, and the words that may be given where these are few.
    filters: Vec<(String, Vec<String>)>,
}

fn texts(values: &Value) -> Vec<String> {
    let values = values.as_array().into_iter().flatten();
    values.map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// What can be sorted is a list of this kind; the logs are another.
fn documented() -> Vec<Documented> {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut lists = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(parameters) = item["get"]["parameters"].as_array() else { continue };
        let of_query: Vec<_> = parameters.iter().filter(|parameter| parameter["in"] == "query").collect();
        let Some(sort) = of_query.iter().find(|parameter| parameter["name"] == "sort") else { continue };
        let sorts = texts(&sort["schema"]["enum"]);
        let sorts = sorts.into_iter().filter(|sort| sort != "id" && !sort.starts_with('-')).collect();
        let filters = of_query.iter().map(|parameter| {
            (parameter["name"].as_str().unwrap().to_owned(), texts(&parameter["schema"]["enum"]))
        });
        let filters =
            filters.filter(|(name, _)| !["limit", "after", "sort"].contains(&name.as_str())).collect();
        lists.push(Documented { path: path.strip_prefix("/api/v1").unwrap().to_owned(), sorts, filters });
    }
    lists
}

/// The path of the document that a path of the tables is.
fn template(path: &str) -> String {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { "{id}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

fn all(path: &str) -> &'static [&'static str] {
    ALL.iter().find(|(of, _)| *of == path).unwrap_or_else(|| panic!("no order of {path} is known")).1
}

/// The names on a page, in its order.
fn names(filled: &Filled, path: &str, page: &Value) -> Vec<String> {
    let by = if path == "/strikes" { "subject" } else { "id" };
    let by = if path.ends_with("/members") { "member" } else { by };
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| filled.name(item[by].as_str().unwrap()).to_owned()).collect()
}

async fn listed(filled: &Filled, path: &str, query: &str) -> Vec<String> {
    let page = filled.world.get(&filled.with_ids(&format!("{path}?{query}"))).await.ok();
    assert!(page.get("next").is_none_or(Value::is_null), "{page}");
    names(filled, path, &page)
}

#[test]
fn every_filter_word_and_sort_of_the_document_has_a_row_that_can_fail() {
    let mut missing = Vec::new();
    let lists = documented();
    for Documented { path, sorts, filters } in &lists {
        let of = |row: &str| template(row) == *path;
        if !ALL.iter().any(|(row, _)| of(row)) {
            missing.push(path.clone());
            continue;
        }
        for sort in sorts {
            if !SORTS.iter().any(|(row, by, _)| of(row) && by == sort) {
                missing.push(format!("{path}?sort={sort}"));
            }
        }
        for (name, words) in filters {
            let rows: Vec<_> = FILTERS.iter().filter(|(row, by, ..)| of(row) && by == name).collect();
            for word in words.iter().filter(|word| !rows.iter().any(|row| row.2 == word.as_str())) {
                missing.push(format!("{path}?{name}={word}"));
            }
            // The list of one account's keys has such a filter that takes all or none.
            let takes = rows.iter().any(|row| !row.3.is_empty());
            let leaves = rows.iter().any(|row| all(row.0).iter().any(|object| !row.3.contains(object)));
            // No key of an account is for a site.
            let takes_nothing = (path.as_str(), name.as_str()) == ("/service-accounts/{id}/keys", "site");
            if !(takes || takes_nothing) || !leaves {
                missing.push(format!("{path}?{name}="));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(lists.len() >= ALL.len(), "{}", lists.len());
    for (path, sort, expected) in SORTS {
        let (mut own, mut turned) = (all(path).to_vec(), expected.to_vec());
        turned.reverse();
        assert!(own != *expected && own != turned, "{path}: by {sort} as by id");
        own.sort_unstable();
        turned.sort_unstable();
        assert_eq!(own, turned, "{path}: by {sort} are all of them");
    }
}

#[tokio::test]
async fn each_filter_takes_what_it_says_and_nothing_else() {
    let filled = Filled::new().await;
    for (path, expected) in ALL {
        assert_eq!(listed(&filled, path, "").await, *expected, "{path}");
    }
    for (path, filter, value, expected) in FILTERS {
        assert_eq!(
            listed(&filled, path, &format!("{filter}={value}")).await,
            *expected,
            "{path}?{filter}={value}"
        );
    }
    // Two take what both take.
    assert_eq!(listed(&filled, "/devices", "owner={Bea}&state=archived").await, ["dev-e"]);
    assert_eq!(listed(&filled, "/users", "group={builders}&q=eve").await, ["Eve"]);
}

#[tokio::test]
async fn each_sort_is_by_what_it_says_both_ways_and_its_pages_have_each_object_once() {
    let filled = Filled::new().await;
    let by_id = ALL.iter().map(|(path, objects)| (*path, "id", *objects));
    for (path, sort, expected) in SORTS.iter().copied().chain(by_id) {
        let mut turned = expected.to_vec();
        turned.reverse();
        for (sort, expected) in [(sort.to_owned(), expected.to_vec()), (format!("-{sort}"), turned)] {
            assert_eq!(listed(&filled, path, &format!("sort={sort}")).await, expected, "{path}?sort={sort}");
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let query = format!("{path}?sort={sort}&limit=1{after}");
                let page = filled.world.get(&filled.with_ids(&query)).await.ok();
                let found = names(&filled, path, &page);
                assert_eq!(found.len(), 1, "{query}");
                seen.extend(found);
                assert!(seen.len() <= expected.len(), "{path} by {sort}: {seen:?}");
                let Some(next) = page["next"].as_str() else { break };
                after = format!("&after={next}");
            }
            assert_eq!(seen, expected, "{path} by {sort}, one at a time");
        }
    }
    let paged: BTreeSet<_> = documented().into_iter().map(|list| list.path).collect();
    let sorted: BTreeSet<_> = ALL.iter().map(|(path, _)| template(path)).collect();
    assert_eq!(paged, sorted);
}
