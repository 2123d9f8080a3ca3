//! Browsers in which somebody signed in before, so that who guesses behind the same address does not keep them out.
//!
//! Signing in leaves a sealed cookie that says whose browser it is and nothing else ("device cookie", OWASP, Slow Down
//! Online Guessing Attacks with Device Cookies). With it, wrong passphrases for that account are counted for the browser
//! and not for its address, and the other way round. It proves nothing: the passphrase is still asked for.

use super::{
    FAILURE_WINDOW, FAILURES,
    keys::{KNOWN_BROWSER_LIFE, Purpose},
    session::{self, Person},
};
use crate::{clock, limiter::AccountLimit, parts::Core};
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, time::Duration};
use wire::UserId;

const COOKIE: &str = "__Host-tidegate-known";

/// What is sealed into the cookie.
#[derive(Serialize, Deserialize)]
struct Known {
    account: UserId,
    /// Tells one person's browsers apart.
    id: String,
}

/// What the browsers may still try.
#[derive(Debug)]
pub(super) struct KnownBrowsers {
    failures: AccountLimit,
}

impl Default for KnownBrowsers {
    fn default() -> Self {
        Self { failures: AccountLimit::new(FAILURES, FAILURE_WINDOW) }
    }
}

/// Whose budget a try is made on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Budget {
    /// A browser's own.
    Browser(String),
    /// Of everybody behind the address.
    Address(IpAddr),
}

impl Core {
    /// The cookie by which this browser is known the next time.
    pub(super) fn known_browser_cookie(&self, person: &Person) -> HeaderValue {
        let known = Known { account: person.user, id: trust::encode_base64url(&clock::random::<16>()) };
        let now = self.signer.proof_time();
        session::sealed_cookie(
            &self.signin.keys,
            Purpose::KnownBrowser,
            COOKIE,
            &known,
            KNOWN_BROWSER_LIFE,
            now,
        )
    }

    /// Whose browser this is, as far as it says: nothing is proven by it.
    pub(super) fn known_account(&self, headers: &HeaderMap) -> Option<UserId> {
        self.known(headers).map(|known| known.account)
    }

    fn known(&self, headers: &HeaderMap) -> Option<Known> {
        let sealed = session::read(headers, COOKIE)?;
        self.signin.keys.open_until(Purpose::KnownBrowser, sealed, self.signer.proof_time())
    }

    /// The budget of a try at an account: the browser's while it has one, else the address's. `None` as account stands for
    /// whoever the browser is known for.
    pub(super) fn budget(&self, headers: &HeaderMap, account: Option<UserId>, from: IpAddr) -> Budget {
        self.known(headers)
            .filter(|known| account.is_none_or(|account| account == known.account))
            .filter(|known| self.signin.known.failures.check(&known.id, clock::now()).is_ok())
            .map_or(Budget::Address(from), |known| Budget::Browser(known.id))
    }

    /// Counts a try of a browser that is known, until it was right.
    pub(super) fn browser_tries(&self, id: &str) -> Result<(), Duration> {
        self.signin.known.failures.take(id, clock::now())
    }

    /// The try was right.
    pub(super) fn browser_was_right(&self, id: &str) {
        self.signin.known.failures.was_right(id, clock::now());
    }

    /// Counts a wrong proof of a browser that is known.
    pub(super) fn browser_failed(&self, id: &str) {
        self.signin.known.failures.failed(id, clock::now());
    }
}
