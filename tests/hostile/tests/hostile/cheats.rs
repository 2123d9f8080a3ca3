//! Ways to cheat that more than one test uses.

use hostile_session::{Cheat, Frame, Verdict, Way};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use trust::Role;
use wire::{FromAgent, FromSigner, ToAgent};

/// Whether a PoP cheats already: it plays honest first, so that there is something to break.
#[derive(Clone, Default)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    pub fn on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn off(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a cheat and its test both look at.
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Shared<T> {
    pub fn new() -> Self {
        Self(Arc::default())
    }
}

impl<T> Shared<T> {
    pub fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub fn is_agent(frame: &Frame) -> bool {
    matches!(frame.peer.role(), Role::Device | Role::Connector)
}

/// What the PoP is about to say to an agent.
pub fn to_agent(frame: &Frame) -> Option<ToAgent> {
    if frame.way != Way::Out || !is_agent(frame) {
        return None;
    }
    ToAgent::decode_body(frame.frame_type, &frame.body).ok().flatten()
}

/// What an agent has said.
pub fn from_agent(frame: &Frame) -> Option<FromAgent> {
    if frame.way != Way::In || !is_agent(frame) {
        return None;
    }
    FromAgent::decode_body(frame.frame_type, &frame.body).ok().flatten()
}

/// What a controller has said.
pub fn from_signer(frame: &Frame) -> Option<FromSigner> {
    if frame.way != Way::In || is_agent(frame) {
        return None;
    }
    FromSigner::decode_body(frame.frame_type, &frame.body).ok().flatten()
}

/// The same frame with another message to an agent in it.
pub fn saying(frame: &Frame, message: impl Into<ToAgent>) -> Frame {
    let message = message.into();
    Frame { way: Way::Out, frame_type: message.frame_type(), body: message.encode_body(), ..frame.clone() }
}

/// Goes instead, at once.
pub fn instead(frame: Frame) -> Verdict {
    Verdict::Instead(vec![(Duration::ZERO, frame)])
}

/// A PoP that meddles.
pub fn meddling(meddle: impl FnMut(&Frame, std::time::Instant) -> Verdict + Send + 'static) -> Cheat {
    Cheat { meddle: Some(Box::new(meddle)), ..Cheat::default() }
}

/// From when the switch is on, what controllers say in beacons comes ten minutes late; where told so, their
/// answers to agents too.
pub fn ten_minutes_late(switch: &Switch, answers: Answers) -> Cheat {
    let switch = switch.clone();
    meddling(move |frame, _| match from_signer(frame) {
        Some(FromSigner::PublishBeacon(_)) if switch.is_on() => {
            Verdict::Instead(vec![(TEN_MINUTES, frame.clone())])
        }
        Some(FromSigner::Reply(_)) if switch.is_on() && answers == Answers::Late => {
            Verdict::Instead(vec![(TEN_MINUTES, frame.clone())])
        }
        _ => Verdict::Pass,
    })
}

pub const TEN_MINUTES: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    InTime,
    Late,
}
