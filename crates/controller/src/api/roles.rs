//! Who may do what: one table of roles and permissions, one of tokens' scopes, and one that says which permission each
//! endpoint needs. Authorization is decided from these three and from nothing else.
//!
//! Whoever gives something away (a role, a token) gives only what they have themselves, and nobody changes a person
//! whose role may do more than their own.

use super::types::Scope;
use http::Method;
use std::{collections::BTreeSet, fmt::Write as _};
use store::Role;

macro_rules! permissions {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $says:literal;)*) => {
        /// One thing that somebody may do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Permission {
            $(#[doc = $says] $variant,)*
        }

        impl Permission {
            /// Every permission, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in problems and in the table.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What it allows, in a sentence.
            #[must_use]
            pub const fn says(self) -> &'static str {
                match self { $(Self::$variant => $says,)* }
            }
        }
    };
}

permissions! {
    ReadNetwork = "read.network", "Read sites, connectors, resources, PoPs, groups, policies and the organization.";
    ReadPeople = "read.people", "Read users, service accounts, members and devices.";
    ReadSessions = "read.sessions", "Read who is connected now, and how the controller is.";
    ReadKeys = "read.keys", "Read what enrolment keys and tokens there are, never their secrets.";
    ReadStrikes = "read.strikes", "Read what is revoked.";
    ReadAudit = "read.audit", "Read, export and verify the audit log.";
    ReadFlows = "read.flows", "Read and export the flow log.";
    Network = "network", "Make, change and remove sites and resources; rename and remove connectors.";
    Policies = "policies", "Make, change and remove groups and policies.";
    People = "people", "Make, change and remove users and service accounts; put them into groups and take them out.";
    Devices = "devices", "Approve, rename, block, archive and remove devices.";
    EnrolDevices = "enrol.devices", "Make and remove enrolment keys for devices.";
    EnrolConnectors = "enrol.connectors", "Make and remove enrolment keys for connectors.";
    StrikeDevices = "strike.devices", "Revoke a device's access.";
    StrikePeople = "strike.people", "Revoke the access of a person, a service account, a membership or a token.";
    StrikeNetwork = "strike.network", "Revoke a connector.";
    Tokens = "tokens", "Make and remove API tokens.";
    Roles = "roles", "Give people roles that may do no more than one's own.";
    Settings = "settings", "Change the organization's settings.";
    Ownership = "ownership", "Make and unmake owners.";
    Installation = "installation", "Everything that organizations share: PoPs, organizations, keys, the database; and every organization.";
}

use Permission as P;

const READS: &[P] = &[
    P::ReadNetwork,
    P::ReadPeople,
    P::ReadSessions,
    P::ReadKeys,
    P::ReadStrikes,
    P::ReadAudit,
    P::ReadFlows,
];

/// Every role with what it may do. An owner of the organization that was there first (the operator's) also has
/// [`Permission::Installation`].
pub(crate) const ROLES: &[(Role, &[P])] = &[
    (
        Role::Owner,
        &[
            P::ReadNetwork,
            P::ReadPeople,
            P::ReadSessions,
            P::ReadKeys,
            P::ReadStrikes,
            P::ReadAudit,
            P::ReadFlows,
            P::Network,
            P::Policies,
            P::People,
            P::Devices,
            P::EnrolDevices,
            P::EnrolConnectors,
            P::StrikeDevices,
            P::StrikePeople,
            P::StrikeNetwork,
            P::Tokens,
            P::Roles,
            P::Settings,
            P::Ownership,
        ],
    ),
    (
        Role::Admin,
        &[
            P::ReadNetwork,
            P::ReadPeople,
            P::ReadSessions,
            P::ReadKeys,
            P::ReadStrikes,
            P::ReadAudit,
            P::ReadFlows,
            P::Network,
            P::Policies,
            P::People,
            P::Devices,
            P::EnrolDevices,
            P::EnrolConnectors,
            P::StrikeDevices,
            P::StrikePeople,
            P::StrikeNetwork,
            P::Tokens,
            P::Roles,
            P::Settings,
        ],
    ),
    (
        Role::NetworkAdmin,
        &[
            P::ReadNetwork,
            P::ReadPeople,
            P::ReadSessions,
            P::ReadKeys,
            P::ReadStrikes,
            P::ReadFlows,
            P::Network,
            P::Policies,
            P::EnrolConnectors,
            P::StrikeNetwork,
        ],
    ),
    (
        Role::Support,
        &[
            P::ReadNetwork,
            P::ReadPeople,
            P::ReadSessions,
            P::ReadStrikes,
            P::ReadFlows,
            P::Devices,
            P::StrikeDevices,
        ],
    ),
    (Role::Auditor, READS),
    (Role::Member, &[]),
];

/// What a role may do.
#[must_use]
pub(crate) fn of_role(role: Role) -> &'static [P] {
    ROLES.iter().find(|(known, _)| *known == role).map_or(&[], |(_, permissions)| permissions)
}

/// What a token's scope may do.
#[must_use]
pub(crate) const fn of_scope(scope: Scope) -> &'static [P] {
    match scope {
        Scope::Read => READS,
        Scope::Write => &[P::Network, P::Policies, P::People, P::Devices],
        Scope::Strike => &[P::StrikeDevices, P::StrikePeople, P::StrikeNetwork],
        Scope::Enrol => &[P::EnrolDevices, P::EnrolConnectors],
        Scope::Admin => &[P::Tokens, P::Roles, P::Settings],
        Scope::Installation => &[P::Tokens, P::Roles, P::Settings, P::Ownership, P::Installation],
    }
}

/// What an endpoint needs: any one of these. The handler asks again where its object decides (what is struck, what a
/// key enrols, whose role it is).
pub(crate) type Needs = &'static [P];

const NETWORK: Needs = &[P::Network];
const READ_NETWORK: Needs = &[P::ReadNetwork];
const READ_PEOPLE: Needs = &[P::ReadPeople];
const READ_KEYS: Needs = &[P::ReadKeys];
const POLICIES: Needs = &[P::Policies];
const PEOPLE: Needs = &[P::People];
const OWNERSHIP: Needs = &[P::Ownership];
const READ_AUDIT: Needs = &[P::ReadAudit];
const DEVICES: Needs = &[P::Devices];
const ENROL: Needs = &[P::EnrolDevices, P::EnrolConnectors, P::Installation];
const INSTALLATION: Needs = &[P::Installation];
const STRIKE: Needs = &[P::StrikeDevices, P::StrikePeople, P::StrikeNetwork, P::Installation];
/// Whoever may change something may try a bulk: each of its operations is asked for by itself.
const ANY_CHANGE: Needs = &[
    P::Network,
    P::Policies,
    P::People,
    P::Devices,
    P::EnrolDevices,
    P::EnrolConnectors,
    P::StrikeDevices,
    P::StrikePeople,
    P::StrikeNetwork,
    P::Tokens,
    P::Roles,
    P::Settings,
    P::Installation,
];
/// Everybody who is somebody.
const ANYBODY: Needs = &[];

/// Every endpoint below `/api/v1` with what it needs. One that is not here needs [`Permission::Installation`].
pub(crate) const ENDPOINTS: &[(Method, &str, Needs)] = &[
    (Method::GET, "/me", ANYBODY),
    (Method::GET, "/sites", READ_NETWORK),
    (Method::POST, "/sites", NETWORK),
    (Method::GET, "/sites/{id}", READ_NETWORK),
    (Method::PUT, "/sites/{id}", NETWORK),
    (Method::PATCH, "/sites/{id}", NETWORK),
    (Method::DELETE, "/sites/{id}", NETWORK),
    (Method::GET, "/connectors", READ_NETWORK),
    (Method::GET, "/connectors/{id}", READ_NETWORK),
    (Method::PUT, "/connectors/{id}", NETWORK),
    (Method::DELETE, "/connectors/{id}", NETWORK),
    (Method::GET, "/pops", READ_NETWORK),
    (Method::GET, "/pops/{id}", READ_NETWORK),
    (Method::PUT, "/pops/{id}", INSTALLATION),
    (Method::PATCH, "/pops/{id}", INSTALLATION),
    (Method::DELETE, "/pops/{id}", INSTALLATION),
    (Method::GET, "/resources", READ_NETWORK),
    (Method::POST, "/resources", NETWORK),
    (Method::GET, "/resources/{id}", READ_NETWORK),
    (Method::PUT, "/resources/{id}", NETWORK),
    (Method::PATCH, "/resources/{id}", NETWORK),
    (Method::DELETE, "/resources/{id}", NETWORK),
    (Method::GET, "/groups", READ_NETWORK),
    (Method::POST, "/groups", POLICIES),
    (Method::GET, "/groups/{id}", READ_NETWORK),
    (Method::PUT, "/groups/{id}", POLICIES),
    (Method::PATCH, "/groups/{id}", POLICIES),
    (Method::DELETE, "/groups/{id}", POLICIES),
    (Method::GET, "/groups/{id}/members", READ_PEOPLE),
    (Method::PUT, "/groups/{id}/members/{member}", PEOPLE),
    (Method::DELETE, "/groups/{id}/members/{member}", PEOPLE),
    (Method::GET, "/users", READ_PEOPLE),
    (Method::POST, "/users", PEOPLE),
    (Method::GET, "/users/{id}", READ_PEOPLE),
    (Method::PUT, "/users/{id}", PEOPLE),
    (Method::PATCH, "/users/{id}", PEOPLE),
    (Method::DELETE, "/users/{id}", PEOPLE),
    (Method::PUT, "/users/{id}/role", &[P::Roles]),
    (Method::GET, "/roles", READ_PEOPLE),
    (Method::GET, "/service-accounts", READ_PEOPLE),
    (Method::POST, "/service-accounts", PEOPLE),
    (Method::GET, "/service-accounts/{id}", READ_PEOPLE),
    (Method::PUT, "/service-accounts/{id}", PEOPLE),
    (Method::DELETE, "/service-accounts/{id}", PEOPLE),
    (Method::GET, "/service-accounts/{id}/keys", READ_KEYS),
    (Method::POST, "/service-accounts/{id}/keys", &[P::EnrolDevices]),
    (Method::GET, "/devices", READ_PEOPLE),
    (Method::GET, "/devices/{id}", READ_PEOPLE),
    (Method::PUT, "/devices/{id}", DEVICES),
    (Method::DELETE, "/devices/{id}", DEVICES),
    (Method::POST, "/devices/{id}/approve", DEVICES),
    (Method::POST, "/devices/{id}/block", DEVICES),
    (Method::POST, "/devices/{id}/archive", DEVICES),
    (Method::GET, "/policies", READ_NETWORK),
    (Method::POST, "/policies", POLICIES),
    // Who may read people and policies could work it out.
    (Method::POST, "/policies/preview", READ_PEOPLE),
    (Method::GET, "/access/explanation", READ_PEOPLE),
    (Method::GET, "/policies/{id}", READ_NETWORK),
    (Method::PUT, "/policies/{id}", POLICIES),
    (Method::PATCH, "/policies/{id}", POLICIES),
    (Method::DELETE, "/policies/{id}", POLICIES),
    (Method::GET, "/enrolment-keys", READ_KEYS),
    (Method::POST, "/enrolment-keys", ENROL),
    (Method::GET, "/enrolment-keys/{id}", READ_KEYS),
    (Method::DELETE, "/enrolment-keys/{id}", ENROL),
    (Method::GET, "/tokens", READ_KEYS),
    (Method::POST, "/tokens", &[P::Tokens]),
    (Method::GET, "/tokens/{id}", READ_KEYS),
    (Method::DELETE, "/tokens/{id}", &[P::Tokens]),
    (Method::GET, "/organizations", READ_NETWORK),
    (Method::POST, "/organizations", INSTALLATION),
    (Method::GET, "/organizations/{id}", READ_NETWORK),
    (Method::PATCH, "/organizations/{id}", INSTALLATION),
    (Method::DELETE, "/organizations/{id}", INSTALLATION),
    (Method::GET, "/settings", READ_NETWORK),
    (Method::PATCH, "/settings", &[P::Settings]),
    (Method::GET, "/sessions", &[P::ReadSessions]),
    (Method::GET, "/strikes", &[P::ReadStrikes]),
    (Method::POST, "/strikes", STRIKE),
    (Method::POST, "/restores", &[P::People, P::Devices, P::Network, P::Installation]),
    (Method::POST, "/owner-links", INSTALLATION),
    (Method::GET, "/oidc-providers", READ_PEOPLE),
    (Method::GET, "/oidc-providers/{id}", READ_PEOPLE),
    // A provider may speak for owners' addresses.
    (Method::PUT, "/oidc-providers/{id}", OWNERSHIP),
    (Method::DELETE, "/oidc-providers/{id}", OWNERSHIP),
    (Method::POST, "/invitations", PEOPLE),
    (Method::POST, "/ended-web-sessions", PEOPLE),
    (Method::GET, "/authentication-log", READ_AUDIT),
    (Method::GET, "/authentication-log/export", READ_AUDIT),
    (Method::POST, "/restored-database", INSTALLATION),
    (Method::POST, "/key-rotations", INSTALLATION),
    (Method::POST, "/rotation-key-offers", INSTALLATION),
    (Method::PUT, "/rotation-key", INSTALLATION),
    (Method::GET, "/flows", &[P::ReadFlows]),
    (Method::GET, "/flows/export", &[P::ReadFlows]),
    (Method::GET, "/audit", &[P::ReadAudit]),
    (Method::GET, "/audit/export", &[P::ReadAudit]),
    (Method::GET, "/audit/verification", &[P::ReadAudit]),
    (Method::GET, "/status", &[P::ReadSessions]),
    (Method::GET, "/diagnostics/database", INSTALLATION),
    (Method::POST, "/bulk", ANY_CHANGE),
];

/// How old a person's sign-in may be at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignIn {
    /// As old as the session.
    Any,
    /// No older than the organization allows (`sign_in_age_seconds`): whoever found an unlocked screen does not take
    /// access from everybody, make a token, or make themselves owner.
    Fresh,
}

/// Endpoints that ask people for a fresh sign-in: every strike and what gives access back, what lets somebody sign in,
/// and what touches the installation's keys. What policies, groups and resources say is work of the day, and is undone as it
/// was done. Roles given with `/users` are asked for where they change.
pub(crate) const FRESH: &[(Method, &str)] = &[
    (Method::POST, "/strikes"),
    (Method::POST, "/restores"),
    (Method::DELETE, "/users/{id}"),
    (Method::DELETE, "/service-accounts/{id}"),
    (Method::DELETE, "/devices/{id}"),
    (Method::DELETE, "/groups/{id}/members/{member}"),
    (Method::POST, "/devices/{id}/block"),
    (Method::POST, "/devices/{id}/archive"),
    (Method::DELETE, "/connectors/{id}"),
    (Method::DELETE, "/pops/{id}"),
    (Method::POST, "/ended-web-sessions"),
    (Method::POST, "/tokens"),
    (Method::DELETE, "/tokens/{id}"),
    (Method::PUT, "/users/{id}/role"),
    (Method::POST, "/invitations"),
    (Method::POST, "/owner-links"),
    (Method::PUT, "/oidc-providers/{id}"),
    (Method::DELETE, "/oidc-providers/{id}"),
    (Method::PATCH, "/settings"),
    (Method::DELETE, "/organizations/{id}"),
    (Method::POST, "/key-rotations"),
    (Method::POST, "/rotation-key-offers"),
    (Method::PUT, "/rotation-key"),
    (Method::POST, "/restored-database"),
];

/// What an endpoint asks of a person's sign-in.
#[must_use]
pub(crate) fn sign_in(method: &Method, template: &str) -> SignIn {
    let asks = FRESH.iter().any(|(of, path)| of == method && *path == template);
    if asks { SignIn::Fresh } else { SignIn::Any }
}

/// What an endpoint needs; `template` is its path below `/api/v1` with its parameters in braces.
#[must_use]
pub(crate) fn needs(method: &Method, template: &str) -> Needs {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let known = ENDPOINTS.iter().find(|(of, path, _)| of == method && *path == template);
    known.map_or(INSTALLATION, |(_, _, needs)| needs)
}

/// Whether somebody with these permissions gets in at an endpoint.
#[must_use]
pub(crate) fn suffices(held: &BTreeSet<P>, needs: Needs) -> bool {
    needs.is_empty() || needs.iter().any(|need| held.contains(need))
}

/// Whether everything that a role may do is in `held`.
#[must_use]
pub(crate) fn covers(held: &BTreeSet<P>, role: Role) -> bool {
    of_role(role).iter().all(|permission| held.contains(permission))
}

/// A role's word in the API.
#[must_use]
pub(crate) const fn word(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Admin => "admin",
        Role::NetworkAdmin => "network_admin",
        Role::Support => "support",
        Role::Auditor => "auditor",
        Role::Member => "member",
    }
}

const SCOPES: &[(Scope, &str)] = &[
    (Scope::Read, "read"),
    (Scope::Write, "write"),
    (Scope::Strike, "strike"),
    (Scope::Enrol, "enrol"),
    (Scope::Admin, "admin"),
    (Scope::Installation, "installation"),
];

/// The tables as people read them, in Markdown: `tidegate admin roles`, and `docs/roles.md`.
#[must_use]
pub fn roles_table() -> String {
    let mut text = String::from(
        "# Who may do what\n\n\
         Written by `cargo xtask roles` from the table that authorization is decided from (`crates/controller/src/api/roles.rs`).\n\
         A person has one role in an organization, `member` when nobody gave another. What is not in a row is refused.\n\
         Nobody gives away more than they have (roles, tokens), and nobody changes a person whose role may do more than their own.\n\
         The last owner whose access stands keeps the role and is not removed, except by the local socket; a strike ends anybody's access.\n\
         The owners of the organization that was there first, the operator's, also have `installation`. A link for one more owner \
         (`POST /owner-links`) is made on the controller's host alone, by no token and no session.\n\n\
         ## Roles\n\n| permission |",
    );
    for (role, _) in ROLES {
        let _ = write!(text, " {} |", word(*role));
    }
    text.push_str("\n| --- |");
    text.push_str(&" :-: |".repeat(ROLES.len()));
    text.push('\n');
    for permission in P::ALL {
        let _ = write!(text, "| `{}` |", permission.word());
        for (_, held) in ROLES {
            text.push_str(if held.contains(permission) { " ● |" } else { "  |" });
        }
        text.push('\n');
    }
    text.push_str("\n## What the permissions are\n\n| permission | allows |\n| --- | --- |\n");
    for permission in P::ALL {
        let _ = writeln!(text, "| `{}` | {} |", permission.word(), permission.says());
    }
    text.push_str("\n## Scopes of API tokens\n\nA token has scopes, or a role.\n\n| scope | permissions |\n| --- | --- |\n");
    for (scope, word) in SCOPES {
        let words: Vec<String> = of_scope(*scope).iter().map(|one| format!("`{}`", one.word())).collect();
        let _ = writeln!(text, "| `{word}` | {} |", words.join(", "));
    }
    text.push_str(
        "\n## Endpoints\n\nAny one of the permissions named opens the endpoint; ✓: everybody who is signed in.\n\
         Where *fresh* stands, a person has to have signed in within the organization's `sign_in_age_seconds` (15 min unless it \
         was set);\nso has one who gives a role with `/users`. Tokens and the local socket do not sign in and are not asked.\n\n\
         | endpoint | needs | sign-in |",
    );
    for (role, _) in ROLES {
        let _ = write!(text, " {} |", word(*role));
    }
    text.push_str("\n| --- | --- | --- |");
    text.push_str(&" :-: |".repeat(ROLES.len()));
    text.push('\n');
    for (method, path, needs) in ENDPOINTS {
        let words: Vec<String> = needs.iter().map(|one| format!("`{}`", one.word())).collect();
        let words = if words.is_empty() { "✓".to_owned() } else { words.join(" or ") };
        let sign_in = if sign_in(method, path) == SignIn::Fresh { "fresh" } else { "" };
        let _ = write!(text, "| {method} {path} | {words} | {sign_in} |");
        for (role, _) in ROLES {
            let held = of_role(*role).iter().copied().collect();
            text.push_str(if suffices(&held, needs) { " ● |" } else { "  |" });
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_less_than_the_owner_and_the_member_nothing() {
        let owner: BTreeSet<P> = of_role(Role::Owner).iter().copied().collect();
        for (role, permissions) in ROLES {
            assert!(permissions.iter().all(|one| owner.contains(one)), "{role:?}");
            let distinct: BTreeSet<P> = permissions.iter().copied().collect();
            assert_eq!(distinct.len(), permissions.len(), "{role:?} names one twice");
        }
        assert!(of_role(Role::Member).is_empty());
        assert!(!owner.contains(&P::Installation));
        let admin: BTreeSet<P> = of_role(Role::Admin).iter().copied().collect();
        assert!(!covers(&admin, Role::Owner) && covers(&admin, Role::Admin));
        let auditor = of_role(Role::Auditor);
        assert!(auditor.iter().all(|one| one.word().starts_with("read.")), "{auditor:?}");
    }

    #[test]
    fn what_asks_for_a_fresh_sign_in_is_an_endpoint_and_changes_something() {
        for (method, path) in FRESH {
            assert!(ENDPOINTS.iter().any(|(of, known, _)| of == method && known == path), "{method} {path}");
            assert_ne!(*method, Method::GET, "{path}");
        }
    }

    #[test]
    fn an_endpoint_that_nobody_listed_is_the_installation_s() {
        assert_eq!(needs(&Method::POST, "/no-such"), INSTALLATION);
        assert_eq!(needs(&Method::HEAD, "/sites"), READ_NETWORK);
        let mut seen = BTreeSet::new();
        for (method, path, needs) in ENDPOINTS {
            assert!(seen.insert((method.as_str(), *path)), "{method} {path} twice");
            assert!(
                *method != Method::GET
                    || needs.is_empty()
                    || needs.iter().all(|one| one.word().starts_with("read.") || *one == P::Installation),
                "{method} {path}"
            );
        }
    }
}
