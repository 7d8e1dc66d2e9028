//! Addresses: of mail, and of hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Detector, Found, is_inside};

/// Octets of a local part and of a domain (RFC 5321 §4.5.3.1).
const LOCAL_BYTES_MAX: usize = 256;
const DOMAIN_BYTES_MAX: usize = 255;

/// Addresses of mail: of RFC 5322's dot-atom before the sign the characters that providers give out (`=`, `&`, `/` and
/// their like part an address from the rest of a URL far more often than they belong to it), and a domain of at least two labels behind it whose last one
/// is letters (or `xn--…`). Letters of any script count (RFC 6531).
pub(super) fn emails(text: &str, found: &mut Vec<Found>) {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(at) = bytes
        .get(from..)
        .and_then(|rest| rest.iter().position(|b| *b == b'@'))
        .map(|at| from + at)
    {
        from = at + 1;
        // Both walks end at the next `@`, so all of them together pass over the text twice.
        let local = bytes
            .iter()
            .take(at)
            .rev()
            .take(LOCAL_BYTES_MAX)
            .take_while(|b| is_local(**b))
            .count();
        let domain = bytes
            .iter()
            .skip(at + 1)
            .take(DOMAIN_BYTES_MAX)
            .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.') || **b >= 0x80)
            .count();
        let (mut start, mut end) = (at - local, at + 1 + domain);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // `'john@example.org'`, `=john@…`, and non-ASCII punctuation such as `«` are no part of it.
        let Some(before) = text.get(start..at) else {
            continue;
        };
        let local = before
            .rsplit(|c: char| !c.is_ascii() && !c.is_alphanumeric())
            .next()
            .unwrap_or_default();
        let local = local.trim_start_matches(|c: char| !c.is_alphanumeric());
        let Some(behind) = text.get(at + 1..end) else {
            continue;
        };
        let domain = behind
            .split(|c: char| !c.is_ascii() && !c.is_alphanumeric())
            .next()
            .unwrap_or_default();
        let domain = domain_of(domain);
        if local.is_empty() || domain.is_empty() {
            continue;
        }
        let range = at - local.len()..at + 1 + domain.len();
        found.push(Found {
            value: text.get(range.clone()).unwrap_or_default().to_lowercase(),
            range,
            detector: Detector::Email,
        });
    }
}

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b".'+_~-".contains(&byte)
}

/// The longest beginning of `text` that is a domain; empty if none is.
fn domain_of(text: &str) -> &str {
    let mut end = 0;
    let mut at = 0;
    for (place, label) in text.split('.').enumerate() {
        let good = !label.is_empty() && !label.starts_with('-');
        if !good {
            break;
        }
        let last = label.chars().filter(|c| c.is_alphabetic()).count() >= 2
            && (label.chars().all(char::is_alphabetic)
                || label
                    .get(..4)
                    .is_some_and(|s| s.eq_ignore_ascii_case("xn--")));
        if place > 0 && last {
            end = at + label.len();
        } else if place > 0
            && let Some(letters) = label.find(|c: char| !c.is_alphabetic())
            && letters >= 2
            && label
                .get(letters..)
                .is_some_and(|rest| rest.starts_with('-'))
        {
            // `john@example.org-based`: no label ends so, but the address is there.
            end = at + letters;
        }
        at += label.len() + 1;
    }
    text.get(..end).unwrap_or_default()
}

/// IPv4 in four decimal numbers, IPv6 as RFC 4291 §2.2 writes it. Not found: addresses that mean no host (unspecified,
/// loopback), and two groups around `::`, which is how programs write paths.
pub(super) fn addresses(text: &str, found: &mut Vec<Found>) {
    let bytes = text.as_bytes();
    let of_run = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b'.' | b':');
    let mut done = 0;
    let mut at = 0;
    // From one dot or colon to the next, since prose has few of them between digits.
    while let Some(next) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|b| matches!(b, b'.' | b':')))
    {
        let sign = at + next;
        at = sign + 1;
        let beside = |at: Option<usize>| at.and_then(|at| bytes.get(at)).copied();
        let between = [beside(sign.checked_sub(1)), beside(Some(at))];
        let needed = match bytes.get(sign) {
            Some(b'.') => between
                .iter()
                .all(|b| b.is_some_and(|b| b.is_ascii_digit())),
            _ => between
                .iter()
                .any(|b| b.is_some_and(|b| b.is_ascii_hexdigit() || b == b':')),
        };
        if !needed {
            continue;
        }
        let before = bytes.get(done..sign).unwrap_or_default();
        let start = sign - before.iter().rev().take_while(|b| of_run(b)).count();
        let end = at + bytes.iter().skip(at).take_while(|b| of_run(b)).count();
        address(text, start, end, found);
        (done, at) = (end, end);
    }
}

/// Looks for an address in a run of hexadecimal digits, dots and colons, without the sentence's own signs at its ends.
fn address(text: &str, start: usize, end: usize, found: &mut Vec<Found>) {
    let Some(run) = text.get(start..end) else {
        return;
    };
    let trimmed = run.trim_end_matches('.');
    let trimmed = trimmed
        .strip_suffix(':')
        .filter(|t| !t.ends_with(':'))
        .unwrap_or(trimmed);
    let (lead, trimmed) = match trimmed.strip_prefix(':') {
        Some(rest) if !rest.starts_with(':') => (1, rest),
        _ => (0, trimmed),
    };
    let start = start + lead;
    let mut push = |range: std::ops::Range<usize>, address: IpAddr| {
        let nobody = address.is_unspecified() || address.is_loopback();
        if !nobody && !is_inside(text, &range) {
            found.push(Found {
                range,
                detector: Detector::Ip,
                value: address.to_string(),
            });
        }
    };
    if trimmed.matches(':').count() >= 2
        && let Ok(address) = trimmed.parse::<Ipv6Addr>()
        && is_written_as_address(trimmed)
    {
        push(start..start + trimmed.len(), IpAddr::V6(address));
        return;
    }
    // `10.1.2.3:443`, `peer:10.1.2.3`
    let mut at = start;
    for part in trimmed.split(':') {
        let octets = part.split('.').count();
        if octets == 4
            && let Ok(address) = part.parse::<Ipv4Addr>()
        {
            push(at..at + part.len(), IpAddr::V4(address));
        }
        at += part.len() + 1;
    }
}

/// `a::b` is an address, and a path in a program: one with fewer than three groups has a first group of three digits or
/// more with a decimal digit in it.
fn is_written_as_address(text: &str) -> bool {
    let groups = text.split(':').filter(|g| !g.is_empty()).count();
    let first = text.split(':').next().unwrap_or_default();
    let decimal = |t: &str| t.bytes().any(|b| b.is_ascii_digit());
    (groups >= 3 && decimal(text)) || (groups >= 1 && first.len() >= 3 && decimal(first))
}
