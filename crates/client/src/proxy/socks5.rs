//! The server's side of SOCKS 5 (RFC 1928) with user name and password (RFC 1929): CONNECT only.
//!
//! Each read asks for exactly the bytes that the protocol says come next, at most 513 in all, so
//! nothing that belongs to the stream behind is ever taken.

use super::{Admission, ProxyError};
use crate::{
    dial::DialError,
    target::{Host, Target},
};
use std::net::{Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub(super) const VERSION: u8 = 0x05;
const AUTH_VERSION: u8 = 0x01;
const NO_AUTHENTICATION: u8 = 0x00;
const USER_PASSWORD: u8 = 0x02;
const NO_ACCEPTABLE_METHOD: u8 = 0xFF;
const CONNECT: u8 = 0x01;
const REPLY_SUCCEEDED: u8 = 0x00;
const REPLY_GENERAL_FAILURE: u8 = 0x01;
const REPLY_COMMAND_NOT_SUPPORTED: u8 = 0x07;
const REPLY_ADDRESS_TYPE_NOT_SUPPORTED: u8 = 0x08;

/// Takes a client from its greeting to its request. The version byte of the greeting has been read.
pub(super) async fn accept<S>(stream: &mut S, admission: &Admission) -> Result<Target, ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let methods_len = stream.read_u8().await?;
    let mut methods = [0; 255];
    let methods = &mut methods[..usize::from(methods_len)];
    stream.read_exact(methods).await?;
    let wanted = match admission {
        Admission::Open => NO_AUTHENTICATION,
        Admission::Password(_) => USER_PASSWORD,
    };
    // A client of the Unix socket may insist on sending a password: any will do there.
    let chosen = if methods.contains(&wanted) {
        wanted
    } else if matches!(admission, Admission::Open) && methods.contains(&USER_PASSWORD) {
        USER_PASSWORD
    } else {
        stream.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Err(ProxyError::CredentialMissing);
    };
    stream.write_all(&[VERSION, chosen]).await?;
    if chosen == USER_PASSWORD {
        authenticate(stream, admission).await?;
    }
    request(stream).await
}

async fn authenticate<S>(stream: &mut S, admission: &Admission) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if stream.read_u8().await? != AUTH_VERSION {
        return Err(ProxyError::Malformed("the version of RFC 1929 is 1"));
    }
    let (mut user, mut password) = ([0; 255], [0; 255]);
    let user_len = usize::from(stream.read_u8().await?);
    stream.read_exact(&mut user[..user_len]).await?;
    let password_len = usize::from(stream.read_u8().await?);
    stream.read_exact(&mut password[..password_len]).await?;
    let admitted = match admission {
        Admission::Open => true,
        Admission::Password(credential) => credential.admits(&user[..user_len], &password[..password_len]),
    };
    stream.write_all(&[AUTH_VERSION, u8::from(!admitted)]).await?;
    if admitted { Ok(()) } else { Err(ProxyError::CredentialWrong) }
}

async fn request<S>(stream: &mut S) -> Result<Target, ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version, command, reserved, address_type] = head;
    if version != VERSION || reserved != 0 {
        reply(stream, REPLY_GENERAL_FAILURE).await?;
        return Err(ProxyError::Malformed("a SOCKS 5 request starts with 5, command, 0"));
    }
    let host = match address_type {
        0x01 => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await?;
            Ok(Host::Ip(Ipv4Addr::from(octets).into()))
        }
        0x04 => {
            let mut octets = [0; 16];
            stream.read_exact(&mut octets).await?;
            Ok(Host::Ip(std::net::IpAddr::from(Ipv6Addr::from(octets)).to_canonical()))
        }
        0x03 => {
            let mut name = [0; 255];
            let length = usize::from(stream.read_u8().await?);
            stream.read_exact(&mut name[..length]).await?;
            std::str::from_utf8(&name[..length]).ok().and_then(|name| name.parse().ok()).ok_or("no host name")
        }
        _ => {
            reply(stream, REPLY_ADDRESS_TYPE_NOT_SUPPORTED).await?;
            return Err(ProxyError::Malformed("unknown address type"));
        }
    };
    let port = stream.read_u16().await?;
    if command != CONNECT {
        reply(stream, REPLY_COMMAND_NOT_SUPPORTED).await?;
        return Err(ProxyError::Malformed("only CONNECT is served"));
    }
    match host {
        Ok(host) if port != 0 => Ok(Target { host, port }),
        Ok(_) => {
            reply(stream, REPLY_GENERAL_FAILURE).await?;
            Err(ProxyError::Malformed("port 0"))
        }
        Err(problem) => {
            reply(stream, REPLY_GENERAL_FAILURE).await?;
            Err(ProxyError::Malformed(problem))
        }
    }
}

/// Says that the connection stands.
pub(super) async fn succeed<S: AsyncWrite + Unpin>(stream: &mut S) -> std::io::Result<()> {
    reply(stream, REPLY_SUCCEEDED).await
}

/// Says why there is none.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, error: &DialError) -> std::io::Result<()> {
    reply(stream, error.socks_reply()).await
}

async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, code: u8) -> std::io::Result<()> {
    // The bound address means nothing to a client of CONNECT: all zeros.
    stream.write_all(&[VERSION, code, 0, 0x01, 0, 0, 0, 0, 0, 0]).await?;
    stream.flush().await
}
