//! A SOCKS5 client (RFC 1928, RFC 1929) of twenty lines: what the demo reaches resources with where
//! curl is not installed, and for holding a connection open.

use anyhow::{Context as _, bail, ensure};
use std::path::Path;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A proxy's address and credential, as `proxy-url` in the state directory has them.
pub struct Proxy {
    address: String,
    user: String,
    password: String,
}

/// The proxy refused, with its reply code (RFC 1928 section 6).
#[derive(Debug)]
pub struct Refused(pub u8);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the proxy refused with SOCKS reply {}", self.0)
    }
}

impl std::error::Error for Refused {}

impl Proxy {
    /// Reads `scheme://user:password@host:port`; SOCKS5 and HTTP share the port.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        let (_, rest) = text.trim().split_once("://").context("expected a URL")?;
        let (credential, address) = rest.rsplit_once('@').context("expected a credential")?;
        let (user, password) = credential.split_once(':').context("expected user:password")?;
        Ok(Self { address: address.into(), user: user.into(), password: password.into() })
    }

    /// Opens `host:port` through the proxy.
    pub async fn connect(&self, host: &str, port: u16) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).await.context("the client's proxy")?;
        stream.set_nodelay(true)?;
        stream.write_all(&[5, 1, 2]).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        ensure!(answer == [5, 2], "the proxy wants another way to sign in");
        let mut hello = vec![1];
        for text in [&self.user, &self.password] {
            hello.push(u8::try_from(text.len())?);
            hello.extend_from_slice(text.as_bytes());
        }
        stream.write_all(&hello).await?;
        stream.read_exact(&mut answer).await?;
        ensure!(answer[1] == 0, "the proxy refused the credential");
        let mut request = vec![5, 1, 0, 3, u8::try_from(host.len())?];
        request.extend_from_slice(host.as_bytes());
        request.extend_from_slice(&port.to_be_bytes());
        stream.write_all(&request).await?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        if head[1] != 0 {
            bail!(Refused(head[1]));
        }
        let rest = match head[3] {
            1 => 6,
            4 => 18,
            other => bail!("the proxy answered with address type {other}"),
        };
        stream.read_exact(&mut vec![0; rest]).await?;
        Ok(stream)
    }
}
