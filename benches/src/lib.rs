//! How fast the log is, always beside a baseline that ran in the same process.
//!
//! # In scope
//!
//! - Criterion benches: `tlog`, `append`, `verify`, `seal`, `stores` (`cargo bench -p benches`).
//! - The program `figures`, which measures each of them once and prints a table, with storage and memory
//!   (`cargo run --release -p benches --bin figures`).
//! - The program `stores`, which measures SQLite, PostgreSQL and S3 side by side ([`stores`]).
//! - The program `load`, which measures the gateway as processes on loopback (`scripts/load`, see [`load`]), and the
//!   bench `gateway` for one call.
//! - What both share: [`workload`], the baselines [`raw`] and [`bare`], [`recorder`], [`evidence`], [`machine`].
//!
//! # Out of scope
//!
//! - Limits. Nothing here fails because something took long; a figure means something only beside its baseline.
//! - Correctness, apart from this: what is measured is checked to have done its work.

pub mod bare;
pub mod evidence;
pub mod load;
pub mod machine;
pub mod raw;
pub mod recorder;
pub mod stores;
pub mod tree;
pub mod workload;

/// What a measurement ends in when it can't be made.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
