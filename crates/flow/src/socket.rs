//! One flow's TCP: the kept stack with one interface and one socket, so that nothing scans.

use crate::device::{Port, capabilities};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};
use std::net::SocketAddr;

/// What reading gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(usize),
    Nothing,
    End,
}

pub(crate) struct TcpStack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl TcpStack {
    /// A stack whose only address is `local`.
    fn new(local: SocketAddr, buffer: usize, seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut nothing = Vec::new();
        let mut port = Port { input: None, output: &mut nothing };
        debug_assert_eq!(port.capabilities().max_transmission_unit, capabilities().max_transmission_unit);
        let mut interface = Interface::new(config, &mut port, now);
        interface.update_ip_addrs(|addresses| {
            // A prefix of length 0: everybody is a neighbour on a tunnel, no routes are needed.
            addresses
                .push(IpCidr::new(IpAddress::from(local.ip()), 0))
                .expect("an empty list has room for one");
        });
        let mut socket = Socket::new(SocketBuffer::new(vec![0; buffer]), SocketBuffer::new(vec![0; buffer]));
        // What the owner writes is what a peer's socket gave: it has been through a Nagle already.
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { interface, sockets, handle }
    }

    /// A stack that waits for the SYN to `local`.
    pub fn listening(local: SocketAddr, buffer: usize, seed: u64, now: Instant) -> Option<Self> {
        let mut stack = Self::new(local, buffer, seed, now);
        let endpoint = IpListenEndpoint::from(IpEndpoint::from(local));
        stack.socket_mut().listen(endpoint).ok()?;
        Some(stack)
    }

    /// A stack that connects from `local` to `remote`.
    pub fn connecting(
        local: SocketAddr,
        remote: SocketAddr,
        buffer: usize,
        seed: u64,
        now: Instant,
    ) -> Option<Self> {
        let mut stack = Self::new(local, buffer, seed, now);
        let socket = stack.sockets.get_mut::<Socket<'static>>(stack.handle);
        socket.connect(stack.interface.context(), IpEndpoint::from(remote), IpEndpoint::from(local)).ok()?;
        Some(stack)
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get::<Socket<'static>>(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket<'static>>(self.handle)
    }

    pub fn state(&self) -> State {
        self.socket().state()
    }

    /// Takes one packet; an immediate answer (a duplicate acknowledgement, say) is in `output`.
    pub fn input(&mut self, now: Instant, packet: &[u8], output: &mut Vec<Vec<u8>>) {
        let mut port = Port { input: Some(packet), output };
        self.interface.poll_ingress_single(now, &mut port, &mut self.sockets);
    }

    /// Makes at most `most` packets; whether there may be more.
    pub fn egress(&mut self, now: Instant, most: usize, output: &mut Vec<Vec<u8>>) -> bool {
        let before = output.len();
        while output.len() - before < most {
            let mut port = Port { input: None, output };
            if self.interface.poll_egress(now, &mut port, &mut self.sockets) == PollResult::None {
                return false;
            }
        }
        true
    }

    /// When the stack wants [`Self::egress`] again.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    pub fn has_data(&self) -> bool {
        self.socket().can_recv()
    }

    /// Whether the peer said it has no more, and everything it sent was read.
    pub fn at_end(&self) -> bool {
        !self.has_data()
            && matches!(
                self.state(),
                State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed
            )
    }

    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        match self.socket_mut().recv_slice(buffer) {
            Ok(read) if read > 0 || buffer.is_empty() => Received::Bytes(read),
            Ok(_) | Err(_) if self.at_end() => Received::End,
            Ok(_) | Err(_) => Received::Nothing,
        }
    }

    /// Takes what fits; `None` when this side has closed or the flow is gone.
    ///
    /// Before the connection stands nothing fits; the stack would refuse it as an error.
    pub fn send(&mut self, data: &[u8]) -> Option<usize> {
        match self.state() {
            State::Listen | State::SynSent | State::SynReceived => Some(0),
            _ => self.socket_mut().send_slice(data).ok(),
        }
    }

    pub fn free_to_send(&self) -> usize {
        let socket = self.socket();
        socket.send_capacity() - socket.send_queue()
    }

    /// Whether data waits to be sent or acknowledged.
    pub fn has_unacknowledged_data(&self) -> bool {
        self.socket().send_queue() > 0
    }

    /// Whether something sent is not acknowledged: data, or the FIN.
    pub fn awaits_acknowledgement(&self) -> bool {
        self.socket().send_queue() > 0
            || matches!(self.state(), State::FinWait1 | State::Closing | State::LastAck)
    }

    pub fn close(&mut self) {
        self.socket_mut().close();
    }

    pub fn abort(&mut self) {
        self.socket_mut().abort();
    }
}
