//! The running client's end of the socket.

use super::{LocalAnswer, LocalRequest, MAX_REQUEST};
use crate::daemon::Hub;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

/// Requests at once.
const MAX_REQUESTS: usize = 32;
/// How long a request may take to be written.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Serves the socket until dropped.
pub(crate) async fn serve(listener: UnixListener, uid: u32, hub: Arc<Hub>) {
    let slots = Arc::new(Semaphore::new(MAX_REQUESTS));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let hub = hub.clone();
                tasks.spawn(async move {
                    if let Err(error) = answer(stream, uid, &hub).await {
                        tracing::debug!(%error, "a request of the command line broke off");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::info!(%error, "a request of the command line was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, uid: u32, hub: &Hub) -> io::Result<()> {
    // Root may look at any user's client; everybody else only at their own.
    let peer = stream.peer_cred()?.uid();
    if peer != uid && peer != 0 {
        return Ok(());
    }
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let bound = u64::try_from(MAX_REQUEST).unwrap_or(u64::MAX);
    let mut reader = BufReader::new(reader.take(bound));
    match timeout(REQUEST_DEADLINE, reader.read_until(b'\n', &mut line)).await {
        Ok(result) => result?,
        Err(_) => return Ok(()),
    };
    let answer = match serde_json::from_slice::<LocalRequest>(&line) {
        Ok(request) => hub.answer(request).await,
        Err(error) => {
            LocalAnswer::Error { message: format!("expected a request as one JSON object: {error}") }
        }
    };
    let mut text = serde_json::to_vec(&answer).expect("an answer has a JSON form");
    text.push(b'\n');
    writer.write_all(&text).await?;
    writer.shutdown().await
}
