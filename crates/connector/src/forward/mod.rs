//! Carrying allowed flows into the site: by connections and sockets of this process, or by the machine's kernel.

mod datagrams;
pub(crate) mod kernel;
pub(crate) mod userspace;
