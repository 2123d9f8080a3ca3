//! One page, used as a person does: what is clicked must be visible and in front, what is typed arrives key by key.

use crate::{Chromium, PATIENCE, eventually};
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use std::{cell::RefCell, path::Path, time::Duration};

/// A width and a height in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Screen {
    /// A desktop.
    pub const DESKTOP: Self = Self { width: 1440, height: 900 };
    /// A phone.
    pub const PHONE: Self = Self { width: 390, height: 844 };
}

/// What the system prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// Light.
    Light,
    /// Dark.
    Dark,
}

/// A virtual authenticator of a page (WebAuthn domain of the debugging protocol).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticator(String);

/// A page of a browser.
pub struct Page<'a> {
    chromium: &'a Chromium,
    /// The window whose cookies it has.
    context: Value,
    session: String,
    target: String,
    /// What the page complained about so far.
    complaints: RefCell<Vec<String>>,
}

impl<'a> Page<'a> {
    pub(crate) fn make(chromium: &'a Chromium, context: &Value) -> Result<Self> {
        let parameters = json!({"url": "about:blank", "browserContextId": context});
        let target = chromium.call(None, "Target.createTarget", parameters)?;
        let target = target["targetId"].as_str().context("the page's id")?.to_owned();
        let attach = json!({"targetId": target, "flatten": true});
        let session = chromium.call(None, "Target.attachToTarget", attach)?;
        let session = session["sessionId"].as_str().context("the page's session")?.to_owned();
        let page =
            Self { chromium, context: context.clone(), session, target, complaints: RefCell::default() };
        for domain in ["Page", "Runtime", "Log", "Network", "DOM"] {
            page.call(&format!("{domain}.enable"), json!({}))?;
        }
        page.screen(Screen::DESKTOP)?;
        Ok(page)
    }

    /// A new page behind this one, with the same cookies.
    ///
    /// # Errors
    /// The browser refuses.
    pub fn behind(&self) -> Result<Self> {
        let page = Self::make(self.chromium, &self.context)?;
        self.bring_to_front()?;
        Ok(page)
    }

    /// Puts this page before the others: one behind draws nothing, and is clicked and waited for in vain.
    ///
    /// # Errors
    /// The browser's.
    pub fn bring_to_front(&self) -> Result<()> {
        self.call("Page.bringToFront", json!({})).map(drop)
    }

    /// What the debugging protocol calls this page, for another program that looks at it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// One command of the protocol to this page.
    ///
    /// # Errors
    /// The browser's.
    pub fn call(&self, method: &str, params: Value) -> Result<Value> {
        self.chromium.call(Some(&self.session), method, params)
    }

    /// Goes to an address and waits until it is loaded.
    ///
    /// # Errors
    /// It is not.
    pub fn open(&self, url: &str) -> Result<()> {
        let went = self.call("Page.navigate", json!({"url": url}))?;
        if let Some(error) = went.get("errorText").and_then(Value::as_str) {
            bail!("{url}: {error}");
        }
        self.wait_until_loaded()
    }

    /// Waits until the page in front is loaded.
    ///
    /// # Errors
    /// Never within [`PATIENCE`].
    pub fn wait_until_loaded(&self) -> Result<()> {
        eventually("a loaded page", PATIENCE, || {
            let state = self.evaluate("document.readyState")?;
            ensure!(state == "complete", "it is {state}");
            Ok(())
        })
    }

    /// The value of an expression in the page, with the rights of a person's own click.
    ///
    /// # Errors
    /// What the expression throws.
    pub fn evaluate(&self, expression: &str) -> Result<Value> {
        let parameters = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true,
        });
        let answer = self.call("Runtime.evaluate", parameters)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            let said = thrown["exception"]["description"].as_str().or(thrown["text"].as_str());
            bail!("{}", said.unwrap_or("the expression failed"));
        }
        Ok(answer["result"]["value"].clone())
    }

    /// The address in front, without its origin.
    ///
    /// # Errors
    /// The browser's.
    pub fn path(&self) -> Result<String> {
        let path = self.evaluate("location.pathname + location.search")?;
        Ok(path.as_str().unwrap_or_default().to_owned())
    }

    /// Waits for an address whose path begins so.
    ///
    /// # Errors
    /// It never comes.
    pub fn wait_for_path(&self, begin: &str) -> Result<String> {
        let found = eventually(&format!("the address {begin}…"), PATIENCE, || {
            let path = self.path()?;
            ensure!(path.starts_with(begin), "it is {path}, which says {:?}", self.brief());
            Ok(path)
        })?;
        self.wait_until_loaded()?;
        Ok(found)
    }

    /// How many elements fit.
    ///
    /// # Errors
    /// The selector is none.
    pub fn count(&self, selector: &str) -> Result<u64> {
        let count = self.evaluate(&format!("document.querySelectorAll({}).length", json!(selector)))?;
        count.as_u64().context("a count")
    }

    /// What the first element that fits says, as a person sees it.
    ///
    /// # Errors
    /// There is none.
    pub fn text(&self, selector: &str) -> Result<String> {
        let text =
            self.evaluate(&format!("document.querySelector({})?.innerText ?? null", json!(selector)))?;
        Ok(text.as_str().with_context(|| format!("nothing is {selector}"))?.to_owned())
    }

    /// Waits until the first element that fits says this somewhere.
    ///
    /// # Errors
    /// It never does; the page's own words are in the error.
    pub fn wait_for_text(&self, selector: &str, wanted: &str) -> Result<String> {
        self.wait_for_text_within(selector, wanted, PATIENCE)
    }

    /// The same with a deadline of its own.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_for_text_within(&self, selector: &str, wanted: &str, within: Duration) -> Result<String> {
        eventually(&format!("{wanted:?} in {selector}"), within, || {
            let text = self.text(selector)?;
            ensure!(text.contains(wanted), "it says {text:?}; the page says {:?}", self.brief());
            Ok(text)
        })
    }

    /// The beginning of what the page says.
    fn brief(&self) -> String {
        self.text("body").unwrap_or_default().chars().take(1500).collect()
    }

    /// Clicks an element where a person would: scrolled into view, in the middle, and only when nothing is in front.
    ///
    /// # Errors
    /// There is none, or something covers it.
    pub fn click(&self, selector: &str) -> Result<()> {
        let mut last = None;
        let (x, y) = eventually(&format!("{selector} to click"), PATIENCE, || {
            let found = self.evaluate(&format!(
                "(() => {{ const e = document.querySelector({});
                    if (!e) return null;
                    e.scrollIntoView({{block: 'center', behavior: 'instant'}});
                    const r = e.getBoundingClientRect();
                    const x = r.x + r.width / 2, y = r.y + r.height / 2;
                    const hit = document.elementFromPoint(x, y);
                    return {{x, y, hit: !!hit && (e.contains(hit) || hit.contains(e)), what: hit ? hit.outerHTML.slice(0, 120) : ''}};
                }})()",
                json!(selector)
            ))?;
            ensure!(!found.is_null(), "nothing is {selector} in {:?}: {:?}", self.path()?, self.brief());
            ensure!(found["hit"] == true, "it is behind {}", found["what"]);
            let at = (found["x"].clone(), found["y"].clone());
            // A page that is still put in order moves it away from under the click.
            ensure!(last.replace(at.clone()).as_ref() == Some(&at), "it still moves");
            Ok(at)
        })?;
        for (kind, buttons) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)] {
            let parameters = json!({
                "type": kind, "x": x, "y": y, "button": if kind == "mouseMoved" { "none" } else { "left" },
                "buttons": buttons, "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", parameters)?;
        }
        Ok(())
    }

    /// Clicks, and waits until another page is in front and loaded: for links and buttons that send a form.
    ///
    /// # Errors
    /// Nothing comes.
    pub fn follow(&self, selector: &str) -> Result<()> {
        self.evaluate("window.__left = false; void 0")?;
        self.click(selector)?;
        eventually(&format!("a page behind {selector}"), PATIENCE, || {
            let here = self.evaluate("window.__left === false && document.readyState")?;
            ensure!(here == false, "still {:?}", self.path()?);
            Ok(())
        })?;
        self.wait_until_loaded()
    }

    /// Puts a text where one types; what was there goes.
    ///
    /// # Errors
    /// There is no such field.
    pub fn fill(&self, selector: &str, text: &str) -> Result<()> {
        eventually(&format!("the field {selector}"), PATIENCE, || {
            let found = self.evaluate(&format!(
                "(() => {{ const e = document.querySelector({}); if (!e) return false; e.focus(); e.select?.(); return document.activeElement === e }})()",
                json!(selector)
            ))?;
            ensure!(found == true, "no such field in {:?}: {:?}", self.path()?, self.brief());
            Ok(())
        })?;
        if text.is_empty() {
            return self.key("Delete");
        }
        self.call("Input.insertText", json!({"text": text})).map(drop)
    }

    /// Presses and releases a key: `Enter`, `Escape`, `Tab`, `k` and so on.
    ///
    /// # Errors
    /// The browser's.
    pub fn key(&self, key: &str) -> Result<()> {
        self.key_with(key, 0)
    }

    /// The same with Ctrl held.
    ///
    /// # Errors
    /// The browser's.
    pub fn ctrl(&self, key: &str) -> Result<()> {
        self.key_with(key, 2)
    }

    /// The same with Shift held.
    ///
    /// # Errors
    /// The browser's.
    pub fn shift(&self, key: &str) -> Result<()> {
        self.key_with(key, 8)
    }

    fn key_with(&self, key: &str, modifiers: u8) -> Result<()> {
        let (code, number, text) = match key {
            "Enter" => ("Enter".to_owned(), 13, "\r"),
            "Escape" => ("Escape".to_owned(), 27, ""),
            "Tab" => ("Tab".to_owned(), 9, ""),
            "Delete" => ("Delete".to_owned(), 46, ""),
            "ArrowUp" => ("ArrowUp".to_owned(), 38, ""),
            "ArrowDown" => ("ArrowDown".to_owned(), 40, ""),
            "/" => ("Slash".to_owned(), 191, "/"),
            letter if letter.len() == 1 => (
                format!("Key{}", letter.to_uppercase()),
                i32::from(letter.to_uppercase().as_bytes()[0]),
                letter,
            ),
            other => bail!("the key {other} is not among those that tests press"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut parameters = json!({
                "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers,
            });
            if kind == "keyDown" && modifiers == 0 && !text.is_empty() {
                parameters["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", parameters)?;
        }
        Ok(())
    }

    /// Chooses an option of a list by what it says.
    ///
    /// # Errors
    /// There is no such list or option.
    pub fn choose(&self, selector: &str, option: &str) -> Result<()> {
        let chosen = self.evaluate(&format!(
            "(() => {{ const e = document.querySelector({}); if (!e) return 'no list';
                const o = [...e.options].find(o => o.text.trim() === {});
                if (!o) return 'only ' + [...e.options].map(o => o.text.trim()).join(' | ');
                o.selected = true; e.dispatchEvent(new Event('input', {{bubbles: true}}));
                e.dispatchEvent(new Event('change', {{bubbles: true}})); return 'ok' }})()",
            json!(selector),
            json!(option)
        ))?;
        ensure!(chosen == "ok", "{selector} has no {option:?}: {chosen}");
        Ok(())
    }

    /// Size of the window.
    ///
    /// # Errors
    /// The browser's.
    pub fn screen(&self, screen: Screen) -> Result<()> {
        let parameters = json!({
            "width": screen.width, "height": screen.height, "deviceScaleFactor": 1,
            "mobile": screen.width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", parameters)?;
        let touch = json!({"enabled": screen.width < 600});
        self.call("Emulation.setTouchEmulationEnabled", touch).map(drop)
    }

    /// What the system prefers.
    ///
    /// # Errors
    /// The browser's.
    pub fn prefer(&self, theme: Theme) -> Result<()> {
        let value = match theme {
            Theme::Light => "light",
            Theme::Dark => "dark",
        };
        let features = json!([
            {"name": "prefers-color-scheme", "value": value},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).map(drop)
    }

    /// From now on no script of a page runs.
    ///
    /// # Errors
    /// The browser's.
    pub fn without_script(&self) -> Result<()> {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": true})).map(drop)
    }

    /// How far the parts of the page moved, and which, while it loaded, until a quarter of a second behind its end (the metric CLS; what a
    /// person's own input moves does not count).
    ///
    /// # Errors
    /// The browser's.
    pub fn layout_shift(&self) -> Result<(f64, String)> {
        let sum = "new Promise(done => { let sum = 0; const moved = []; \
                   const name = node => node?.nodeType === 1 ? node.outerHTML.slice(0, 80) : String(node?.textContent).slice(0, 40); \
                   new PerformanceObserver(list => { for (const shift of list.getEntries()) if (!shift.hadRecentInput) { \
                       sum += shift.value; \
                       for (const one of shift.sources) moved.push(`${name(one.node)} from y=${one.previousRect.y} h=${one.previousRect.height} to y=${one.currentRect.y} h=${one.currentRect.height}`); } }) \
                   .observe({type: 'layout-shift', buffered: true}); setTimeout(() => done([sum, moved.join('; ')]), 250) })";
        let told = self.evaluate(sum)?;
        let moved = told[1].as_str().unwrap_or_default().to_owned();
        Ok((told[0].as_f64().context("a sum of shifts")?, moved))
    }

    /// A picture of the whole page.
    ///
    /// # Errors
    /// The browser's, or the file's.
    pub fn picture(&self, to: &Path, screen: Screen) -> Result<()> {
        let layout = self.call("Page.getLayoutMetrics", json!({}))?;
        let height = layout["cssContentSize"]["height"].as_f64().unwrap_or(0.0).max(f64::from(screen.height));
        // What lies on the edge of a window as high as the page is where it is on a screen.
        let parameters = json!({
            "width": screen.width, "height": height.min(8000.0).ceil(), "deviceScaleFactor": 1,
            "mobile": screen.width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", parameters)?;
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        self.screen(screen)?;
        let shot = shot?;
        let data = shot["data"].as_str().context("a picture")?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(data)?;
        std::fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
    }

    /// Adds an authenticator of the platform that answers at once, with a verified user and resident keys.
    ///
    /// # Errors
    /// The browser's.
    pub fn add_authenticator(&self) -> Result<Authenticator> {
        self.call("WebAuthn.enable", json!({"enableUI": false}))?;
        let options = json!({
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true, "hasUserVerification": true,
            "isUserVerified": true, "automaticPresenceSimulation": true,
        });
        let made = self.call("WebAuthn.addVirtualAuthenticator", json!({"options": options}))?;
        Ok(Authenticator(made["authenticatorId"].as_str().context("an authenticator")?.to_owned()))
    }

    /// The passkeys that an authenticator holds.
    ///
    /// # Errors
    /// The browser's.
    pub fn passkeys(&self, of: &Authenticator) -> Result<Vec<Value>> {
        let held = self.call("WebAuthn.getCredentials", json!({"authenticatorId": of.0}))?;
        Ok(held["credentials"].as_array().cloned().unwrap_or_default())
    }

    /// Whether the person at an authenticator is who they say (a finger that fits), from now on.
    ///
    /// # Errors
    /// The browser's.
    pub fn verify_user(&self, of: &Authenticator, verified: Verified) -> Result<()> {
        let parameters = json!({"authenticatorId": of.0, "isUserVerified": verified == Verified::Yes});
        self.call("WebAuthn.setUserVerified", parameters).map(drop)
    }

    /// What the page complained about since it was made: refused by its policy, thrown by a script, not found.
    ///
    /// # Errors
    /// None now; kept for what a browser may say.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let fits = |method: &str| {
            matches!(method, "Log.entryAdded" | "Runtime.exceptionThrown" | "Runtime.consoleAPICalled")
        };
        // A round trip: what the page has said before it is here now.
        self.evaluate("0")?;
        let mut all = self.complaints.borrow_mut();
        for event in self.chromium.take_events(&self.session, fits) {
            let params = &event["params"];
            match event["method"].as_str() {
                Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                    all.push(format!("{} ({})", params["entry"]["text"], params["entry"]["url"]));
                }
                Some("Runtime.exceptionThrown") => all.push(params["exceptionDetails"].to_string()),
                Some("Runtime.consoleAPICalled") if params["type"] == "error" => {
                    all.push(params["args"].to_string());
                }
                _ => {}
            }
        }
        Ok(all.clone())
    }

    /// The cookies that it sends to an address, as a header has them.
    ///
    /// # Errors
    /// The browser's.
    pub fn cookies(&self, url: &str) -> Result<String> {
        let answer = self.call("Network.getCookies", json!({"urls": [url]}))?;
        let all = answer["cookies"].as_array().context("cookies")?.iter();
        let each = all.filter_map(|cookie| Some((cookie["name"].as_str()?, cookie["value"].as_str()?)));
        Ok(each.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; "))
    }

    /// Bytes that came over the network for the page since the last time this was asked.
    ///
    /// # Errors
    /// The browser's.
    pub fn bytes(&self) -> Result<u64> {
        self.evaluate("0")?;
        let events = self.chromium.take_events(&self.session, |method| method == "Network.loadingFinished");
        let each = events.iter().filter_map(|event| event["params"]["encodedDataLength"].as_f64());
        Ok(each.sum::<f64>() as u64)
    }
}

/// Whether a person is who they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// They are.
    Yes,
    /// They are not.
    No,
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        let _ = self.chromium.call(None, "Target.closeTarget", json!({"targetId": self.target}));
    }
}
