//! Compressed bodies.

use std::io::Write as _;

use audit_capture::{
    DECODED_BYTES_MAX, Outcome, RequestHead, ResponseHead, ResponseParser, request_facts,
};
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use crate::support::{chat, header, read};

const TEXT: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"Grüße 😀\"}}]}\n\ndata: [DONE]\n\n";

/// `TEXT` in brotli, as one uncompressed meta-block between an empty one and the end (RFC 7932 §9.2).
fn brotli(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len() - 1).unwrap();
    // Window bits 16 ("0"), ISLAST 0, MNIBBLES 0 (four nibbles), MLEN − 1 in 16 bits, ISUNCOMPRESSED 1.
    let header = (length << 4) | (1 << 20);
    let mut encoded = header.to_le_bytes()[..3].to_vec();
    encoded.extend_from_slice(text);
    // ISLAST 1, ISLASTEMPTY 1.
    encoded.push(0b11);
    encoded
}

fn encoded(coding: &str, text: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" | "x-gzip" | "GZIP" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "raw" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(text, 1).unwrap(),
        "br" => brotli(text),
        _ => text.to_vec(),
    }
}

fn head(coding: &str) -> ResponseHead {
    let coding = if coding == "raw" { "deflate" } else { coding };
    ResponseHead::new(
        200,
        vec![
            header("content-type", "text/event-stream"),
            header("Content-Encoding", coding),
        ],
    )
}

#[test]
fn a_compressed_stream_is_not_read() {
    for coding in [
        "gzip", "x-gzip", "GZIP", "deflate", "raw", "zstd", "br", "identity", "",
    ] {
        let body = encoded(coding, TEXT.as_bytes());
        for size in [1, 3, 10_000] {
            let facts = read(&chat(), &head(coding), true, body.chunks(size));
            assert_eq!(facts.unparsed, None, "{coding}");
            assert_eq!(facts.text(), "Grüße 😀", "{coding} in pieces of {size}");
            assert!(facts.complete, "{coding}");
        }
        let request = RequestHead::new("POST", "/v1/chat/completions", head(coding).headers);
        let asked = request_facts(&chat(), &request, &encoded(coding, br#"{"model":"m"}"#));
        assert_eq!(asked.model.as_deref(), Some("m"), "{coding}");
    }
}

#[test]
fn the_end_of_a_compressed_stream_is_seen_too_late() {
    // Servers flush after each event; the end must be seen as soon as its bytes are there.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let (before, end) = TEXT.split_at(TEXT.find("data: [DONE]").unwrap());
    encoder.write_all(before.as_bytes()).unwrap();
    encoder.flush().unwrap();
    let first = std::mem::take(encoder.get_mut());
    encoder.write_all(end.as_bytes()).unwrap();
    encoder.flush().unwrap();
    let second = std::mem::take(encoder.get_mut());
    // Where it starts in the encoded bytes can't be told, so none of them may pass.
    let whole =
        ResponseParser::new(&chat(), &head("gzip"), true).push(&encoded("gzip", TEXT.as_bytes()));
    assert_eq!((whole.terminal, whole.safe), (true, 0));
    let mut parser = ResponseParser::new(&chat(), &head("gzip"), true);
    let progress = parser.push(&first);
    assert_eq!((progress.terminal, progress.safe), (false, first.len()));
    let progress = parser.push(&second);
    assert_eq!((progress.terminal, progress.safe), (true, 0));
    // The trailer of the gzip member.
    assert_eq!(parser.push(&encoder.finish().unwrap()).safe, 0);
    assert!(parser.finish(Outcome::Complete).complete);
}

#[test]
fn an_unknown_coding_is_passed_over_in_silence() {
    for coding in ["compress", "gzip, br", "aes128gcm"] {
        let facts = read(&chat(), &head(coding), true, [b"\x00\x01".as_slice()]);
        assert_eq!(
            facts.unparsed.as_deref(),
            Some(format!("content-encoding {coding}").as_str())
        );
        assert!(facts.attributes().contains_key("audit.response.unparsed"));
        assert!(facts.complete, "nothing is known against it");
    }
}

#[test]
fn a_broken_coding_is_passed_over_in_silence() {
    for coding in ["gzip", "deflate", "zstd", "br"] {
        let mut body = encoded(coding, TEXT.as_bytes());
        body[0] ^= 0xff;
        let middle = body.len() / 2;
        body[middle] ^= 0xff;
        let facts = read(&chat(), &head(coding), true, body.chunks(5));
        assert!(
            facts.unparsed.is_some() || facts.text() != "Grüße 😀",
            "{coding}"
        );
    }
}

#[test]
fn a_bomb_fills_the_memory() {
    // A million times a thousand zeros in gzip: about a megabyte; in zstd far less.
    for coding in ["gzip", "zstd"] {
        let zeros = vec![0; 1 << 20];
        let mut body = Vec::new();
        for _ in 0..DECODED_BYTES_MAX / zeros.len() + 2 {
            body.push(encoded(coding, &zeros));
        }
        let facts = read(&chat(), &head(coding), true, body.iter().map(Vec::as_slice));
        let why = facts.unparsed.unwrap();
        assert!(
            why.contains("bytes when decoded") || why.contains("too fast"),
            "{coding}: {why}"
        );
    }
}
