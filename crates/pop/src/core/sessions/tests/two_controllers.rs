//! Two controllers, each with a store of its own, that strike at once through two PoPs: whatever is cut, killed or refused
//! by a disk meanwhile, what was acknowledged stays struck, and in the end everybody has the union.

use super::*;
use crate::fixture::{INSTALLATION, other_controller_id, pop_id as the_pop};
use std::collections::{BTreeMap, BTreeSet};
use trust::{Revocation, RevocationSet, Unverified};
use wire::{ControllerId, Document};

type Hash = [u8; 32];

#[derive(Debug, Clone)]
enum Step {
    /// This controller strikes a generation of a subject.
    Strike {
        controller: usize,
        subject: u8,
        generation: u64,
    },
    /// Both do, before either has heard of the other.
    BothStrike {
        subject: u8,
        generations: [u64; 2],
    },
    /// The link of a controller with a PoP is cut, or comes back.
    Link {
        controller: usize,
        pop: usize,
    },
    /// A PoP's disk takes what waits for it, or refuses it.
    Disk {
        pop: usize,
        takes: bool,
    },
    /// A PoP is killed and starts from its disk.
    Kill {
        pop: usize,
    },
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (pop, subject, generation) = (0..2_usize, 0..5_u8, 1..4_u64);
    prop_oneof![
        4 => (0..2_usize, subject.clone(), generation.clone())
            .prop_map(|(controller, subject, generation)| Step::Strike { controller, subject, generation }),
        4 => (subject, generation.clone(), generation)
            .prop_map(|(subject, a, b)| Step::BothStrike { subject, generations: [a, b] }),
        3 => (0..2_usize, pop.clone()).prop_map(|(controller, pop)| Step::Link { controller, pop }),
        3 => (pop.clone(), any::<bool>()).prop_map(|(pop, takes)| Step::Disk { pop, takes }),
        1 => pop.prop_map(|pop| Step::Kill { pop }),
        1 => (1..20_u64).prop_map(Step::Pass),
    ]
}

/// A controller: its chain, its store, and what each PoP has acknowledged.
struct Controller {
    id: ControllerId,
    next: u64,
    previous: Hash,
    held: BTreeMap<Hash, Document>,
    set: RevocationSet,
    /// Its end at each PoP, and how much of that end's inbox it has read.
    links: [Option<(usize, usize)>; 2],
    acknowledged: [BTreeSet<Hash>; 2],
}

struct Pop {
    world: World,
    disk: Vec<String>,
    connector: usize,
    read: usize,
    /// What its connector has heard.
    told: RevocationSet,
}

struct Plane {
    pops: [Pop; 2],
    controllers: [Controller; 2],
    /// Everything that anybody ever struck.
    union: RevocationSet,
}

fn subject(byte: u8) -> RevokedSubject {
    RevokedSubject::Device(DeviceId::from_bytes([100 + byte; 16]))
}

fn hash(document: &Document) -> Hash {
    trust::sha256(&[document.as_slice()])
}

/// What a set strikes, without how long it keeps it.
fn struck(set: &RevocationSet) -> Vec<(RevokedSubject, u64)> {
    set.iter().collect()
}

impl Pop {
    /// The connector comes with what it knows, and asks for the rest: beacons name the heads of both chains.
    fn start(disk: Vec<String>, told: RevocationSet) -> Self {
        let mut world = World::new();
        let mut material = world.installation.pop();
        material.revocations.clone_from(&disk);
        let seed = Seed::from_random([42; 32]);
        let limits = AcceptorLimits::default();
        let wall = world.installation.wall;
        world.sessions = Sessions::new(material, limits, 1024, world.now, wall, &seed).expect("material");
        let connector = world.agent(connector(1, 20), CONNECTOR);
        for signer in [controller_id(), other_controller_id()] {
            world.say(connector, &GetRevocations { signer, first: 1, last: u64::MAX }.into());
        }
        let mut pop = Self { world, disk, connector, read: 0, told };
        pop.listen();
        pop
    }

    fn believed(&self, document: &Document) -> Revocation {
        let entry = Unverified::<Revocation>::parse_bytes(document.as_slice()).expect("a document");
        entry.verify_at_any_time(&self.world.installation.bundle).expect("signed by one of the two")
    }

    fn listen(&mut self) {
        let inbox = &self.world.ends[self.connector].agent_inbox;
        let mut told = std::mem::take(&mut self.told);
        for message in &inbox[self.read..] {
            if let ToAgent::Revocations(said) = message {
                for document in &said.entries {
                    let _ = told.insert(&self.believed(document));
                }
            }
        }
        self.read = inbox.len();
        self.told = told;
    }

    fn write(&mut self, takes: bool) {
        for (id, record) in std::mem::take(&mut self.world.writes) {
            if let (true, Record::Revocations(texts)) = (takes, &record) {
                self.disk.clone_from(texts);
            }
            let written = if takes { Written::Durable } else { Written::Failed };
            self.world.sessions.handle_written(self.world.now, id, written);
        }
        self.world.settle();
    }
}

impl Plane {
    fn new() -> Self {
        let controller = |id| Controller {
            id,
            next: 1,
            previous: [0; 32],
            held: BTreeMap::new(),
            set: RevocationSet::new(),
            links: [None; 2],
            acknowledged: [BTreeSet::new(), BTreeSet::new()],
        };
        let mut plane = Self {
            pops: [(); 2].map(|()| Pop::start(Vec::new(), RevocationSet::new())),
            controllers: [controller(controller_id()), controller(other_controller_id())],
            union: RevocationSet::new(),
        };
        for (controller, pop) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            plane.link(controller, pop);
        }
        plane
    }

    /// A controller that attaches sends everything that it holds.
    fn link(&mut self, controller: usize, pop: usize) {
        let one = &mut self.controllers[controller];
        let world = &mut self.pops[pop].world;
        // Each time from another port.
        let address = format!("192.0.2.{}:{}", 9 + controller, 7000 + world.ends.len());
        let end = world.dial(Identity::controller(INSTALLATION, one.id), &address);
        one.links[pop] = Some((end, 0));
        world.say_signer(end, &SignerHello { oldest: 1, newest: 1 }.into());
        let all: Vec<Document> = one.held.values().cloned().collect();
        self.send(controller, pop, &all);
    }

    fn send(&mut self, controller: usize, pop: usize, entries: &[Document]) {
        let Some((end, _)) = self.controllers[controller].links[pop] else { return };
        for some in entries.chunks(wire::MAX_DOCUMENTS) {
            self.pops[pop].world.say_signer(end, &Strike { entries: some.to_vec() }.into());
        }
    }

    fn unlink(&mut self, controller: usize, pop: usize) {
        let Some((end, _)) = self.controllers[controller].links[pop].take() else { return };
        let world = &mut self.pops[pop].world;
        let id = world.ends[end].id;
        world.ends[end].dialler.close(world.now, id, CloseCode::Done);
        world.settle();
    }

    /// Signed, applied and kept; who hears of it is another step.
    fn sign(&mut self, controller: usize, byte: u8, generation: u64) -> Document {
        let installation = &self.pops[0].world.installation;
        let one = &mut self.controllers[controller];
        let entry = Revocation {
            installation: INSTALLATION,
            signer: one.id,
            seq: one.next,
            previous: one.previous,
            at: installation.wall,
            subject: subject(byte),
            generation,
            keep_until: installation.wall.plus(Duration::from_secs(40 * 24 * 3600)),
            ext: None,
        };
        let document = installation.sign_strike(&entry);
        (one.next, one.previous) = (one.next + 1, hash(&document));
        let _ = one.set.insert(&entry);
        let _ = self.union.insert(&entry);
        one.held.insert(hash(&document), document.clone());
        document
    }

    /// Controllers take what PoPs tell them of each other, and tell their other PoP.
    fn hear(&mut self) {
        loop {
            let mut news = Vec::new();
            for (number, one) in self.controllers.iter_mut().enumerate() {
                for (place, pop) in self.pops.iter().enumerate() {
                    let Some((end, read)) = &mut one.links[place] else { continue };
                    let inbox = &pop.world.ends[*end].signer_inbox;
                    let mut told = Vec::new();
                    for message in &inbox[*read..] {
                        match message {
                            ToSigner::StrikesHeld(held) => {
                                let hashes = held.hashes.iter().map(|hash| hash.as_slice().try_into());
                                one.acknowledged[place]
                                    .extend(hashes.map(|hash: Result<Hash, _>| hash.expect("32 bytes")));
                            }
                            ToSigner::StrikesElsewhere(said) => told.extend(said.entries.iter().cloned()),
                            ToSigner::SignerWelcome(welcome) => told.extend(welcome.held.iter().cloned()),
                            _ => {}
                        }
                    }
                    for document in told {
                        let _ = one.set.insert(&pop.believed(&document));
                        if one.held.insert(hash(&document), document.clone()).is_none() {
                            news.push((number, 1 - place, document));
                        }
                    }
                    *read = inbox.len();
                }
            }
            for pop in &mut self.pops {
                pop.listen();
            }
            if news.is_empty() {
                return;
            }
            for (controller, pop, document) in news {
                self.send(controller, pop, &[document]);
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Strike { controller, subject, generation } => {
                let document = self.sign(controller, subject, generation);
                for pop in 0..2 {
                    self.send(controller, pop, std::slice::from_ref(&document));
                }
            }
            Step::BothStrike { subject, generations } => {
                let both = [self.sign(0, subject, generations[0]), self.sign(1, subject, generations[1])];
                for (controller, document) in both.iter().enumerate() {
                    // Each begins at another PoP.
                    for pop in [controller, 1 - controller] {
                        self.send(controller, pop, std::slice::from_ref(document));
                    }
                }
            }
            Step::Link { controller, pop } => match self.controllers[controller].links[pop] {
                Some(_) => self.unlink(controller, pop),
                None => self.link(controller, pop),
            },
            Step::Disk { pop, takes } => self.pops[pop].write(takes),
            Step::Kill { pop } => {
                let linked: Vec<usize> =
                    (0..2).filter(|one| self.controllers[*one].links[pop].is_some()).collect();
                // What it had said before it died has arrived.
                self.hear();
                let told = self.pops[pop].told.clone();
                self.pops[pop] = Pop::start(self.pops[pop].disk.clone(), told);
                for one in &mut self.controllers {
                    one.links[pop] = None;
                }
                for controller in linked {
                    self.link(controller, pop);
                }
            }
            Step::Pass(seconds) => {
                for pop in &mut self.pops {
                    pop.world.pass(Duration::from_secs(seconds));
                }
            }
        }
        self.hear();
    }

    /// What a PoP acknowledged it holds, whatever became of it since; and what it strikes its connector knows.
    fn holds(&self) {
        for (place, pop) in self.pops.iter().enumerate() {
            let held = &pop.world.sessions.revocations;
            for one in &self.controllers {
                for hash in &one.acknowledged[place] {
                    let held = held.documents().iter().any(|document| self::hash(document) == *hash);
                    assert!(held, "PoP {place} lost what it acknowledged");
                }
            }
            for (subject, generation) in held.set().iter() {
                assert!(pop.told.is_struck(subject, generation), "the connector of PoP {place}: {subject}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn two_controllers_that_strike_at_once_end_with_one_union_that_forgets_nothing_acknowledged(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        assert_eq!(the_pop(), pop_id());
        let mut plane = Plane::new();
        for step in &steps {
            plane.take(step);
            plane.holds();
        }
        // Everything is well again.
        for controller in 0..2 {
            for pop in 0..2 {
                if plane.controllers[controller].links[pop].is_none() {
                    plane.take(&Step::Link { controller, pop });
                }
            }
        }
        for pop in 0..2 {
            plane.take(&Step::Disk { pop, takes: true });
            plane.take(&Step::Pass(20));
            plane.take(&Step::Disk { pop, takes: true });
        }
        plane.holds();
        let all = struck(&plane.union);
        for (place, pop) in plane.pops.iter().enumerate() {
            prop_assert_eq!(struck(&pop.world.sessions.revocations.set()), all.clone(), "PoP {}", place);
            prop_assert_eq!(struck(&pop.told), all.clone(), "the connector of PoP {}", place);
        }
        for one in &plane.controllers {
            prop_assert_eq!(struck(&one.set), all.clone(), "controller {}", one.id);
            for place in 0..2 {
                let missing = one.held.keys().filter(|hash| {
                    !plane.pops.iter().any(|pop| pop.disk.iter().any(|text| {
                        trust::sha256(&[text.as_bytes()]) == **hash
                    }))
                });
                prop_assert_eq!(missing.count(), 0, "on no PoP's disk, of {}", place);
            }
        }
    }
}
