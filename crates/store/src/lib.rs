//! Where the configuration lives: SQLite or PostgreSQL behind the same domain methods.
//!
//! This crate owns: the schema and its numbered migrations, the rows as types, the configuration
//! transaction (version row, change and audit row commit together), the connections and their deadlines, and the
//! counters of what the database did. It refuses to know: policy, keys' meaning, HTTP, and who may do what;
//! it never makes an id, a secret or a time of its own.
//!
//! The SQL is the subset that both share: `$1` parameters, `RETURNING`, `ON CONFLICT`,
//! `TEXT`, `BIGINT` milliseconds, JSON as `TEXT`. Above [`Store`] nothing knows which engine it is.
//!
//! ```no_run
//! # async fn example() -> Result<(), store::StoreError> {
//! use store::{Opening, Scope, Store};
//! let store = Store::open(std::path::Path::new("tidegate.db"), Opening::CreateIfMissing).await?;
//! let dataset = store.load().await?.expect("bootstrapped");
//! let organization = dataset.organizations[0].organization.id;
//! let mut change = store.change(Scope::Organization(organization), "cli", 1_700_000_000_000).await?;
//! change.rename_organization(organization, "Example Logistics").await?;
//! let version = change.commit("rename", &organization.to_string(), "{}").await?;
//! # let _ = version; Ok(())
//! # }
//! ```

mod accounts;
mod audit;
mod backup;
mod change;
mod cluster;
mod counters;
mod engine;
mod error;
mod location;
mod model;
mod postgres;
mod read;
mod record;
mod row;
mod schema;
mod secret;
mod sqlite;
mod statement;
mod store;
mod touched;
mod trace;
mod watch;

pub use accounts::{Account, AccountLink, NewUsers, OidcIdentity, OidcProvider, Passkey, SignInData};
pub use audit::{AuditEnds, AuditOf, AuditPage, AuditPlace};
pub use backup::{BackupError, BackupSummary, Existing};
pub use change::{AuditHead, Chain, Change, Committed, Kept, Linked, Noted, Scope, Subject};
pub use cluster::{Cluster, Lsn, LsnError, Position, Progress, Sighting, Unplaced};
pub use counters::DatabaseCounters;
pub use error::StoreError;
pub use location::Location;
pub use model::*;
pub use postgres::{PostgresUrl, UrlError};
pub use record::{Happened, StruckGeneration};
pub use secret::SecretHash;
pub use store::{Connections, LONG_CHANGE, Opening, Size, Store};
pub use watch::{EndedSession, Hints, Look, Mark, SignInNotes, UsedCode};
