//! What each role is offered in the console: no button that would be refused, and no form that is filled in in vain.

use super::{
    World,
    console::{form_token, get, owner, submit},
};
use http::Method;
use serde_json::json;
use std::collections::BTreeSet;

/// The last part of an address that is a form.
const FORMS: [&str; 14] = [
    "new",
    "edit",
    "remove",
    "revoke",
    "restore",
    "approve",
    "block",
    "archive",
    "connect",
    "add",
    "tokens",
    "role",
    "invite",
    "end-sessions",
];

/// Where a page's links and forms lead, without what stands behind the path.
fn targets(page: &str) -> BTreeSet<(&'static str, String)> {
    let mut all = BTreeSet::new();
    for (kind, mark) in [("link", " href=\""), ("form", " action=\"")] {
        for rest in page.split(mark).skip(1) {
            let target = rest.split(['"', '?', '#']).next().unwrap_or_default();
            if target.starts_with('/') {
                all.insert((kind, target.to_owned()));
            }
        }
    }
    all
}

fn is_form(target: &str) -> bool {
    let last = target.rsplit('/').next().unwrap_or_default();
    FORMS.contains(&last) || target.starts_with("/keys/")
}

#[tokio::test]
async fn each_role_is_shown_what_it_may_do_and_nothing_that_would_be_refused() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let me = world.get("/users").await.ok()["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|user| user["name"] == "Lena Brandt")
        .unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let machine = world.post("/service-accounts", json!({"name": "ci"})).await.made();
    world.post("/tokens", json!({"name": "nightly", "role": "auditor"})).await.made();
    world.post("/enrolment-keys", json!({"kind": "device", "owner": f.user})).await.made();
    let mut paths: Vec<String> = [
        "/",
        "/topology",
        "/flows",
        "/resources",
        "/policies",
        "/access",
        "/why",
        "/why?who=Ada&to=orders",
        "/why?who=Ada&to=nothing",
        "/sites",
        "/people",
        "/devices",
        "/service-accounts",
        "/pops",
        "/keys",
        "/audit",
        "/audit/sign-ins",
        "/settings",
        "/banner",
        "/account",
    ]
    .map(str::to_owned)
    .into();
    paths.extend([
        format!("/sites/{}", f.site),
        format!("/resources/{}", f.resource),
        format!("/policies/{}", f.policy),
        format!("/groups/{}", f.group),
        format!("/people/{}", f.user),
        format!("/service-accounts/{}", machine["id"].as_str().unwrap()),
    ]);
    let mut offered = Vec::new();
    for role in ["owner", "admin", "network_admin", "support", "auditor", "member"] {
        let set = world.call(Method::PUT, &format!("/users/{me}/role"), Some(json!({"role": role}))).await;
        assert_eq!(set.ok()["role"], role);
        let (mut forms, mut links) = (BTreeSet::new(), BTreeSet::new());
        for path in &paths {
            let page = get(&world, path, &session).await;
            match page.status.as_u16() {
                200 => {
                    let (of_forms, others): (BTreeSet<_>, BTreeSet<_>) =
                        targets(&page.text).into_iter().partition(|(_, target)| is_form(target));
                    forms.extend(of_forms);
                    let others = others.into_iter().filter(|(kind, _)| *kind == "link");
                    links.extend(others.map(|(_, target)| (target, path)));
                }
                303 => assert_eq!(
                    (role, path.as_str(), page.headers["location"].to_str().unwrap()),
                    ("member", "/", "/account")
                ),
                // Nor does a refusal lead to another one.
                403 => {
                    for (_, target) in targets(&page.text) {
                        let reply = get(&world, &target, &session).await;
                        assert_ne!(reply.status, 403, "{role} is led from {path} to {target}");
                    }
                }
                other => panic!("{role}: {path}: {other} {}", page.text),
            }
        }
        for (target, path) in &links {
            assert_ne!(
                get(&world, target, &session).await.status,
                403,
                "{role} is led from {path} to {target}"
            );
        }
        for (kind, target) in &forms {
            // A form without its token does nothing, and is let in or refused all the same.
            let reply = match *kind {
                "link" => get(&world, target, &session).await,
                _ => submit(&world, target, &session, &[]).await,
            };
            assert_ne!(reply.status, 403, "{role} is offered {target}: {}", reply.text);
        }
        // What nobody offers is refused before it is filled in.
        let refused = get(&world, &format!("/sites/{}/remove", f.site), &session).await.status == 403;
        assert_eq!(refused, !matches!(role, "owner" | "admin" | "network_admin"), "{role}");
        let refused = submit(&world, "/settings/tokens", &session, &[]).await.status == 403;
        assert_eq!(refused, !matches!(role, "owner" | "admin"), "{role}");
        offered.push((role, forms.len()));
    }
    let of = |role: &str| offered.iter().find(|(known, _)| *known == role).unwrap().1;
    assert!(of("owner") > 20, "{offered:?}");
    assert!(of("owner") >= of("admin") && of("admin") > of("network_admin"), "{offered:?}");
    assert!(of("network_admin") > of("support"), "{offered:?}");
    assert_eq!((of("auditor"), of("member")), (0, 0), "{offered:?}");
}

fn version_in(page: &str) -> String {
    let rest = page.split("name=\"version\" value=\"").nth(1).expect("the form has a version");
    rest.split('"').next().unwrap().replace("&quot;", "\"")
}

#[tokio::test]
async fn a_role_is_given_by_a_form_that_keeps_the_last_owner_and_what_others_changed_meanwhile() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let users = world.get("/users").await.ok();
    let lena = users["items"].as_array().unwrap().iter().find(|user| user["role"] == "owner").unwrap();
    let own = format!("/people/{}/role", lena["id"].as_str().unwrap());
    let place = format!("/people/{}/role", f.user);
    let held = async || world.get(&format!("/users/{}", f.user)).await.ok()["role"].clone();

    let page = get(&world, &format!("/people/{}", f.user), &session).await;
    assert!(page.text.contains(&place), "a person's page leads to it");
    let form = get(&world, &place, &session).await;
    assert!(form.text.contains("<option value=\"member\" selected>"), "{}", form.text);
    let (token, version) = (form_token(&form), version_in(&form.text));
    let fields = |role: &'static str| [("form_token", &*token), ("version", &*version), ("role", role)];
    let given = submit(&world, &place, &session, &fields("support")).await;
    assert_eq!((given.status.as_u16(), held().await), (303, json!("support")));
    let listed = get(&world, "/people", &session).await;
    assert!(listed.text.contains("Support") && listed.text.contains("Owner"), "{}", listed.text);

    // The same form again, of a person who was changed since.
    let late = submit(&world, &place, &session, &fields("auditor")).await;
    assert_eq!((late.status.as_u16(), held().await), (412, json!("support")));
    assert!(late.text.contains("the role is support now"), "{}", late.text);
    assert!(late.text.contains("<option value=\"auditor\" selected>"), "what was chosen is kept");

    let form = get(&world, &own, &session).await;
    let (token, version) = (form_token(&form), version_in(&form.text));
    let fields = [("form_token", &*token), ("version", &*version), ("role", "member")];
    let refused = submit(&world, &own, &session, &fields).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("expected another owner"), "{}", refused.text);
    let nothing = submit(&world, &place, &session, &[("form_token", "x"), ("role", "owner")]).await;
    assert_ne!(nothing.status, 303);
    assert_eq!(held().await, "support", "a form of somebody else's session changes nothing");
}
