//! What fuzzing runs: a function for each parser of foreign bytes.
//!
//! Each function says by a panic that a property doesn't hold: no bytes make the parser panic or take memory without
//! bound, what it accepts it writes back as it was, and how the bytes are cut makes no difference where they come in
//! pieces.
//!
//! *In scope*: the functions, their corpora (`corpus/TARGET/`), and a test that runs every file of every corpus.
//! *Out of scope*: the fuzzer. The programs in `fuzz/` hand these functions to libFuzzer:
//!
//! ```sh
//! cargo install cargo-fuzz
//! cd audit-fuzz
//! RUSTC_BOOTSTRAP=1 cargo fuzz run entry corpus/entry
//! ```
//!
//! ```
//! audit_fuzz::entry(b"{\"not\":\"an entry\"}");
//! assert!(audit_fuzz::TARGETS.iter().any(|target| target.name == "entry"));
//! ```

mod http;
mod keys;
mod log;
mod redaction;
mod tlog;

pub use http::{
    event_json, event_stream, heads, json_array, json_lines, request_body, response_body, sse,
};
pub use keys::{auditor_key_file, key_ring_file};
pub use log::{config, entry, evidence_bundle, export, packed};
pub use redaction::redaction;
pub use tlog::{checkpoint, note, proof, tile};

/// A parser, under the name of its program and its corpus.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Target {
    /// The name of `fuzz/fuzz_targets/NAME.rs` and `corpus/NAME/`.
    pub name: &'static str,
    /// Panics if a property doesn't hold.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "auditor_key_file",
        run: auditor_key_file,
    },
    Target {
        name: "checkpoint",
        run: checkpoint,
    },
    Target {
        name: "config",
        run: config,
    },
    Target {
        name: "entry",
        run: entry,
    },
    Target {
        name: "event_json",
        run: event_json,
    },
    Target {
        name: "event_stream",
        run: event_stream,
    },
    Target {
        name: "evidence_bundle",
        run: evidence_bundle,
    },
    Target {
        name: "export",
        run: export,
    },
    Target {
        name: "heads",
        run: heads,
    },
    Target {
        name: "json_array",
        run: json_array,
    },
    Target {
        name: "json_lines",
        run: json_lines,
    },
    Target {
        name: "key_ring_file",
        run: key_ring_file,
    },
    Target {
        name: "note",
        run: note,
    },
    Target {
        name: "packed",
        run: packed,
    },
    Target {
        name: "proof",
        run: proof,
    },
    Target {
        name: "redaction",
        run: redaction,
    },
    Target {
        name: "request_body",
        run: request_body,
    },
    Target {
        name: "response_body",
        run: response_body,
    },
    Target {
        name: "sse",
        run: sse,
    },
    Target {
        name: "tile",
        run: tile,
    },
];

/// The first byte chooses, the rest is what is parsed.
fn choice(data: &[u8]) -> (usize, &[u8]) {
    data.split_first()
        .map_or((0, data), |(first, rest)| (usize::from(*first), rest))
}
