//! The connector's slice as the core's policy.

use crate::core::rules::{Contact, FlowAge, Question, ResourceName, Rules, Ruling, Target};
use policy::{Address, ConnectorSlice, GrantFacts, Mode, Place, StepOutcome, Verdict, decide};
use std::net::IpAddr;
use wire::Refusal;

/// A valid slice of this connector.
#[derive(Debug, Clone, Copy)]
pub struct SliceRules<'a>(pub &'a ConnectorSlice);

impl Rules for SliceRules<'_> {
    fn decide(&self, question: &Question<'_>) -> Ruling {
        let to = question.destination;
        let facts = GrantFacts::of(question.grant, question.revocations);
        let decision = decide(self.0, &facts, to);
        let resource =
            decision.resource.map(|resource| ResourceName { id: resource.id, name: resource.name.clone() });
        let verdict = match (decision.verdict, decision.resource) {
            (Verdict::Deny(refusal), _) => Err(refusal),
            // A verdict without a resource would have nothing to connect to.
            (Verdict::Allow, None) => Err(Refusal::NoResource),
            (Verdict::Allow, Some(resource)) if is_closed(resource.mode, question) => Err(Refusal::Isolated),
            (Verdict::Allow, Some(resource)) => Ok(match &resource.address {
                Address::Ip(address) => Target::Literal(*address),
                Address::Host(name) => Target::Name(name.as_str().to_owned()),
                Address::Cidr(_) | Address::Wildcard(_) => match to.place {
                    Place::Address(address) => Target::InRange(address.to_canonical()),
                    Place::Name(name) => Target::Name(name.as_str().to_owned()),
                },
            }),
        };
        let explanation = match verdict {
            Err(Refusal::Isolated) => Refusal::Isolated.to_string(),
            _ => decision
                .explanation
                .steps
                .iter()
                .map(|step| {
                    let mark = match step.outcome {
                        StepOutcome::Held => "",
                        StepOutcome::Failed => "not: ",
                        StepOutcome::Unknown => "unknown: ",
                    };
                    if step.detail.is_empty() {
                        format!("{mark}{}", step.what)
                    } else {
                        format!("{mark}{} ({})", step.what, step.detail)
                    }
                })
                .collect::<Vec<_>>()
                .join("; "),
        };
        Ruling { resource, verdict, explanation }
    }

    fn in_site(&self, address: IpAddr) -> bool {
        self.0.prefixes.iter().any(|prefix| prefix.contains(address))
    }
}

/// What isolation does to a strict resource: nothing new at once, what runs after the grace.
fn is_closed(mode: Mode, question: &Question<'_>) -> bool {
    // Planted: a connector that closes everything when it hears no controller, or nothing.
    (mode == Mode::Strict || planted::is("isolation-closes-everything"))
        && !planted::is("isolation-closes-nothing")
        && match question.age {
            FlowAge::New => question.contact != Contact::Connected,
            FlowAge::Running => question.contact == Contact::IsolatedBeyondGrace,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{Allow, Destination, HostName, PortRange, Protocol, SliceResource, inner_address};
    use std::time::Duration;
    use trust::{Grant, GroupRef, Owner, PostureClass, RevocationSet, SigningKey, UnixMs};
    use wire::{DeviceId, GroupId, InstallationId, OrganizationId, PolicyId, ResourceId, SiteId, UserId};

    const STAFF: GroupId = GroupId::from_bytes([1; 16]);

    fn resource(number: u8, address: &str, mode: Mode) -> SliceResource {
        SliceResource {
            id: ResourceId::from_bytes([number; 16]),
            name: format!("r{number}"),
            address: address.parse().expect("address"),
            ports: vec![PortRange::new(80, 80).expect("a port")],
            mode,
            allow: vec![Allow {
                group: STAFF,
                group_name: "staff".into(),
                policy: PolicyId::from_bytes([1; 16]),
                policy_name: "web".into(),
            }],
        }
    }

    fn slice() -> ConnectorSlice {
        ConnectorSlice {
            site: SiteId::from_bytes([1; 16]),
            site_name: "lab".into(),
            prefixes: vec!["10.0.0.0/16".parse().expect("prefix")],
            resources: vec![
                resource(1, "10.0.0.5", Mode::Standard),
                resource(2, "10.0.9.0/24", Mode::Strict),
                resource(3, "db.internal", Mode::Standard),
                resource(4, "*.lab.internal", Mode::Standard),
            ],
            pops: vec![],
            regions: vec![],
        }
    }

    fn grant(groups: Vec<GroupRef>) -> Grant {
        let wall = UnixMs::from_millis(1_800_000_000_000);
        Grant {
            installation: InstallationId::from_bytes([1; 16]),
            organization: OrganizationId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([1; 16]),
            device_generation: 1,
            owner: Owner::User(UserId::from_bytes([1; 16])),
            owner_generation: 1,
            device_name: String::new(),
            owner_name: String::new(),
            groups,
            posture: PostureClass::Unknown,
            key: SigningKey::from_seed(&[1; 32]).verifying_key(),
            iat: wall,
            nbf: wall,
            exp: wall.plus(Duration::from_secs(60)),
            renew_after_ms: 1,
            ext: None,
        }
    }

    fn to(destination: &str) -> Destination<'static> {
        let destination: std::net::SocketAddr = destination.parse().expect("address");
        Destination::tcp(destination.ip(), destination.port())
    }

    fn ask(destination: &str, contact: Contact, age: FlowAge) -> Result<Target, Refusal> {
        ask_for(to(destination), contact, age)
    }

    fn ask_for(destination: Destination<'_>, contact: Contact, age: FlowAge) -> Result<Target, Refusal> {
        let (slice, revocations) = (slice(), RevocationSet::new());
        let grant = grant(vec![GroupRef { id: STAFF, generation: 1 }]);
        let question = Question { grant: &grant, revocations: &revocations, destination, contact, age };
        SliceRules(&slice).decide(&question).verdict
    }

    #[test]
    fn each_kind_of_address_is_a_kind_of_target() {
        let ask = |destination: &str| ask(destination, Contact::Connected, FlowAge::New);
        let ip = |text: &str| text.parse().expect("address");
        assert_eq!(ask("10.0.0.5:80"), Ok(Target::Literal(ip("10.0.0.5"))));
        assert_eq!(ask("10.0.9.7:80"), Ok(Target::InRange(ip("10.0.9.7"))));
        let inner = inner_address(ResourceId::from_bytes([3; 16]));
        assert_eq!(ask(&format!("[{inner}]:80")), Ok(Target::Name("db.internal".into())));
        assert_eq!(ask("10.0.0.5:81"), Err(Refusal::PortNotAllowed));
        assert_eq!(ask("10.0.0.6:80"), Err(Refusal::NoResource));
    }

    #[test]
    fn a_name_below_a_wildcard_is_resolved_itself() {
        let name: HostName = "pc7.lab.internal".parse().expect("a name");
        let by = |protocol| Destination { place: Place::Name(&name), protocol, port: 80 };
        let ask = |to: Destination<'_>| ask_for(to, Contact::Connected, FlowAge::New);
        assert_eq!(ask(by(Protocol::Tcp)), Ok(Target::Name("pc7.lab.internal".into())));
        assert_eq!(ask(by(Protocol::Udp)), Err(Refusal::PortNotAllowed));
        let (elsewhere, host): (HostName, HostName) =
            ("lab.internal".parse().expect("a name"), "db.internal".parse().expect("a name"));
        assert_eq!(
            ask(Destination { place: Place::Name(&elsewhere), ..by(Protocol::Tcp) }),
            Err(Refusal::NoResource)
        );
        assert_eq!(
            ask(Destination { place: Place::Name(&host), ..by(Protocol::Tcp) }),
            Ok(Target::Name("db.internal".into()))
        );
    }

    #[test]
    fn a_strict_resource_closes_in_isolation_new_flows_first() {
        use Contact::{Connected, Isolated, IsolatedBeyondGrace};
        for (contact, age, open) in [
            (Connected, FlowAge::New, true),
            (Isolated, FlowAge::New, false),
            (Isolated, FlowAge::Running, true),
            (IsolatedBeyondGrace, FlowAge::Running, false),
        ] {
            assert_eq!(ask("10.0.9.7:80", contact, age).is_ok(), open, "{contact:?} {age:?}");
            assert!(ask("10.0.0.5:80", contact, age).is_ok(), "a standard one goes on");
        }
    }

    #[test]
    fn a_denial_names_the_resource_and_says_why() {
        let (slice, revocations, grant) = (slice(), RevocationSet::new(), grant(vec![]));
        let question = Question {
            grant: &grant,
            revocations: &revocations,
            destination: to("10.0.0.5:80"),
            contact: Contact::Connected,
            age: FlowAge::New,
        };
        let ruling = SliceRules(&slice).decide(&question);
        assert_eq!(ruling.verdict, Err(Refusal::NoPolicy));
        assert_eq!(ruling.resource.map(|resource| resource.name).as_deref(), Some("r1"));
        assert!(ruling.explanation.contains("not: a policy gives a group"), "{}", ruling.explanation);
    }
}
