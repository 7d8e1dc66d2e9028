//! The rule sets that come with the program. One that is changed gets another version, so that records stay readable.

use super::rules::{Action, Rule, RuleSet};

fn rule(name: &str, action: Action, detect: &[&str], except_attributes: &[&str]) -> Rule {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Rule {
        name: name.to_owned(),
        action,
        headers: Vec::new(),
        attributes: Vec::new(),
        payloads: Vec::new(),
        pointers: Vec::new(),
        except_attributes: owned(except_attributes),
        detect: owned(detect),
        patterns: Vec::new(),
    }
}

pub(super) fn all() -> Vec<RuleSet> {
    vec![
        RuleSet {
            name: "personal-data".to_owned(),
            version: "1".to_owned(),
            rules: vec![
                rule("email", Action::Pseudonymise, &["email"], &[]),
                rule("iban", Action::Mask, &["iban"], &[]),
                rule("card", Action::Mask, &["card"], &[]),
                rule("national-id", Action::Mask, &["national_id"], &[]),
                rule("phone", Action::Pseudonymise, &["phone"], &[]),
                // The upstream's address is the operator's, and says where the call went.
                rule("ip", Action::Pseudonymise, &["ip"], &["server.address"]),
            ],
        },
        RuleSet {
            name: "secrets".to_owned(),
            version: "1".to_owned(),
            rules: vec![rule("secret", Action::Mask, &["secret"], &[])],
        },
    ]
}
