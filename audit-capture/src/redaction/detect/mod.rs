//! Detectors: what of a text is personal data or a secret, by its form and its check digits.
//!
//! Each takes time linear in the text. A detector looks at one text; what stands before it (a member's name, a header's
//! name, the words to its left) is context, which the weaker ones ask for. `docs/redaction.md` says by which rule each
//! decides, and where the rule comes from.

mod checks;
mod digits;
mod letters;
mod network;
mod secrets;

use std::ops::Range;

/// What a detector finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Detector {
    Email,
    Iban,
    Card,
    UsSsn,
    UkNino,
    DeTaxId,
    FrNir,
    ItCodiceFiscale,
    EsDni,
    NlBsn,
    ChAhv,
    PlPesel,
    InAadhaar,
    BrCpf,
    Phone,
    Ip,
    AnthropicKey,
    OpenAiKey,
    GoogleKey,
    AwsKey,
    GithubToken,
    SlackToken,
    StripeKey,
    HuggingFaceToken,
    Jwt,
    PrivateKey,
    BearerToken,
    /// Panics, so that tests see what then becomes of the field.
    #[cfg(test)]
    Panics,
}

use Detector as D;

impl Detector {
    /// All, under their names; those with a dot belong to the group before it.
    const NAMES: &[(&'static str, Self)] = &[
        ("email", Self::Email),
        ("iban", Self::Iban),
        ("card", Self::Card),
        ("national_id.us_ssn", Self::UsSsn),
        ("national_id.uk_nino", Self::UkNino),
        ("national_id.de_tax_id", Self::DeTaxId),
        ("national_id.fr_nir", Self::FrNir),
        ("national_id.it_codice_fiscale", Self::ItCodiceFiscale),
        ("national_id.es_dni", Self::EsDni),
        ("national_id.nl_bsn", Self::NlBsn),
        ("national_id.ch_ahv", Self::ChAhv),
        ("national_id.pl_pesel", Self::PlPesel),
        ("national_id.in_aadhaar", Self::InAadhaar),
        ("national_id.br_cpf", Self::BrCpf),
        ("phone", Self::Phone),
        ("ip", Self::Ip),
        ("secret.anthropic_key", Self::AnthropicKey),
        ("secret.openai_key", Self::OpenAiKey),
        ("secret.google_key", Self::GoogleKey),
        ("secret.aws_key", Self::AwsKey),
        ("secret.github_token", Self::GithubToken),
        ("secret.slack_token", Self::SlackToken),
        ("secret.stripe_key", Self::StripeKey),
        ("secret.huggingface_token", Self::HuggingFaceToken),
        ("secret.jwt", Self::Jwt),
        ("secret.private_key", Self::PrivateKey),
        ("secret.bearer_token", Self::BearerToken),
        #[cfg(test)]
        ("panics", Self::Panics),
    ];

    /// Its name, in rules and marks.
    pub(crate) fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, detector)| *detector == self)
            .map_or("", |(name, _)| name)
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// A set of detectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Detectors(u32);

impl Detectors {
    /// The detector of this name, or all of the group.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let bits = Detector::NAMES
            .iter()
            .filter(|(n, _)| {
                *n == name || n.split_once('.').is_some_and(|(group, _)| group == name)
            })
            .fold(0, |bits, (_, detector)| bits | detector.bit());
        (bits != 0).then_some(Self(bits))
    }

    /// Names of all detectors and groups.
    pub(crate) fn names() -> Vec<&'static str> {
        let mut names = Vec::new();
        for (name, _) in Detector::NAMES {
            if let Some((group, _)) = name.split_once('.')
                && !names.contains(&group)
            {
                names.push(group);
            }
            names.push(name);
        }
        names
    }

    pub(crate) fn has(self, detector: Detector) -> bool {
        self.0 & detector.bit() != 0
    }

    fn any(self, detectors: &[Detector]) -> bool {
        detectors.iter().any(|d| self.has(*d))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where, in bytes of the text.
    pub(crate) range: Range<usize>,
    pub(crate) detector: Detector,
    /// In the one spelling that pseudonyms are made of.
    pub(crate) value: String,
}

/// Where a text stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place<'p> {
    /// The name of the member, attribute or header whose value it is.
    pub(crate) name: &'p str,
    /// It is a JSON number: times and counters are many, so what only looks like an id isn't one without its name.
    pub(crate) number: bool,
}

/// Bytes before a match in which words of context are looked for.
const CONTEXT_BYTES: usize = 48;

/// Finds what `wanted` detectors find, in no order; ranges may overlap.
pub(crate) fn find(text: &str, place: Place<'_>, wanted: Detectors, found: &mut Vec<Found>) {
    // The shortest thing that any detector finds: a NINO, an e-mail address and an IP address have more.
    if text.len() < 6 || wanted.is_empty() {
        return;
    }
    #[cfg(test)]
    if wanted.has(D::Panics) && text.contains("panic now") {
        std::panic::resume_unwind(Box::new("as asked"));
    }
    let context = Context { text, place };
    if wanted.has(D::Email) && text.contains('@') {
        network::emails(text, found);
    }
    if wanted.any(secrets::DETECTORS) && !place.number {
        secrets::find(text, wanted, found);
    }
    if wanted.has(D::Ip) && !place.number {
        network::addresses(text, found);
    }
    let bytes = text.as_bytes();
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    if digits < 4 {
        return;
    }
    if wanted.any(letters::DETECTORS) && digits < bytes.len() {
        letters::find(text, wanted, found);
    }
    if digits >= 7 && wanted.any(digits::DETECTORS) {
        digits::find(&context, wanted, found);
    }
}

/// What stands before a match.
struct Context<'t> {
    text: &'t str,
    place: Place<'t>,
}

impl Context<'_> {
    /// Whether one of `words` (in lower case) stands in the name of the place, or shortly before `at`.
    fn has(&self, at: usize, words: &[&str]) -> bool {
        let before = self
            .text
            .as_bytes()
            .get(at.saturating_sub(CONTEXT_BYTES)..at);
        [before.unwrap_or_default(), self.place.name.as_bytes()]
            .iter()
            .any(|text| words.iter().any(|word| has_word(text, word.as_bytes())))
    }
}

/// Whether `word` stands in `text`, in any case. A short word must stand alone, where camel case ends a word too.
fn has_word(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).enumerate().any(|(at, window)| {
        if !window.eq_ignore_ascii_case(word) {
            return false;
        }
        if word.len() > 4 {
            return true;
        }
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        let after = text.get(at + word.len());
        let begins = before.is_none_or(|b| !b.is_ascii_alphabetic())
            || (before.is_some_and(u8::is_ascii_lowercase)
                && window.first().is_some_and(u8::is_ascii_uppercase));
        let ends = after.is_none_or(|b| !b.is_ascii_alphabetic())
            || (after.is_some_and(u8::is_ascii_uppercase)
                && window.last().is_some_and(u8::is_ascii_lowercase));
        begins && ends
    })
}

/// Whether letters, digits or an underscore touch the byte range from outside, so that it is a part of something longer.
fn is_inside(text: &str, range: &Range<usize>) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.get(..range.start)
        .and_then(|t| t.chars().next_back())
        .is_some_and(word)
        || text
            .get(range.end..)
            .and_then(|t| t.chars().next())
            .is_some_and(word)
}

#[cfg(test)]
mod tests;
