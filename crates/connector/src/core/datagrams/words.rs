//! The words that conversations and their owner share.

use std::net::{IpAddr, SocketAddr};

/// A conversation's number; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatagramId(pub(super) u64);

impl DatagramId {
    /// The number, for a log line.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Which socket a conversation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramKind {
    /// UDP: what is sent and received is the payload.
    Udp,
    /// ICMP echo: what is sent and received is the message.
    Echo {
        /// Which identifier its messages have, unless the kernel chooses one: that of no other conversation now.
        identifier: u16,
    },
}

/// What the core wants done for conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatagramRequest {
    /// Resolve a name in the site; [`DatagramNews::Resolved`] is expected.
    Resolve {
        /// For which conversation.
        flow: DatagramId,
        /// The name.
        host: String,
    },
    /// Open a socket and connect it to the first of these that there is a way to; [`DatagramNews::Opened`] is expected.
    Open {
        /// For which conversation.
        flow: DatagramId,
        /// Which socket.
        kind: DatagramKind,
        /// Where to, in order; the port of an echo's is 0.
        targets: Vec<SocketAddr>,
    },
    /// Send.
    Send {
        /// Of which conversation.
        flow: DatagramId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Close the socket.
    Close(DatagramId),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatagramNews {
    /// The system's resolver answered; an empty list when it did not.
    Resolved {
        /// For which conversation.
        flow: DatagramId,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// The system's resolver takes too long; [`DatagramNews::Resolved`] follows when it is done, and tells nothing any more.
    Overdue {
        /// For which conversation.
        flow: DatagramId,
    },
    /// There is a socket, or none.
    Opened {
        /// For which conversation.
        flow: DatagramId,
        /// What it is connected to.
        result: Result<SocketAddr, OpenFault>,
    },
    /// Something came from the site.
    Received {
        /// For which conversation.
        flow: DatagramId,
        /// Each with where it came from.
        datagrams: Vec<(SocketAddr, Vec<u8>)>,
    },
    /// The site's network says something about what was sent.
    Fault {
        /// In which conversation.
        flow: DatagramId,
        /// What.
        fault: DatagramFault,
    },
}

/// Why there is no socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenFault {
    /// No way leads there.
    Unreachable,
    /// This process may have no more of them.
    Full,
    /// This process may not have one of this kind.
    NotPermitted,
}

/// What came back instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramFault {
    /// Nobody listens at the port.
    PortUnreachable,
    /// The host does not answer, or no way leads there.
    Unreachable,
    /// It was longer than the way carries.
    TooLong,
}
