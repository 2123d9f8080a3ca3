//! What callers ask of lists: filters, sorting and cursors, and the parameters of logs.

use controller::api::{ListedIds, Problem, read_list, read_query, types};
use http::Uri;
use serde::de::DeserializeOwned;
use std::sync::LazyLock;
use store::{
    Connector, Device, DeviceState, EnrolmentKey, EnrolmentTarget, Group, Member, Membership, Organization,
    OrganizationData, Policy, Ports, Resource, ResourceMode, Role, SecretHash, ServiceAccount, Site, Token,
    User, Version,
};
use wire::{
    ConnectorId, DeviceId, EnrolmentKeyId, GroupId, OrganizationId, PolicyId, ResourceId, ServiceAccountId,
    SiteId, TokenId, UserId,
};

const LISTS: [&str; 15] = [
    "sites",
    "connectors",
    "pops",
    "resources",
    "groups",
    "members",
    "users",
    "service-accounts",
    "devices",
    "policies",
    "enrolment-keys",
    "tokens",
    "organizations",
    "sessions",
    "strikes",
];

/// Names that are the same in one case, that a case makes longer, and that are the beginning of others.
const NAMES: [&str; 5] = ["Gdańsk", "gdańsk", "GDAŃSK plant", "İzmir", "a"];

/// Five of each kind, some of them of one moment.
static ROWS: LazyLock<OrganizationData> = LazyLock::new(|| {
    let all = || NAMES.iter().zip(1_u8..).map(|(name, number)| ((*name).to_owned(), number));
    let at = |number: u8| u64::from(number / 2);
    let (site, key) = (SiteId::from_bytes([1; 16]), EnrolmentKeyId::from_bytes([9; 16]));
    let members = [Member::User(UserId::from_bytes([1; 16])), Member::User(UserId::from_bytes([3; 16]))];
    let account = Member::ServiceAccount(ServiceAccountId::from_bytes([2; 16]));
    let secret_hash = SecretHash::from_digest([7; 32]);
    let id = |number| [number; 16];
    OrganizationData {
        organization: Organization {
            id: OrganizationId::from_bytes(id(2)),
            name: "Harbour".into(),
            version: Version { incarnation: 1, version: 1 },
            grant_life_ms: 86_400_000,
            renew_after_ms: 14_400_000,
            shrink_version: 0,
            old_grants_end_ms: 0,
            approve_devices: false,
            audit_retention_days: 0,
            flow_retention_days: 0,
            sign_in_age_ms: Organization::SIGN_IN_AGE_MS,
            closed_ms: 0,
            created_ms: 1,
        },
        sites: all()
            .map(|(name, n)| Site {
                id: SiteId::from_bytes(id(n)),
                name,
                prefixes: vec![format!("10.{n}.0.0/16")],
                regions: vec!["eu".into()],
                created_ms: at(n),
            })
            .collect(),
        connectors: all()
            .map(|(name, n)| Connector {
                id: ConnectorId::from_bytes(id(n)),
                site,
                name,
                identity_key: [n; 32],
                wireguard_key: [n; 32],
                seal_key: [n; 32],
                generation: 1,
                enrolled_by: key,
                created_ms: at(n),
            })
            .collect(),
        resources: all()
            .map(|(name, n)| Resource {
                id: ResourceId::from_bytes(id(n)),
                site,
                name,
                alias: (n == 2).then(|| "wiki".to_owned()),
                address: format!("10.{}.0.1", n % 3),
                ports: vec![Ports::tcp(443, 443)],
                mode: if n == 3 { ResourceMode::Strict } else { ResourceMode::Standard },
                created_ms: at(n),
            })
            .collect(),
        groups: all()
            .map(|(name, n)| Group { id: GroupId::from_bytes(id(n)), name, created_ms: at(n) })
            .collect(),
        users: all()
            .map(|(name, n)| User {
                id: UserId::from_bytes(id(n)),
                name,
                email: format!("p{}@example.com", n % 4),
                role: if n == 1 { Role::Owner } else { Role::Member },
                generation: 1,
                created_ms: at(n),
            })
            .collect(),
        service_accounts: all()
            .map(|(name, n)| ServiceAccount {
                id: ServiceAccountId::from_bytes(id(n)),
                name,
                generation: 1,
                created_ms: at(n),
            })
            .collect(),
        memberships: [GroupId::from_bytes(id(1)), GroupId::from_bytes(id(4))]
            .into_iter()
            .flat_map(|group| {
                // In the order of their texts: svc-… before usr-….
                [account].into_iter().chain(members).map(move |member| Membership {
                    group,
                    member,
                    generation: 1,
                })
            })
            .collect(),
        devices: all()
            .map(|(name, n)| Device {
                id: DeviceId::from_bytes(id(n)),
                owner: if n == 5 { account } else { members[usize::from(n % 2)] },
                name,
                state: if n == 2 { DeviceState::Blocked } else { DeviceState::Active },
                identity_key: [n; 32],
                generation: 1,
                enrolled_by: key,
                created_ms: at(n),
            })
            .collect(),
        policies: all()
            .map(|(name, n)| Policy {
                id: PolicyId::from_bytes(id(n)),
                name,
                groups: vec![GroupId::from_bytes(id(1))],
                resources: vec![ResourceId::from_bytes(id(n))],
                created_ms: at(n),
            })
            .collect(),
        tokens: all()
            .map(|(name, n)| Token {
                id: TokenId::from_bytes(id(n)),
                name,
                scopes: vec!["read".into()],
                secret_hash,
                expires_ms: at(n),
                created_ms: u64::from(n),
            })
            .collect(),
        enrolment_keys: all()
            .map(|(name, n)| EnrolmentKey {
                id: EnrolmentKeyId::from_bytes(id(n)),
                organization: None,
                name,
                target: match n {
                    1 => EnrolmentTarget::Pop { region: "eu".into(), zone: "a".into() },
                    2 => EnrolmentTarget::Connector { site },
                    _ => EnrolmentTarget::Device { owner: account },
                },
                approval: false,
                secret_hash,
                cap: 1,
                uses: 0,
                expires_ms: at(n),
                created_ms: u64::from(n),
            })
            .collect(),
        sign_in: store::SignInData::default(),
    }
});

/// More than all objects of a list.
const MANY: &str = "1000";

fn uri(query: &str) -> Option<Uri> {
    format!("/?{query}").parse().ok()
}

/// A query of these pairs.
fn of_pairs(pairs: &[(String, String)]) -> String {
    let mut written = form_urlencoded::Serializer::new(String::new());
    written.extend_pairs(pairs).finish()
}

fn listed(list: &str, pairs: &[(String, String)]) -> Result<ListedIds, Problem> {
    let uri = uri(&of_pairs(pairs)).expect("written as a query is");
    read_list(list, &uri, &ROWS).expect("a list that there is")
}

/// What is refused is a query: with words for field, rule and value, which repeat the beginning of what was given.
fn is_refused_plainly(problem: &Problem, query: &str) {
    assert_eq!(problem.status, 400, "{query}: {problem:?}");
    let field = problem.field.as_deref().expect("a field");
    let (rule, value) = (problem.rule.as_deref().expect("a rule"), problem.value.as_ref().expect("a value"));
    assert!(!field.is_empty() || query.contains('='), "{query}: {problem:?}");
    assert!(field.chars().count() <= 80, "{} of {field}", field.len());
    assert!(value.as_str().is_none_or(|value| value.chars().count() <= 120), "{value}");
    assert!(
        problem.detail.chars().count() <= 400,
        "all of what was given comes back: {}",
        problem.detail.len()
    );
    crate::asked::is_said_plainly(rule);
}

/// Whatever is asked for: pages of any length, put together, are the list; the other way round it is the other way round;
/// and a filter takes away and does not reorder.
pub(crate) fn list_query(bytes: &[u8]) {
    let Some((query, uri)) = std::str::from_utf8(bytes).ok().and_then(|query| Some((query, uri(query)?)))
    else {
        return;
    };
    let pairs: Vec<(String, String)> =
        form_urlencoded::parse(query_of(&uri).as_bytes()).into_owned().collect();
    let taken =
        LISTS.iter().filter(|list| match read_list(list, &uri, &ROWS).expect("a list that there is") {
            Ok(page) => {
                is_of_its_list(list, &pairs, &page);
                true
            }
            Err(problem) => {
                is_refused_plainly(&problem, query);
                false
            }
        });
    let taken = taken.count();
    // What every list takes is all there is without words of one's own.
    assert!(taken > 0 || !pairs.is_empty(), "nobody takes {query:?}");
}

fn query_of(uri: &Uri) -> &str {
    uri.query().unwrap_or_default()
}

/// The value of a parameter.
fn given<'p>(pairs: &'p [(String, String)], name: &str) -> Option<&'p str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The parameters without some.
fn without(pairs: &[(String, String)], names: &[&str]) -> Vec<(String, String)> {
    pairs.iter().filter(|(name, _)| !names.contains(&name.as_str())).cloned().collect()
}

fn with(mut pairs: Vec<(String, String)>, name: &str, value: &str) -> Vec<(String, String)> {
    pairs.push((name.to_owned(), value.to_owned()));
    pairs
}

fn is_of_its_list(list: &str, pairs: &[(String, String)], page: &ListedIds) {
    let ids = |pairs: &[(String, String)]| {
        let all = listed(list, pairs).expect("what was taken without this is taken with it");
        assert_eq!(all.next, None, "{list} has not that many");
        all.ids
    };
    let limit = given(pairs, "limit").map_or(200, |limit| limit.parse().expect("it was taken as a number"));
    assert!((1..=1000).contains(&limit) && page.ids.len() <= limit, "{limit}");
    let asked = without(pairs, &["limit", "after"]);
    let whole = ids(&with(asked.clone(), "limit", MANY));

    // The page is a piece of the list, and says so when there is more.
    match page.ids.first() {
        None => assert_eq!(page.next, None, "more of nothing"),
        Some(first) => {
            let start = whole.iter().position(|id| id == first).expect("what is listed is in the list");
            let end = start + page.ids.len();
            assert_eq!(whole.get(start..end), Some(&page.ids[..]), "{list}: a page of another order");
            assert_eq!(page.next.is_some(), end < whole.len(), "{list}");
            assert!(
                given(pairs, "after").is_some() || start == 0,
                "{list}: the first page begins in the middle"
            );
        }
    }
    // Page by page, as its own cursors lead.
    let (mut walked, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut next = with(asked.clone(), "limit", "2");
        next.extend(after.map(|after| ("after".to_owned(), after)));
        let piece = listed(list, &next).expect("a cursor that was just given");
        assert!(piece.ids.len() == 2 || piece.next.is_none(), "{list}: a short page before the last");
        walked.extend(piece.ids);
        assert!(walked.len() <= whole.len(), "{list}: objects come again");
        match piece.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(walked, whole, "{list}: its pages are not the list");
    // The other way round, whose cursors are others'.
    let sort = given(pairs, "sort").unwrap_or("id");
    let turned = sort.strip_prefix('-').map_or_else(|| format!("-{sort}"), ToOwned::to_owned);
    let turned = with(without(&asked, &["sort"]), "sort", &turned);
    let mut reversed = ids(&with(turned.clone(), "limit", MANY));
    reversed.reverse();
    assert_eq!(reversed, whole, "{list}");
    if let Some(next) = &page.next {
        assert!(
            listed(list, &with(turned, "after", next)).is_err(),
            "{list}: a cursor of another order was taken"
        );
    }
    // Filters leave out.
    let order: Vec<_> = asked.iter().filter(|(name, _)| name == "sort").cloned().collect();
    let mut everything = ids(&with(order, "limit", MANY)).into_iter();
    assert!(whole.iter().all(|id| everything.any(|other| other == *id)), "{list}: a filter reorders");
}

/// The parameters of logs, explanations and removals: decoded as another decoder of the same standard does.
pub(crate) fn log_query(bytes: &[u8]) {
    let Some(uri) = std::str::from_utf8(bytes).ok().and_then(uri) else { return };
    let pairs: Vec<(String, String)> =
        form_urlencoded::parse(query_of(&uri).as_bytes()).into_owned().collect();
    let text = |name, value: Option<String>| assert_eq!(value.as_deref(), given(&pairs, name));
    let number = |name, value: Option<u64>| {
        assert_eq!(value, given(&pairs, name).map(|text| text.parse().expect("it was taken as a number")));
    };
    if let Some(flows) = asked::<types::FlowParams>(&uri, &pairs) {
        number("limit", flows.limit.map(u64::from));
        number("from_ms", flows.from_ms);
        number("before_ms", flows.before_ms);
        text("device", flows.device);
        text("verdict", flows.verdict);
        text("q", flows.q);
        text("after", flows.after);
    }
    if let Some(audit) = asked::<types::AuditParams>(&uri, &pairs) {
        number("limit", audit.limit.map(u64::from));
        text("actor", audit.actor);
        text("action", audit.action);
        text("subject", audit.subject);
    }
    if let Some(export) = asked::<types::AuditExportParams>(&uri, &pairs) {
        number("after", export.after);
        assert_eq!(export.follow.map(|follow| follow.to_string()).as_deref(), given(&pairs, "follow"));
    }
    let _ = asked::<types::FlowExportParams>(&uri, &pairs);
    let _ = asked::<types::AccessExplanationParams>(&uri, &pairs);
}

/// What is taken has each parameter once.
fn asked<T: DeserializeOwned>(uri: &Uri, pairs: &[(String, String)]) -> Option<T> {
    match read_query(uri) {
        Ok(params) => {
            let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            assert!(names.is_sorted_by(|one, other| one < other), "one of two values was taken: {names:?}");
            Some(params)
        }
        Err(problem) => {
            is_refused_plainly(&problem, query_of(uri));
            None
        }
    }
}

/// Genuine queries.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let next = |list, pairs: &[(String, String)]| {
        let page = listed(list, pairs).expect("a query of ours");
        let after = page.next.expect("there are more");
        of_pairs(&with(pairs.to_vec(), "after", &after)).into_bytes()
    };
    let site = SiteId::from_bytes([1; 16]);
    let group = GroupId::from_bytes([1; 16]);
    let owner = ServiceAccountId::from_bytes([2; 16]);
    vec![
        ("list_query", "nothing", Vec::new()),
        ("list_query", "by-name", b"sort=name&limit=3".to_vec()),
        ("list_query", "newest-first", b"sort=-created&q=gda%C5%84sk".to_vec()),
        ("list_query", "named", b"name=a&limit=1000".to_vec()),
        ("list_query", "strict", b"mode=strict&sort=-address".to_vec()),
        ("list_query", "of-a-site", format!("site={site}&sort=name").into_bytes()),
        ("list_query", "of-a-group", format!("group={group}&limit=1").into_bytes()),
        ("list_query", "of-an-owner", format!("owner={owner}&sort=-expires&kind=device").into_bytes()),
        ("list_query", "role", b"role=member&sort=email&limit=2".to_vec()),
        ("list_query", "people", b"kind=user&sort=-name&limit=1".to_vec()),
        ("list_query", "state", b"state=blocked&q=d".to_vec()),
        ("list_query", "next-by-id", next("users", &[pair("limit", "2")])),
        ("list_query", "next-by-name", next("sites", &[pair("sort", "-name"), pair("limit", "1")])),
        ("list_query", "next-by-time", next("tokens", &[pair("sort", "expires"), pair("limit", "2")])),
        ("list_query", "unknown", b"colour=red".to_vec()),
        ("list_query", "long-name", [&[b'x'; 600][..], b"=1"].concat()),
        ("list_query", "twice", b"name=a&name=b".to_vec()),
        ("log_query", "flows", b"limit=20&verdict=denied&q=db&from_ms=1&before_ms=1795219200000".to_vec()),
        (
            "log_query",
            "flows-of",
            format!("device={}&after=12.4096", DeviceId::from_bytes([5; 16])).into_bytes(),
        ),
        ("log_query", "audit", b"actor=ada&action=create+site&subject=site-1&limit=1000".to_vec()),
        ("log_query", "export", b"after=91&installation=true&follow=false".to_vec()),
        ("log_query", "long-name", [&[b'x'; 600][..], b"=1"].concat()),
        ("log_query", "long-number", [b"limit=", &[b'9'; 600][..]].concat()),
        ("log_query", "number", b"limit=many".to_vec()),
        ("log_query", "unknown", b"limit=1&colour=%60red%60%2C+expected+%60a%60".to_vec()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_query_is_taken_by_a_list_or_a_log() {
        for (target, name, bytes) in genuine() {
            let uri = uri(std::str::from_utf8(&bytes).expect("text")).expect("a query");
            let is_taken = match target {
                "list_query" => {
                    LISTS.iter().any(|list| read_list(list, &uri, &ROWS).is_some_and(|read| read.is_ok()))
                }
                _ => {
                    read_query::<types::FlowParams>(&uri).is_ok()
                        || read_query::<types::AuditParams>(&uri).is_ok()
                        || read_query::<types::AuditExportParams>(&uri).is_ok()
                }
            };
            assert_eq!(
                is_taken,
                !matches!(name, "unknown" | "twice" | "number" | "long-name" | "long-number"),
                "{target} {name}"
            );
        }
    }

    #[test]
    fn each_kind_has_objects_that_only_their_ids_tell_apart() {
        let by_name = listed("sites", &[("sort".into(), "name".into())]).expect("a query of ours").ids;
        let id = |number| SiteId::from_bytes([number; 16]).to_string();
        assert_eq!(by_name[1..3], [id(1), id(2)]);
    }
}
