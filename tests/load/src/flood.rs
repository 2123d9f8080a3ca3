//! Datagrams from everywhere, as fast as wanted, in a thread of their own.

use anyhow::Result;
use std::{
    io,
    mem::{size_of, zeroed},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Datagrams in one system call.
const BATCH: usize = 64;
/// Room for one `in_pktinfo` with its header.
const CONTROL: usize = 64;

/// What to send, from where, how fast.
#[derive(Debug, Clone)]
pub struct FloodPlan {
    /// Sent in turn.
    pub datagrams: Vec<Vec<u8>>,
    /// The first source; they are taken in turn.
    pub first: Ipv4Addr,
    /// How many sources.
    pub sources: u32,
    /// Where to.
    pub to: SocketAddrV4,
    /// Datagrams a second; none: as many as the core can.
    pub per_second: Option<u64>,
}

/// A flood under way.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flood {
    /// Begins.
    ///
    /// # Errors
    /// No socket or thread.
    pub fn start(plan: FloodPlan) -> Result<Self> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_over, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let thread = thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || send_until(&plan, &socket, &is_over, &counter))?;
        Ok(Self { stop, sent, thread })
    }

    /// Datagrams sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it; how many were sent.
    ///
    /// # Errors
    /// It ended before with an error.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??;
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

#[expect(unsafe_code, reason = "no safe wrapper of sendmmsg with a source for each datagram")]
fn send_until(plan: &FloodPlan, socket: &UdpSocket, over: &AtomicBool, sent: &AtomicU64) -> io::Result<()> {
    // SAFETY: sockaddr_in is plain data; all zero is a valid value.
    let mut to: libc::sockaddr_in = unsafe { zeroed() };
    to.sin_family = u16::try_from(libc::AF_INET).expect("a small number");
    to.sin_port = plan.to.port().to_be();
    to.sin_addr.s_addr = u32::from(*plan.to.ip()).to_be();
    let mut controls = [Control([0; CONTROL]); BATCH];
    let mut slices = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: as above, an array of plain data.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    let began = Instant::now();
    let mut turn: u64 = 0;
    while !over.load(Ordering::Relaxed) {
        if let Some(rate) = plan.per_second {
            let owed = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX) / 100 * rate / 10_000;
            if turn >= owed {
                thread::sleep(Duration::from_micros(500));
                continue;
            }
        }
        for index in 0..BATCH {
            let number = turn + index as u64;
            let datagram = &plan.datagrams[usize::try_from(number).unwrap_or(0) % plan.datagrams.len()];
            let offset = u32::try_from(number % u64::from(plan.sources)).expect("below a u32");
            slices[index] =
                libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
            let header = &mut messages[index].msg_hdr;
            header.msg_name = (&raw mut to).cast();
            header.msg_namelen = u32::try_from(size_of::<libc::sockaddr_in>()).expect("16 bytes");
            header.msg_iov = &raw mut slices[index];
            header.msg_iovlen = 1;
            header.msg_control = controls[index].0.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE and CMSG_LEN only compute. The control buffer is aligned as a cmsghdr, has room for one
            // with an in_pktinfo (32 of 64 bytes), and CMSG_FIRSTHDR and CMSG_DATA stay within it.
            unsafe {
                let length = u32::try_from(size_of::<libc::in_pktinfo>()).expect("12 bytes");
                header.msg_controllen = usize::try_from(libc::CMSG_SPACE(length)).expect("32 bytes");
                let control = libc::CMSG_FIRSTHDR(&raw const *header);
                (*control).cmsg_level = libc::IPPROTO_IP;
                (*control).cmsg_type = libc::IP_PKTINFO;
                (*control).cmsg_len = usize::try_from(libc::CMSG_LEN(length)).expect("28 bytes");
                let from = u32::from(plan.first).wrapping_add(offset);
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: from.to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                libc::CMSG_DATA(control).cast::<libc::in_pktinfo>().write_unaligned(info);
            }
        }
        // SAFETY: `messages` and everything they point to (address, slices, datagrams of the plan, control buffers)
        // live in this frame or behind `plan`, and the kernel only reads them.
        let done = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), u32::try_from(BATCH).expect("64"), 0)
        };
        match u64::try_from(done) {
            Ok(done) => {
                turn += done;
                sent.fetch_add(done, Ordering::Relaxed);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    // The queue is full, or an ICMP message of an earlier datagram: both belong to a flood.
                    Some(libc::ENOBUFS | libc::EAGAIN | libc::ECONNREFUSED | libc::EINTR) => {}
                    _ => return Err(error),
                }
            }
        }
    }
    Ok(())
}
