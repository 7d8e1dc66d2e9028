//! The texts of a bundle, all of which follow from its manifest (`docs/evidence-bundle.md` §7).

use std::fmt::Write as _;

use super::{Manifest, Query};

const README: &str = include_str!("README-1.txt");
const LIMITS: &str = include_str!("LIMITS-1.txt");

/// Text in quotes, in ASCII alone, so that it steers no terminal.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::String(text.to_owned()).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("writing to a string can't fail");
            }
        }
    }
    out
}

/// The query in words.
pub(super) fn query(query: &Query) -> String {
    if let Some(events) = &query.events {
        return format!("{} events, named by their ids", events.len());
    }
    let mut text = "events".to_owned();
    if let Some(session) = &query.session {
        text.push_str(" of the session ");
        text.push_str(&quoted(session));
    }
    if let Some(from) = &query.from {
        write!(text, " from {from} on").expect("writing to a string can't fail");
    }
    if let Some(to) = &query.to {
        write!(text, " before {to}").expect("writing to a string can't fail");
    }
    text
}

pub(super) fn readme(manifest: &Manifest) -> String {
    let Manifest {
        origin,
        query_text,
        size,
        root,
        ..
    } = manifest;
    let counts = &manifest.counts;
    format!(
        "Evidence bundle of the audit log {origin}\n\
         asked for   {query_text}\n\
         found       {} entries; with those of the log itself that are needed to check them: {}\n\
         disclosed   {} fields of {} events, {} of them payloads of together {} bytes\n\
         not here    {} fields are withheld, the content of {} events was erased\n\
         checkpoint  {size} entries, root {root}\n\n{README}",
        counts.matched,
        counts.entries,
        counts.fields,
        counts.open,
        counts.payloads,
        counts.payload_bytes,
        counts.withheld,
        counts.erased,
    )
}

pub(super) fn limits(manifest: &Manifest) -> String {
    let counts = &manifest.counts;
    let mut text = "What this bundle does not prove\n\n".to_owned();
    text.push_str(if manifest.query.events.is_some() {
        "- Completeness. These are the events that were named. What else belongs to them, it doesn't say.\n"
    } else {
        "- Completeness. These entries match; that they are all that match, only the whole log shows.\n"
    });
    if counts.withheld > 0 {
        writeln!(
            text,
            "- Withheld. {} of {} fields are not disclosed. That they exist is proven, what they say is not.",
            counts.withheld,
            counts.withheld + counts.fields
        )
        .expect("writing to a string can't fail");
    }
    if counts.erased > 0 {
        writeln!(
            text,
            "- Erased. The content of {} events was erased. What it said can't be shown any more.",
            counts.erased
        )
        .expect("writing to a string can't fail");
    }
    if counts.checkpoints > 1 {
        writeln!(
            text,
            "- History. The log of this checkpoint extends {} earlier ones. Of others it says nothing.",
            counts.checkpoints - 1
        )
        .expect("writing to a string can't fail");
    } else {
        text.push_str("- History. There is no earlier checkpoint here, so it doesn't show that the log only grew.\n");
    }
    text.push_str(LIMITS);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_steers_a_terminal() {
        assert_eq!(
            quoted("a\"\u{1b}[2J\u{202e}é\u{7f}\u{1f600}"),
            r#""a\"\u001b[2J\u202e\u00e9\u007f\ud83d\ude00""#
        );
    }
}
