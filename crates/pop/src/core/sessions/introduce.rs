//! Introductions: one round trip from a client's `Open` to a channel.

use super::{Due, Sessions, limits};
use crate::core::{
    bucket::Bucket,
    relay::{ChannelEnded, ChannelSpec, RelayCommand, SideSpec},
};
use session::SessionId;
use std::time::Instant;
use trust::Subject;
use wire::{
    Accept, ChannelClosed, ChannelId, ChannelSecret, DeviceId, Introduce, Open, OpenRefused, Opened, Refusal,
    Refuse, WG_INITIATION_LEN, WG_RESPONSE_LEN,
};

#[derive(Debug)]
struct Half {
    session: SessionId,
    subject: Subject,
    id: ChannelId,
    secret: ChannelSecret,
}

/// One that waits for its connector.
#[derive(Debug)]
pub(super) struct Introduction {
    seq: u64,
    client: Half,
    connector: Half,
    until: Instant,
}

impl Sessions {
    pub(super) fn open(&mut self, now: Instant, id: SessionId, device: DeviceId, open: Open) {
        let seq = open.seq;
        match self.introduce(now, id, Subject::Device(device), open) {
            Ok(()) => {}
            Err(reason) => self.refuse_open(now, id, seq, reason),
        }
    }

    fn refuse_open(&mut self, now: Instant, client: SessionId, seq: u64, reason: Refusal) {
        let retry_after_ms = match reason.class() {
            _ if reason == Refusal::NotAttached => limits::millis(limits::RETRY_NOT_ATTACHED),
            wire::RefusalClass::Later => limits::millis(limits::RETRY_LATER),
            wire::RefusalClass::Denied | wire::RefusalClass::Malformed => 0,
        };
        self.refuse_open_until(now, client, seq, reason, retry_after_ms);
    }

    fn refuse_open_until(
        &mut self,
        now: Instant,
        client: SessionId,
        seq: u64,
        reason: Refusal,
        retry_after_ms: u32,
    ) {
        self.counters.introductions_refused.add(reason.label());
        self.send(now, client, &OpenRefused { seq, reason, retry_after_ms }.into());
    }

    fn introduce(&mut self, now: Instant, id: SessionId, client: Subject, open: Open) -> Result<(), Refusal> {
        if open.initiation.as_slice().len() != WG_INITIATION_LEN {
            return Err(Refusal::Malformed);
        }
        let target = Subject::Connector(open.connector);
        let connector = self.agents.get(&target).ok_or(Refusal::NotAttached)?;
        let connector_session = connector.session.ok_or(Refusal::NotAttached)?;
        let organization = |id| self.sessions.get(&id).and_then(|session| session.identity.organization());
        match (organization(id), organization(connector_session)) {
            (Some(of_client), Some(of_connector))
                if of_client == of_connector || planted::is("introduction-crosses-organizations") => {}
            _ => {
                // Nobody is told that another organization has such a connector.
                self.counters.refused.add(Refusal::OtherOrganization.label());
                if planted::is("tells-of-other-organizations-connectors") {
                    return Err(Refusal::OtherOrganization);
                }
                return Err(Refusal::NotAttached);
            }
        }
        let own = self.agents.get(&client).ok_or(Refusal::SessionLost)?;
        if own.introductions >= limits::MAX_INTRODUCTIONS_PER_CLIENT {
            return Err(Refusal::Budget);
        }
        let full = own.channels + own.introductions >= limits::MAX_CHANNELS_PER_DEVICE
            || connector.introductions >= limits::MAX_INTRODUCTIONS_PER_CONNECTOR
            || connector.channels + connector.introductions >= limits::MAX_CHANNELS_PER_CONNECTOR
            || self.introductions.len() >= limits::MAX_INTRODUCTIONS
            || self.channels + self.introductions.len() >= self.max_channels;
        if full {
            return Err(Refusal::Full);
        }
        self.charge_organization(now, id)?;
        for subject in [client, target] {
            if let Some(agent) = self.agents.get_mut(&subject) {
                agent.introductions += 1;
            }
        }
        self.last_introduction += 1;
        let number = self.last_introduction;
        let client = self.half(id, client);
        let connector = self.half(connector_session, target);
        let client_seen = self.sessions.get(&id).and_then(super::Session::seen_at);
        let introduce = Introduce {
            intro: number,
            channel: connector.id,
            secret: connector.secret.clone(),
            sealed: open.sealed,
            initiation: open.initiation,
            client_seen,
        };
        let until = now + limits::INTRODUCTION_TIMEOUT;
        self.deadlines.insert((until, Due::Introduction(number)));
        self.introductions.insert(number, Introduction { seq: open.seq, client, connector, until });
        self.send(now, connector_session, &introduce.into());
        Ok(())
    }

    /// One organization cannot ask for more than its share, however many clients it has.
    fn charge_organization(&mut self, now: Instant, id: SessionId) -> Result<(), Refusal> {
        let organization = self.sessions.get(&id).and_then(|session| session.identity.organization());
        let organization = organization.ok_or(Refusal::OtherOrganization)?;
        let allowance = self.allowed.introductions;
        if self.introducing.len() >= limits::MAX_ORGANIZATIONS
            && !self.introducing.contains_key(&organization)
        {
            // What is full again is as good as forgotten; then there is room, unless all of them are busy.
            self.introducing.retain(|_, bucket| !bucket.is_full(allowance, now));
            if self.introducing.len() >= limits::MAX_ORGANIZATIONS {
                return Err(Refusal::Budget);
            }
        }
        let bucket = self.introducing.entry(organization).or_insert_with(|| Bucket::full(allowance, now));
        if planted::is("organization-without-budget") {
            return Ok(());
        }
        bucket.take(allowance, now, 1).map_err(|_| Refusal::Budget)
    }

    fn half(&mut self, session: SessionId, subject: Subject) -> Half {
        let id = ChannelId::from_random(self.random.bits());
        Half { session, subject, id, secret: ChannelSecret::from_random(self.random.block()) }
    }

    fn take_introduction(&mut self, number: u64) -> Option<Introduction> {
        let introduction = self.introductions.remove(&number)?;
        self.deadlines.remove(&(introduction.until, Due::Introduction(number)));
        for subject in [introduction.client.subject, introduction.connector.subject] {
            if let Some(agent) = self.agents.get_mut(&subject) {
                agent.introductions = agent.introductions.saturating_sub(1);
            }
        }
        Some(introduction)
    }

    /// The introduction, if it is this connector's to answer.
    fn answered_by(&mut self, number: u64, connector: SessionId) -> Option<Introduction> {
        let is_asked = |i: &Introduction| i.connector.session == connector || planted::is("anybody-answers");
        if self.introductions.get(&number).is_some_and(is_asked) {
            return self.take_introduction(number);
        }
        // Too late, or of another connector: nothing is told apart.
        self.counters.refused.add("no_such_introduction");
        None
    }

    pub(super) fn accept(&mut self, now: Instant, id: SessionId, accept: Accept) {
        let Some(introduction) = self.answered_by(accept.intro, id) else { return };
        let Introduction { seq, client, connector, .. } = introduction;
        if accept.response.as_slice().len() != WG_RESPONSE_LEN {
            self.counters.refused.add("malformed");
            self.refuse_open(now, client.session, seq, Refusal::HandshakeInvalid);
            return self.tell_closed(now, connector.session, connector.id, Refusal::Malformed);
        }
        let (Some(a), Some(b)) = (self.side(&client), self.side(&connector)) else { return };
        self.channels += 1;
        for half in [&client, &connector] {
            if let Some(agent) = self.agents.get_mut(&half.subject) {
                agent.channels += 1;
            }
        }
        self.relay(RelayCommand::Install(Box::new(ChannelSpec { sides: [a, b] })));
        self.counters.introductions_opened += 1;
        let connector_seen = self.sessions.get(&connector.session).and_then(super::Session::seen_at);
        let opened = Opened {
            seq,
            channel: client.id,
            secret: client.secret,
            response: accept.response,
            inner_v4: accept.inner_v4,
            inner_v6: accept.inner_v6,
            connector_seen,
        };
        self.send(now, client.session, &opened.into());
    }

    /// One side to install.
    fn side(&self, half: &Half) -> Option<SideSpec> {
        let owner = self.agents.get(&half.subject)?.owner;
        let session = self.sessions.get(&half.session)?;
        let moved = session.moved.map(|(address, _)| address);
        Some(SideSpec { id: half.id, secret: half.secret.clone(), address: session.proven, moved, owner })
    }

    pub(super) fn connector_refused(&mut self, now: Instant, id: SessionId, refuse: &Refuse) {
        let Some(introduction) = self.answered_by(refuse.intro, id) else { return };
        let Introduction { seq, client, .. } = introduction;
        self.refuse_open_until(now, client.session, seq, refuse.reason, refuse.retry_after_ms);
    }

    pub(super) fn introduction_timed_out(&mut self, now: Instant, number: u64) {
        let Some(Introduction { seq, client, connector, .. }) = self.take_introduction(number) else {
            return;
        };
        self.refuse_open(now, client.session, seq, Refusal::Timeout);
        self.tell_closed(now, connector.session, connector.id, Refusal::Timeout);
    }

    /// A session is over: whoever waits with it is told.
    pub(super) fn end_introductions(&mut self, now: Instant, subject: Subject, session: SessionId) {
        // Most sessions end with none, and everybody may go at once.
        if self.agents.get(&subject).is_none_or(|agent| agent.introductions == 0) {
            return;
        }
        let ended: Vec<u64> = self
            .introductions
            .iter()
            .filter(|(_, i)| i.client.session == session || i.connector.session == session)
            .map(|(number, _)| *number)
            .collect();
        for number in ended {
            let Some(Introduction { seq, client, connector, .. }) = self.take_introduction(number) else {
                continue;
            };
            if connector.session == session {
                self.refuse_open(now, client.session, seq, Refusal::SessionLost);
            } else {
                self.tell_closed(now, connector.session, connector.id, Refusal::SessionLost);
            }
        }
    }

    fn tell_closed(&mut self, now: Instant, session: SessionId, channel: ChannelId, reason: Refusal) {
        self.send(now, session, &ChannelClosed { channel, reason }.into());
    }

    /// The relay has ended a channel; each one that was installed ends once.
    pub fn handle_channel_ended(&mut self, now: Instant, ended: ChannelEnded) {
        self.counters.channels_ended.add(ended.reason.label());
        self.channels = self.channels.saturating_sub(1);
        for (owner, channel) in ended.sides {
            let Some(&subject) = self.owners.get(&owner) else { continue };
            let Some(agent) = self.agents.get_mut(&subject) else { continue };
            agent.channels = agent.channels.saturating_sub(1);
            if let Some(session) = agent.session {
                self.tell_closed(now, session, channel, ended.reason);
            }
            self.forget_if_gone(subject);
        }
    }
}
