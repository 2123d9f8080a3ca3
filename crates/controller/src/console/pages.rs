//! Which page is where.

use super::{
    access, accounts,
    ask::Api,
    assets, audit, devices, events, flows,
    form::MAX_FORM,
    keys, members, overview, people, policies, providers, removal, resources, roles, search, settings, shell,
    sign_ins, sites, status, step_up,
    strikes::{self, Way},
    things::{self, Thing},
    tokens, topology, why,
};
use crate::parts::Core;
use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    response::IntoResponse,
    routing::{MethodRouter, get, post},
};
use http::header;
use std::sync::Arc;

const FAVICON: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#16505a"/><path d="M0 20c2.7-2.4 5.3-2.4 8 0s5.3 2.4 8 0 5.3-2.4 8 0 5.3 2.4 8 0v5a7 7 0 0 1-7 7H7a7 7 0 0 1-7-7z" fill="#5ec6ba"/><path d="M9 6v13M16 6v20M23 6v13" stroke="#fff" stroke-width="3.2" stroke-linecap="round" fill="none"/></svg>"##;

/// Making one kind of thing by its form.
fn making(thing: Thing) -> MethodRouter<Arc<Core>> {
    get(move |viewer, wanted| things::new_page(thing, viewer, wanted))
        .post(move |api, posted| things::create(thing, api, posted))
}

fn changing(thing: Thing) -> MethodRouter<Arc<Core>> {
    get(move |api, viewer, id| things::edit_page(thing, api, viewer, id))
        .post(move |api, id, posted| things::replace(thing, api, id, posted))
}

fn removing(thing: Thing) -> MethodRouter<Arc<Core>> {
    get(move |api, viewer, id| removal::remove_page(thing, api, viewer, id))
        .post(move |api, id, posted| removal::remove(thing, api, id, posted))
}

/// Taking access away.
fn striking(thing: Thing, way: Way) -> MethodRouter<Arc<Core>> {
    get(move |viewer, id| strikes::ask_page(thing, way, viewer, id))
        .post(move |api, id, posted| strikes::strike(thing, way, api, id, posted))
}

/// Giving it back.
fn restoring(thing: Thing) -> MethodRouter<Arc<Core>> {
    post(move |api, id, posted| strikes::restore(thing, api, id, posted))
}

/// Each address in full: whoever looks for one finds it here, and so does the check that each has its picture.
pub(super) fn routes(core: &Arc<Core>) -> Router<Arc<Core>> {
    Router::new()
        .route("/", get(overview::page))
        .route("/topology", get(topology::page))
        .route("/flows", get(flows::list))
        .route("/flows/newer", get(flows::newer_than))
        .route("/resources", get(resources::list))
        .route("/resources/{id}", get(resources::one))
        .route("/policies", get(policies::list))
        .route("/policies/new", get(policies::new_page).post(policies::create))
        .route("/policies/{id}", get(policies::one))
        .route("/policies/{id}/edit", get(policies::edit_page).post(policies::replace))
        .route(
            "/policies/{id}/remove",
            get(policies::remove_page)
                .post(|api, id, posted| removal::remove(Thing::Policy, api, id, posted)),
        )
        .route("/access", get(access::page))
        .route("/why", get(why::page))
        .route("/sites", get(sites::list))
        .route("/sites/{id}", get(sites::one))
        .route("/sites/{id}/connect", get(sites::connect_page).post(sites::connect))
        .route("/sites/{id}/waiting/{key}", get(sites::waiting_page))
        .route("/connectors/{id}", get(sites::connector))
        .route("/people", get(people::list))
        .route("/people/{id}", get(members::person))
        .route("/people/{id}/role", get(roles::role_page).post(roles::give_role))
        .route("/people/{id}/invite", post(accounts::invite))
        .route("/people/{id}/end-sessions", post(accounts::end_sessions))
        .route("/groups/{id}", get(people::group))
        .route("/groups/members/add", post(members::add_member))
        .route("/groups/{id}/members/remove", post(members::remove_member))
        .route("/service-accounts", get(people::accounts))
        .route("/service-accounts/{id}", get(members::account))
        .route("/devices", get(devices::list))
        .route("/devices/{id}", get(devices::one))
        .route("/devices/{id}/approve", get(devices::approve_page).post(devices::approve))
        .route("/pops", get(keys::pops))
        .route("/pops/{id}", get(keys::one_pop))
        .route("/keys", get(keys::list))
        .route("/keys/device", post(keys::device))
        .route("/keys/pop", post(keys::pop))
        .route("/audit", get(audit::page))
        .route("/audit/sign-ins", get(sign_ins::page))
        .route("/settings", get(settings::page).post(settings::save))
        .route("/settings/providers", get(providers::list))
        .route("/settings/providers/new", get(providers::new_page).post(providers::create))
        .route("/settings/providers/{id}/edit", get(providers::edit_page).post(providers::replace))
        .route("/settings/providers/{id}/remove", get(providers::remove_page).post(providers::remove))
        .route("/settings/tokens", post(tokens::make))
        .route("/settings/tokens/{id}/remove", get(tokens::remove_page).post(tokens::remove))
        .route("/search", get(search::page))
        .route("/signed-in-again", get(step_up::signed_in_again))
        .route("/events", get(events::events))
        .route("/banner", get(shell::banner_alone))
        .route("/status", get(status::page))
        .route("/status.json", get(status::json))
        .route("/favicon.ico", get(async || axum::response::Redirect::permanent("/favicon.svg")))
        .route(
            "/favicon.svg",
            get(async || {
                (
                    [
                        (header::CONTENT_TYPE, "image/svg+xml"),
                        (header::CACHE_CONTROL, "public, max-age=86400"),
                    ],
                    FAVICON,
                )
                    .into_response()
            }),
        )
        .merge(of_things())
        .merge(of_strikes())
        .merge(assets::routes())
        .layer(Extension(Api::new(core)))
        .layer(DefaultBodyLimit::max(MAX_FORM))
}

/// Making, changing and removing.
fn of_things() -> Router<Arc<Core>> {
    Router::new()
        .route("/sites/new", making(Thing::Site))
        .route("/sites/{id}/edit", changing(Thing::Site))
        .route("/sites/{id}/remove", removing(Thing::Site))
        .route("/resources/new", making(Thing::Resource))
        .route("/resources/{id}/edit", changing(Thing::Resource))
        .route("/resources/{id}/remove", removing(Thing::Resource))
        .route("/groups/new", making(Thing::Group))
        .route("/groups/{id}/edit", changing(Thing::Group))
        .route("/groups/{id}/remove", removing(Thing::Group))
        .route("/people/new", making(Thing::User))
        .route("/people/{id}/edit", changing(Thing::User))
        .route("/people/{id}/remove", removing(Thing::User))
        .route("/service-accounts/new", making(Thing::ServiceAccount))
        .route("/service-accounts/{id}/edit", changing(Thing::ServiceAccount))
        .route("/service-accounts/{id}/remove", removing(Thing::ServiceAccount))
        .route("/pops/{id}/edit", changing(Thing::Pop))
        .route("/pops/{id}/remove", removing(Thing::Pop))
        .route("/devices/{id}/edit", changing(Thing::Device))
        .route("/devices/{id}/remove", removing(Thing::Device))
        .route("/connectors/{id}/edit", changing(Thing::Connector))
        .route("/connectors/{id}/remove", removing(Thing::Connector))
        .route("/keys/{id}/remove", removing(Thing::Key))
}

/// Taking access away and giving it back.
fn of_strikes() -> Router<Arc<Core>> {
    Router::new()
        .route("/devices/{id}/revoke", striking(Thing::Device, Way::Revoke))
        .route("/devices/{id}/block", striking(Thing::Device, Way::Block))
        .route("/devices/{id}/archive", striking(Thing::Device, Way::Archive))
        .route("/devices/{id}/restore", restoring(Thing::Device))
        .route("/people/{id}/revoke", striking(Thing::User, Way::Revoke))
        .route("/people/{id}/restore", restoring(Thing::User))
        .route("/service-accounts/{id}/revoke", striking(Thing::ServiceAccount, Way::Revoke))
        .route("/service-accounts/{id}/restore", restoring(Thing::ServiceAccount))
        .route("/connectors/{id}/revoke", striking(Thing::Connector, Way::Revoke))
        .route("/connectors/{id}/restore", restoring(Thing::Connector))
        .route("/pops/{id}/revoke", striking(Thing::Pop, Way::Revoke))
        .route("/pops/{id}/restore", restoring(Thing::Pop))
}
