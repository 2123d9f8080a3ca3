//! Enrolment against a real TLS server that answers what a test wants.

use super::*;
use ::http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use policy::enrolment::{ConnectorEnrolment, DeviceEnrolment, Enrolled};
use policy::{ClientSlice, ConnectorSlice, PopEntry};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use state::{StateDir, names};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use tokio::net::TcpListener;
use trust::{
    Audience, Beacon, BundleKey, BundleStatement, CertificateRequest, Grant, Identity, JoinKey, JoinKind,
    JoinSecret, KeyRole, OpenKey, Owner, PostureClass, Role, RootHash, RotationStatement, SigningKey, Slice,
    SliceHeader, SliceVersion, TrustChain, UnixMs, encode_base64url, issue_certificate, sign_document,
};
use wire::{ConnectorId, ControllerId, DeviceId, InstallationId, OrganizationId, PopId, SiteId, UserId};

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECRET: [u8; 32] = [4; 32];

fn organization() -> OrganizationId {
    OrganizationId::from_bytes([2; 16])
}

#[expect(clippy::disallowed_methods, reason = "the code under test asks the machine as well")]
fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    UnixMs::from_millis(u64::try_from(since.as_millis()).expect("fits"))
}

/// What a test bends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    None,
    OtherConsoleCa,
    KeyUsedUp,
    OtherDeviceInGrant,
    OtherKeyInCertificate,
    SliceOfSomebodyElse,
    ChainFromTheFuture,
    /// It says what time it is: in the controller's time, this far from the machine's.
    Signs(i64),
    /// It says so for another nonce.
    SignsForAnother,
    NoGrant,
    Garbage,
}

struct World {
    installation: InstallationId,
    root: SigningKey,
    keys: BTreeMap<KeyRole, SigningKey>,
    chain: String,
    console: KeyPair,
    base: UnixMs,
    twist: Twist,
    requests: Mutex<Vec<String>>,
}

impl World {
    fn new(twist: Twist, installation: u8) -> Self {
        let base = match twist {
            Twist::ChainFromTheFuture | Twist::SignsForAnother => wall().plus(DAY * 3),
            Twist::Signs(days) if days < 0 => wall().minus(DAY * u32::try_from(-days).expect("few")),
            Twist::Signs(days) => wall().plus(DAY * u32::try_from(days).expect("few")),
            _ => wall(),
        };
        let installation = InstallationId::from_bytes([installation; 16]);
        let root = SigningKey::generate();
        let rotation = SigningKey::generate();
        let keys: BTreeMap<KeyRole, SigningKey> = KeyRole::ALL
            .into_iter()
            .filter(|role| !matches!(role, KeyRole::ConsoleCa | KeyRole::ControlSeal))
            .map(|role| (role, SigningKey::generate()))
            .collect();
        let console = KeyPair::generate().expect("key");
        let listed = if twist == Twist::OtherConsoleCa {
            KeyPair::generate().expect("key")
        } else {
            KeyPair::from_pem(&console.serialize_pem()).expect("own")
        };
        let owner = ControllerId::from_bytes([9; 16]);
        let hour = Duration::from_secs(3600);
        let entry =
            |role, public| BundleKey { role, owner, public, nbf: base.minus(hour), exp: base.plus(DAY * 60) };
        let mut all: Vec<_> =
            keys.iter().map(|(role, key)| entry(*role, key.verifying_key().as_bytes().to_vec())).collect();
        all.push(entry(KeyRole::ConsoleCa, listed.public_key_raw().to_vec()));
        all.push(entry(KeyRole::ControlSeal, OpenKey::generate().seal_key().as_bytes().to_vec()));
        let statement = RotationStatement {
            installation,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: base.minus(hour),
            exp: base.plus(DAY * 300),
        };
        let bundle = BundleStatement { installation, serial: 1, iat: base, keys: all };
        let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("chain").to_text();
        Self { installation, root, keys, chain, console, base, twist, requests: Mutex::default() }
    }

    fn join_key(&self, kind: JoinKind, port: u16) -> JoinKey {
        JoinKey {
            kind,
            controller: format!("https://localhost:{port}"),
            root: RootHash::of(&self.root.verifying_key()),
            secret: JoinSecret::from_random(SECRET),
        }
    }

    fn certificate(&self, identity: Identity, key: trust::VerifyingKey) -> String {
        let issuer =
            if identity.role() == Role::Device { KeyRole::DeviceIssuer } else { KeyRole::ConnectorIssuer };
        let request = CertificateRequest {
            identity,
            public_key: key,
            generation: 1,
            not_before: self.base.minus(Duration::from_secs(60)),
            not_after: self.base.plus(DAY * 20),
            serial_random: [5; 8],
        };
        encode_base64url(&issue_certificate(&self.keys[&issuer], &request).expect("certificate"))
    }

    fn beacon(&self, query: &str) -> Option<String> {
        let asked = trust::decode_base64url(query.strip_prefix("nonce=")?).ok()?.try_into().ok()?;
        let nonce = match self.twist {
            Twist::Signs(_) => asked,
            Twist::SignsForAnother => [1; 16],
            _ => return None,
        };
        let beacon = Beacon {
            installation: self.installation,
            controller: ControllerId::from_bytes([9; 16]),
            time: self.base,
            versions: BTreeMap::new(),
            heads: BTreeMap::new(),
            nonce: Some(nonce),
            ext: None,
        };
        Some(sign_document(&self.keys[&KeyRole::Beacon], &beacon).expect("a beacon"))
    }

    fn header(&self, audience: Audience) -> SliceHeader {
        SliceHeader {
            installation: self.installation,
            organization: Some(organization()),
            audience,
            version: SliceVersion { incarnation: 1, version: 1 },
            iat: self.base,
            exp: self.base.plus(DAY),
        }
    }

    fn pops() -> Vec<PopEntry> {
        vec![PopEntry {
            id: PopId::from_bytes([8; 16]),
            address: "pop.example:443".into(),
            region: "r".into(),
            zone: "z".into(),
        }]
    }

    fn enrol_device(&self, request: &DeviceEnrolment) -> Enrolled {
        let device = DeviceId::from_bytes([3; 16]);
        let identity = Identity::device(self.installation, organization(), device);
        let certified = if self.twist == Twist::OtherKeyInCertificate {
            SigningKey::generate().verifying_key()
        } else {
            request.identity_key
        };
        let other = DeviceId::from_bytes([77; 16]);
        let grant = Grant {
            installation: self.installation,
            organization: organization(),
            device: if self.twist == Twist::OtherDeviceInGrant { other } else { device },
            device_generation: 1,
            owner: Owner::User(UserId::from_bytes([6; 16])),
            owner_generation: 1,
            device_name: request.name.clone(),
            owner_name: "Ada".into(),
            groups: vec![],
            posture: PostureClass::Unknown,
            key: request.identity_key,
            iat: self.base,
            nbf: self.base,
            exp: self.base.plus(DAY),
            renew_after_ms: 1000,
            ext: None,
        };
        let body = ClientSlice {
            organization_name: "Acme".into(),
            resources: vec![],
            sites: vec![],
            pops: Self::pops(),
        };
        let audience =
            Audience::Device(if self.twist == Twist::SliceOfSomebodyElse { other } else { device });
        let slice = Slice { header: self.header(audience), body, ext: None };
        Enrolled {
            identity,
            name: request.name.clone(),
            belongs_to: "Acme".into(),
            owner: Some("Ada".into()),
            certificate: self.certificate(identity, certified),
            grant: (self.twist != Twist::NoGrant)
                .then(|| sign_document(&self.keys[&KeyRole::Grant], &grant).expect("grant")),
            slice: sign_document(&self.keys[&KeyRole::Slice], &slice).expect("slice"),
            chain: self.chain.clone(),
        }
    }

    fn enrol_connector(&self, request: &ConnectorEnrolment) -> Enrolled {
        let id = ConnectorId::from_bytes([5; 16]);
        let identity = Identity::connector(self.installation, organization(), id);
        let body = ConnectorSlice {
            site: SiteId::from_bytes([7; 16]),
            site_name: "hq".into(),
            prefixes: vec![],
            resources: vec![],
            pops: Self::pops(),
            regions: vec![],
        };
        let slice = Slice { header: self.header(Audience::Connector(id)), body, ext: None };
        Enrolled {
            identity,
            name: request.name.clone(),
            belongs_to: "Acme".into(),
            owner: None,
            certificate: self.certificate(identity, request.identity_key),
            grant: None,
            slice: sign_document(&self.keys[&KeyRole::Slice], &slice).expect("slice"),
            chain: self.chain.clone(),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<bytes::Bytes>> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        self.requests.lock().expect("no panic").push(format!("{path} {}", String::from_utf8_lossy(&body)));
        let ok = |body: Vec<u8>| Response::new(Full::new(body.into()));
        let mut response = match path.as_str() {
            _ if self.twist == Twist::Garbage => ok(b"\xFF<html>".to_vec()),
            "/enrol/v1/trust" => {
                let mut answer = serde_json::json!({ "chain": self.chain });
                if let Some(beacon) = self.beacon(&query) {
                    answer["beacon"] = beacon.into();
                }
                ok(serde_json::to_vec(&answer).expect("json"))
            }
            "/enrol/v1/device" if self.twist == Twist::KeyUsedUp => {
                let problem = br#"{"type":"/problems/key-used-up","title":"Enrolment key used up","detail":"this key was made for 1 device and has enrolled 1; ask an administrator for a new one","status":403}"#;
                let mut response = ok(problem.to_vec());
                *response.status_mut() = StatusCode::FORBIDDEN;
                response
            }
            "/enrol/v1/device" => {
                let request: DeviceEnrolment = serde_json::from_slice(&body).expect("a device enrolment");
                request.check_proof().expect("proof");
                ok(serde_json::to_vec(&self.enrol_device(&request)).expect("json"))
            }
            "/enrol/v1/connector" => {
                let request: ConnectorEnrolment =
                    serde_json::from_slice(&body).expect("a connector enrolment");
                request.check_proof().expect("proof");
                ok(serde_json::to_vec(&self.enrol_connector(&request)).expect("json"))
            }
            _ => ok(Vec::new()),
        };
        let date = SystemTime::UNIX_EPOCH + Duration::from_millis(self.base.as_millis());
        let date = httpdate::fmt_http_date(date).parse().expect("a header value");
        response.headers_mut().insert(::http::header::DATE, date);
        response
    }
}

struct Server {
    world: Arc<World>,
    port: u16,
    _task: tokio::task::JoinSet<()>,
}

async fn serve(world: World) -> Server {
    let mut ca = CertificateParams::new(Vec::new()).expect("params");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuer = Issuer::from_params(&ca, &world.console);
    let leaf_key = KeyPair::generate().expect("key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
    let leaf = leaf.signed_by(&leaf_key, &issuer).expect("signs");
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], leaf_key.serialize_der().try_into().expect("a key"))
            .expect("config");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let world = Arc::new(world);
    let mut task = tokio::task::JoinSet::new();
    let served = world.clone();
    task.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, world) = (acceptor.clone(), served.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = hyper::service::service_fn(move |request| {
                    let world = world.clone();
                    async move { Ok::<_, std::convert::Infallible>(world.answer(request).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            });
        }
    });
    Server { world, port, _task: task }
}

async fn device_with(twist: Twist) -> (Result<EnrolledAgent, EnrolError>, tempfile::TempDir, Server) {
    let server = serve(World::new(twist, 1)).await;
    let dir = tempfile::tempdir().expect("a directory");
    let key = server.world.join_key(JoinKind::Device, server.port);
    let result = enrol_device(&key, &dir.path().join("state"), "laptop").await;
    (result, dir, server)
}

fn saw_secret(server: &Server) -> bool {
    let secret = encode_base64url(&SECRET);
    server.world.requests.lock().expect("no panic").iter().any(|request| request.contains(&secret))
}

#[tokio::test]
async fn a_device_enrols_and_finds_everything_in_its_state_directory() {
    let (result, dir, server) = device_with(Twist::None).await;
    let agent = result.expect("enrols");
    assert_eq!((agent.name.as_str(), agent.owner.as_deref()), ("laptop", Some("Ada")));
    let path = dir.path().join("state");
    let state = StateDir::open(&path, Role::Device).expect("opens");
    assert_eq!(state.of().installation, server.world.installation);
    let seed = state.require_secret::<32>(names::IDENTITY_KEY).expect("a key");
    let der = state.require(names::CERTIFICATE).expect("a certificate");
    assert_eq!(
        trust::subject_public_key(&der).expect("parses"),
        SigningKey::from_seed(&seed).verifying_key().as_bytes()
    );
    for name in [names::CHAIN, names::GRANT, names::SLICE, ENROLLED_FILE] {
        assert!(state.read(name).expect("reads").is_some(), "{name}");
    }
    assert_eq!(EnrolledAgent::read(&state), Some(agent));
}

#[tokio::test]
async fn a_connector_enrols_with_keys_of_its_own() {
    let server = serve(World::new(Twist::None, 1)).await;
    let dir = tempfile::tempdir().expect("a directory");
    let key = server.world.join_key(JoinKind::Connector, server.port);
    enrol_connector(&key, dir.path(), "hq-1").await.expect("enrols");
    let state = StateDir::open(dir.path(), Role::Connector).expect("opens");
    let wireguard = state.require_secret::<32>(names::WIREGUARD_KEY).expect("a key");
    let seal = state.require_secret::<32>(names::SEAL_KEY).expect("a key");
    assert_ne!(wireguard, seal);
    let sent = server.world.requests.lock().expect("no panic").last().cloned().expect("a request");
    let public = OpenKey::from_private(&wireguard).expect("a key").seal_key();
    assert!(sent.contains(&encode_base64url(public.as_bytes())), "the key on disk is the one announced");
}

#[tokio::test]
async fn a_server_with_another_root_gets_no_secret() {
    let server = serve(World::new(Twist::None, 1)).await;
    let mut key = server.world.join_key(JoinKind::Device, server.port);
    key.root = RootHash::from_bytes([0; 32]);
    let dir = tempfile::tempdir().expect("a directory");
    let error = enrol_device(&key, dir.path(), "laptop").await.expect_err("refused");
    assert!(matches!(error, EnrolError::OtherRoot { .. }), "{error}");
    assert!(!saw_secret(&server));
}

#[tokio::test]
async fn a_server_without_the_console_cas_certificate_gets_no_secret() {
    let (result, _dir, server) = device_with(Twist::OtherConsoleCa).await;
    let error = result.expect_err("refused").to_string();
    assert!(error.contains("not believed"), "{error}");
    assert!(!saw_secret(&server));
}

#[tokio::test]
async fn a_used_up_key_is_said_plainly_and_a_new_one_works_in_the_same_directory() {
    let (result, dir, _server) = device_with(Twist::KeyUsedUp).await;
    let error = result.expect_err("refused").to_string();
    assert!(error.contains("used up") && error.contains("ask an administrator"), "{error}");
    // The directory is this installation's now, and only this installation's.
    let other = serve(World::new(Twist::None, 2)).await;
    let key = other.world.join_key(JoinKind::Device, other.port);
    let error = enrol_device(&key, &dir.path().join("state"), "laptop").await.expect_err("another's");
    assert!(error.to_string().contains("--state"), "{error}");
    assert!(!saw_secret(&other));
}

#[tokio::test]
async fn answers_that_are_not_ours_are_refused_and_leave_no_certificate() {
    for twist in [
        Twist::OtherDeviceInGrant,
        Twist::OtherKeyInCertificate,
        Twist::SliceOfSomebodyElse,
        Twist::NoGrant,
        Twist::Garbage,
    ] {
        let (result, dir, _server) = device_with(twist).await;
        result.expect_err("refused");
        assert!(!Path::new(&dir.path().join("state").join(names::CERTIFICATE)).exists(), "{twist:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_named_with_the_difference() {
    let (result, _dir, server) = device_with(Twist::ChainFromTheFuture).await;
    let error = result.expect_err("refused");
    assert!(matches!(error, EnrolError::Clock { direction: ClockDirection::Behind, .. }), "{error}");
    assert!(error.to_string().contains("behind the controller's"), "{error}");
    assert!(!saw_secret(&server));
}

#[tokio::test]
async fn a_controller_that_signs_the_time_is_believed_whatever_the_machine_s_clock_says() {
    // Years behind, as after a dead battery, and up to a week ahead.
    for days in [-6, -1, 0, 1, 3, 400] {
        let (result, dir, server) = device_with(Twist::Signs(days)).await;
        let agent = result.unwrap_or_else(|error| panic!("{days} days: {error}"));
        assert_eq!(agent.owner.as_deref(), Some("Ada"));
        assert!(saw_secret(&server));
        // The first start does not ask a clock by which the chain is not valid; any other one is not held back for good.
        let floor = std::fs::read_to_string(dir.path().join("state").join(names::FLOOR));
        if days <= 0 {
            floor.expect_err("the machine's own clock does");
            continue;
        }
        let ahead = floor.expect("a floor").trim().parse::<i64>().expect("milliseconds")
            - i64::try_from(wall().as_millis()).expect("fits");
        assert!((ahead - days * 24 * 3_600_000).abs() < 60_000, "{days} days: {ahead} ms");
    }
    let (result, dir, _server) = device_with(Twist::None).await;
    result.expect("enrols");
    assert!(!dir.path().join("state").join(names::FLOOR).exists(), "nobody signed a time");
}

#[tokio::test]
async fn a_signed_time_counts_only_for_the_own_nonce_and_not_long_before_the_machine_s() {
    let (result, _dir, server) = device_with(Twist::SignsForAnother).await;
    let error = result.expect_err("a replay says nothing");
    assert!(matches!(error, EnrolError::Clock { direction: ClockDirection::Behind, .. }), "{error}");
    assert!(!saw_secret(&server));
    let (result, _dir, server) = device_with(Twist::Signs(-8)).await;
    let error = result.expect_err("a key that ended since would say the same");
    assert!(matches!(error, EnrolError::Clock { direction: ClockDirection::Ahead, .. }), "{error}");
    assert!(!saw_secret(&server));
}

#[tokio::test]
async fn what_is_enrolled_stays_so_when_the_clock_goes_back() {
    let (result, dir, server) = device_with(Twist::Signs(3)).await;
    let agent = result.expect("enrols");
    let key = server.world.join_key(JoinKind::Device, server.port);
    let path = dir.path().join("state");
    // By this machine's clock its certificate begins in three days.
    assert_eq!(already_enrolled(&path, Role::Device, &key.root).expect("reads"), Some(agent.identity));
}

#[tokio::test]
async fn an_enrolled_directory_is_not_enrolled_again_and_says_as_whom_it_is() {
    let (result, dir, server) = device_with(Twist::None).await;
    let agent = result.expect("enrols");
    let key = server.world.join_key(JoinKind::Device, server.port);
    let path = dir.path().join("state");
    let asked = server.world.requests.lock().expect("no panic").len();
    let error = enrol_device(&key, &path, "laptop").await.expect_err("refused");
    assert!(error.to_string().contains(&agent.identity.to_string()), "{error}");
    assert_eq!(server.world.requests.lock().expect("no panic").len(), asked, "nobody was asked");
    assert_eq!(already_enrolled(&path, Role::Device, &key.root).expect("reads"), Some(agent.identity));
}

#[tokio::test]
async fn an_unreachable_controller_and_a_key_of_another_kind_say_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let world = World::new(Twist::None, 1);
    let dir = tempfile::tempdir().expect("a directory");
    let error = enrol_device(&world.join_key(JoinKind::Device, port), dir.path(), "laptop")
        .await
        .expect_err("nobody");
    assert!(error.to_string().contains(&format!("https://localhost:{port} cannot be reached")), "{error}");
    let error =
        enrol_device(&world.join_key(JoinKind::Pop, port), dir.path(), "laptop").await.expect_err("kind");
    assert!(error.to_string().contains("enrols a PoP, not a device"), "{error}");
}

#[tokio::test]
async fn the_api_client_speaks_over_a_unix_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("admin.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("binds");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let text = format!("{} {}", request.method(), request.uri());
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(bytes::Bytes::from(
                    serde_json::to_vec(&text).expect("json"),
                ))))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    let client = ApiClient::unix(path);
    assert_eq!(client.get::<String>("/api/v1/sites").await.expect("answers"), "GET /api/v1/sites");
    let deleted = client.delete::<String>("/api/v1/sites/x").await.expect("answers");
    assert_eq!(deleted, "DELETE /api/v1/sites/x");
    let missing = ApiClient::unix(dir.path().join("nobody.sock"));
    let error = missing.get::<String>("/").await.expect_err("nobody listens").to_string();
    assert!(error.contains("nobody.sock cannot be reached"), "{error}");
}
