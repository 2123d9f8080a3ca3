//! First enrolment, step by step.
//!
//! 1. Ask the controller for the trust chain and, by a nonce, for the time, over a connection that believes
//!    anybody and carries no secret. The chain proves itself against the root's hash in the join key, the time
//!    by the chain. From there on that time counts, and the machine's clock does not.
//! 2. Make the keys and write them to the state directory, so that a lost answer costs nothing: the
//!    same request again gets the same identity.
//! 3. Ask again over a connection that believes the console CA of that chain (or a public CA), now with
//!    the secret.
//! 4. Check that everything that came back is ours and verifies; write it, the certificate last: a
//!    directory with a certificate is a whole one.

#![expect(clippy::disallowed_methods, reason = "enrolment is a shell: it asks the machine for the time")]

use crate::{
    anchor::{self, Anchor},
    api::ApiClient,
    error::EnrolError,
    http::{HttpsClient, ServerUrl},
    tls::ServerTrust,
};
use ::http::Method;
use bytes::Bytes;
use policy::{
    ClientSlice, ConnectorSlice, PopSlice,
    enrolment::{
        ConnectorEnrolment, DeviceEnrolment, Enrolled, MAX_ADVERTISE, MAX_NAME, PopEnrolment, TrustAnswer,
    },
};
use serde::Serialize;
use state::{About, StateDir, names};
use std::{path::Path, time::Instant};
use trust::{
    Certificate, ChainError, Grant, Identity, JoinKey, JoinKind, KeyRole, OpenKey, Role, RootHash, SealKey,
    SigningKey, Slice, SliceBody, TrustBundle, TrustChain, UnixMs, Unverified, decode_base64url,
    encode_base64url,
};

/// Where an enrolled agent keeps what enrolment told it and nothing else tells: [`EnrolledAgent`] as JSON.
pub const ENROLLED_FILE: &str = "enrolled.json";

/// Who an agent is after enrolment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EnrolledAgent {
    /// Its name in certificates.
    pub identity: Identity,
    /// Its name for people.
    pub name: String,
    /// The organization's name, or the installation's for a PoP.
    pub belongs_to: String,
    /// Whose device it is, for people.
    pub owner: Option<String>,
    /// The controller's address.
    pub controller: String,
}

impl EnrolledAgent {
    /// Reads it back from a state directory.
    #[must_use]
    pub fn read(state: &StateDir) -> Option<Self> {
        serde_json::from_slice(&state.read(ENROLLED_FILE).ok()??).ok()
    }
}

/// Enrols a device.
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol_device(key: &JoinKey, state: &Path, name: &str) -> Result<EnrolledAgent, EnrolError> {
    let joining = Joining::begin(key, JoinKind::Device, state, name).await?;
    let request = DeviceEnrolment::new(key.secret.clone(), &joining.identity, name);
    joining.finish::<ClientSlice>("device", &request).await
}

/// Enrols a connector.
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol_connector(key: &JoinKey, state: &Path, name: &str) -> Result<EnrolledAgent, EnrolError> {
    let joining = Joining::begin(key, JoinKind::Connector, state, name).await?;
    let wireguard = joining.key_pair(names::WIREGUARD_KEY)?;
    let seal = joining.key_pair(names::SEAL_KEY)?;
    let request = ConnectorEnrolment::new(key.secret.clone(), &joining.identity, wireguard, seal, name);
    joining.finish::<ConnectorSlice>("connector", &request).await
}

/// Enrols a PoP that agents and controllers dial at `advertise` (`HOST:PORT`). With `socket`, the controller is
/// asked there, at its local admin socket, and not at the address in the key: nobody passes connections on to it
/// before this PoP does.
///
/// # Errors
/// [`EnrolError`].
pub async fn enrol_pop(
    key: &JoinKey,
    state: &Path,
    name: &str,
    advertise: &str,
    socket: Option<&Path>,
) -> Result<EnrolledAgent, EnrolError> {
    check_text("address to advertise", advertise, MAX_ADVERTISE)?;
    let joining = Joining::begin_at(key, JoinKind::Pop, state, name, socket).await?;
    let request = PopEnrolment::new(key.secret.clone(), &joining.identity, advertise, name);
    joining.finish::<PopSlice>("pop", &request).await
}

/// As whom a state directory is enrolled under this root, if it is and its certificate is still valid.
/// Asks nobody: an agent that is started with its join key again starts from what it has.
///
/// # Errors
/// The directory is in use, another role's, or cannot be read. Of another installation's nothing is said here: whoever enrols in it
/// is told.
pub fn already_enrolled(path: &Path, role: Role, root: &RootHash) -> Result<Option<Identity>, EnrolError> {
    match StateDir::about(path)? {
        Some(about) if about.root == *root => {
            let state = StateDir::open(path, role)?;
            Ok(held_identity(&state, root, Anchor::machine().now())?)
        }
        _ => Ok(None),
    }
}

/// Learns which servers of an installation to believe, from nothing but its root's hash.
///
/// # Errors
/// [`EnrolError`].
pub async fn discover_trust(
    url: &ServerUrl,
    root: &RootHash,
) -> Result<(TrustBundle, ServerTrust), EnrolError> {
    let learnt = learn_trust(HttpsClient::provisional(url.clone()), root).await?;
    Ok((learnt.bundle, learnt.servers))
}

struct Learnt {
    bundle: TrustBundle,
    servers: ServerTrust,
    /// By what everything that comes is judged.
    time: Anchor,
    /// A controller signed it.
    is_signed: bool,
    /// The controller's clock when it answered, by its own word.
    theirs: Option<UnixMs>,
}

async fn learn_trust(http: HttpsClient, root: &RootHash) -> Result<Learnt, EnrolError> {
    let client = ApiClient::over(http);
    let (nonce, asked) = (anchor::nonce(), Instant::now());
    let path = format!("/enrol/v1/trust?nonce={}", encode_base64url(&nonce));
    let answer = client.call(Method::GET, &path, Bytes::new()).await?;
    let machine = Anchor::machine();
    let trust: TrustAnswer = client.decode(&answer)?;
    let address = || client.address();
    let chain =
        TrustChain::parse(&trust.chain).map_err(|source| EnrolError::Chain { address: address(), source })?;
    let (bundle, time, is_signed) =
        match anchor::signed(&chain, root, trust.beacon.as_deref(), nonce, asked) {
            Some((bundle, signed)) => (bundle, anchor::judge(machine.now(), signed, &address())?, true),
            // Nothing is signed there right now, or by an older version: the machine's clock is all there is.
            None => (
                chain.verify(root, machine.now()).map_err(|source| match source {
                    ChainError::OtherRoot(_) => EnrolError::OtherRoot { address: address() },
                    source => EnrolError::Chain { address: address(), source }
                        .blame_clock(machine.now(), answer.date),
                })?,
                machine,
                false,
            ),
        };
    let wall = time.now();
    let mut servers = ServerTrust::nobody().with_system_roots().at(time);
    for key in bundle.keys(KeyRole::ConsoleCa).filter(|key| key.is_valid_at(wall)) {
        servers = servers.with_console_ca(&key.public);
    }
    Ok(Learnt { bundle, servers, time, is_signed, theirs: answer.date })
}

struct Joining<'a> {
    key: &'a JoinKey,
    kind: JoinKind,
    url: ServerUrl,
    socket: Option<&'a Path>,
    learnt: Learnt,
    state: StateDir,
    identity: SigningKey,
}

impl<'a> Joining<'a> {
    async fn begin(key: &'a JoinKey, kind: JoinKind, path: &Path, name: &str) -> Result<Self, EnrolError> {
        Self::begin_at(key, kind, path, name, None).await
    }

    async fn begin_at(
        key: &'a JoinKey,
        kind: JoinKind,
        path: &Path,
        name: &str,
        socket: Option<&'a Path>,
    ) -> Result<Self, EnrolError> {
        if key.kind != kind {
            return Err(EnrolError::OtherKind { expected: kind, got: key.kind });
        }
        check_text("name", name, MAX_NAME)?;
        let url: ServerUrl = key.controller.parse()?;
        if let Some(identity) = already_enrolled(path, role_of(kind), &key.root)? {
            return Err(EnrolError::AlreadyEnrolled { path: path.to_owned(), identity });
        }
        let http = match socket {
            Some(socket) => HttpsClient::unix(socket.to_owned()),
            None => HttpsClient::provisional(url.clone()),
        };
        let learnt = learn_trust(http, &key.root).await?;
        let about = About::new(learnt.bundle.installation(), role_of(kind), key.root);
        let state = StateDir::create(path, &about)?;
        // By the time that a controller signed: nothing is over because this machine's clock says so.
        if let Some(identity) = held_identity(&state, &key.root, learnt.time.now())? {
            return Err(EnrolError::AlreadyEnrolled { path: path.to_owned(), identity });
        }
        // A certificate that is there is one that expired: its identity is over, and so are its keys.
        let fresh = state.read(names::CERTIFICATE)?.is_some();
        if fresh {
            state.remove(names::CERTIFICATE)?;
            for secret in [names::IDENTITY_KEY, names::WIREGUARD_KEY, names::SEAL_KEY] {
                state.remove(&format!("secrets/{secret}"))?;
            }
        }
        let identity = match state.read_secret(names::IDENTITY_KEY)? {
            Some(_) => SigningKey::from_seed(&state.require_secret(names::IDENTITY_KEY)?),
            None => {
                let identity = SigningKey::generate();
                state.write_secret(names::IDENTITY_KEY, identity.expose_seed())?;
                identity
            }
        };
        Ok(Self { key, kind, url, socket, learnt, state, identity })
    }

    /// An X25519 key, the same one when an earlier attempt made it already.
    fn key_pair(&self, name: &str) -> Result<SealKey, EnrolError> {
        if self.state.read_secret(name)?.is_some() {
            let private = self.state.require_secret(name)?;
            if let Ok(key) = OpenKey::from_private(&private) {
                return Ok(key.seal_key());
            }
        }
        let key = OpenKey::generate();
        self.state.write_secret(name, key.expose_private())?;
        Ok(key.seal_key())
    }

    async fn finish<B: SliceBody>(
        self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<EnrolledAgent, EnrolError> {
        let client = match self.socket {
            Some(socket) => ApiClient::unix(socket.to_owned()),
            None => ApiClient::https(self.url.clone(), self.learnt.servers.clone(), None),
        };
        let answer: Result<Enrolled, _> = client.post(&format!("/enrol/v1/{path}"), request).await;
        let wall = self.learnt.time.now();
        let blame = |error: EnrolError| error.blame_clock(wall, self.learnt.theirs);
        let enrolled = answer.map_err(|error| blame(error.into()))?;
        let checked = self.check::<B>(&enrolled, wall).map_err(blame)?;
        let agent = EnrolledAgent {
            identity: enrolled.identity,
            name: enrolled.name,
            belongs_to: enrolled.belongs_to,
            owner: enrolled.owner,
            controller: self.url.to_string(),
        };
        let about = serde_json::to_vec_pretty(&agent).expect("plain data has a JSON form");
        self.state.write(ENROLLED_FILE, &about)?;
        self.state.write(names::CHAIN, checked.chain.to_text().as_bytes())?;
        if let Some(grant) = &enrolled.grant {
            self.state.write(names::GRANT, grant.as_bytes())?;
        }
        self.state.write_generation(names::SLICE, enrolled.slice.as_bytes())?;
        let machine = Anchor::machine().now();
        if self.learnt.is_signed && checked.chain.verify(&self.key.root, machine).is_err() {
            // The first start knows what time it is also where the machine's clock does not. Only there: one controller's
            // clock may lead, and a floor is for good.
            self.state.write_floor(self.learnt.time.now().as_millis().to_string().as_bytes())?;
        }
        self.state.write(names::CERTIFICATE, &checked.certificate)?;
        Ok(agent)
    }

    fn check<B: SliceBody>(&self, enrolled: &Enrolled, wall: UnixMs) -> Result<Checked, EnrolError> {
        let address = || self.url.to_string();
        // The chain may be newer than the one learnt a moment ago, never older.
        let chain = TrustChain::parse(&enrolled.chain)
            .map_err(|source| EnrolError::Chain { address: address(), source })?;
        let mut bundle = self.learnt.bundle.clone();
        chain
            .verify(&self.key.root, wall)
            .and_then(|newer| bundle.replace_with(newer))
            .map_err(|source| EnrolError::Chain { address: address(), source })?;
        if enrolled.identity.role() != role_of(self.kind) {
            return Err(EnrolError::Answer("it names another role than the one that was asked for"));
        }
        let certificate = decode_base64url(&enrolled.certificate)
            .map_err(|_| EnrolError::Answer("the certificate is not base64url"))?;
        let verified = Certificate::verify(&certificate, &bundle, wall).map_err(EnrolError::Certificate)?;
        if verified.identity() != enrolled.identity {
            return Err(EnrolError::Answer("the certificate names somebody else"));
        }
        if verified.public_key() != self.identity.verifying_key() {
            return Err(EnrolError::Answer("the certificate is for another key"));
        }
        self.check_grant(enrolled, &bundle, wall)?;
        let slice = Unverified::<Slice<B>>::parse(&enrolled.slice)
            .and_then(|slice| slice.verify(&bundle, wall))
            .map_err(|source| EnrolError::Document { part: "slice", source })?;
        if !slice.header.audience.is(enrolled.identity.subject())
            || slice.header.organization != enrolled.identity.organization()
        {
            return Err(EnrolError::Answer("the slice is for somebody else"));
        }
        Ok(Checked { chain, certificate })
    }

    fn check_grant(&self, enrolled: &Enrolled, bundle: &TrustBundle, wall: UnixMs) -> Result<(), EnrolError> {
        let text = match (self.kind, &enrolled.grant) {
            (JoinKind::Device, Some(text)) => text,
            (JoinKind::Device, None) => {
                return Err(EnrolError::Answer("a device gets a grant, and there is none"));
            }
            (_, None) => return Ok(()),
            (_, Some(_)) => return Err(EnrolError::Answer("only devices get a grant")),
        };
        let grant = Unverified::<Grant>::parse(text)
            .and_then(|grant| grant.verify(bundle, wall))
            .map_err(|source| EnrolError::Document { part: "grant", source })?;
        let names_us = trust::Subject::Device(grant.device) == enrolled.identity.subject()
            && Some(grant.organization) == enrolled.identity.organization();
        if !names_us || grant.key != self.identity.verifying_key() {
            return Err(EnrolError::Answer("the grant is somebody else's"));
        }
        Ok(())
    }
}

struct Checked {
    chain: TrustChain,
    certificate: Vec<u8>,
}

const fn role_of(kind: JoinKind) -> Role {
    match kind {
        JoinKind::Device => Role::Device,
        JoinKind::Connector => Role::Connector,
        JoinKind::Pop => Role::Pop,
    }
}

/// Who the certificate in a directory names, if it has not ended. A clock that is behind ends nothing.
fn held_identity(state: &StateDir, root: &RootHash, wall: UnixMs) -> Result<Option<Identity>, EnrolError> {
    let (Some(der), Some(chain)) = (state.read(names::CERTIFICATE)?, state.read(names::CHAIN)?) else {
        return Ok(None);
    };
    let Ok(chain) = TrustChain::parse_bytes(&chain) else { return Ok(None) };
    let bundle = match chain.verify(root, wall) {
        Err(ChainError::RotationNotValid { nbf, .. }) if nbf > wall => chain.verify(root, nbf),
        other => other,
    };
    let certificate = bundle.ok().and_then(|bundle| Certificate::verify_at_any_time(&der, &bundle).ok());
    Ok(certificate
        .filter(|certificate| certificate.not_after() > wall)
        .map(|certificate| certificate.identity()))
}

fn check_text(what: &'static str, text: &str, max: usize) -> Result<(), EnrolError> {
    if text.trim().is_empty() || text.len() > max || text.chars().any(char::is_control) {
        return Err(EnrolError::Name { what, max, got: text.len() });
    }
    Ok(())
}
