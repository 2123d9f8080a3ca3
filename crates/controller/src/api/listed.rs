//! What each kind of list can be narrowed and sorted by.

use super::{
    Problem, Views,
    cursor::Key,
    list::{Filter, Listed, Wanted},
    types,
};
use crate::presence::Presence;
use http::Uri;
use std::sync::Mutex;
use store::{EnrolmentTarget, Member, OrganizationData};

/// Sites.
#[derive(Debug)]
pub(crate) struct Sites;
/// Connectors.
#[derive(Debug)]
pub(crate) struct Connectors;
/// PoPs.
#[derive(Debug)]
pub(crate) struct Pops;
/// Resources.
#[derive(Debug)]
pub(crate) struct Resources;
/// Groups.
#[derive(Debug)]
pub(crate) struct Groups;
/// Members of one group.
#[derive(Debug)]
pub(crate) struct Members;
/// People.
#[derive(Debug)]
pub(crate) struct Users;
/// Service accounts.
#[derive(Debug)]
pub(crate) struct ServiceAccounts;
/// Devices.
#[derive(Debug)]
pub(crate) struct Devices;
/// Policies.
#[derive(Debug)]
pub(crate) struct Policies;
/// Enrolment keys.
#[derive(Debug)]
pub(crate) struct EnrolmentKeys;
/// Tokens.
#[derive(Debug)]
pub(crate) struct Tokens;
/// Organizations.
#[derive(Debug)]
pub(crate) struct Organizations;
/// Sessions.
#[derive(Debug)]
pub(crate) struct Sessions;
/// Strikes.
#[derive(Debug)]
pub(crate) struct Strikes;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedIds {
    /// The ids of its objects, in its order.
    pub ids: Vec<String>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// Reads a list's query string as handlers do, and lists rows alone by it: nobody is connected, and nothing is struck.
/// `None` for a list that there is not.
///
/// # Errors
/// A problem that names field, rule and value.
pub fn read_list(list: &str, uri: &Uri, data: &OrganizationData) -> Option<Result<ListedIds, Problem>> {
    Some(match list {
        "sites" => ids::<Sites>(uri, data, &data.sites),
        "connectors" => ids::<Connectors>(uri, data, &data.connectors),
        "pops" => ids::<Pops>(uri, data, &[]),
        "resources" => ids::<Resources>(uri, data, &data.resources),
        "groups" => ids::<Groups>(uri, data, &data.groups),
        // Of the first group.
        "members" => {
            let mut groups = data.memberships.chunk_by(|one, other| one.group == other.group);
            ids::<Members>(uri, data, groups.next().unwrap_or_default())
        }
        "users" => ids::<Users>(uri, data, &data.users),
        "service-accounts" => ids::<ServiceAccounts>(uri, data, &data.service_accounts),
        "devices" => ids::<Devices>(uri, data, &data.devices),
        "policies" => ids::<Policies>(uri, data, &data.policies),
        "enrolment-keys" => ids::<EnrolmentKeys>(uri, data, &data.enrolment_keys),
        "tokens" => ids::<Tokens>(uri, data, &data.tokens),
        "organizations" => ids::<Organizations>(uri, data, std::slice::from_ref(&data.organization)),
        "sessions" => ids::<Sessions>(uri, data, &[]),
        "strikes" => ids::<Strikes>(uri, data, &[]),
        _ => return None,
    })
}

fn ids<K: Listed>(uri: &Uri, data: &OrganizationData, rows: &[K::Row]) -> Result<ListedIds, Problem> {
    let wanted = Wanted::<K>::asked(uri)?;
    let nobody = Mutex::new(Presence::default());
    let views = Views::of_rows(data, &nobody);
    let (page, next) = wanted.choose(rows.iter(), &views);
    Ok(ListedIds { ids: page.into_iter().map(K::id).collect(), next })
}

const NAME: Filter = Filter::text("name", "With this name.");
/// Organizations that were closed.
pub(super) const CLOSED: &str = "closed";
const ROLES: &[&str] = &["owner", "admin", "network_admin", "support", "auditor", "member"];

/// Whether an id written out is this one: the texts of ids are unique, and the last ones differ most.
fn is(id: impl ToString, wanted: &str) -> bool {
    id.to_string() == wanted
}

impl Listed for Sites {
    type Row = store::Site;
    const SORTS: &'static [&'static str] = &["name", "created"];
    const FILTERS: &'static [Filter] = &[NAME, Filter::text("region", "That prefers this region.")];

    fn id(row: &store::Site) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Site, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        if sort == "created" { Key::Number(row.created_ms) } else { Key::name(&row.name) }
    }
    fn takes(row: &store::Site, _: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "region" => row.regions.iter().any(|region| region == wanted),
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::Site, _: &'r Views<'_>) -> Vec<&'r str> {
        std::iter::once(&row.name).chain(&row.prefixes).map(String::as_str).collect()
    }
}

impl Listed for Connectors {
    type Row = store::Connector;
    const SORTS: &'static [&'static str] = &["name", "created"];
    const FILTERS: &'static [Filter] = &[NAME, Filter::text("site", "Of this site (id).")];

    fn id(row: &store::Connector) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Connector, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        if sort == "created" { Key::Number(row.created_ms) } else { Key::name(&row.name) }
    }
    fn takes(row: &store::Connector, _: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "site" => is(row.site, wanted),
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::Connector, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name]
    }
}

impl Listed for Pops {
    type Row = store::Pop;
    const SORTS: &'static [&'static str] = &["name", "region", "created"];
    const FILTERS: &'static [Filter] =
        &[NAME, Filter::text("region", "In this region."), Filter::text("zone", "In this zone.")];

    fn id(row: &store::Pop) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Pop, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        match sort {
            "created" => Key::Number(row.created_ms),
            "region" => Key::name(&row.region),
            _ => Key::name(&row.name),
        }
    }
    fn takes(row: &store::Pop, _: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "region" => row.region == wanted,
            "zone" => row.zone == wanted,
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::Pop, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name, &row.address]
    }
}

impl Listed for Resources {
    type Row = store::Resource;
    const SORTS: &'static [&'static str] = &["name", "address", "created"];
    const FILTERS: &'static [Filter] = &[
        NAME,
        Filter::text("alias", "With this alias."),
        Filter::text("site", "In this site (id)."),
        Filter::text("group", "That a policy gives to this group (id)."),
        Filter::word("mode", "That isolation does this to.", &["standard", "strict"]),
    ];

    fn id(row: &store::Resource) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Resource, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        match sort {
            "created" => Key::Number(row.created_ms),
            "address" => Key::name(&row.address),
            _ => Key::name(&row.name),
        }
    }
    fn takes(row: &store::Resource, views: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "alias" => row.alias.as_deref() == Some(wanted),
            "site" => is(row.site, wanted),
            "mode" => (row.mode == store::ResourceMode::Strict) == (wanted == "strict"),
            "group" => {
                let Ok(group) = wanted.parse() else { return false };
                let mut policies = views.data.policies.iter();
                policies.any(|policy| policy.groups.contains(&group) && policy.resources.contains(&row.id))
            }
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::Resource, _: &'r Views<'_>) -> Vec<&'r str> {
        let own = [row.name.as_str(), row.address.as_str()];
        own.into_iter().chain(row.alias.as_deref()).collect()
    }
}

impl Listed for Groups {
    type Row = store::Group;
    const SORTS: &'static [&'static str] = &["name", "created"];
    const FILTERS: &'static [Filter] =
        &[NAME, Filter::text("member", "That this user or service account is in (id).")];

    fn id(row: &store::Group) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Group, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        if sort == "created" { Key::Number(row.created_ms) } else { Key::name(&row.name) }
    }
    fn takes(row: &store::Group, views: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "member" => {
                let Ok(member) = wanted.parse::<Member>() else { return false };
                views.members_of(row.id).iter().any(|membership| membership.member == member)
            }
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::Group, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name]
    }
}

impl Listed for Members {
    type Row = store::Membership;
    const SORTS: &'static [&'static str] = &["name"];
    const FILTERS: &'static [Filter] =
        &[Filter::word("kind", "Only people, or only service accounts.", &["user", "service_account"])];

    fn id(row: &store::Membership) -> String {
        row.member.to_string()
    }
    fn key<'r>(row: &'r store::Membership, views: &'r Views<'_>, _: &str) -> Key<'r> {
        Key::name(views.member_name_ref(row.member))
    }
    fn takes(row: &store::Membership, _: &Views<'_>, _: &str, wanted: &str) -> bool {
        matches!(row.member, Member::User(_)) == (wanted == "user")
    }
    fn words<'r>(row: &'r store::Membership, views: &'r Views<'_>) -> Vec<&'r str> {
        vec![views.member_name_ref(row.member)]
    }
}

impl Listed for Users {
    type Row = store::User;
    const SORTS: &'static [&'static str] = &["name", "email", "created"];
    const FILTERS: &'static [Filter] = &[
        NAME,
        Filter::text("email", "With this address."),
        Filter::text("group", "In this group (id)."),
        Filter::word("role", "With this role.", ROLES),
    ];

    fn id(row: &store::User) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::User, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        match sort {
            "created" => Key::Number(row.created_ms),
            "email" => Key::name(&row.email),
            _ => Key::name(&row.name),
        }
    }
    fn takes(row: &store::User, views: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "email" => row.email.eq_ignore_ascii_case(wanted),
            "group" => views.is_member(Member::User(row.id), wanted),
            "role" => super::roles::word(row.role) == wanted,
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::User, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name, &row.email]
    }
}

impl Listed for ServiceAccounts {
    type Row = store::ServiceAccount;
    const SORTS: &'static [&'static str] = &["name", "created"];
    const FILTERS: &'static [Filter] = &[NAME, Filter::text("group", "In this group (id).")];

    fn id(row: &store::ServiceAccount) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::ServiceAccount, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        if sort == "created" { Key::Number(row.created_ms) } else { Key::name(&row.name) }
    }
    fn takes(row: &store::ServiceAccount, views: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "group" => views.is_member(Member::ServiceAccount(row.id), wanted),
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::ServiceAccount, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name]
    }
}

impl Listed for Devices {
    type Row = store::Device;
    const SORTS: &'static [&'static str] = &["name", "owner", "created"];
    const FILTERS: &'static [Filter] = &[
        NAME,
        Filter::text("owner", "Of this user or service account (id)."),
        Filter::text("group", "Whose owner is in this group (id)."),
        Filter::word("state", "In this state.", &["pending", "active", "blocked", "archived"]),
    ];

    fn id(row: &store::Device) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Device, views: &'r Views<'_>, sort: &str) -> Key<'r> {
        match sort {
            "created" => Key::Number(row.created_ms),
            "owner" => Key::name(views.member_name_ref(row.owner)),
            _ => Key::name(&row.name),
        }
    }
    fn takes(row: &store::Device, views: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "owner" => is(row.owner, wanted),
            "group" => views.is_member(row.owner, wanted),
            "state" => state_word(views.device_state(row)) == wanted,
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::Device, views: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name, views.member_name_ref(row.owner)]
    }
}

const fn state_word(state: types::DeviceState) -> &'static str {
    match state {
        types::DeviceState::Pending => "pending",
        types::DeviceState::Active => "active",
        types::DeviceState::Blocked => "blocked",
        types::DeviceState::Archived => "archived",
    }
}

impl Listed for Policies {
    type Row = store::Policy;
    const SORTS: &'static [&'static str] = &["name", "created"];
    const FILTERS: &'static [Filter] = &[
        NAME,
        Filter::text("group", "For this group (id)."),
        Filter::text("resource", "To this resource (id)."),
    ];

    fn id(row: &store::Policy) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Policy, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        if sort == "created" { Key::Number(row.created_ms) } else { Key::name(&row.name) }
    }
    fn takes(row: &store::Policy, _: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "group" => wanted.parse().is_ok_and(|id| row.groups.contains(&id)),
            "resource" => wanted.parse().is_ok_and(|id| row.resources.contains(&id)),
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::Policy, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name]
    }
}

impl Listed for EnrolmentKeys {
    type Row = store::EnrolmentKey;
    const SORTS: &'static [&'static str] = &["name", "expires", "created"];
    const FILTERS: &'static [Filter] = &[
        NAME,
        Filter::word("kind", "That enrol this.", &["pop", "connector", "device"]),
        Filter::text("site", "For connectors of this site (id)."),
        Filter::text("owner", "For devices of this user or service account (id)."),
    ];

    fn id(row: &store::EnrolmentKey) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::EnrolmentKey, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        match sort {
            "created" => Key::Number(row.created_ms),
            "expires" => Key::Number(row.expires_ms),
            _ => Key::name(&row.name),
        }
    }
    fn takes(row: &store::EnrolmentKey, _: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "kind" => row.target.kind() == wanted,
            "site" => matches!(row.target, EnrolmentTarget::Connector { site } if is(site, wanted)),
            "owner" => matches!(row.target, EnrolmentTarget::Device { owner } if is(owner, wanted)),
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::EnrolmentKey, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name]
    }
}

impl Listed for Tokens {
    type Row = store::Token;
    const SORTS: &'static [&'static str] = &["name", "expires", "created"];
    const FILTERS: &'static [Filter] = &[NAME];

    fn id(row: &store::Token) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Token, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        match sort {
            "created" => Key::Number(row.created_ms),
            "expires" => Key::Number(row.expires_ms),
            _ => Key::name(&row.name),
        }
    }
    fn takes(row: &store::Token, _: &Views<'_>, _: &str, wanted: &str) -> bool {
        row.name == wanted
    }
    fn words<'r>(row: &'r store::Token, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name]
    }
}

impl Listed for Organizations {
    type Row = store::Organization;
    const SORTS: &'static [&'static str] = &["name", "created"];
    const FILTERS: &'static [Filter] = &[
        NAME,
        Filter::word(CLOSED, "The closed ones (`true`) instead of those in use.", &["true", "false"]),
    ];

    fn id(row: &store::Organization) -> String {
        row.id.to_string()
    }
    fn key<'r>(row: &'r store::Organization, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        if sort == "created" { Key::Number(row.created_ms) } else { Key::name(&row.name) }
    }
    fn takes(row: &store::Organization, _: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            CLOSED => row.is_closed() == (wanted == "true"),
            _ => row.name == wanted,
        }
    }
    fn words<'r>(row: &'r store::Organization, _: &'r Views<'_>) -> Vec<&'r str> {
        vec![&row.name]
    }
}

impl Listed for Sessions {
    type Row = types::Session;
    const SORTS: &'static [&'static str] = &["name", "since"];
    const FILTERS: &'static [Filter] = &[
        Filter::word("kind", "Of devices, or of connectors.", &["device", "connector"]),
        Filter::text("pop", "At this PoP (id)."),
        Filter::text("owner", "Of this user's or service account's devices (id)."),
        Filter::text("site", "Of this site's connectors (id)."),
    ];

    fn id(row: &types::Session) -> String {
        row.id.clone()
    }
    fn key<'r>(row: &'r types::Session, _: &'r Views<'_>, sort: &str) -> Key<'r> {
        if sort == "since" { Key::Number(millis(&row.since)) } else { Key::name(&row.name) }
    }
    fn takes(row: &types::Session, _: &Views<'_>, filter: &str, wanted: &str) -> bool {
        match filter {
            "kind" => (row.kind == types::SessionKind::Device) == (wanted == "device"),
            "pop" => row.pops.iter().any(|pop| is(*pop, wanted)),
            "owner" => row.owner.as_deref() == Some(wanted),
            _ => row.site.as_deref() == Some(wanted),
        }
    }
    fn words<'r>(row: &'r types::Session, _: &'r Views<'_>) -> Vec<&'r str> {
        std::iter::once(row.name.as_str()).chain(row.owner_name.as_deref()).collect()
    }
}

/// RFC 3339 writes a time with as many digits as it needs: as texts `…00.5Z` would stand before `…00Z`.
fn millis(text: &str) -> u64 {
    let time = text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
    time.ok().and_then(|millis| u64::try_from(millis).ok()).unwrap_or_default()
}

impl Listed for Strikes {
    type Row = trust::Revocation;
    const SORTS: &'static [&'static str] = &["at"];
    const FILTERS: &'static [Filter] = &[Filter::text("subject", "Of this subject.")];

    fn id(row: &trust::Revocation) -> String {
        format!("{}/{:020}", row.signer, row.seq)
    }
    fn key<'r>(row: &'r trust::Revocation, _: &'r Views<'_>, _: &str) -> Key<'r> {
        Key::Number(row.at.as_millis())
    }
    fn takes(row: &trust::Revocation, _: &Views<'_>, _: &str, wanted: &str) -> bool {
        is(row.subject, wanted)
    }
    fn words<'r>(_: &'r trust::Revocation, _: &'r Views<'_>) -> Vec<&'r str> {
        Vec::new()
    }
    /// Signer and number are its place in the list; callers know it by whom it struck.
    fn is(row: &trust::Revocation, id: &str) -> bool {
        is(row.subject, id)
    }
}
