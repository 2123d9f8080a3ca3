//! What is true of a server alone.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures how long it waited"
)]

mod fixture;

use fixture::*;
use std::time::{Duration, Instant};
use store::*;
use wire::*;

fn name_of(f: &Fixture) -> &str {
    let Place::Postgres(name) = &f.place else { panic!("no server") };
    name
}

fn location(text: &str) -> PostgresUrl {
    text.parse().unwrap()
}

/// A server that a test may freeze and kill without disturbing the others.
fn own_cluster() -> (pgscratch::Cluster, PostgresUrl) {
    let cluster = pgscratch::Cluster::start().unwrap();
    let url = location(&cluster.database("own").unwrap());
    (cluster, url)
}

async fn bootstrapped(url: PostgresUrl) -> Store {
    let store = Store::open(url, Opening::CreateIfMissing).await.unwrap();
    let installation = Installation {
        id: InstallationId::from_bytes([9; 16]),
        version: Version { incarnation: 1, version: 1 },
        created_ms: NOW,
    };
    store.bootstrap(&installation, &organization(1, "default"), "test").await.unwrap();
    store
}

fn reason<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result.unwrap_err() {
        StoreError::Unavailable(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_transaction_bound_to_one_organization_sees_and_changes_no_row_of_another_whatever_it_asks() {
    let f = Fixture::postgres().await.furnished().await;
    let other = organization(2, "other");
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.insert_organization(&other).await.unwrap();
    change.commit("create organization", "other", "{}").await.unwrap();
    // As the store's own role, with its own password, past the store: what the server itself keeps apart.
    let tables = CLUSTER
        .sql(
            name_of(&f),
            "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'public' AND \
             (column_name = 'organization' OR table_name IN ('organizations', 'policy_groups', 'policy_resources')) \
             ORDER BY 1",
        )
        .unwrap();
    let tables: Vec<&str> = tables.lines().collect();
    assert!(tables.len() >= 15 && tables.contains(&"audit"), "{tables:?}");
    let seen = async |bound: Option<&str>, table: &str| -> i64 {
        use sqlx::Row as _;
        let mut raw =
            <sqlx::PgConnection as sqlx::Connection>::connect(&CLUSTER.url(name_of(&f))).await.unwrap();
        if let Some(bound) = bound {
            let set =
                sqlx::query("SELECT set_config('tidegate.organization', $1, false)").bind(bound.to_owned());
            set.execute(&mut raw).await.unwrap();
        }
        let sql = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) AS n FROM {table}"));
        sqlx::query(sql).fetch_one(&mut raw).await.unwrap().try_get("n").unwrap()
    };
    let (ours, theirs) = (f.organization.to_string(), other.id.to_string());
    for table in tables {
        let (all, of_ours) = (seen(Some("*"), table).await, seen(Some(&ours), table).await);
        let (of_theirs, of_nobody) = (seen(Some(&theirs), table).await, seen(None, table).await);
        assert_eq!(of_nobody, 0, "{table}: nothing is set, nothing is seen");
        // Its own row, and the note of the change that made it.
        let own = i64::from(matches!(table, "organizations" | "touched_rows"));
        assert!(of_theirs <= own, "{table}: {of_theirs} rows of another");
        assert!(of_ours <= all, "{table}");
        if ["sites", "users", "devices", "policy_groups", "policy_resources", "enrolment_keys"]
            .contains(&table)
        {
            assert!(of_ours > 0, "{table}: its own rows are seen");
        }
    }
    // Through the store: a change of one organization that writes a row of another is refused by the server, too.
    let mut raw = <sqlx::PgConnection as sqlx::Connection>::connect(&CLUSTER.url(name_of(&f))).await.unwrap();
    let set = sqlx::query("SELECT set_config('tidegate.organization', $1, false)").bind(theirs.clone());
    set.execute(&mut raw).await.unwrap();
    let insert = sqlx::query(
        "INSERT INTO user_groups (id, organization, name, created_ms) VALUES ('grp-x', $1, 'x', 1)",
    );
    let refused = insert.bind(ours.clone()).execute(&mut raw).await.unwrap_err().to_string();
    assert!(refused.contains("row-level security"), "{refused}");
    let moved =
        sqlx::query("UPDATE sites SET organization = $1").bind(theirs).execute(&mut raw).await.unwrap();
    assert_eq!(moved.rows_affected(), 0);
    let deleted = sqlx::query("DELETE FROM devices").execute(&mut raw).await.unwrap();
    assert_eq!(deleted.rows_affected(), 0);
}

#[tokio::test]
async fn every_table_with_rows_of_organizations_is_under_the_rule_also_for_its_owner() {
    let f = Fixture::postgres().await;
    let bare = CLUSTER
        .sql(
            name_of(&f),
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname NOT IN \
             ('_sqlx_migrations', 'installation', 'pops', 'administrators', 'one_time_links', 'trust_documents', \
             'struck_generations') AND NOT (relrowsecurity AND relforcerowsecurity)",
        )
        .unwrap();
    assert_eq!(bare, "", "tables without a rule; a table of organizations needs the column organization");
    let unordered = CLUSTER
        .sql(
            name_of(&f),
            "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public' AND \
             data_type = 'text' AND collation_name IS DISTINCT FROM 'C' AND table_name <> '_sqlx_migrations'",
        )
        .unwrap();
    assert_eq!(unordered, "", "text columns that are not in byte order");
}

#[tokio::test]
async fn a_server_that_is_frozen_is_said_within_the_deadline_and_works_again_when_it_goes_on() {
    let (cluster, url) = own_cluster();
    let store = bootstrapped(url.clone()).await;
    let scope = Scope::Organization(OrganizationId::from_bytes([1; 16]));
    cluster.freeze();
    let started = Instant::now();
    let why = reason(store.change(scope, "test", NOW).await.map(|_| ()));
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert!(why.contains("127.0.0.1") && why.contains("no answer"), "{why}");
    // A new connection is taken by the machine and never answered: the step is named.
    let started = Instant::now();
    let why = reason(Store::open(url, Opening::MustExist).await);
    assert!(started.elapsed() < Duration::from_millis(2000), "{:?}", started.elapsed());
    assert!(why.contains("signing in") && why.contains("frozen"), "{why}");
    // As often as asked: no place of the pool is lost to a connection that never answers.
    for _ in 0..6 {
        let why = reason(store.change(scope, "test", NOW).await.map(|_| ()));
        assert!(!why.contains("no connection was free"), "{why}");
    }
    cluster.thaw();
    let mut change = store.change(scope, "test", NOW).await.unwrap();
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    change.commit("create", "site", "{}").await.unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().organizations[0].sites.len(), 1);
}

#[tokio::test]
async fn a_commit_that_is_not_answered_has_an_unknown_outcome_and_reading_tells() {
    let (cluster, url) = own_cluster();
    let store = bootstrapped(url).await;
    let scope = Scope::Organization(OrganizationId::from_bytes([1; 16]));
    let mut change = store.change(scope, "test", NOW).await.unwrap();
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    // The audit row's statement would find out; the commit itself is what is asked for here.
    let committing = tokio::spawn(change.commit("create", "site", "{}"));
    cluster.freeze();
    let outcome = committing.await.unwrap();
    cluster.thaw();
    let deadline = Instant::now() + Duration::from_secs(10);
    let stored = loop {
        match store.load().await {
            Ok(dataset) => break dataset.unwrap().organizations[0].sites.len() == 1,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    match outcome {
        Ok(_) => assert!(stored, "what was acknowledged is there"),
        Err(StoreError::OutcomeUnknown(_)) => {}
        Err(StoreError::Unavailable(_)) => {
            assert!(!stored, "what was refused before its commit is not there")
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_used_again_without_an_error() {
    let (cluster, url) = own_cluster();
    let store = bootstrapped(url.clone()).await;
    let scope = Scope::Organization(OrganizationId::from_bytes([1; 16]));
    store.load().await.unwrap();
    cluster.kill();
    let why = reason(store.change(scope, "test", NOW).await.map(|_| ()));
    assert!(why.contains("connecting: refused"), "{why}");
    cluster.resume().unwrap();
    store.change(scope, "test", NOW).await.unwrap().commit("nothing", "nothing", "{}").await.unwrap();
    // The kept connections are all dead now, and nobody hears of it.
    store.load().await.unwrap();
    cluster.kill();
    cluster.resume().unwrap();
    store.load().await.unwrap();
    store.change(scope, "test", NOW).await.unwrap().commit("nothing", "nothing", "{}").await.unwrap();
}

#[tokio::test]
async fn of_several_servers_the_one_that_takes_writes_is_used_and_the_others_are_explained() {
    let (cluster, url) = own_cluster();
    drop(bootstrapped(url).await);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let several = |parameters: &str| {
        let single = cluster.url("own");
        let (before, database) = single.rsplit_once('/').unwrap();
        location(&format!("{before},127.0.0.1:{dead}/{database}{parameters}"))
    };
    let store = Store::open(several(""), Opening::MustExist).await.unwrap();
    assert!(store.load().await.unwrap().is_some());
    cluster.sql("own", "ALTER DATABASE own SET default_transaction_read_only = on").unwrap();
    let why = reason(Store::open(several(""), Opening::MustExist).await);
    assert!(
        why.contains("takes no writes") && why.contains("refused") && why.contains("none of the 2"),
        "{why}"
    );
}

#[tokio::test]
async fn a_connection_string_that_does_not_work_says_which_host_which_step_and_what_to_check() {
    let (cluster, url) = own_cluster();
    drop(bootstrapped(url).await);
    let port = cluster.port();
    let cases = [
        (format!("postgres://tidegate:wrong@127.0.0.1:{port}/own"), vec!["signing in", "check the password"]),
        (format!("postgres://nobody:x@127.0.0.1:{port}/own"), vec!["signing in", "check"]),
        (cluster.url("missing"), vec!["signing in", "CREATE DATABASE"]),
        (format!("{}?sslmode=verify-full", cluster.url("own")), vec!["TLS", "sslmode"]),
        ("postgres://t@nowhere.invalid/own".into(), vec!["nowhere.invalid:5432", "resolving"]),
        ("postgres://t@127.0.0.1:1/own".into(), vec!["127.0.0.1:1", "connecting: refused", "listen"]),
        ("postgres:///own?host=/nonexistent".into(), vec!["/nonexistent/.s.PGSQL.5432", "connecting"]),
    ];
    for (text, expected) in cases {
        let why = reason(Store::open(location(&text), Opening::MustExist).await);
        for part in expected {
            assert!(why.contains(part), "{text}: {why:?} does not say {part:?}");
        }
        assert!(why.contains(" ms"), "{text}: how long? {why}");
        assert!(!why.contains("scratch-password") && !why.contains("wrong"), "{why}");
    }
    let empty = location(&cluster.database("empty").unwrap());
    assert!(matches!(Store::open(empty, Opening::MustExist).await, Err(StoreError::Missing(_))));
}

#[tokio::test]
async fn what_the_server_counts_is_o_of_changes_and_idling_costs_none() {
    let settings = pgscratch::Settings {
        server: vec!["shared_preload_libraries=pg_stat_statements".into()],
        ..pgscratch::Settings::default()
    };
    let cluster = pgscratch::Cluster::start_with(settings).unwrap();
    let url = location(&cluster.database("own").unwrap());
    cluster.sql("own", "CREATE EXTENSION pg_stat_statements").unwrap();
    let store = bootstrapped(url).await;
    let counted = || {
        let sql = "SELECT COALESCE(SUM(calls), 0) || ' ' || COALESCE(SUM(rows) FILTER (WHERE query !~* '^select'), 0) \
                   FROM pg_stat_statements JOIN pg_roles ON pg_roles.oid = userid WHERE rolname = 'tidegate'";
        let text = cluster.sql("own", sql).unwrap();
        let (calls, rows) = text.split_once(' ').unwrap();
        (calls.parse::<u64>().unwrap(), rows.parse::<u64>().unwrap())
    };
    let change = async |seed: u8| {
        let scope = Scope::Organization(OrganizationId::from_bytes([1; 16]));
        let mut change = store.change(scope, "test", NOW).await.unwrap();
        change.insert_site(&site(seed, &format!("site {seed}"))).await.unwrap();
        change.commit("create", "site", "{}").await.unwrap();
    };
    change(1).await;
    let (before, own_before) = (counted(), store.database_counters());
    for seed in 2..12 {
        change(seed).await;
    }
    let (after, own_after) = (counted(), store.database_counters());
    // BEGIN, the binding, version row, site, the audit log's end, audit row, the end's hash, what was touched, COMMIT; six
    // rows.
    assert_eq!((after.0 - before.0, after.1 - before.1), (90, 60));
    // What we count is what the driver sends: the binding travels with BEGIN.
    assert_eq!(own_after.statements - own_before.statements, 80);
    assert_eq!(own_after.rows_written - own_before.rows_written, 60);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(counted(), after, "idling costs nothing");
}

#[tokio::test]
async fn a_change_whose_program_went_away_gives_the_lock_back() {
    let f = Fixture::postgres().await;
    let other = f.other().await;
    let scope = Scope::Organization(f.organization);
    let held = other.change(scope, "other", NOW).await.unwrap();
    // As a process that is killed: nobody says rollback, the connection is just gone.
    std::mem::forget(held);
    let refused = f.store.change(scope, "test", NOW).await;
    assert!(refused.err().is_some_and(|error| error.is_unavailable()), "held");
    let deadline = Instant::now() + Duration::from_secs(15);
    while let Err(error) = f.store.change(scope, "test", NOW).await {
        assert!(Instant::now() < deadline, "idle_in_transaction_session_timeout takes it back: {error}");
    }
}

#[tokio::test]
async fn tls_is_spoken_where_the_url_asks_and_a_certificate_of_somebody_else_is_refused() {
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        (rcgen::Issuer::new(parameters, key), certificate.pem())
    };
    let (issuer, root) = authority("ours");
    let (_, stranger) = authority("somebody else's");
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    let settings =
        pgscratch::Settings { tls: Some((server.pem(), key.serialize_pem())), ..Default::default() };
    let cluster = pgscratch::Cluster::start_with(settings).unwrap();
    cluster.database("own").unwrap();
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (root, stranger) = (write("root.pem", &root), write("stranger.pem", &stranger));
    let url = |parameters: &str| location(&format!("{}?{parameters}", cluster.url("own")));
    let encrypted = || {
        let sql = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'tidegate'";
        cluster.sql("own", sql).unwrap()
    };
    let store = bootstrapped(url(&format!("sslmode=verify-full&sslrootcert={root}"))).await;
    assert_eq!(encrypted(), "t");
    store.close().await;
    let store = Store::open(url("sslmode=disable"), Opening::MustExist).await.unwrap();
    assert_eq!(encrypted(), "f");
    store.close().await;
    for parameters in [format!("sslmode=verify-full&sslrootcert={stranger}"), "sslmode=verify-full".into()] {
        let why = reason(Store::open(url(&parameters), Opening::MustExist).await);
        assert!(why.contains("TLS") && why.contains("sslrootcert"), "{why}");
    }
    // Another name than the certificate's: the authority alone does not do.
    let elsewhere = cluster.url("own").replace("127.0.0.1", "localhost");
    let why = reason(
        Store::open(
            location(&format!("{elsewhere}?sslmode=verify-full&sslrootcert={root}")),
            Opening::MustExist,
        )
        .await,
    );
    assert!(why.contains("TLS"), "{why}");
    Store::open(location(&format!("{elsewhere}?sslmode=verify-ca&sslrootcert={root}")), Opening::MustExist)
        .await
        .unwrap();
}

#[tokio::test]
async fn who_listens_is_told_of_each_change_of_another_and_only_of_its_own_database() {
    let f = Fixture::postgres().await;
    let stranger = Fixture::postgres().await;
    let other = f.other().await;
    let mut hints = f.store.hints().await.unwrap();
    let scope = Scope::Organization(f.organization);
    let nothing =
        stranger.store.change(Scope::Organization(stranger.organization), "test", NOW).await.unwrap();
    nothing.commit("nothing", "nothing", "{}").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), hints.next()).await.is_err());
    for _ in 0..3 {
        let change = other.change(scope, "test", NOW).await.unwrap();
        change.commit("nothing", "nothing", "{}").await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), hints.next()).await.unwrap().unwrap();
    }
    // What was taken back is not told.
    drop(other.change(scope, "test", NOW).await.unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(300), hints.next()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_is_not_kept_back_by_reads_and_changes_that_wait_and_a_listener_says_that_its_server_ended() {
    let (cluster, url) = own_cluster();
    let store = bootstrapped(url).await;
    let mut hints = store.hints().await.unwrap();
    let before = store.look().await.unwrap().unwrap();
    let held = store.change(Scope::Installation, "test", NOW).await.unwrap();
    let wait = || {
        let store = store.clone();
        tokio::spawn(async move { store.change(Scope::Installation, "test", NOW).await.is_err() })
    };
    let mut waiting: Vec<_> = (0..6).map(|_| wait()).collect();
    let queued = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted";
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.sql("own", queued).unwrap() == "0" {
        assert!(Instant::now() < deadline, "no change waits for the one that is held");
        // Those before may have waited in vain while psql was on its way.
        waiting.push(wait());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = Instant::now();
    assert_eq!(store.look().await.unwrap().unwrap(), before);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    for waiting in waiting {
        assert!(waiting.await.unwrap());
    }
    drop(held);
    cluster.freeze();
    let started = Instant::now();
    assert!(reason(store.look().await).contains("no answer"));
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    cluster.thaw();
    cluster.kill();
    assert!(tokio::time::timeout(Duration::from_secs(5), hints.next()).await.unwrap().is_err());
    cluster.resume().unwrap();
    assert_eq!(store.look().await.unwrap().unwrap(), before);
    store.hints().await.unwrap();
}
