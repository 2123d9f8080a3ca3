//! Sign-in providers by the console's forms.

use super::{
    World,
    console::{form_token, get, owner, submit},
};
use http::header;

/// The version that a form of one provider carries.
fn version(page: &str) -> String {
    let rest = page.split("name=\"version\" value=\"").nth(1).expect("the form has a version");
    rest.split('"').next().unwrap().replace("&quot;", "\"")
}

#[tokio::test]
async fn a_provider_is_made_changed_and_removed_by_forms_and_its_secret_never_comes_back() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let page = get(&world, "/settings/providers/new", &session).await;
    assert!(page.text.contains("type=\"password\"") && page.text.contains("/signin/oidc"), "{}", page.text);
    let token = form_token(&page);
    let mut fields = vec![
        ("form_token", token.as_str()),
        ("name", "corp"),
        ("title", "Corporate <account>"),
        ("issuer", "http://id.example.com"),
        ("client_id", "tidegate"),
        ("client_secret", "very-secret-indeed"),
        ("domains", "example.com\nexample.org"),
        ("new_users", "refuse"),
        ("group_map", "engineering = nobody"),
    ];
    let wrong = submit(&world, "/settings/providers/new", &session, &fields).await;
    assert_eq!(wrong.status, 422);
    assert!(
        wrong.text.contains("id=\"group_map-error\"") && wrong.text.contains("Corporate &lt;account&gt;")
    );
    assert!(!wrong.text.contains("very-secret-indeed"), "{}", wrong.text);
    fields[8].1 = "engineering = engineers";
    let wrong = submit(&world, "/settings/providers/new", &session, &fields).await;
    assert!(wrong.status == 422 && wrong.text.contains("id=\"issuer-error\""), "{}", wrong.text);
    fields[3].1 = "https://id.example.com";
    let made = submit(&world, "/settings/providers/new", &session, &fields).await;
    assert_eq!(
        (made.status.as_u16(), &made.headers[header::LOCATION]),
        (303, &"/settings/providers?saved=1".parse().unwrap())
    );
    let held = world.get("/oidc-providers/corp").await.ok();
    assert_eq!(
        (&held["has_client_secret"], held["group_map"]["engineering"].as_str()),
        (&true.into(), Some(f.group.as_str()))
    );
    assert_eq!(held["scopes"], serde_json::json!(["openid", "profile", "email"]));
    let again = submit(&world, "/settings/providers/new", &session, &fields).await;
    assert!(again.status == 409 && again.text.contains("id=\"name-error\""), "{}", again.text);

    let list = get(&world, "/settings/providers", &session).await;
    assert!(
        list.text.contains("Corporate &lt;account&gt;")
            && list.text.contains("/settings/providers/corp/edit")
    );
    let edit = get(&world, "/settings/providers/corp/edit", &session).await;
    for shown in ["engineering = engineers", "example.com\nexample.org", "value=\"profile, email\""] {
        assert!(edit.text.contains(shown), "{shown}: {}", edit.text);
    }
    assert!(!edit.text.contains("very-secret-indeed"));
    let version = version(&edit.text);
    let changed = [
        ("version", version.as_str()),
        ("form_token", token.as_str()),
        ("title", "Corporate"),
        ("issuer", "https://id.example.com"),
        ("client_id", "tidegate"),
        ("client_secret", ""),
        ("new_users", "make"),
    ];
    assert_eq!(submit(&world, "/settings/providers/corp/edit", &session, &changed).await.status, 303);
    let held = world.get("/oidc-providers/corp").await.ok();
    assert_eq!((&held["title"], &held["new_users"]), (&"Corporate".into(), &"make".into()));
    assert_eq!((&held["has_client_secret"], held["domains"].as_array().unwrap().len()), (&true.into(), 0));

    let token = [("form_token", token.as_str())];
    let removed = submit(&world, "/settings/providers/corp/remove", &session, &token).await;
    assert_eq!(removed.status, 303, "{}", removed.text);
    world.get("/oidc-providers/corp").await.problem(404);
}

#[tokio::test]
async fn a_provider_that_somebody_else_changed_meanwhile_is_shown_beside_what_was_typed_and_without_its_secret()
 {
    let world = World::new().await;
    let session = owner(&world).await;
    let put = async |title: &str| {
        let body = serde_json::json!({
            "title": title, "issuer": "https://id.example.com", "client_id": "tidegate", "new_users": "refuse",
            "client_secret": "very-secret-indeed",
        });
        world.call(http::Method::PUT, "/oidc-providers/corp", Some(body)).await.ok()
    };
    put("First").await;
    let edit = get(&world, "/settings/providers/corp/edit", &session).await;
    let (token, first) = (form_token(&edit), version(&edit.text));
    put("Second").await;
    let typed = [
        ("form_token", token.as_str()),
        ("version", first.as_str()),
        ("title", "Third"),
        ("issuer", "https://id.example.com"),
        ("client_id", "tidegate"),
        ("client_secret", "another-secret"),
        ("new_users", "refuse"),
    ];
    let refused = submit(&world, "/settings/providers/corp/edit", &session, &typed).await;
    assert_eq!(refused.status, 412, "{}", refused.text);
    assert!(refused.text.contains("Second") && refused.text.contains("Third"), "{}", refused.text);
    assert!(!refused.text.contains("-secret"), "{}", refused.text);
    assert_eq!(world.get("/oidc-providers/corp").await.ok()["title"], "Second");
    let mut again = typed;
    let newer = version(&refused.text);
    again[1].1 = newer.as_str();
    assert_eq!(submit(&world, "/settings/providers/corp/edit", &session, &again).await.status, 303);
    assert_eq!(world.get("/oidc-providers/corp").await.ok()["title"], "Third");
}
