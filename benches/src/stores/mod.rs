//! The engines side by side, each beside its own commit of the same bytes.
//!
//! SQLite is always there. PostgreSQL and S3 are measured where `AUDIT_TEST_POSTGRES_URL` and `AUDIT_TEST_S3_URL` (with the
//! usual AWS variables) name a server; each measurement takes a schema, or a prefix, of its own.

pub mod bare_postgres;
pub mod bare_s3;
pub mod baseline;
pub mod engine;
pub mod growth;
pub mod writers;
