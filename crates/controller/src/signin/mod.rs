//! Who people are: accounts, passkeys, codes, OpenID providers, device codes, and the sessions of browsers (ADR 0017).
//!
//! This module owns every proof that a person gives and the cookie that remembers it. It refuses to know what somebody
//! may do: a role is looked up at each request, elsewhere. Whoever is known signs in from memory, with or without the
//! database; a new account, an invitation or a used recovery code needs it.

mod account;
pub(crate) mod cookie;
mod device;
mod device_pages;
mod ended;
mod invitation;
mod keys;
mod known;
mod log;
mod oidc;
mod oidc_pages;
mod page;
mod passkeys;
mod passphrase;
mod percent;
mod qr;
mod sent;
pub(crate) mod session;
mod shared;
mod sign_in;
pub(crate) mod totp;
pub(crate) mod webauthn;

pub use keys::WebKeysError;
pub(crate) use keys::{
    FILE as WEB_KEYS_FILE, opened_ring as opened_web_keys, sealed_ring as sealed_web_keys,
};
pub(crate) use shared::Untold;

use crate::{
    clock, console,
    limiter::{AccountLimit, FailureLimit, Slowing, party},
    parts::Core,
};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use cookie::Method;
use device::DeviceCodes;
use ended::Ended;
use keys::WebKeys;
use known::KnownBrowsers;
use log::{AuthenticationLog, named};
pub(crate) use log::{Entry, LogPiece, Outcome};
use oidc::Providers;
pub(crate) use page::busy_page;
use passkeys::Passkeys;
use state::StateDir;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use totp::UsedSteps;
use wire::{OrganizationId, UserId};

/// Wrong passphrases in five minutes: of one address, after which browsers that are not known wait there; of one known
/// browser, after which it is one of those; and for one account, after which every try at it is slower.
const FAILURES: u32 = 10;
/// Failures of one address that the log has in that time: of 32 MiB for everybody nobody gets more than a few kilobytes.
const LOGGED: u32 = 30;
/// Wrong codes of one account in that time. Who gets here knows the passphrase, so nobody is kept out by strangers;
/// 3 of a million codes are right at a time, which makes this one guess in 16,000 each five minutes.
const WRONG_CODES: u32 = 20;
const FAILURE_WINDOW: Duration = Duration::from_secs(300);
/// A form has a name, two passphrases and a token; a passkey's answer a key and an attestation of some kilobytes. Who typed
/// much more is told at the field, with what they typed, as far as a quarter of a megabyte.
const MAX_FORM: usize = 256 * 1024;

/// Sign-in cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The keys.
    #[error(transparent)]
    Keys(#[from] WebKeysError),
    /// A file beside them.
    #[error("what is kept about sessions cannot be read: {0}")]
    Files(#[from] std::io::Error),
}

/// Everything that sign-in keeps.
#[derive(Debug)]
pub(crate) struct SignIn {
    pub(crate) keys: WebKeys,
    ended: Ended,
    pub(crate) log: AuthenticationLog,
    /// Wrong passphrases by address.
    failures: FailureLimit,
    /// What came back from a provider and was not good, by address: another way in, which passphrases do not close.
    provider_failures: FailureLimit,
    known: KnownBrowsers,
    slowing: Slowing,
    /// Failures that were written into the log, by organization and address.
    said: AccountLimit,
    codes: AccountLimit,
    used_steps: UsedSteps,
    /// What the other controllers are still to be told.
    pub(crate) untold: Untold,
    passkeys: Passkeys,
    providers: Providers,
    device_codes: Mutex<DeviceCodes>,
}

impl SignIn {
    /// Reads what it keeps in the state directory, or makes it.
    ///
    /// # Errors
    /// [`SignInError`].
    pub(crate) fn open(directory: &Arc<StateDir>, url: &str) -> Result<Self, SignInError> {
        let path = directory.path();
        Ok(Self {
            keys: WebKeys::open(Arc::clone(directory))?,
            ended: Ended::open(path, clock::wall())?,
            log: AuthenticationLog::open(&path.join("authentication"))?,
            failures: FailureLimit::new(FAILURES, FAILURE_WINDOW),
            provider_failures: FailureLimit::new(FAILURES, FAILURE_WINDOW),
            known: KnownBrowsers::default(),
            slowing: Slowing::new(FAILURES, FAILURE_WINDOW),
            said: AccountLimit::new(LOGGED, FAILURE_WINDOW),
            codes: AccountLimit::new(WRONG_CODES, FAILURE_WINDOW),
            used_steps: UsedSteps::default(),
            untold: Untold::default(),
            passkeys: Passkeys::of(url),
            providers: Providers::default(),
            device_codes: Mutex::default(),
        })
    }

    fn device_codes(&self) -> std::sync::MutexGuard<'_, DeviceCodes> {
        self.device_codes.lock().expect("nothing panics while it holds the codes")
    }
}

/// One try to prove something: where it is logged.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    core: &'a Core,
    organization: OrganizationId,
    from: IpAddr,
}

impl Attempt<'_> {
    fn log(&self, user: Option<UserId>, methods: &[Method], outcome: Outcome, detail: &str) {
        let mut detail: String = detail.chars().take(300).collect();
        let failed = match outcome {
            Outcome::SignedIn | Outcome::FirstFactor | Outcome::SignedOut => false,
            Outcome::Wrong | Outcome::Limited | Outcome::Refused | Outcome::ProviderFailed => true,
        };
        // Whoever fails all the time would push out of the log what somebody else did in it.
        if failed {
            let (said, now) = (&self.core.signin.said, clock::now());
            // In each organization's own log: what is tried in one silences no other.
            let whose = format!("{} {:?}", self.organization, party(self.from));
            if said.take(&whose, now).is_err() {
                return;
            }
            if let Err(wait) = said.check(&whose, now) {
                let more =
                    format!("further failures from there are not written for {} s", wait.as_secs() + 1);
                detail = if detail.is_empty() { more } else { format!("{detail}; {more}") };
            }
        }
        let entry = Entry {
            at: self.core.signer.best_time(),
            organization: self.organization,
            user,
            method: named(methods),
            outcome,
            address: self.from,
            detail,
        };
        self.core.signin.log.write(&entry);
    }
}

/// The pages and what they ask.
pub(crate) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/signin", get(sign_in::sign_in_page).post(sign_in::sign_in))
        .route("/signin/code", get(sign_in::code_page).post(sign_in::code))
        .route("/signin/passkey/options", post(sign_in::passkey_options))
        .route("/signin/passkey", post(sign_in::passkey))
        .route("/signin/oidc", get(oidc_pages::back))
        .route("/signin/oidc/{name}", get(oidc_pages::begin))
        .route("/signout", post(sign_in::sign_out))
        .route("/theme", post(sign_in::theme))
        .route("/account", get(account::account_page))
        .route("/account/passkeys/options", post(account::passkey_options))
        .route("/account/passkeys", post(account::add_passkey))
        .route("/account/passkeys/remove", post(account::remove_passkey))
        .route("/account/totp", get(account::totp_page).post(account::set_totp))
        .route("/account/totp/remove", post(account::remove_totp))
        .route("/account/passphrase", post(account::set_passphrase))
        .route("/account/sessions/end", post(account::end_sessions))
        .route("/first-owner/{secret}", get(invitation::first_owner_page).post(invitation::first_owner))
        .route("/invitation/{secret}", get(invitation::page).post(invitation::take))
        .route("/device", get(device_pages::page).post(device_pages::decide))
        .route(&page::SCRIPT_PATH, get(page::script))
        .route(&page::LOOK_PATH, get(page::look))
        .method_not_allowed_fallback(console::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(middleware::from_fn_with_state(Arc::clone(core), session::keep_alive))
        .layer(middleware::map_response(page::guarded))
        .with_state(Arc::clone(core))
}

/// What terminals ask.
pub(crate) fn device_router(core: &Arc<Core>) -> Router {
    device_pages::router(core)
}

pub(crate) use invitation::{invitation_link, owner_link};
pub(crate) use oidc_pages::{is_ca_pem, is_issuer, redirect_uri, sealed_client_secret};
