//! One bounded HTTPS request to a party that may be slow, gone or hostile.
//!
//! Every request has a deadline as a whole, an answer of bounded length, and one of a few places at its provider: a
//! provider that takes connections and never answers holds its own places and nobody else's. Redirects are not
//! followed: an address is what an administrator configured, or what that address said.

use super::address::{HttpsUrl, NotHttps, Sent};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::TlsConnector;

/// From the look-up of the name to the last byte. People wait for it with a page open.
pub(crate) const DEADLINE: Duration = Duration::from_secs(8);
/// Requests to one provider at once.
const PLACES: usize = 8;
/// How long one waits for a place: a provider that answers gives one back sooner.
const PLACE_WAIT: Duration = Duration::from_secs(2);
/// Discovery documents and key sets have some kilobytes.
const MAX_ANSWER: usize = 256 * 1024;

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    /// Not `https://HOST…`.
    #[error(transparent)]
    Address(#[from] NotHttps),
    /// All places are taken.
    #[error("{0} answers none of the requests that are under way")]
    Busy(String),
    /// Silence.
    #[error("{0} did not answer in time")]
    Silent(String),
    /// No connection, no TLS, or it broke.
    #[error("{0} cannot be asked: {1}")]
    Failed(String, String),
    /// An HTTP error.
    #[error("{0} answered {1}")]
    Status(String, StatusCode, Vec<u8>),
}

/// Asks one provider.
#[derive(Clone)]
pub(crate) struct Fetcher {
    config: Arc<ClientConfig>,
    places: Arc<Semaphore>,
    deadline: Duration,
    place_wait: Duration,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Believes what this machine believes, and the certificates of `ca_pem` besides.
    pub(crate) fn new(ca_pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        roots.add_parsable_certificates(
            CertificateDer::pem_slice_iter(ca_pem.as_bytes()).filter_map(Result::ok),
        );
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            config: Arc::new(config),
            places: Arc::new(Semaphore::new(PLACES)),
            deadline: DEADLINE,
            place_wait: PLACE_WAIT,
        }
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// [`FetchError`]; within [`DEADLINE`] and the wait for a place.
    pub(crate) async fn fetch(&self, url: &HttpsUrl, sent: Sent) -> Result<Bytes, FetchError> {
        let whom = || url.authority();
        let place =
            timeout(self.place_wait, self.places.acquire()).await.map_err(|_| FetchError::Busy(whom()))?;
        let _place = place.map_err(|_| FetchError::Busy(whom()))?;
        timeout(self.deadline, self.exchange(url, sent))
            .await
            .unwrap_or_else(|_| Err(FetchError::Silent(whom())))
    }

    async fn exchange(&self, url: &HttpsUrl, sent: Sent) -> Result<Bytes, FetchError> {
        let failed = |error: &dyn std::fmt::Display| FetchError::Failed(url.authority(), error.to_string());
        let tcp = TcpStream::connect((url.host(), url.port())).await.map_err(|error| failed(&error))?;
        let name = ServerName::try_from(url.host().to_owned()).map_err(|error| failed(&error))?;
        let tls = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await;
        let tls = tls.map_err(|error| failed(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|error| failed(&error))?;
        let mut request = Request::builder()
            .uri(url.path())
            .header(header::HOST, url.authority())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        let body = match sent {
            Sent::Nothing => Bytes::new(),
            Sent::Form { body, authorization } => {
                request = request
                    .method(Method::POST)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                if let Some(authorization) = authorization {
                    request = request.header(header::AUTHORIZATION, authorization);
                }
                Bytes::from(body)
            }
        };
        let request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
        let talk = async {
            let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| failed(&error))?.to_bytes();
            if status == StatusCode::OK {
                Ok(body)
            } else {
                Err(FetchError::Status(url.authority(), status, body.to_vec()))
            }
        };
        tokio::pin!(connection, talk);
        tokio::select! {
            biased;
            answer = &mut talk => answer,
            ended = &mut connection => match ended {
                Ok(()) => (&mut talk).await,
                Err(error) => Err(failed(&error)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_provider_that_never_answers_hangs_nobody_else() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = HttpsUrl::parse(&format!("https://{}/x", listener.local_addr().unwrap())).unwrap();
        let (deadline, place_wait) = (Duration::from_millis(800), Duration::from_millis(200));
        let fetcher = Fetcher { deadline, place_wait, ..Fetcher::new("") };
        let began = crate::clock::now();
        // Twice as many as there are places: the second half does not wait for a deadline of the first.
        let asked: Vec<_> = (0..2 * PLACES)
            .map(|_| {
                let (fetcher, url) = (fetcher.clone(), silent.clone());
                tokio::spawn(async move { fetcher.fetch(&url, Sent::Nothing).await })
            })
            .collect();
        let (mut silent_ones, mut busy) = (0, 0);
        for asked in asked {
            match asked.await.unwrap() {
                Err(FetchError::Silent(_)) => silent_ones += 1,
                Err(FetchError::Busy(_)) => busy += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((silent_ones, busy), (PLACES, PLACES));
        assert!(began.elapsed() < deadline + Duration::from_secs(5), "{:?}", began.elapsed());
        // Another provider has places of its own.
        let refused = HttpsUrl::parse("https://127.0.0.1:1/").unwrap();
        assert!(matches!(Fetcher::new("").fetch(&refused, Sent::Nothing).await, Err(FetchError::Failed(..))));
        drop(listener);
    }
}
