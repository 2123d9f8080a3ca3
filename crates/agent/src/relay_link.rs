//! An agent's side of relay channels: where frames go, and the proof of the own address.

use aws_lc_rs::hmac;
use session::SessionId;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};
use wire::{
    CHALLENGE_LEN, ChannelId, ChannelSecret, RELAY_HEADER_LEN, RelayError, RelayKind, encode_relay_header,
    parse_relay,
};

/// Channels of one agent.
const MAX_CHANNELS: usize = 4096;

/// What a relay frame is for.
#[derive(Debug, PartialEq, Eq)]
pub enum RelayInput<'a> {
    /// A WireGuard packet.
    Data {
        /// On which channel.
        channel: ChannelId,
        /// The packet.
        packet: &'a [u8],
    },
    /// The PoP asked whether this agent is where it seems to be. Send this back.
    Answer {
        /// About which channel.
        channel: ChannelId,
        /// Where to.
        to: SocketAddr,
        /// The datagram.
        payload: Vec<u8>,
    },
}

/// Why a relay frame was dropped. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum RelayRefused {
    /// It does not parse.
    #[error(transparent)]
    Malformed(#[from] RelayError),
    /// No such channel here.
    #[error("no such channel")]
    UnknownChannel,
    /// It did not come from the channel's PoP.
    #[error("the frame came from elsewhere than the channel's PoP")]
    OtherSource,
    /// Agents get no such frames.
    #[error("a kind of frame that only PoPs get")]
    WrongKind,
}

impl RelayRefused {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::UnknownChannel => "unknown_channel",
            Self::OtherSource => "other_source",
            Self::WrongKind => "wrong_kind",
        }
    }
}

#[derive(Debug)]
struct Channel {
    session: SessionId,
    pop: SocketAddr,
    /// By which address of the PoP it went before: what the PoP sends there until it has heard of the new one.
    before: Option<SocketAddr>,
    secret: ChannelSecret,
}

/// The channels an agent has.
#[derive(Debug, Default)]
pub struct RelayLinks {
    channels: BTreeMap<ChannelId, Channel>,
}

impl RelayLinks {
    /// No channels.
    #[must_use]
    pub const fn new() -> Self {
        Self { channels: BTreeMap::new() }
    }

    /// Adds a channel of a session. Says whether there was room.
    #[must_use]
    pub fn insert(
        &mut self,
        channel: ChannelId,
        session: SessionId,
        pop: SocketAddr,
        secret: ChannelSecret,
    ) -> bool {
        if self.channels.len() >= MAX_CHANNELS && !self.channels.contains_key(&channel) {
            return false;
        }
        self.channels.insert(channel, Channel { session, pop, before: None, secret });
        true
    }

    /// Removes a channel; its session, if it was there, wants a `CloseChannel`.
    pub fn remove(&mut self, channel: ChannelId) -> Option<SessionId> {
        self.channels.remove(&channel).map(|channel| channel.session)
    }

    /// Removes the channels of a session that ended.
    pub fn remove_session(&mut self, session: SessionId) -> Vec<ChannelId> {
        let gone: Vec<ChannelId> = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.session == session)
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            self.channels.remove(id);
        }
        gone
    }

    /// The sessions that channels go through.
    #[must_use]
    pub fn sessions(&self) -> BTreeSet<SessionId> {
        self.channels.values().map(|channel| channel.session).collect()
    }

    /// The channels of a session.
    #[must_use]
    pub fn channels_of(&self, session: SessionId) -> Vec<ChannelId> {
        let of_it = self.channels.iter().filter(|(_, channel)| channel.session == session);
        of_it.map(|(id, _)| *id).collect()
    }

    /// Gives the channels of one session to another to the same PoP. What still comes by the old way is taken; only
    /// challenges are not answered there any more, so that the PoP follows.
    pub fn move_session(&mut self, from: SessionId, to: SessionId, pop: SocketAddr) {
        for channel in self.channels.values_mut().filter(|channel| channel.session == from) {
            channel.session = to;
            channel.before = Some(channel.pop).filter(|before| *before != pop);
            channel.pop = pop;
        }
    }

    /// Where a channel's frames go.
    #[must_use]
    pub fn pop_of(&self, channel: ChannelId) -> Option<SocketAddr> {
        self.channels.get(&channel).map(|channel| channel.pop)
    }

    /// A data frame around a WireGuard packet, and where to send it.
    #[must_use]
    pub fn encode_data(&self, channel: ChannelId, packet: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let to = self.pop_of(channel)?;
        Some((to, [&encode_relay_header(RelayKind::Data, channel)[..], packet].concat()))
    }

    /// One `Hello` for each channel of a session: after the own address changed, so that the PoP challenges
    /// the new one. It is as long as a challenge, for which it is sent.
    pub fn hellos(&self, session: SessionId) -> impl Iterator<Item = (SocketAddr, Vec<u8>)> {
        self.channels.iter().filter(move |(_, channel)| channel.session == session).map(|(id, channel)| {
            let mut hello = encode_relay_header(RelayKind::Hello, *id).to_vec();
            hello.resize(RELAY_HEADER_LEN + CHALLENGE_LEN, 0);
            (channel.pop, hello)
        })
    }

    /// Takes one datagram that [`wire::classify`] calls a relay frame.
    ///
    /// # Errors
    /// Why it is to be dropped. A challenge is answered to the channel's PoP only: an answer shows who holds
    /// the channel.
    pub fn handle_input<'a>(
        &self,
        from: SocketAddr,
        datagram: &'a [u8],
    ) -> Result<RelayInput<'a>, RelayRefused> {
        let frame = parse_relay(datagram)?;
        let channel = self.channels.get(&frame.channel).ok_or(RelayRefused::UnknownChannel)?;
        let is_late = channel.before == Some(from) && frame.kind == RelayKind::Data;
        if channel.pop != from && !is_late {
            return Err(RelayRefused::OtherSource);
        }
        match frame.kind {
            RelayKind::Data => Ok(RelayInput::Data { channel: frame.channel, packet: frame.body }),
            RelayKind::Challenge => {
                let mut payload = encode_relay_header(RelayKind::Answer, frame.channel).to_vec();
                payload.extend_from_slice(frame.body);
                let key = hmac::Key::new(hmac::HMAC_SHA256, channel.secret.expose());
                let tag = hmac::sign(&key, frame.body);
                payload.extend_from_slice(&tag.as_ref()[..CHALLENGE_LEN]);
                Ok(RelayInput::Answer { channel: frame.channel, to: from, payload })
            }
            RelayKind::Answer | RelayKind::Hello => Err(RelayRefused::WrongKind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: ChannelId = ChannelId::from_random(7);

    fn links() -> (RelayLinks, SocketAddr, SessionId) {
        let pop = SocketAddr::from(([203, 0, 113, 1], 443));
        let session = SessionId::from_u64(1);
        let mut links = RelayLinks::new();
        assert!(links.insert(CHANNEL, session, pop, ChannelSecret::from_random([5; 32])));
        (links, pop, session)
    }

    #[test]
    fn a_challenge_is_answered_to_the_pop_and_to_nobody_else() {
        let (links, pop, _) = links();
        let challenge =
            [&encode_relay_header(RelayKind::Challenge, CHANNEL)[..], &[9; CHALLENGE_LEN]].concat();
        let Ok(RelayInput::Answer { to, payload, .. }) = links.handle_input(pop, &challenge) else {
            panic!("answered");
        };
        assert_eq!(to, pop);
        let answer = parse_relay(&payload).expect("a valid frame");
        assert_eq!((answer.kind, answer.channel), (RelayKind::Answer, CHANNEL));
        let (token, proof) = answer.body.split_at(CHALLENGE_LEN);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[5; 32]);
        assert_eq!(token, [9; CHALLENGE_LEN]);
        assert_eq!(proof, &hmac::sign(&key, token).as_ref()[..CHALLENGE_LEN]);
        let stranger = SocketAddr::from(([198, 51, 100, 1], 443));
        assert_eq!(links.handle_input(stranger, &challenge), Err(RelayRefused::OtherSource));
    }

    #[test]
    fn data_goes_to_the_channels_pop_and_comes_from_it() {
        let (mut links, pop, session) = links();
        let (to, frame) = links.encode_data(CHANNEL, &[1; 40]).expect("a channel");
        assert_eq!(to, pop);
        assert_eq!(
            links.handle_input(pop, &frame),
            Ok(RelayInput::Data { channel: CHANNEL, packet: &[1; 40] })
        );
        assert_eq!(links.hellos(session).count(), 1);
        assert_eq!(links.remove_session(session), [CHANNEL]);
        assert_eq!(links.handle_input(pop, &frame), Err(RelayRefused::UnknownChannel));
    }

    #[test]
    fn a_hello_is_as_long_as_the_challenge_that_it_is_sent_for() {
        let (links, pop, session) = links();
        let [(to, hello)] = &links.hellos(session).collect::<Vec<_>>()[..] else { panic!("one channel") };
        assert_eq!(*to, pop);
        assert_eq!(parse_relay(hello).map(|frame| frame.kind), Ok(RelayKind::Hello));
        assert_eq!(hello.len(), RELAY_HEADER_LEN + CHALLENGE_LEN);
    }

    #[test]
    fn after_a_change_of_the_way_data_of_the_old_one_is_taken_and_no_challenge_is_answered_there() {
        let (mut links, pop, session) = links();
        let (stream, other) = (wire::stream_address(1, 443), SessionId::from_u64(2));
        links.move_session(session, other, stream);
        let (to, frame) = links.encode_data(CHANNEL, &[1; 40]).expect("a channel");
        assert_eq!(to, stream);
        let data = Ok(RelayInput::Data { channel: CHANNEL, packet: &[1; 40] });
        assert_eq!(links.handle_input(pop, &frame), data);
        assert_eq!(links.handle_input(stream, &frame), data);
        let stranger = SocketAddr::from(([198, 51, 100, 1], 443));
        assert_eq!(links.handle_input(stranger, &frame), Err(RelayRefused::OtherSource));
        let challenge =
            [&encode_relay_header(RelayKind::Challenge, CHANNEL)[..], &[9; CHALLENGE_LEN]].concat();
        assert_eq!(links.handle_input(pop, &challenge), Err(RelayRefused::OtherSource));
        assert!(matches!(links.handle_input(stream, &challenge), Ok(RelayInput::Answer { .. })));
    }
}
