//! The store from outside of the project, and the service on it.

mod conformance;
mod service;
