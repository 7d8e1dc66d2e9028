//! The hosts at which providers are.

use crate::provider;

/// The hosts of every provider that is known, in order, none twice: a name, or with a dot before it every name below.
#[must_use]
pub fn provider_hosts() -> Vec<&'static str> {
    let mut hosts: Vec<&str> = provider::ALL
        .iter()
        .flat_map(|provider| provider.hosts().iter().copied())
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
}
