//! Object Lock: what the bucket must be like, how long objects are locked, longer retention, legal holds.

use std::collections::BTreeSet;

use audit_core::time::Timestamp;
use audit_core::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::bucket::whole_seconds;
use crate::failure;
use crate::names::{self, Name};
use crate::shared::Shared;
use crate::wire::SKEW_MAX_SECONDS;
use crate::xml::Node;

/// How an object is locked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockStatus {
    /// Nobody can delete or shorten before; an ordinary retention that administrators can end doesn't count.
    pub locked_until: Option<Timestamp>,
    /// A legal hold is on it.
    pub legal_hold: bool,
}

impl LockStatus {
    pub(crate) fn compliance(&self) -> bool {
        self.locked_until.is_some()
    }
}

/// How the objects of a log are locked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionStatus {
    /// Objects that are written once.
    pub objects: u64,
    /// Of these, not locked.
    pub unlocked: u64,
    /// Of these, under a legal hold.
    pub held: u64,
    /// The earliest time at which one of them can be deleted.
    pub earliest: Option<Timestamp>,
    /// The latest such time.
    pub latest: Option<Timestamp>,
}

impl Shared {
    /// Refuses a bucket in which what must be locked can't be, or what must be erasable would be locked.
    pub(crate) async fn check_bucket(&self) -> Result<()> {
        let none = Bytes::new();
        let place = format!("s3://{}", self.bucket.name);
        let ask = async |what: &str| {
            let query = [(what, "")];
            let doing = "reading the configuration of";
            self.bucket
                .ask(doing, Method::GET, None, &query, &[], &none)
                .await
        };
        let versioning = ask("versioning").await?;
        let skew = self.bucket.seen.skew_seconds();
        if skew.abs() > SKEW_MAX_SECONDS {
            return Err(Error::unavailable(format!(
                "the server's clock differs from this machine's by {} s, more than 15 minutes are refused; hint: set \
                 the clock",
                skew.abs()
            )));
        }
        if !versioning.status.is_success() {
            return Err(self
                .bucket
                .refused("reading the versioning of", "", &versioning));
        }
        let lock = ask("object-lock").await?;
        let code = failure::code(&lock.body);
        if !lock.status.is_success() && code != "ObjectLockConfigurationNotFoundError" {
            return Err(self
                .bucket
                .refused("reading the lock configuration of", "", &lock));
        }
        let root = if lock.status.is_success() {
            Some(Node::parse(&lock.body)?)
        } else {
            None
        };
        let rule = root.as_ref().and_then(|root| root.child("Rule"));
        if rule.is_some_and(|rule| rule.child("DefaultRetention").is_some()) {
            return Err(Error::invalid(format!(
                "{place} has a default retention, which would lock what must stay erasable; hint: remove it, the log \
                 locks each object itself"
            )));
        }
        if self.without_object_lock {
            return Ok(());
        }
        if Node::parse(&versioning.body)?.text("Status") != "Enabled" {
            return Err(Error::invalid(format!(
                "{place} keeps no versions, so nothing can be locked; hint: make a bucket with Object Lock, or the log \
                 without (object_lock=no in the URL, init --without-object-lock)"
            )));
        }
        if root.is_none_or(|root| root.text("ObjectLockEnabled") != "Enabled") {
            return Err(Error::invalid(format!(
                "{place} has no Object Lock; hint: make a bucket with Object Lock, or the log without (object_lock=no in the \
                 URL, init --without-object-lock)"
            )));
        }
        Ok(())
    }

    /// How an object is locked.
    pub(crate) async fn lock_of(&self, key: &str) -> Result<LockStatus> {
        let reply = self
            .bucket
            .ask(
                "asking for",
                Method::HEAD,
                Some(key),
                &[],
                &[],
                &Bytes::new(),
            )
            .await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} is missing", self.bucket.place(key)),
            ));
        }
        if !reply.status.is_success() {
            return Err(self.bucket.refused("asking for", key, &reply));
        }
        let until = reply.header("x-amz-object-lock-retain-until-date");
        let mode = reply.header("x-amz-object-lock-mode");
        let locked_until = match (mode, until) {
            (Some("COMPLIANCE"), Some(until)) => {
                let until = Timestamp::parse_rfc3339(until).map_err(|e| {
                    Error::corrupt(format!(
                        "{} is locked until no time",
                        self.bucket.place(key)
                    ))
                    .because(e)
                })?;
                Some(until)
            }
            _ => None,
        };
        Ok(LockStatus {
            locked_until,
            legal_hold: reply.header("x-amz-object-lock-legal-hold") == Some("ON"),
        })
    }

    /// Every object that is written once.
    async fn fixed_keys(&self, mut see: impl AsyncFnMut(&str) -> Result<()>) -> Result<()> {
        see(names::LOG).await?;
        for beginning in [names::BATCHES, names::PAYLOADS, names::CHECKPOINTS] {
            let mut after = String::new();
            loop {
                let page = self.bucket.list(beginning, &after, 1000).await?;
                let Some(last) = page.last() else { break };
                after.clone_from(&last.key);
                for listed in &page {
                    if Name::parse(&listed.key).is_some_and(|name| name.is_fixed()) {
                        see(&listed.key).await?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn retention_status(&self) -> Result<RetentionStatus> {
        self.log_or_invalid().await?;
        let mut all = RetentionStatus::default();
        self.fixed_keys(async |key| {
            let one = self.lock_of(key).await?;
            all.objects += 1;
            all.held += u64::from(one.legal_hold);
            match one.locked_until {
                None => all.unlocked += 1,
                Some(until) => {
                    all.earliest = Some(all.earliest.map_or(until, |e| e.min(until)));
                    all.latest = Some(all.latest.map_or(until, |l| l.max(until)));
                }
            }
            Ok(())
        })
        .await?;
        Ok(all)
    }

    /// Locks every object that is written once at least until `until`. What is locked for longer stays so.
    pub(crate) async fn extend_retention(&self, until: Timestamp) -> Result<u64> {
        let log = self.log_or_invalid().await?;
        if log.retain_days.is_none() {
            return Err(Error::invalid("the log was made without Object Lock"));
        }
        let mut extended = 0;
        self.fixed_keys(async |key| {
            let there = self.lock_of(key).await?;
            if there.locked_until.is_some_and(|there| there >= until) {
                return Ok(());
            }
            let body = format!(
                "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>COMPLIANCE</Mode>\
                 <RetainUntilDate>{}</RetainUntilDate></Retention>",
                whole_seconds(until)
            );
            self.set(key, "retention", body).await?;
            extended += 1;
            Ok(())
        })
        .await?;
        Ok(extended)
    }

    /// Puts a legal hold on the batches of some entries and on their large parts, or takes it off.
    pub(crate) async fn legal_hold(&self, indexes: &[u64], on: bool) -> Result<u64> {
        let log = self.log_or_invalid().await?;
        if log.retain_days.is_none() {
            return Err(Error::invalid("the log was made without Object Lock"));
        }
        let mut numbers = BTreeSet::new();
        if let Some(tip) = self.tip().await? {
            for index in indexes {
                if *index >= tip.end() {
                    return Err(Error::not_found("the log has no such entry").at(*index));
                }
                numbers.insert(self.locate(*index, &tip).await?);
            }
        } else if let Some(index) = indexes.first() {
            return Err(Error::not_found("the log has no such entry").at(*index));
        }
        let mut changed = 0;
        for number in numbers {
            let (header, object) = self.object(number, crate::shared::Extent::All).await?;
            let name = names::batch(number);
            let apart = header.parts(&name, &object)?.into_iter();
            let apart = apart.filter_map(|stored| match stored {
                crate::batch::Stored::Apart { digest, .. } => Some(names::payload(&digest)),
                _ => None,
            });
            for key in std::iter::once(name.clone()).chain(apart.collect::<Vec<_>>()) {
                let status = if on { "ON" } else { "OFF" };
                let body = format!(
                    "<LegalHold xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{status}</Status></LegalHold>"
                );
                self.set(&key, "legal-hold", body).await?;
                changed += 1;
            }
        }
        Ok(changed)
    }

    async fn set(&self, key: &str, what: &str, body: String) -> Result<()> {
        let body = Bytes::from(body);
        let checksum = STANDARD.encode(Sha256::digest(&body));
        let headers = [("x-amz-checksum-sha256", checksum)];
        let reply = self
            .bucket
            .ask(
                "locking",
                Method::PUT,
                Some(key),
                &[(what, "")],
                &headers,
                &body,
            )
            .await?;
        if reply.status.is_success() {
            Ok(())
        } else {
            Err(self.bucket.refused("locking", key, &reply))
        }
    }
}
