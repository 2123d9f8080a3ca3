//! Fetching through a client's proxy: by curl where it is installed, else by our own few lines.

use super::stage::Device;
use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::digest::{Context, SHA256};
use std::{io::Read as _, net::SocketAddr, path::Path, process::Stdio, time::Duration};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// No fetch of the demo takes longer.
const FETCH_WITHIN: Duration = Duration::from_secs(120);

/// What came.
pub struct Fetched {
    /// Which program fetched.
    pub with: String,
    /// How much.
    pub bytes: u64,
    /// SHA-256 of it.
    pub sha256: [u8; 32],
    /// From the start of the fetch to the first byte of the answer.
    pub first_byte: Duration,
    /// From the start of the fetch to its end.
    pub whole: Duration,
}

/// The private page.
pub async fn page(device: &Device, web: SocketAddr) -> anyhow::Result<Fetched> {
    fetch(device, web, "/").await
}

/// Fetches `path` with curl, else by ourselves.
pub async fn fetch(device: &Device, web: SocketAddr, path: &str) -> anyhow::Result<Fetched> {
    match curl_version().await {
        Some(version) => by_curl(device, web, path, version).await,
        None => by_ourselves(device, web, path).await,
    }
}

async fn curl_version() -> Option<String> {
    let output =
        tokio::process::Command::new("curl").arg("--version").stdin(Stdio::null()).output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    Some(format!("{} {}", words.next()?, words.next()?))
}

async fn by_curl(device: &Device, web: SocketAddr, path: &str, version: String) -> anyhow::Result<Fetched> {
    let body = device.state().join(".fetched");
    let proxy = std::fs::read_to_string(device.state().join("proxy-url"))?;
    // The proxy's credential goes through a configuration on standard input, not through arguments.
    let config = format!(
        "proxy = \"{}\"\nurl = \"http://{web}{path}\"\noutput = \"{}\"\nwrite-out = \"%{{http_code}} %{{time_starttransfer}} %{{time_total}} %{{size_download}}\"\nsilent\nshow-error\nmax-time = {}\n",
        proxy.trim(),
        body.display(),
        FETCH_WITHIN.as_secs()
    );
    let mut child = tokio::process::Command::new("curl")
        .args(["--disable", "--noproxy", "", "--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("curl's input")?;
    stdin.write_all(config.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{version}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let figures: Vec<&str> = said.split_whitespace().collect();
    let [code, first, total, size] = figures[..] else { bail!("curl said {said:?}") };
    ensure!(code == "200", "the web site answered {code}");
    let sha256 = hash_file(&body)?;
    let _ = std::fs::remove_file(&body);
    Ok(Fetched {
        with: version,
        bytes: size.parse()?,
        sha256,
        first_byte: Duration::from_secs_f64(first.parse()?),
        whole: Duration::from_secs_f64(total.parse()?),
    })
}

/// Fetches `path` without any other program.
pub async fn by_ourselves(device: &Device, web: SocketAddr, path: &str) -> anyhow::Result<Fetched> {
    let start = crate::process::now();
    let work = async {
        let mut stream = device.proxy()?.connect(&web.ip().to_string(), web.port()).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {web}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let first_byte = start.elapsed();
        ensure!(line.starts_with("HTTP/1.1 200"), "the web site answered {:?}", line.trim());
        while !line.trim().is_empty() {
            line.clear();
            stream.read_line(&mut line).await?;
        }
        let (mut hash, mut bytes, mut chunk) = (Context::new(&SHA256), 0_u64, vec![0; 64 * 1024]);
        loop {
            let read = stream.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
            bytes += read as u64;
        }
        let sha256 = hash.finish().as_ref().try_into().context("SHA-256 has 32 bytes")?;
        let with = format!("tidegate {}", env!("CARGO_PKG_VERSION"));
        Ok(Fetched { with, bytes, sha256, first_byte, whole: start.elapsed() })
    };
    tokio::time::timeout(FETCH_WITHIN, work).await.context("the fetch took too long")?
}

/// SHA-256 of a file.
pub fn hash_file(path: &Path) -> anyhow::Result<[u8; 32]> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut chunk) = (Context::new(&SHA256), vec![0; 1024 * 1024]);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
    }
    hash.finish().as_ref().try_into().context("SHA-256 has 32 bytes")
}
