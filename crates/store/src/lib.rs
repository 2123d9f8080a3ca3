//! Where the configuration lives: SQLite behind domain methods.
//!
//! This crate owns: the schema and its numbered migrations, the rows as types, the configuration
//! transaction (version row, change and audit row commit together), and the counters that
//! SQLite's own trace keeps. It refuses to know: policy, keys' meaning, HTTP, and who may do what;
//! it never makes an id, a secret or a time of its own.
//!
//! The SQL is the subset that PostgreSQL shares: `$1` parameters, `RETURNING`, `ON CONFLICT`,
//! `TEXT`, `BIGINT` milliseconds, JSON as `TEXT`.
//!
//! ```no_run
//! # async fn example() -> Result<(), store::StoreError> {
//! use store::{Opening, Scope, Store};
//! let store = Store::open("tidegate.db".as_ref(), Opening::CreateIfMissing).await?;
//! let dataset = store.load().await?.expect("bootstrapped");
//! let organization = dataset.organizations[0].organization.id;
//! let mut change = store.change(Scope::Organization(organization), "cli", 1_700_000_000_000).await?;
//! change.rename_organization(organization, "Example Logistics").await?;
//! let version = change.commit("rename", &organization.to_string(), "{}").await?;
//! # let _ = version; Ok(())
//! # }
//! ```

mod change;
mod error;
mod model;
mod read;
mod record;
mod row;
mod secret;
mod sqlite;
mod trace;

pub use change::{Change, Scope, Subject};
pub use error::StoreError;
pub use model::*;
pub use read::{AuditOf, AuditPage};
pub use record::{Happened, StruckGeneration};
pub use secret::SecretHash;
pub use sqlite::{Opening, Store};
pub use trace::DatabaseCounters;
