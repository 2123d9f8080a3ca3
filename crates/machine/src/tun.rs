//! The interface: made by the guardian, read and written by the worker.

use crate::error::Unavailable;
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};
use tokio::io::{Interest, unix::AsyncFd};

/// IPv6 takes nothing smaller (RFC 8200 section 5), and every path that a tunnel uses carries it: TCP's segment size
/// follows from it by itself.
pub(crate) const MTU: u16 = 1280;
/// Packets that are read in one go.
const BATCH: usize = 64;
/// Room for one packet; longer ones than the MTU do not come.
const ROOM: usize = 2_048;

/// Makes the interface, still down. It is gone when the last descriptor is closed.
pub(crate) fn create(name: &str) -> Result<OwnedFd, Unavailable> {
    // Looked at first: the library would make the device node, and nothing is left changed when this fails.
    if !Path::new("/dev/net/tun").exists() {
        return Err(Unavailable::NoDevice);
    }
    let device = tun_rs::DeviceBuilder::new()
        .name(name)
        .mtu(MTU)
        .enable(false)
        .build_sync()
        .map_err(|source| device_error(name, source))?;
    let fd = device.as_fd().try_clone_to_owned().map_err(|source| device_error(name, source))?;
    // An address that nobody asked for would be a surprise in `ip address`. Not every container lets this be written.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
    Ok(fd)
}

fn device_error(name: &str, source: io::Error) -> Unavailable {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Unavailable::NoCapability,
        io::ErrorKind::ResourceBusy => Unavailable::InterfaceTaken(name.to_owned()),
        // ENXIO, ENODEV, ENOTTY: the node is there, and no driver or another one behind it.
        _ if matches!(source.raw_os_error(), Some(6 | 19 | 25)) => Unavailable::NoDevice,
        _ => Unavailable::Interface { name: name.to_owned(), source },
    }
}

/// The worker's end of the interface.
#[derive(Debug)]
pub struct Tun(AsyncFd<OwnedFd>);

impl Tun {
    /// Takes over a descriptor of the interface.
    ///
    /// # Errors
    /// The runtime cannot wait for it.
    #[expect(
        unsafe_code,
        reason = "the runtime has no safe way to wait for a descriptor of another kind than its own"
    )]
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and `AsyncFd` owns it: it is
        // taken out of the runtime before it is closed.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self(fd))
    }

    /// Waits for packets and takes what is there. May be dropped at any time without losing one.
    ///
    /// # Errors
    /// The interface is gone.
    pub async fn recv(&self, batch: &mut PacketBatch) -> io::Result<()> {
        loop {
            // An interface that somebody removes has an error and nothing to read.
            let mut ready = self.0.ready(Interest::READABLE | Interest::ERROR).await?;
            batch.lengths.clear();
            for room in batch.bytes.chunks_exact_mut(ROOM).take(BATCH) {
                match rustix::io::read(ready.get_inner(), room) {
                    Ok(length) => batch.lengths.push(length),
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(rustix::io::Errno::INTR) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if !batch.lengths.is_empty() {
                return Ok(());
            }
        }
    }

    /// Gives a packet to the machine's own stack. It takes it at once or not at all.
    ///
    /// # Errors
    /// The kernel does not take it: not a packet, or the interface is down.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        rustix::io::write(self.0.get_ref(), packet)?;
        Ok(())
    }
}

/// Packets as they came from the interface.
#[derive(Debug)]
pub struct PacketBatch {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl PacketBatch {
    /// Room for a batch.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: vec![0; BATCH * ROOM], lengths: Vec::with_capacity(BATCH) }
    }

    /// The packets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(ROOM).zip(&self.lengths).map(|(room, length)| &room[..*length])
    }
}

impl Default for PacketBatch {
    fn default() -> Self {
        Self::new()
    }
}
