//! Whose look-ups are under way, and whose wait for one of their own device to end.
//!
//! A look-up takes a thread for as long as the system's resolver wants one, and there are few of them. A device has a
//! share; what it asks for beyond that waits behind its own, and nobody else's waits behind it.

use crate::core::session::FlowKey;
use std::collections::{BTreeMap, VecDeque};
use wire::DeviceId;

/// Look-ups of one device under way: a quarter of the threads that there are for them.
pub(crate) const SHARE: usize = 8;
/// What waits of one device: all names that a session may have bound, 300 bytes each.
pub(crate) const WAITING: usize = crate::core::bindings::MAX_BINDINGS;

/// What becomes of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is the shell's now.
    Now,
    /// [`Lookups::ended`] gives it.
    Later,
    /// Too many of this device wait.
    Never,
}

#[derive(Default)]
struct OfDevice {
    under_way: usize,
    waiting: VecDeque<(FlowKey, String)>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Lookups {
    under_way: BTreeMap<FlowKey, DeviceId>,
    devices: BTreeMap<DeviceId, OfDevice>,
}

impl Lookups {
    /// Whether a device may ask once more.
    pub fn has_room(&self, device: DeviceId) -> bool {
        self.devices.get(&device).is_none_or(|own| own.waiting.len() < WAITING)
    }

    /// A flow of a device needs an address.
    pub fn ask(&mut self, device: DeviceId, flow: FlowKey, host: &str) -> Turn {
        let own = self.devices.entry(device).or_default();
        if own.under_way < SHARE {
            own.under_way += 1;
            self.under_way.insert(flow, device);
            Turn::Now
        } else if own.waiting.len() < WAITING {
            own.waiting.push_back((flow, host.to_owned()));
            Turn::Later
        } else {
            Turn::Never
        }
    }

    /// A look-up has ended; the device's next one, which is under way now.
    pub fn ended(&mut self, flow: FlowKey) -> Option<(FlowKey, String)> {
        let device = self.under_way.remove(&flow)?;
        let own = self.devices.get_mut(&device)?;
        let next = own.waiting.pop_front();
        match &next {
            Some((next, _)) => {
                self.under_way.insert(*next, device);
            }
            None => own.under_way -= 1,
        }
        if own.under_way == 0 {
            self.devices.remove(&device);
        }
        next
    }

    /// A flow has ended: it waits no more. What is under way goes on until the resolver is done with it.
    pub fn give_up(&mut self, device: DeviceId, flow: FlowKey) {
        if let Some(own) = self.devices.get_mut(&device) {
            own.waiting.retain(|(waiting, _)| *waiting != flow);
        }
    }
}
