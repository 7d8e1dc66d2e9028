//! The hosts at which providers are.

use crate::provider;

/// The hosts of every provider that is known, in order, none twice: a name, with a dot before it every name below, and
/// with `*` for one or more characters within a label.
#[must_use]
pub fn provider_hosts() -> Vec<&'static str> {
    let mut hosts: Vec<&str> = provider::ALL
        .iter()
        .flat_map(|provider| provider.hosts)
        .map(|host| match host.strip_prefix('*') {
            Some(below) if below.starts_with('.') => below,
            _ => host,
        })
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}
