//! The verifier, tested by attacking honest logs.

mod bundles;
mod forgers;
mod honest;
mod mutations;
mod program;
mod tree;
mod world;
