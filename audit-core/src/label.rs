//! Labels and length prefixes (`docs/format.md` §1).

/// `audit-trail/1 NAME` and a zero byte.
pub(crate) fn label(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(15 + name.len());
    out.extend_from_slice(b"audit-trail/1 ");
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out
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
