//! The PoP's own slice: what it may take, as a controller has signed it.
//!
//! Constants are the caps: a slice lowers them and never raises them, so that nobody who can sign makes a PoP promise what
//! its memory does not hold. Without a slice the constants alone count. The last one that was believed goes on after its
//! end, as any last-known-good: it limits, and gives nobody anything.

use super::{Record, Sessions, SessionsOutput, limits};
use crate::core::bucket::Allowance;
use policy::{OrganizationShare, PopSlice};
use std::time::Instant;
use trust::{
    Audience, Certificate, DocumentError, Identity, RootHash, Slice, SliceVersion, Subject, TrustBundle,
    UnixMs, Unverified,
};

/// What is allowed right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Of which slice; none yet.
    version: Option<SliceVersion>,
    /// Sessions in all, as its owner configured it; the slice may take less.
    cap: usize,
    /// Sessions in all.
    pub(super) sessions: usize,
    /// Registrations a second that agents are told to spread themselves for.
    pub(super) admit_per_second: u64,
    /// Devices and connectors of one organization.
    pub(super) organization_sessions: usize,
    /// Introductions of one organization's clients.
    pub(super) introductions: Allowance,
    /// PoPs of the installation; 0 is not known.
    pub(super) pops: u32,
}

impl Allowed {
    pub(super) const fn without_slice(cap: usize) -> Self {
        Self {
            version: None,
            cap,
            sessions: cap,
            admit_per_second: limits::ADMIT_PER_SECOND,
            organization_sessions: cap,
            introductions: limits::ORGANIZATION_INTRODUCTIONS,
            pops: 0,
        }
    }

    fn by(self, slice: &Slice<PopSlice>) -> Self {
        let PopSlice { max_sessions, admit_rate, pops, organization, .. } = slice.body;
        let sessions = self.cap.min(usize::try_from(max_sessions).unwrap_or(usize::MAX));
        let most = limits::ORGANIZATION_INTRODUCTIONS;
        let share =
            organization.map_or((sessions, most), |OrganizationShare { max_sessions, introductions }| {
                let per_second = u64::from(introductions).min(most.per_second);
                // As many seconds' worth at once as the cap has.
                let burst = per_second.saturating_mul(most.burst / most.per_second).min(most.burst);
                let own = usize::try_from(max_sessions).unwrap_or(usize::MAX);
                (sessions.min(own), Allowance { per_second, burst })
            });
        Self {
            version: Some(slice.header.version),
            cap: self.cap,
            sessions,
            admit_per_second: u64::from(admit_rate).min(limits::ADMIT_PER_SECOND),
            organization_sessions: share.0,
            introductions: share.1,
            pops,
        }
    }

    pub(super) const fn version(&self) -> Option<SliceVersion> {
        self.version
    }
}

/// Why a slice is not taken. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotTaken {
    Document(&'static str),
    OtherAudience,
    OtherRoot,
    Older,
}

impl NotTaken {
    const fn label(self) -> &'static str {
        match self {
            Self::Document(label) => label,
            Self::OtherAudience => "slice_of_another",
            Self::OtherRoot => "slice_of_another_root",
            Self::Older => "older_slice",
        }
    }
}

/// Whether the end of a slice's life counts.
#[derive(Clone, Copy)]
enum Comes {
    /// From a controller, now.
    FromController(UnixMs),
    /// From this PoP's own disk, where it was written when it was believed.
    FromDisk,
}

fn read(
    text: &[u8],
    comes: Comes,
    bundle: &TrustBundle,
    root: &RootHash,
    own: Identity,
    held: Option<SliceVersion>,
) -> Result<Slice<PopSlice>, NotTaken> {
    let document = |error: DocumentError| NotTaken::Document(error.label());
    let unverified = Unverified::<Slice<PopSlice>>::parse_bytes(text).map_err(document)?;
    let slice = match comes {
        Comes::FromController(wall) => unverified.verify(bundle, wall),
        Comes::FromDisk => unverified.verify_at_any_time(bundle),
    }
    .map_err(document)?;
    let Subject::Pop(pop) = own.subject() else { return Err(NotTaken::OtherAudience) };
    if slice.header.audience != Audience::Pop(pop) || slice.header.organization.is_some() {
        return Err(NotTaken::OtherAudience);
    }
    if slice.body.root != *root {
        return Err(NotTaken::OtherRoot);
    }
    if held.is_some_and(|held| slice.header.version < held) {
        return Err(NotTaken::Older);
    }
    Ok(slice)
}

impl Sessions {
    fn own_identity(&self) -> Option<Identity> {
        Certificate::verify_at_any_time(self.renewal.certificate(), &self.bundle)
            .ok()
            .map(|own| own.identity())
    }

    /// Goes on with the slice that was on disk, as [`Record::Slice`] gave it. What is not believed any more is counted,
    /// and the constants count.
    pub fn restore_slice(&mut self, text: &str) {
        if let Some(slice) = self.read_slice(text.as_bytes(), Comes::FromDisk) {
            self.allow(&slice);
        }
    }

    pub(super) fn publish_slice(&mut self, _now: Instant, text: &[u8]) {
        let Some(slice) = self.read_slice(text, Comes::FromController(self.wall)) else { return };
        let is_news = self.allowed.version() != Some(slice.header.version);
        self.allow(&slice);
        if is_news {
            let text = String::from_utf8_lossy(text).into_owned();
            let id = self.next_write();
            self.out.push_back(SessionsOutput::Persist { id, record: Record::Slice(text) });
        }
    }

    fn read_slice(&mut self, text: &[u8], comes: Comes) -> Option<Slice<PopSlice>> {
        let held = self.allowed.version();
        let own = self.own_identity()?;
        match read(text, comes, &self.bundle, &self.root, own, held) {
            Ok(slice) => Some(slice),
            Err(error) => {
                self.counters.refused.add(error.label());
                None
            }
        }
    }

    fn allow(&mut self, slice: &Slice<PopSlice>) {
        self.allowed = self.allowed.by(slice);
        self.acceptor.set_most_sessions(self.allowed.sessions);
    }
}
