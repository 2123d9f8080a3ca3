//! A cable that loses packets and is long: two interfaces of one namespace, and this process between them. Which
//! packet goes is decided by a seed and the packet's number in its direction, so that a run can be had again.

use crate::process::Interrupt;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use std::{
    ffi::CString,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// A network header of the kernel's (virtio 1.1, section 5.1.6) and the largest frame it hands over.
const LARGEST: usize = 10 + 65_536 + 14;
/// Options of packet sockets that the libc crate lacks (linux/if_packet.h).
const PACKET_VNET_HDR: i32 = 15;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// EtherType of ARP: neighbours are found on a cable that is good enough for that.
const ARP: [u8; 2] = [0x08, 0x06];
/// Packets on their way in one direction of a long cable: 100 ms of 1 Gbit/s in packets of 1,500 bytes.
const UNDER_WAY: usize = 8_192;
/// How often a direction without packets looks whether it shall end.
const TICK: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 50_000 };

/// What a lossy cable is told.
#[derive(Debug, Args)]
pub struct LossyLink {
    /// One end.
    #[arg(long)]
    one: String,
    /// The other end.
    #[arg(long)]
    other: String,
    /// Of a hundred packets in each direction, how many are lost.
    #[arg(long)]
    percent: u8,
    /// What decides which.
    #[arg(long)]
    seed: u64,
    /// How long each packet is on its way, in each direction.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

/// Passes frames until it is asked to end.
///
/// # Errors
/// The interfaces cannot be opened, or the end.
pub fn run(link: &LossyLink, interrupt: &Interrupt) -> Result<()> {
    ensure!(link.percent <= 100, "--percent: at most 100");
    let (one, other) = (open(&link.one)?, open(&link.other)?);
    let delay = Duration::from_millis(link.delay_ms);
    let there = Direction::new(one.try_clone()?, other.try_clone()?, link.percent, link.seed, delay);
    let back = Direction::new(other, one, link.percent, !link.seed, delay);
    println!("link up");
    let stop = interrupt.clone();
    let back = thread::spawn(move || back.run(&stop));
    let there = there.run(interrupt)?;
    let back = back.join().ok().context("a direction of the link panicked")??;
    println!("lost {} of {} and {} of {}", there.lost, there.seen, back.lost, back.seen);
    Ok(())
}

struct Direction {
    from: File,
    to: Sink,
    percent: u8,
    state: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    seen: u64,
    lost: u64,
}

impl Direction {
    fn new(from: File, to: File, percent: u8, seed: u64, delay: Duration) -> Self {
        // Zero is the one state that the generator never leaves.
        Self { from, to: Sink::new(to, delay), percent, state: seed | 1 << 63 }
    }

    fn run(mut self, interrupt: &Interrupt) -> Result<Counted> {
        let mut buffer = vec![0; LARGEST];
        let mut counted = Counted::default();
        while interrupt.check().is_ok() {
            let length = match self.from.read(&mut buffer) {
                Ok(length) => length,
                // Nothing came within a tick.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Err(error).context("reading from the cable"),
            };
            let frame = &buffer[..length];
            // After the kernel's header: two addresses, then the EtherType.
            let ether_type = frame.get(10 + 12..10 + 14).unwrap_or_default();
            if ether_type != ARP {
                counted.seen += 1;
                if self.loses() {
                    counted.lost += 1;
                    continue;
                }
            }
            self.to.send(frame);
        }
        Ok(counted)
    }

    /// xorshift64* (Marsaglia 2003), its best bits.
    fn loses(&mut self) -> bool {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let drawn = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        // drawn / 2^32 < percent / 100
        drawn * 100 < u64::from(self.percent) << 32
    }
}

/// The other end of a direction, at once or after a time that is the same for every packet.
enum Sink {
    Near(File),
    Far { delay: Duration, under_way: mpsc::SyncSender<(Instant, Vec<u8>)> },
}

impl Sink {
    fn new(mut to: File, delay: Duration) -> Self {
        if delay.is_zero() {
            return Self::Near(to);
        }
        let (under_way, arrivals) = mpsc::sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        thread::spawn(move || {
            for (due, frame) in arrivals {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let _ = to.write(&frame);
            }
        });
        Self::Far { delay, under_way }
    }

    /// A full queue on the other side is one more loss, as on any cable.
    fn send(&mut self, frame: &[u8]) {
        match self {
            Self::Near(to) => drop(to.write(frame)),
            Self::Far { delay, under_way } => {
                drop(under_way.try_send((Instant::now() + *delay, frame.to_vec())));
            }
        }
    }
}

/// A packet socket on one interface that sees what comes in, with the kernel's notes on checksums: a frame
/// whose checksum the sender left to the card must leave on the other side with the same note.
#[expect(unsafe_code, reason = "std has no packet sockets")]
fn open(interface: &str) -> Result<File> {
    let name = CString::new(interface)?;
    // SAFETY: a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no interface {interface}");
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: three integers; the result is checked before use.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
    ensure!(raw >= 0, "no packet socket: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, &1i32)?;
    option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1i32)?;
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &TICK)?;
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(8 * 1024 * 1024i32))?;
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(index)?;
    // SAFETY: a sockaddr_ll of its own size.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    ensure!(bound == 0, "cannot bind to {interface}: {}", std::io::Error::last_os_error());
    Ok(File::from(socket))
}

#[expect(unsafe_code, reason = "std has no such options")]
fn option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> Result<()> {
    // SAFETY: the value lives through the call, and its size is said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    ensure!(set == 0, "option {name} of a packet socket: {}", std::io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(percent: u8, seed: u64) -> Direction {
        let nothing = || File::open("/dev/null").expect("/dev/null");
        Direction::new(nothing(), nothing(), percent, seed, Duration::ZERO)
    }

    #[test]
    fn about_as_many_are_lost_as_was_said() {
        for percent in [0, 1, 10, 30, 100] {
            let mut link = direction(percent, 7);
            let lost = (0..100_000).filter(|_| link.loses()).count();
            let said = usize::from(percent) * 1000;
            assert!(lost.abs_diff(said) < 500, "{percent} %: {lost} of 100000");
        }
    }

    #[test]
    fn a_long_cable_delivers_in_order_and_late() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(File::from(OwnedFd::from(writer)), Duration::from_millis(60));
        let began = Instant::now();
        sink.send(b"a");
        sink.send(b"b");
        let mut came = [0; 2];
        reader.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"ab");
        assert!(began.elapsed() >= Duration::from_millis(60));
    }

    #[test]
    fn the_same_seed_loses_the_same_packets() {
        let drawn = |seed| {
            let mut link = direction(10, seed);
            (0..1000).map(|_| link.loses()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(3), drawn(3));
        assert_ne!(drawn(3), drawn(4));
    }
}
