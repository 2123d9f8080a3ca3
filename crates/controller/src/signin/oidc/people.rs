//! From what a provider says to a user: the one it means, one that is made, or nobody; and the groups that follow.

use super::protocol::Claims;
use crate::{
    api::{self, Origin, noted},
    clock,
    parts::{Core, StrikeRequest},
    signin::{
        invitation::new_account,
        session::{Person, person_of},
    },
    snapshot::owner,
};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};
use store::{Member, NewUsers, OidcIdentity, OidcProvider, OrganizationData, Role, Scope, StoreError, User};
use trust::RevokedSubject;
use wire::{GroupId, OrganizationId, UserId};

/// Nobody is signed in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    /// Nobody here.
    #[error("{0}")]
    Unknown(String),
    /// Somebody new, and the database cannot be used.
    #[error("you are new here, and changes have to wait: {0}")]
    Store(#[from] StoreError),
}

/// What has to be written before this person can be signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whom {
    /// Known by this subject.
    Known(UserId),
    /// The user with this address, of whom the provider speaks for the first time.
    Linked(User),
    /// Nobody yet.
    New { name: String, email: String },
}

/// Whom the claims mean.
fn whom(data: &OrganizationData, provider: &OidcProvider, claims: &Claims) -> Result<Whom, String> {
    let identities = &data.sign_in.identities;
    let known = identities.iter().find(|row| row.provider == provider.name && row.subject == claims.subject);
    if let Some(known) = known {
        return Ok(Whom::Known(known.account));
    }
    // Letters that look alike in lower case alone are others: nobody becomes somebody by an address that is nearly theirs.
    let email = claims.email.as_deref().and_then(|email| api::email("email", email).ok());
    let same = |user: &&User| email.as_ref().is_some_and(|email| user.email.eq_ignore_ascii_case(email));
    let speaks_for = |of: &OidcProvider, email: &str| {
        let domain = email.rsplit_once('@').map_or("", |(_, domain)| domain);
        of.domains.iter().any(|known| known.eq_ignore_ascii_case(domain))
    };
    if let Some(user) = data.users.iter().find(same) {
        // Another provider, or a careless one, must not take over an account by naming its address. And an account that
        // somebody signs in to already is theirs: whose provider did not speak for the address may have made it to wait there.
        let is_somebody_s = identities.iter().filter(|row| row.account == user.id).any(|row| {
            let theirs = data.sign_in.providers.iter().find(|known| known.name == row.provider);
            row.provider == provider.name || !theirs.is_some_and(|theirs| speaks_for(theirs, &user.email))
        });
        let believed = (claims.email_verified && speaks_for(provider, &user.email) && !is_somebody_s)
            || planted::is("every-provider-is-believed");
        return if believed {
            Ok(Whom::Linked(user.clone()))
        } else {
            Err(if is_somebody_s {
                format!(
                    "{} is somebody here already, whom a provider knows in another way than {} knows you; a fresh invitation \
                     from an administrator forgets that, or you sign in another way",
                    user.email, provider.title
                )
            } else {
                format!(
                    "{} is somebody here already, and {} is not believed about that address; an administrator can list its \
                     domain at the provider, or you sign in another way",
                    user.email, provider.title
                )
            })
        };
    }
    match (provider.new_users, email) {
        (NewUsers::Refuse, _) => {
            Err(format!("nobody here is known to {} as you are; ask for an invitation", provider.title))
        }
        // Whoever may write any address there would be the person whom an administrator takes them for.
        (NewUsers::Make, Some(email))
            if !claims.email_verified && !planted::is("every-provider-is-believed") =>
        {
            Err(format!(
                "{} does not say that {email} is verified to be yours; ask for an invitation",
                provider.title
            ))
        }
        (NewUsers::Make, None) => Err(format!("{} did not say your email address", provider.title)),
        // Nobody waits under the address of somebody for whom another provider speaks.
        (NewUsers::Make, Some(email))
            if !speaks_for(provider, &email)
                && data.sign_in.providers.iter().any(|other| speaks_for(other, &email)) =>
        {
            Err(format!("another provider speaks for the domain of {email}; sign in there"))
        }
        (NewUsers::Make, Some(email)) => {
            let name = claims.name.as_deref().and_then(name);
            let name = name.unwrap_or_else(|| email.chars().take(64).collect());
            Ok(Whom::New { name, email })
        }
    }
}

/// A person's name as everything here takes names. What is made of a claim stands in a row that every controller reads: one
/// that is no name would keep each later change from being believed.
fn name(claimed: &str) -> Option<String> {
    let shown: String = claimed.chars().filter(|c| !c.is_control()).collect();
    let mut short: String = shown.trim().chars().take(64).collect();
    while short.len() > api::MAX_NAME_BYTES {
        short.pop();
    }
    api::name("name", short.trim()).ok()
}

/// The groups to join and to leave. Groups that no value maps to are not the provider's business.
fn moves(
    data: &OrganizationData,
    provider: &OidcProvider,
    user: UserId,
    claimed: &BTreeSet<String>,
) -> (Vec<GroupId>, Vec<(GroupId, u64)>) {
    let existing: BTreeSet<GroupId> = data.groups.iter().map(|group| group.id).collect();
    let mapped: BTreeSet<GroupId> =
        provider.group_map.values().copied().filter(|group| existing.contains(group)).collect();
    let wanted: BTreeSet<GroupId> = provider
        .group_map
        .iter()
        .filter(|(value, group)| claimed.contains(*value) && existing.contains(group))
        .map(|(_, group)| *group)
        .collect();
    let member = Member::User(user);
    let held = data.memberships.iter().filter(|row| row.member == member && mapped.contains(&row.group));
    let held: Vec<(GroupId, u64)> = held.map(|row| (row.group, row.generation)).collect();
    let join = wanted.iter().filter(|group| held.iter().all(|(held, _)| held != *group)).copied().collect();
    let leave = held.into_iter().filter(|(group, _)| !wanted.contains(group)).collect();
    (join, leave)
}

/// The person that these claims sign in. Who is known needs no database; leaving a group is a strike and needs none
/// either.
///
/// # Errors
/// [`NotTaken`].
pub(crate) async fn take(
    core: &Arc<Core>,
    organization: OrganizationId,
    provider: &OidcProvider,
    claims: &Claims,
    origin: &Origin,
) -> Result<Person, NotTaken> {
    let snapshot = core.snapshot();
    let data = snapshot.organization(organization);
    let data = data.ok_or_else(|| NotTaken::Unknown("the organization is gone".into()))?;
    let actor = format!("OpenID provider {}", provider.name);
    if claims.groups.is_none() && !provider.group_map.is_empty() {
        // Not "in no group": that would take away what they have, and what they have may be theirs no more.
        let why = "which groups you are in cannot be read; its groups claim has to be a list of texts";
        return Err(NotTaken::Unknown(why.into()));
    }
    let id = match whom(data, provider, claims).map_err(NotTaken::Unknown)? {
        Whom::Known(id) => id,
        Whom::Linked(user) => {
            let has_account = person_of(data, user.id).is_some();
            let (store, mut change) = core.database.change(Scope::Organization(organization), &actor).await?;
            if !has_account {
                change.insert_account(&new_account(user.id, &user.email, None)).await?;
            }
            change.insert_oidc_identity(&identity(provider, claims, user.id)).await?;
            let detail = json!({"provider": provider.name});
            let noted =
                noted("link OpenID identity", &user.id.to_string(), None, Some(detail.clone()), detail);
            core.commit(&store, change, origin, noted).await?;
            user.id
        }
        Whom::New { name, email } => {
            let created_ms = clock::wall().as_millis();
            let id = UserId::from_time_and_random(created_ms, clock::random());
            let user = User {
                id,
                name: name.clone(),
                email: email.clone(),
                role: Role::Member,
                generation: 1,
                created_ms,
            };
            let (store, mut change) = core.database.change(Scope::Organization(organization), &actor).await?;
            change.insert_user(&user).await?;
            change.insert_account(&new_account(id, &email, None)).await?;
            change.insert_oidc_identity(&identity(provider, claims, id)).await?;
            let after = api::Views::new(core, data).user(&user);
            let detail = json!({"provider": provider.name, "name": name});
            let noted = noted("create user", &id.to_string(), None, Some(json!(after)), detail);
            core.commit(&store, change, origin, noted).await?;
            id
        }
    };
    follow_groups(core, organization, provider, id, claims, (&actor, origin)).await;
    let snapshot = core.snapshot();
    let person = snapshot.organization(organization).and_then(|data| person_of(data, id));
    person.map(|(person, _)| person).ok_or_else(|| {
        NotTaken::Unknown("your account is stored and memory is a moment behind; try again".into())
    })
}

fn identity(provider: &OidcProvider, claims: &Claims, account: UserId) -> OidcIdentity {
    OidcIdentity { provider: provider.name.clone(), subject: claims.subject.clone(), account }
}

/// Puts memberships where the claims say. What cannot be written now is said and written at the next sign-in; a
/// membership that ended is struck at once, with or without the database.
async fn follow_groups(
    core: &Arc<Core>,
    organization: OrganizationId,
    provider: &OidcProvider,
    id: UserId,
    claims: &Claims,
    (actor, origin): (&str, &Origin),
) {
    let snapshot = core.snapshot();
    let Some(data) = snapshot.organization(organization) else { return };
    let Some(claimed) = &claims.groups else { return };
    let (join, leave) = moves(data, provider, id, claimed);
    if join.is_empty() && leave.is_empty() {
        return;
    }
    let member = Member::User(id);
    for (group, generation) in &leave {
        let subject = RevokedSubject::membership(owner(member), *group);
        if core.strikes.set().is_struck(subject, *generation) {
            continue;
        }
        let (generation, actor) = (*generation, actor.to_owned());
        let request = StrikeRequest {
            subject,
            generation,
            organization: Some(organization),
            actor,
            source: origin.source(),
            request: origin.request.clone(),
        };
        if let Err(error) = core.strike(request).await {
            tracing::error!(%error, %subject, "a membership that a provider ended was not revoked");
        }
    }
    let written = async {
        let (store, mut change) = core.database.change(Scope::Organization(organization), actor).await?;
        for group in &join {
            let subject = RevokedSubject::membership(owner(member), *group);
            let struck = core.strikes.set().struck_generation(subject).unwrap_or(0);
            change.add_member(*group, member, struck).await?;
        }
        for (group, _) in &leave {
            change.remove_member(*group, member).await?;
        }
        let detail = json!({"provider": provider.name, "joined": join.len(), "left": leave.len()});
        let left: Vec<String> = leave.iter().map(|(group, _)| group.to_string()).collect();
        let joined: Vec<String> = join.iter().map(ToString::to_string).collect();
        let (before, after) = (Some(json!({"groups": left})), Some(json!({"groups": joined})));
        let noted = noted("follow provider's groups", &id.to_string(), before, after, detail);
        core.commit(&store, change, origin, noted).await
    };
    if let Err(error) = written.await {
        tracing::warn!(%error, user = %id, "memberships that a provider says are not written yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{Group, Membership, Organization, SignInData, Version};

    fn group(n: u8) -> GroupId {
        GroupId::from_bytes([n; 16])
    }

    fn ada() -> User {
        User {
            id: UserId::from_bytes([1; 16]),
            name: "Ada".into(),
            email: "Ada@example.com".into(),
            role: Role::Member,
            generation: 1,
            created_ms: 0,
        }
    }

    fn data() -> OrganizationData {
        let version = Version { incarnation: 1, version: 1 };
        OrganizationData {
            organization: Organization {
                id: OrganizationId::from_bytes([7; 16]),
                name: "x".into(),
                version,
                grant_life_ms: 1,
                renew_after_ms: 1,
                shrink_version: 0,
                old_grants_end_ms: 0,
                approve_devices: false,
                audit_retention_days: 0,
                flow_retention_days: 0,
                sign_in_age_ms: Organization::SIGN_IN_AGE_MS,
                closed_ms: 0,
                created_ms: 0,
            },
            sites: vec![],
            connectors: vec![],
            resources: vec![],
            groups: (1..=3).map(|n| Group { id: group(n), name: n.to_string(), created_ms: 0 }).collect(),
            users: vec![ada()],
            service_accounts: vec![],
            memberships: vec![],
            devices: vec![],
            policies: vec![],
            tokens: vec![],
            enrolment_keys: vec![],
            sign_in: SignInData::default(),
        }
    }

    fn provider() -> OidcProvider {
        OidcProvider {
            name: "main".into(),
            title: "Main".into(),
            issuer: "https://id.example.com".into(),
            client_id: "c".into(),
            client_secret: String::new(),
            scopes: "openid".into(),
            groups_claim: "groups".into(),
            group_map: [
                ("eng".to_owned(), group(1)),
                ("ops".to_owned(), group(2)),
                ("gone".to_owned(), group(9)),
            ]
            .into(),
            domains: vec!["example.com".into()],
            new_users: NewUsers::Make,
            ca_pem: String::new(),
            created_ms: 0,
        }
    }

    fn claims(email: &str) -> Claims {
        Claims {
            subject: "s".into(),
            email: Some(email.into()),
            email_verified: true,
            name: None,
            groups: Some(["eng".to_owned(), "gone".to_owned(), "else".to_owned()].into()),
            is_proven: true,
        }
    }

    #[test]
    fn who_is_known_by_subject_is_that_account_whatever_address_is_said() {
        let mut data = data();
        let known = OidcIdentity { provider: "main".into(), subject: "s".into(), account: ada().id };
        data.sign_in.identities.push(known);
        assert_eq!(whom(&data, &provider(), &claims("other@elsewhere")), Ok(Whom::Known(ada().id)));
        let other = OidcProvider { name: "other".into(), ..provider() };
        assert!(
            matches!(whom(&data, &other, &claims("x@elsewhere")), Ok(Whom::New { .. })),
            "another provider's subject"
        );
    }

    #[test]
    fn an_address_is_believed_only_when_verified_and_of_a_domain_that_the_provider_may_speak_for() {
        let (data, believed) = (data(), claims("ada@EXAMPLE.com"));
        assert_eq!(whom(&data, &provider(), &believed), Ok(Whom::Linked(ada())));
        let unverified = Claims { email_verified: false, ..believed.clone() };
        assert!(whom(&data, &provider(), &unverified).is_err());
        for domains in [vec![], vec!["elsewhere.com".to_owned()], vec!["ample.com".to_owned()]] {
            let stranger = OidcProvider { domains, ..provider() };
            assert!(whom(&data, &stranger, &believed).unwrap_err().contains("is not believed"));
        }
    }

    #[test]
    fn nobody_waits_under_an_address_for_the_person_whose_it_is() {
        let believed = claims("ada@example.com");
        // Somebody signs in as this user already: by the same provider, or by one that does not speak for the address.
        for by in ["main", "careless", "gone"] {
            let mut data = data();
            let careless = OidcProvider { name: "careless".into(), domains: vec![], ..provider() };
            data.sign_in.providers = vec![provider(), careless];
            let waiting = OidcIdentity { provider: by.into(), subject: "mallory".into(), account: ada().id };
            data.sign_in.identities.push(waiting);
            let refused = whom(&data, &provider(), &believed).unwrap_err();
            assert!(refused.contains("whom a provider knows in another way"), "{by}: {refused}");
        }
        // Two providers of one company.
        let mut data = data();
        let second = OidcProvider { name: "second".into(), ..provider() };
        data.sign_in.providers = vec![provider(), second];
        data.sign_in.identities.push(OidcIdentity {
            provider: "second".into(),
            subject: "a".into(),
            account: ada().id,
        });
        assert_eq!(whom(&data, &provider(), &believed), Ok(Whom::Linked(ada())));
        // Nor is anybody made by an address that nobody verified.
        let unverified = Claims { email_verified: false, ..claims("ceo@example.com") };
        assert!(
            whom(&data, &provider(), &unverified)
                .unwrap_err()
                .contains("does not say that ceo@example.com is verified")
        );
    }

    #[test]
    fn new_people_are_made_where_the_provider_may() {
        let (data, bob) = (data(), claims("Bob@example.com"));
        let new = Whom::New { name: "bob@example.com".into(), email: "bob@example.com".into() };
        assert_eq!(whom(&data, &provider(), &bob), Ok(new));
        let refusing = OidcProvider { new_users: NewUsers::Refuse, ..provider() };
        assert!(whom(&data, &refusing, &bob).unwrap_err().contains("ask for an invitation"));
        assert!(whom(&data, &provider(), &Claims { email: None, ..bob.clone() }).is_err());
        // Under the address of somebody for whom another provider speaks, nobody is made by one that does not.
        let mut two = data;
        let other = OidcProvider { name: "other".into(), domains: Vec::new(), ..provider() };
        two.sign_in.providers = vec![provider(), other.clone()];
        assert!(whom(&two, &other, &bob).unwrap_err().contains("another provider speaks for the domain"));
        assert!(matches!(whom(&two, &provider(), &bob), Ok(Whom::New { .. })));
        let elsewhere = claims("bob@example.net");
        assert!(matches!(whom(&two, &other, &elsewhere), Ok(Whom::New { .. })));
    }

    #[test]
    fn what_a_provider_says_becomes_a_name_and_an_address_as_everybody_has_them_or_nobody_at_all() {
        let data = data();
        let made = |name: &str, email: &str| {
            let claims = Claims { name: Some(name.into()), ..claims(email) };
            whom(&data, &provider(), &claims)
        };
        for (claimed, taken) in [
            ("Bob\u{7} Noble\r\n", "Bob Noble"),
            ("\u{0}\u{1b}", "bob@example.com"),
            ("  ", "bob@example.com"),
            ("\u{6771}", "\u{6771}"),
            (&"\u{1f30a}".repeat(100_000), &"\u{1f30a}".repeat(63)),
            (&format!("{} x", "y".repeat(63)), &"y".repeat(63)),
        ] {
            let new = Whom::New { name: taken.into(), email: "bob@example.com".into() };
            assert_eq!(made(claimed, "bob@example.com"), Ok(new), "{claimed:.20?}");
        }
        for email in ["bob@exa\u{7}mple.com", "bob@\n", "bob", "b ob@example.com", "@example.com", ""] {
            assert!(made("Bob", email).is_err(), "{email:?}");
        }
        // The Kelvin sign is a k in lower case, and no k.
        let mut kim = data.clone();
        kim.users[0].email = "kim@example.com".into();
        let claims = Claims { name: None, ..claims("\u{212a}im@example.com") };
        assert!(matches!(whom(&kim, &provider(), &claims), Ok(Whom::New { .. })));
    }

    #[test]
    fn mapped_groups_follow_the_claims_and_others_are_left_alone() {
        let mut data = data();
        let membership =
            |n, generation| Membership { group: group(n), member: Member::User(ada().id), generation };
        data.memberships = vec![membership(2, 5), membership(3, 1)];
        let (join, leave) = moves(&data, &provider(), ada().id, claims("x").groups.as_ref().unwrap());
        assert_eq!((join, leave), (vec![group(1)], vec![(group(2), 5)]));
        data.memberships = vec![membership(1, 1), membership(3, 1)];
        assert_eq!(
            moves(&data, &provider(), ada().id, claims("x").groups.as_ref().unwrap()),
            (vec![], vec![])
        );
    }
}
