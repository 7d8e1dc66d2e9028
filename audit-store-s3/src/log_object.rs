//! The object `log`: which log this is, and how its objects are locked.

use audit_core::canonical;
use audit_core::entry::check_origin;
use audit_core::time::Timestamp;
use audit_core::{Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The layout that this program writes and reads.
pub(crate) const LAYOUT: u32 = 1;
const DAY_MICROS: i64 = 86_400_000_000;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Encoded {
    layout: u32,
    lock: bool,
    origin: String,
    retain_days: u32,
}

/// What `log` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogObject {
    pub(crate) origin: String,
    /// `None` without Object Lock.
    pub(crate) retain_days: Option<u32>,
    /// SHA-256 of the object, which batch 0 names.
    pub(crate) digest: [u8; 32],
}

#[derive(Deserialize)]
struct OnlyLayout {
    layout: u32,
}

impl LogObject {
    pub(crate) fn make(origin: &str, retain_days: Option<u32>) -> Result<(Self, Bytes)> {
        check_origin(origin)?;
        let bytes = canonical::to_vec(&Encoded {
            layout: LAYOUT,
            lock: retain_days.is_some(),
            origin: origin.to_owned(),
            retain_days: retain_days.unwrap_or(0),
        })?;
        Ok((Self::decode(&bytes)?, bytes.into()))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        // The layout first, so that a newer log is called newer and not malformed.
        if let Ok(OnlyLayout { layout }) = serde_json_of(bytes)
            && layout != LAYOUT
        {
            return Err(Error::invalid(format!(
                "the log in the bucket has layout {layout}, this program knows {LAYOUT}"
            )));
        }
        let said: Encoded = canonical::from_slice(bytes, "the object `log`")
            .map_err(|e| Error::corrupt("the object `log` is malformed").because(e))?;
        check_origin(&said.origin)
            .map_err(|e| Error::corrupt("the object `log` has a malformed origin").because(e))?;
        if said.lock != (1..=36_500).contains(&said.retain_days)
            || !said.lock && said.retain_days != 0
        {
            return Err(Error::corrupt(format!(
                "the object `log` has retain_days {}",
                said.retain_days
            )));
        }
        Ok(Self {
            origin: said.origin,
            retain_days: said.lock.then_some(said.retain_days),
            digest: Sha256::digest(bytes).into(),
        })
    }

    /// Until when what is written now is locked.
    pub(crate) fn lock(&self, now: Timestamp) -> Option<Timestamp> {
        let days = self.retain_days?;
        Some(now.plus_micros(i64::from(days) * DAY_MICROS))
    }
}

fn serde_json_of(bytes: &[u8]) -> std::result::Result<OnlyLayout, serde_json::Error> {
    serde_json::from_slice(bytes)
}
