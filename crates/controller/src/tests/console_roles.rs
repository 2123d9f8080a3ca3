//! What each role is offered in the console: no button that would be refused, and no form that is filled in in vain.

use super::{
    World,
    console::{get, owner, submit},
};
use http::Method;
use serde_json::json;
use std::collections::BTreeSet;

/// The last part of an address that is a form.
const FORMS: [&str; 8] = ["new", "edit", "remove", "revoke", "restore", "connect", "add", "tokens"];

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
        "/settings",
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
        let mut forms = BTreeSet::new();
        for path in &paths {
            let page = get(&world, path, &session).await;
            match page.status.as_u16() {
                200 => forms.extend(targets(&page.text).into_iter().filter(|(_, target)| is_form(target))),
                403 => {}
                other => panic!("{role}: {path}: {other} {}", page.text),
            }
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
