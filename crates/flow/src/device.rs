//! The link between the kept stack and us: at most one packet in, any number out.

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// What one call of the stack sees of the network.
pub(crate) struct Port<'a> {
    /// The packet that came in, until it is taken.
    pub input: Option<&'a [u8]>,
    /// What the stack wants sent.
    pub output: &'a mut Vec<Vec<u8>>,
    /// The longest packet that the stack may make.
    pub mtu: usize,
}

/// What the stack is told of every port.
fn capabilities(mtu: usize) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    // What comes in was authenticated by WireGuard, byte for byte; what goes out may leave through a
    // kernel that looks.
    capabilities.checksum.ipv4 = Checksum::Tx;
    capabilities.checksum.tcp = Checksum::Tx;
    capabilities
}

impl Device for Port<'_> {
    type RxToken<'t>
        = In<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Out<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(In<'_>, Out<'_>)> {
        let packet = self.input.take()?;
        Some((In(packet), Out(self.output)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        Some(Out(self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.mtu)
    }
}

pub(crate) struct In<'a>(&'a [u8]);

impl RxToken for In<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(crate) struct Out<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}
