//! What is around every page: who looks, where they are, how new it is what they see, and the way to everything else.

use super::{
    assets::{HTMX_SCRIPT, OWN_SCRIPT, STYLE_SHEET, sprite, whole_sprite},
    look::{age, counted, icon, initials, said, sized_icon, thin, typed, wave},
};
use crate::{
    access::Scene,
    api::{self, Caller},
    clock,
    parts::Core,
    signin::{
        cookie::RoleSource,
        session::{self, SignedIn},
    },
    snapshot::{Snapshot, SnapshotSource},
};
use axum::{
    extract::FromRequestParts,
    response::{Html, IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode, request::Parts};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use policy::OrganizationModel;
use std::{fmt::Write as _, sync::Arc};
use store::OrganizationData;
use trust::UnixMs;
use wire::OrganizationId;

/// htmx without anything that the pages' policy refuses, and without a copy of pages in the browser's storage: some show
/// a secret once.
const HTMX_CONFIG: &str = r#"{"includeIndicatorStyles":false,"allowEval":false,"historyEnabled":false,"historyCacheSize":0,"selfRequestsOnly":true,"allowScriptTags":false}"#;

/// Where one is, for the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    Overview,
    Topology,
    Flows,
    Resources,
    Policies,
    Access,
    Why,
    Sites,
    People,
    Devices,
    ServiceAccounts,
    Pops,
    Keys,
    Audit,
    Settings,
    Elsewhere,
}

/// Who looks at a page, and the one state of things that it shows.
pub(super) struct Viewer {
    pub(super) core: Arc<Core>,
    pub(super) who: SignedIn,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) organization: OrganizationId,
    pub(super) caller: Caller,
    pub(super) now: UnixMs,
    pub(super) theme: &'static str,
    /// Path and query, to come back to.
    pub(super) path: String,
    /// What there was before anything of it was read: an open page asks again when this is another.
    state: String,
    /// The same of what is around every page.
    standing: String,
}

/// Nobody is signed in.
pub(super) enum NotSignedIn {
    /// They sign in and come back here.
    Redirect(String),
    /// A part of an open page asks: it would take the page to sign in for itself.
    Part,
    /// The snapshot lacks what the session is about.
    Nothing,
    /// They came to the first page, and the console has none for them but their own account.
    OwnAccount,
    /// Who it was has no access any more, or never had.
    Refused(Refusal),
}

/// Why somebody gets no page, and where they may go instead.
pub(super) struct Refusal {
    detail: String,
    /// The overview is theirs to read: who reads nothing here would be led back to the same words.
    reads_overview: bool,
    theme: &'static str,
}

/// What the API asks of somebody who reads what a page shows: the first part of its address, and the endpoint that
/// gives the same. A page that is not here shows nothing of the organization's, or asks the API itself.
const READS: &[(&str, &str)] = &[
    ("", "/sites"),
    ("topology", "/devices"),
    ("flows", "/flows"),
    ("resources", "/resources"),
    ("policies", "/policies"),
    ("access", "/policies"),
    ("why", "/policies"),
    ("sites", "/sites"),
    ("connectors", "/connectors"),
    ("people", "/users"),
    ("groups", "/groups"),
    ("devices", "/devices"),
    ("service-accounts", "/service-accounts"),
    ("pops", "/pops"),
    ("keys", "/enrolment-keys"),
    ("settings", "/organizations"),
    ("audit", "/audit"),
    ("search", "/users"),
    ("events", "/sites"),
    ("banner", "/sites"),
];

fn may_read(caller: &Caller, path: &str) -> bool {
    let first = path.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
    let needed = READS.iter().find(|(page, _)| *page == first);
    needed.is_none_or(|(_, endpoint)| caller.may_call(&Method::GET, endpoint))
}

impl IntoResponse for NotSignedIn {
    fn into_response(self) -> Response {
        match self {
            Self::Redirect(path) if path == "/" => Redirect::to("/signin").into_response(),
            Self::Redirect(path) => Redirect::to(&format!("/signin?next={}", encode(&path))).into_response(),
            // No redirect, which a script follows unseen; and htmx leaves the page as it is.
            Self::Part => StatusCode::UNAUTHORIZED.into_response(),
            Self::OwnAccount => Redirect::to("/account").into_response(),
            Self::Nothing => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Self::Refused(Refusal { detail, reads_overview, theme }) => {
                let body = html! {
                    div class="page-head" { div {
                        h1 { "This page is not for your role." }
                        p class="lede" { (detail) }
                    } }
                    div class="actions" {
                        a class="btn" href="/account" { "Your account" }
                        @if reads_overview { a class="btn" href="/" { "Overview" } }
                    }
                };
                super::form::bare_page(StatusCode::FORBIDDEN, "Not for this role", theme, body)
            }
        }
    }
}

/// Whether the console shows this caller anything: a member may have nothing but their own account.
pub(crate) fn shows_anything_to(caller: &Caller) -> bool {
    may_read(caller, "/")
}

/// A text as part of an address (RFC 3986 section 2.1).
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

impl Viewer {
    /// Who sent these headers, if they are signed in.
    pub(super) fn of(core: &Arc<Core>, parts: &Parts) -> Result<Self, NotSignedIn> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let Some(who) = core.signed_in(&parts.headers) else {
            return Err(if is_part(parts) { NotSignedIn::Part } else { NotSignedIn::Redirect(path) });
        };
        let (state, standing) = (super::events::state(core), super::events::standing(core));
        let snapshot = core.snapshot();
        let theme = session::theme(&parts.headers);
        let refused =
            |detail, reads_overview| NotSignedIn::Refused(Refusal { detail, reads_overview, theme });
        let caller = super::ask::caller(core, &who, parts)
            .map_err(|problem| refused(problem.detail.clone(), false))?;
        let organization = caller.organization;
        if snapshot.organization(organization).is_none() {
            return Err(NotSignedIn::Nothing);
        }
        if parts.uri.path() == "/" && who.source == RoleSource::User && !shows_anything_to(&caller) {
            return Err(NotSignedIn::OwnAccount);
        }
        if !may_read(&caller, parts.uri.path()) {
            let role = super::ask::role_name(&caller);
            let detail = format!("You are signed in with the role {role}, which does not read this.");
            return Err(refused(detail, shows_anything_to(&caller)));
        }
        super::actions::admit(&caller, parts.uri.path())
            .map_err(|detail| refused(detail, shows_anything_to(&caller)))?;
        Ok(Self {
            core: Arc::clone(core),
            who,
            snapshot,
            organization,
            caller,
            now: clock::wall(),
            theme,
            path,
            state,
            standing,
        })
    }

    pub(super) fn data(&self) -> &OrganizationData {
        self.snapshot
            .organization(self.organization)
            .expect("looked up in this snapshot when the viewer was made")
    }

    pub(super) fn model(&self) -> &OrganizationModel {
        self.snapshot
            .models
            .get(&self.organization)
            .expect("a snapshot has a model of each of its organizations")
    }

    pub(super) fn scene(&self) -> Scene<'_> {
        Scene { core: &self.core, data: self.data(), model: self.model() }
    }

    pub(super) fn views(&self) -> api::Views<'_> {
        api::Views::new(&self.core, self.data())
    }

    /// The newest state, after a change of one's own.
    pub(super) fn refreshed(mut self) -> Self {
        self.snapshot = self.core.snapshot();
        self
    }

    /// Whether their role reads what an endpoint of the API gives.
    pub(super) fn reads(&self, endpoint: &str) -> bool {
        self.caller.may_call(&Method::GET, endpoint)
    }

    /// Whether their pages are told of changes while they are open.
    fn is_told(&self) -> bool {
        may_read(&self.caller, "/events")
    }

    /// The field that each form carries.
    pub(super) fn token(&self) -> Markup {
        html! { input type="hidden" name="form_token" value=(self.who.form_token); }
    }

    /// Whether a form is of this session.
    pub(super) fn sent(&self, token: &str) -> bool {
        session::same(&self.who.form_token, token)
    }

    /// Why nothing can be changed right now, in words for a person.
    pub(super) fn changes_wait(&self) -> Option<String> {
        if let Err(fenced) = self.core.signer.signing_time() {
            return Some(format!("this controller signs nothing: {fenced}"));
        }
        self.core.database.trouble()
    }

    /// A whole page.
    pub(super) fn page(&self, here: Here, title: &str, body: Markup) -> Response {
        self.page_with(StatusCode::OK, here, title, html! {}, body)
    }

    /// With a status, and more in its head.
    pub(super) fn page_with(
        &self,
        status: StatusCode,
        here: Here,
        title: &str,
        more_head: Markup,
        body: Markup,
    ) -> Response {
        let title: String = title.chars().take(120).collect();
        let is_told = self.is_told();
        let shown = html! {
            a class="skip" href="#main" { "Skip to content" }
            div class="shell shell--nav" {
                (self.navigation(here))
                div class="stage" {
                    (self.top_bar())
                    (self.live_banner())
                    main id="main" tabindex="-1" { (body) }
                }
            }
            (self.palette())
        }
        .into_string();
        let page = html! {
            (DOCTYPE)
            html lang="en" data-theme=[(!self.theme.is_empty()).then_some(self.theme)] {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="description" content="The console of a Tidegate installation";
                    meta name="htmx-config" content=(HTMX_CONFIG);
                    link rel="stylesheet" href=(STYLE_SHEET.path);
                    link rel="icon" href="/favicon.svg" type="image/svg+xml";
                    script src=(HTMX_SCRIPT.path) defer {}
                    script src=(OWN_SCRIPT.path) defer {}
                    (more_head)
                    title { (title) " · Tidegate" }
                }
                body data-state=[is_told.then_some(&self.state)] data-standing=[is_told.then_some(&self.standing)] {
                    (PreEscaped(if is_told { whole_sprite() } else { sprite(&shown) })) (PreEscaped(shown))
                }
            }
        };
        (status, Html(page.into_string())).into_response()
    }

    fn navigation(&self, here: Here) -> Markup {
        let data = self.data();
        let link = |to: Here, href: &str, sign: &'static str, text: &str, count: Option<usize>| {
            html! {
                @if may_read(&self.caller, href) { li {
                    a class="nav-link" href=(href) aria-current=[(to == here).then_some("page")] {
                        (icon(sign)) (text)
                        @if let Some(count) = count { span class="nav-count" { (thin(count as u64)) } }
                    }
                } }
            }
        };
        html! {
            nav class="sidenav" id="nav" popover aria-label="Main" {
                a class="brand" href="/" { (sized_icon("mark", "mark")) "Tidegate" }
                span class="org" { (typed(&data.organization.name)) }
                div class="nav-group" { ul {
                    (link(Here::Overview, "/", "home", "Overview", None))
                    (link(Here::Topology, "/topology", "map", "Topology", None))
                    (link(Here::Flows, "/flows", "flow", "Sessions and flows", None))
                } }
                div class="nav-group" {
                    div class="nav-title" { "Access" }
                    ul {
                        (link(Here::Resources, "/resources", "resource", "Resources", Some(data.resources.len())))
                        (link(Here::Policies, "/policies", "policy", "Policies", Some(data.policies.len())))
                        (link(Here::Access, "/access", "lock", "Access graph", None))
                        (link(Here::Why, "/why", "why", "Why?", None))
                    }
                }
                div class="nav-group" {
                    div class="nav-title" { "Inventory" }
                    ul {
                        (link(Here::Sites, "/sites", "site", "Sites", Some(data.sites.len())))
                        (link(Here::People, "/people", "people", "People", Some(data.users.len())))
                        (link(Here::Devices, "/devices", "device", "Devices", Some(data.devices.len())))
                        (link(Here::ServiceAccounts, "/service-accounts", "gear", "Service accounts", Some(data.service_accounts.len())))
                        (link(Here::Pops, "/pops", "map", "PoPs", Some(self.snapshot.dataset.pops.len())))
                        (link(Here::Keys, "/keys", "key", "Enrolment keys", None))
                    }
                }
                div class="nav-group" {
                    div class="nav-title" { "Organization" }
                    ul {
                        (link(Here::Audit, "/audit", "audit", "Audit log", None))
                        (link(Here::Settings, "/settings", "gear", "Settings", None))
                        li { form action="/signout" method="post" {
                            (self.token())
                            button class="nav-link nav-out" type="submit" { (icon("cross")) "Sign out" }
                        } }
                    }
                }
                (self.gauge())
            }
        }
    }

    /// The tide gauge: how new is what is shown.
    pub(super) fn gauge(&self) -> Markup {
        let stale = self.core.snapshot_age().as_millis() > 0;
        let version = self.data().organization.version.version;
        let read_at = self.core.snapshots.verified_at();
        html! {
            div class=(if stale { "gauge gauge--stale" } else { "gauge" }) id="gauge" {
                (wave("gauge-wave", "tide"))
                div class="gauge-body" {
                    @if stale {
                        strong { "Data as of " (said(read_at, self.now)) ", " (age(millis_between(self.now, read_at))) " old" }
                        "Changes have to wait"
                    } @else {
                        strong { "Configuration is current" }
                        (counted(self.core.presence().attached_pops().len(), "PoP hears", "PoPs hear")) " this controller"
                    }
                    br;
                    "Version " (thin(version)) " · times are UTC"
                }
            }
        }
    }

    fn top_bar(&self) -> Markup {
        html! {
            header class="topbar" {
                button class="icon-btn nav-open" type="button" popovertarget="nav" aria-label="Menu" {
                    (sized_icon("icon icon--lg", "menu"))
                }
                a class="brand brand--bar" href="/" { (sized_icon("mark", "mark")) "Tidegate" }
                button class="searchbox" type="button" popovertarget="palette" {
                    (icon("search")) span { "Search or jump to…" } kbd aria-hidden="true" { "Ctrl K" }
                }
                div class="topbar-end" {
                    form action="/theme" method="post" {
                        (self.token())
                        input type="hidden" name="next" value=(self.path);
                        button class="icon-btn" type="submit" aria-label="Switch between light and dark" { (icon("theme")) }
                    }
                    a class="who" href="/account" {
                        span class="avatar" aria-hidden="true" { (initials(&self.who.name)) }
                        span { (typed(&self.who.name)) " " span class="quiet" { "· " (super::ask::role_name(&self.caller)) } }
                    }
                    form class="bar-out" action="/signout" method="post" {
                        (self.token())
                        button class="btn btn--sm" type="submit" { "Sign out" }
                    }
                }
            }
        }
    }

    /// The same wherever one is, while it is open: an outage that begins is said on a page that was read before. The node
    /// stays, and is empty when all is well: what comes into a status is read aloud, and a status that comes is not.
    fn live_banner(&self) -> Markup {
        let from = self.is_told().then_some("/banner");
        html! {
            div id="banner" role="status" hx-get=[from] hx-select="#banner > *" hx-select-oob="#gauge" hx-trigger="standing from:body" hx-swap="innerHTML" {
                (self.banner())
            }
        }
    }

    /// What differs from normal, the gravest alone: what, what goes on, what waits.
    fn banner(&self) -> Markup {
        if let Err(fenced) = self.core.signer.signing_time() {
            return banner(
                "banner banner--bad",
                "warn",
                html! {
                    strong { "This controller signs nothing: " (fenced.to_string()) "." }
                    " What agents hold goes on until it ends. Nothing can be changed here; revoking works."
                },
            );
        }
        if let Some(withheld) = self.core.withheld() {
            return banner(
                "banner banner--bad",
                "warn",
                html! {
                    strong { "This controller issues nothing: " (withheld.to_string()) "." }
                    " Running access goes on. Renewals wait."
                },
            );
        }
        if let Some(trouble) = self.core.database.trouble() {
            let data = self.data();
            let until = said(crate::issue::grants_end(data, self.now), self.now);
            let copy = match self.snapshot.source {
                SnapshotSource::Database => "from memory",
                SnapshotSource::Replica => "from a replica of the database",
                SnapshotSource::DiskCopy => "from the copy on disk",
            };
            return banner(
                "banner",
                "db",
                html! {
                    strong { "Access works. Changes have to wait: " (trouble) }
                    " — running and new connections, restarts, sign-in of known devices and revoking go on; a grant renewed now lasts until "
                    (until) ". You read this " (copy) ", as of " (said(self.core.snapshots.verified_at(), self.now)) ". "
                    a href="/#works" { "What works now" }
                },
            );
        }
        html! {}
    }

    fn palette(&self) -> Markup {
        // With the letter that leads there once one walks among the entries.
        let go = [
            ("/why", "why", "w", "Why can or can’t someone reach…"),
            ("/sites", "plus", "c", "Connect a site"),
            ("/resources/new", "plus", "a", "Add a resource"),
            ("/people/new", "plus", "p", "Add a person"),
            ("/policies/new", "plus", "o", "Write a policy"),
            ("/devices", "strike", "r", "Revoke a device"),
            ("/flows?verdict=denied", "flow", "d", "What was denied?"),
            ("/status", "info", "s", "Status page for everybody"),
        ];
        html! {
            div class="dialog palette" id="palette" popover role="dialog" aria-label="Search or jump to" {
                form action="/search" role="search" {
                    (icon("search"))
                    label class="vh" for="palette-q" { "Search" }
                    input class="input" id="palette-q" name="q" type="search" placeholder="Name, address, person, device…"
                        autocomplete="off" maxlength="200" hx-get="/search" hx-trigger="input changed delay:150ms"
                        hx-select="#found" hx-target="#palette-found" hx-swap="innerHTML" autofocus;
                    button class="btn btn--sm" type="submit" { "Search" }
                }
                div id="palette-found" {}
                h3 { "Do" }
                ul {
                    @for (href, sign, letter, text) in go.into_iter().filter(|(href, ..)| self.offers(href)) {
                        li { a href=(href) aria-keyshortcuts=(letter) { (icon(sign)) (text) span aria-hidden="true" { kbd { (letter) } } } }
                    }
                }
            }
        }
    }
}

/// What every page says of how things stand, alone.
pub(super) async fn banner_alone(viewer: Viewer) -> Response {
    Html(html! { (viewer.live_banner()) (viewer.gauge()) }.into_string()).into_response()
}

fn banner(class: &'static str, sign: &'static str, body: Markup) -> Markup {
    html! { div class=(class) { (sized_icon("icon icon--lg", sign)) p { (body) } } }
}

/// Whether htmx asks for a part of a page that is open, and no browser for a page.
fn is_part(parts: &Parts) -> bool {
    parts.method == Method::GET && parts.headers.get("hx-request").is_some_and(|value| value == "true")
}

pub(super) fn millis_between(now: UnixMs, then: UnixMs) -> u64 {
    u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX)
}

impl FromRequestParts<Arc<Core>> for Viewer {
    type Rejection = NotSignedIn;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, NotSignedIn> {
        Self::of(core, parts)
    }
}
