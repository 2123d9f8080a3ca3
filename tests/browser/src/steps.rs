//! What somebody does before a picture is taken of what they get to see.

use crate::PASSPHRASE;
use anyhow::{Context as _, Result};
use browser::{Page, Stage, totp_code};
use serde_json::json;

/// Done on a page that was just opened; done again for each picture.
pub(crate) type Steps = fn(&Stage, &Page<'_>) -> Result<()>;

/// A form that is refused, with its errors at the fields.
pub(crate) const WRONG_SITE: Steps = |_, page| {
    page.fill("#name", "")?;
    page.fill("#prefixes", "10.20.0.0/16, nonsense")?;
    page.follow("form[action='/sites/new'] button[type=submit]")
};

/// Somebody else saves while the form is open.
pub(crate) const OUTDATED_SITE: Steps = |stage, page| {
    let path = page.path()?;
    let id = path.split('/').nth(2).context("a site's id in the address")?;
    let site = stage.api("GET", &format!("/sites/{id}"), None)?;
    let name = if site["name"] == "Rotterdam" { "Rotterdam harbour" } else { "Rotterdam" };
    stage.api("PATCH", &format!("/sites/{id}"), Some(&json!({"name": name})))?;
    page.fill("#name", "Rotterdam Europoort")?;
    page.follow("form[action$='/edit'] button[type=submit]")
};

/// Somebody else renames a policy while its form is open.
pub(crate) const OUTDATED_POLICY: Steps = |stage, page| {
    let path = page.path()?;
    let id = path.split('/').nth(2).context("a policy's id in the address")?;
    let policy = stage.api("GET", &format!("/policies/{id}"), None)?;
    let name = if policy["name"] == "Orders" { "Orders of the day" } else { "Orders" };
    stage.api("PATCH", &format!("/policies/{id}"), Some(&json!({"name": name})))?;
    page.fill("#name", "Orders and returns")?;
    page.follow("form[action$='/edit'] button[value=save]")
};

/// A connector's key and the commands that start it, shown once.
pub(crate) const CONNECTOR_KEY: Steps = |_, page| page.follow("form[action$='/connect'] button");

/// A PoP's key, shown once.
pub(crate) const POP_KEY: Steps = |_, page| {
    page.fill("#region", "eu-north")?;
    page.follow("form[action='/keys/pop'] button")
};

/// Access is taken away, and given back once the answer is there: the next picture asks again.
pub(crate) const STRUCK: Steps = |stage, page| {
    let path = page.path()?;
    let id = path.split('/').nth(2).context("an id in the address")?;
    page.follow("form[action$='/revoke'] button")?;
    stage.api("POST", "/restores", Some(&json!({"subject": id}))).map(drop)
};

/// A form from before somebody signed in again.
pub(crate) const FROM_BEFORE: Steps = |_, page| {
    page.evaluate("document.querySelector(\"form[action='/settings'] [name=form_token]\").value = 'of the session before'; void 0")?;
    page.follow("form[action='/settings'] button[type=submit]")
};

/// A link for a device, shown once.
pub(crate) const DEVICE_KEY: Steps = |_, page| page.follow("form[action='/keys/device'] button");

/// A link that lets a person in, shown once.
pub(crate) const INVITATION: Steps = |_, page| page.follow("form[action$='/invite'] button");

/// A token, shown once.
pub(crate) const TOKEN: Steps = |_, page| {
    let name = page.evaluate("`nightly ${Date.now()}`")?;
    page.fill("#token_name", name.as_str().unwrap_or("nightly"))?;
    page.follow("form[action='/settings/tokens'] button")
};

/// A token that is not made.
pub(crate) const NAMELESS_TOKEN: Steps = |_, page| page.follow("form[action='/settings/tokens'] button");

/// A sign-in that is too old for what is asked.
pub(crate) const STEP_UP: Steps = |_, page| page.follow("form[action='/settings'] button[type=submit]");

/// The authenticator app is switched on.
pub(crate) const RECOVERY_CODES: Steps = |_, page| {
    let secret = page.text("main code")?;
    page.fill("#code", &totp_code(&secret, 0)?)?;
    page.follow("form[action='/account/totp'] button")
};

/// A passphrase that is not the right one.
pub(crate) const WRONG_PASSPHRASE: Steps = |_, page| sign_in(page, "not the passphrase at all");

/// The right one, of an account with an authenticator app.
pub(crate) const FIRST_FACTOR: Steps = |_, page| sign_in(page, PASSPHRASE);

fn sign_in(page: &Page<'_>, passphrase: &str) -> Result<()> {
    page.fill("#name", "lena@example.com")?;
    page.fill("#passphrase", passphrase)?;
    page.follow("form[action='/signin'] button[type=submit]")
}
