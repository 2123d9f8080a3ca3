//! The daemon with real sockets and a state directory, and nobody else in the world.

use super::*;
use crate::control::{ControlClient, ControlError, Reachable, WhySource};
use policy::{Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, Mode, PopEntry};
use state::{About, names};
use std::time::Duration;
use tokio::time::timeout;
use trust::{
    Audience, BundleKey, BundleStatement, CertificateRequest, Grant, Identity, KeyRole, OpenKey, Owner,
    PostureClass, RootHash, RotationStatement, SealKey, SigningKey, Slice, SliceHeader, SliceVersion,
    TrustChain, issue_certificate, sign_document,
};
use wire::{
    ConnectorId, ControllerId, DeviceId, GroupId, InstallationId, OrganizationId, PolicyId, PopId,
    ResourceId, SiteId, UserId,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Writes the state directory of an enrolled device, whose only PoP is not there.
fn enrolled(path: &Path) {
    let wall = wall_clock();
    let installation = InstallationId::from_bytes([1; 16]);
    let organization = OrganizationId::from_bytes([2; 16]);
    let device = DeviceId::from_bytes([3; 16]);
    let (root, rotation, key) = (SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
    let roles = [KeyRole::DeviceIssuer, KeyRole::Grant, KeyRole::Slice];
    let keys: Vec<(KeyRole, SigningKey)> = roles.map(|role| (role, SigningKey::generate())).into();
    let signer = |role| &keys.iter().find(|(of, _)| *of == role).expect("made above").1;
    let hour = Duration::from_secs(3600);
    let owner = ControllerId::from_bytes([9; 16]);
    let entry =
        |role, public| BundleKey { role, owner, public, nbf: wall.minus(hour), exp: wall.plus(DAY * 60) };
    let mut all: Vec<BundleKey> =
        keys.iter().map(|(role, key)| entry(*role, key.verifying_key().as_bytes().to_vec())).collect();
    all.push(entry(KeyRole::ControlSeal, OpenKey::generate().seal_key().as_bytes().to_vec()));
    let statement = RotationStatement {
        installation,
        root: root.verifying_key(),
        rotation: rotation.verifying_key(),
        epoch: 1,
        nbf: wall.minus(hour),
        exp: wall.plus(DAY * 300),
    };
    let bundle = BundleStatement { installation, serial: 1, iat: wall, keys: all };
    let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("chain");
    let request = CertificateRequest {
        identity: Identity::device(installation, organization, device),
        public_key: key.verifying_key(),
        generation: 1,
        not_before: wall.minus(hour),
        not_after: wall.plus(DAY * 20),
        serial_random: [5; 8],
    };
    let certificate = issue_certificate(signer(KeyRole::DeviceIssuer), &request).expect("certificate");
    let grant = Grant {
        installation,
        organization,
        device,
        device_generation: 1,
        owner: Owner::User(UserId::from_bytes([6; 16])),
        owner_generation: 1,
        device_name: "laptop".into(),
        owner_name: "Ada".into(),
        groups: vec![],
        posture: PostureClass::Unknown,
        key: key.verifying_key(),
        iat: wall,
        nbf: wall,
        exp: wall.plus(DAY),
        renew_after_ms: 14_400_000,
        ext: None,
    };
    let site = SiteId::from_bytes([7; 16]);
    let body = ClientSlice {
        organization_name: "Acme".into(),
        resources: [
            ("Wiki", Some("docs"), "wiki.example", Mode::Standard),
            ("Vault", None, "vault.example", Mode::Strict),
        ]
        .into_iter()
        .zip(4_u8..)
        .map(|((name, alias, address, mode), byte)| ClientResource {
            id: ResourceId::from_bytes([byte; 16]),
            name: name.into(),
            alias: alias.map(str::to_owned),
            address: address.parse().expect("a name"),
            ports: vec!["443".parse().expect("a port")],
            mode,
            site,
            allow: vec![Allow {
                group: GroupId::from_bytes([8; 16]),
                group_name: "staff".into(),
                policy: PolicyId::from_bytes([8; 16]),
                policy_name: "staff reach the wiki".into(),
            }],
        })
        .collect(),
        sites: vec![ClientSite {
            id: site,
            name: "hq".into(),
            connectors: vec![ClientConnector {
                id: ConnectorId::from_bytes([5; 16]),
                name: "hq-1".into(),
                wireguard_key: OpenKey::generate().seal_key(),
                seal_key: SealKey::from_bytes(*OpenKey::generate().seal_key().as_bytes()),
            }],
            regions: vec![],
        }],
        pops: vec![PopEntry {
            id: PopId::from_bytes([8; 16]),
            // RFC 5737: nobody is there.
            address: "192.0.2.1:443".into(),
            region: "r".into(),
            zone: "z".into(),
        }],
    };
    let header = SliceHeader {
        installation,
        organization: Some(organization),
        audience: Audience::Device(device),
        version: SliceVersion { incarnation: 1, version: 7 },
        iat: wall,
        exp: wall.plus(DAY),
    };
    let slice = Slice { header, body, ext: None };
    let about = About::new(installation, Role::Device, RootHash::of(&root.verifying_key()));
    let state = StateDir::create(path, &about).expect("creates");
    state.write_secret(names::IDENTITY_KEY, key.expose_seed()).expect("writes");
    state.write(names::CHAIN, chain.to_text().as_bytes()).expect("writes");
    let grant = sign_document(signer(KeyRole::Grant), &grant).expect("grant");
    state.write(names::GRANT, grant.as_bytes()).expect("writes");
    let slice = sign_document(signer(KeyRole::Slice), &slice).expect("slice");
    state.write_generation(names::SLICE, slice.as_bytes()).expect("writes");
    state.write(names::CERTIFICATE, &certificate).expect("writes");
}

struct Running {
    dir: tempfile::TempDir,
    control: ControlClient,
    task: JoinHandle<()>,
}

fn options(dir: &Path) -> ClientOptions {
    ClientOptions {
        state: dir.join("state"),
        run_dir: dir.join("run"),
        proxy: "127.0.0.1:0".parse().expect("an address"),
        forwards: vec![],
        port_mapping: portmap::Protocols::NONE,
    }
}

async fn running() -> Running {
    let dir = tempfile::tempdir().expect("a directory");
    enrolled(&dir.path().join("state"));
    let client = Client::start(options(dir.path())).await.expect("starts");
    let control = ControlClient::at(client.control_socket().to_owned());
    let task = tokio::spawn(client.wait(std::future::pending()));
    Running { dir, control, task }
}

#[tokio::test]
async fn a_client_comes_up_from_disk_alone_and_says_how_it_stands() {
    let running = running().await;
    let status = running.control.status().await.expect("answers");
    assert_eq!(status.owner.as_deref(), Some("Ada"));
    assert_eq!((status.organization.as_str(), status.freshness.as_str()), ("Acme", "isolated"));
    assert_eq!(status.control_last_heard_ms, None);
    assert!(!status.access_expired && status.access_until > status.now);
    assert_eq!(status.slice.expect("a slice").version, "1.7");
    assert_eq!(status.pops.len(), 1);
    let resources = running.control.resources().await.expect("answers");
    // By name; and with no controller heard, what is strict is said to be closed.
    let [vault, wiki] = &resources[..] else { panic!("{resources:?}") };
    assert_eq!((vault.name.as_str(), vault.mode, vault.closed_by_isolation), ("Vault", Mode::Strict, true));
    assert_eq!((wiki.name.as_str(), wiki.mode, wiki.closed_by_isolation), ("Wiki", Mode::Standard, false));
    assert_eq!(wiki.reachable, Reachable::Untried);
}

#[tokio::test]
async fn why_is_answered_from_the_own_slice_and_without_a_controller_from_what_is_known_here() {
    let running = running().await;
    let why = running.control.why("DOCS").await.expect("answers");
    assert_eq!((why.source, why.holds), (WhySource::Slice, true));
    let text = serde_json::to_string(&why.explanation).expect("json");
    assert!(text.contains("staff reach the wiki"), "{text}");
    let why = running.control.why("payroll").await.expect("answers");
    assert_eq!((why.source, why.holds), (WhySource::Local, false));
    assert!(why.controller.is_some());
}

#[tokio::test]
async fn forwards_are_added_listed_and_removed_and_a_taken_port_is_said() {
    let running = running().await;
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let forwards =
        running.control.forward_add(any, "wiki:443".parse().expect("a target")).await.expect("forwards");
    let Listen::Tcp(listen) = forwards[0].listen else { panic!("{forwards:?}") };
    assert_eq!(running.control.forward_list().await.expect("lists"), forwards);
    let again = running.control.forward_add(listen, "wiki:443".parse().expect("a target")).await;
    let error = again.expect_err("taken").to_string();
    assert!(error.contains("another process is on this port"), "{error}");
    assert_eq!(running.control.forward_remove(listen).await.expect("removes"), []);
    let error = running.control.forward_remove(listen).await.expect_err("gone").to_string();
    assert!(error.contains(&listen.to_string()), "{error}");
    let open: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    let error = running.control.forward_add(open, "wiki:443".parse().expect("a target")).await;
    assert!(error.expect_err("refused").to_string().contains("loopback"));
}

#[tokio::test]
async fn a_forward_by_a_socket_is_its_owners_alone_and_takes_nobodys_place() {
    let running = running().await;
    let path = running.dir.path().join("db.sock");
    let target = || "wiki:443".parse().expect("a target");
    let forwards = running.control.forward_add(Listen::Unix(path.clone()), target()).await.expect("forwards");
    assert_eq!(forwards, [Forward { listen: Listen::Unix(path.clone()), target: target() }]);
    let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    // It is served: the target cannot be had here, so the connection ends.
    let mut stream = UnixStream::connect(&path).await.expect("connects");
    let mut end = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut end);
    let _ = timeout(Duration::from_secs(40), read).await.expect("an end");
    let left: Vec<_> = std::fs::read_dir(running.dir.path())
        .expect("is there")
        .map(|entry| entry.expect("readable").file_name())
        .filter(|name| name.to_string_lossy().starts_with(".tidegate"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    running.control.forward_remove(Listen::Unix(path.clone())).await.expect("removes");
    assert!(!path.exists());
    // What somebody else put there stays.
    std::fs::write(&path, b"mine").expect("writes");
    let error = running.control.forward_add(Listen::Unix(path.clone()), target()).await.expect_err("taken");
    assert!(error.to_string().contains("must be new"), "{error}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"mine");
    let text = serde_json::to_string(&forwards[0].listen).expect("json");
    assert_eq!(serde_json::from_str::<Listen>(&text).expect("reads"), Listen::Unix(path));
}

#[tokio::test]
async fn down_ends_the_client_and_leaves_no_socket_behind() {
    let running = running().await;
    running.control.down().await.expect("ends");
    timeout(Duration::from_secs(10), running.task).await.expect("ends in time").expect("no panic");
    let left: Vec<_> = std::fs::read_dir(running.dir.path().join("run")).expect("is there").collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(matches!(running.control.status().await, Err(ControlError::NotRunning { .. })));
    // The same state directory starts again at once.
    let client = Client::start(options(running.dir.path())).await.expect("starts again");
    client.wait(std::future::ready(())).await;
}

#[tokio::test]
async fn a_second_client_on_the_same_state_directory_is_refused() {
    let running = running().await;
    let error = Client::start(options(running.dir.path())).await.err().expect("refused").to_string();
    assert!(error.contains("another Tidegate process"), "{error}");
}

#[tokio::test]
async fn the_sockets_and_the_credential_are_the_owners_alone() {
    let running = running().await;
    let run = running.dir.path().join("run");
    for name in [CONTROL_SOCKET, PROXY_SOCKET, PROXY_URL] {
        let mode = std::fs::metadata(run.join(name)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
    assert_eq!(std::fs::metadata(&run).expect("is there").permissions().mode() & 0o077, 0);
}

#[tokio::test]
async fn a_proxy_on_an_address_that_others_reach_and_an_empty_state_directory_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = ClientOptions { proxy: "0.0.0.0:1080".parse().expect("an address"), ..options(dir.path()) };
    assert!(matches!(Client::start(open).await.err(), Some(ClientError::NotLoopback(_))));
    let error = Client::start(options(dir.path())).await.err().expect("refused").to_string();
    assert!(error.contains("tidegate login"), "{error}");
}

#[tokio::test]
async fn a_malformed_request_on_the_control_socket_gets_an_answer() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let running = running().await;
    for request in [&b"hello\n"[..], b"{\"request\":\"fly\"}\n", b"\n", &[0xFF; 20_000]] {
        let mut stream =
            UnixStream::connect(running.dir.path().join("run").join(CONTROL_SOCKET)).await.expect("connects");
        let _ = stream.write_all(request).await;
        let _ = stream.shutdown().await;
        let mut answer = String::new();
        // A request that was cut at its bound may reset the connection behind the answer.
        let _ = timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.expect("an end");
        assert!(answer.is_empty() || answer.contains("\"answer\":\"error\""), "{answer}");
    }
    running.control.status().await.expect("still answers");
}
