//! The console without any script of its own: every kind of form, and the way to each by links.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use browser::{Chromium, Page, Screen, Stage};
use serde_json::json;

const PASSPHRASE: &str = "correct horse battery staple";
const SAVE: &str = "main form .btn--primary";

/// Opens a page of the console and sends its form with these values.
fn send(stage: &Stage, page: &Page<'_>, path: &str, values: &[(&str, &str)], button: &str) {
    page.open(&format!("{}{path}", stage.url)).unwrap();
    for (field, value) in values {
        page.fill(field, value).unwrap();
    }
    page.follow(button).unwrap();
}

fn first_owner(stage: &Stage, page: &Page<'_>) {
    page.open(&stage.owner_link).unwrap();
    page.fill("#name", "Lena Brandt").unwrap();
    page.fill("#email", "lena@example.com").unwrap();
    page.fill("#passphrase", PASSPHRASE).unwrap();
    page.fill("#again", PASSPHRASE).unwrap();
    page.follow("main form[method=post] button[type=submit]").unwrap();
    page.wait_for_text(".who", "Lena Brandt").unwrap();
}

#[test]
fn every_kind_of_form_works_without_script_from_the_first_owner_to_signing_out() {
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    page.without_script().unwrap();
    first_owner(&stage, &page);

    // Objects are made, refused with their error at the field, changed and removed.
    send(&stage, &page, "/sites/new", &[("#name", "Rotterdam"), ("#prefixes", "nonsense")], SAVE);
    page.wait_for_text("#prefixes-error", "prefix").unwrap();
    page.fill("#prefixes", "10.30.0.0/16").unwrap();
    page.follow(SAVE).unwrap();
    page.wait_for_text("h1", "Rotterdam").unwrap();
    let site = page.path().unwrap().split('?').next().unwrap().to_owned();
    send(&stage, &page, &format!("{site}/edit"), &[("#name", "Rotterdam Europoort")], SAVE);
    page.wait_for_text("h1", "Rotterdam Europoort").unwrap();
    send(&stage, &page, &format!("{site}/connect"), &[], SAVE);
    page.wait_for_text("[aria-label='Enrolment key'] code", "tg1").unwrap();
    let wiki = [("#name", "Wiki"), ("#address", "10.30.0.7"), ("#ports", "443")];
    send(&stage, &page, "/resources/new", &wiki, SAVE);
    page.wait_for_text("h1", "Wiki").unwrap();
    let resource = page.path().unwrap().split('?').next().unwrap().to_owned();
    let mikkel = [("#name", "Mikkel Lund"), ("#email", "mikkel@example.com")];
    send(&stage, &page, "/people/new", &mikkel, SAVE);
    let person = page.wait_for_path("/people/").unwrap().split('?').next().unwrap().to_owned();
    send(&stage, &page, "/groups/new", &[("#name", "engineering")], SAVE);
    send(&stage, &page, &person, &[], "form[action='/groups/members/add'] button");
    page.wait_for_text("main", "engineering").unwrap();

    // A policy with its preview.
    let policy = [("#name", "Engineers read the wiki"), ("#add_group", "engineering")];
    send(&stage, &page, "/policies/new", &policy, "button[value=preview]");
    page.fill("#add_resource", "Wiki").unwrap();
    page.follow("button[value=preview]").unwrap();
    page.wait_for_text("#delta", "+1").unwrap();
    page.follow("button[value=save]").unwrap();
    page.wait_for_text("main", "Saved.").unwrap();
    send(
        &stage,
        &page,
        "/why",
        &[("input[name=who]", "Mikkel Lund"), ("input[name=to]", "Wiki")],
        "main form button",
    );
    page.wait_for_text("#verdict", "Mikkel Lund").unwrap();

    // What is shown once: a link for a device, an invitation, a token.
    send(&stage, &page, &person, &[], "form[action='/keys/device'] button");
    page.wait_for_text("[aria-label='Link'] code", "/join").unwrap();
    send(&stage, &page, &person, &[], "form[action$='/invite'] button");
    page.wait_for_text("main", "/invitation/").unwrap();
    send(&stage, &page, "/settings", &[("#token_name", "nightly")], "form[action='/settings/tokens'] button");
    page.wait_for_text("main", "tgt1.").unwrap();

    // Settings, search, and what is taken away, each behind a page that says what goes.
    send(
        &stage,
        &page,
        "/settings",
        &[("#sign_in_age_seconds", "1200")],
        "form[action='/settings'] button[type=submit]",
    );
    assert_eq!(stage.api("GET", "/settings", None).unwrap()["sign_in_age_seconds"], json!(1200));
    send(&stage, &page, "/search", &[("main input[name=q]", "wiki")], "main form button");
    page.wait_for_text("main", "Wiki").unwrap();
    send(&stage, &page, &format!("{resource}/remove"), &[], "main form button.btn--danger");
    assert_eq!(stage.api("GET", "/resources", None).unwrap()["items"], json!([]));
    send(&stage, &page, &format!("{person}/remove"), &[], "main form button.btn--danger");
    page.wait_for_text("main", "Mikkel Lund").unwrap();

    // The way to a page on a phone, the theme, and the way out and in again.
    page.screen(Screen::PHONE).unwrap();
    page.open(&format!("{}/sites", stage.url)).unwrap();
    page.click("button[popovertarget=nav]").unwrap();
    page.wait_for_text("nav#nav", "Enrolment keys").unwrap();
    page.click("nav#nav a[href='/settings']").unwrap();
    page.wait_for_text("h1", "Settings").unwrap();
    send(&stage, &page, "/account", &[], "form[action='/signout'] button");
    send(
        &stage,
        &page,
        "/signin",
        &[("#name", "lena@example.com"), ("#passphrase", PASSPHRASE)],
        "form[action='/signin'] button",
    );
    page.wait_for_text(".who", "Lena Brandt").unwrap();
}
