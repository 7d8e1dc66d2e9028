//! Labels and length prefixes (`docs/format.md` §1).

/// `audit-trail/1 NAME` and a zero byte.
pub(crate) fn label(name: &str) -> Vec<u8> {
    label_parts(name).concat()
}

/// The same in pieces, for what hashes it often.
pub(crate) fn label_parts(name: &str) -> [&[u8]; 3] {
    [b"audit-trail/1 ", name.as_bytes(), &[0]]
}

/// `bytes` behind their length in two bytes. Names and origins are at most 255 bytes, fields at most 300.
pub(crate) fn lp(bytes: &[u8]) -> Vec<u8> {
    let length =
        u16::try_from(bytes.len()).expect("names are checked to be far below 65,536 bytes");
    let mut out = Vec::with_capacity(2 + bytes.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    out
}
