//! Carrying allowed flows into the site, by connections and sockets of this process. It is the one mode that there is: the
//! kernel forwards nothing.

mod datagrams;
pub(crate) mod userspace;
