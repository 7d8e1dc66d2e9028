//! Keys and tokens, by the forms that their issuers document.
//!
//! Regular expressions find the beginnings only. How far a token goes is read here, and remembered: all matches of an
//! expression without an upper bound would take time quadratic in a text made for it.

use std::sync::LazyLock;

use regex::Regex;

use super::{Detector, Detectors, Found};

pub(super) const DETECTORS: &[Detector] = &[
    Detector::AnthropicKey,
    Detector::OpenAiKey,
    Detector::GoogleKey,
    Detector::AwsKey,
    Detector::GithubToken,
    Detector::SlackToken,
    Detector::StripeKey,
    Detector::HuggingFaceToken,
    Detector::Jwt,
    Detector::PrivateKey,
    Detector::BearerToken,
];

/// Which bytes go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Letters and digits.
    Alphanumeric,
    /// The alphabet of base64url: those, `-` and `_`.
    Url,
    /// Those, and `.`, `~`, `+`, `/` (RFC 6750's `b68token`).
    Bearer,
}

impl Class {
    fn has(self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric()
            || match self {
                Self::Alphanumeric => false,
                Self::Url => matches!(byte, b'-' | b'_'),
                Self::Bearer => matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+' | b'/'),
            }
    }
}

/// How a token begins, and how many bytes of which class follow at least.
struct Form {
    detector: Detector,
    prefix: &'static str,
    class: Class,
    bytes_min: usize,
    /// Random text of this length has a digit; `sk-something-of-a-style-sheet` has none.
    digit: bool,
}

const fn form(detector: Detector, prefix: &'static str, class: Class, bytes_min: usize) -> Form {
    Form {
        detector,
        prefix,
        class,
        bytes_min,
        digit: false,
    }
}

/// A longer prefix stands before its beginning.
const FORMS: &[Form] = &[
    form(Detector::AnthropicKey, "sk-ant-", Class::Url, 16),
    Form {
        digit: true,
        ..form(Detector::OpenAiKey, "sk-", Class::Url, 20)
    },
    form(Detector::StripeKey, "sk_live_", Class::Alphanumeric, 16),
    form(Detector::StripeKey, "sk_test_", Class::Alphanumeric, 16),
    form(Detector::StripeKey, "rk_live_", Class::Alphanumeric, 16),
    form(Detector::StripeKey, "rk_test_", Class::Alphanumeric, 16),
    form(Detector::StripeKey, "whsec_", Class::Alphanumeric, 24),
    form(Detector::GoogleKey, "AIza", Class::Url, 35),
    form(Detector::GoogleKey, "ya29.", Class::Url, 20),
    form(Detector::GoogleKey, "GOCSPX-", Class::Url, 20),
    form(Detector::GithubToken, "ghp_", Class::Alphanumeric, 36),
    form(Detector::GithubToken, "gho_", Class::Alphanumeric, 36),
    form(Detector::GithubToken, "ghu_", Class::Alphanumeric, 36),
    form(Detector::GithubToken, "ghs_", Class::Alphanumeric, 36),
    form(Detector::GithubToken, "ghr_", Class::Alphanumeric, 36),
    form(Detector::GithubToken, "github_pat_", Class::Url, 22),
    form(Detector::SlackToken, "xoxa-", Class::Url, 10),
    form(Detector::SlackToken, "xoxb-", Class::Url, 10),
    form(Detector::SlackToken, "xoxe-", Class::Url, 10),
    form(Detector::SlackToken, "xoxe.", Class::Bearer, 10),
    form(Detector::SlackToken, "xoxo-", Class::Url, 10),
    form(Detector::SlackToken, "xoxp-", Class::Url, 10),
    form(Detector::SlackToken, "xoxr-", Class::Url, 10),
    form(Detector::SlackToken, "xoxs-", Class::Url, 10),
    form(Detector::SlackToken, "xapp-", Class::Url, 10),
    form(Detector::HuggingFaceToken, "hf_", Class::Alphanumeric, 30),
    form(Detector::Jwt, "eyJ", Class::Url, 8),
];

static BEGINNINGS: LazyLock<Regex> = LazyLock::new(|| {
    let all: Vec<String> = FORMS.iter().map(|f| regex::escape(f.prefix)).collect();
    regex(&format!(r"(?-u)\b(?:{})", all.join("|")))
});

/// In the spellings that are used: with any case of any letter there would be no literal to look for.
static BEARER: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?-u)\b(?:Bearer|bearer|BEARER)[ \t]{1,4}"));

/// Access key ids, and secret keys behind the name that the credentials file gives them.
static AWS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?-u)\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b|\b(?:aws|AWS|Aws)_?(?i:secret_?(?:access_?)?key)["'\\]{0,2}\s{0,4}[:=]{1,2}\s{0,4}["'\\]{0,2}[A-Za-z0-9/+]{40}"#,
    )
});

/// An RSA key of 16,384 bits has 12.6 KB.
const PEM_BYTES_MAX: usize = 16 * 1024;

static PEM_BEGIN: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?-u)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"));
static PEM_END: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?-u)-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"));

fn regex(form: &str) -> Regex {
    Regex::new(form).expect("the forms above are regular expressions")
}

/// Where runs of each class end, so that no byte is read once for each beginning in its run. Asked in ascending order.
#[derive(Default)]
struct Runs([usize; 3]);

impl Runs {
    fn end(&mut self, text: &[u8], class: Class, start: usize) -> usize {
        let known = &mut self.0[class as usize];
        if start >= *known {
            let run = text.iter().skip(start).take_while(|b| class.has(**b));
            *known = start + run.count();
        }
        (*known).max(start)
    }
}

/// Bytes of the shortest token, Slack's.
const BYTES_MIN: usize = 15;

pub(super) fn find(text: &str, wanted: Detectors, found: &mut Vec<Found>) {
    if text.len() < BYTES_MIN {
        return;
    }
    let bytes = text.as_bytes();
    let mut runs = Runs::default();
    let mut later = [Runs::default(), Runs::default()];
    let mut push = |detector: Detector, start: usize, end: usize| {
        if wanted.has(detector)
            && let Some(value) = text.get(start..end)
        {
            found.push(Found {
                range: start..end,
                detector,
                value: value.to_owned(),
            });
        }
    };
    for begin in BEGINNINGS.find_iter(text) {
        let Some(form) = FORMS.iter().find(|f| f.prefix == begin.as_str()) else {
            continue;
        };
        let mut end = runs.end(bytes, form.class, begin.end());
        if end - begin.end() < form.bytes_min {
            continue;
        }
        if form.detector == Detector::Jwt {
            // Header, payload and signature, which may be empty (RFC 7519 §6.1).
            for (runs, bytes_min) in later.iter_mut().zip([8, 0]) {
                let next = runs.end(bytes, Class::Url, end + 1);
                if bytes.get(end) != Some(&b'.') || next - (end + 1) < bytes_min {
                    end = 0;
                    break;
                }
                end = next;
            }
            if end == 0 {
                continue;
            }
        }
        let token = bytes.get(begin.end()..end).unwrap_or_default();
        if !form.digit || token.iter().take(256).any(u8::is_ascii_digit) {
            push(form.detector, begin.start(), end);
        }
    }
    let mut runs = Runs::default();
    for begin in BEARER.find_iter(text) {
        let mut end = runs.end(bytes, Class::Bearer, begin.end());
        let token = bytes.get(begin.end()..end).unwrap_or_default();
        if token.len() < 16 || !token.iter().take(256).any(u8::is_ascii_digit) {
            continue;
        }
        end += bytes
            .iter()
            .skip(end)
            .take_while(|b| **b == b'=')
            .take(2)
            .count();
        push(Detector::BearerToken, begin.start(), end);
    }
    for hit in AWS.find_iter(text) {
        push(Detector::AwsKey, hit.start(), hit.end());
    }
    let mut at = 0;
    while let Some(begin) = PEM_BEGIN.find_at(text, at) {
        // Of one that is cut off as much goes as a key may have.
        at = match PEM_END.find_at(text, begin.end()) {
            Some(end) => end.end(),
            None => (begin.end()..=begin.end() + PEM_BYTES_MAX)
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(text.len()),
        };
        push(Detector::PrivateKey, begin.start(), at);
    }
}
