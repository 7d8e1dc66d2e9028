//! The parser of server-sent events.

use audit_capture::sse::{EVENT_BYTES_MAX, SseParser};
use proptest::prelude::*;

type Seen = (String, String, u64);

fn parse<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<Seen> {
    let mut parser = SseParser::new();
    let mut seen = Vec::new();
    for chunk in chunks {
        parser.push(chunk, |event| {
            seen.push((event.name.to_string(), event.data.to_string(), event.start));
        });
    }
    seen
}

fn events(text: &str) -> Vec<(String, String)> {
    parse([text.as_bytes()])
        .into_iter()
        .map(|(name, data, _)| (name, data))
        .collect()
}

/// The standard's algorithm in its plainest form: the whole text at once, line by line.
fn plain(bytes: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut seen, mut name, mut data) = (Vec::new(), String::new(), String::new());
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What follows the last line end is no line.
    lines.pop();
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                data.pop();
                seen.push((name.clone(), data.clone()));
            }
            name.clear();
            data.clear();
        } else if let Some(value) = line.strip_prefix("data") {
            if value.is_empty() {
                data.push('\n');
            } else if let Some(value) = value.strip_prefix(':') {
                data.push_str(value.strip_prefix(' ').unwrap_or(value));
                data.push('\n');
            }
        } else if let Some(value) = line.strip_prefix("event") {
            if value.is_empty() {
                name.clear();
            } else if let Some(value) = value.strip_prefix(':') {
                value
                    .strip_prefix(' ')
                    .unwrap_or(value)
                    .clone_into(&mut name);
            }
        }
    }
    seen
}

#[test]
fn an_example_of_the_standard_reads_otherwise() {
    let of = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(n, d)| ((*n).to_owned(), (*d).to_owned()))
            .collect()
    };
    for (text, expected) in [
        (
            "data: YHOO\ndata: +2\ndata: 10\n\n",
            of(&[("", "YHOO\n+2\n10")]),
        ),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            of(&[
                ("", "first event"),
                ("", "second event"),
                ("", " third event"),
            ]),
        ),
        ("data\n\ndata\ndata\n\ndata:", of(&[("", ""), ("", "\n")])),
        (
            "data:test\n\ndata: test\n\n",
            of(&[("", "test"), ("", "test")]),
        ),
        (
            "event: a\ndata: 1\n\ndata: 2\n\n",
            of(&[("a", "1"), ("", "2")]),
        ),
        ("event: a\n\ndata: 2\n\n", of(&[("", "2")])),
        ("\u{feff}data: 1\n\n\u{feff}data: 2\n\n", of(&[("", "1")])),
        (
            "data: 1\r\rdata: 2\r\n\r\ndata: 3\n\n",
            of(&[("", "1"), ("", "2"), ("", "3")]),
        ),
        ("Data: 1\n\ndatax: 1\n\n data: 1\n\n", of(&[])),
        ("data: a\0b\n\n", of(&[("", "a\0b")])),
        ("retry: 10\nid: x\nfoo\ndata: 1\n\n", of(&[("", "1")])),
    ] {
        assert_eq!(events(text), expected, "{text:?}");
    }
}

#[test]
fn an_event_is_said_to_start_elsewhere() {
    let text = "\u{feff}data: 1\r\n\r\nevent: x\ndata: 2\n\n: c\ndata: 3\n\n";
    for size in 1..text.len() {
        let starts: Vec<u64> = parse(text.as_bytes().chunks(size))
            .iter()
            .map(|e| e.2)
            .collect();
        let at = |needle| text.find(needle).unwrap() as u64;
        assert_eq!(starts, [0, at("event: x"), at(": c")], "chunks of {size}");
    }
}

#[test]
fn an_oversize_event_takes_the_next_one_with_it() {
    let long = vec![b'x'; EVENT_BYTES_MAX + 10];
    let mut parser = SseParser::new();
    let mut seen = Vec::new();
    for chunk in [
        b"event: response.completed\ndata: ".as_slice(),
        &long,
        b"\n\ndata: next\n\n",
    ] {
        for piece in chunk.chunks(1 << 16) {
            parser.push(piece, |e| {
                seen.push((e.name.to_string(), e.data.len(), e.oversize));
            });
        }
    }
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].0, "response.completed");
    assert!(seen[0].2 && seen[0].1 <= EVENT_BYTES_MAX);
    assert_eq!(seen[1], (String::new(), 4, false));
}

#[test]
fn many_data_lines_go_beyond_the_limit() {
    let line = [b"data: ".as_slice(), &vec![b'y'; 1 << 20], b"\n"].concat();
    let mut parser = SseParser::new();
    let mut seen = Vec::new();
    for _ in 0..20 {
        parser.push(&line, |_| {});
    }
    parser.push(b"\n", |e| seen.push((e.data.len(), e.oversize)));
    assert_eq!(seen, [(EVENT_BYTES_MAX, true)]);
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"data".to_vec()),
        Just(b"data: ".to_vec()),
        Just(b"event: ".to_vec()),
        Just(b": c".to_vec()),
        Just(b":".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n\n".to_vec()),
        Just("\u{feff}".as_bytes().to_vec()),
        Just("ü€😀".as_bytes().to_vec()),
        Just(vec![0xef, 0xbb]),
        Just(vec![0xff]),
        any::<Vec<u8>>().prop_map(|v| v.into_iter().take(4).collect()),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn chunks_change_the_events(bytes in stream(), cuts in prop::collection::vec(0usize..200, 0..12)) {
        let whole = parse([bytes.as_slice()]);
        prop_assert_eq!(&parse(bytes.chunks(1)), &whole);
        let mut at: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        prop_assert_eq!(&parse(at.windows(2).map(|w| &bytes[w[0]..w[1]])), &whole);
        for event in &whole {
            prop_assert!(event.2 < bytes.len() as u64);
        }
    }

    #[test]
    fn the_plain_algorithm_disagrees(bytes in stream()) {
        let ours: Vec<_> = parse(bytes.chunks(3)).into_iter().map(|(n, d, _)| (n, d)).collect();
        prop_assert_eq!(ours, plain(&bytes));
    }

    #[test]
    fn looking_at_the_pending_event_changes_it(bytes in stream()) {
        let whole = parse([bytes.as_slice()]);
        let mut parser = SseParser::new();
        let mut seen = Vec::new();
        for chunk in bytes.chunks(1) {
            parser.push(chunk, |e| seen.push((e.name.to_string(), e.data.to_string(), e.start)));
            parser.pending();
        }
        prop_assert_eq!(seen, whole);
    }
}
