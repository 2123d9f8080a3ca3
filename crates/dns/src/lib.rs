//! Split DNS, sans-IO: the names of resources are answered on the machine, everything else is passed on
//! untouched.
//!
//! This crate owns: which names are private, the synthetic addresses that stand for them, what an answer to
//! each type of question is, and which upstream server a foreign question goes to and for how long. It
//! refuses to know: sockets, the machine's own settings, tunnels, what a resource is.
//!
//! Two rules come before everything else. A private name never leaves the machine: every type of question
//! about it, and every reverse question about a synthetic address, is answered here, if need be with "there
//! is no such record". And what is not private is not touched: the bytes of the question and of the answer
//! go through unread but for the question itself, with a fresh message id (RFC 5452 section 9.2).
//!
//! ```
//! use dns::{Names, Origin, Output, Pool, Resolver, Settings};
//! use hickory_proto::{op::{Message, Query}, rr::{Name, RecordType}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[allow(clippy::disallowed_methods)]
//! let now = std::time::Instant::now();
//! let names = Names::new(["db.example.internal".parse()?], []);
//! let pool = Pool::new("100.97.0.0/16".parse()?, "fd7a:7467:6e61::/96".parse()?)?;
//! let mut resolver = Resolver::new(Settings { upstreams: vec!["192.0.2.53:53".parse()?], ..Settings::default() }, pool, [7; 32]);
//! resolver.set_names(names);
//!
//! let mut question = Message::query();
//! question.add_query(Query::query(Name::from_ascii("db.example.internal.")?, RecordType::A));
//! resolver.handle_query(now, Origin::udp(1), &question.to_vec()?);
//! let Output::Reply { to, bytes } = resolver.poll_output() else { panic!("an answer") };
//! assert_eq!(to, Origin::udp(1));
//! assert_eq!(Message::from_vec(&bytes)?.answers.len(), 1);
//! # Ok(())
//! # }
//! ```

mod answer;
mod names;
mod pool;
mod question;
mod resolver;

pub use names::Names;
pub use pool::{Pool, PoolError};
pub use question::Transport;
pub use resolver::{Counters, ForwardId, Origin, Output, Resolver, Settings, Timeout, TimeoutReason};
