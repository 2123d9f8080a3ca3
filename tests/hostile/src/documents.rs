//! What the controller says besides control frames: beacons and strikes.

use crate::installation::{CONTROLLER, INSTALLATION, Installation};
use std::collections::BTreeMap;
use std::time::Duration;
use trust::{
    Beacon, Head, KeyRole, OrganizationTag, Revocation, RevokedSubject, SliceVersion, UnixMs, sha256,
    sign_document,
};
use wire::{Bounded, Document};

/// The controller's chain of strikes.
#[derive(Debug, Default)]
pub struct Journal {
    /// Every link's text.
    pub entries: Vec<Document>,
    head: Option<Head>,
}

impl Journal {
    /// The next link.
    pub fn strike(&mut self, by: &Installation, subject: RevokedSubject, at: UnixMs) -> Document {
        let (seq, previous) = self.head.map_or((1, [0; 32]), |head| (head.seq + 1, head.hash));
        let entry = Revocation {
            installation: INSTALLATION,
            signer: CONTROLLER,
            seq,
            previous,
            at,
            subject,
            generation: 1,
            keep_until: at.plus(Duration::from_secs(40 * 86_400)),
            ext: None,
        };
        let text = document(&sign_document(&by.keys[&KeyRole::Beacon], &entry).expect("signs"));
        self.head = Some(Head { seq, hash: sha256(&[text.as_slice()]) });
        self.entries.push(text.clone());
        text
    }

    /// A beacon that names its end.
    #[must_use]
    pub fn beacon(
        &self,
        by: &Installation,
        versions: BTreeMap<OrganizationTag, SliceVersion>,
        time: UnixMs,
        nonce: Option<[u8; 16]>,
    ) -> Document {
        let heads = self.head.iter().map(|head| (CONTROLLER, *head)).collect();
        let beacon = Beacon {
            installation: INSTALLATION,
            controller: CONTROLLER,
            time,
            versions,
            heads,
            nonce,
            ext: None,
        };
        document(&sign_document(&by.keys[&KeyRole::Beacon], &beacon).expect("signs"))
    }
}

/// A document as the wire carries it.
#[must_use]
pub fn document(text: &str) -> Document {
    Bounded::new(text.as_bytes().to_vec()).expect("short")
}
