//! The command line's end of the socket.

use super::{
    Forward, Listen, LocalAnswer, LocalRequest, MAX_LINE, NetcheckAnswer, PingAnswer, ResourceStatus, Status,
    WhyAnswer,
};
use crate::target::Target;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

/// The longest answer waits for a controller: three attempts of 5 s, and twice 9 s for a PoP to show whether it lives.
const DEADLINE: Duration = Duration::from_secs(40);

/// A request to the running client failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No client runs.
    #[error("no client is running here ({} does not answer); start it with `tidegate up`", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Another user's.
    #[error("{} belongs to another user; each user has a client of their own", path.display())]
    NotYours {
        /// The socket.
        path: PathBuf,
    },
    /// It broke.
    #[error("the connection to the client at {} broke", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// Silence.
    #[error("the client did not answer within {} s", DEADLINE.as_secs())]
    Timeout,
    /// It is on its way out.
    #[error("the client is just ending; start it again with `tidegate up`")]
    Ending,
    /// The client refused.
    #[error("{0}")]
    Refused(String),
    /// Not what this version expects.
    #[error("the client answered something that this command does not read ({0}); is it of another version?")]
    Unreadable(String),
}

/// Asks a running client.
#[derive(Debug, Clone)]
pub struct ControlClient {
    path: PathBuf,
}

impl ControlClient {
    /// The client whose run directory this is.
    #[must_use]
    pub fn in_run_dir(run_dir: &Path) -> Self {
        Self { path: run_dir.join(crate::daemon::CONTROL_SOCKET) }
    }

    /// The client behind a socket.
    #[must_use]
    pub const fn at(socket: PathBuf) -> Self {
        Self { path: socket }
    }

    /// Asks.
    ///
    /// # Errors
    /// [`ControlError`]; a refusal of the client is an error too.
    pub async fn ask(&self, request: &LocalRequest) -> Result<LocalAnswer, ControlError> {
        let io = |source: io::Error| ControlError::Io { path: self.path.clone(), source };
        let exchange = async {
            let mut stream = UnixStream::connect(&self.path).await.map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ControlError::NotRunning { path: self.path.clone() }
                }
                io::ErrorKind::PermissionDenied => ControlError::NotYours { path: self.path.clone() },
                _ => io(source),
            })?;
            let mut line = serde_json::to_vec(request).expect("a request has a JSON form");
            line.push(b'\n');
            stream.write_all(&line).await.map_err(io)?;
            let mut answer = Vec::new();
            let bound = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
            BufReader::new(stream.take(bound)).read_until(b'\n', &mut answer).await.map_err(io)?;
            if answer.is_empty() {
                return Err(ControlError::NotYours { path: self.path.clone() });
            }
            serde_json::from_slice(&answer).map_err(|error| ControlError::Unreadable(error.to_string()))
        };
        match timeout(DEADLINE, exchange).await.map_err(|_| ControlError::Timeout)?? {
            LocalAnswer::Error { message } => Err(ControlError::Refused(message)),
            LocalAnswer::Ending => Err(ControlError::Ending),
            answer => Ok(answer),
        }
    }

    /// How everything stands.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn status(&self) -> Result<Status, ControlError> {
        match self.ask(&LocalRequest::Status).await? {
            LocalAnswer::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// What this device may reach.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn resources(&self) -> Result<Vec<ResourceStatus>, ControlError> {
        match self.ask(&LocalRequest::Resources).await? {
            LocalAnswer::Resources { resources } => Ok(resources),
            other => Err(unexpected(&other)),
        }
    }

    /// Why a resource can or cannot be reached.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn why(&self, resource: &str) -> Result<WhyAnswer, ControlError> {
        match self.ask(&LocalRequest::Why { resource: resource.to_owned() }).await? {
            LocalAnswer::Why(why) => Ok(why),
            other => Err(unexpected(&other)),
        }
    }

    /// How long it takes to the connector of a resource and back.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn ping(&self, resource: &str) -> Result<PingAnswer, ControlError> {
        match self.ask(&LocalRequest::Ping { resource: resource.to_owned() }).await? {
            LocalAnswer::Ping(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }

    /// How the network looks from the running client.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn netcheck(&self) -> Result<NetcheckAnswer, ControlError> {
        match self.ask(&LocalRequest::Netcheck).await? {
            LocalAnswer::Netcheck(answer) => Ok(*answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Forwards a local port; gives the ports that are forwarded then.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn forward_add(
        &self,
        listen: impl Into<Listen>,
        target: Target,
    ) -> Result<Vec<Forward>, ControlError> {
        self.forwards(&LocalRequest::ForwardAdd { listen: listen.into(), target }).await
    }

    /// Stops forwarding a local port; gives the ports that are still forwarded.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn forward_remove(&self, listen: impl Into<Listen>) -> Result<Vec<Forward>, ControlError> {
        self.forwards(&LocalRequest::ForwardRemove { listen: listen.into() }).await
    }

    /// The ports that are forwarded.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn forward_list(&self) -> Result<Vec<Forward>, ControlError> {
        self.forwards(&LocalRequest::ForwardList).await
    }

    async fn forwards(&self, request: &LocalRequest) -> Result<Vec<Forward>, ControlError> {
        match self.ask(request).await? {
            LocalAnswer::Forwards { forwards } => Ok(forwards),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for a new grant and certificate now.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn renew(&self) -> Result<(), ControlError> {
        self.ask(&LocalRequest::Renew).await.map(|_| ())
    }

    /// Ends the client.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn down(&self) -> Result<(), ControlError> {
        self.ask(&LocalRequest::Down).await.map(|_| ())
    }
}

fn unexpected(answer: &LocalAnswer) -> ControlError {
    let text = serde_json::to_string(answer).unwrap_or_default();
    ControlError::Unreadable(text.chars().take(80).collect())
}
