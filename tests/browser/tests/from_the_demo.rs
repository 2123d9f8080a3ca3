//! What somebody does who has seen nothing but `tidegate demo` and what is on the screen: a resource of their own, reached by the
//! demo's client. With `TIDEGATE_WALK=FOLDER` each screen on the way is kept as a picture.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for conditions with deadlines"
)]

use browser::{Chromium, Page, Screen, WebSite, eventually};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

const PASSPHRASE: &str = "correct horse battery staple";

/// A demo that runs until this is dropped.
struct Demo {
    child: Child,
    ready: Value,
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It ends its processes and removes its directory.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.child.wait();
    }
}

impl Demo {
    fn start() -> Self {
        let mut command = Command::new(browser::binary().unwrap());
        command.args(["--json", "demo"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("the demo says that it is ready").unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        Self { child, ready }
    }

    fn word(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.ready))
    }

    /// The command that the demo prints, with another address.
    fn curl(&self, url: &str) -> anyhow::Result<String> {
        let proxy = std::fs::read_to_string(self.word("proxy_url_file"))?;
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "10",
            "--proxy",
            proxy.trim(),
            url,
        ]);
        let output = command.stdin(Stdio::null()).output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Keeps what is on the screen, where somebody wants to look at it.
fn seen(page: &Page<'_>, name: &str) {
    if let Some(folder) = std::env::var_os("TIDEGATE_WALK").map(PathBuf::from) {
        std::fs::create_dir_all(&folder).unwrap();
        page.picture(&folder.join(format!("{name}.png")), Screen::DESKTOP).unwrap();
    }
}

#[test]
fn from_the_demo_to_a_resource_of_one_s_own_by_what_is_on_the_screen() {
    let web = WebSite::start("127.0.0.3", "hello from my own service").unwrap();
    let demo = Demo::start();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    page.screen(Screen::DESKTOP).unwrap();
    // The link that the demo prints.
    page.open(demo.word("owner_link")).unwrap();
    seen(&page, "1-first-owner");
    page.fill("#name", "Lena Brandt").unwrap();
    page.fill("#email", "lena@example.com").unwrap();
    page.fill("#passphrase", PASSPHRASE).unwrap();
    page.fill("#again", PASSPHRASE).unwrap();
    page.follow("main form[method=post] button[type=submit]").unwrap();
    page.wait_for_text(".who", "Lena Brandt").unwrap();
    seen(&page, "2-overview");

    page.follow("nav#nav a[href='/resources']").unwrap();
    page.wait_for_text("main", "harbour").unwrap();
    seen(&page, "3-resources");
    page.follow("main a.btn--primary[href^='/resources/new']").unwrap();
    page.fill("#name", "My own service").unwrap();
    page.fill("#address", &web.address.ip().to_string()).unwrap();
    page.fill("#ports", &web.address.port().to_string()).unwrap();
    seen(&page, "4-resource-new");
    page.follow("main form .btn--primary").unwrap();
    page.wait_for_text("main", "Closed for everybody").unwrap();
    seen(&page, "5-resource-closed");
    let address = format!("http://{}", web.address);
    demo.curl(&address).unwrap_err();

    // The page says what is missing, and leads there.
    page.follow("main a[href^='/policies/new']").unwrap();
    page.fill("#name", "The crew reaches my service").unwrap();
    page.fill("#add_group", "crew").unwrap();
    page.follow("button[value=preview]").unwrap();
    page.wait_for_text("#delta", "+1").unwrap();
    page.wait_for_text("main", "alice").unwrap();
    seen(&page, "6-policy-preview");
    page.follow("button[value=save]").unwrap();
    page.wait_for_text("main", "Saved.").unwrap();
    seen(&page, "7-policy-saved");
    // A device hears of a new configuration with its next keepalive, every 25 s.
    let said = eventually("the service through the tunnel", Duration::from_secs(60), || demo.curl(&address));
    assert_eq!(said.unwrap(), "hello from my own service");
    page.follow("nav#nav a[href='/flows']").unwrap();
    eventually("the connection in the log", Duration::from_secs(20), || {
        page.open(&format!("{}/flows", demo.word("console")))?;
        let text = page.text("main")?;
        anyhow::ensure!(text.contains("My own service"), "{text}");
        Ok(())
    })
    .unwrap();
    seen(&page, "8-flows");
}
