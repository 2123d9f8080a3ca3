//! What forms do with what does not fit: too long, of another version, wrong, or sent to no page at all.

use super::{
    Reply, World,
    console::{cookies, form_token, get, owner, submit},
    stranger,
};
use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};
use store::{Account, OidcIdentity, Scope};

/// A field that a page carries for itself.
fn hidden(page: &Reply, name: &str) -> String {
    let rest = page.text.split_once(&format!("name=\"{name}\" value=\"")).expect("the field").1;
    rest.split('"').next().unwrap().replace("&quot;", "\"")
}

#[tokio::test]
async fn settings_that_somebody_else_changed_meanwhile_are_shown_beside_what_was_typed_before_they_are_replaced()
 {
    let world = World::new().await;
    let session = owner(&world).await;
    let page = get(&world, "/settings", &session).await;
    let (token, version) = (form_token(&page), hidden(&page, "version"));
    world.call(Method::PATCH, "/settings", Some(json!({"name": "Theirs & co"}))).await.ok();
    let fields = |version: &str| {
        [
            ("form_token", token.clone()),
            ("version", version.to_owned()),
            ("name", "Mine <b>".to_owned()),
            ("grant_life_seconds", "7200".to_owned()),
            ("renew_after_seconds", "60".to_owned()),
            ("sign_in_age_seconds", "900".to_owned()),
        ]
    };
    let save = async |version: &str| {
        let fields = fields(version);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        submit(&world, "/settings", &session, &fields).await
    };
    let late = save(&version).await;
    assert_eq!(late.status, 412, "{}", late.text);
    for shown in
        ["Somebody else saved first", "Theirs &amp; co", "value=\"Mine &lt;b&gt;\"", "value=\"7200\""]
    {
        assert!(late.text.contains(shown), "{shown}: {}", late.text);
    }
    assert_eq!(world.get("/settings").await.ok()["name"], "Theirs & co", "nothing was replaced yet");
    for none in ["", "W/\"x\""] {
        assert_eq!(save(none).await.status, 412, "{none}");
    }
    // Saved again from the page that showed both.
    let meant = save(&hidden(&late, "version")).await;
    assert_eq!(meant.status, 303, "{}", meant.text);
    let now = world.get("/settings").await.ok();
    assert_eq!((&now["name"], &now["grant_life_seconds"]), (&json!("Mine <b>"), &json!(7200)));
}

#[tokio::test]
async fn a_token_that_is_not_made_says_why_at_its_field_and_keeps_what_was_chosen() {
    let world = World::new().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/settings", &session).await);
    let nameless = [("form_token", token.as_str()), ("name", ""), ("scopes", "strike"), ("scopes", "enrol")];
    let refused = submit(&world, "/settings/tokens", &session, &nameless).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    for shown in [
        "id=\"token_name-error\"",
        "href=\"#token_name\"",
        "value=\"strike\" checked",
        "value=\"enrol\" checked",
        "action=\"/settings\"",
    ] {
        assert!(refused.text.contains(shown), "{shown}: {}", refused.text);
    }
    assert!(!refused.text.contains("value=\"read\" checked"));
    let nothing = [("form_token", token.as_str()), ("name", "nightly & co")];
    let refused = submit(&world, "/settings/tokens", &session, &nothing).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert!(
        refused.text.contains("id=\"scopes-error\"") && refused.text.contains("value=\"nightly &amp; co\""),
        "{}",
        refused.text
    );
    assert!(world.get("/tokens").await.ok()["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn approval_of_devices_and_how_long_logs_are_kept_are_set_where_the_rest_is_and_refused_at_their_fields()
 {
    let world = World::new().await;
    let session = owner(&world).await;
    let page = get(&world, "/settings", &session).await;
    assert!(page.text.contains("<option value=\"false\" selected>has access at once"), "{}", page.text);
    let token = form_token(&page);
    let save = async |version: &str, fields: &[(&str, &str)]| {
        let own = [("form_token", token.as_str()), ("version", version), ("name", "default")];
        submit(&world, "/settings", &session, &[&own[..], fields].concat()).await
    };
    let version = hidden(&page, "version");
    for (field, wrong, said) in [
        ("audit_retention_days", "3", "Expected: 7 to 36500; got “3”."),
        ("audit_retention_days", "a year", "Expected: a whole number of days; got “a year”."),
        ("flow_retention_days", "99999", "Expected: 1 to 36500; got “99999”."),
        ("approve_devices", "perhaps", "Expected: one of the two."),
    ] {
        let refused = save(&version, &[(field, wrong)]).await;
        assert_eq!(refused.status, 422, "{field}: {}", refused.text);
        for shown in [&format!("id=\"{field}-error\""), said, &format!("href=\"#{field}\"")] {
            assert!(refused.text.contains(shown), "{field}: {shown}: {}", refused.text);
        }
        let kept = field == "approve_devices" || refused.text.contains(&format!("value=\"{wrong}\""));
        assert!(kept, "{field}: {}", refused.text);
    }
    let right = [("approve_devices", "true"), ("audit_retention_days", "365"), ("flow_retention_days", "30")];
    assert_eq!(save(&version, &right).await.status, 303);
    let now = world.get("/settings").await.ok();
    assert_eq!(now["approve_devices"], json!(true));
    assert_eq!((&now["audit_retention_days"], &now["flow_retention_days"]), (&json!(365), &json!(30)));
    // Both versions are in words when somebody else was first.
    let late = save(&version, &[("approve_devices", "false")]).await;
    assert_eq!(late.status, 412);
    for shown in ["waits until somebody approves it</bdi>", "has access at once</bdi>"] {
        assert!(late.text.contains(shown), "{shown}: {}", late.text);
    }
}

#[tokio::test]
async fn a_token_is_made_with_a_role_or_with_scopes_and_lives_as_long_as_was_asked() {
    let world = World::new().await;
    let session = owner(&world).await;
    let page = get(&world, "/settings", &session).await;
    for scope in ["read", "write", "strike", "enrol", "admin", "installation"] {
        assert!(page.text.contains(&format!("name=\"scopes\" value=\"{scope}\"")), "{scope}");
    }
    let token = form_token(&page);
    let make = async |fields: &[(&str, &str)]| {
        let own = [("form_token", token.as_str())];
        submit(&world, "/settings/tokens", &session, &[&own[..], fields].concat()).await
    };
    let seconds = |made: &Value| {
        let at = |name: &str| made[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        at("expires").as_second() - at("created").as_second()
    };
    let made = make(&[
        ("name", "a"),
        ("role", "auditor"),
        ("scopes", "read"),
        ("life", "2"),
        ("life_unit", "hours"),
    ])
    .await;
    assert_eq!(made.status, 200, "{}", made.text);
    assert!(made.text.contains("It may: role auditor."), "{}", made.text);
    let made =
        make(&[("name", "b"), ("role", ""), ("scopes", "admin"), ("life", "365"), ("life_unit", "days")])
            .await;
    assert!(made.text.contains("It may: admin."), "{}", made.text);
    make(&[("name", "c"), ("scopes", "read")]).await;
    let all = world.get("/tokens?sort=created").await.ok();
    let of = |name: &str| all["items"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
    assert_eq!((&of("a")["role"], seconds(of("a"))), (&json!("auditor"), 7_200));
    assert_eq!((&of("b")["scopes"], seconds(of("b"))), (&json!(["admin"]), 31_536_000));
    assert_eq!(seconds(of("c")), 90 * 86_400);
    let listed = get(&world, "/settings", &session).await;
    assert!(listed.text.contains("role auditor"), "{}", listed.text);

    for (life, unit, said) in [
        ("366", "days", "Expected: 1 minute to 365 days."),
        ("0", "minutes", "Expected: 1 minute to 365 days."),
        ("99999999999999999999", "days", "Expected: a whole number"),
        ("a while", "hours", "Expected: a whole number; got “a while”."),
    ] {
        let fields =
            [("name", "d"), ("role", "support"), ("scopes", "enrol"), ("life", life), ("life_unit", unit)];
        let refused = make(&fields).await;
        assert_eq!(refused.status, 422, "{life}: {}", refused.text);
        for shown in [
            "id=\"token_life-error\"",
            said,
            "href=\"#token_life\"",
            "value=\"d\"",
            "<option value=\"support\" selected>",
            "value=\"enrol\" checked",
            &format!("value=\"{life}\""),
            &format!("<option value=\"{unit}\" selected>"),
        ] {
            assert!(refused.text.contains(shown), "{life}: {shown}: {}", refused.text);
        }
    }
    let nobody = make(&[("name", "e"), ("role", "emperor")]).await;
    assert_eq!(nobody.status, 422, "{}", nobody.text);
    assert!(nobody.text.contains("id=\"token_role-error\""), "{}", nobody.text);
}

#[tokio::test]
async fn whoever_makes_a_token_is_offered_no_more_than_they_may_do() {
    let world = World::new().await;
    let session = owner(&world).await;
    let users = world.get("/users").await.ok();
    let me = format!("/users/{}/role", users["items"][0]["id"].as_str().unwrap());
    world.call(Method::PUT, &me, Some(json!({"role": "admin"}))).await.ok();
    let page = get(&world, "/settings", &session).await;
    assert!(page.text.contains("name=\"scopes\" value=\"admin\""), "{}", page.text);
    assert!(!page.text.contains("name=\"scopes\" value=\"installation\""));
    assert!(page.text.contains("value=\"support\">what the role Support may"), "{}", page.text);
    assert!(!page.text.contains("value=\"owner\">"));
}

#[tokio::test]
async fn a_hundred_thousand_emoji_in_a_field_come_back_as_they_were_typed() {
    let world = World::new().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/sites/new", &session).await);
    for letter in ["\u{1f6f6}", "\u{5e9}", "x"] {
        let long = letter.repeat(100_000);
        let fields = [("form_token", token.as_str()), ("name", &long), ("prefixes", "10.0.0.0/8")];
        let refused = submit(&world, "/sites/new", &session, &fields).await;
        assert_eq!(refused.status, 422);
        assert!(refused.text.contains("id=\"name-error\"") && refused.text.contains(&long), "{letter}");
    }
}

#[tokio::test]
async fn a_form_that_is_too_long_is_answered_by_a_page() {
    let world = World::new().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/sites/new", &session).await);
    let long = "x".repeat(3 * 1024 * 1024);
    let fields = [("form_token", token.as_str()), ("name", &long)];
    let refused = submit(&world, "/sites/new", &session, &fields).await;
    assert_eq!(refused.status, 413);
    for shown in ["<h1", "This form is too long", "2048 kB", "Sign out"] {
        assert!(refused.text.contains(shown), "{shown}: {}", refused.text);
    }
    // Nobody who is signed in: less is taken, and less is shown.
    let refused = submit(&world, "/sites/new", "", &fields).await;
    assert_eq!(refused.status, 413);
    assert!(refused.text.contains("256 kB") && !refused.text.contains("Sign out"), "{}", refused.text);
    // Around sign-in.
    let page = get(&world, "/signin", "").await;
    let own = form_token(&page);
    let fields = [("name", long.as_str()), ("passphrase", "x"), ("form_token", own.as_str())];
    let account = [("passphrase", long.as_str()), ("again", "x"), ("form_token", token.as_str())];
    for (path, jar, fields) in [
        ("/signin", cookies(&page), fields),
        ("/account/passphrase", session.clone(), account),
        ("/device", session.clone(), account),
    ] {
        let refused = submit(&world, path, &jar, &fields).await;
        assert_eq!(refused.status, 413, "{path}");
        assert!(refused.text.contains("<h1>This form is too long</h1>"), "{path}: {}", refused.text);
        assert!(refused.headers.contains_key(header::CONTENT_SECURITY_POLICY), "{path}");
    }
}

#[tokio::test]
async fn a_form_around_sign_in_that_lacks_a_field_is_answered_by_a_page_and_the_script_in_words() {
    let world = World::new().await;
    let session = owner(&world).await;
    for path in ["/signin", "/account/passphrase", "/account/totp", "/device", "/signout"] {
        let refused = submit(&world, path, &session, &[("nothing", "x")]).await;
        assert_eq!(refused.status, 422, "{path}: {}", refused.text);
        assert!(refused.text.contains("<h1>This form is not whole</h1>"), "{path}: {}", refused.text);
    }
    for body in ["{}", "nonsense"] {
        let request = Request::post("/signin/passkey/options")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap();
        let refused = world.send(stranger(), request).await;
        assert!(refused.status.is_client_error(), "{}", refused.text);
        assert!(
            refused.json()["detail"].as_str().unwrap().contains("Open the page again"),
            "{}",
            refused.text
        );
    }
}

#[tokio::test]
async fn a_passphrase_that_will_not_do_is_refused_at_its_field() {
    let world = World::new().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/account", &session).await);
    for (first, second, field) in
        [("short", "short", "passphrase"), ("long enough for anybody", "and another", "again")]
    {
        let fields = [("form_token", token.as_str()), ("passphrase", first), ("again", second)];
        let refused = submit(&world, "/account/passphrase", &session, &fields).await;
        assert_eq!(refused.status, 422);
        assert!(refused.text.contains(&format!("id=\"{field}-error\"")), "{field}: {}", refused.text);
    }
}

#[tokio::test]
async fn an_address_that_nothing_has_is_a_page_for_a_browser_and_a_problem_for_a_script() {
    let world = World::new().await;
    let session = owner(&world).await;
    let ask = async |path: &str, accept: &str, cookies: &str| {
        let request = Request::get(path).header(header::ACCEPT, accept).header(header::COOKIE, cookies);
        world.send(stranger(), request.body(Body::empty()).unwrap()).await
    };
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = ask("/recources/%3Cb%3E", browser, &session).await;
    assert_eq!(page.status, 404);
    for shown in ["There is no such page", "/recources", "Main"] {
        assert!(page.text.contains(shown), "{shown}: {}", page.text);
    }
    assert!(page.headers.contains_key(header::CONTENT_SECURITY_POLICY));
    let out = ask("/recources", browser, "").await;
    assert_eq!(out.status, 404);
    assert!(out.text.contains("Sign in") && !out.text.contains("Overview"), "{}", out.text);
    for (path, accept) in [("/recources", "*/*"), ("/recources", ""), ("/api/v1/nothing", browser)] {
        assert_eq!(ask(path, accept, &session).await.problem(404)["status"], 404);
    }
}

#[tokio::test]
async fn a_token_is_removed_only_after_a_page_that_says_what_it_did() {
    let world = World::new().await;
    let session = owner(&world).await;
    let made =
        world.post("/tokens", json!({"name": "nightly & co", "scopes": ["read", "strike"]})).await.made();
    let id = made["description"]["id"].as_str().unwrap().to_owned();
    let place = format!("/settings/tokens/{id}/remove");
    let list = get(&world, "/settings", &session).await;
    assert!(
        list.text.contains(&format!("href=\"{place}\" aria-label=\"Remove the token nightly &amp; co\"")),
        "{}",
        list.text
    );
    assert!(!list.text.contains(&format!("action=\"{place}\"")), "not by one click: {}", list.text);
    let asked = get(&world, &place, &session).await;
    assert_eq!(asked.status, 200, "{}", asked.text);
    for shown in
        ["nightly &amp; co", "read, strike", "Every script that signs in with it is refused", "Keep it"]
    {
        assert!(asked.text.contains(shown), "{shown}: {}", asked.text);
    }
    let token = form_token(&asked);
    let removed = submit(&world, &place, &session, &[("form_token", &token)]).await;
    assert_eq!(removed.headers[header::LOCATION], "/settings?removed=1", "{}", removed.text);
    assert!(world.get("/tokens").await.ok()["items"].as_array().unwrap().is_empty());
    for late in [
        get(&world, &place, &session).await,
        submit(&world, &place, &session, &[("form_token", &token)]).await,
    ] {
        assert_eq!(late.status, 404);
        assert!(late.text.contains("There is no such token"), "{}", late.text);
    }
}

#[tokio::test]
async fn a_provider_is_removed_only_after_a_page_that_names_who_has_no_other_way_in() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let provider =
        json!({"title": "Corporate <b>", "issuer": "https://id.example.com", "client_id": "tidegate"});
    world.call(Method::PUT, "/oidc-providers/corp", Some(provider)).await;
    let users = world.get("/users").await.ok();
    let lena = users["items"].as_array().unwrap().iter().find(|user| user["role"] == "owner").unwrap();
    known(&world, "corp", &f.user, true).await;
    known(&world, "corp", lena["id"].as_str().unwrap(), false).await;
    let place = "/settings/providers/corp/remove";
    let list = get(&world, "/settings/providers", &session).await;
    assert!(
        list.text.contains(&format!("href=\"{place}\""))
            && !list.text.contains(&format!("action=\"{place}\""))
    );
    let asked = get(&world, place, &session).await;
    for shown in [
        "Corporate &lt;b&gt;",
        "2 people",
        "1 person: ",
        &format!("href=\"/people/{}\"", f.user),
        "Signing in”",
        "Keep it",
    ] {
        assert!(asked.text.contains(shown), "{shown}: {}", asked.text);
    }
    assert!(
        !asked.text.contains(&format!("/people/{}\"", lena["id"].as_str().unwrap())),
        "she has a passphrase"
    );
    let removed = submit(&world, place, &session, &[("form_token", &form_token(&asked))]).await;
    assert_eq!(removed.headers[header::LOCATION], "/settings/providers?removed=1", "{}", removed.text);
    assert_eq!(get(&world, place, &session).await.status, 404);
}

/// Somebody has signed in by a provider.
async fn known(world: &World, provider: &str, user: &str, is_new: bool) {
    let core = &world.controller.core;
    let store = core.database.store().unwrap();
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let now = crate::clock::wall().as_millis();
    let mut change = store.change(Scope::Organization(organization), "a test", now).await.unwrap();
    let id: wire::UserId = user.parse().unwrap();
    if is_new {
        let account = Account {
            id,
            sign_in_name: format!("{user}@example.com"),
            passphrase_hash: None,
            totp: None,
            recovery_codes: Vec::new(),
            sessions_from_ms: now,
            created_ms: now,
        };
        change.insert_account(&account).await.unwrap();
    }
    let identity = OidcIdentity { provider: provider.into(), subject: format!("sub of {user}"), account: id };
    change.insert_oidc_identity(&identity).await.unwrap();
    change.commit("sign in", user, "{}").await.unwrap();
    core.refresh(&store).await.unwrap();
}

#[tokio::test]
async fn an_address_that_only_takes_a_form_is_a_page_that_leads_to_it_and_says_what_it_takes() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let ask = async |method: Method, path: &str, accept: &str, cookies: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::ACCEPT, accept).header(header::COOKIE, cookies);
        world.send(stranger(), request.body(Body::empty()).unwrap()).await
    };
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (path, back) in [
        ("/keys/pop".to_owned(), "/pops".to_owned()),
        ("/keys/device".to_owned(), "/people".to_owned()),
        ("/settings/tokens".to_owned(), "/settings".to_owned()),
        ("/account/passphrase".to_owned(), "/account".to_owned()),
        ("/groups/members/add".to_owned(), "/people".to_owned()),
        (format!("/groups/{}/members/remove", f.group), format!("/groups/{}", f.group)),
        (format!("/people/{}/invite", f.user), format!("/people/{}", f.user)),
    ] {
        let page = ask(Method::GET, &path, browser, &session).await;
        assert_eq!(
            (page.status.as_u16(), &page.headers[header::ALLOW]),
            (405, &"POST".parse().unwrap()),
            "{path}"
        );
        for shown in
            ["There is nothing to look at here", "Nothing was done", &format!("href=\"{back}\""), "Main"]
        {
            assert!(page.text.contains(shown), "{path}: {shown}: {}", page.text);
        }
        assert!(page.headers.contains_key(header::CONTENT_SECURITY_POLICY), "{path}");
        assert_eq!(get(&world, &back, &session).await.status, 200, "{back}");
        let out = ask(Method::GET, &path, browser, "").await;
        assert_eq!((out.status.as_u16(), &out.headers[header::ALLOW]), (405, &"POST".parse().unwrap()));
        assert!(out.text.contains("Sign in") && !out.text.contains("Overview"), "{}", out.text);
        let script = ask(Method::GET, &path, "*/*", &session).await;
        assert_eq!(script.problem(405)["field"], "method");
        assert_eq!(script.headers[header::ALLOW], "POST");
    }
    let read = ask(Method::POST, "/topology", browser, &session).await;
    assert_eq!((read.status.as_u16(), &read.headers[header::ALLOW]), (405, &"GET,HEAD".parse().unwrap()));
    assert!(
        read.text.contains("This page takes no form") && read.text.contains("href=\"/topology\""),
        "{}",
        read.text
    );
}

#[tokio::test]
async fn proving_again_names_the_age_that_the_organization_set() {
    let world = World::new().await;
    let session = owner(&world).await;
    let again = async || get(&world, "/signin?again=1&next=/signed-in-again", &session).await.text;
    assert!(again().await.contains("not older than 15 minutes"));
    for (seconds, said) in [(90, "90 seconds"), (7_200, "2 hours"), (60, "1 minute")] {
        let set = json!({"sign_in_age_seconds": seconds});
        world.call(Method::PATCH, "/settings", Some(set)).await.ok();
        let shown = again().await;
        assert!(shown.contains(&format!("not older than {said}")), "{said}: {shown}");
    }
}

#[tokio::test]
async fn a_policy_is_for_the_group_that_is_called_so_to_the_letter_and_for_none_where_two_are_nearly() {
    let world = World::new().await;
    let session = owner(&world).await;
    let group = async |name: &str| world.post("/groups", json!({"name": name})).await.made()["id"].clone();
    let (upper, lower) = (group("OPS").await, group("ops").await);
    let token = form_token(&get(&world, "/policies/new", &session).await);
    for (typed, chosen, other) in [("ops", &lower, &upper), ("OPS", &upper, &lower)] {
        let fields = [("name", "p"), ("add_group", typed), ("form_token", &token)];
        let page = submit(&world, "/policies/new", &session, &fields).await.text;
        let has = |id: &Value| page.contains(&format!("name=\"groups\" value={id}"));
        assert!(has(chosen) && !has(other), "{typed}: {page}");
        // Enter in a field presses the form's first button.
        let form = page.split_once("aria-label=\"Policy\"").unwrap().1;
        let first = form.split_once("<button").unwrap().1;
        assert!(first.split('>').next().unwrap().contains("value=\"enter\""), "{first:.200}");
    }
    let fields = [("name", "p"), ("add_group", "Ops"), ("form_token", &token)];
    let page = submit(&world, "/policies/new", &session, &fields).await.text;
    assert!(page.contains("several that differ in upper and lower case"), "{page}");
}

#[tokio::test]
async fn an_error_says_which_of_many_entries_it_is_about_and_what_came() {
    let world = World::new().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/sites/new", &session).await);
    let fields = [
        ("form_token", token.as_str()),
        ("name", "Hamburg"),
        ("prefixes", "10.20.0.0/16\n10.21.0.0/99\n10.22.0.0/16"),
        ("regions", ""),
    ];
    let refused = submit(&world, "/sites/new", &session, &fields).await;
    assert_eq!(refused.status, 422);
    let said = refused.text.split_once("id=\"prefixes-error\"").expect("at its field").1;
    let said = said.split_once("</p>").unwrap().0;
    assert!(said.contains("Entry 2. Expected: ") && said.contains("got “10.21.0.0/99”"), "{said}");
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_says_so_at_the_field_and_keeps_the_others() {
    let world = World::new().await;
    world.furnish().await;
    let session = owner(&world).await;
    for (query, field) in [
        ("who=Nobody&to=orders", "who"),
        ("who=Ada&to=orders&on=70000", "on"),
        ("who=Ada&to=two+words&on=", "to"),
    ] {
        let page = get(&world, &format!("/why?{query}"), &session).await;
        assert_eq!(page.status, 200, "{query}");
        let input =
            page.text.split_once(&format!("<input class=\"input\" id=\"{field}\"")).expect("the field").1;
        let input = input.split_once('>').unwrap().0;
        assert!(input.contains("aria-invalid=\"true\""), "{query}: {input}");
        assert!(input.contains(&format!("aria-describedby=\"{field}-error\"")), "{query}: {input}");
        assert!(page.text.contains(&format!("id=\"{field}-error\"")), "{query}");
    }
}

#[tokio::test]
async fn a_service_account_is_renamed_by_a_form() {
    let world = World::new().await;
    let session = owner(&world).await;
    let account = world.post("/service-accounts", json!({"name": "ci"})).await.made();
    let place = format!("/service-accounts/{}", account["id"].as_str().unwrap());
    let page = get(&world, &format!("{place}/edit"), &session).await;
    let fields = [
        ("form_token", form_token(&page)),
        ("version", hidden(&page, "version")),
        ("name", "builder".to_owned()),
    ];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    let done = submit(&world, &format!("{place}/edit"), &session, &fields).await;
    assert_eq!(done.headers[header::LOCATION], format!("{place}?saved=1"), "{}", done.text);
    assert_eq!(world.get(&place).await.ok()["name"], "builder");
}

#[tokio::test]
async fn an_open_page_asks_for_its_banner_alone_and_is_told_of_an_outage() {
    let world = World::new().await;
    let session = owner(&world).await;
    let page = get(&world, "/people", &session).await;
    assert!(page.text.contains("id=\"banner\" role=\"status\" hx-get=\"/banner\""), "{}", page.text);
    let calm = get(&world, "/banner", &session).await;
    assert!(
        calm.text.contains("id=\"banner\"") && !calm.text.contains("Changes have to wait"),
        "{}",
        calm.text
    );
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    world.post("/groups", json!({"name": "later"})).await.problem(503);
    let told = get(&world, "/banner", &session).await;
    assert!(told.text.contains("Access works. Changes have to wait: "), "{}", told.text);
    assert!(told.text.contains("id=\"gauge\""), "the gauge comes with it");
}

#[tokio::test]
async fn a_token_that_got_out_is_ended_in_an_outage() {
    let world = World::new().await;
    let session = owner(&world).await;
    let made = world.post("/tokens", json!({"name": "leaked", "role": "auditor"})).await.made();
    let (id, secret) = (made["description"]["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let ask = async || {
        let request = Request::get("/api/v1/sites").header(header::AUTHORIZATION, format!("Bearer {secret}"));
        world.send(stranger(), request.body(Body::empty()).unwrap()).await.status
    };
    assert_eq!(ask().await, 200);
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    world.post("/groups", json!({"name": "later"})).await.problem(503);
    let place = format!("/settings/tokens/{id}/remove");
    let page = get(&world, &place, &session).await;
    assert!(page.text.contains("End it now"), "{}", page.text);
    let fields = [("form_token", &*form_token(&page)), ("end", "now")];
    let ended = submit(&world, &place, &session, &fields).await;
    assert_eq!(ended.headers[header::LOCATION], "/settings?over=1", "{}", ended.text);
    assert!(get(&world, "/settings?over=1", &session).await.text.contains("The token ended."));
    assert_eq!(ask().await, 401);
    assert!(!get(&world, &place, &session).await.text.contains("End it now"), "it is over");
}
