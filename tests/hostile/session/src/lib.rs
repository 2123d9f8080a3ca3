//! A session layer that cheats: what the production [`session`] crate exports, with an [`Acceptor`] that lets somebody
//! read, drop, change, delay, repeat and invent every frame between the PoP's core and its peers.
//!
//! The production PoP is compiled against this crate by the package `hostile-pop`, sources unchanged. So it is a PoP
//! in everything that its owner does not want otherwise, and it holds what a compromised PoP holds: its own key, all
//! sessions in plain, and nothing else.
//!
//! This crate owns: where frames pass. It refuses to know: what they say.

pub use session::*;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};
use trust::{Identity, SigningKey, TrustBundle, UnixMs};

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a peer to the PoP's core.
    In,
    /// From the PoP's core to a peer.
    Out,
}

/// One frame on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which way.
    pub way: Way,
    /// Between the core and this session.
    pub session: SessionId,
    /// Whose session it is.
    pub peer: Identity,
    /// The frame's type.
    pub frame_type: u16,
    /// The frame's body.
    pub body: Vec<u8>,
}

/// What becomes of a frame.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on as it is.
    Pass,
    /// It never was.
    Drop,
    /// These go instead, each after so long.
    Instead(Vec<(Duration, Frame)>),
}

/// Decides about each frame.
pub type Meddle = Box<dyn FnMut(&Frame, Instant) -> Verdict + Send>;
/// Invents frames, looking at who is here.
pub type Invent = Box<dyn FnMut(Instant, &BTreeMap<SessionId, Identity>) -> Vec<Frame> + Send>;

/// How one PoP cheats.
#[derive(Default)]
pub struct Cheat {
    /// With frames that pass.
    pub meddle: Option<Meddle>,
    /// With frames out of nowhere.
    pub invent: Option<Invent>,
    /// With its identity.
    pub identity: Option<LocalIdentity>,
}

thread_local! {
    static NEXT: RefCell<Option<Cheat>> = const { RefCell::new(None) };
}

/// How the next [`Acceptor`] that this thread makes cheats.
pub fn prepare(cheat: Cheat) {
    NEXT.with(|next| *next.borrow_mut() = Some(cheat));
}

/// [`session::Acceptor`] with somebody in between.
pub struct Acceptor {
    inner: session::Acceptor,
    cheat: Cheat,
    peers: BTreeMap<SessionId, Identity>,
    later: BTreeMap<(Instant, u64), Frame>,
    count: u64,
    now: Instant,
    ready: VecDeque<Event>,
}

impl Acceptor {
    /// As [`session::Acceptor::new`], under whatever was prepared.
    ///
    /// # Errors
    /// As there.
    pub fn new(
        local: &LocalIdentity,
        key: &SigningKey,
        bundle: TrustBundle,
        limits: AcceptorLimits,
        now: Instant,
        wall: UnixMs,
        seed: [u8; 32],
    ) -> Result<Self, IdentityError> {
        let cheat = NEXT.with(|next| next.borrow_mut().take()).unwrap_or_default();
        let local = cheat.identity.as_ref().unwrap_or(local);
        let inner = session::Acceptor::new(local, key, bundle, limits, now, wall, seed)?;
        Ok(Self {
            inner,
            cheat,
            peers: BTreeMap::new(),
            later: BTreeMap::new(),
            count: 0,
            now,
            ready: VecDeque::new(),
        })
    }

    /// As [`session::Acceptor::set_identity`], but a false one is kept.
    ///
    /// # Errors
    /// As there.
    pub fn set_identity(&mut self, local: &LocalIdentity) -> Result<(), IdentityError> {
        let local = self.cheat.identity.as_ref().unwrap_or(local);
        self.inner.set_identity(local)
    }

    /// As [`session::Acceptor::send`].
    ///
    /// # Errors
    /// As there; what the cheat swallows was sent.
    pub fn send(&mut self, id: SessionId, frame_type: u16, body: &[u8]) -> Result<(), SendError> {
        let (Some(meddle), Some(peer)) = (&mut self.cheat.meddle, self.peers.get(&id)) else {
            return self.inner.send(id, frame_type, body);
        };
        let frame = Frame { way: Way::Out, session: id, peer: *peer, frame_type, body: body.to_vec() };
        match meddle(&frame, self.now) {
            Verdict::Pass => self.inner.send(id, frame_type, body),
            Verdict::Drop => Ok(()),
            Verdict::Instead(frames) => {
                self.queue(frames);
                self.release(self.now);
                Ok(())
            }
        }
    }

    fn queue(&mut self, frames: Vec<(Duration, Frame)>) {
        for (after, frame) in frames {
            self.count += 1;
            self.later.insert((self.now + after, self.count), frame);
        }
    }

    /// Lets go what is due.
    fn release(&mut self, now: Instant) {
        while let Some(first) = self.later.first_entry()
            && first.key().0 <= now
        {
            let Frame { way, session: id, frame_type, body, .. } = first.remove();
            match way {
                // A session that is over gets nothing.
                Way::Out => drop(self.inner.send(id, frame_type, &body)),
                Way::In => self.ready.push_back(Event::Frame { id, frame_type, body }),
            }
        }
    }

    /// As [`session::Acceptor::poll_output`].
    pub fn poll_output(&mut self, now: Instant) -> Output {
        self.now = now;
        if let Some(invent) = &mut self.cheat.invent {
            let frames = invent(now, &self.peers);
            self.queue(frames.into_iter().map(|frame| (Duration::ZERO, frame)).collect());
        }
        self.release(now);
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Output::Event(event);
            }
            match self.inner.poll_output(now) {
                Output::Event(Event::Frame { id, frame_type, body }) => {
                    let (Some(meddle), Some(peer)) = (&mut self.cheat.meddle, self.peers.get(&id)) else {
                        return Output::Event(Event::Frame { id, frame_type, body });
                    };
                    let frame = Frame { way: Way::In, session: id, peer: *peer, frame_type, body };
                    match meddle(&frame, now) {
                        Verdict::Pass => {
                            return Output::Event(Event::Frame { id, frame_type, body: frame.body });
                        }
                        Verdict::Drop => {}
                        Verdict::Instead(frames) => {
                            self.queue(frames);
                            self.release(now);
                        }
                    }
                }
                Output::Timeout { at, reason } => {
                    return match self.later.first_key_value() {
                        Some((&(due, _), _)) if due < at => {
                            Output::Timeout { at: due, reason: "a frame that was held back" }
                        }
                        _ => Output::Timeout { at, reason },
                    };
                }
                other => {
                    match &other {
                        Output::Event(Event::Connected { id, peer, .. }) => {
                            self.peers.insert(*id, peer.identity());
                        }
                        Output::Event(Event::Lost { id, .. }) => {
                            self.peers.remove(id);
                        }
                        _ => {}
                    }
                    return other;
                }
            }
        }
    }
}

// Whatever else the production acceptor can do, this one does the same way.
impl Deref for Acceptor {
    type Target = session::Acceptor;
    fn deref(&self) -> &session::Acceptor {
        &self.inner
    }
}

impl DerefMut for Acceptor {
    fn deref_mut(&mut self) -> &mut session::Acceptor {
        &mut self.inner
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cheating {:?}", self.inner)
    }
}
