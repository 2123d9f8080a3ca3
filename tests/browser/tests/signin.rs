//! Signing in with a real browser: a passkey, a passphrase and a code, an OpenID provider that nobody here wrote, and a
//! terminal that shows a code.

use anyhow::{Context as _, Result, ensure};
use browser::{Chromium, Page, Stage, Terminal, Verified, totp_code};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const PASSPHRASE: &str = "correct horse battery staple";

/// The first owner, signed in by their link.
fn first_owner(stage: &Stage, page: &Page<'_>) -> Result<()> {
    page.open(&stage.owner_link)?;
    for (field, text) in [
        ("#name", "Lena Brandt"),
        ("#email", "lena@example.com"),
        ("#passphrase", PASSPHRASE),
        ("#again", PASSPHRASE),
    ] {
        page.fill(field, text)?;
    }
    page.follow("main button[type=submit]")?;
    page.wait_for_path("/")?;
    Ok(())
}

fn open(stage: &Stage, page: &Page<'_>, path: &str) -> Result<()> {
    page.open(&format!("{}{path}", stage.url))
}

fn sign_out(stage: &Stage, page: &Page<'_>) -> Result<()> {
    open(stage, page, "/account")?;
    page.follow("form[action='/signout'] button")?;
    page.wait_for_path("/signin")?;
    Ok(())
}

fn type_passphrase(page: &Page<'_>) -> Result<()> {
    page.fill("#name", "lena@example.com")?;
    page.fill("#passphrase", PASSPHRASE)?;
    page.follow("form[action='/signin'] button")
}

/// No page of ours made the browser complain; an OpenID provider's pages are its own affair.
fn is_quiet(stage: &Stage, page: &Page<'_>) -> Result<()> {
    let mut complaints = page.complaints()?;
    complaints.retain(|said| said.contains(&stage.url));
    ensure!(complaints.is_empty(), "the browser complains: {complaints:?}");
    Ok(())
}

#[test]
fn a_passkey_signs_in_by_itself_also_with_the_database_locked_and_not_without_its_owner() -> Result<()> {
    let stage = Stage::start()?;
    let chromium = Chromium::start()?;
    let page = chromium.page()?;
    first_owner(&stage, &page)?;
    let key = page.add_authenticator()?;
    open(&stage, &page, "/account")?;
    page.fill("form[data-passkey] #name", "laptop")?;
    page.click("form[data-passkey] button")?;
    page.wait_for_text("main", "laptop")?;
    let held = page.passkeys(&key)?;
    ensure!(held.len() == 1 && held[0]["isResidentCredential"] == true, "{held:?}");
    sign_out(&stage, &page)?;
    let lock = stage.lock_database()?;
    page.click("form[data-passkey] button")?;
    page.wait_for_path("/")?;
    page.wait_for_text("h1", "Nothing can be reached yet")?;
    open(&stage, &page, "/account")?;
    page.wait_for_text("h1", "Your account")?;
    drop(lock);
    sign_out(&stage, &page)?;
    page.verify_user(&key, Verified::No)?;
    page.click("form[data-passkey] button")?;
    page.wait_for_text("form[data-passkey] [data-says]", "No passkey was used")?;
    open(&stage, &page, "/account")?;
    page.wait_for_path("/signin")?;
    is_quiet(&stage, &page)
}

#[test]
fn a_passphrase_and_a_code_sign_in_and_so_does_a_recovery_code_without_any_script() -> Result<()> {
    let stage = Stage::start()?;
    let chromium = Chromium::start()?;
    let page = chromium.page()?;
    page.without_script()?;
    first_owner(&stage, &page)?;
    open(&stage, &page, "/account/totp")?;
    let secret = page.text("main code")?;
    page.fill("#code", &totp_code(&secret, 0)?)?;
    page.follow("form[action='/account/totp'] button")?;
    page.wait_for_text("h1", "Your recovery codes")?;
    let recovery = page.text("ol.codes li code")?;
    sign_out(&stage, &page)?;
    type_passphrase(&page)?;
    page.wait_for_path("/signin/code")?;
    page.fill("#code", "000000")?;
    page.follow("form[action='/signin/code'] button")?;
    page.wait_for_text("main", "That code is not right")?;
    // A browser calls each answer that refuses an error.
    let complaints = page.complaints()?;
    ensure!(
        complaints.iter().all(|said| said.contains("403") && said.contains("/signin/code")),
        "{complaints:?}"
    );
    // The code that switched the app on is used up: the next one.
    page.fill("#code", &totp_code(&secret, 1)?)?;
    page.follow("form[action='/signin/code'] button")?;
    page.wait_for_path("/")?;
    sign_out(&stage, &page)?;
    type_passphrase(&page)?;
    page.fill("#code", &recovery)?;
    page.follow("form[action='/signin/code'] button")?;
    page.wait_for_path("/")?;
    open(&stage, &page, "/account")?;
    page.wait_for_text("main", "9 recovery codes are left")?;
    Ok(())
}

/// npm's `oidc-provider` in a process of its own.
struct Provider {
    child: Child,
    issuer: String,
    certificate: String,
    _directory: tempfile::TempDir,
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `cargo xtask test` has put the judge's modules.
fn modules() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found =
        own.ancestors().map(|above| above.join("judges/oidc")).find(|path| path.join("complete").is_file());
    found.context("no judges/oidc in the target directory: cargo xtask test installs it")
}

impl Provider {
    fn start(stage: &Stage) -> Result<Self> {
        Self::start_for(stage, None)
    }

    /// The same with people of its own.
    fn start_for(stage: &Stage, people: Option<&Value>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=provider"])
            .args([
                "-addext",
                "subjectAltName=DNS:localhost",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
            ])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()?;
        ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        // Free until the provider takes it: nobody else here asks for ports below.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let issuer = format!("https://localhost:{port}");
        let script = modules()?.join("provider.mjs");
        let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("../judges/oidc/provider.mjs");
        std::fs::copy(judge, &script)?;
        let mut child = Command::new("node")
            .arg(&script)
            .arg(&issuer)
            .args([&certificate, &key])
            .arg(format!("{}/signin/oidc", stage.url))
            .args(people.map(ToString::to_string))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting node")?;
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().context("its output")?);
        said.read_line(&mut line)?;
        // What it says later is read and forgotten: it would end at a closed pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        ensure!(line.trim() == "ready", "the provider said {line:?}");
        let certificate = std::fs::read_to_string(certificate)?;
        Ok(Self { child, issuer, certificate, _directory: directory })
    }

    /// Signs in there and agrees.
    fn sign_in(&self, page: &Page<'_>, who: &str) -> Result<()> {
        page.wait_for_text("body", "Sign-in")?;
        page.fill("input[name=login]", who)?;
        page.fill("input[name=password]", "anything")?;
        page.follow("button[type=submit]")?;
        page.wait_for_text("body", "Authorize")?;
        page.follow("button[type=submit]")
    }
}

#[test]
fn a_certified_provider_signs_people_in_makes_them_and_moves_them_between_groups() -> Result<()> {
    let stage = Stage::start()?;
    let chromium = Chromium::start()?;
    let page = chromium.page()?;
    first_owner(&stage, &page)?;
    sign_out(&stage, &page)?;
    let provider = Provider::start(&stage)?;
    let group = stage.api("POST", "/groups", Some(&json!({"name": "engineers"})))?;
    let configured = json!({
        "title": "Example ID", "issuer": provider.issuer, "client_id": "tidegate",
        "client_secret": "a secret / with = signs & more", "scopes": ["profile", "email", "groups"],
        "group_map": {"engineers": group["id"]}, "new_users": "make", "domains": ["example.com"],
        "ca_pem": provider.certificate,
    });
    stage.api("PUT", "/oidc-providers/example", Some(&configured))?;
    let begin = "main a[href^='/signin/oidc/example']";
    open(&stage, &page, "/signin?next=/account")?;
    page.follow(begin)?;
    provider.sign_in(&page, "ada")?;
    page.wait_for_path("/account")?;
    page.wait_for_text("main", "ada@example.com")?;
    let members =
        stage.api("GET", &format!("/groups/{}/members", group["id"].as_str().context("an id")?), None)?;
    ensure!(members["items"].as_array().is_some_and(|items| items.len() == 1), "{members}");
    is_quiet(&stage, &page)?;
    // Another browser, somebody who names the owner's address without having proven it.
    let other = chromium.page()?;
    open(&stage, &other, "/signin")?;
    other.follow(begin)?;
    provider.sign_in(&other, "mallory")?;
    other.wait_for_text("main", "is not believed about that address")?;
    // Known people sign in while the database is locked; the group they left is struck at once.
    let lock = stage.lock_database()?;
    let again = chromium.page()?;
    open(&stage, &again, "/signin?next=/account")?;
    again.follow(begin)?;
    provider.sign_in(&again, "ada")?;
    again.wait_for_text("main", "ada@example.com")?;
    drop(lock);
    let log = stage.api("GET", "/authentication-log", None)?;
    let outcomes: Vec<&str> = log["items"]
        .as_array()
        .context("entries")?
        .iter()
        .filter(|entry| entry["method"] == "oidc")
        .filter_map(|entry| entry["outcome"].as_str())
        .collect();
    ensure!(outcomes == ["signed-in", "refused", "signed-in"], "{log}");
    Ok(())
}

/// Somebody comes with a new browser, says which provider knows them, and signs in there.
fn come(stage: &Stage, page: &Page<'_>, (name, provider): (&str, &Provider), who: &str) -> Result<()> {
    open(stage, page, "/signin?next=/account")?;
    page.follow(&format!("main a[href^='/signin/oidc/{name}']"))?;
    provider.sign_in(page, who)
}

#[test]
fn two_providers_sign_people_in_beside_each_other_and_neither_speaks_for_whom_the_other_knows() -> Result<()>
{
    let stage = Stage::start()?;
    let chromium = Chromium::start()?;
    first_owner(&stage, &chromium.page()?)?;
    // The same person's name at both means nothing: `ada` there is somebody else.
    let said = |email: &str, name: &str| json!({"email": email, "email_verified": true, "name": name});
    let corp = Provider::start_for(
        &stage,
        Some(&json!({
            "ada": said("ada@example.com", "Ada Lovelace"),
            "carol": said("grace@partner.example", "Not Grace"),
            "bob": said("bob@example.com", "Bob Noble"),
        })),
    )?;
    let partner = Provider::start_for(
        &stage,
        Some(&json!({
            "ada": said("grace@partner.example", "Grace Hopper"),
            "eve": said("ada@example.com", "Not Ada"),
            "lena": said("lena@example.com", "Not Lena"),
            "mallory": said("bob@example.com", "Not Bob"),
        })),
    )?;
    let configure = |name: &str, provider: &Provider, domains: &[&str]| {
        let configured = json!({
            "title": name, "issuer": provider.issuer, "client_id": "tidegate",
            "client_secret": "a secret / with = signs & more", "scopes": ["profile", "email"],
            "new_users": "make", "domains": domains, "ca_pem": provider.certificate,
        });
        stage.api("PUT", &format!("/oidc-providers/{name}"), Some(&configured))
    };
    configure("corp", &corp, &["example.com"])?;
    configure("partner", &partner, &["partner.example"])?;
    let (corp, partner) = (("corp", &corp), ("partner", &partner));
    let users = || -> Result<Vec<(String, String)>> {
        let all = stage.api("GET", "/users", None)?;
        let each = all["items"].as_array().context("users")?.iter();
        let mut each: Vec<_> = each
            .map(|user| (user["email"].as_str().unwrap_or_default().to_owned(), user["id"].to_string()))
            .collect();
        each.sort();
        Ok(each)
    };

    let ada = chromium.page()?;
    come(&stage, &ada, corp, "ada")?;
    ada.wait_for_text("main", "ada@example.com")?;
    let grace = chromium.page()?;
    come(&stage, &grace, partner, "ada")?;
    grace.wait_for_text("main", "grace@partner.example")?;
    let both = users()?;
    let emails: Vec<&str> = both.iter().map(|(email, _)| email.as_str()).collect();
    ensure!(emails == ["ada@example.com", "grace@partner.example", "lena@example.com"], "{both:?}");
    is_quiet(&stage, &ada)?;
    is_quiet(&stage, &grace)?;

    // An address that both say they have verified is of whom the owner lets speak for its domain, either way round.
    for (provider, who) in [(partner, "eve"), (partner, "lena"), (corp, "carol")] {
        let page = chromium.page()?;
        come(&stage, &page, provider, who)?;
        page.wait_for_text("main", "is not believed about that address").with_context(|| who)?;
        open(&stage, &page, "/account")?;
        page.wait_for_path("/signin")?;
    }
    ensure!(users()? == both, "{:?}", users()?);

    // Nobody is made to wait under an address for which another provider speaks: whose it is finds it free.
    let mallory = chromium.page()?;
    come(&stage, &mallory, partner, "mallory")?;
    mallory.wait_for_text("main", "another provider speaks for the domain of bob@example.com")?;
    let bob = chromium.page()?;
    come(&stage, &bob, corp, "bob")?;
    bob.wait_for_text("main", "bob@example.com")?;

    // One company with two providers: once the owner says so, both lead to the same person, and to nobody new.
    configure("partner", partner.1, &["partner.example", "example.com"])?;
    let known = users()?;
    for (provider, who) in [(partner, "eve"), (corp, "ada"), (partner, "eve")] {
        let page = chromium.page()?;
        come(&stage, &page, provider, who)?;
        page.wait_for_path("/account").with_context(|| who)?;
        page.wait_for_text("main", "ada@example.com")?;
    }
    ensure!(users()? == known, "{:?}", users()?);
    // And one that is gone takes nothing of the other's with it.
    stage.api("DELETE", "/oidc-providers/partner", None)?;
    let page = chromium.page()?;
    come(&stage, &page, corp, "ada")?;
    page.wait_for_text("main", "ada@example.com")?;
    open(&stage, &page, "/signin/oidc/partner")?;
    page.wait_for_text("main", "This organization has no such provider")?;
    Ok(())
}

#[test]
fn a_terminal_shows_a_code_a_person_confirms_it_and_the_device_is_theirs() -> Result<()> {
    let stage = Stage::start()?;
    let chromium = Chromium::start()?;
    let page = chromium.page()?;
    first_owner(&stage, &page)?;
    let ca = stage.controller_state().join("console-ca.pem");
    let ca = ca.to_str().context("a path in UTF-8")?;
    let mut terminal = Terminal::login(&stage, "laptop", &["--ca", ca])?;
    let shown = terminal.says()?;
    let (code, root) =
        (shown["user_code"].as_str().context("a code")?, shown["root"].as_str().context("a root")?);
    page.open(shown["address_with_code"].as_str().context("an address")?)?;
    let confirm = page.wait_for_text("main", "laptop")?;
    ensure!(confirm.contains(code) && confirm.contains(root), "{confirm}");
    page.follow("button[value=confirm]")?;
    page.wait_for_text("h1", "The device is signed in")?;
    let enrolled = terminal.says()?;
    ensure!(enrolled["owner"] == "Lena Brandt" && enrolled["name"] == "laptop", "{enrolled}");
    // By the root's hash alone, and refused.
    let mut refused = Terminal::login(&stage, "other", &["--root", root])?;
    let code = refused.says()?["user_code"].as_str().context("a code")?.to_owned();
    open(&stage, &page, "/device")?;
    page.fill("#code", &code.to_lowercase().replace('-', " "))?;
    page.follow("button[value=look]")?;
    page.follow("button[value=refuse]")?;
    page.wait_for_text("h1", "Refused")?;
    ensure!(refused.ends()?.code() == Some(4), "the terminal is told");
    // A server that proves nothing gets no question at all.
    let output = Command::new(browser::binary()?)
        .args(["login", &stage.url, "--state"])
        .arg(stage.directory().join("nobody"))
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("is not believed"),
        "{output:?}"
    );
    is_quiet(&stage, &page)
}
