//! The socket between guardian and worker: frames of a length and a JSON body, and descriptors once, at the
//! beginning.

use crate::{
    message::{FromGuardian, FromWorker, MAX_FRAME, MessageError, SeatFacts},
    site::SiteFacts,
    tun::{PacketBatch, Tun},
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{Ipv6Addr, TcpListener, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Descriptors of a seat: the interface, DNS by UDP, DNS by TCP.
const DESCRIPTORS: usize = 3;
/// What the descriptors travel with: ancillary data needs a byte to go with.
const MARK: u8 = 0x5e;

/// What is wrong with the link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket.
    #[error("the socket between guardian and worker: {0}")]
    Io(#[from] io::Error),
    /// What came by it.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The other side ended.
    #[error("the other side has ended")]
    Ended,
    /// Something else came than has its turn.
    #[error("expected {expected}, and something else came")]
    Unexpected {
        /// What has its turn.
        expected: &'static str,
    },
}

/// Reads frames. Dropping a wait loses nothing.
#[derive(Debug)]
struct Frames {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Frames {
    const fn new(stream: OwnedReadHalf) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    async fn next(&mut self) -> Result<Vec<u8>, LinkError> {
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if length > MAX_FRAME {
                    return Err(MessageError::TooLong(length).into());
                }
                if rest.len() >= length {
                    let body = rest[..length].to_vec();
                    self.buffer.drain(..4 + length);
                    return Ok(body);
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(LinkError::Ended);
            }
        }
    }
}

async fn write(stream: &mut OwnedWriteHalf, message: &impl serde::Serialize) -> Result<(), LinkError> {
    let body = serde_json::to_vec(message).map_err(MessageError::from)?;
    let length = u32::try_from(body.len()).map_err(|_| MessageError::TooLong(body.len()))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await?;
    Ok(())
}

/// The guardian's end.
#[derive(Debug)]
pub(crate) struct GuardianEnd {
    frames: Frames,
    stream: OwnedWriteHalf,
}

impl GuardianEnd {
    /// A pair: this end, and what becomes the worker's standard input.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        Ok((Self { frames: Frames::new(reader), stream: writer }, theirs.into()))
    }

    pub async fn recv(&mut self) -> Result<FromWorker, LinkError> {
        Ok(FromWorker::parse(&self.frames.next().await?)?)
    }

    pub async fn send(&mut self, message: &FromGuardian) -> Result<(), LinkError> {
        write(&mut self.stream, message).await
    }

    /// Gives the seat: descriptors first, so that the worker takes them before it reads on.
    pub async fn give_seat(
        &mut self,
        facts: SeatFacts,
        fds: [BorrowedFd<'_>; DESCRIPTORS],
    ) -> Result<(), LinkError> {
        give(self.stream.as_ref(), &fds).await?;
        self.send(&FromGuardian::Seat(facts)).await
    }

    /// The same for a connector's worker, which needs the interface alone.
    pub async fn give_site(&mut self, facts: &SiteFacts, tun: BorrowedFd<'_>) -> Result<(), LinkError> {
        give(self.stream.as_ref(), &[tun]).await?;
        write(&mut self.stream, facts).await
    }

    /// Resolves when the worker's end is closed: a connector's worker says nothing.
    pub async fn ended(&mut self) {
        while self.frames.next().await.is_ok() {}
    }
}

/// Sends at most as many descriptors as a seat has.
async fn give(stream: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
            sendmsg(stream, &[IoSlice::new(&[MARK])], &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

/// What the guardian says to the worker.
#[derive(Debug)]
pub struct GuardianSays(Frames);

impl GuardianSays {
    /// The next message. Dropping the wait loses nothing.
    ///
    /// # Errors
    /// [`LinkError::Ended`] when the guardian is gone: then the worker has to go, too.
    pub async fn recv(&mut self) -> Result<FromGuardian, LinkError> {
        Ok(FromGuardian::parse(&self.0.next().await?)?)
    }
}

/// What the worker says to the guardian.
#[derive(Debug)]
pub struct WorkerVoice(OwnedWriteHalf);

impl WorkerVoice {
    /// Says it.
    ///
    /// # Errors
    /// The guardian is gone.
    pub async fn say(&mut self, message: &FromWorker) -> Result<(), LinkError> {
        write(&mut self.0, message).await
    }
}

/// What a worker has of the machine.
#[derive(Debug)]
pub struct Seat {
    /// What goes with the descriptors.
    pub facts: SeatFacts,
    /// The interface.
    pub tun: Tun,
    /// DNS questions by UDP, on the interface's own address.
    pub dns_udp: UdpSocket,
    /// DNS questions by TCP, on the same.
    pub dns_tcp: TcpListener,
    /// What the guardian says.
    pub says: GuardianSays,
    /// What it is told.
    pub voice: WorkerVoice,
}

/// Takes the seat that the guardian offers on standard input. `v6` is the device's own address inside tunnels.
///
/// # Errors
/// Standard input is no guardian's socket, or the guardian says something else.
pub async fn take_seat(v6: Ipv6Addr) -> Result<Seat, LinkError> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    sit_down(StdUnixStream::from(socket), v6).await
}

async fn sit_down(stream: StdUnixStream, v6: Ipv6Addr) -> Result<Seat, LinkError> {
    stream.set_nonblocking(true)?;
    let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
    write(&mut writer, &FromWorker::Hello { v6 }).await?;
    let stream: &UnixStream = reader.as_ref();
    let fds = stream.async_io(Interest::READABLE, || receive(stream.as_fd())).await?;
    let fds = fds.and_then(|fds| <[OwnedFd; DESCRIPTORS]>::try_from(fds).ok());
    let [tun, udp, tcp] = fds.ok_or(LinkError::Unexpected { expected: "the interface's descriptors" })?;
    let mut frames = Frames::new(reader);
    let FromGuardian::Seat(facts) = FromGuardian::parse(&frames.next().await?)? else {
        return Err(LinkError::Unexpected { expected: "the interface's description" });
    };
    let (dns_udp, dns_tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
    dns_udp.set_nonblocking(true)?;
    dns_tcp.set_nonblocking(true)?;
    Ok(Seat {
        tun: Tun::new(tun, facts.offload)?,
        facts,
        dns_udp,
        dns_tcp,
        says: GuardianSays(frames),
        voice: WorkerVoice(writer),
    })
}

/// What a connector in kernel mode has of the machine.
#[derive(Debug)]
pub struct SiteSeat {
    /// What goes with the descriptor.
    pub facts: SiteFacts,
    /// The interface.
    pub tun: Tun,
    frames: Frames,
    _voice: OwnedWriteHalf,
}

impl SiteSeat {
    /// Waits for packets and takes what is there. Dropping the wait loses nothing.
    ///
    /// # Errors
    /// The interface is gone, or the guardian is: then nobody would put the machine right, and the worker has to go, too.
    pub async fn recv(&mut self, batch: &mut PacketBatch) -> io::Result<()> {
        tokio::select! {
            received = self.tun.recv(batch) => received,
            _ = self.frames.next() => Err(io::Error::other("the guardian is gone")),
        }
    }
}

/// Takes the seat that a connector's guardian offers on standard input.
///
/// # Errors
/// Standard input is no guardian's socket, or the guardian says something else.
pub async fn take_site_seat() -> Result<SiteSeat, LinkError> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    sit_down_in_site(StdUnixStream::from(socket)).await
}

async fn sit_down_in_site(stream: StdUnixStream) -> Result<SiteSeat, LinkError> {
    stream.set_nonblocking(true)?;
    let (reader, voice) = UnixStream::from_std(stream)?.into_split();
    let stream: &UnixStream = reader.as_ref();
    let fds = stream.async_io(Interest::READABLE, || receive(stream.as_fd())).await?;
    let fds = fds.and_then(|fds| <[OwnedFd; 1]>::try_from(fds).ok());
    let [tun] = fds.ok_or(LinkError::Unexpected { expected: "the interface's descriptor" })?;
    let mut frames = Frames::new(reader);
    let facts: SiteFacts = serde_json::from_slice(&frames.next().await?).map_err(MessageError::from)?;
    Ok(SiteSeat { tun: Tun::new(tun, facts.offload)?, facts, frames, _voice: voice })
}

/// The descriptors that came with the mark. More than there is room for are closed by the kernel.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut mark = [0];
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut mark)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes != 1 || mark != [MARK] {
        return Ok(None);
    }
    Ok(Some(fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Applied, DnsMode, DnsStanding, Network};
    use std::time::Duration;

    fn facts() -> SeatFacts {
        SeatFacts {
            interface: "tun9".into(),
            guardian: 1,
            v4: "100.64.0.2".parse().unwrap(),
            v6: None,
            offload: crate::Offload::None,
            synthetic_v4: "100.97.0.0/16".parse().unwrap(),
            synthetic_v6: "fd7a:7467:6e61::/96".parse().unwrap(),
            notes: vec![],
        }
    }

    #[tokio::test]
    async fn a_seat_arrives_with_its_descriptors_and_both_sides_talk() {
        let (mut guardian, theirs) = GuardianEnd::pair().unwrap();
        let v6 = "fd00::7".parse().unwrap();
        let worker = tokio::spawn(sit_down(StdUnixStream::from(theirs), v6));
        assert_eq!(guardian.recv().await.unwrap(), FromWorker::Hello { v6 });
        // Any descriptor that can be waited for stands for the interface here.
        let (stands_for_tun, _other) = StdUnixStream::pair().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let fds = [stands_for_tun.as_fd(), udp.as_fd(), tcp.as_fd()];
        guardian.give_seat(facts(), fds).await.unwrap();
        let mut seat = worker.await.unwrap().unwrap();
        assert_eq!(seat.facts, facts());
        assert_eq!(seat.dns_udp.local_addr().unwrap(), udp.local_addr().unwrap());
        assert_eq!(seat.dns_tcp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let wanted = FromWorker::Network(Network::default());
        seat.voice.say(&wanted).await.unwrap();
        assert_eq!(guardian.recv().await.unwrap(), wanted);
        let standing =
            DnsStanding { mode: DnsMode::Off, upstreams: vec![], search: vec![], rewritten: 0, note: None };
        let applied = FromGuardian::Applied(Applied { routes: vec![], conflicts: vec![], dns: standing });
        guardian.send(&applied).await.unwrap();
        assert_eq!(seat.says.recv().await.unwrap(), applied);
        drop(guardian);
        assert!(matches!(seat.says.recv().await, Err(LinkError::Ended)));
    }

    #[tokio::test]
    async fn a_frame_that_claims_to_be_too_long_is_refused_before_it_is_read() {
        let (mut guardian, theirs) = GuardianEnd::pair().unwrap();
        let mut theirs = StdUnixStream::from(theirs);
        io::Write::write_all(&mut theirs, &u32::MAX.to_be_bytes()).unwrap();
        let refused = tokio::time::timeout(Duration::from_secs(5), guardian.recv()).await.unwrap();
        assert!(matches!(refused, Err(LinkError::Message(MessageError::TooLong(_)))));
    }

    #[tokio::test]
    async fn a_worker_that_gets_no_descriptors_says_so() {
        let (guardian, theirs) = GuardianEnd::pair().unwrap();
        let worker = tokio::spawn(sit_down(StdUnixStream::from(theirs), Ipv6Addr::LOCALHOST));
        let stream: &UnixStream = guardian.stream.as_ref();
        stream.writable().await.unwrap();
        stream.try_write(&[MARK]).unwrap();
        assert!(matches!(worker.await.unwrap(), Err(LinkError::Unexpected { .. })));
    }

    #[tokio::test]
    async fn a_connectors_worker_gets_the_interface_and_hears_of_its_guardians_end() {
        let (mut guardian, theirs) = GuardianEnd::pair().unwrap();
        let worker = tokio::spawn(sit_down_in_site(StdUnixStream::from(theirs)));
        let facts = SiteFacts {
            interface: "tidesite0".into(),
            guardian: 7,
            v4: "100.127.254.2".parse().unwrap(),
            v6: None,
            offload: crate::Offload::None,
            notes: vec![],
        };
        let (pipe, _other) = StdUnixStream::pair().unwrap();
        guardian.give_site(&facts, pipe.as_fd()).await.unwrap();
        let mut seat = worker.await.unwrap().unwrap();
        assert_eq!(seat.facts, facts);
        drop(guardian);
        let mut batch = PacketBatch::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), seat.recv(&mut batch)).await.unwrap();
        assert!(ended.unwrap_err().to_string().contains("guardian"));
    }
}
