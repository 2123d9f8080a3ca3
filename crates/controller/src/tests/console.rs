//! The console as a browser without script sees it.

use super::{Reply, World, stranger};
use crate::api::Peer;
use axum::body::Body;
use http::{Request, header};
use serde_json::json;

pub(super) async fn get(world: &World, path: &str, cookies: &str) -> Reply {
    let request = Request::get(path).header(header::COOKIE, cookies).body(Body::empty()).unwrap();
    world.send(stranger(), request).await
}

pub(super) async fn submit(world: &World, path: &str, cookies: &str, fields: &[(&str, &str)]) -> Reply {
    submit_from(stranger(), world, path, cookies, fields).await
}

pub(super) async fn submit_from(
    peer: Peer,
    world: &World,
    path: &str,
    cookies: &str,
    fields: &[(&str, &str)],
) -> Reply {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect()
    };
    let body =
        fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&");
    let request = Request::post(path)
        .header(header::COOKIE, cookies)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(body))
        .unwrap();
    world.send(peer, request).await
}

/// The `name=value` of every cookie an answer sets.
pub(super) fn cookies(reply: &Reply) -> String {
    let set = reply.headers.get_all(header::SET_COOKIE).iter();
    set.map(|cookie| {
        let text = cookie.to_str().unwrap();
        assert!(
            text.contains("Secure") && text.contains("HttpOnly") && text.contains("SameSite=Lax"),
            "{text}"
        );
        text.split(';').next().unwrap().to_owned()
    })
    .collect::<Vec<_>>()
    .join("; ")
}

pub(super) fn form_token(page: &Reply) -> String {
    let rest = page.text.split_once("name=\"form_token\" value=\"").expect("a form").1;
    rest.split('"').next().unwrap().to_owned()
}

pub(super) const PASSPHRASE: &str = "correct horse battery staple";

pub(super) async fn owner(world: &World) -> String {
    let link = world.first.as_ref().unwrap().owner_link.clone();
    let path = link.strip_prefix("https://localhost:8443").unwrap().to_owned();
    let page = get(world, &path, "").await;
    assert_eq!(page.status, 200, "{}", page.text);
    let token = form_token(&page);
    let mut fields = [
        ("name", "Lena Brandt"),
        ("passphrase", "short"),
        ("again", "short"),
        ("form_token", &token),
        ("email", "Lena@example.com"),
    ];
    let short = submit(world, &path, &cookies(&page), &fields).await;
    assert_eq!(short.status, 422);
    assert!(short.text.contains("at least 15 characters") && short.text.contains("value=\"Lena Brandt\""));
    fields[1].1 = PASSPHRASE;
    assert!(submit(world, &path, &cookies(&page), &fields).await.text.contains("The two are not the same"));
    fields[2].1 = PASSPHRASE;
    assert_eq!(submit(world, &path, "", &fields).await.status, 403, "a form from elsewhere");
    let done = submit(world, &path, &cookies(&page), &fields).await;
    assert_eq!((done.status.as_u16(), &done.headers[header::LOCATION]), (303, &"/".parse().unwrap()));
    assert_eq!(get(world, &path, "").await.status, 404, "the link works once");
    cookies(&done)
}

#[tokio::test]
async fn the_first_owner_sets_a_passphrase_by_a_link_that_works_once_and_sees_what_there_is() {
    let world = World::new().await;
    world.furnish().await;
    world.post("/groups", json!({"name": "x"})).await.made();
    let session = owner(&world).await;
    let page = get(&world, "/", &session).await;
    assert_eq!(page.status, 200);
    for shown in [
        "Lena Brandt",
        "hamburg",
        "From nothing to the first resource",
        "Export the root key",
        "Configuration is current",
    ] {
        assert!(page.text.contains(shown), "{shown}");
    }
    for (path, shown) in [
        ("/resources", "orders"),
        ("/resources", "10.1.2.3"),
        ("/resources", "5432"),
        ("/devices", "No devices yet"),
    ] {
        assert!(get(&world, path, &session).await.text.contains(shown), "{path}: {shown}");
    }
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for forbidden in ["<script>", " style=", "<style", " onclick="] {
        assert!(!page.text.contains(forbidden), "{forbidden}");
    }
    assert_eq!(page.text.matches("<script src=\"/assets/").count(), page.text.matches("<script").count());
    assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
    let style = page.text.split_once("href=\"/assets/").unwrap().1.split('"').next().unwrap();
    let style = get(&world, &format!("/assets/{style}"), "").await;
    assert!(style.headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    assert!(style.text.contains("--tide"));
}

#[tokio::test]
async fn what_people_typed_is_shown_as_text_and_never_as_markup() {
    let world = World::new().await;
    let name = "<img src=x onerror=alert(1)>\"'&";
    world.post("/sites", json!({"name": name})).await.made();
    let session = owner(&world).await;
    let page = get(&world, "/", &session).await;
    assert!(!page.text.contains("<img"), "escaped");
    assert!(page.text.contains("&#60;img") || page.text.contains("&lt;img"));
}

#[tokio::test]
async fn signing_in_needs_the_passphrase_and_ten_wrong_ones_cost_five_minutes() {
    let world = World::new().await;
    owner(&world).await;
    assert_eq!(get(&world, "/", "").await.headers[header::LOCATION], "/signin");
    let page = get(&world, "/signin", "").await;
    let (jar, token) = (cookies(&page), form_token(&page));
    let with = |passphrase: &'static str| {
        let (world, jar, token) = (&world, jar.clone(), token.clone());
        async move {
            let fields = [("name", "lena@Example.com"), ("passphrase", passphrase), ("form_token", &token)];
            submit(world, "/signin", &jar, &fields).await
        }
    };
    let done = with(PASSPHRASE).await;
    assert_eq!(done.status, 303, "{}", done.text);
    let session = cookies(&done);
    assert_eq!(get(&world, "/", &session).await.status, 200);
    for _ in 0..10 {
        assert_eq!(with("wrong").await.status, 403);
    }
    let limited = with(PASSPHRASE).await;
    assert_eq!(limited.status, 429);
    assert!(limited.headers.contains_key(header::RETRY_AFTER));
    // A neighbour who guesses does not keep the owner out: the next address of the same /24 signs in, slower.
    let fields = [("name", "lena@Example.com"), ("passphrase", PASSPHRASE), ("form_token", token.as_str())];
    let neighbour = Peer::Network(std::net::IpAddr::from([203, 0, 113, 8]));
    let began = crate::clock::now();
    let done = submit_from(neighbour, &world, "/signin", &jar, &fields).await;
    assert_eq!(done.status, 303, "{}", done.text);
    assert!(began.elapsed() >= std::time::Duration::from_millis(250), "guesses at an account slow it down");

    let overview = get(&world, "/", &session).await;
    submit(&world, "/signout", &session, &[("form_token", "forged")]).await;
    assert_eq!(get(&world, "/", &session).await.status, 200, "a forged form signs nobody out");
    submit(&world, "/signout", &session, &[("form_token", &form_token(&overview))]).await;
    assert_eq!(get(&world, "/", &session).await.status, 303);
}

#[tokio::test]
async fn an_owner_signs_in_while_the_database_is_gone_and_reads_why_changes_wait() {
    let world = World::new().await;
    owner(&world).await;
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    world.post("/groups", json!({"name": "later"})).await.problem(503);
    let page = get(&world, "/signin", "").await;
    let fields =
        [("name", "lena@example.com"), ("passphrase", PASSPHRASE), ("form_token", &form_token(&page))];
    let done = submit(&world, "/signin", &cookies(&page), &fields).await;
    let page = get(&world, "/", &cookies(&done)).await;
    assert!(page.text.contains("Access works. Changes have to wait"), "{}", page.status);
    // How old what stands there may be, and until when access goes on.
    let banner = page.text.split_once("class=\"banner\"").unwrap().1.split_once("What works now").unwrap().0;
    assert!(banner.contains("You read this from memory, as of "), "{banner}");
    assert!(banner.contains("a grant renewed now lasts until"), "{banner}");
}

#[tokio::test]
async fn a_device_s_link_is_its_key_behind_a_page_that_says_what_to_do() {
    let world = World::new().await;
    let f = world.furnish().await;
    let made = world.post("/enrolment-keys", json!({"kind": "device", "owner": f.user})).await.made();
    let link = made["link"].as_str().unwrap();
    let (page, key) = link.split_once('#').unwrap();
    assert_eq!((page, Some(key)), ("https://localhost:8443/join", made["join_key"].as_str()));
    let read: trust::JoinKey = link.parse().unwrap();
    assert_eq!(read.to_secret_text(), key);
    let shown = world.send(stranger(), Request::get("/join").body(Body::empty()).unwrap()).await;
    assert_eq!(shown.status, 200);
    assert!(shown.text.contains("tidegate login"), "{}", shown.text);
    let site = world.post("/enrolment-keys", json!({"kind": "connector", "site": f.site})).await.made();
    assert!(site["link"].is_null(), "a connector joins by its key");
}

/// Every page that shows something, and one that there is not.
#[tokio::test]
async fn every_page_answers_a_person_who_is_signed_in_and_sends_everybody_else_to_sign_in_first() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let site = f.site.clone();
    let paths = [
        "/",
        "/topology",
        "/flows",
        "/resources",
        "/resources/new",
        "/policies",
        "/policies/new",
        "/access",
        "/why",
        "/why?who=nobody&to=orders",
        "/sites",
        "/sites/new",
        "/people",
        "/people/new",
        "/groups/new",
        "/devices",
        "/service-accounts",
        "/service-accounts/new",
        "/pops",
        "/keys",
        "/audit",
        "/audit/sign-ins",
        "/settings",
        "/search?q=or",
    ];
    let mut paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
    paths.extend([
        format!("/sites/{site}"),
        format!("/sites/{site}/connect"),
        format!("/sites/{site}/edit"),
        format!("/people/{}", f.user),
    ]);
    for path in &paths {
        let page = get(&world, path, &session).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        assert_eq!(page.text.matches("<h1").count(), 1, "{path}");
        assert!(!page.text.contains(" style="), "{path}");
        let stranger = get(&world, path, "").await;
        assert_eq!(stranger.status, 303, "{path}");
        assert!(stranger.headers[header::LOCATION].to_str().unwrap().starts_with("/signin"), "{path}");
    }
    for path in [
        "/sites/x",
        "/resources/res-1",
        "/devices/x",
        "/people/x",
        "/groups/x",
        "/policies/x",
        "/pops/x",
        "/connectors/x",
    ] {
        assert_eq!(get(&world, path, &session).await.status, 404, "{path}");
    }
    for path in ["/status", "/status.json", "/favicon.svg"] {
        assert_eq!(get(&world, path, "").await.status, 200, "{path}");
    }
    let public = get(&world, "/status.json", "").await;
    assert!(
        !public.text.contains("hamburg") && public.text.contains("\"access\":\"works\""),
        "{}",
        public.text
    );
}

#[tokio::test]
async fn a_form_keeps_what_was_typed_names_the_field_and_shows_both_versions_when_somebody_else_saved_first()
{
    let world = World::new().await;
    let session = owner(&world).await;
    let page = get(&world, "/sites/new", &session).await;
    let token = form_token(&page);
    let wrong = [
        ("form_token", token.as_str()),
        ("name", "Hamburg"),
        ("prefixes", "10.0.0.0/8\nnonsense"),
        ("regions", ""),
    ];
    let refused = submit(&world, "/sites/new", &session, &wrong).await;
    assert_eq!(refused.status, 422);
    for shown in ["id=\"prefixes-error\"", "nonsense</textarea>", "value=\"Hamburg\"", "Nothing was saved."] {
        assert!(refused.text.contains(shown), "{shown}: {}", refused.text);
    }
    let right =
        [("form_token", token.as_str()), ("name", "Hamburg"), ("prefixes", "10.0.0.0/8"), ("regions", "")];
    let made = submit(&world, "/sites/new", &session, &right).await;
    assert_eq!(made.status, 303, "{}", made.text);
    let place = made.headers[header::LOCATION].to_str().unwrap().split('?').next().unwrap().to_owned();
    let edit = get(&world, &format!("{place}/edit"), &session).await;
    let version = edit
        .text
        .split_once("name=\"version\" value=\"")
        .unwrap()
        .1
        .split('"')
        .next()
        .unwrap()
        .replace("&quot;", "\"");
    let mine = |name: &'static str| {
        [
            ("form_token", token.clone()),
            ("version", version.clone()),
            ("name", name.to_owned()),
            ("prefixes", "10.0.0.0/8".to_owned()),
        ]
    };
    let borrowed = |fields: &[(&'static str, String); 4]| {
        fields.iter().map(|(key, value)| (*key, value.clone())).collect::<Vec<_>>()
    };
    let send = async |name| {
        let fields = borrowed(&mine(name));
        let fields: Vec<(&str, &str)> = fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
        submit(&world, &format!("{place}/edit"), &session, &fields).await
    };
    assert_eq!(send("Hamburg DC").await.status, 303);
    let late = send("Hamburg Hafen").await;
    assert_eq!(late.status, 412, "{}", late.text);
    for shown in ["Somebody else saved first", "Hamburg DC", "Hamburg Hafen"] {
        assert!(late.text.contains(shown), "{shown}");
    }
}

#[tokio::test]
async fn a_form_of_another_session_saves_nothing_and_one_without_a_session_loses_nothing() {
    let world = World::new().await;
    let session = owner(&world).await;
    let fields = [("form_token", "forged"), ("name", "Rotterdam & sons"), ("prefixes", ""), ("regions", "")];
    let forged = submit(&world, "/sites/new", &session, &fields).await;
    assert_eq!(forged.status, 409);
    assert!(
        forged.text.contains("value=\"Rotterdam &amp; sons\"")
            && forged.text.contains("opened before you signed in")
    );
    let without = submit(&world, "/sites/new", "", &fields).await;
    assert_eq!(without.status, 401);
    assert!(
        without.text.contains("Nothing is lost") && without.text.contains("value=\"Rotterdam &amp; sons\"")
    );
    assert!(!without.text.contains("forged"), "a token of a session that ended is of no use");
    let sites = get(&world, "/sites", &session).await;
    assert!(sites.text.contains("No sites yet"));
}

#[tokio::test]
async fn of_two_resources_at_one_address_with_other_ports_none_is_said_to_hide_the_other() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let mut ids = Vec::new();
    for (name, port) in [("bell", "7000"), ("clock", "7001"), ("bell again", "7000")] {
        let body = json!({"name": name, "site": f.site, "address": "10.9.8.7", "ports": [port]});
        ids.push(world.post("/resources", body).await.made()["id"].as_str().unwrap().to_owned());
    }
    let page = get(&world, &format!("/resources/{}", ids[0]), &session).await;
    let also = page.text.split("Also matches").nth(1).unwrap();
    for shown in ["at its own ports", ">clock</a>", "hidden by it", ">bell again</a>"] {
        assert!(also.contains(shown), "{shown}: {also}");
    }
}
