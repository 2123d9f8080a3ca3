//! The way between a device and a connector as the API and the picture show it.

use super::{
    World,
    console::{get, owner},
    stranger,
};
use crate::presence::Here;
use axum::body::Body;
use http::{Request, header};
use policy::enrolment::{ConnectorEnrolment, DeviceEnrolment, PopEnrolment};
use serde_json::{Value, json};
use trust::{Identity, JoinKey, SealKey, SigningKey, Subject};
use wire::{ConnectorId, DeviceId, PathTold, PopId, TellPaths};

async fn enrol(world: &World, kind: &str, request: String) -> Identity {
    let builder = Request::post(format!("/enrol/v1/{kind}")).header(header::CONTENT_TYPE, "application/json");
    let reply = world.send(stranger(), builder.body(Body::from(request)).unwrap()).await;
    serde_json::from_value(reply.ok()["identity"].clone()).unwrap()
}

async fn key(world: &World, body: Value) -> JoinKey {
    world.key(body).await.parse().unwrap()
}

/// A PoP, a connector and a device, as the controller knows them.
struct Net {
    world: World,
    pop: PopId,
    connector: (ConnectorId, Identity),
    device: (DeviceId, Identity),
}

impl Net {
    async fn new() -> Self {
        let world = World::new().await;
        let f = world.furnish().await;
        let secret = key(&world, json!({"kind": "pop", "region": "eu"})).await.secret;
        let pop = PopEnrolment::new(secret, &SigningKey::generate(), "127.0.0.1:4433", "pop-1");
        let pop = enrol(&world, "pop", serde_json::to_string(&pop).unwrap()).await;
        let secret = key(&world, json!({"kind": "connector", "site": f.site})).await.secret;
        let keys = [SealKey::from_bytes([2; 32]), SealKey::from_bytes([3; 32])];
        let connector = ConnectorEnrolment::new(secret, &SigningKey::generate(), keys[0], keys[1], "hh-1");
        let connector = enrol(&world, "connector", serde_json::to_string(&connector).unwrap()).await;
        let secret = key(&world, json!({"kind": "device", "owner": f.user})).await.secret;
        let device = DeviceEnrolment::new(secret, &SigningKey::generate(), "laptop");
        let device = enrol(&world, "device", serde_json::to_string(&device).unwrap()).await;
        let (Subject::Pop(pop), Subject::Connector(con), Subject::Device(dev)) =
            (pop.subject(), connector.subject(), device.subject())
        else {
            panic!("each has the id of its kind")
        };
        Self { world, pop, connector: (con, connector), device: (dev, device) }
    }

    /// The PoP says who is there, the device by UDP or TCP 443.
    fn attached(&self, device_by_stream: &[Identity]) {
        let here =
            Here { attached: vec![self.connector.1, self.device.1], by_stream: device_by_stream.to_vec() };
        let core = &self.world.controller.core;
        core.presence().pop_attached(self.pop, &here, crate::clock::wall());
    }

    /// The connector says which way packets go.
    fn told(&self, pop: Option<PopId>) {
        let paths = vec![PathTold { device: self.device.0, pop, stream: false }];
        let report = TellPaths { afresh: false, paths, gone: Vec::new() };
        let core = &self.world.controller.core;
        assert_eq!(core.paths().tell(self.connector.0, &report, crate::clock::wall()), 1);
    }

    /// What the API says of device and connector.
    async fn sessions(&self) -> (Value, Value) {
        let list = self.world.get("/sessions").await.ok();
        let of = |kind: &str| {
            let items = list["items"].as_array().unwrap();
            items.iter().find(|item| item["kind"] == kind).unwrap().clone()
        };
        (of("device"), of("connector"))
    }
}

#[tokio::test]
async fn the_api_and_the_picture_show_each_way_as_soon_as_it_is_told() {
    let net = Net::new().await;
    let session = owner(&net.world).await;
    net.attached(&[]);
    let (device, connector) = net.sessions().await;
    assert_eq!((&device["paths"], connector["path_counts"]["direct"].as_u64()), (&json!([]), Some(0)));
    let (pop, by_tcp) = (net.pop.to_string(), [net.device.1]);
    for (told, streams, kind, line, word) in [
        (None, &[][..], "direct", "p p--direct", "direct"),
        (Some(net.pop), &[][..], "relay", "p p--relay", "relay pop-1"),
        (Some(net.pop), &by_tcp[..], "tcp", "p p--tcp", "TCP 443, relay pop-1"),
    ] {
        net.attached(streams);
        net.told(told);
        let (device, connector) = net.sessions().await;
        let path = &device["paths"][0];
        assert_eq!((&path["kind"], &path["connector_name"]), (&json!(kind), &json!("hh-1")), "{device}");
        assert_eq!(path["pop"].as_str(), told.map(|_| pop.as_str()));
        assert_eq!(device["pops_by_tcp"].as_array().unwrap().len(), streams.len());
        assert_eq!(connector["path_counts"][kind], 1, "{connector}");
        let picture = get(&net.world, "/topology", &session).await.text;
        assert!(picture.contains(line) && picture.contains(word), "{kind}: {picture}");
        for other in ["p p--direct", "p p--relay", "p p--tcp"] {
            assert_eq!(picture.contains(&format!("class=\"{other}\"")), other == line, "{kind}: {other}");
        }
    }
    // Who has gone has no way.
    net.world.controller.core.presence().pop_lost(net.pop, crate::clock::wall());
    let picture = get(&net.world, "/topology", &session).await.text;
    assert!(picture.contains("No device has a tunnel to a connector"), "{picture}");
}

#[tokio::test]
async fn a_connector_tells_only_of_itself_and_another_organization_s_devices_are_not_shown() {
    let net = Net::new().await;
    net.attached(&[]);
    let stranger = DeviceId::from_bytes([9; 16]);
    let report = TellPaths {
        afresh: true,
        paths: vec![PathTold { device: stranger, pop: None, stream: false }],
        gone: Vec::new(),
    };
    let core = &net.world.controller.core;
    core.paths().tell(net.connector.0, &report, crate::clock::wall());
    let (device, connector) = net.sessions().await;
    assert_eq!(device["paths"], json!([]));
    assert_eq!(connector["path_counts"], json!({"direct": 0, "relay": 0, "tcp": 0}));
}
