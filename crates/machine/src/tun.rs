//! The interface: made by the guardian, read and written by the worker.

use crate::{
    error::Unavailable,
    offload::{Coalescer, Offload, cut},
};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};
use tokio::io::{Interest, unix::AsyncFd};

/// IPv6 takes nothing smaller (RFC 8200 section 5), and every path that a tunnel uses carries it: TCP's segment size
/// follows from it by itself.
pub(crate) const MTU: u16 = 1280;
/// Packets that are read in one go: two long ones of ordinary segments.
const BATCH: usize = 192;
/// Parts of one long packet that there has to be room for: 64 KiB in segments of 536 bytes (RFC 9293 section 3.7.1).
const PARTS: usize = 128;
/// Packets that come one by one and are read in one go.
const SINGLES: usize = 64;
/// Room for one packet; longer ones than the MTU do not come.
const ROOM: usize = 2_048;
/// A long packet and what is in front of it.
const WHOLE: usize = 65_535 + tun_rs::VIRTIO_NET_HDR_LEN;

/// Makes the interface, still down, and says what its packets come with. It is gone when the last descriptor is closed.
pub(crate) fn create(name: &str, mtu: u16) -> Result<(OwnedFd, Offload), Unavailable> {
    // Looked at first: the library would make the device node, and nothing is left changed when this fails.
    if !Path::new("/dev/net/tun").exists() {
        return Err(Unavailable::NoDevice);
    }
    let build = |offload| {
        tun_rs::DeviceBuilder::new().name(name).mtu(mtu).enable(false).offload(offload).build_sync()
    };
    // A kernel without it carries one packet a call, as any did before.
    let device = build(true)
        .or_else(|error| if error.raw_os_error() == Some(22) { build(false) } else { Err(error) })
        .map_err(|source| device_error(name, source))?;
    let offload = match (device.tcp_gso(), device.udp_gso()) {
        (false, _) => Offload::None,
        (true, false) => Offload::Tcp,
        (true, true) => Offload::TcpAndUdp,
    };
    let fd = device.as_fd().try_clone_to_owned().map_err(|source| device_error(name, source))?;
    // An address that nobody asked for would be a surprise in `ip address`. Not every container lets this be written.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
    Ok((fd, offload))
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
pub struct Tun {
    fd: AsyncFd<OwnedFd>,
    offload: Offload,
}

impl Tun {
    /// Takes over a descriptor of the interface.
    ///
    /// # Errors
    /// The runtime cannot wait for it.
    #[expect(
        unsafe_code,
        reason = "the runtime has no safe way to wait for a descriptor of another kind than its own"
    )]
    pub fn new(fd: OwnedFd, offload: Offload) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and `AsyncFd` owns it: it is
        // taken out of the runtime before it is closed.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, offload })
    }

    /// Waits for packets and takes what is there. May be dropped at any time without losing one.
    ///
    /// # Errors
    /// The interface is gone.
    pub async fn recv(&self, batch: &mut PacketBatch) -> io::Result<()> {
        loop {
            // An interface that somebody removes has an error and nothing to read.
            let mut ready = self.fd.ready(Interest::READABLE | Interest::ERROR).await?;
            batch.count = 0;
            let mut reads = 0;
            while reads < SINGLES && batch.has_room(self.offload) {
                reads += 1;
                match batch.read(ready.get_inner(), self.offload) {
                    Ok(()) => {}
                    Err(rustix::io::Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(rustix::io::Errno::INTR) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if batch.count > 0 {
                return Ok(());
            }
        }
    }

    /// Gives packets to the machine's own stack, those of one flow together where it takes them so. It takes each at once
    /// or not at all; how many calls it refused: not a packet, or the interface is down.
    pub fn send<P: AsRef<[u8]>>(&self, packets: &[P], coalescer: &mut Coalescer) -> usize {
        let mut refused = 0;
        coalescer.each(packets, self.offload, |bytes| {
            if rustix::io::write(self.fd.get_ref(), bytes).is_err() {
                refused += 1;
            }
        });
        refused
    }
}

/// Packets as they came from the interface.
#[derive(Debug)]
pub struct PacketBatch {
    rooms: Vec<Vec<u8>>,
    lengths: Vec<usize>,
    count: usize,
    whole: Vec<u8>,
    /// What the kernel gave and nobody reads.
    unreadable: u64,
}

impl PacketBatch {
    /// Room for a batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rooms: vec![vec![0; ROOM]; BATCH],
            lengths: vec![0; BATCH],
            count: 0,
            whole: vec![0; WHOLE],
            unreadable: 0,
        }
    }

    fn has_room(&self, offload: Offload) -> bool {
        self.count + if offload.has_header() { PARTS } else { 1 } <= BATCH
    }

    fn read(&mut self, fd: &OwnedFd, offload: Offload) -> rustix::io::Result<()> {
        let (rooms, lengths) = (&mut self.rooms[self.count..], &mut self.lengths[self.count..]);
        if !offload.has_header() {
            lengths[0] = rustix::io::read(fd, &mut rooms[0])?;
            self.count += 1;
            return Ok(());
        }
        let length = rustix::io::read(fd, &mut self.whole)?;
        match cut(&mut self.whole[..length], rooms, lengths) {
            Ok(count) => self.count += count,
            Err(_) => self.unreadable += 1,
        }
        Ok(())
    }

    /// The packets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.rooms.iter().zip(&self.lengths).take(self.count).map(|(room, length)| &room[..*length])
    }

    /// How many long packets nobody could read, since the start.
    #[must_use]
    pub const fn unreadable(&self) -> u64 {
        self.unreadable
    }
}

impl Default for PacketBatch {
    fn default() -> Self {
        Self::new()
    }
}
