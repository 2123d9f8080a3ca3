//! A person's page in the console: the groups that they are put into and taken out of.

use super::{
    World,
    console::{form_token, get, owner, submit},
    signin::proven,
};
use http::header;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn with_more_than_five_hundred_groups_somebody_is_put_into_the_last_of_them_by_its_name() {
    const MANY: usize = 520;
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let operations: Vec<Value> = (0..MANY)
        .map(|number| json!({"method": "POST", "path": "/groups", "body": {"name": format!("Shift {number:03}")}}))
        .collect();
    world.post("/bulk", json!({"operations": operations})).await.ok();
    let place = format!("/people/{}", f.user);
    let page = get(&world, &place, &session).await;
    assert!(page.text.contains("<label for=\"group\">Put into a group</label>"), "{}", page.text);
    assert!(page.text.contains("list=\"group-list\"") && !page.text.contains("Shift 519"), "a name is typed");
    let token = form_token(&page);
    let put = async |group: &str| {
        let fields = [("form_token", token.as_str()), ("member", f.user.as_str()), ("group", group)];
        submit(&world, "/groups/members/add", &session, &fields).await
    };
    for (typed, said) in [
        ("Shift 520", "none is called “Shift 520”"),
        ("", "Expected the name of a group."),
        ("engineers", "“engineers” has this member already"),
    ] {
        let refused = put(typed).await;
        assert_eq!(refused.status, 422, "{typed}");
        for shown in
            [said, "id=\"group-error\"", "href=\"#group\"", &format!("name=\"group\" value=\"{typed}\"")]
        {
            assert!(refused.text.contains(shown), "{typed}: {shown}: {}", refused.text);
        }
    }
    let done = put("shift 519").await;
    assert_eq!(done.headers[header::LOCATION], format!("{place}?saved=1"), "{}", done.text);
    let page = get(&world, &place, &session).await;
    assert!(page.text.contains("<bdi>Shift 519</bdi>"), "{}", page.text);
}

#[tokio::test]
async fn somebody_is_taken_out_of_a_group_only_by_a_form_of_this_session_and_else_is_asked_about_by_name() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let place = format!("/groups/{}/members/remove", f.group);
    let back = format!("/people/{}", f.user);
    let fields =
        |token: &str| [("form_token", token.to_owned()), ("member", f.user.clone()), ("back", back.clone())];
    let send = async |token: &str| {
        let fields = fields(token);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        submit(&world, &place, &session, &fields).await
    };
    let asked = send("x").await;
    assert_eq!(asked.status, 409, "{}", asked.text);
    let action = format!("action=\"{place}\"");
    for shown in
        ["Taking somebody out of a group", "<bdi>engineers</bdi>", "<bdi>Ada</bdi>", &action, &f.user, &back]
    {
        assert!(asked.text.contains(shown), "{shown}: {}", asked.text);
    }
    // An old sign-in is renewed first: it takes access away.
    let old = proven(&world, &session, Duration::from_secs(15 * 60));
    let led = submit(&world, &place, &old, &[("form_token", "x"), ("member", &f.user)]).await;
    assert_eq!(led.status, 401);
    for shown in ["Prove once more that it is you", "<bdi>engineers</bdi>", "<bdi>Ada</bdi>"] {
        assert!(led.text.contains(shown), "{shown}: {}", led.text);
    }
    let members = async || {
        world.get(&format!("/groups/{}/members", f.group)).await.ok()["items"].as_array().unwrap().len()
    };
    assert_eq!(members().await, 1, "nobody is out yet");
    let done = send(&form_token(&asked)).await;
    assert!(done.text.contains("Ada is out of engineers"), "{}", done.text);
    assert_eq!(members().await, 0);
}
