//! OpenID Connect: several providers for each organization, each with its own connections, deadlines and caches.

pub(super) mod address;
mod http;
mod jws;
pub(super) mod people;
pub(super) mod protocol;

use crate::clock;
use address::{HttpsUrl, Sent};
use http::{FetchError, Fetcher};
use jws::{JwsError, KeySet};
use protocol::{Claims, Discovery, Expected, Pending, ProtocolError};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use store::OidcProvider;
use trust::{UnixMs, sha256};
use wire::OrganizationId;

/// How long a discovery document and a key set are good without asking again.
const CACHED: Duration = Duration::from_secs(3600);
/// A key that nobody knows makes us ask again, and not more often than this.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Providers whose documents are kept: some 40 kB each.
const MAX_PROVIDERS: usize = 256;

/// Nobody is signed in by this provider now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    /// It did not answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What it said is not believed.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// What is kept of one provider.
#[derive(Debug)]
struct Known {
    fetcher: Fetcher,
    discovery: Mutex<Option<(Discovery, Instant)>>,
    keys: Mutex<Option<(KeySet, Instant)>>,
}

/// All providers that were used, by organization, name and what is configured.
#[derive(Debug, Default)]
pub(crate) struct Providers(Mutex<BTreeMap<[u8; 32], Arc<Known>>>);

/// A provider with everything that is asked of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) organization: OrganizationId,
    pub(crate) provider: &'a OidcProvider,
    pub(crate) secret: &'a str,
    pub(crate) redirect: &'a str,
}

fn cached<T: Clone>(cache: &Mutex<Option<(T, Instant)>>, now: Instant) -> Option<T> {
    let cache = cache.lock().expect("nothing panics while it holds a cache");
    let (value, since) = cache.as_ref()?;
    (now.saturating_duration_since(*since) < CACHED).then(|| value.clone())
}

fn keep<T>(cache: &Mutex<Option<(T, Instant)>>, value: T, now: Instant) {
    *cache.lock().expect("nothing panics while it holds a cache") = Some((value, now));
}

impl Providers {
    fn known(&self, client: &Client<'_>) -> Arc<Known> {
        let OidcProvider { name, issuer, ca_pem, .. } = client.provider;
        let parts = [name.as_bytes(), b"\0", issuer.as_bytes(), b"\0", ca_pem.as_bytes()];
        let key = sha256(&[client.organization.as_bytes(), &parts.concat()]);
        let mut known = self.0.lock().expect("nothing panics while it holds the providers");
        if known.len() >= MAX_PROVIDERS && !known.contains_key(&key) {
            known.pop_first();
        }
        let fresh = || {
            let fetcher = Fetcher::new(ca_pem);
            Arc::new(Known { fetcher, discovery: Mutex::default(), keys: Mutex::default() })
        };
        Arc::clone(known.entry(key).or_insert_with(fresh))
    }

    /// Where the browser is sent.
    ///
    /// # Errors
    /// [`ProviderError`], in bounded time.
    pub(crate) async fn authorization(
        &self,
        client: &Client<'_>,
        pending: &Pending,
    ) -> Result<String, ProviderError> {
        let discovery = self.known(client).discovery(&client.provider.issuer).await?;
        let OidcProvider { client_id, scopes, .. } = client.provider;
        Ok(pending.authorization(&discovery, client_id, scopes, client.redirect))
    }

    /// Who came back with this code, from a provider that called itself `named`.
    ///
    /// # Errors
    /// [`ProviderError`], in bounded time.
    pub(crate) async fn claims(
        &self,
        client: &Client<'_>,
        pending: &Pending,
        (code, named): (&str, Option<&str>),
        now: UnixMs,
    ) -> Result<Claims, ProviderError> {
        let known = self.known(client);
        let OidcProvider { issuer, client_id, groups_claim, .. } = client.provider;
        let discovery = known.discovery(issuer).await?;
        discovery.answered(named, issuer)?;
        let request = pending.token_request(&discovery, client_id, client.secret, client.redirect, code);
        let answer = known.fetcher.fetch(&discovery.token, request).await?;
        let token = protocol::id_token(&answer)?;
        let keys = known.keys(&discovery).await?;
        let payload = match jws::verify(&token, &keys) {
            Err(JwsError::NoKey(_)) => {
                let keys = known.newer_keys(&discovery, keys).await?;
                jws::verify(&token, &keys).map_err(ProtocolError::from)?
            }
            verified => verified.map_err(ProtocolError::from)?,
        };
        let expected = Expected {
            issuer,
            client: client_id,
            nonce: &pending.nonce,
            groups_claim,
            fresh: pending.again_as.is_some(),
        };
        Ok(protocol::check(&payload, expected, now)?)
    }
}

impl Known {
    async fn discovery(&self, issuer: &str) -> Result<Discovery, ProviderError> {
        if let Some(discovery) = cached(&self.discovery, clock::now()) {
            return Ok(discovery);
        }
        let url = HttpsUrl::parse(&protocol::discovery_address(issuer)).map_err(FetchError::from)?;
        let bytes = self.fetcher.fetch(&url, Sent::Nothing).await?;
        let discovery = Discovery::parse(&bytes, issuer)?;
        keep(&self.discovery, discovery.clone(), clock::now());
        Ok(discovery)
    }

    async fn keys(&self, discovery: &Discovery) -> Result<KeySet, ProviderError> {
        match cached(&self.keys, clock::now()) {
            Some(keys) => Ok(keys),
            None => self.fetch_keys(discovery).await,
        }
    }

    /// The provider may have replaced its keys; strangers do not make us ask all the time.
    async fn newer_keys(&self, discovery: &Discovery, held: KeySet) -> Result<KeySet, ProviderError> {
        let since =
            self.keys.lock().expect("nothing panics while it holds a cache").as_ref().map(|kept| kept.1);
        let lately = since.is_some_and(|since| clock::now().saturating_duration_since(since) < ASK_AGAIN);
        if lately { Ok(held) } else { self.fetch_keys(discovery).await }
    }

    async fn fetch_keys(&self, discovery: &Discovery) -> Result<KeySet, ProviderError> {
        let bytes = self.fetcher.fetch(&discovery.keys, Sent::Nothing).await?;
        let keys = KeySet::parse(&bytes)
            .map_err(|error| ProtocolError::Discovery(format!("its key set does not parse: {error}")))?;
        keep(&self.keys, keys.clone(), clock::now());
        Ok(keys)
    }
}
