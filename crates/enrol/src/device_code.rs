//! A device code: ask for one, show it, wait until a person has confirmed it in a browser, take the join key.
//!
//! The root is learnt before anything is asked: by the hash that somebody gives (`--root`), or from the controller
//! itself when its certificate proves the name in the address, by a CA that this machine or the caller believes. There
//! is no third way: a server that cannot prove itself gets no code, because whoever is in between would get the key.

use crate::{api::ApiClient, error::EnrolError, http::ServerUrl, join::discover_trust, tls::ServerTrust};
use policy::enrolment::{DeviceCodeAnswer, DeviceCodePoll, DeviceCodeRequest, DeviceCodeResult};
use std::time::Duration;
use trust::{JoinKey, JoinKind, RootHash};

/// Answers that fail in between are asked again, so often in a row: a controller restarts in less time.
const FAILURES: u32 = 12;
/// The controller says how often to ask; not more often and not less often than this.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// It says how long the code lives; nobody waits longer than this.
const LONGEST_LIFE: u64 = 1800;

/// A code that waits for a person.
pub struct DeviceCode {
    client: ApiClient,
    answer: DeviceCodeAnswer,
    root: RootHash,
    url: ServerUrl,
}

impl std::fmt::Debug for DeviceCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceCode").field("answer", &self.answer).finish_non_exhaustive()
    }
}

impl DeviceCode {
    /// Asks a controller for a code. With `root`, it is believed by that alone; without, its certificate has to prove
    /// its name under `trust`.
    ///
    /// # Errors
    /// [`EnrolError`]: not reached, not believed, or it says another root than the one given.
    pub async fn ask(
        url: &ServerUrl,
        root: Option<RootHash>,
        trust: ServerTrust,
        name: &str,
    ) -> Result<Self, EnrolError> {
        let servers = match &root {
            Some(root) => discover_trust(url, root).await?.1,
            None => trust,
        };
        let client = ApiClient::https(url.clone(), servers, None);
        let request = DeviceCodeRequest { name: name.to_owned() };
        let answer: DeviceCodeAnswer = client.post("/enrol/v1/device-code", &request).await?;
        let said: RootHash =
            answer.root.parse().map_err(|_| EnrolError::Answer("its root's hash does not parse"))?;
        if root.is_some_and(|root| root != said) {
            return Err(EnrolError::OtherRoot { address: url.to_string() });
        }
        Ok(Self { client, answer, root: said, url: url.clone() })
    }

    /// What the person types, or compares.
    #[must_use]
    pub fn user_code(&self) -> &str {
        &self.answer.user_code
    }

    /// Where.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.answer.verification_uri
    }

    /// The same with the code in it.
    #[must_use]
    pub fn address_with_code(&self) -> &str {
        &self.answer.verification_uri_complete
    }

    /// The root that the device will believe; the page shows it too.
    #[must_use]
    pub const fn root(&self) -> &RootHash {
        &self.root
    }

    /// How long the code is good.
    #[must_use]
    pub fn life(&self) -> Duration {
        Duration::from_secs(self.answer.expires_in.min(LONGEST_LIFE))
    }

    /// Waits for the person, and takes the key.
    ///
    /// # Errors
    /// [`EnrolError::CodeDenied`], [`EnrolError::CodeExpired`], or no answer for a minute.
    pub async fn wait(self) -> Result<JoinKey, EnrolError> {
        let poll = DeviceCodePoll { device_code: self.answer.device_code.clone() };
        let mut interval = Duration::from_secs(self.answer.interval);
        let waiting = async {
            let mut failures = 0;
            loop {
                tokio::time::sleep(interval.clamp(LEAST_INTERVAL, LONGEST_INTERVAL)).await;
                let answer = self.client.post("/enrol/v1/device-code/token", &poll).await;
                match answer {
                    Ok(DeviceCodeResult::AuthorizationPending) => failures = 0,
                    Ok(DeviceCodeResult::SlowDown { interval: seconds }) => {
                        failures = 0;
                        interval = Duration::from_secs(seconds);
                    }
                    Ok(DeviceCodeResult::AccessDenied) => return Err(EnrolError::CodeDenied),
                    Ok(DeviceCodeResult::ExpiredToken) => return Err(EnrolError::CodeExpired),
                    Ok(DeviceCodeResult::Confirmed { join_key }) => return self.key(&join_key),
                    Err(error) => {
                        failures += 1;
                        if failures >= FAILURES {
                            return Err(error.into());
                        }
                    }
                }
            }
        };
        tokio::time::timeout(self.life(), waiting).await.unwrap_or(Err(EnrolError::CodeExpired))
    }

    /// The key must be for a device, of the root that was shown, and for the controller that was asked.
    fn key(&self, text: &str) -> Result<JoinKey, EnrolError> {
        let key: JoinKey = text.parse().map_err(|_| EnrolError::Answer("its join key does not parse"))?;
        if key.kind != JoinKind::Device {
            return Err(EnrolError::OtherKind { expected: JoinKind::Device, got: key.kind });
        }
        if key.root != self.root {
            return Err(EnrolError::OtherRoot { address: self.url.to_string() });
        }
        Ok(key)
    }
}
