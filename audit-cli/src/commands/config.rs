//! `audit-trail config show`.

use crate::cli::ConfigCommand;
use crate::config::{OthersFile, Settings, Source, UpstreamFile};
use crate::context::StoreUrl;
use crate::error::Result;
use crate::output;

pub(crate) fn run(settings: &Settings, command: &ConfigCommand) -> Result<u8> {
    let ConfigCommand::Show { origin } = command;
    let show = |name: &str, value: &str, source: &Source| {
        if *origin {
            output::line(format_args!("{name} = {value:?}  # {source}"))
        } else {
            output::line(format_args!("{name} = {value:?}"))
        }
    };
    let file = || Source::File(settings.file.clone().unwrap_or_default());
    for (name, setting) in [("store", &settings.store), ("key", &settings.key)] {
        if let Some(setting) = setting {
            // The environment may hold a URL with a password.
            let shown = setting.value.parse::<StoreUrl>();
            let shown = shown.ok().filter(StoreUrl::has_password);
            let shown = shown.map_or_else(|| setting.value.clone(), |url| url.to_string());
            show(name, &shown, &setting.source)?;
        }
    }
    show(
        "state_dir",
        &settings.state_dir.value.to_string_lossy(),
        &settings.state_dir.source,
    )?;
    for (name, setting) in [("vkey", &settings.vkey), ("opened", &settings.opened)] {
        if let Some(setting) = setting {
            show(name, &setting.value, &setting.source)?;
        }
    }
    let serve = super::serve::effective(settings, None, &[])?;
    let source = |set: bool| if set { file() } else { Source::Default };
    show(
        "serve.listen",
        &serve.listen,
        &source(settings.serve.listen.is_some()),
    )?;
    for (name, upstream) in &serve.upstreams {
        let source = source(settings.serve.upstreams.contains_key(name));
        let what = format!("serve.upstreams.{name}");
        let UpstreamFile::Table(table) = upstream else {
            show(&what, upstream.url(), &source)?;
            continue;
        };
        show(&format!("{what}.url"), &table.url, &source)?;
        if let Some(provider) = &table.provider {
            show(&format!("{what}.provider"), provider, &source)?;
        }
        if let Some(on) = table.on_audit_failure {
            show(&format!("{what}.on_audit_failure"), on.as_str(), &source)?;
        }
        if !table.hosts.is_empty() {
            show(&format!("{what}.hosts"), &table.hosts.join(", "), &source)?;
        }
    }
    let intercept = &settings.serve.intercept;
    if let Some(enabled) = intercept.enabled {
        show("serve.intercept.enabled", &enabled.to_string(), &file())?;
    }
    if let Some(ca) = &intercept.ca {
        show("serve.intercept.ca", &ca.to_string_lossy(), &file())?;
    }
    if let Some(hosts) = &intercept.hosts {
        show("serve.intercept.hosts", &hosts.join(", "), &file())?;
    }
    if let Some(others) = intercept.others {
        let others = match others {
            OthersFile::Tunnel => "tunnel",
            OthersFile::Refuse => "refuse",
        };
        show("serve.intercept.others", others, &file())?;
    }
    let numbers = [
        (
            "request_body_bytes_max",
            settings.serve.request_body_bytes_max,
        ),
        (
            "response_record_bytes_max",
            settings.serve.response_record_bytes_max,
        ),
        ("connect_timeout_ms", settings.serve.connect_timeout_ms),
        (
            "response_head_timeout_ms",
            settings.serve.response_head_timeout_ms,
        ),
        (
            "response_idle_timeout_ms",
            settings.serve.response_idle_timeout_ms,
        ),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            show(&format!("serve.{name}"), &value.to_string(), &file())?;
        }
    }
    for (name, value) in settings.serve.limits.all() {
        if let Some(value) = value {
            show(&format!("serve.limits.{name}"), &value.to_string(), &file())?;
        }
    }
    for (what, on) in [
        ("serve", settings.serve.on_audit_failure),
        ("serve.intercept", intercept.on_audit_failure),
    ] {
        if let Some(on) = on {
            show(&format!("{what}.on_audit_failure"), on.as_str(), &file())?;
        }
    }
    if let Some(dir) = &settings.serve.spool.dir {
        show("serve.spool.dir", &dir.to_string_lossy(), &file())?;
    }
    if let Some(bytes) = settings.serve.spool.bytes_max {
        show("serve.spool.bytes_max", &bytes.to_string(), &file())?;
    }
    if let Some(system) = &settings.serve.system {
        show("serve.system", system, &file())?;
    }
    if let Some(redactor) = crate::redaction::redactor(settings)? {
        show(
            "redaction",
            &crate::redaction::told(settings, &redactor),
            &file(),
        )?;
    }
    if let Some(url) = &settings.mirror.url {
        show("mirror.url", &super::mirror::shown(url), &file())?;
    }
    Ok(0)
}
