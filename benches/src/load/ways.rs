//! The ways that a call can take, and the processes that make them.

use std::path::Path;

use crate::Result;
use crate::load::client::Way;
use crate::load::process::Running;

/// Calls to a provider directly, through nginx, and through the gateway.
#[derive(Debug)]
pub struct Parties {
    /// Answers.
    pub provider: Running,
    /// If it is installed.
    pub nginx: Option<Running>,
    /// The real one, with a log on this disk.
    pub gateway: Running,
}

impl Parties {
    /// Starts them, with their files in `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let provider = Running::own("provider", &["provider"])?;
        Ok(Self {
            nginx: Running::nginx(dir, provider.address)?,
            gateway: Running::gateway(dir, &[("openai", provider.address)])?,
            provider,
        })
    }

    /// The ways, the direct one first.
    #[must_use]
    pub fn ways(&self) -> Vec<Way> {
        let way = |name, party: &Running, prefix: &str| Way {
            name,
            address: party.address,
            prefix: prefix.to_owned(),
        };
        std::iter::once(way(DIRECT, &self.provider, ""))
            .chain(self.nginx.iter().map(|nginx| way(NGINX, nginx, "")))
            .chain([way(GATEWAY, &self.gateway, "/openai")])
            .collect()
    }

    /// The process that stands between client and provider on a way.
    #[must_use]
    pub fn between(&self, way: &Way) -> Option<&Running> {
        match way.name {
            NGINX => self.nginx.as_ref(),
            GATEWAY => Some(&self.gateway),
            _ => None,
        }
    }
}

/// Straight to the provider.
pub const DIRECT: &str = "direct";
/// Through nginx.
pub const NGINX: &str = "nginx";
/// Through the gateway.
pub const GATEWAY: &str = "gateway";
/// Through a gateway whose log lies in memory.
pub const MEMORY: &str = "gateway, log in memory";
