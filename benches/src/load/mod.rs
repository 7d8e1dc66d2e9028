//! The gateway under load: what it costs in time, memory and storage, beside calls that don't pass it.
//!
//! Every party is a process of its own: the client (this one), the provider, nginx, and `audit-trail serve`.

pub mod client;
pub mod fixtures;
pub mod gateway;
pub mod latency;
pub mod memory;
pub mod predecessor;
pub mod process;
pub mod provider;
pub mod storage;
pub mod stream;
pub mod table;
pub mod times;
pub mod ways;
