//! Asking a PoP by STUN (RFC 8489) which address it sees, from a socket of this command's own.

use std::{net::SocketAddr, time::Duration};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout},
};
use wire::{stun_mapped_address, stun_request};

const ATTEMPTS: u32 = 3;
const ANSWER_WITHIN: Duration = Duration::from_millis(700);

/// What a PoP answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// This socket's address as it sees it.
    pub address: SocketAddr,
    /// How long it took.
    pub round_trip: Duration,
}

/// Asks `to`; `None` when nothing came back.
pub async fn ask(socket: &UdpSocket, to: SocketAddr) -> Option<Mapped> {
    for _ in 0..ATTEMPTS {
        let mut transaction = [0; 12];
        aws_lc_rs::rand::fill(&mut transaction).ok()?;
        let sent = Instant::now();
        socket.send_to(&stun_request(transaction), to).await.ok()?;
        let mut buffer = [0; 512];
        let answer = timeout(ANSWER_WITHIN, async {
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.ok()?;
                if from == to
                    && let Some(address) = stun_mapped_address(&buffer[..length], transaction)
                {
                    return Some(address);
                }
            }
        });
        if let Ok(Some(address)) = answer.await {
            return Some(Mapped { address, round_trip: sent.elapsed() });
        }
    }
    None
}

#[cfg(test)]
pub mod tests {
    use std::net::{IpAddr, SocketAddr};

    /// RFC 8489 section 5.
    const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

    /// The answer to a request, as of a server that sees this IPv4 source.
    pub fn answer(request: &[u8], seen: SocketAddr) -> Vec<u8> {
        let IpAddr::V4(ip) = seen.ip() else { panic!("IPv4") };
        let mut answer = vec![1, 1, 0, 12];
        answer.extend_from_slice(&request[4..20]);
        answer.extend_from_slice(&[0x00, 0x20, 0x00, 0x08, 0x00, 0x01]);
        answer.extend_from_slice(&(seen.port() ^ 0x2112).to_be_bytes());
        answer.extend(ip.octets().iter().zip(MAGIC_COOKIE).map(|(byte, mask)| byte ^ mask));
        answer
    }
}
