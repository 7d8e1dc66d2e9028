//! Tests of the whole: the binary, and what the repository says of itself.

mod architecture;
