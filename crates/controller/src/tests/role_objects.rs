//! Who may do what to whom: where the object decides and not the endpoint alone. What is expected here is written by hand,
//! and not taken from the table of the code.

use super::{
    World,
    inventory::Inventory,
    roles::{ROLES, token, with},
    stranger,
};
use serde_json::{Value, json};

/// A request, and the roles that may make it.
struct Case {
    what: &'static str,
    method: &'static str,
    path: String,
    body: Value,
    may: &'static [&'static str],
}

fn case(
    what: &'static str,
    method: &'static str,
    path: impl Into<String>,
    body: Value,
    may: &'static [&'static str],
) -> Case {
    Case { what, method, path: path.into(), body, may }
}

const OWNERS: &[&str] = &["owner"];
const ADMINS: &[&str] = &["owner", "admin"];
const NETWORK: &[&str] = &["owner", "admin", "network_admin"];
const SUPPORT: &[&str] = &["owner", "admin", "support"];
/// Installations' owners, whose scope no role has.
const NOBODY: &[&str] = &[];

async fn person(world: &World, name: &str, role: &str) -> String {
    let email = format!("{name}@example.com");
    let made = world.post("/users", json!({"name": name, "email": email, "role": role})).await.made();
    made["id"].as_str().unwrap().to_owned()
}

fn cases(inventory: &Inventory, owner: &str, auditor: &str, owners_token: &str) -> Vec<Case> {
    let id = |of: &str| inventory.id(of).to_owned();
    let subject = |subject: &str| json!({"subject": subject});
    let membership = format!("{}/{}", id("users"), id("groups"));
    let key = |kind: &str, member: &str, value: String| {
        let mut body = json!({"kind": kind, "cap": 1});
        if !member.is_empty() {
            body[member] = value.into();
        }
        body
    };
    let strike = |what, of: &str, may| case(what, "POST", "/strikes", subject(of), may);
    let restore = |what, of: &str, may| case(what, "POST", "/restores", subject(of), may);
    let role = |what, of: &str, role: &str, may| {
        case(what, "PUT", format!("/users/{of}/role"), json!({"role": role}), may)
    };
    let account = |what, path: &str, of: &str, may| case(what, "POST", path, json!({"user": of}), may);
    let new_token = |what, body: Value, may| case(what, "POST", "/tokens", body, may);
    vec![
        strike("strike a device", &id("devices"), SUPPORT),
        strike("strike a connector", &id("connectors"), NETWORK),
        strike("strike an account of a service", &id("service-accounts"), ADMINS),
        strike("strike a membership", &membership, ADMINS),
        strike("strike a PoP", &id("pops"), NOBODY),
        strike("strike somebody who may little", auditor, ADMINS),
        strike("strike an owner", owner, OWNERS),
        strike("strike a token that reads", &id("tokens"), ADMINS),
        strike("strike an owner's token", owners_token, OWNERS),
        restore("give a device back", &id("devices"), SUPPORT),
        restore("give a connector back", &id("connectors"), NETWORK),
        restore("give somebody back who may little", auditor, ADMINS),
        restore("give an owner back", owner, OWNERS),
        restore("give a PoP back", &id("pops"), NOBODY),
        case("make a device's key", "POST", "/enrolment-keys", key("device", "owner", id("users")), ADMINS),
        case(
            "make a connector's key",
            "POST",
            "/enrolment-keys",
            key("connector", "site", id("sites")),
            NETWORK,
        ),
        case("make a PoP's key", "POST", "/enrolment-keys", key("pop", "", String::new()), NOBODY),
        role("make somebody an auditor", auditor, "auditor", ADMINS),
        role("make somebody an owner", &id("users"), "owner", OWNERS),
        role("make an owner an owner", owner, "owner", OWNERS),
        account("invite somebody who may little", "/invitations", auditor, ADMINS),
        account("invite an owner", "/invitations", owner, OWNERS),
        account("end an owner's sessions", "/ended-web-sessions", owner, OWNERS),
        new_token("make a token that reads", json!({"name": "r", "scopes": ["read"]}), ADMINS),
        new_token("make an admin's token", json!({"name": "a", "role": "admin"}), ADMINS),
        new_token("make an owner's token", json!({"name": "o", "role": "owner"}), OWNERS),
        new_token(
            "make a token for the installation",
            json!({"name": "i", "scopes": ["installation"]}),
            NOBODY,
        ),
        case("remove an owner", "DELETE", format!("/users/{owner}"), Value::Null, OWNERS),
    ]
}

#[tokio::test]
async fn what_each_role_may_do_to_whom_is_what_was_written_down_by_hand() {
    // From the one who may least: whom an owner removes is there for everybody else.
    for role in ROLES.into_iter().rev() {
        let world = World::new().await;
        let inventory = Inventory::make(&world).await;
        // One more: the last one stays whoever asks.
        person(&world, "olga", "owner").await;
        let (owner, auditor) =
            (person(&world, "otto", "owner").await, person(&world, "anna", "auditor").await);
        let made = world.post("/tokens", json!({"name": "of an owner", "role": "owner"})).await.made();
        let owners_token = made["description"]["id"].as_str().unwrap();
        let held = token(&world, role).await;
        for case in cases(&inventory, &owner, &auditor, owners_token) {
            let path = format!("/api/v1{}", case.path);
            // A bulk of this one operation is no way around.
            let mut operation = json!({"method": case.method, "path": case.path});
            if !case.body.is_null() {
                operation["body"] = case.body.clone();
            }
            let bulk = json!({"operations": [operation], "dry_run": true});
            let by_bulk = world.send(stranger(), with("POST", "/api/v1/bulk", &held, &bulk)).await;
            let reply = world.send(stranger(), with(case.method, &path, &held, &case.body)).await;
            let may = case.may.contains(&role);
            for (how, reply) in [("", reply), ("by a bulk", by_bulk)] {
                let (what, status) = (case.what, reply.status.as_u16());
                let said = format!("{role}: {what} {how}: {status} {}", reply.text);
                if !may {
                    assert_eq!(status, 403, "{said}");
                } else if what == "end an owner's sessions" {
                    // Let in, and found that there is no account yet.
                    assert_eq!(status, 404, "{said}");
                } else {
                    assert!(reply.status.is_success(), "{said}");
                }
            }
        }
    }
}
