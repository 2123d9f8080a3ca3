//! What controllers of one installation tell each other about sign-ins: sessions that were signed out, codes that were used.
//!
//! Told behind the answer, by the database, and heard with the next look at it: nobody's sign-in waits for it. While the
//! database is away each controller knows its own, and keeps what is to be told.

use crate::{clock, parts::Core};
use std::sync::Mutex;
use store::{EndedSession, SignInNotes, Store, StoreError, UsedCode};
use trust::UnixMs;
use wire::{OrganizationId, UserId};

/// Notes that wait for the database; beyond it the oldest is forgotten. A session that was signed out is then over here
/// alone until its cookie ends.
const MOST: usize = 4096;

/// What is still to be told.
#[derive(Debug, Default)]
pub(crate) struct Untold(Mutex<SignInNotes>);

impl Untold {
    fn notes(&self) -> std::sync::MutexGuard<'_, SignInNotes> {
        self.0.lock().expect("nothing panics while it holds the notes")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.notes().is_empty()
    }

    fn ended(&self, session: EndedSession) {
        let mut notes = self.notes();
        if notes.ended.len() >= MOST {
            notes.ended.remove(0);
        }
        notes.ended.push(session);
    }

    fn used(&self, code: UsedCode) {
        let mut notes = self.notes();
        notes.used.retain(|held| held.account != code.account);
        if notes.used.len() >= MOST {
            notes.used.remove(0);
        }
        notes.used.push(code);
    }

    fn take(&self) -> SignInNotes {
        std::mem::take(&mut self.notes())
    }

    fn back(&self, before: SignInNotes) {
        let newer = self.take();
        for session in before.ended.into_iter().chain(newer.ended) {
            self.ended(session);
        }
        for code in before.used.into_iter().chain(newer.used) {
            self.used(code);
        }
    }
}

impl Core {
    /// A session is over: the others are told.
    pub(crate) fn tell_ended(&self, organization: OrganizationId, id: [u8; 16], expires: UnixMs) {
        if self.database.is_shared() {
            self.signin.untold.ended(EndedSession { id, organization, expires_ms: expires.as_millis() });
            self.news.notify_one();
        }
    }

    /// A code was used up: the others are told.
    pub(crate) fn tell_used(&self, organization: OrganizationId, account: UserId, step: u64) {
        if self.database.is_shared() {
            self.signin.untold.used(UsedCode { account, organization, step });
            self.news.notify_one();
        }
    }

    /// Tells what is to be told; what fails waits for the next time.
    pub(crate) async fn tell_sign_ins(&self, store: &Store) -> Result<(), StoreError> {
        let notes = self.signin.untold.take();
        if notes.is_empty() {
            return Ok(());
        }
        let told = store.tell_sign_ins(&notes, clock::wall().as_millis()).await;
        if told.as_ref().is_err_and(StoreError::is_unavailable) {
            self.signin.untold.back(notes);
        }
        told
    }

    /// Hears what the others told.
    pub(crate) async fn hear_sign_ins(&self, store: &Store) -> Result<(), StoreError> {
        let now = clock::wall();
        let notes = store.sign_in_notes(now.as_millis()).await?;
        for session in notes.ended {
            let expires = UnixMs::from_millis(session.expires_ms);
            if !self.signin.ended.has(&session.id)
                && let Err(error) = self.signin.ended.end(session.id, expires, now)
            {
                tracing::error!(%error, "a session was signed out elsewhere and a restart would revive it here");
            }
        }
        for code in notes.used {
            // Known already, or known now: both are what is wanted.
            let _ = self.signin.used_steps.take(code.account, code.step);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_told_waits_behind_nothing_newer_and_is_bounded() {
        let untold = Untold::default();
        let organization = OrganizationId::from_bytes([1; 16]);
        let code = |step| UsedCode { account: UserId::from_bytes([2; 16]), organization, step };
        let session = |id: u128| EndedSession { id: id.to_be_bytes(), organization, expires_ms: 1 };
        untold.used(code(1));
        let before = untold.take();
        assert!(untold.is_empty() && !before.is_empty());
        untold.used(code(2));
        untold.back(before);
        assert_eq!(untold.take().used, [code(2)], "one for each account, the newest");
        for id in 0..=MOST as u128 {
            untold.ended(session(id));
        }
        let kept = untold.take().ended;
        assert_eq!((kept.len(), kept[0]), (MOST, session(1)));
    }
}
