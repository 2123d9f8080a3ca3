//! An installation on this machine: documents, state directories, and the three roles as they really run.

use policy::{
    Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, ConnectorSlice, Mode, PopEntry,
    SliceResource,
};
use state::{About, StateDir, names};
use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
};
use trust::{
    Audience, BundleKey, BundleStatement, CertificateRequest, Grant, GroupRef, Identity, KeyRole, OpenKey,
    Owner, PostureClass, Role, RootHash, RotationStatement, SigningKey, Slice, SliceBody, SliceHeader,
    SliceVersion, TrustChain, UnixMs, issue_certificate, sign_document,
};
use wire::{
    ConnectorId, ControllerId, DeviceId, GroupId, InstallationId, OrganizationId, PolicyId, PopId,
    ResourceId, SiteId, UserId,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);
const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([2; 16]);
const DEVICE: DeviceId = DeviceId::from_bytes([3; 16]);
const CONNECTOR: ConnectorId = ConnectorId::from_bytes([4; 16]);
const POP: PopId = PopId::from_bytes([5; 16]);
const SITE: SiteId = SiteId::from_bytes([6; 16]);
const STAFF: GroupId = GroupId::from_bytes([7; 16]);
const OTHERS: GroupId = GroupId::from_bytes([8; 16]);

fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    UnixMs::from_millis(u64::try_from(since.as_millis()).expect("fits"))
}

/// A role that runs until it is told to end.
pub(crate) struct Running<E> {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), E>>,
}

impl<E: std::fmt::Debug + Send + 'static> Running<E> {
    fn spawn<F, R>(run: F) -> Self
    where
        F: FnOnce(oneshot::Receiver<()>) -> R,
        R: Future<Output = Result<(), E>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        Self { stop: Some(stop), task: tokio::spawn(run(stopped)) }
    }

    pub(crate) async fn end(mut self) {
        let _ = self.stop.take().expect("ended once").send(());
        let ended = tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("ends in time");
        ended.expect("no panic").expect("no error");
    }
}

fn run_pop(options: pop::PopOptions) -> Running<pop::PopError> {
    let pop = pop::Pop::open(options).expect("opens");
    Running::spawn(|stop| {
        pop.run(async {
            let _ = stop.await;
        })
    })
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    keys: BTreeMap<KeyRole, SigningKey>,
    root: RootHash,
    chain: String,
    base: UnixMs,
    pub(crate) pop_address: SocketAddr,
    wireguard: OpenKey,
    seal: OpenKey,
}

impl World {
    /// An installation with these targets: (resource name, address, whether the connector's policy allows it).
    pub(crate) fn new(targets: &[(&str, SocketAddr, bool)]) -> Self {
        let base = wall();
        let (root, rotation) = (SigningKey::generate(), SigningKey::generate());
        let keys: BTreeMap<KeyRole, SigningKey> = KeyRole::ALL
            .into_iter()
            .filter(|role| !matches!(role, KeyRole::ConsoleCa | KeyRole::ControlSeal))
            .map(|role| (role, SigningKey::generate()))
            .collect();
        let owner = ControllerId::from_bytes([9; 16]);
        let nbf = base.minus(Duration::from_secs(3600));
        let entry = |role, public| BundleKey { role, owner, public, nbf, exp: base.plus(DAY * 60) };
        let mut all: Vec<_> =
            keys.iter().map(|(role, key)| entry(*role, key.verifying_key().as_bytes().to_vec())).collect();
        all.push(entry(KeyRole::ControlSeal, OpenKey::generate().seal_key().as_bytes().to_vec()));
        let statement = RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf,
            exp: base.plus(DAY * 300),
        };
        let bundle = BundleStatement { installation: INSTALLATION, serial: 1, iat: base, keys: all };
        let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("chain").to_text();
        // A port that was free a moment ago: the slices name it before the PoP runs.
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        let pop_address = probe.local_addr().expect("bound");
        let world = Self {
            dir: tempfile::tempdir().expect("a directory"),
            keys,
            root: RootHash::of(&root.verifying_key()),
            chain,
            base,
            pop_address,
            wireguard: OpenKey::generate(),
            seal: OpenKey::generate(),
        };
        world.write(targets);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn directory(&self, name: &str, identity: Identity) -> (StateDir, SigningKey) {
        let about = About::new(INSTALLATION, identity.role(), self.root);
        let state = StateDir::create(&self.path(name), &about).expect("creates");
        let key = SigningKey::generate();
        let issuer = match identity.role() {
            Role::Device => KeyRole::DeviceIssuer,
            Role::Connector => KeyRole::ConnectorIssuer,
            Role::Pop => KeyRole::PopIssuer,
            Role::Controller => KeyRole::ControllerIssuer,
        };
        let request = CertificateRequest {
            identity,
            public_key: key.verifying_key(),
            generation: 1,
            not_before: self.base.minus(Duration::from_secs(600)),
            not_after: self.base.plus(DAY * 20),
            serial_random: [5; 8],
        };
        let certificate = issue_certificate(&self.keys[&issuer], &request).expect("certificate");
        state.write_secret(names::IDENTITY_KEY, key.expose_seed()).expect("writes");
        state.write(names::CHAIN, self.chain.as_bytes()).expect("writes");
        state.write(names::CERTIFICATE, &certificate).expect("writes");
        (state, key)
    }

    fn slice<B: SliceBody>(&self, audience: Audience, body: B) -> String {
        let header = SliceHeader {
            installation: INSTALLATION,
            organization: Some(ORGANIZATION),
            audience,
            version: SliceVersion { incarnation: 1, version: 1 },
            iat: self.base,
            exp: self.base.plus(DAY),
        };
        sign_document(&self.keys[&KeyRole::Slice], &Slice { header, body, ext: None }).expect("slice")
    }

    fn write(&self, targets: &[(&str, SocketAddr, bool)]) {
        let pops = vec![PopEntry {
            id: POP,
            address: self.pop_address.to_string(),
            region: "here".into(),
            zone: "here".into(),
        }];
        let allow = |group| Allow {
            group,
            group_name: "group".into(),
            policy: PolicyId::from_bytes([1; 16]),
            policy_name: "policy".into(),
        };
        let ids = (20_u8..).map(|byte| ResourceId::from_bytes([byte; 16]));
        let (mut at_client, mut at_connector) = (Vec::new(), Vec::new());
        for ((name, address, is_allowed), id) in targets.iter().zip(ids) {
            let ports = vec![address.port().to_string().parse().expect("a port")];
            at_client.push(ClientResource {
                id,
                name: (*name).into(),
                alias: None,
                address: policy::Address::Ip(address.ip()),
                ports: ports.clone(),
                mode: Mode::Standard,
                site: SITE,
                allow: vec![allow(STAFF)],
            });
            at_connector.push(SliceResource {
                id,
                name: (*name).into(),
                address: policy::Address::Ip(address.ip()),
                ports,
                mode: Mode::Standard,
                allow: vec![allow(if *is_allowed { STAFF } else { OTHERS })],
            });
        }

        self.directory("pop", Identity::pop(INSTALLATION, POP));

        let (state, _) =
            self.directory("connector", Identity::connector(INSTALLATION, ORGANIZATION, CONNECTOR));
        state.write_secret(names::WIREGUARD_KEY, self.wireguard.expose_private()).expect("writes");
        state.write_secret(names::SEAL_KEY, self.seal.expose_private()).expect("writes");
        let body = ConnectorSlice {
            site: SITE,
            site_name: "hq".into(),
            prefixes: vec![],
            resources: at_connector,
            pops: pops.clone(),
            regions: vec![],
        };
        let slice = self.slice(Audience::Connector(CONNECTOR), body);
        state.write_generation(names::SLICE, slice.as_bytes()).expect("writes");

        let (state, key) = self.directory("client", Identity::device(INSTALLATION, ORGANIZATION, DEVICE));
        let connector = ClientConnector {
            id: CONNECTOR,
            name: "hq-1".into(),
            wireguard_key: self.wireguard.seal_key(),
            seal_key: self.seal.seal_key(),
        };
        let site = ClientSite { id: SITE, name: "hq".into(), connectors: vec![connector], regions: vec![] };
        let body =
            ClientSlice { organization_name: "Acme".into(), resources: at_client, sites: vec![site], pops };
        let slice = self.slice(Audience::Device(DEVICE), body);
        state.write_generation(names::SLICE, slice.as_bytes()).expect("writes");
        let grant = Grant {
            installation: INSTALLATION,
            organization: ORGANIZATION,
            device: DEVICE,
            device_generation: 1,
            owner: Owner::User(UserId::from_bytes([6; 16])),
            owner_generation: 1,
            device_name: "laptop".into(),
            owner_name: "Ada".into(),
            groups: vec![GroupRef { id: STAFF, generation: 1 }],
            posture: PostureClass::Unknown,
            key: key.verifying_key(),
            iat: self.base,
            nbf: self.base,
            exp: self.base.plus(DAY),
            renew_after_ms: 14_400_000,
            ext: None,
        };
        let grant = sign_document(&self.keys[&KeyRole::Grant], &grant).expect("grant");
        state.write(names::GRANT, grant.as_bytes()).expect("writes");
    }

    pub(crate) fn pop(&self) -> Running<pop::PopError> {
        run_pop(pop::PopOptions::new(self.path("pop"), self.pop_address))
    }

    /// A PoP somewhere else than the slices say, by UDP and by TCP.
    pub(crate) fn pop_at(&self, address: SocketAddr) -> Running<pop::PopError> {
        let mut options = pop::PopOptions::new(self.path("pop"), address);
        options.tcp_front =
            Some(pop::TcpFrontOptions { listen: address, console: None, max_connections: 1_024 });
        run_pop(options)
    }

    pub(crate) fn connector(&self) -> Running<connector::ConnectorError> {
        let options = connector::ConnectorOptions::new(self.path("connector"));
        let connector = connector::Connector::open(options).expect("opens");
        Running::spawn(|stop| {
            connector.run(async {
                let _ = stop.await;
            })
        })
    }

    pub(crate) async fn client(&self) -> (String, Running<client::ClientError>) {
        let options = client::ClientOptions {
            state: self.path("client"),
            run_dir: self.path("run"),
            proxy: "127.0.0.1:0".parse().expect("an address"),
            forwards: vec![],
            port_mapping: portmap::Protocols::NONE,
        };
        let client = client::Client::start(options).await.expect("starts");
        let url = std::fs::read_to_string(&client.proxy().url_file).expect("reads").trim().to_owned();
        let running = Running::spawn(|stop| async {
            client
                .wait(async {
                    let _ = stop.await;
                })
                .await;
            Ok(())
        });
        (url, running)
    }

    pub(crate) fn control(&self) -> client::ControlClient {
        client::ControlClient::in_run_dir(&self.path("run"))
    }
}

/// A web server that gives `body` to everybody.
pub(crate) async fn web_server(body: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let body = std::sync::Arc::new(body);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let body = body.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let reply =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(reply.as_bytes()).await;
                let _ = stream.write_all(&body).await;
            });
        }
    });
    address
}

/// A server that gives back every byte.
pub(crate) async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

pub(crate) struct Curl {
    pub(crate) code: i32,
    pub(crate) body: Vec<u8>,
}

pub(crate) async fn curl(proxy: &str, arguments: &[&str]) -> Curl {
    let output = tokio::process::Command::new("curl")
        .args(["-sS", "-m", "60", "--noproxy", "", "-x", proxy])
        .args(arguments)
        .output()
        .await
        .expect("curl is installed");
    Curl { code: output.status.code().expect("exited"), body: output.stdout }
}

/// Asks again until a connector is there, at most 20 s.
pub(crate) async fn curl_until_up(proxy: &str, url: &str) -> Curl {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let got = curl(proxy, &["-f", url]).await;
        if got.code == 0 || tokio::time::Instant::now() > deadline {
            return got;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}
