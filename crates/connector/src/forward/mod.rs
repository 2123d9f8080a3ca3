//! Carrying allowed flows into the site. Userspace is the mode without privileges; the kernel mode (TUN and
//! nftables) joins it here.

mod datagrams;
pub(crate) mod userspace;
