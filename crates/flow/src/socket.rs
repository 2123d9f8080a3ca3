//! One flow's TCP: the kept stack with one interface and one socket, so that nothing scans.

use crate::device::Port;
use crate::limits::{FLOW_MTU, MAX_FLOW_MTU};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
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
    local: SocketAddr,
    seed: u64,
    /// The longest packet that the interface makes now, and that the link carries.
    mtu: usize,
    link_mtu: usize,
}

/// An interface whose only address is `local`.
fn interface(local: SocketAddr, mtu: usize, seed: u64, now: Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut nothing = Vec::new();
    let mut port = Port { input: None, output: &mut nothing, mtu };
    let mut interface = Interface::new(config, &mut port, now);
    interface.update_ip_addrs(|addresses| {
        // A prefix of length 0: everybody is a neighbour on a tunnel, no routes are needed.
        addresses.push(IpCidr::new(IpAddress::from(local.ip()), 0)).expect("an empty list has room for one");
    });
    interface
}

impl TcpStack {
    /// A stack whose only address is `local`. What it announces in its SYN is what it can take.
    fn new(local: SocketAddr, buffer: usize, seed: u64, now: Instant) -> Self {
        let interface = interface(local, MAX_FLOW_MTU, seed, now);
        let mut socket = Socket::new(SocketBuffer::new(vec![0; buffer]), SocketBuffer::new(vec![0; buffer]));
        // What the owner writes is what a peer's socket gave: it has been through a Nagle already.
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { interface, sockets, handle, local, seed, mtu: MAX_FLOW_MTU, link_mtu: FLOW_MTU }
    }

    /// The link carries packets of so many bytes from now on.
    pub fn set_link_mtu(&mut self, mtu: usize) {
        self.link_mtu = mtu.clamp(FLOW_MTU, MAX_FLOW_MTU);
    }

    /// After the SYN no packet is longer than the link carries. The kept stack asks its interface for each segment, and
    /// an interface keeps nothing of a flow: one of another MTU takes its place.
    fn fit(&mut self, now: Instant) {
        if self.mtu != self.link_mtu
            && !matches!(self.state(), State::Listen | State::SynSent | State::SynReceived)
        {
            self.mtu = self.link_mtu;
            self.interface = interface(self.local, self.mtu, self.seed, now);
        }
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
        let mut port = Port { input: Some(packet), output, mtu: self.mtu };
        self.interface.poll_ingress_single(now, &mut port, &mut self.sockets);
    }

    /// Makes at most `most` packets; whether there may be more.
    pub fn egress(&mut self, now: Instant, most: usize, output: &mut Vec<Vec<u8>>) -> bool {
        self.fit(now);
        let before = output.len();
        while output.len() - before < most {
            let mut port = Port { input: None, output, mtu: self.mtu };
            if self.interface.poll_egress(now, &mut port, &mut self.sockets) == PollResult::None {
                return false;
            }
        }
        true
    }

    /// Makes the stack send everything again that is not acknowledged, by a clock that shows its timer to be over; it
    /// begins with one packet, as after any timeout (RFC 5681, section 3.1). `times` in a row: each starts the timer
    /// by the clock it was shown, and is behind the next.
    pub fn expire(&mut self, now: Instant, times: u32, output: &mut Vec<Vec<u8>>) {
        const DAY: Duration = Duration::from_secs(24 * 3_600);
        self.egress(now + DAY * times, 1, output);
    }

    /// Asks the other side whether it still knows the connection: with a keep-alive (RFC 9293, section 3.8.4) now and,
    /// unless something comes back, once more after a second. Only a connection that has nothing under way asks.
    pub fn ask(&mut self, now: Instant, output: &mut Vec<Vec<u8>>) {
        if self.state() == State::Established && !self.awaits_acknowledgement() {
            self.socket_mut().set_keep_alive(Some(Duration::from_secs(1)));
            self.egress(now, 1, output);
            // What was set in motion for the second time still comes; after it, nothing.
            self.socket_mut().set_keep_alive(None);
        }
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

    pub fn send_capacity(&self) -> usize {
        self.socket().send_capacity()
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
