//! The transparency log under the audit trail: hashes, tiles, proofs, signed notes and checkpoints.
//!
//! Everything here is a pure function of bytes. The formats are those of the transparency ecosystem, so that any other
//! implementation can read and check them: RFC 9162 (and 6962) for hashing and proofs, C2SP `tlog-tiles`,
//! `signed-note`, `tlog-checkpoint`, `tlog-cosignature` and `tlog-proof` for files.
//!
//! # In scope
//!
//! - [`hash`]: leaf hashes, node hashes, root hashes; [`frontier`]: the state from which a tree grows.
//! - [`tile`]: tiles, their paths, entry bundles, and the right edge of a growing tree.
//! - [`proof`]: inclusion and consistency proofs, made from tiles and verified without them.
//! - [`note`], [`checkpoint`], [`cosignature`], [`tlog_proof`]: what is signed, and its strict verification.
//!
//! # Out of scope
//!
//! - Input and output, clocks, randomness: the caller passes bytes, timestamps and seeds in.
//! - What an entry means. An entry is bytes with a leaf hash.
//! - Policy: which keys are trusted, how many witnesses are needed, how old a checkpoint may be. Functions take the key
//!   and the origin that the verifier's policy names, and never what the checked thing says about itself.
//! - Whether a log was consistent over time. A checkpoint proves itself; that two of them agree, a consistency proof says.
//!
//! # How strict
//!
//! Every format has exactly one spelling for each value, and every parser of foreign bytes a stated limit. Ed25519 is
//! verified as `verify_strict` of `ed25519-dalek` does: a signature is accepted when it satisfies the equation without
//! cofactor, `S` is reduced, `R` is canonical, and neither `R` nor the public key is of small order; public keys must
//! also be canonically encoded. What remains accepted beyond honest signatures needs a public key with a component of
//! small order, which only the holder of the key can make.
//!
//! # Example
//!
//! ```
//! use audit_tlog::checkpoint::{self, Checkpoint};
//! use audit_tlog::hash::leaf_hash;
//! use audit_tlog::note::{Ed25519Signer, NoteSigner as _};
//! use audit_tlog::proof::{inclusion_proof, verify_inclusion};
//! use audit_tlog::tile::{EdgeTiles, TileMap};
//!
//! // The log: three entries, and a signed checkpoint that commits to them.
//! let mut edge = EdgeTiles::new();
//! for entry in ["one", "two", "three"] {
//!     edge.push(leaf_hash(entry.as_bytes()));
//! }
//! let tiles = TileMap::from_iter(edge.take_changed());
//! let signer = Ed25519Signer::from_seed("example.com/log", &[7; 32])?;
//! let checkpoint =
//!     Checkpoint { origin: "example.com/log".into(), size: edge.size(), root: edge.root(), extensions: vec![] };
//! let signed = checkpoint::sign(&checkpoint, &[&signer])?;
//! let proof = inclusion_proof(1, edge.size(), &tiles)?;
//!
//! // The verifier: knows the origin and the key, and is handed the rest.
//! let (checkpoint, _) = checkpoint::open(signed.as_bytes(), "example.com/log", signer.verifier_key())?;
//! verify_inclusion(&leaf_hash(b"two"), 1, checkpoint.size, &proof, &checkpoint.root)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod checkpoint;
pub mod cosignature;
mod encoding;
pub mod frontier;
pub mod hash;
pub mod note;
pub mod proof;
pub mod tile;
pub mod tlog_proof;
mod verified;

pub use frontier::Frontier;
pub use hash::Hash;
pub use verified::Verified;
