//! Which names are private.

use policy::HostName;
use std::collections::BTreeSet;

/// The names that are answered on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    exact: BTreeSet<HostName>,
    below: BTreeSet<HostName>,
    public: BTreeSet<HostName>,
}

impl Names {
    /// No private name.
    pub const EMPTY: Self = Self { exact: BTreeSet::new(), below: BTreeSet::new(), public: BTreeSet::new() };

    /// `exact` names themselves; of `below`, every name with at least one label more.
    pub fn new(exact: impl IntoIterator<Item = HostName>, below: impl IntoIterator<Item = HostName>) -> Self {
        let (exact, below) = (exact.into_iter().collect(), below.into_iter().collect());
        Self { exact, below, public: BTreeSet::new() }
    }

    /// The same without `public` names, whatever is below what: a PoP's own name has to lead to the PoP, also where
    /// a wildcard covers it.
    #[must_use]
    pub fn without(mut self, public: impl IntoIterator<Item = HostName>) -> Self {
        self.public.extend(public);
        self.exact.retain(|name| !self.public.contains(name));
        self
    }

    /// Whether a name has an address here.
    #[must_use]
    pub fn has(&self, name: &HostName) -> bool {
        !self.public.contains(name)
            && (self.exact.contains(name) || self.parents(name).any(|parent| self.below.contains(parent)))
    }

    /// Whether a question about a name is answered here: also for names that have no address but stand
    /// between two that are private (`b.c` of the private `a.b.c` is not, `c` of the wildcard `*.c` is), since
    /// a resolver that minimizes names (RFC 9156) asks for those first.
    #[must_use]
    pub fn covers(&self, name: &HostName) -> bool {
        self.has(name) || (self.below.contains(name) && !self.public.contains(name)) || self.is_about(name)
    }

    /// Whether labels that begin with an underscore stand in front of a private name: what is said about it, not a host
    /// (`_ldap._tcp` of a service, RFC 2782).
    fn is_about(&self, name: &HostName) -> bool {
        self.parents(name).filter(|parent| self.exact.contains(*parent)).any(|parent| {
            let front = name.as_str().strip_suffix(parent).unwrap_or_default();
            front.split_terminator('.').all(|label| label.starts_with('_'))
        })
    }

    /// Whether every name that ends so is private, odd ones too.
    #[must_use]
    pub fn owns(&self, name: &HostName) -> bool {
        self.below.contains(name) || self.parents(name).any(|parent| self.below.contains(parent))
    }

    /// Whether a name is private that no host can have, by the longest part at its end that one could have: below a
    /// wildcard, and what is said about a private name by labels in front of it (`_ldap._tcp` of a service, RFC 2782).
    #[must_use]
    pub fn owns_odd(&self, part: &HostName) -> bool {
        self.owns(part) || self.exact.contains(part)
    }

    /// The names that a resolver of this machine has to send here, shortest first: what a system with split
    /// DNS by domain is told.
    pub fn domains(&self) -> impl Iterator<Item = &HostName> {
        let covered = |name: &&HostName| !self.parents(name).any(|parent| self.below.contains(parent));
        let mut all: Vec<&HostName> = self.below.iter().chain(&self.exact).filter(covered).collect();
        all.sort_by_key(|name| (name.as_str().len(), *name));
        all.dedup();
        all.into_iter()
    }

    fn parents<'a>(&'a self, name: &'a HostName) -> impl Iterator<Item = &'a str> + 'a {
        let text = name.as_str();
        text.match_indices('.').filter_map(move |(dot, _)| text.get(dot + 1..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn names() -> Names {
        Names::new([name("db.lab.internal"), name("wiki")], [name("corp.example")])
    }

    #[test]
    fn a_name_is_private_by_itself_or_below_a_wildcard() {
        let names = names();
        for (text, has) in [
            ("db.lab.internal", true),
            ("lab.internal", false),
            ("x.db.lab.internal", false),
            ("wiki", true),
            ("corp.example", false),
            ("a.corp.example", true),
            ("a.b.corp.example", true),
            ("acorp.example", false),
            ("example", false),
        ] {
            assert_eq!(names.has(&name(text)), has, "{text}");
        }
    }

    #[test]
    fn a_public_name_stays_public_whatever_covers_it() {
        let names = names().without([name("pop.corp.example"), name("wiki"), name("corp.example")]);
        for public in ["pop.corp.example", "wiki", "corp.example"] {
            assert!(!names.has(&name(public)) && !names.covers(&name(public)), "{public}");
        }
        assert!(names.has(&name("other.corp.example")) && names.has(&name("db.lab.internal")));
    }

    #[test]
    fn what_is_said_about_a_private_name_is_answered_here_and_has_no_address() {
        let names = names();
        let service = name("_ldap._tcp.db.lab.internal");
        assert!(names.covers(&service) && !names.has(&service));
        assert!(!names.covers(&name("_ldap.x.db.lab.internal")));
        assert!(!names.covers(&name("x.db.lab.internal")));
        assert!(!names.covers(&name("_ldap._tcp.lab.internal")));
    }

    #[test]
    fn the_wildcards_own_name_is_answered_here_and_has_no_address() {
        let names = names();
        assert!(names.covers(&name("corp.example")) && !names.has(&name("corp.example")));
        assert!(!names.covers(&name("example")));
    }

    #[test]
    fn a_system_is_told_each_domain_once_and_none_inside_another() {
        let names = Names::new(
            [name("a.corp.example"), name("wiki")],
            [name("corp.example"), name("x.corp.example")],
        );
        let told: Vec<&str> = names.domains().map(HostName::as_str).collect();
        assert_eq!(told, ["wiki", "corp.example"]);
    }
}
