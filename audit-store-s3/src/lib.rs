//! The log in a bucket.
