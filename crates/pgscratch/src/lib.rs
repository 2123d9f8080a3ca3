//! A real PostgreSQL of one's own, for tests and drills: made from the installed server programs, in a directory of its own, on a
//! loopback port and a Unix socket, gone when its process is gone.
//!
//! This crate owns: finding the programs, making a cluster, starting, freezing, killing and ending the server. It refuses
//! to know: who uses it, and any SQL beyond making roles and databases. When PostgreSQL is not installed it is an error
//! that says how to install it, never a reason to leave a test out.
//!
//! ```no_run
//! let cluster = pgscratch::Cluster::start()?;
//! let url = cluster.database("orders")?;
//! assert!(url.starts_with("postgres://tidegate:"));
//! # Ok::<(), pgscratch::ScratchError>(())
//! ```

mod cluster;
mod programs;
mod tree;

pub use cluster::{Cluster, Settings};
pub use programs::programs;

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// Nothing to start.
    #[error(
        "PostgreSQL's server programs are not installed (looked for initdb in /usr/lib/postgresql/*/bin and on the \
         path): apt-get install postgresql"
    )]
    NotInstalled,
    /// PostgreSQL refuses to run as root.
    #[error(
        "running as root, and there is no user postgres to run the server as: apt-get install postgresql"
    )]
    NoUser,
    /// A program did not do what it should.
    #[error("{program} failed: {said}")]
    Program {
        /// Which.
        program: String,
        /// Its last words.
        said: String,
    },
    /// The server did not come up.
    #[error("PostgreSQL did not answer within {0} s; its log says: {1}")]
    Silent(u64, String),
    /// The machine.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] std::io::Error),
}
