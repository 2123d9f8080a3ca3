//! The album's pages: what is photographed, by whom it is seen and after which steps. A page of the console that is not
//! here fails a test.

use crate::steps::{self, Steps};
use std::collections::BTreeMap;

/// A page: what its files are called, where it is, and what is done there before the picture is taken.
#[derive(Clone, Copy)]
pub(crate) struct Shot {
    pub(crate) name: &'static str,
    /// An address, with names of [`Places`] in braces.
    pub(crate) path: &'static str,
    /// Where the picture is taken, when steps lead away.
    pub(crate) at: &'static str,
    pub(crate) steps: Option<Steps>,
    /// The steps lead to a page that is loaded, and do not only open or mark something on the one that is there.
    pub(crate) loads: bool,
}

const fn page(name: &'static str, path: &'static str) -> Shot {
    Shot { name, path, at: path, steps: None, loads: true }
}

/// A page that only somebody who did something sees.
const fn after(name: &'static str, path: &'static str, steps: Steps, at: &'static str) -> Shot {
    Shot { name, path, at, steps: Some(steps), loads: true }
}

/// A page on which something was opened or marked.
const fn within(name: &'static str, path: &'static str, steps: Steps) -> Shot {
    Shot { name, path, at: path, steps: Some(steps), loads: false }
}

/// What the names in braces stand for.
#[derive(Default)]
pub(crate) struct Places(BTreeMap<&'static str, String>);

impl Places {
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.insert(name, value.into());
    }

    /// The address without its names.
    ///
    /// # Errors
    /// A name that stands for nothing.
    pub(crate) fn fill(&self, path: &str) -> anyhow::Result<String> {
        let mut filled = path.to_owned();
        for (name, value) in &self.0 {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        anyhow::ensure!(!filled.contains('{'), "nothing stands for a name in {path}");
        Ok(filled)
    }
}

/// Somebody who is not signed in, at the very first start.
pub(crate) const FIRST: &[Shot] = &[page("first-owner", "/first-owner/{first_owner}")];

/// The owner, before there is anything.
pub(crate) const EMPTY: &[Shot] = &[
    page("empty-overview", "/"),
    page("empty-topology", "/topology"),
    page("empty-flows", "/flows"),
    page("empty-resources", "/resources"),
    page("empty-policies", "/policies"),
    page("empty-access", "/access"),
    page("empty-sites", "/sites"),
    page("empty-people", "/people"),
    page("empty-devices", "/devices"),
    page("empty-service-accounts", "/service-accounts"),
    page("empty-keys", "/keys"),
    page("empty-providers", "/settings/providers"),
    page("empty-search", "/search"),
];

/// The owner of a small company.
pub(crate) const FURNISHED: &[Shot] = &[
    page("overview", "/"),
    within("palette", "/", steps::PALETTE),
    within("palette-found", "/resources", steps::PALETTE_FOUND),
    within("menu", "/resources", steps::MENU),
    page("topology", "/topology"),
    within("topology-focus", "/topology", steps::IN_THE_PICTURE),
    page("flows", "/flows"),
    page("flows-nothing-fits", "/flows?q=nobody"),
    page("resources", "/resources"),
    page("resources-nothing-fits", "/resources?q=nothing"),
    page("resource", "/resources/{wiki}"),
    page("resource-new", "/resources/new"),
    page("resource-edit", "/resources/{wiki}/edit"),
    page("resource-remove", "/resources/{wiki}/remove"),
    page("policies", "/policies"),
    page("policy", "/policies/{wiki_policy}"),
    page("policy-edit", "/policies/{wiki_policy}/edit"),
    page("policy-new-preview", "/policies/new?group={engineering}&resource={orders}"),
    page("policy-remove", "/policies/{wiki_policy}/remove"),
    page("access", "/access"),
    page("why-empty", "/why"),
    page("why-yes", "/why?who=Mikkel+Lund&to=Wiki"),
    page("why-no", "/why?who=Mikkel+Lund&to=Order+database"),
    page("sites", "/sites"),
    page("site", "/sites/{hamburg}"),
    page("site-new", "/sites/new"),
    page("site-edit", "/sites/{hamburg}/edit"),
    page("site-connect", "/sites/{rotterdam}/connect"),
    page("site-remove", "/sites/{gdansk}/remove"),
    page("site-waiting", "/sites/{rotterdam}/waiting/{waiting_key}"),
    page("site-arrived", "/sites/{hamburg}/waiting/{used_key}"),
    page("connector", "/connectors/{connector}"),
    page("connector-revoke", "/connectors/{connector}/revoke"),
    page("connector-edit", "/connectors/{connector}/edit"),
    page("connector-remove", "/connectors/{connector}/remove"),
    page("people", "/people"),
    page("person", "/people/{mikkel}"),
    page("person-new", "/people/new"),
    page("person-edit", "/people/{mikkel}/edit"),
    page("person-role", "/people/{mikkel}/role"),
    page("person-revoke", "/people/{mikkel}/revoke"),
    page("person-remove", "/people/{mikkel}/remove"),
    page("group", "/groups/{engineering}"),
    page("group-new", "/groups/new"),
    page("group-edit", "/groups/{engineering}/edit"),
    page("group-remove", "/groups/{engineering}/remove"),
    page("devices", "/devices"),
    page("device", "/devices/{device}"),
    page("device-edit", "/devices/{device}/edit"),
    page("device-revoke", "/devices/{device}/revoke"),
    page("device-block", "/devices/{device}/block"),
    page("device-archive", "/devices/{device}/archive"),
    page("device-remove", "/devices/{device}/remove"),
    page("devices-waiting", "/devices?state=waiting"),
    page("device-waiting", "/devices/{waiting_device}"),
    page("device-approve", "/devices/{waiting_device}/approve"),
    page("service-accounts", "/service-accounts"),
    page("service-account", "/service-accounts/{backup}"),
    page("service-account-new", "/service-accounts/new"),
    page("service-account-revoke", "/service-accounts/{backup}/revoke"),
    page("service-account-edit", "/service-accounts/{backup}/edit"),
    page("service-account-remove", "/service-accounts/{backup}/remove"),
    page("pops", "/pops"),
    page("pop", "/pops/{pop}"),
    page("pop-edit", "/pops/{pop}/edit"),
    page("pop-revoke", "/pops/{pop}/revoke"),
    page("pop-remove", "/pops/{pop}/remove"),
    page("keys", "/keys"),
    page("key-remove", "/keys/{key}/remove"),
    page("only-takes-a-form", "/keys/pop"),
    page("audit", "/audit"),
    page("audit-sign-ins", "/audit/sign-ins"),
    page("settings", "/settings"),
    page("providers", "/settings/providers"),
    page("provider-new", "/settings/providers/new"),
    page("provider-edit", "/settings/providers/corp/edit"),
    page("provider-remove", "/settings/providers/corp/remove"),
    page("token-remove", "/settings/tokens/{token}/remove"),
    page("search", "/search?q=e"),
    page("search-nothing-found", "/search?q=nothing"),
    page("status", "/status"),
    page("account", "/account"),
    page("device-code", "/device"),
    page("signed-in-again", "/signed-in-again"),
    page("not-found", "/sites/nothing"),
    page("no-such-page", "/recources"),
];

/// What forms are answered with, when the sign-in is fresh enough.
pub(crate) const ANSWERS: &[Shot] = &[
    after("form-errors", "/sites/new", steps::WRONG_SITE, "/sites/new"),
    after("form-outdated", "/sites/{rotterdam}/edit", steps::OUTDATED_SITE, "/sites/{rotterdam}/edit"),
    after(
        "policy-outdated",
        "/policies/{orders_policy}/edit",
        steps::OUTDATED_POLICY,
        "/policies/{orders_policy}/edit",
    ),
    after("settings-outdated", "/settings", steps::OUTDATED_SETTINGS, "/settings"),
    after(
        "provider-outdated",
        "/settings/providers/corp/edit",
        steps::OUTDATED_PROVIDER,
        "/settings/providers/corp/edit",
    ),
    after("struck", "/service-accounts/{backup}/revoke", steps::STRUCK, "/service-accounts/{backup}/revoke"),
    after(
        "out-of-group",
        "/groups/{engineering}",
        steps::OUT_OF_GROUP,
        "/groups/{engineering}/members/remove",
    ),
    after("from-before-sign-in", "/settings", steps::FROM_BEFORE, "/settings"),
    after("connector-key-shown", "/sites/{gdansk}/connect", steps::CONNECTOR_KEY, "/sites/{gdansk}/connect"),
    after("pop-key-shown", "/pops", steps::POP_KEY, "/keys/pop"),
    after("key-shown", "/people/{mikkel}", steps::DEVICE_KEY, "/keys/device"),
    after("invitation-shown", "/people/{mikkel}", steps::INVITATION, "/people/{mikkel}/invite"),
    after("token-shown", "/settings", steps::TOKEN, "/settings/tokens"),
    after("token-errors", "/settings", steps::NAMELESS_TOKEN, "/settings/tokens"),
];

/// The owner, whose sign-in is too old.
pub(crate) const STEP_UP: &[Shot] = &[after("step-up", "/settings", steps::STEP_UP, "/settings")];

/// The owner, who looks at their authenticator app and signs devices in.
pub(crate) const OWN: &[Shot] = &[
    page("device-code-confirm", "/device?code={device_code}"),
    after("device-code-confirmed", "/device", steps::DEVICE_CONFIRMED, "/device"),
    after("device-code-refused", "/device", steps::DEVICE_REFUSED, "/device"),
    page("device-code-not-open", "/device?code=BCDF-GHJK"),
    // The last: it sets a cookie, and whoever judges has its own in a header, which that one takes the place of.
    page("totp-set-up", "/account/totp"),
];

/// The owner, who sets the app up: every session of before ends with it, also that of who judges beside.
pub(crate) const CODES: &[Shot] =
    &[after("recovery-codes", "/account/totp", steps::RECOVERY_CODES, "/account/totp")];

/// Pages that come with an error's status, and no others.
pub(crate) const REFUSED: &[&str] = &[
    "not-found",
    "no-such-page",
    "only-takes-a-form",
    "device-code-not-open",
    "not-for-your-role",
    "form-not-for-your-role",
    "provider-away",
    "provider-not-asked",
    "link-used-up",
    "nothing-for-strangers",
];

/// A member, who may look after nothing but their own account.
pub(crate) const MEMBER: &[Shot] =
    &[page("not-for-your-role", "/devices"), page("account-of-a-member", "/account")];

/// An auditor, who reads.
pub(crate) const AUDITOR: &[Shot] =
    &[page("resource-read-only", "/resources/{wiki}"), page("form-not-for-your-role", "/resources/new")];

/// Who is not signed in, or not any more.
pub(crate) const GUESTS: &[Shot] = &[
    page("sign-in", "/signin"),
    after("sign-in-error", "/signin", steps::WRONG_PASSPHRASE, "/signin"),
    after("sign-in-code", "/signin", steps::FIRST_FACTOR, "/signin/code"),
    after("kept-after-sign-out", "/signin", steps::SIGNED_OUT, "/groups/new"),
    page("provider-away", "/signin/oidc/corp"),
    page("provider-not-asked", "/signin/oidc?code=x&state=y"),
    page("join", "/join"),
    page("api-reference", "/api/"),
    page("invitation", "/invitation/{invitation}"),
    page("link-used-up", "/invitation/nothing"),
    page("nothing-for-strangers", "/recources"),
];

/// The owner, while the database is locked.
pub(crate) const DEGRADED: &[Shot] = &[
    page("degraded-overview", "/"),
    page("degraded-form", "/groups/new"),
    page("degraded-status", "/status"),
];

/// The owner, while the controller signs nothing because its clock is wrong.
pub(crate) const FENCED: &[Shot] =
    &[page("fenced-overview", "/"), page("fenced-form", "/groups/new"), page("fenced-status", "/status")];

/// Whether an address is one of a route, whatever it asks there.
pub(crate) fn is_at(route: &str, path: &str) -> bool {
    let [route, path] = [route, path].map(|address| address.split('?').next().unwrap_or_default());
    let (mut route, mut path) = (route.split('/'), path.split('/'));
    loop {
        match (route.next(), path.next()) {
            (None, None) => return true,
            (Some(part), Some(given)) if part == given || (part.starts_with('{') && !given.is_empty()) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::{
        collections::BTreeSet,
        path::{Path, PathBuf},
    };

    const ALBUM: [&[Shot]; 12] =
        [FIRST, EMPTY, FURNISHED, ANSWERS, STEP_UP, OWN, CODES, MEMBER, AUDITOR, GUESTS, DEGRADED, FENCED];

    /// What is read at an address and is no page.
    const NO_PAGES: [(&str, &str); 8] = [
        ("/events", "a stream that a page listens to"),
        ("/banner", "a part of every page"),
        ("/flows/newer", "rows that a page puts above its own"),
        ("/status.json", "for programs"),
        ("/favicon.ico", "leads to the sign"),
        ("/favicon.svg", "the sign in a tab"),
        ("/api/v1/openapi.json", "for programs"),
        ("/enrol/v1/trust", "for devices"),
    ];

    fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }

    /// What stands between the parenthesis that is open and its end; no string of these files has one alone.
    fn arguments(source: &str) -> &str {
        let mut depth = 1;
        let end = source.char_indices().find(|(_, letter)| {
            depth += i32::from(*letter == '(') - i32::from(*letter == ')');
            depth == 0
        });
        &source[..end.expect("each parenthesis ends").0]
    }

    /// The addresses that are read, in the sources of the controller.
    fn routes() -> BTreeSet<String> {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/controller/src"), &mut files);
        let mut found = BTreeSet::new();
        for file in files {
            let source = std::fs::read_to_string(&file).unwrap();
            for rest in source.split(".route(").skip(1) {
                let arguments = arguments(rest).trim();
                let Some((address, answered)) =
                    arguments.strip_prefix('"').and_then(|rest| rest.split_once('"'))
                else {
                    // Files that pages bring along have their content's hash in their names.
                    let name = arguments.split(',').next().unwrap().to_lowercase();
                    assert!(
                        name.ends_with("path"),
                        "{}: an address that is not written out: {name}",
                        file.display()
                    );
                    continue;
                };
                if !answered.trim_start_matches([',', ' ', '\n']).starts_with("post(")
                    && !answered.contains("restoring(")
                {
                    found.insert(address.to_owned());
                }
            }
        }
        found
    }

    /// The route that answers: what is named in full comes before what has a place for something.
    fn route_of<'a>(routes: &'a BTreeSet<String>, path: &str) -> Option<&'a String> {
        let fitting = routes.iter().filter(|route| is_at(route, path));
        fitting.min_by_key(|route| route.matches('{').count())
    }

    fn all() -> impl Iterator<Item = &'static Shot> {
        ALBUM.into_iter().flatten()
    }

    #[test]
    fn every_page_of_the_console_has_a_picture() {
        let routes = routes();
        assert!(routes.len() > 80, "only {} routes were found: {routes:?}", routes.len());
        let shown: BTreeSet<&String> = all().filter_map(|shot| route_of(&routes, shot.at)).collect();
        let without: Vec<&String> = routes
            .iter()
            .filter(|route| !shown.contains(route) && !NO_PAGES.iter().any(|(other, _)| other == route))
            .collect();
        assert!(without.is_empty(), "pages without a picture: {without:?}");
        for (path, what) in NO_PAGES {
            assert!(routes.contains(path), "{path}, {what}, is gone");
            assert!(!shown.iter().any(|route| *route == path), "{path}, {what}, has a picture");
        }
    }

    #[test]
    fn a_page_named_in_full_is_not_shown_by_another_s_picture() {
        let routes: BTreeSet<String> =
            ["/sites/{id}", "/sites/new", "/sites/{id}/edit"].map(str::to_owned).into();
        let of = |path| route_of(&routes, path).map(String::as_str);
        assert_eq!(of("/sites/new?x=/y"), Some("/sites/new"));
        assert_eq!(of("/sites/{hamburg}"), Some("/sites/{id}"));
        assert_eq!((of("/sites/{hamburg}/edit"), of("/sites//edit")), (Some("/sites/{id}/edit"), None));
    }

    #[test]
    fn each_picture_has_a_name_of_its_own() {
        let mut names = BTreeSet::new();
        for shot in all() {
            assert!(names.insert(shot.name), "two pictures are called {}", shot.name);
        }
    }
}
