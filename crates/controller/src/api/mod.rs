//! The REST API under `/api/v1`, and the OpenAPI document that is generated from it.

mod access;
mod accounts;
mod admitted;
mod apply;
mod audit;
mod bearer;
mod bulk;
mod caller;
mod check;
mod cursor;
mod flows;
mod following;
mod idempotency;
mod if_match;
mod keys;
mod left;
mod list;
mod listed;
mod network;
mod once;
mod operate;
mod operation;
mod operations;
mod ownership;
mod people;
mod policies;
mod problem;
mod rates;
mod reference;
mod removal;
mod request;
pub(crate) mod roles;
mod rotation;
mod sessions;
mod sign_in_export;
mod strikes;
mod tag;
pub mod types;
mod view;

pub(crate) use admitted::{busy, whole};
pub use bulk::read_bulk;
#[allow(unused_imports, reason = "the console builds callers by its sessions")]
pub(crate) use caller::{Caller, InProcess, Origin};
pub use caller::{ORGANIZATION_HEADER, Peer};
pub(crate) use check::{MAX_NAME_BYTES, email, host_port, name};
pub(crate) use idempotency::{AnswerSeal, KEY_FILE as ANSWERS_KEY_FILE};
pub(crate) use keys::{GRANT_LIFE_MS, RENEW_AFTER_MS};
pub use listed::{ListedIds, read_list};
pub(crate) use once::Once;
pub(crate) use operate::noted;
pub(crate) use problem::{MAX_BODY, complete};
pub use problem::{Problem, ProblemDocument};
pub(crate) use rates::Rates;
pub(crate) use request::{Body, MaxBody, Params};
pub use request::{read_body, read_query};
pub use roles::{Permission, roles_table};
pub(crate) use tag::is_unchanged;
pub(crate) use view::Views;
pub(crate) use view::rfc3339;

use crate::{clock, parts::Core};
use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, Method, StatusCode, Uri, header};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};
use utoipa::openapi::{
    Components, ContentBuilder, HeaderBuilder, HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    ResponseBuilder,
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info()).build())
        .merge(network::routes())
        .merge(people::routes())
        .merge(policies::routes())
        .merge(access::routes())
        .merge(keys::routes())
        .merge(operations::routes())
        .merge(strikes::routes())
        .merge(rotation::routes())
        .merge(sessions::routes())
        .merge(flows::routes())
        .merge(audit::routes())
        .merge(bulk::routes())
        .merge(accounts::routes())
        .merge(sign_in_export::routes())
}

fn info() -> utoipa::openapi::Info {
    InfoBuilder::new()
        .title("Tidegate")
        .version("1")
        .description(Some(
            "The management API of a Tidegate controller. Reads come from memory and go on without a database; \
             changes need it and answer 503 with Retry-After when it cannot be used. Every error is a problem \
             document (RFC 9457). A change with an Idempotency-Key keeps its answer for a day: the same request with \
             the same key gets it again. An object's ETag in If-Match lets a change through only while the object is \
             what its sender has seen; 412 has both versions. Lists have cursors, filters and sorting. Every answer to a \
             known caller says in RateLimit and RateLimit-Policy how much of the window is left, in X-Request-Id \
             under which id it stands in the audit log, and in Tidegate-Snapshot-Age how many seconds old what it says may be.",
        ))
        .license(Some(utoipa::openapi::LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build()
}

/// The API as a service.
pub(crate) fn router(core: &Arc<Core>) -> Router {
    let (api, _) = OpenApiRouter::new().nest("/api/v1", routes()).split_for_parts();
    let document = openapi_json();
    api.layer(DefaultBodyLimit::max(MAX_BODY))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(core), admitted::admitted))
        .layer(middleware::from_fn(complete))
        .layer(middleware::from_fn(tag::conditional))
        .layer(middleware::from_fn_with_state(Arc::clone(core), caller::authenticate))
        .with_state(Arc::clone(core))
        .merge(
            Router::new()
                .route(
                    "/api/v1/openapi.json",
                    get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) }),
                )
                .route("/api/", get(reference::page))
                .method_not_allowed_fallback(method_not_allowed),
        )
}

/// What every answer carries: a browser takes it for what it says it is, and comes back by TLS alone.
pub(crate) async fn guarded(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    answer
}

/// The OpenAPI document as it is stored in `docs/openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    let (_, mut document) = OpenApiRouter::<Arc<Core>>::new().nest("/api/v1", routes()).split_for_parts();
    document.info = info();
    describe(&mut document);
    let mut text = serde_json::to_string_pretty(&document).expect("a document always serializes");
    text.push('\n');
    text
}

/// Operations below an object that make something new: there is no version of it that a caller could have seen.
const ADDS_TO_ONE: &[&str] = &["add_member", "create_service_account_key"];

/// What is true of every operation: who may call it, and what errors look like.
fn describe(document: &mut OpenApi) {
    let problem = || ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem")))).build();
    let answer = |description: &str| {
        ResponseBuilder::new().description(description).content("application/problem+json", problem()).build()
    };
    let components = document.components.get_or_insert_with(Components::new);
    let (name, schema) =
        (<ProblemDocument as utoipa::ToSchema>::name(), <ProblemDocument as utoipa::PartialSchema>::schema());
    components.schemas.insert(name.into_owned(), schema);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API token")).build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    for (path, item) in &mut document.paths.paths {
        let only_looks = caller::ONLY_LOOKS.iter().any(|of| path.ends_with(of));
        for (method, operation) in operations_of(item) {
            let reads = method == HttpMethod::Get;
            let changes = !reads && !only_looks;
            if operation.summary.is_none() {
                let words = operation.operation_id.as_deref().unwrap_or_default().replace('_', " ");
                let mut letters = words.chars();
                let summary =
                    letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>());
                operation.summary = summary.map(|words| format!("{words}."));
            }
            let mut not_modified = false;
            let responses = &mut operation.responses.responses;
            let mut add = |status: &str, description: &str| {
                responses.entry(status.to_owned()).or_insert_with(|| RefOr::T(answer(description)));
            };
            add("400", "The request is malformed");
            add("401", "No valid token");
            add("403", "The token does not allow this");
            add("405", "The path does not have this method");
            add("429", "Too many requests, or too many wrong tokens; Retry-After says when to come back");
            add("default", "Any other error");
            // Also an organization that the header names and nobody knows.
            add("404", "There is no such object");
            let names_one = operation.parameters.as_ref().is_some_and(|all| all.iter().any(is_id))
                && !operation.operation_id.as_deref().is_some_and(|id| ADDS_TO_ONE.contains(&id));
            if changes
                && (names_one
                    || operation.tags.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == "settings")))
            {
                operation.parameters.get_or_insert_with(Vec::new).push(RefOr::T(header_parameter(
                    "If-Match",
                    "The object's ETag, or *: the change is made only while the object is what its sender has seen.",
                )));
                add("412", "The object was changed meanwhile; the problem has both versions");
            }
            if reads {
                operation.parameters.get_or_insert_with(Vec::new).push(RefOr::T(header_parameter(
                    "If-None-Match",
                    "An ETag: 304 in place of what the sender already has.",
                )));
                not_modified = true;
            }
            if changes {
                operation.parameters.get_or_insert_with(Vec::new).push(RefOr::T(header_parameter(
                    "Idempotency-Key",
                    "Keeps the answer for a day: the same request with the same key gets it again.",
                )));
                add("409", "Another object is in the way");
                add("503", "The database cannot be used right now; Retry-After says when to try again");
            }
            if operation.request_body.is_some() {
                add("413", "The body is too large");
                add("415", "The body is not application/json");
                add("422", "A field breaks a rule");
            }
            if changes {
                add("422", "The Idempotency-Key was used for another request");
            }
            if not_modified {
                responses.entry("304".to_owned()).or_insert_with(|| {
                    RefOr::T(ResponseBuilder::new().description("The sender already has it").build())
                });
            }
            if let Some(RefOr::T(refused)) = responses.get_mut("429") {
                let said = [
                    ("RateLimit", "What is left of the window, and its seconds, where the caller is known"),
                    ("RateLimit-Policy", "What a window has"),
                    ("Retry-After", "Seconds"),
                ];
                for (name, says) in said {
                    let header = HeaderBuilder::new().description(Some(says)).build();
                    refused.headers.insert(name.to_owned(), RefOr::T(header));
                }
            }
        }
    }
}

fn header_parameter(name: &str, says: &str) -> utoipa::openapi::path::Parameter {
    use utoipa::openapi::{
        ObjectBuilder, Required, Type,
        path::{ParameterBuilder, ParameterIn},
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(says))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .max_length(Some(128))
                .pattern(Some("^[!-~]+$")),
        ))
        .build()
}

fn is_id(parameter: &RefOr<utoipa::openapi::path::Parameter>) -> bool {
    matches!(parameter, RefOr::T(parameter) if parameter.name == "id")
}

fn operations_of(
    item: &mut utoipa::openapi::PathItem,
) -> impl Iterator<Item = (HttpMethod, &mut utoipa::openapi::path::Operation)> {
    [
        (HttpMethod::Get, item.get.as_mut()),
        (HttpMethod::Put, item.put.as_mut()),
        (HttpMethod::Post, item.post.as_mut()),
        (HttpMethod::Delete, item.delete.as_mut()),
        (HttpMethod::Patch, item.patch.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
}

/// A path of the API that nobody has.
pub(crate) async fn no_such_path(uri: Uri) -> Response {
    Problem::not_found("path", uri.path().chars().take(200).collect::<String>()).into_response()
}

/// The methods of each path, for who used another.
static METHODS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let (_, mut document) = OpenApiRouter::<Arc<Core>>::new().nest("/api/v1", routes()).split_for_parts();
    let of_document = document.paths.paths.iter_mut().map(|(path, item)| {
        let methods = operations_of(item).map(|(method, _)| match method {
            HttpMethod::Get => "GET, HEAD",
            HttpMethod::Put => "PUT",
            HttpMethod::Post => "POST",
            HttpMethod::Delete => "DELETE",
            _ => "PATCH",
        });
        (path.clone(), methods.collect::<Vec<_>>().join(", "))
    });
    // What the document does not have: itself, and enrolment.
    let others = [
        ("/api/v1/openapi.json", "GET, HEAD"),
        ("/enrol/v1/trust", "GET, HEAD"),
        ("/enrol/v1/device", "POST"),
        ("/enrol/v1/connector", "POST"),
        ("/enrol/v1/pop", "POST"),
        ("/enrol/v1/device-code", "POST"),
        ("/enrol/v1/device-code/token", "POST"),
    ];
    let others = others.map(|(path, methods)| (path.to_owned(), methods.to_owned()));
    of_document.chain(others).collect()
});

pub(crate) async fn method_not_allowed(path: Option<MatchedPath>, method: Method, uri: Uri) -> Response {
    let mut problem = Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "The path does not have this method",
        format!("{method} is not possible on {}", uri.path().chars().take(200).collect::<String>()),
    );
    let methods = path.and_then(|path| METHODS.get(path.as_str()));
    problem.field = Some("method".into());
    problem.rule = Some(format!("one of: {}", methods.map_or("the methods of this path", String::as_str)));
    problem.value = Some(method.as_str().into());
    problem.into_response()
}

/// A fresh id.
fn fresh<T>(make: fn(u64, [u8; 10]) -> T) -> T {
    make(clock::wall().as_millis(), clock::random())
}

/// `GET` of a collection and of one of its objects, from the snapshot.
macro_rules! reads {
    ($list:ident, $get:ident, $path:tt, $item:tt, $tag:tt, $name:tt, $id:ty, $view:ident, $rows:ident, $show:ident, $kind:ident) => {
        #[doc = concat!("Lists every ", $name, ".")]
        #[utoipa::path(get, path = $path, tag = $tag, params(super::list::Wanted<$kind>), responses((status = 200, description = "One page", body = Page<$view>)))]
        async fn $list(
            axum::extract::State(core): axum::extract::State<std::sync::Arc<crate::parts::Core>>,
            caller: super::caller::Caller,
            wanted: super::list::Wanted<$kind>,
        ) -> Result<super::tag::Tagged, super::Problem> {
            let snapshot = core.snapshot();
            let views = super::Views::new(&core, caller.data(&snapshot)?);
            Ok(wanted.page(views.data.$rows.iter(), &views, |row| views.$show(row)))
        }

        #[doc = concat!("Gets one ", $name, ".")]
        #[utoipa::path(get, path = $item, tag = $tag, params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "The object", body = $view)))]
        async fn $get(
            axum::extract::State(core): axum::extract::State<std::sync::Arc<crate::parts::Core>>,
            caller: super::caller::Caller,
            super::request::Id(id): super::request::Id<$id>,
        ) -> Result<super::tag::Tagged, super::Problem> {
            let snapshot = core.snapshot();
            let views = super::Views::new(&core, caller.data(&snapshot)?);
            let rows = &views.data.$rows;
            let place = rows.binary_search_by_key(&id, |row| row.id);
            let row = place.map_err(|_| super::Problem::not_found($name, id.to_string()))?;
            Ok(super::tag::Tagged::object(http::StatusCode::OK, &views.$show(&rows[row])))
        }
    };
}
pub(crate) use reads;
