//! What somebody does before a picture is taken of what they get to see.

use crate::PASSPHRASE;
use anyhow::{Context as _, Result};
use browser::{Page, Stage, Terminal, totp_code};
use serde_json::json;
use std::sync::atomic::{AtomicU32, Ordering};

/// Done on a page that was just opened; done again for each picture.
pub(crate) type Steps = fn(&Stage, &Page<'_>) -> Result<()>;

/// What Ctrl K opens.
pub(crate) const PALETTE: Steps = |_, page| page.click("button.searchbox");

/// What it finds while somebody types.
pub(crate) const PALETTE_FOUND: Steps = |stage, page| {
    PALETTE(stage, page)?;
    page.fill("#palette-q", "plant")?;
    page.wait_for_text("#palette-found", "Gdańsk plant").map(drop)
};

/// The navigation of a phone; a desktop shows it anyway.
pub(crate) const MENU: Steps = |_, page| {
    let is_drawer = page.evaluate("document.querySelector('[popovertarget=nav]').checkVisibility()")?;
    if is_drawer == true { page.click("[popovertarget=nav]") } else { Ok(()) }
};

/// Somebody walks through a picture by the keyboard.
pub(crate) const IN_THE_PICTURE: Steps = |_, page| {
    page.evaluate(
        "[...document.querySelectorAll('svg.topo a')].find(e => e.checkVisibility()).focus(); void 0",
    )?;
    page.key("Tab")
};

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

/// Somebody else renames the organization while its settings are open.
pub(crate) const OUTDATED_SETTINGS: Steps = |stage, page| {
    let settings = stage.api("GET", "/settings", None)?;
    let name = if settings["name"] == "Brandt Logistics" { "Brandt Shipping" } else { "Brandt Logistics" };
    stage.api("PATCH", "/settings", Some(&json!({"name": name})))?;
    page.fill("#name", "Brandt and Daughters")?;
    page.follow("form[action='/settings'] button[type=submit]")
};

/// Somebody else changes a provider while its form is open.
pub(crate) const OUTDATED_PROVIDER: Steps = |stage, page| {
    let provider = stage.api("GET", "/oidc-providers/corp", None)?;
    let was = "Corporate account";
    let title = if provider["title"] == was { "Corporate account (new)" } else { was };
    let provider = json!({"title": title, "issuer": provider["issuer"], "client_id": provider["client_id"]});
    stage.api("PUT", "/oidc-providers/corp", Some(&provider))?;
    page.fill("#title", "Sign in with the company")?;
    page.follow("form[action$='/edit'] button[type=submit]")
};

/// Somebody is taken out of a group, and put back once the answer is there: the next picture asks again.
pub(crate) const OUT_OF_GROUP: Steps = |stage, page| {
    let path = page.path()?;
    let member =
        page.evaluate("document.querySelector(\"form[action$='/members/remove'] [name=member]\").value")?;
    let member = member.as_str().context("a member")?;
    page.follow("form[action$='/members/remove'] button")?;
    stage.api("PUT", &format!("{path}/members/{member}"), Some(&json!({}))).map(drop)
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

/// A terminal waits with a code, which somebody types.
fn type_code(stage: &Stage, page: &Page<'_>) -> Result<Terminal> {
    static TYPED: AtomicU32 = AtomicU32::new(1);
    let name = format!("tablet-{}", TYPED.fetch_add(1, Ordering::Relaxed));
    let ca = stage.controller_state().join("console-ca.pem");
    let mut terminal = Terminal::login(stage, &name, &["--ca", ca.to_str().context("a path in UTF-8")?])?;
    page.fill("#code", terminal.says()?["user_code"].as_str().context("a code")?)?;
    page.follow("button[value=look]")?;
    Ok(terminal)
}

/// The device is let in.
pub(crate) const DEVICE_CONFIRMED: Steps = |stage, page| {
    let _terminal = type_code(stage, page)?;
    page.follow("button[value=confirm]")
};

/// It is not.
pub(crate) const DEVICE_REFUSED: Steps = |stage, page| {
    let _terminal = type_code(stage, page)?;
    page.follow("button[value=refuse]")
};

/// A form of the console is sent by a browser whose session has ended: one that was never there looks the same.
pub(crate) const SIGNED_OUT: Steps = |_, page| {
    page.evaluate(
        "(() => { const form = document.createElement('form'); form.method = 'post'; form.action = '/groups/new';
            const name = document.createElement('input'); name.name = 'name'; name.value = 'support';
            form.append(name); document.body.append(form); form.submit(); })()",
    )?;
    page.wait_for_text("h1", "You were signed out")?;
    page.wait_until_loaded()
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
