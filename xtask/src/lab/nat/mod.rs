//! `cargo xtask lab nat`: which path real processes find between which networks, compared with the table
//! that was there before the code (docs/nat-expected.md).

mod bench;
mod cell;
mod document;
mod expected;
mod kind;
mod lossy;
mod matrix;
mod meter;
mod net;
mod picture;
pub mod premises;
mod scenarios;
mod watch;

pub use lossy::{LossyLink, run as lossy_link};
pub use matrix::{MatrixOptions, run as matrix};
pub use scenarios::{ScenarioOptions, run as scenarios};
