//! What a process may do, and giving it up for good.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, no_new_privs,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use std::io;

/// What a process may do.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Privileges {
    /// Its user.
    pub uid: u32,
    /// Whether it has any capability.
    pub capabilities: bool,
    /// Whether it, and what it starts, can never gain any (`no_new_privs`).
    pub no_new_privileges: bool,
}

/// Gives up every capability, and the way to any. Has to be called while the process has one thread: the kernel
/// keeps these per thread, and later threads begin with those of the one that starts them.
///
/// A process of user 0 keeps owning that user's files; the guardian therefore starts the worker as the owner of its
/// state directory where that is somebody else.
///
/// # Errors
/// The kernel refuses, or something is left afterwards.
pub fn confine() -> io::Result<()> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // The bounding set needs CAP_SETPCAP; without it there is nothing that could be regained either, since no_new_privs
    // keeps execve(2) from granting.
    for bit in 0..u64::BITS {
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
    }
    let _ = clear_ambient_capability_set();
    set_no_new_privs(true)?;
    set_capabilities(None, none)?;
    let now = privileges()?;
    if now.capabilities || !now.no_new_privileges {
        return Err(io::Error::other(format!("privileges are left after they were given up: {now:?}")));
    }
    Ok(())
}

/// Keeps of a guardian's capabilities what a guardian needs, and gives up the rest for good: it changes interfaces and
/// routes, binds port 53, writes files of others with their owner, starts a worker as another user and ends it. Has to
/// be called while the process has one thread, as [`confine`].
///
/// # Errors
/// The kernel refuses.
pub fn restrain() -> io::Result<()> {
    let needed = CapabilitySet::NET_ADMIN
        | CapabilitySet::NET_BIND_SERVICE
        // Binding to an interface, before Linux 5.7.
        | CapabilitySet::NET_RAW
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::CHOWN
        | CapabilitySet::FOWNER
        | CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::KILL
        // For the worker, which takes its bounding set away.
        | CapabilitySet::SETPCAP;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !needed.contains(one) {
            let _ = remove_capability_from_bounding_set(one);
        }
    }
    let _ = clear_ambient_capability_set();
    set_no_new_privs(true)?;
    let kept = capabilities(None)?.permitted & needed;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// What this thread may do.
///
/// # Errors
/// The kernel does not tell.
pub fn privileges() -> io::Result<Privileges> {
    let sets = capabilities(None)?;
    Ok(Privileges {
        uid: rustix::process::geteuid().as_raw(),
        capabilities: !sets.permitted.is_empty()
            || !sets.effective.is_empty()
            || !sets.inheritable.is_empty(),
        no_new_privileges: no_new_privs()?,
    })
}

/// Whether this process may set up interfaces (CAP_NET_ADMIN).
#[must_use]
pub fn may_administer() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}
