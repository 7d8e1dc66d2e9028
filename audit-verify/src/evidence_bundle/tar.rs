//! The container: POSIX ustar with one spelling of every header (`docs/evidence-bundle.md` §1).

use std::io::{self, Read, Seek, SeekFrom, Write};

use audit_core::hex::Digest;
use audit_core::{Error, Result};
use sha2::{Digest as _, Sha256};

/// Bytes of a header, and what members are padded to a multiple of.
pub(super) const BLOCK: u64 = 512;
/// Bytes of one member: what eleven octal digits hold.
pub(super) const MEMBER_BYTES_MAX: u64 = (8 << 30) - 1;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 100;
/// Bytes read at once.
const PIECE: usize = 64 * 1024;

/// The one header of a member; `None` for a name or a size that doesn't fit.
pub(super) fn header(name: &str, size: u64) -> Option<[u8; 512]> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || size > MEMBER_BYTES_MAX {
        return None;
    }
    let mut block = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Some(block)
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

fn unwritable(e: io::Error) -> Error {
    Error::unavailable("the bundle can't be written").because(e)
}

/// Writes a member whose bytes are read from `from`.
pub(super) fn write_member(
    out: &mut dyn Write,
    name: &str,
    size: u64,
    from: &mut dyn Read,
) -> Result<()> {
    let header = header(name, size).ok_or_else(|| {
        Error::invalid(format!(
            "member {name:?} would have {size} bytes, a bundle takes {MEMBER_BYTES_MAX}"
        ))
    })?;
    out.write_all(&header).map_err(unwritable)?;
    let copied = io::copy(&mut from.take(size), out).map_err(unwritable)?;
    if copied != size {
        return Err(Error::unavailable(format!(
            "what was kept for member {name:?} has {copied} bytes, there were {size}"
        )));
    }
    let zeros = [0_u8; 512];
    let pad = zeros.get(..usize::try_from(padding(size)).unwrap_or_default());
    out.write_all(pad.unwrap_or_default()).map_err(unwritable)
}

/// Writes the end.
pub(super) fn write_end(out: &mut dyn Write) -> Result<()> {
    out.write_all(&[0; 1024]).map_err(unwritable)?;
    out.flush().map_err(unwritable)
}

/// Where a member lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Its first byte.
    pub(super) at: u64,
    pub(super) size: u64,
}

impl Member {
    /// Where the next header begins.
    pub(super) fn end(&self) -> u64 {
        self.at + self.size + padding(self.size)
    }
}

/// A bundle that is read.
#[derive(Debug)]
pub(super) struct Archive<R> {
    file: R,
    length: u64,
}

impl<R: Read + Seek> Archive<R> {
    pub(super) fn new(mut file: R) -> Result<Self> {
        let length = file
            .seek(SeekFrom::End(0))
            .map_err(|e| Error::unavailable("the bundle can't be read").because(e))?;
        Ok(Self { file, length })
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Reads what is there of `size` bytes from `at` on.
    pub(super) fn read(&mut self, at: u64, size: usize) -> Result<Vec<u8>> {
        let there = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size.min(there)];
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|e| Error::unavailable("the bundle can't be read").because(e))?;
        Ok(bytes)
    }

    /// The member whose header is at `at`; `None` at the end, which must be one.
    pub(super) fn member(&mut self, at: u64) -> Result<Option<Member>> {
        let block = self.read(at, 512)?;
        if block.len() < 512 {
            return Err(Error::corrupt(format!(
                "the file was cut: it ends at byte {}, within a header or before the end",
                self.length
            )));
        }
        if block.iter().all(|b| *b == 0) {
            let rest = self.read(at + BLOCK, 513)?;
            return if rest.len() == 512 && rest.iter().all(|b| *b == 0) {
                Ok(None)
            } else {
                Err(Error::corrupt(format!(
                    "the file doesn't end with two blocks of zero bytes from byte {at} on"
                )))
            };
        }
        let wrong = |what: &str| Err(Error::corrupt(format!("the header at byte {at} {what}")));
        let name = block.split(|b| *b == 0).next().unwrap_or_default();
        let name = match str::from_utf8(name) {
            Ok(name) if name.bytes().all(|b| b.is_ascii_graphic()) => name.to_owned(),
            _ => return wrong("has a name that is not printable ASCII"),
        };
        let size = block
            .get(124..135)
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u64::from_str_radix(digits, 8).ok());
        let Some(expected) = size.and_then(|size| Some((size, header(&name, size)?))) else {
            return wrong("has no size or no name");
        };
        let (size, expected) = expected;
        if block != expected {
            return wrong(&format!(
                "is not the one that member {name} of {size} bytes has"
            ));
        }
        let member = Member {
            name,
            at: at + BLOCK,
            size,
        };
        if member.end() > self.length {
            return Err(Error::corrupt(format!(
                "the file was cut: member {} would end at byte {}, the file at {}",
                member.name,
                member.end(),
                self.length
            )));
        }
        let pad = self.read(
            member.at + member.size,
            usize::try_from(padding(size)).unwrap_or_default(),
        )?;
        if pad.iter().any(|b| *b != 0) {
            return Err(Error::corrupt(format!(
                "member {} is padded with something else than zero bytes",
                member.name
            )));
        }
        Ok(Some(member))
    }

    /// Hands all bytes of a member to `piece`, some at a time.
    pub(super) fn pieces(&mut self, member: &Member, piece: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut done = 0;
        while done < member.size {
            let want = usize::try_from(member.size - done)
                .unwrap_or(PIECE)
                .min(PIECE);
            let bytes = self.read(member.at + done, want)?;
            piece(&bytes);
            done += bytes.len() as u64;
        }
        Ok(())
    }
}

/// The lines of a member, and the hash of what was read of it.
#[derive(Debug)]
pub(super) struct Lines {
    member: Member,
    line_bytes_max: usize,
    at: u64,
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer.
    start: usize,
    hash: Sha256,
    /// How many lines were read.
    pub(super) number: u64,
}

impl Lines {
    pub(super) fn new(member: Member, line_bytes_max: usize) -> Self {
        Self {
            at: member.at,
            member,
            line_bytes_max,
            buffer: Vec::new(),
            start: 0,
            hash: Sha256::new(),
            number: 0,
        }
    }

    /// `entries.jsonl line 7`, of the line that was read last.
    pub(super) fn place(&self) -> String {
        format!("{} line {}", self.member.name, self.number)
    }

    /// The next line, without its newline; `None` at the end.
    pub(super) fn next<R: Read + Seek>(
        &mut self,
        archive: &mut Archive<R>,
    ) -> Result<Option<Vec<u8>>> {
        self.number += 1;
        let mut searched = self.start;
        loop {
            let ahead = self.buffer.get(searched..).unwrap_or_default();
            if let Some(length) = ahead.iter().position(|b| *b == b'\n') {
                let end = searched + length;
                let line = self
                    .buffer
                    .get(self.start..end)
                    .unwrap_or_default()
                    .to_vec();
                self.start = end + 1;
                return if line.len() < self.line_bytes_max {
                    Ok(Some(line))
                } else {
                    Err(self.too_long())
                };
            }
            if self.buffer.len() - self.start >= self.line_bytes_max {
                return Err(self.too_long());
            }
            let left = self.member.at + self.member.size - self.at;
            if left == 0 {
                if self.start == self.buffer.len() {
                    self.number -= 1;
                    return Ok(None);
                }
                return Err(Error::corrupt(format!(
                    "{}: the line doesn't end",
                    self.place()
                )));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            searched = self.buffer.len();
            let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let bytes = archive.read(self.at, want)?;
            self.at += bytes.len() as u64;
            self.hash.update(&bytes);
            self.buffer.extend_from_slice(&bytes);
        }
    }

    fn too_long(&self) -> Error {
        Error::corrupt(format!(
            "{}: the line has more than {} bytes",
            self.place(),
            self.line_bytes_max
        ))
    }

    /// The SHA-256 of the member; what was not read yet is read now.
    pub(super) fn finish<R: Read + Seek>(mut self, archive: &mut Archive<R>) -> Result<Digest> {
        let rest = Member {
            size: self.member.at + self.member.size - self.at,
            at: self.at,
            name: String::new(),
        };
        archive.pieces(&rest, &mut |piece| self.hash.update(piece))?;
        let digest: [u8; 32] = self.hash.finalize().into();
        Ok(Digest::from(digest))
    }
}

/// Bytes that are kept until the container can be written, with their hash.
#[derive(Debug)]
pub(super) struct Spool<S: Write> {
    file: io::BufWriter<S>,
    pub(super) hash: Sha256,
    pub(super) size: u64,
}

impl<S: Read + Write + Seek> Spool<S> {
    pub(super) fn new(file: S) -> Self {
        Self {
            file: io::BufWriter::new(file),
            hash: Sha256::new(),
            size: 0,
        }
    }

    pub(super) fn line(&mut self, mut line: Vec<u8>, bytes_max: usize) -> Result<()> {
        line.push(b'\n');
        if line.len() > bytes_max {
            return Err(Error::invalid(format!(
                "a line of the bundle would have {} bytes, allowed are {bytes_max}",
                line.len()
            )));
        }
        self.write_all(&line).map_err(unwritable)
    }

    pub(super) fn digest(&self) -> Digest {
        let digest: [u8; 32] = self.hash.clone().finalize().into();
        Digest::from(digest)
    }

    /// From the beginning on.
    pub(super) fn reader(&mut self) -> Result<&mut S> {
        self.file.flush().map_err(unwritable)?;
        self.file.get_mut().rewind().map_err(unwritable)?;
        Ok(self.file.get_mut())
    }
}

impl<S: Read + Write + Seek> Write for Spool<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Lines {
    /// Of a member that is not there.
    pub(super) fn empty() -> Self {
        let member = Member {
            name: String::new(),
            at: 0,
            size: 0,
        };
        Self::new(member, 0)
    }
}
