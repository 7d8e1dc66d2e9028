//! How the crates of LLMAuditTrail are composed by hand: a service that asks a model and can prove what it asked and what
//! it was answered ([`service`]), and a storage engine of one's own ([`dir_store`]).

pub mod dir_store;
pub mod service;
