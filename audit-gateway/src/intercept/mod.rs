//! The intercepting proxy: clients that ask for a tunnel to a provider's host get TLS with a certificate of ours, and what
//! they say in it is recorded like everything that comes to the gateway. Tunnels to other hosts stay closed to us, and
//! are recorded as that.

mod authority;
pub(crate) mod door;
mod hosts;

use std::sync::Arc;

use audit_core::event::Guarantee;

pub use authority::CertificateAuthority;
pub use hosts::HostPattern;
pub(crate) use hosts::host_name;

use crate::error::{Error, Result};

/// The hosts of all providers that are known: those that are intercepted if nobody says which.
#[must_use]
pub fn provider_hosts() -> Vec<HostPattern> {
    audit_capture::provider_hosts()
        .into_iter()
        .filter_map(|host| host.parse().ok())
        .collect()
}

/// What becomes of a client that asks for a tunnel to a host that isn't intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TunnelPolicy {
    /// It gets it; that it was opened, and how many bytes went through, is recorded.
    #[default]
    Open,
    /// It is refused: then nothing leaves through this proxy that isn't recorded.
    Refuse,
}

/// The intercepting proxy's settings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Intercept {
    /// Issues the certificates that clients see.
    pub authority: Arc<CertificateAuthority>,
    /// The hosts that are intercepted.
    pub hosts: Vec<HostPattern>,
    /// What becomes of all others.
    pub others: TunnelPolicy,
    /// What becomes of calls and tunnels that can't be recorded; see
    /// [`Upstream::on_audit_failure`](crate::Upstream::on_audit_failure).
    pub on_audit_failure: Guarantee,
}

impl Intercept {
    /// Intercepts `hosts`, and lets tunnels to others through.
    #[must_use]
    pub fn new(authority: Arc<CertificateAuthority>, hosts: Vec<HostPattern>) -> Self {
        Self {
            authority,
            hosts,
            others: TunnelPolicy::Open,
            on_audit_failure: Guarantee::Closed,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.hosts.iter().find(|h| !self.authority.allows(h)) {
            Some(host) => Err(Error::invalid(format!(
                "the certificate authority may not speak for {host}"
            ))),
            None => Ok(()),
        }
    }

    fn means(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_provider_is_not_intercepted_for_its_host_is_no_pattern() {
        let known = audit_capture::provider_hosts();
        assert!(!known.is_empty());
        assert_eq!(super::provider_hosts().len(), known.len(), "{known:?}");
    }
}
