//! One of everything in an organization, agents included, and every operation of the document with what fits it.

use super::{LOCAL, World};
use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use store::{
    Connector, Device, DeviceState, EnrolmentKey, EnrolmentTarget, Member, Pop, Scope, SecretHash, Store,
};
use trust::sha256;

/// Ids by the first segment of their path.
pub(super) struct Inventory {
    ids: BTreeMap<&'static str, String>,
    /// A device that waits for somebody's approval.
    pub(super) waiting: String,
}

/// A request to the API, by the machine's own socket unless it has a token.
pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Request<Body> {
    let builder = Request::builder().method(method).uri(format!("/api/v1{path}"));
    let builder = builder.header(header::CONTENT_TYPE, "application/json");
    let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(Body::from(body.to_string())).unwrap()
}

fn id_of(made: &Value) -> String {
    made["id"].as_str().unwrap().to_owned()
}

impl Inventory {
    /// Makes one of everything.
    pub(super) async fn make(world: &World) -> Self {
        let f = world.furnish().await;
        let account = id_of(&world.post("/service-accounts", json!({"name": "ci"})).await.made());
        let key = json!({"kind": "device", "owner": f.user});
        let key = id_of(&world.post("/enrolment-keys", key).await.made()["key"]);
        let token = json!({"name": "deploy", "scopes": ["read"]});
        let token = id_of(&world.post("/tokens", token).await.made()["description"]);
        let provider = json!({"title": "ID", "issuer": "https://id.example.com", "client_id": "t", "client_secret": "s"});
        let put = request("PUT", "/oidc-providers/main", &[], &provider);
        let provider = id_of(&world.send(LOCAL, put).await.ok());
        let organization = id_of(&world.get("/organizations").await.ok()["items"][0]);
        let agents = Agents::insert(world, f.site.parse().unwrap(), f.user.parse().unwrap()).await;
        let ids = [
            ("sites", f.site),
            ("resources", f.resource),
            ("groups", f.group),
            ("users", f.user),
            ("policies", f.policy),
            ("service-accounts", account),
            ("enrolment-keys", key),
            ("tokens", token),
            ("oidc-providers", provider),
            ("organizations", organization),
            ("connectors", agents.connector),
            ("pops", agents.pop),
            ("devices", agents.device),
        ];
        Self { ids: ids.into(), waiting: agents.waiting }
    }

    pub(super) fn id(&self, collection: &str) -> &str {
        &self.ids[collection]
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.ids.iter().map(|(collection, id)| (*collection, id.as_str()))
    }

    /// A path of the document with real ids in it.
    pub(super) fn filled(&self, template: &str) -> String {
        let collection = template.split('/').nth(1).unwrap_or_default();
        let id = match template {
            "/devices/{id}/approve" => &self.waiting,
            _ => self.ids.get(collection).unwrap_or(&self.waiting),
        };
        template.replace("{id}", id).replace("{member}", self.id("users"))
    }

    /// A body that an operation takes, where it takes one.
    pub(super) fn body(&self, method: &str, template: &str) -> Value {
        match (method, template) {
            ("PATCH", "/pops/{id}") => json!({"region": "eu"}),
            ("PATCH", "/settings") => json!({"audit_retention_days": 90}),
            ("PATCH", _) => json!({"name": "another name"}),
            ("POST" | "PUT", "/resources" | "/resources/{id}") => {
                json!({"name": "x", "site": self.id("sites"), "address": "10.0.0.1", "ports": ["1"]})
            }
            ("POST" | "PUT", "/users" | "/users/{id}") => json!({"name": "x", "email": "x@example.com"}),
            ("PUT", "/users/{id}/role") => json!({"role": "support"}),
            ("POST" | "PUT", "/policies" | "/policies/{id}") => {
                json!({"name": "x", "groups": [self.id("groups")], "resources": [self.id("resources")]})
            }
            ("PUT", "/pops/{id}") => json!({"address": "pop.example.com:443", "region": "eu", "zone": "a"}),
            ("PUT", "/oidc-providers/{id}") => {
                json!({"title": "x", "issuer": "https://id.example.com", "client_id": "x"})
            }
            ("POST", "/strikes" | "/restores") => json!({"subject": self.id("devices")}),
            ("POST", "/invitations" | "/ended-web-sessions") => json!({"user": self.id("users")}),
            ("POST", "/enrolment-keys") => json!({"kind": "connector", "site": self.id("sites")}),
            ("POST", "/service-accounts/{id}/keys") => json!({}),
            ("POST" | "PUT", _) => json!({"name": "x"}),
            _ => Value::Null,
        }
    }
}

/// What enrols itself: put straight into the database.
struct Agents {
    connector: String,
    pop: String,
    device: String,
    waiting: String,
}

impl Agents {
    async fn insert(world: &World, site: wire::SiteId, user: wire::UserId) -> Self {
        let core = &world.controller.core;
        let store = core.database.store().unwrap();
        let organization = core.snapshot().dataset.organizations[0].organization.id;
        let pop = insert_pop(&store).await;
        let now = crate::clock::wall().as_millis();
        let mut change = store.change(Scope::Organization(organization), "a test", now).await.unwrap();
        let key = key(Some(organization), EnrolmentTarget::Connector { site }, 1);
        change.insert_enrolment_key(&key).await.unwrap();
        let connector = wire::ConnectorId::from_time_and_random(now, [1; 10]);
        let row = Connector {
            id: connector,
            site,
            name: "hh-1".into(),
            identity_key: sha256(&[b"connector"]),
            wireguard_key: sha256(&[b"wireguard"]),
            seal_key: sha256(&[b"seal"]),
            generation: 1,
            enrolled_by: key.id,
            created_ms: now,
        };
        change.insert_connector(&row).await.unwrap();
        let mut devices = Vec::new();
        for (number, state) in [(1, DeviceState::Active), (2, DeviceState::Pending)] {
            let id = wire::DeviceId::from_time_and_random(now, [number; 10]);
            let row = Device {
                id,
                owner: Member::User(user),
                name: format!("laptop {number}"),
                state,
                identity_key: sha256(&[b"device", &[number]]),
                generation: 1,
                enrolled_by: key.id,
                created_ms: now,
            };
            change.insert_device(&row).await.unwrap();
            devices.push(id.to_string());
        }
        change.commit("enrol", "agents", "{}").await.unwrap();
        core.refresh(&store).await.unwrap();
        let [device, waiting] = devices.try_into().unwrap();
        Self { connector: connector.to_string(), pop, device, waiting }
    }
}

async fn insert_pop(store: &Store) -> String {
    let now = crate::clock::wall().as_millis();
    let mut change = store.change(Scope::Installation, "a test", now).await.unwrap();
    let target = EnrolmentTarget::Pop { region: "eu".into(), zone: "a".into() };
    let key = key(None, target, 2);
    change.insert_enrolment_key(&key).await.unwrap();
    let id = wire::PopId::from_time_and_random(now, [1; 10]);
    let row = Pop {
        id,
        name: "pop-1".into(),
        region: "eu".into(),
        zone: "a".into(),
        address: "pop.example.com:443".into(),
        identity_key: sha256(&[b"pop"]),
        generation: 1,
        enrolled_by: key.id,
        created_ms: now,
    };
    change.insert_pop(&row).await.unwrap();
    change.commit("enrol", "pop", "{}").await.unwrap();
    id.to_string()
}

fn key(organization: Option<wire::OrganizationId>, target: EnrolmentTarget, number: u8) -> EnrolmentKey {
    let now = crate::clock::wall().as_millis();
    EnrolmentKey {
        id: wire::EnrolmentKeyId::from_time_and_random(now, [number; 10]),
        organization,
        name: format!("key {number}"),
        target,
        approval: false,
        secret_hash: SecretHash::from_digest(sha256(&[b"key", &[number]])),
        cap: 5,
        uses: 1,
        expires_ms: now + 3_600_000,
        created_ms: now,
    }
}
