//! A PoP that changes, repeats and swaps the sealed frames between agents and controllers, and hands out documents of its
//! own.

use crate::cheats::{Shared, Switch, from_agent, instead, meddling, saying, to_agent};
use hostile::documents::document;
use hostile::installation::{Installation, MINUTE, SECOND, STANDARD};
use hostile::world::{Plan, Tenant};
use hostile_session::{Cheat, Frame, Verdict, Way};
use trust::Role;
use wire::{Bounded, BundlePush, FromAgent, FromController, ToAgent, ToController};

fn flipped<const N: usize>(sealed: &Bounded<N>, number: usize) -> Bounded<N> {
    let mut bytes = sealed.as_slice().to_vec();
    let at = number * 131 % bytes.len();
    bytes[at] ^= 1 << (number % 8);
    Bounded::new(bytes).expect("as long as before")
}

/// Keeps: sealing binds every byte of a request and of a reply (`trust::control`).
#[test]
fn sealed_frames_that_were_changed_are_not_taken_and_the_next_honest_one_is() {
    for changes_requests in [true, false] {
        let on = Switch::default();
        let switch = on.clone();
        let mut number = 0;
        let hostile = meddling(move |frame, _| {
            number += 1;
            match (from_agent(frame), to_agent(frame)) {
                (Some(FromAgent::ToController(asked)), _) if changes_requests && switch.is_on() => {
                    let changed = ToController { sealed: flipped(&asked.sealed, number), ..asked };
                    instead(Frame { body: FromAgent::from(changed).encode_body(), ..frame.clone() })
                }
                (_, Some(ToAgent::FromController(reply))) if !changes_requests && switch.is_on() => {
                    let changed = FromController { sealed: flipped(&reply.sealed, number), ..reply };
                    instead(saying(frame, changed))
                }
                _ => Verdict::Pass,
            }
        });
        let life = MINUTE * 60;
        let mut world = Plan::new(60).life(life, MINUTE * 8).pops([hostile]).build();
        world.settle();
        let flow = world.connect(0, STANDARD);
        let before = world.clients[0].node.agent().grant().cloned().expect("enrolled");
        on.on();
        world.pass(MINUTE * 15);
        assert_eq!(world.clients[0].node.agent().grant(), Some(&before), "nothing was taken");
        let refused = world.clients[0].node.agent().stats().replies_refused;
        assert!(if changes_requests { world.controller.refused > 0 } else { refused > 0 });
        assert!(world.echo(0, flow, b"x", SECOND));
        on.off();
        world.pass(MINUTE * 15);
        let after = world.clients[0].node.agent().grant().cloned().expect("has one");
        assert!(after.exp > before.exp, "the next one is taken");
        assert!(world.echo(0, flow, b"x", SECOND));
    }
}

/// Keeps: a reply is sealed under the key of one request, with its nonce (`PendingReply::open`).
#[test]
fn replies_given_to_another_agent_or_said_again_later_bring_nothing_back() {
    let on = Switch::default();
    let switch = on.clone();
    let kept = Shared::<Vec<(trust::Identity, FromController)>>::new();
    let replies = kept.clone();
    let mut turn = 0_usize;
    let hostile = meddling(move |frame, _| match to_agent(frame) {
        Some(ToAgent::FromController(reply)) => {
            let told = replies.with(|replies| {
                replies.push((frame.peer, reply.clone()));
                turn += 1;
                // An older one of the same agent, or one of another.
                let other = replies
                    .iter()
                    .filter(|(of, _)| (*of == frame.peer) == turn.is_multiple_of(2))
                    .nth(turn % replies.len().max(1) % 3)
                    .map_or_else(|| reply.clone(), |(_, other)| other.clone());
                FromController { seq: reply.seq, ..other }
            });
            if switch.is_on() && told != reply { instead(saying(frame, told)) } else { Verdict::Pass }
        }
        _ => Verdict::Pass,
    });
    let life = MINUTE * 90;
    let mut world = Plan::new(61)
        .tenants(&[Tenant { connectors: 1, clients: 2 }])
        .life(life, MINUTE * 8)
        .pops([hostile])
        .build();
    world.settle();
    world.pass(MINUTE * 12);
    assert!(world.controller.renewals >= 2);
    world.controller.version = 2;
    assert!(world.wait(MINUTE, |world| {
        world.connectors[0].node.agent().slice().is_some_and(|slice| slice.header.version.version == 2)
    }));
    let held: Vec<_> = world.clients.iter().map(|part| part.node.agent().grant().cloned()).collect();
    let refused = world.clients[0].node.agent().stats().replies_refused;
    on.on();
    world.pass(MINUTE * 30);
    for (client, held) in world.clients.iter().zip(&held) {
        let now = client.node.agent().grant().expect("has one");
        assert!(now.exp >= held.as_ref().expect("had one").exp, "no older grant came back");
        assert_eq!(now.device, held.as_ref().expect("had one").device, "nor another's");
    }
    assert_eq!(world.connectors[0].node.agent().slice().map(|slice| slice.header.version.version), Some(2));
    assert!(world.clients[0].node.agent().stats().replies_refused > refused, "they came");
    world.connect(0, STANDARD);
}

/// Keeps: a chain begins at the pinned root (`TrustChain::verify`), and never goes back (`TrustBundle::replace_with`). Red
/// with `any-root-is-believed`.
#[test]
fn a_trust_chain_of_a_pops_own_is_not_believed() {
    let stranger = Installation::under_root([50; 32], Vec::new(), 0);
    let on = Switch::default();
    let switch = on.clone();
    let chain = document(&stranger.chain);
    let told = Shared::<usize>::new();
    let count = told.clone();
    let hostile = Cheat {
        invent: Some(Box::new(move |_, peers| {
            if !switch.is_on() || count.with(|count| *count) > 0 {
                return Vec::new();
            }
            let message = ToAgent::from(BundlePush { chain: chain.clone() });
            let frames: Vec<Frame> = peers
                .iter()
                .filter(|(_, peer)| matches!(peer.role(), Role::Device | Role::Connector))
                .map(|(session, peer)| Frame {
                    way: Way::Out,
                    session: *session,
                    peer: *peer,
                    frame_type: message.frame_type(),
                    body: message.encode_body(),
                })
                .collect();
            count.with(|count| *count += frames.len());
            frames
        })),
        ..Cheat::default()
    };
    let mut world = Plan::new(62).pops([hostile]).build();
    world.settle();
    let before = world.clients[0].node.agent().chain_text().to_owned();
    on.on();
    world.pass(MINUTE);
    assert_eq!(told.with(|told| *told), 2);
    assert_eq!(world.clients[0].node.agent().chain_text(), before);
    assert_eq!(world.clients[0].node.agent().stats().chains_refused, 1);
    assert_eq!(world.connectors[0].node.agent().stats().chains_refused, 1);
    world.connect(0, STANDARD);
}
