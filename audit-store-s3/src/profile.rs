//! The AWS tools' own files, `~/.aws/credentials` and `~/.aws/config`: what `AWS_PROFILE` names in them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use audit_core::{Error, Result};

const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What a profile says.
#[derive(Default)]
pub(crate) struct Profile {
    /// Id, secret, session token.
    pub(crate) keys: Option<(String, String, Option<String>)>,
    pub(crate) region: Option<String>,
}

/// The profile of this process's environment; empty if there is none.
pub(crate) fn read() -> Result<Profile> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = set("HOME").map(PathBuf::from);
    let file = |variable: &str, name: &str| {
        set(variable)
            .map(PathBuf::from)
            .or_else(|| Some(home.clone()?.join(".aws").join(name)))
    };
    let named = set("AWS_PROFILE");
    let name = named.as_deref().unwrap_or("default");
    let mut values = BTreeMap::new();
    for (path, is_config) in [
        (file("AWS_CONFIG_FILE", "config"), true),
        (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), false),
    ] {
        let Some(path) = path else { continue };
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() <= FILE_BYTES_MAX => {}
            _ => continue,
        }
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        values.extend(section(&text, name, is_config));
    }
    if values.is_empty() && named.is_some() {
        return Err(Error::invalid(format!(
            "AWS_PROFILE names {name:?}, and neither of the files in ~/.aws has it"
        )));
    }
    let mut take = |name: &str| values.remove(name).filter(|value| !value.is_empty());
    let keys = take("aws_access_key_id").zip(take("aws_secret_access_key"));
    let token = take("aws_session_token");
    Ok(Profile {
        keys: keys.map(|(id, secret)| (id, secret, token)),
        region: take("region"),
    })
}

/// The lines of one profile. In `config` all but the default one are called `profile NAME`.
fn section(text: &str, name: &str, is_config: bool) -> BTreeMap<String, String> {
    let mut inside = false;
    let mut values = BTreeMap::new();
    for line in text.lines() {
        // What is indented belongs to a nested setting.
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.starts_with(['#', ';']) || line.is_empty() {
            continue;
        }
        if let Some(title) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            let title = title.trim();
            let of_config = title.strip_prefix("profile").map(str::trim);
            inside = title == name && (!is_config || name == "default")
                || is_config && of_config == Some(name);
        } else if inside
            && !nested
            && let Some((key, value)) = line.split_once('=')
        {
            values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_its_own_section_and_no_other() {
        let text = "[default]\nregion = a\n# x\n[profile audit]\nregion=b\ns3 =\n  region = nested\n[audit2]\nregion=c\n";
        let region = |name, config| section(text, name, config).remove("region");
        assert_eq!(region("default", true).as_deref(), Some("a"));
        assert_eq!(region("audit", true).as_deref(), Some("b"));
        assert_eq!(region("audit", false), None);
        assert_eq!(region("audit2", false).as_deref(), Some("c"));
        assert_eq!(region("audit2", true), None);
    }
}
