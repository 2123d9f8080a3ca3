//! `tidegate demo-site`: the demo's private web site and its TCP service.

use crate::{
    cli::DemoSiteArgs,
    output::{CommandResult, Format, Outcome},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    convert::Infallible,
    fs::File,
    io::Read as _,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

const CHUNK: usize = 64 * 1024;
/// A demo has a handful of connections; a forgotten one ends by itself.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// The page that the demo's resource shows.
const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Harbour office</title>\
<body style=\"font:1.1rem/1.6 system-ui;max-width:36rem;margin:4rem auto;padding:0 1rem\">\
<h1>Harbour office</h1><p>This page is served by a process that listens on a private address only. You \
reached it through a connector, end to end encrypted, because a policy says that your group may.</p>\
<p>Stop the controller and reload: it is still here.</p></body></html>\n";

/// Runs both services until the process is ended.
pub async fn run(args: &DemoSiteArgs, format: Format) -> CommandResult {
    let web = TcpListener::bind(args.web).await?;
    let mut echoes = Vec::with_capacity(args.echo.len());
    for address in &args.echo {
        echoes.push(TcpListener::bind(address).await?);
    }
    let addresses = echoes.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    let mut shutdown = crate::process::Shutdown::listen();
    let ready = serde_json::json!({"event": "ready", "role": "demo-site", "web": web.local_addr()?, "echo": addresses.first(), "echoes": addresses});
    format.print(&ready, || format!("web site on {}, line echo on {addresses:?}", args.web));
    tokio::select! {
        () = serve_web(web, args.file.clone()) => {}
        () = serve_echoes(echoes) => {}
        _ = shutdown.asked() => {}
    }
    Ok(Outcome::Done)
}

async fn serve_web(listener: TcpListener, file: Option<PathBuf>) {
    let file = file.map(Arc::new);
    while let Ok((stream, _)) = listener.accept().await {
        let file = file.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = answer(&request, file.as_deref());
                async move { Ok::<_, Infallible>(answer) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
            let _ = tokio::time::timeout(CONNECTION_LIFE, connection).await;
        });
    }
}

/// What the site sends: bytes at hand, or a file in chunks.
enum Content {
    Bytes(Bytes),
    File(File, u64),
}

impl Body for Content {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let chunk = match &mut *self {
            Self::Bytes(bytes) => std::mem::take(bytes),
            Self::File(file, left) => {
                let mut chunk = vec![0; usize::try_from(*left).unwrap_or(CHUNK).min(CHUNK)];
                // A local file in the page cache: reading it does not block noticeably.
                if let Err(error) = file.read_exact(&mut chunk) {
                    return Poll::Ready(Some(Err(error)));
                }
                *left -= chunk.len() as u64;
                chunk.into()
            }
        };
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, left) => *left,
        })
    }
}

fn answer(request: &Request<Incoming>, file: Option<&PathBuf>) -> Response<Content> {
    let (status, kind, content) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => (StatusCode::OK, "text/html; charset=utf-8", Content::Bytes(PAGE.into())),
        (&Method::GET, "/download") => {
            let opened = file.and_then(|path| {
                let file = File::open(path).ok()?;
                let length = file.metadata().ok()?.len();
                Some(Content::File(file, length))
            });
            match opened {
                Some(content) => (StatusCode::OK, "application/octet-stream", content),
                None => (StatusCode::NOT_FOUND, "text/plain", Content::Bytes("no file\n".into())),
            }
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", Content::Bytes("no such page\n".into())),
    };
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

async fn serve_echoes(listeners: Vec<TcpListener>) {
    let mut all: tokio::task::JoinSet<()> = listeners.into_iter().map(serve_echo).collect();
    while all.join_next().await.is_some() {}
}

async fn serve_echo(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(tokio::time::timeout(CONNECTION_LIFE, async move {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    break;
                }
            }
        }));
    }
}
