//! `tidegate admin`: the REST API from the shell.

mod accounts;
mod change;
mod declare;
mod losses;
mod plan;
pub mod provider;
mod root;
mod stream;
mod why;

use crate::{
    cli::{AdminArgs, AdminCommand, AuditCommand, CreateCommand, DeviceCommand, KeyArgs, Kind, ObjectKind},
    database,
    output::{CommandResult, Failure, Format, Outcome, cell, note, print_line, table},
    places,
};
use anyhow::Context as _;
use enrol::{ApiClient, BearerToken, ServerTrust, ServerUrl};
use http::StatusCode;
use serde_json::{Value, json};
use std::{collections::BTreeSet, io::IsTerminal as _, path::Path};

/// Most objects that are looked through for a name.
const LOOK_UP_PAGE: u32 = 1000;

/// Runs an `admin` command.
pub async fn run(args: &AdminArgs, format: Format) -> CommandResult {
    if let AdminCommand::Root(command) = &args.command {
        return root::run(args, command, format).await;
    }
    if let AdminCommand::Roles = &args.command {
        let table = controller::roles_table();
        format.print(&json!({"markdown": table}), || table.clone());
        return Ok(Outcome::Done);
    }
    // Past the controller: it may be the one that is lost.
    match &args.command {
        AdminCommand::Backup(backup) => return database::backup(backup, args.state.as_deref(), format).await,
        AdminCommand::AddController(add) => {
            return database::add_controller(add, args.state.as_deref(), format).await;
        }
        AdminCommand::RemoveController(remove) => {
            return database::remove_controller(remove, args.state.as_deref(), format).await;
        }
        AdminCommand::RestoreBackup(restore) => {
            return database::restore(restore, args.state.as_deref(), format).await;
        }
        AdminCommand::Restore { subject } => accounts::is_no_file(subject)?,
        _ => {}
    }
    let mut api = connect(args)?;
    if let Some(organization) = &args.organization {
        let id = resolve(&api, Kind::Organizations, organization).await?;
        api = api.in_organization(&id);
    }
    match &args.command {
        AdminCommand::List { kind, limit, all, filter, search, sort } => {
            let query = list_query(&api, *kind, filter, search.as_deref(), sort.as_deref()).await?;
            let answer = if *all {
                json!({"items": every(&api, kind.path(), Some(&query)).await?})
            } else if *kind == Kind::Roles {
                get(&api, "/api/v1/roles").await?
            } else {
                get(&api, &format!("/api/v1/{}?limit={limit}{query}", kind.path())).await?
            };
            format.print(&answer, || {
                let is_narrowed = !filter.is_empty() || search.is_some();
                if is_narrowed && answer["items"].as_array().is_some_and(Vec::is_empty) {
                    return format!("No {} fit.", kind.path());
                }
                list_text(*kind, &answer)
            });
            if answer["next"].is_string() {
                note(&format!(
                    "There are more than these {limit}: --all shows every one, --limit another number."
                ));
            }
        }
        AdminCommand::Apply { file, dry_run, prune, allow_shrink } => {
            let plan = planned(&api, file, *prune, *allow_shrink).await?;
            if *dry_run || plan.steps.is_empty() {
                format.print(&plan.json(), || plan.text());
                return Ok(Outcome::Done);
            }
            let (said, steps) = (plan.text(), plan.json());
            let changed = plan.apply(&api, *allow_shrink).await?;
            format.print(&json!({"applied": changed, "changes": steps}), || format!("{said}\nApplied."));
        }
        AdminCommand::Diff { file, prune } => {
            let plan = planned(&api, file, *prune, true).await?;
            format.print(&plan.json(), || plan.text());
            return Ok(if plan.steps.is_empty() { Outcome::Done } else { Outcome::Failed });
        }
        AdminCommand::Export { as_json } => {
            let file = plan::Current::read(&api).await?.export();
            let text = if *as_json || format == Format::Json {
                serde_json::to_string_pretty(&file)?
            } else {
                toml::to_string(&file)?
            };
            print_line(text.trim_end());
        }
        AdminCommand::Audit(AuditCommand::Verify) => return verify_audit(&api, format).await,
        AdminCommand::Audit(AuditCommand::Export { after, installation, follow }) => {
            return stream::audit(&api, after.unwrap_or(0), *installation, *follow).await;
        }
        AdminCommand::Flows { after, verdict, follow } => {
            return stream::flows(&api, after.clone(), verdict.as_deref(), *follow).await;
        }
        AdminCommand::Roles => {}
        AdminCommand::Role { user, role } => {
            let id = resolve(&api, Kind::Users, user).await?;
            let path = format!("/api/v1/users/{id}");
            let api = as_it_is(&api, &path).await?;
            let answer: Value =
                api.put(&format!("{path}/role"), &json!({"role": role})).await.map_err(refused)?;
            format.print(&answer, || object_text(&answer));
        }
        AdminCommand::Invite { person } => return accounts::invite(&api, person, format).await,
        AdminCommand::Set { kind, id, settings } => {
            return change::set(&api, kind.0, id, settings, format).await;
        }
        AdminCommand::SignIns { after, follow } => {
            return stream::sign_ins(&api, after.clone(), *follow).await;
        }
        AdminCommand::Why { who, to, on } => return why::why(&api, who, to, on.as_deref(), format).await,
        AdminCommand::EndSessions { people } => return accounts::end_sessions(&api, people, format).await,
        AdminCommand::Device(command) => {
            let (word, named) = match command {
                DeviceCommand::Approve { device } => ("approve", device),
                DeviceCommand::Block { device } => ("block", device),
                DeviceCommand::Archive { device } => ("archive", device),
            };
            let id = resolve(&api, Kind::Devices, named).await?;
            let answer: Value =
                api.post(&format!("/api/v1/devices/{id}/{word}"), &json!({})).await.map_err(refused)?;
            format.print(&answer, || object_text(&answer));
        }
        AdminCommand::Provider(command) => return provider::run(&api, command, format).await,
        AdminCommand::Settings {
            approve_devices,
            audit_retention_days,
            flow_retention_days,
            sign_in_age_seconds,
            grant_life_seconds,
            renew_after_seconds,
        } => {
            let patch = json!({
                "approve_devices": approve_devices, "audit_retention_days": audit_retention_days,
                "flow_retention_days": flow_retention_days,
                "sign_in_age_seconds": sign_in_age_seconds, "grant_life_seconds": grant_life_seconds,
                "renew_after_seconds": renew_after_seconds,
            });
            let nothing = patch.as_object().is_some_and(|members| members.values().all(Value::is_null));
            let answer: Value = if nothing {
                get(&api, "/api/v1/settings").await?
            } else {
                api.patch("/api/v1/settings", &patch).await.map_err(refused)?
            };
            format.print(&answer, || object_text(&answer));
        }
        AdminCommand::Me => {
            let answer: Value = get(&api, "/api/v1/me").await?;
            format.print(&answer, || object_text(&answer));
        }
        AdminCommand::Get { kind: ObjectKind(kind), id } => {
            let id = resolve(&api, *kind, id).await?;
            let answer: Value = get(&api, &format!("/api/v1/{}/{id}", kind.path())).await?;
            format.print(&answer, || object_text(&answer));
        }
        AdminCommand::Create(create) => return self::create(&api, create, format).await,
        AdminCommand::Delete { kind: ObjectKind(kind), id: named, allow_shrink, yes } => {
            let id = resolve(&api, *kind, named).await?;
            if losses::takes_access(*kind) {
                let lost = access(&api).await?.lost_with(*kind, &id);
                losses::confirm(named, &lost, *yes)?;
            }
            let query = if *allow_shrink { "?allow_shrink=true" } else { "" };
            let answer: Value =
                api.delete(&format!("/api/v1/{}/{id}{query}", kind.path())).await.map_err(refused)?;
            format.print(&json!({"deleted": id, "answer": answer}), || match &answer {
                // What was revoked with it.
                Value::Object(_) => format!("deleted {id}\n{}", object_text(&answer)),
                _ => format!("deleted {id}"),
            });
        }
        AdminCommand::Member { group, add, remove } => {
            let group = resolve(&api, Kind::Groups, group).await?;
            if let Some(member) = add {
                let member = resolve_member(&api, member).await?;
                let answer: Value = api
                    .put(&format!("/api/v1/groups/{group}/members/{member}"), &json!({}))
                    .await
                    .map_err(refused)?;
                format.print(&answer, || format!("{member} is in {group}"));
            }
            if let Some(member) = remove {
                let member = resolve_member(&api, member).await?;
                let answer: Value =
                    api.delete(&format!("/api/v1/groups/{group}/members/{member}")).await.map_err(refused)?;
                format
                    .print(&answer, || format!("{member} is no longer in {group}\n{}", object_text(&answer)));
            }
        }
        AdminCommand::Strike { subjects } => return accounts::strike(&api, subjects, format).await,
        AdminCommand::Restore { subject } => {
            let subject = accounts::subject(&api, subject).await?;
            let answer: Value =
                api.post("/api/v1/restores", &json!({"subject": subject})).await.map_err(refused)?;
            format.print(&answer, || object_text(&answer));
        }
        AdminCommand::Status => {
            let answer: Value = get(&api, "/api/v1/status").await?;
            format.print(&answer, || object_text(&answer));
        }
        AdminCommand::Database => {
            let answer: Value = get(&api, "/api/v1/diagnostics/database").await?;
            format.print(&answer, || object_text(&answer));
        }
        // Done above, without a controller.
        AdminCommand::Root(_)
        | AdminCommand::Backup(_)
        | AdminCommand::RestoreBackup(_)
        | AdminCommand::AddController(_)
        | AdminCommand::RemoveController(_) => {}
        AdminCommand::AcceptRestoredDatabase => {
            let answer: Value = api.post("/api/v1/restored-database", &json!({})).await.map_err(refused)?;
            format.print(&answer, || {
                format!(
                    "accepted; every state from now on is of incarnation {}",
                    cell(&answer["incarnation"])
                )
            });
        }
        AdminCommand::RotateKeys { use_after } => {
            let body = json!({"use_after_seconds": use_after});
            let answer: Value = api.post("/api/v1/key-rotations", &body).await.map_err(refused)?;
            format.print(&answer, || {
                format!(
                    "new keys of every role are published (bundle {}); they sign from {}",
                    answer["serial"],
                    answer["used_from"].as_str().unwrap_or_default()
                )
            });
        }
        AdminCommand::OwnerLink => {
            let answer: Value = api.post("/api/v1/owner-links", &json!({})).await.map_err(refused)?;
            format.print(&answer, || answer["link"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(Outcome::Done)
}

fn connect(args: &AdminArgs) -> Result<ApiClient, Failure> {
    if let Some(url) = args.url.as_ref().filter(|_| !args.local) {
        let url: ServerUrl =
            url.parse().map_err(|error| Failure::new(Outcome::Usage, anyhow::Error::new(error)))?;
        let token = match &args.token_file {
            Some(file) => Some(
                std::fs::read_to_string(file)
                    .with_context(|| format!("the token file {}", file.display()))?,
            ),
            None => std::env::var("TIDEGATE_TOKEN").ok(),
        };
        let Some(token) = token else {
            return Err(Failure::say(
                Outcome::Usage,
                "expected an API token in TIDEGATE_TOKEN or --token-file; make one on the controller's host with: tidegate admin create token --name NAME --scope read",
            ));
        };
        let mut trust = ServerTrust::nobody().with_system_roots();
        if let Some(ca) = &args.ca {
            let pem = std::fs::read(ca).with_context(|| format!("the CA file {}", ca.display()))?;
            let der = rustls::pki_types::pem::PemObject::from_pem_slice(&pem).map_err(|error| {
                Failure::say(
                    Outcome::Usage,
                    format_args!("{}: expected a PEM certificate: {error}", ca.display()),
                )
            })?;
            let der: rustls::pki_types::CertificateDer<'_> = der;
            trust = trust.with_console_ca(&trust::subject_public_key(&der)?);
        }
        return Ok(ApiClient::https(url, trust, Some(BearerToken::new(token.trim()))));
    }
    let state = places::state_dir(args.state.as_deref(), "serve")?;
    for candidate in [state.join("admin.sock"), state.join("controller").join("admin.sock")] {
        if candidate.exists() {
            return Ok(ApiClient::unix(candidate));
        }
    }
    Err(Failure::say(
        Outcome::NotRunning,
        format_args!(
            "no controller runs on {}: expected its admin.sock there; start it with: tidegate serve, or name another with --state or --url",
            state.display()
        ),
    ))
}

/// An answer that was no, or none, with its exit code.
pub fn refused(error: enrol::ApiError) -> Failure {
    if status(&error) == Some(StatusCode::PRECONDITION_FAILED) {
        // Its own words are for a program, which gets both versions with them.
        return Failure::say(
            Outcome::Failed,
            "somebody changed it meanwhile, and this change was not made: look at what is there now, and run the command again",
        );
    }
    let outcome = match error.problem().map(|problem| problem.status.unwrap_or_default()) {
        Some(401 | 403) => Outcome::Denied,
        Some(503 | 429) => Outcome::Later,
        None => Outcome::NotRunning,
        _ => Outcome::Failed,
    };
    Failure::new(outcome, error)
}

/// With which status a controller, or a proxy before it, refused.
fn status(error: &enrol::ApiError) -> Option<StatusCode> {
    match error {
        enrol::ApiError::Refused { status, .. } => Some(*status),
        _ => None,
    }
}

async fn get(api: &ApiClient, path: &str) -> Result<Value, Failure> {
    api.get(path).await.map_err(refused)
}

/// For a change of an object as it is now: what somebody else makes of it meanwhile is not overwritten.
async fn as_it_is(api: &ApiClient, path: &str) -> Result<ApiClient, Failure> {
    match api.get_tagged::<Value>(path).await {
        Ok((_, tag)) => Ok(with_tag(api, tag.as_deref())),
        // A token may be let change what it is not let see.
        Err(error) if status(&error) == Some(StatusCode::FORBIDDEN) => Ok(api.clone()),
        Err(error) => Err(refused(error)),
    }
}

fn with_tag(api: &ApiClient, tag: Option<&str>) -> ApiClient {
    tag.map_or_else(|| api.clone(), |tag| api.clone().if_match(tag))
}

/// Every object of a collection, page by page.
pub(super) async fn every(api: &ApiClient, path: &str, query: Option<&str>) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let query = query.unwrap_or_default();
        let mut page = get(api, &format!("/api/v1/{path}?limit={LOOK_UP_PAGE}{query}{after}")).await?;
        if let Value::Array(items) = page["items"].take() {
            all.extend(items);
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(all),
        }
    }
}

async fn items(api: &ApiClient, kind: Kind) -> Result<Vec<Value>, Failure> {
    every(api, kind.path(), None).await
}

/// A value as it stands in a query string (RFC 3986 section 2.3).
fn in_query(value: &str) -> String {
    use std::fmt::Write as _;
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// The filters of a list. What names an object may be its name.
async fn list_query(
    api: &ApiClient,
    _kind: Kind,
    filters: &[String],
    search: Option<&str>,
    sort: Option<&str>,
) -> Result<String, Failure> {
    let mut query = String::new();
    for filter in filters {
        let Some((name, value)) = filter.split_once('=') else {
            return Err(Failure::say(
                Outcome::Usage,
                format_args!("--filter: expected NAME=VALUE, got {filter:?}"),
            ));
        };
        let value = match name {
            "site" => resolve(api, Kind::Sites, value).await?,
            "group" => resolve(api, Kind::Groups, value).await?,
            "resource" => resolve(api, Kind::Resources, value).await?,
            "owner" | "member" => resolve_member(api, value).await?,
            "pop" => resolve(api, Kind::Pops, value).await?,
            "device" => resolve(api, Kind::Devices, value).await?,
            "connector" => resolve(api, Kind::Connectors, value).await?,
            "user" => resolve(api, Kind::Users, value).await?,
            _ => value.to_owned(),
        };
        query.push_str(&format!("&{}={}", in_query(name), in_query(&value)));
    }
    for (name, value) in [("q", search), ("sort", sort)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", in_query(value)));
        }
    }
    Ok(query)
}

async fn planned(
    api: &ApiClient,
    file: &Path,
    prune: bool,
    allow_shrink: bool,
) -> Result<plan::Plan, Failure> {
    let file = declare::read(file)?;
    let current = plan::Current::read(api).await?;
    let others = if prune { plan::Others::Go } else { plan::Others::Stay };
    let plan = plan::Plan::make(&file, &current, others)?;
    if !allow_shrink {
        plan.shrinks_little(&current)?;
    }
    plan.settle(api, allow_shrink).await
}

async fn verify_audit(api: &ApiClient, format: Format) -> CommandResult {
    let answer = get(api, "/api/v1/audit/verification").await?;
    let chains = answer["chains"].as_array().map(Vec::as_slice).unwrap_or_default();
    format.print(&answer, || {
        let rows: Vec<Vec<String>> = chains
            .iter()
            .map(|chain| {
                ["chain", "intact", "entries", "first", "last", "remembered"]
                    .map(|name| cell(&chain[name]))
                    .to_vec()
            })
            .collect();
        let mut text = table(&["CHAIN", "INTACT", "ENTRIES", "FIRST", "LAST", "REMEMBERED"], &rows);
        for chain in chains {
            text.push_str(&format!("head of {}: {}\n", cell(&chain["chain"]), cell(&chain["head"])));
            for finding in chain["findings"].as_array().map(Vec::as_slice).unwrap_or_default() {
                text.push_str(&format!("{}: {}\n", cell(&chain["chain"]), cell(finding)));
            }
        }
        text
    });
    Ok(if answer["intact"] == true { Outcome::Done } else { Outcome::Failed })
}

/// The id of an object that is named by id, name, address or alias.
async fn resolve(api: &ApiClient, kind: Kind, text: &str) -> Result<String, Failure> {
    resolve_among(api, &[kind], text).await
}

/// The same, of an object that may be of several kinds.
async fn resolve_among(api: &ApiClient, kinds: &[Kind], text: &str) -> Result<String, Failure> {
    // An id needs no looking up.
    if text.contains('-') && text.rsplit_once('-').is_some_and(|(_, tail)| tail.len() == 26) {
        return Ok(text.to_owned());
    }
    let mut all = Vec::new();
    for kind in kinds {
        all.extend(items(api, *kind).await?);
    }
    the_one(&all, kinds, text)
}

/// The one that is called so, by whichever of its names. People choose their names, and devices are called by their
/// owners: a name that reads like another's address does not stand before that address.
fn the_one(items: &[Value], kinds: &[Kind], text: &str) -> Result<String, Failure> {
    let is_called_so = |item: &&Value| ["name", "alias", "email"].iter().any(|field| item[field] == text);
    let ids: BTreeSet<&str> =
        items.iter().filter(is_called_so).filter_map(|item| item["id"].as_str()).collect();
    let ids: Vec<&str> = ids.into_iter().collect();
    match ids[..] {
        [id] => Ok(id.to_owned()),
        [] => {
            let singular: Vec<&str> = kinds.iter().map(|kind| kind.path().trim_end_matches('s')).collect();
            Err(Failure::say(
                Outcome::Failed,
                format_args!(
                    "no {} is called {text:?}; see: tidegate admin list {}",
                    singular.join(" or "),
                    kinds.first().map_or("KIND", |kind| kind.path())
                ),
            ))
        }
        _ => {
            let paths: Vec<&str> = kinds.iter().map(|kind| kind.path()).collect();
            Err(Failure::say(
                Outcome::Usage,
                format_args!(
                    "several {} are called {text:?}: {}; name one by its id",
                    paths.join(" or "),
                    ids.join(", ")
                ),
            ))
        }
    }
}

/// Who reaches what, for saying what a removal takes away.
async fn access(api: &ApiClient) -> Result<losses::Access, Failure> {
    Ok(losses::Access {
        groups: items(api, Kind::Groups).await?,
        resources: items(api, Kind::Resources).await?,
        policies: items(api, Kind::Policies).await?,
        devices: items(api, Kind::Devices).await?,
        connectors: items(api, Kind::Connectors).await?,
    })
}

async fn resolve_member(api: &ApiClient, text: &str) -> Result<String, Failure> {
    resolve_among(api, &[Kind::Users, Kind::ServiceAccounts], text).await
}

async fn resolve_all(api: &ApiClient, kind: Kind, names: &[String]) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::new();
    for name in names {
        ids.push(resolve(api, kind, name).await?);
    }
    Ok(ids)
}

async fn create(api: &ApiClient, command: &CreateCommand, format: Format) -> CommandResult {
    let (kind, body) = match command {
        CreateCommand::Organization { name } => (Kind::Organizations, json!({"name": name})),
        CreateCommand::Site { name, prefix, region } => {
            (Kind::Sites, json!({"name": name, "prefixes": prefix, "regions": region}))
        }
        CreateCommand::Resource { name, site, address, ports, alias, strict } => {
            let site = resolve(api, Kind::Sites, site).await?;
            let mode = if *strict { "strict" } else { "standard" };
            let body = json!({"name": name, "site": site, "address": address, "ports": ports, "alias": alias, "mode": mode});
            (Kind::Resources, body)
        }
        CreateCommand::Group { name } => (Kind::Groups, json!({"name": name})),
        CreateCommand::User { name, email, role, group } => {
            let mut body = json!({"name": name, "email": email.as_ref().unwrap_or(name)});
            if let Some(role) = role {
                body["role"] = role.as_str().into();
            }
            return create_member(api, Kind::Users, &body, group, format).await;
        }
        CreateCommand::ServiceAccount { name, group } => {
            return create_member(api, Kind::ServiceAccounts, &json!({"name": name}), group, format).await;
        }
        CreateCommand::Policy { name, group, resource } => {
            let groups = resolve_all(api, Kind::Groups, group).await?;
            let resources = resolve_all(api, Kind::Resources, resource).await?;
            (Kind::Policies, json!({"name": name, "groups": groups, "resources": resources}))
        }
        CreateCommand::Key(key) => return create_key(api, key, format).await,
        CreateCommand::Token { name, scope, role, days } => {
            let body =
                json!({"name": name, "scopes": scope, "role": role, "lifetime_seconds": days * 86_400});
            let answer: Value = api.post("/api/v1/tokens", &body).await.map_err(refused)?;
            note("The token is shown once.");
            format.print(&answer, || answer["token"].as_str().unwrap_or_default().to_owned());
            return Ok(Outcome::Done);
        }
    };
    let answer: Value = api.post(&format!("/api/v1/{}", kind.path()), &body).await.map_err(refused)?;
    format.print(&answer, || object_text(&answer));
    Ok(Outcome::Done)
}

async fn create_member(
    api: &ApiClient,
    kind: Kind,
    body: &Value,
    groups: &[String],
    format: Format,
) -> CommandResult {
    let groups = resolve_all(api, Kind::Groups, groups).await?;
    // All of it or nothing: nobody is left in half of their groups.
    let mut operations =
        vec![json!({"method": "POST", "path": format!("/{}", kind.path()), "body": body, "as": "member"})];
    let joins = groups.iter().map(|group| format!("/groups/{group}/members/@member"));
    operations.extend(joins.map(|path| json!({"method": "PUT", "path": path})));
    let made: Value = api.post("/api/v1/bulk", &json!({"operations": operations})).await.map_err(refused)?;
    let answer = &made["results"][0]["body"];
    format.print(answer, || object_text(answer));
    Ok(Outcome::Done)
}

async fn create_key(api: &ApiClient, key: &KeyArgs, format: Format) -> CommandResult {
    let mut body = json!({"cap": key.cap, "lifetime_seconds": key.hours * 3600});
    if let Some(name) = &key.name {
        body["name"] = name.as_str().into();
    }
    if key.device {
        let owner = match (&key.user, &key.service_account) {
            (Some(user), _) => resolve(api, Kind::Users, user).await?,
            (None, Some(account)) => resolve(api, Kind::ServiceAccounts, account).await?,
            (None, None) => {
                return Err(Failure::say(
                    Outcome::Usage,
                    "--device: expected --user NAME or --service-account NAME",
                ));
            }
        };
        body["kind"] = "device".into();
        body["owner"] = owner.into();
        if key.approval {
            body["approval"] = true.into();
        }
    } else if key.connector {
        let Some(site) = &key.site else {
            return Err(Failure::say(Outcome::Usage, "--connector: expected --site NAME"));
        };
        body["kind"] = "connector".into();
        body["site"] = resolve(api, Kind::Sites, site).await?.into();
    } else {
        body["kind"] = "pop".into();
        body["region"] = key.region.clone().into();
        body["zone"] = key.zone.clone().into();
    }
    let answer: Value = api.post("/api/v1/enrolment-keys", &body).await.map_err(refused)?;
    note(&format!("The key is shown once. It works {} time(s), for {} h.", key.cap, key.hours));
    let text = answer["join_key"].as_str().unwrap_or_default().to_owned();
    // It is the key once more: for a person who looks, not for the log beside a file.
    if let Some(link) = answer["link"].as_str().filter(|_| std::io::stdout().is_terminal()) {
        note(&format!("As a link: {link}"));
    }
    let value = json!({"key": text, "link": answer["link"], "description": answer["key"]});
    format.print(&value, || text.clone());
    Ok(Outcome::Done)
}

/// Of a connector's records (`connector::FlowRecord`); a column that a record does not fill has another to fall back to.
const FLOW_COLUMNS: &[&str] = &[
    "started",
    "owner_name",
    "device_name",
    "resource_name",
    "protocol",
    "target",
    "verdict",
    "reason",
    "bytes_up",
    "bytes_down",
];

/// What stands for an empty column: a flow that reached no target shows what was asked for.
fn instead_of(column: &str) -> Option<&'static str> {
    match column {
        "owner_name" => Some("owner"),
        "user_name" => Some("user"),
        "resource_name" => Some("resource"),
        "target" => Some("destination"),
        _ => None,
    }
}

const fn columns(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Organizations => &["name", "id", "grant_life_seconds", "renew_after_seconds"],
        Kind::Sites => &["name", "id", "prefixes"],
        Kind::Connectors => &["name", "id", "site", "struck", "live"],
        Kind::Pops => &["name", "id", "address", "region", "zone", "attached"],
        Kind::Resources => &["name", "alias", "address", "ports", "mode", "site", "id"],
        Kind::Groups => &["name", "id", "members"],
        Kind::Users => &["name", "email", "role", "id"],
        Kind::ServiceAccounts => &["name", "id"],
        Kind::Devices => &["name", "id", "owner_name", "state", "live"],
        Kind::Policies => &["name", "id", "groups", "resources"],
        Kind::Keys => &["name", "id", "kind", "uses", "cap", "expires"],
        Kind::Tokens => &["name", "id", "scopes", "expires"],
        Kind::Strikes => &["subject", "generation", "at"],
        Kind::Flows => FLOW_COLUMNS,
        Kind::Sessions => &["name", "kind", "owner_name", "site", "pops", "since"],
        Kind::Audit => &["at", "actor", "source", "action", "subject"],
        Kind::AuthenticationLog => &["at", "user_name", "method", "outcome", "address", "detail"],
        Kind::Roles => &["role", "people", "permissions"],
    }
}

fn list_text(kind: Kind, answer: &Value) -> String {
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        return format!("No {} yet.", kind.path());
    }
    let columns = columns(kind);
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let value = |column: &str| match instead_of(column) {
                Some(other) if item[column].as_str().is_none_or(str::is_empty) => &item[other],
                _ => &item[column],
            };
            columns.iter().map(|column| column_text(column, value(column))).collect()
        })
        .collect();
    let headings: Vec<String> =
        columns.iter().map(|column| column.replace('_', " ").to_uppercase()).collect();
    table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
}

/// Flow records carry their times as Unix milliseconds, as connectors wrote them.
fn column_text(column: &str, value: &Value) -> String {
    match (column, value.as_i64().map(jiff::Timestamp::from_millisecond)) {
        ("started" | "ended", Some(Ok(time))) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        _ => cell(value),
    }
}

fn object_text(object: &Value) -> String {
    let Value::Object(map) = object else { return cell(object) };
    let rows: Vec<Vec<String>> = map.iter().map(|(key, value)| vec![key.clone(), cell(value)]).collect();
    table(&["FIELD", "VALUE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    fn record() -> Value {
        let record = connector::FlowRecord {
            id: "1-1".into(),
            organization: wire::OrganizationId::from_bytes([1; 16]),
            connector: wire::ConnectorId::from_bytes([2; 16]),
            device: wire::DeviceId::from_bytes([3; 16]),
            device_name: "laptop".into(),
            owner: trust::Owner::User(wire::UserId::from_bytes([4; 16])),
            owner_name: "Ada".into(),
            resource: Some(wire::ResourceId::from_bytes([5; 16])),
            resource_name: Some("wiki".into()),
            protocol: "tcp".into(),
            destination: "[fd74::7]:80".parse().unwrap(),
            name: None,
            target: Some("10.0.2.9:80".parse().unwrap()),
            relay: None,
            verdict: connector::Verdict::Allowed,
            reason: "closed".into(),
            explanation: String::new(),
            bytes_up: 123,
            bytes_down: 45_678,
            started: trust::UnixMs::from_millis(1_000),
            ended: trust::UnixMs::from_millis(2_000),
        };
        serde_json::to_value(record).unwrap()
    }

    #[test]
    fn the_flow_log_shows_names_the_real_target_and_how_much_went() {
        let text = list_text(Kind::Flows, &json!({"items": [record()]}));
        for shown in ["Ada", "laptop", "wiki", "10.0.2.9:80", "123", "45678", "1970-01-01 00:00:01"] {
            assert!(text.contains(shown), "{shown} in {text}");
        }
        for hidden in ["usr-", "res-", "fd74:", "–"] {
            assert!(!text.contains(hidden), "{hidden} in {text}");
        }
        // A flow that reached nothing shows what was asked for.
        let mut denied = record();
        denied["target"] = Value::Null;
        assert!(list_text(Kind::Flows, &json!({"items": [denied]})).contains("[fd74::7]:80"));
    }

    #[test]
    fn a_name_that_reads_like_the_address_of_somebody_else_names_neither() {
        let ada = json!({"id": "usr-1", "name": "Ada", "email": "ada@example.com"});
        let mallory = json!({"id": "usr-2", "name": "ada@example.com", "email": "mallory@example.com"});
        let people = [ada, mallory];
        let error = the_one(&people, &[Kind::Users], "ada@example.com").expect_err("refused");
        assert_eq!(error.outcome, Outcome::Usage);
        let said = error.text();
        assert!(said.contains("several users are called") && said.contains("usr-1, usr-2"), "{said}");
        assert_eq!(the_one(&people, &[Kind::Users], "Ada").expect("one"), "usr-1");
        assert_eq!(the_one(&people, &[Kind::Users], "mallory@example.com").expect("one"), "usr-2");
        // Whoever is called by their own address is one and the same.
        let bob = [json!({"id": "usr-3", "name": "bob@example.com", "email": "bob@example.com"})];
        assert_eq!(the_one(&bob, &[Kind::Users], "bob@example.com").expect("one"), "usr-3");
        let error = the_one(&bob, &[Kind::Users, Kind::ServiceAccounts], "carol").expect_err("nobody");
        let said = error.text();
        assert!(said.contains("no user or service-account is called \"carol\""), "{said}");
    }

    #[test]
    fn every_column_of_a_list_is_a_member_of_what_is_listed() {
        let document: Value = serde_json::from_str(&controller::openapi_json()).unwrap();
        for kind in Kind::value_variants() {
            if *kind == Kind::Flows {
                for column in FLOW_COLUMNS {
                    assert!(record().get(column).is_some(), "a record has no {column}");
                    assert!(instead_of(column).is_none_or(|other| record().get(other).is_some()), "{column}");
                }
                continue;
            }
            let path = &document["paths"][format!("/api/v1/{}", kind.path())]["get"];
            let page = &path["responses"]["200"]["content"]["application/json"]["schema"];
            let page = page["$ref"].as_str().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
            let item = &document["components"]["schemas"][page]["properties"]["items"]["items"];
            let members = match item["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
                Some(name) => &document["components"]["schemas"][name]["properties"],
                None => &item["properties"],
            };
            for column in columns(*kind) {
                assert!(members.get(column).is_some(), "{kind:?} have no {column}: {members}");
            }
        }
    }
}
