//! Undoing `Content-Encoding`, for reading alone: what is recorded stays as it was sent.

use std::fmt;
use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// Decoded bytes of one body; what would follow is not read.
pub const DECODED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Encoded bytes given to a decoder at once. Deflate expands at most 1,032 times, so one step yields about a million
/// bytes; the other codings expand further, and are stopped by [`Sink`].
const STEP_BYTES: usize = 1024;

/// Decoded bytes that one step may yield; a body that expands faster than 8,192 times is no body.
const STEP_DECODED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The window of a zstd frame: 8 MiB, the limit of RFC 9659.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A decoder that takes the bytes as they come.
pub(crate) struct Decoder {
    coding: Coding,
    decoded_bytes: usize,
    failed: Option<String>,
}

enum Coding {
    Identity,
    Gzip(MultiGzDecoder<Sink>),
    /// `deflate` means zlib (RFC 9110 §8.4.1.2), and raw deflate where servers err; the first bytes tell.
    DeflateStart(Vec<u8>),
    Zlib(ZlibDecoder<Sink>),
    Deflate(DeflateDecoder<Sink>),
    Brotli(Box<brotli_decompressor::DecompressorWriter<Sink>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
    Unknown,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("decoded_bytes", &self.decoded_bytes)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder for the items of `Content-Encoding`.
    pub(crate) fn new(codings: &[String]) -> Self {
        let codings: Vec<&str> = codings
            .iter()
            .map(String::as_str)
            .filter(|c| *c != "identity")
            .collect();
        let mut failed = None;
        let coding = match codings.as_slice() {
            [] => Coding::Identity,
            ["gzip" | "x-gzip"] => Coding::Gzip(MultiGzDecoder::new(Sink::default())),
            ["deflate"] => Coding::DeflateStart(Vec::new()),
            ["br"] => Coding::Brotli(Box::new(brotli_decompressor::DecompressorWriter::new(
                Sink::default(),
                4096,
            ))),
            ["zstd"] => {
                match zstd::stream::write::Decoder::new(Sink::default()).and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                    Ok(decoder)
                }) {
                    Ok(decoder) => Coding::Zstd(Box::new(decoder)),
                    Err(_) => Coding::Unknown,
                }
            }
            _ => Coding::Unknown,
        };
        if matches!(coding, Coding::Unknown) {
            failed = Some(format!(
                "content-encoding {}",
                codings.join(", ").chars().take(80).collect::<String>()
            ));
        }
        Self {
            coding,
            decoded_bytes: 0,
            failed,
        }
    }

    /// Whether the bytes stay as they are.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(self.coding, Coding::Identity)
    }

    /// Why nothing more is decoded.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Decodes what `bytes` complete, in bounded pieces.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        if self.is_identity() {
            each(bytes);
            return;
        }
        for step in bytes.chunks(STEP_BYTES) {
            if self.failed.is_some() {
                return;
            }
            let result = self.step(step);
            if let Some(decoded) = self.take() {
                self.decoded_bytes += decoded.len();
                each(&decoded);
            }
            if let Err(error) = result {
                self.failed = Some(format!("content-encoding can't be decoded: {error}"));
            } else if self.decoded_bytes > DECODED_BYTES_MAX {
                self.failed = Some(format!("more than {DECODED_BYTES_MAX} bytes when decoded"));
            }
        }
    }

    fn step(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Coding::DeflateStart(start) = &mut self.coding {
            start.extend_from_slice(bytes);
            let &[cmf, flags, ..] = start.as_slice() else {
                return Ok(());
            };
            // RFC 1950 §2.2: method 8, and the two bytes together a multiple of 31.
            let zlib = cmf & 0x0f == 8 && u16::from_be_bytes([cmf, flags]).is_multiple_of(31);
            let start = std::mem::take(start);
            self.coding = if zlib {
                Coding::Zlib(ZlibDecoder::new(Sink::default()))
            } else {
                Coding::Deflate(DeflateDecoder::new(Sink::default()))
            };
            return self.step(&start);
        }
        let writer: &mut dyn Write = match &mut self.coding {
            Coding::Gzip(decoder) => decoder,
            Coding::Zlib(decoder) => decoder,
            Coding::Deflate(decoder) => decoder,
            Coding::Brotli(decoder) => decoder.as_mut(),
            Coding::Zstd(decoder) => decoder.as_mut(),
            Coding::Identity | Coding::DeflateStart(_) | Coding::Unknown => return Ok(()),
        };
        writer.write_all(bytes)?;
        // Without it the last decoded bytes would wait for the next ones, and a terminal event would be seen too late.
        writer.flush()
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let sink = match &mut self.coding {
            Coding::Gzip(decoder) => decoder.get_mut(),
            Coding::Zlib(decoder) => decoder.get_mut(),
            Coding::Deflate(decoder) => decoder.get_mut(),
            Coding::Brotli(decoder) => decoder.get_mut(),
            Coding::Zstd(decoder) => decoder.get_mut(),
            Coding::Identity | Coding::DeflateStart(_) | Coding::Unknown => return None,
        };
        (!sink.0.is_empty()).then(|| std::mem::take(&mut sink.0))
    }
}

/// What one step decoded.
#[derive(Debug, Default)]
struct Sink(Vec<u8>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > STEP_DECODED_BYTES_MAX {
            return Err(io::Error::other("it expands too fast"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
