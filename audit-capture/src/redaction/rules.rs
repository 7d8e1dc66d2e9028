//! Rule sets: how they are written, and what they are compiled to.

use std::collections::HashSet;

use audit_core::canonical;
use audit_core::{Error, Result};
use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::detect::Detectors;
use super::pointer::Pointer;

/// Rules of one set.
const RULES_MAX: usize = 256;
/// Patterns of one rule.
const PATTERNS_MAX: usize = 64;
/// Bytes of one pattern.
const PATTERN_BYTES_MAX: usize = 4096;
/// Bytes that a compiled pattern may take, and the cache of its automaton.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Rules under a name and a version, as they are written in a file.
///
/// What the version stands for is told by the SHA-256 of the set's canonical JSON, which the events name too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSet {
    /// `[a-z0-9_.-]{1,64}`
    pub name: String,
    /// Whoever changes a rule changes it.
    pub version: String,
    /// In order of precedence.
    #[serde(rename = "rule", default)]
    pub rules: Vec<Rule>,
}

/// What to look for, where, and what to do with it.
///
/// Where: without `headers`, `attributes`, `payloads` and `pointers` everywhere. What: without `detect` and `patterns` the
/// whole field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `[a-z0-9_.-]{1,64}`, unique in the set.
    pub name: String,
    /// What becomes of what is found.
    pub action: Action,
    /// Headers by their names, in any case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Attributes by their names; one that ends with `*` stands for all that begin so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// Payloads by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payloads: Vec<String>,
    /// JSON pointers (RFC 6901) into the payloads, or into every payload; a segment `*` stands for every member and item.
    /// What is below counts too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pointers: Vec<String>,
    /// Attributes in which the rule doesn't look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except_attributes: Vec<String>,
    /// Detectors, or groups of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detect: Vec<String>,
    /// Regular expressions, in the syntax of the crate `regex`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
}

/// What becomes of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// A mark stands for it that says what it was.
    Mask,
    /// Nothing stands for it.
    Drop,
    /// A keyed name stands for it, the same for equal values of a tenant.
    Pseudonymise,
    /// Of the field in which it was found only the length is left.
    MetadataOnly,
}

impl Action {
    /// Its name, as it is written in a rule.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mask => "mask",
            Self::Drop => "drop",
            Self::Pseudonymise => "pseudonymise",
            Self::MetadataOnly => "metadata_only",
        }
    }
}

impl RuleSet {
    /// The built-in set of this name and version: `personal-data@1`, `secrets@1`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid), naming those that there are.
    pub fn built_in(name_and_version: &str) -> Result<Self> {
        super::builtin::all()
            .into_iter()
            .find(|set| format!("{}@{}", set.name, set.version) == name_and_version)
            .ok_or_else(|| {
                let names: Vec<String> = super::builtin::all()
                    .iter()
                    .map(|set| format!("{}@{}", set.name, set.version))
                    .collect();
                Error::invalid(format!(
                    "there is no built-in rule set {:?}; there are {}",
                    shown(name_and_version),
                    names.join(", ")
                ))
            })
    }

    /// The SHA-256 of its canonical JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](audit_core::ErrorKind::Invalid) for what JSON can't hold, which text always can.
    pub fn sha256(&self) -> Result<String> {
        let bytes = canonical::to_vec(self)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        Ok(audit_core::hex::encode(&digest))
    }
}

/// A rule as it runs.
#[derive(Debug)]
pub(super) struct Compiled {
    /// Which rule set it is of.
    pub(super) set: usize,
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) detectors: Detectors,
    pub(super) patterns: Vec<Regex>,
    /// The same patterns, to see which of them can match at all.
    pub(super) any: Option<RegexSet>,
    pub(super) pointers: Vec<Pointer>,
    headers: HashSet<String>,
    attributes: Vec<String>,
    payloads: Vec<String>,
    except_attributes: Vec<String>,
    everywhere: bool,
}

impl Compiled {
    fn new(set: usize, rule: &Rule) -> Result<Self, String> {
        if !is_name(&rule.name) {
            return Err("its name is not of the form [a-z0-9_.-]{1,64}".to_owned());
        }
        let mut detectors = Detectors::default();
        for name in &rule.detect {
            let found = Detectors::named(name).ok_or_else(|| {
                format!(
                    "there is no detector {:?}; there are {}",
                    shown(name),
                    Detectors::names().join(", ")
                )
            })?;
            detectors = detectors.with(found);
        }
        if rule.patterns.len() > PATTERNS_MAX {
            return Err(format!(
                "{} patterns, allowed are {PATTERNS_MAX}",
                rule.patterns.len()
            ));
        }
        let patterns = rule
            .patterns
            .iter()
            .map(|pattern| compiled(pattern))
            .collect::<Result<Vec<_>, _>>()?;
        let any = match patterns.len() {
            0 => None,
            _ => Some(
                RegexSetBuilder::new(&rule.patterns)
                    .size_limit(COMPILED_BYTES_MAX * 4)
                    .build()
                    .map_err(|e| format!("its patterns together: {e}"))?,
            ),
        };
        let pointers = rule
            .pointers
            .iter()
            .map(|text| Pointer::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        for (what, names) in [
            ("header", &rule.headers),
            ("attribute", &rule.attributes),
            ("payload", &rule.payloads),
            ("attribute", &rule.except_attributes),
        ] {
            if let Some(name) = names.iter().find(|n| n.is_empty() || n.as_str() == "*") {
                return Err(format!("{name:?} is no name of a {what}"));
            }
        }
        let named = !(rule.headers.is_empty() && rule.attributes.is_empty());
        if named && !pointers.is_empty() {
            return Err(
                "pointers look into payloads; headers and attributes need a rule of their own"
                    .to_owned(),
            );
        }
        let everywhere = !named && rule.payloads.is_empty() && pointers.is_empty();
        let whole = detectors.is_empty() && patterns.is_empty();
        if whole && everywhere && rule.action != Action::MetadataOnly {
            return Err(format!(
                "it would {} everything: name detectors or patterns, or headers, attributes, payloads or pointers",
                rule.action.as_str()
            ));
        }
        Ok(Self {
            set,
            name: rule.name.clone(),
            action: rule.action,
            detectors,
            patterns,
            any,
            pointers,
            headers: rule.headers.iter().map(|h| h.to_lowercase()).collect(),
            attributes: rule.attributes.clone(),
            payloads: rule.payloads.clone(),
            except_attributes: rule.except_attributes.clone(),
            everywhere,
        })
    }

    /// Takes the whole field in which it applies.
    pub(super) fn is_whole(&self) -> bool {
        self.detectors.is_empty() && self.patterns.is_empty()
    }

    /// Names no place.
    pub(super) fn is_everywhere(&self) -> bool {
        self.everywhere
    }

    pub(super) fn applies_to_attribute(&self, name: &str) -> bool {
        (self.everywhere || self.attributes.iter().any(|a| is_of(a, name)))
            && !self.except_attributes.iter().any(|a| is_of(a, name))
    }

    /// Applies to this header because it names it.
    pub(super) fn names_header(&self, name: &str) -> bool {
        self.headers.contains(&name.to_lowercase())
    }

    /// Applies to the payload, or to what its pointers name there.
    pub(super) fn applies_to_payload(&self, name: &str) -> bool {
        self.everywhere
            || self.payloads.iter().any(|p| p == name)
            || (self.payloads.is_empty() && !self.pointers.is_empty())
    }
}

fn is_of(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!(
            "a pattern of {} bytes, allowed are {PATTERN_BYTES_MAX}",
            pattern.len()
        ));
    }
    let regex = RegexBuilder::new(pattern)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(COMPILED_BYTES_MAX)
        .nest_limit(64)
        .build()
        .map_err(|e| format!("pattern {:?}: {e}", shown(pattern)))?;
    if regex.is_match("") {
        return Err(format!(
            "pattern {:?} matches where nothing is",
            shown(pattern)
        ));
    }
    Ok(regex)
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-')
        })
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Compiles and checks rule sets.
pub(super) fn compile(sets: &[RuleSet]) -> Result<Vec<Compiled>> {
    let mut compiled = Vec::new();
    let mut names = HashSet::new();
    for (n, set) in sets.iter().enumerate() {
        let wrong = |what: String| {
            Err(Error::invalid(format!(
                "rule set {:?}: {what}",
                shown(&set.name)
            )))
        };
        if !is_name(&set.name) {
            return wrong("its name is not of the form [a-z0-9_.-]{1,64}".to_owned());
        }
        if !(1..=64).contains(&set.version.len()) {
            return wrong(format!(
                "its version has {} bytes, allowed are 1 to 64",
                set.version.len()
            ));
        }
        if !names.insert(&set.name) {
            return wrong("it is there twice".to_owned());
        }
        if !(1..=RULES_MAX).contains(&set.rules.len()) {
            return wrong(format!(
                "{} rules, allowed are 1 to {RULES_MAX}",
                set.rules.len()
            ));
        }
        let mut rules = HashSet::new();
        for rule in &set.rules {
            if !rules.insert(&rule.name) {
                return wrong(format!("rule {:?} is there twice", shown(&rule.name)));
            }
            match Compiled::new(n, rule) {
                Ok(rule) => compiled.push(rule),
                Err(why) => return wrong(format!("rule {:?}: {why}", shown(&rule.name))),
            }
        }
    }
    Ok(compiled)
}
