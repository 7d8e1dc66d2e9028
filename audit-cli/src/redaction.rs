//! The section `redaction` of the settings, and what it stands for.

use std::path::Path;

use audit_capture::redaction::{Identities, Options, Redactor, RuleSet, Tenant};

use crate::config::{Settings, read_toml};
use crate::error::{CliError, Result};

const HINT: &str =
    "see docs/redaction.md; `audit-trail redaction rules` prints the rules that are on";

/// Every rule set that the settings name, in their order: built-in ones, those of files, those of the settings.
pub(crate) fn rule_sets(settings: &Settings) -> Result<Vec<RuleSet>> {
    let Some(file) = &settings.redaction else {
        return Ok(Vec::new());
    };
    let folder = settings.file.as_deref().and_then(Path::parent);
    let mut sets = Vec::new();
    for name in &file.rule_sets {
        sets.push(RuleSet::built_in(name).map_err(wrong)?);
    }
    for path in &file.files {
        let path = folder.unwrap_or(Path::new("")).join(path);
        sets.push(read_toml(&path, "file of rules")?);
    }
    sets.extend(file.rule_set.iter().cloned());
    Ok(sets)
}

/// The filter that the settings ask for.
pub(crate) fn redactor(settings: &Settings) -> Result<Option<Redactor>> {
    let Some(file) = &settings.redaction else {
        return Ok(None);
    };
    let mut options = Options::new(rule_sets(settings)?);
    if options.rule_sets.is_empty() && file.identities == Identities::Keep {
        // Nobody writes this section to have nothing redacted.
        return Err(CliError::usage("the section redaction names no rule set").hint(HINT));
    }
    options.unreadable = file.unreadable;
    options.identities = file.identities;
    options.tenant = match (&file.tenant, &file.tenant_from) {
        (Some(_), Some(_)) => {
            return Err(CliError::usage(
                "redaction.tenant and redaction.tenant_from exclude each other",
            )
            .hint(HINT));
        }
        (None, Some(source)) => Tenant::parse_source(source).map_err(wrong)?,
        (tenant, None) => Tenant::Fixed(tenant.clone().unwrap_or_default()),
    };
    Redactor::new(options).map(Some).map_err(wrong)
}

/// What is on, in one line.
pub(crate) fn told(settings: &Settings, redactor: &Redactor) -> String {
    let sets: Vec<String> = redactor.rule_sets().collect();
    let sets = if sets.is_empty() {
        "no rules".to_owned()
    } else {
        sets.join(", ")
    };
    let identities = settings
        .redaction
        .as_ref()
        .is_some_and(|file| file.identities == Identities::Pseudonymise);
    let identities = if identities {
        "; identities are pseudonyms"
    } else {
        ""
    };
    format!("{sets}{identities}")
}

fn wrong(e: audit_core::Error) -> CliError {
    CliError::from(e).code(2).hint(HINT)
}
