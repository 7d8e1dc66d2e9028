//! Compliance modes: a claim about purpose, and what follows from it as a proposal.

use audit_core::{Error, Result};
use serde_json::{Map, Value, json};

/// What a service says it is used for.
///
/// **A mode proves nothing.** It changes no byte of how events are recorded, no check runs because of it, and no report
/// may count it, or what it proposes, as evidence. It is written into `session.opened` as the service's own claim, with
/// what it proposes: the facts that a named person has to declare before a rule can be assessed at all, and how long to
/// keep the records. Medical use can mean Part 11, HIPAA, the AI Act or none of them; a word in a configuration decides
/// that for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ComplianceMode {
    /// Records that FDA's predicate rules may ask for (21 CFR Part 11), health information (HIPAA).
    Medical,
    /// Records that may matter to internal control over financial reporting (SOX 404).
    Financial,
    /// A system that may be a high-risk one of Regulation (EU) 2024/1689.
    EuAiAct,
}

impl ComplianceMode {
    /// The value of the attribute `audit.compliance_mode`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Medical => "medical",
            Self::Financial => "financial",
            Self::EuAiAct => "eu_ai_act",
        }
    }

    /// The applicability facts that a person has to declare (`profile.declared`); none of them has a value here.
    #[must_use]
    pub fn proposed_facts(self) -> &'static [&'static str] {
        match self {
            Self::Medical => &[
                "fda.esig",
                "fda.predicate_rules",
                "fda.profile",
                "fda.system",
                "gdpr.special_categories",
                "hipaa.ephi_in_log",
                "hipaa.role",
            ],
            Self::Financial => &[
                "sec.path",
                "sec.record_classes",
                "sec.registrant",
                "sox.filer",
                "sox.in_scope_systems",
                "sox.issuer",
            ],
            Self::EuAiAct => &[
                "aia.annexIII_points",
                "aia.class",
                "aia.decides_about_persons",
                "aia.financial_institution",
                "aia.first_placed",
                "aia.profiling",
                "aia.public_authority",
                "aia.role",
                "aia.significant_change",
                "aia.workplace",
                "gdpr.personal_data_in_log",
            ],
        }
    }

    /// How long to keep the records, where the rules behind the mode name a number.
    ///
    /// - Medical: none. 21 CFR 11.10(c) and (e) ask for as long as the records that the trail is about are kept, and that
    ///   is for the predicate rule to say (211.180, 312.57, 820 …); Part 11 has no number of years.
    /// - Financial: 7 years, by policy. 17 CFR 210.2-06 (SOX 802) binds the accountant who audits, from the conclusion of
    ///   the audit; for the issuer's own logs it is a custom, not a duty.
    /// - EU AI Act: 6 months, the least that Art. 19(1) asks of a provider and Art. 26(6) of a deployer for automatic
    ///   logs; the purpose, or other law, may ask for more. The ten years of Art. 18 are for documentation, not for logs.
    #[must_use]
    pub fn proposed_retention(self) -> Option<Retention> {
        let (months, basis) = match self {
            Self::Medical => return None,
            Self::Financial => (
                84,
                "policy: mirrors 17 CFR 210.2-06, which binds the auditor",
            ),
            Self::EuAiAct => (6, "minimum: Regulation (EU) 2024/1689 Art. 19(1) and 26(6)"),
        };
        Some(Retention { months, basis })
    }
}

/// How long records are to be kept, and who says so. It is a claim in the log; nothing is deleted or locked by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Months.
    pub months: u32,
    /// Where the number comes from.
    pub basis: &'static str,
}

/// Years that can be asked for; more is a mistake in the unit.
const YEARS_MAX: u32 = 200;

/// What a service claims about itself in every `session.opened`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Claims {
    pub(crate) mode: Option<ComplianceMode>,
    pub(crate) retention_years: Option<u32>,
    pub(crate) electronic_signatures: Option<bool>,
}

impl Claims {
    pub(crate) fn check(&self) -> Result<()> {
        match self.retention_years {
            Some(years) if !(1..=YEARS_MAX).contains(&years) => Err(Error::invalid(format!(
                "retention_years is {years}, allowed are 1 to {YEARS_MAX}"
            ))),
            _ => Ok(()),
        }
    }

    /// What is given wins over what the mode proposes.
    pub(crate) fn retention(&self) -> Option<Retention> {
        match self.retention_years {
            Some(years) => Some(Retention {
                months: years.saturating_mul(12),
                basis: "given by the service",
            }),
            None => self.mode.and_then(ComplianceMode::proposed_retention),
        }
    }

    pub(crate) fn attributes(&self) -> Map<String, Value> {
        let mut attributes = Map::new();
        let mut set = |name: &str, value: Value| attributes.insert(name.to_owned(), value);
        if let Some(mode) = self.mode {
            set("audit.compliance_mode", json!(mode.as_str()));
            set("audit.proposed_facts", json!(mode.proposed_facts()));
        }
        if let Some(retention) = self.retention() {
            set("audit.retention_months", json!(retention.months));
            set("audit.retention_basis", json!(retention.basis));
        }
        if let Some(intended) = self.electronic_signatures {
            set("audit.electronic_signatures", json!(intended));
        }
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(mode: Option<ComplianceMode>, retention_years: Option<u32>) -> Claims {
        Claims {
            mode,
            retention_years,
            electronic_signatures: None,
        }
    }

    #[test]
    fn part_11_is_not_said_to_have_a_number_of_years() {
        let medical = claims(Some(ComplianceMode::Medical), None).attributes();
        assert_eq!(medical["audit.compliance_mode"], "medical");
        assert!(
            !medical.contains_key("audit.retention_months"),
            "{medical:?}"
        );
    }

    #[test]
    fn what_is_given_wins_over_what_a_mode_proposes() {
        for mode in [
            None,
            Some(ComplianceMode::Medical),
            Some(ComplianceMode::Financial),
            Some(ComplianceMode::EuAiAct),
        ] {
            let given = claims(mode, Some(10)).attributes();
            assert_eq!(given["audit.retention_months"], 120, "{mode:?}");
            assert_eq!(given["audit.retention_basis"], "given by the service");
        }
        let financial = claims(Some(ComplianceMode::Financial), None).attributes();
        assert_eq!(financial["audit.retention_months"], 84);
        let act = claims(Some(ComplianceMode::EuAiAct), None).attributes();
        assert_eq!(act["audit.retention_months"], 6);
    }

    #[test]
    fn without_a_claim_nothing_is_claimed() {
        assert!(Claims::default().attributes().is_empty());
        Claims::default().check().unwrap();
        claims(None, Some(1)).check().unwrap();
        claims(None, Some(YEARS_MAX)).check().unwrap();
        for years in [0, YEARS_MAX + 1, u32::MAX] {
            claims(None, Some(years)).check().unwrap_err();
        }
    }
}
