//! A runtime for what the network asks, with threads of its own: the kernel shares the cores between it and the one in which
//! sessions to PoPs live.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

/// After so many steps of work the sockets and timers are looked at. A step may be a list of two hundred, a millisecond; the
/// usual 61 of them would keep whoever has just come waiting.
const LOOKS_AFTER: u32 = 7;

/// The runtime. Dropped, whatever it still does ends.
#[derive(Debug)]
pub(crate) struct Apart(Option<Runtime>);

impl Apart {
    /// Starts its threads, one a core.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("controller-http")
            .event_interval(LOOKS_AFTER)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until it is dropped")
    }

    /// Moves a listener here.
    pub(super) fn tcp(&self, listener: Option<TcpListener>) -> io::Result<Option<TcpListener>> {
        let listener = listener.map(TcpListener::into_std).transpose()?;
        let _here = self.runtime().enter();
        listener.map(TcpListener::from_std).transpose()
    }

    /// The same of a Unix socket.
    pub(super) fn unix(&self, listener: Option<UnixListener>) -> io::Result<Option<UnixListener>> {
        let listener = listener.map(UnixListener::into_std).transpose()?;
        let _here = self.runtime().enter();
        listener.map(UnixListener::from_std).transpose()
    }

    /// Runs it here, until it ends or what is returned is dropped.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Spawned {
        Spawned(self.runtime().spawn(work))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It waits for nobody: a runtime may be dropped inside another one.
            runtime.shutdown_background();
        }
    }
}

/// Work there.
pub(super) struct Spawned(JoinHandle<()>);

impl Future for Spawned {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|ended| {
            // A listener that panicked is no reason to go on without one.
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.0.abort();
    }
}
