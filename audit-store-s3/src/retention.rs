//! Object Lock: what the bucket must be like, how long objects are locked, longer retention, legal holds.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use audit_core::time::Timestamp;
use audit_core::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use crate::bucket::whole_seconds;
use crate::failure;
use crate::names::{self, Name};
use crate::shared::Shared;
use crate::wire::SKEW_MAX_SECONDS;
use crate::xml::Node;

/// Objects that are asked about at once. S3 has no request that says of many objects how they are locked.
const AT_ONCE: usize = 16;

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
    /// For how many days what is written now is locked; `None` if the log was made without Object Lock.
    pub retain_days: Option<u32>,
    /// Of these, not locked.
    pub unlocked: u64,
    /// Of these, locked until a time that is past: they can be deleted, unless they are held.
    pub expired: u64,
    /// Of these, under a legal hold.
    pub held: u64,
    /// The earliest time at which one of them can be deleted.
    pub earliest: Option<Timestamp>,
    /// The latest such time.
    pub latest: Option<Timestamp>,
}

/// What became of taking a legal hold off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Released {
    /// Objects that aren't held any more.
    pub released: u64,
    /// Objects that stay held, since other entries that are to be kept lie in them too.
    pub kept: u64,
}

/// Waits for one answer.
async fn next<T: 'static>(
    asked: &mut JoinSet<Result<T>>,
    answer: &mut impl FnMut(T),
) -> Result<()> {
    if let Some(done) = asked.join_next().await {
        let done = done.map_err(|e| Error::unavailable("the runtime was stopped").because(e))?;
        answer(done?);
    }
    Ok(())
}

fn legal_hold(status: &str) -> String {
    format!(
        "<LegalHold xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{status}</Status></LegalHold>"
    )
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

    /// Asks something of every object that is written once, several at a time.
    async fn each_fixed<T, Asking>(
        self: &Arc<Self>,
        ask: impl Fn(Arc<Self>, String) -> Asking,
        mut answer: impl FnMut(T),
    ) -> Result<()>
    where
        T: Send + 'static,
        Asking: Future<Output = Result<T>> + Send + 'static,
    {
        let mut asked = JoinSet::new();
        asked.spawn(ask(Arc::clone(self), names::LOG.to_owned()));
        for beginning in [names::BATCHES, names::PAYLOADS, names::CHECKPOINTS] {
            let mut after = String::new();
            loop {
                let page = self.bucket.list(beginning, &after, 1000).await?;
                let Some(last) = page.last() else { break };
                after.clone_from(&last.key);
                for listed in page {
                    if Name::parse(&listed.key).is_some_and(|name| name.is_fixed()) {
                        if asked.len() >= AT_ONCE {
                            next(&mut asked, &mut answer).await?;
                        }
                        asked.spawn(ask(Arc::clone(self), listed.key));
                    }
                }
            }
        }
        while !asked.is_empty() {
            next(&mut asked, &mut answer).await?;
        }
        Ok(())
    }

    pub(crate) async fn retention_status(self: &Arc<Self>) -> Result<RetentionStatus> {
        let log = self.log_or_invalid().await?;
        let now = self.clock.now();
        let mut all = RetentionStatus {
            retain_days: log.retain_days,
            ..RetentionStatus::default()
        };
        self.each_fixed(
            async |shared, key| shared.lock_of(&key).await,
            |one: LockStatus| {
                all.objects += 1;
                all.held += u64::from(one.legal_hold);
                match one.locked_until {
                    None => all.unlocked += 1,
                    Some(until) => {
                        all.expired += u64::from(until <= now);
                        all.earliest = Some(all.earliest.map_or(until, |e| e.min(until)));
                        all.latest = Some(all.latest.map_or(until, |l| l.max(until)));
                    }
                }
            },
        )
        .await?;
        Ok(all)
    }

    /// Fails for a log that locks nothing.
    async fn must_lock(&self) -> Result<()> {
        match self.log_or_invalid().await?.retain_days {
            Some(_) => Ok(()),
            None => Err(Error::invalid("the log was made without Object Lock")),
        }
    }

    /// Locks every object that is written once at least until `until`. What is locked for longer stays so.
    pub(crate) async fn extend_retention(self: &Arc<Self>, until: Timestamp) -> Result<u64> {
        self.must_lock().await?;
        if until <= self.clock.now() {
            return Err(Error::invalid(format!(
                "{until} is past, nothing can be locked until then"
            )));
        }
        // Locks have whole seconds, and never end before what was asked for.
        let until = until.plus_micros((-until.as_micros()).rem_euclid(1_000_000));
        let mut extended = 0;
        self.each_fixed(
            move |shared, key| async move { shared.extend(&key, until).await },
            |changed: bool| extended += u64::from(changed),
        )
        .await?;
        Ok(extended)
    }

    async fn extend(&self, key: &str, until: Timestamp) -> Result<bool> {
        // Asked first: the server refuses a shorter time in the words in which it refuses everything.
        let there = self.lock_of(key).await?;
        if there.locked_until.is_some_and(|there| there >= until) {
            return Ok(false);
        }
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>COMPLIANCE</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            whole_seconds(until)
        );
        self.set(key, "retention", body).await?;
        Ok(true)
    }

    /// The batches that have the entries at `indexes`, each with those.
    async fn batches_of(&self, indexes: &[u64]) -> Result<BTreeMap<u64, Vec<u64>>> {
        let mut sorted = indexes.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut out: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let Some(greatest) = sorted.last() else {
            return Ok(out);
        };
        let missing = || Error::not_found("the log has no such entry").at(*greatest);
        let tip = self.tip().await?.ok_or_else(missing)?;
        if *greatest >= tip.end() {
            return Err(missing());
        }
        let mut last = (0, 0..0);
        for index in sorted {
            if !last.1.contains(&index) {
                let number = self.locate(index, &tip).await?;
                let header = self.header(number).await?;
                last = (number, header.first..header.end());
            }
            out.entry(last.0).or_default().push(index);
        }
        Ok(out)
    }

    /// The large parts that a batch names: the leaf index and the object of each.
    async fn large_parts(&self, number: u64) -> Result<Vec<(u64, String)>> {
        let (header, object) = self.object(number, crate::shared::Extent::All).await?;
        let parts = header.parts(&names::batch(number), &object)?;
        let parts = (header.first..).zip(parts);
        let apart = parts.filter_map(|(index, stored)| match stored {
            crate::batch::Stored::Apart { digest, .. } => Some((index, names::payload(&digest))),
            _ => None,
        });
        Ok(apart.collect())
    }

    async fn all_objects_of(&self, indexes: &[u64]) -> Result<BTreeSet<String>> {
        let mut out = BTreeSet::new();
        for number in self.batches_of(indexes).await?.into_keys() {
            out.insert(names::batch(number));
            out.extend(
                self.large_parts(number)
                    .await?
                    .into_iter()
                    .map(|(_, key)| key),
            );
        }
        Ok(out)
    }

    /// Puts a legal hold on the batches of some entries and on their large parts.
    pub(crate) async fn hold(&self, indexes: &[u64]) -> Result<u64> {
        self.must_lock().await?;
        let objects = self.all_objects_of(indexes).await?;
        for key in &objects {
            self.set(key, "legal-hold", legal_hold("ON")).await?;
        }
        Ok(objects.len() as u64)
    }

    /// Takes the legal hold off the objects of some entries, but for those in which others lie too.
    pub(crate) async fn release(&self, indexes: &[u64], keep: &[u64]) -> Result<Released> {
        self.must_lock().await?;
        let kept = self.all_objects_of(keep).await?;
        let mut out = Released::default();
        for key in self.all_objects_of(indexes).await? {
            if kept.contains(&key) {
                out.kept += 1;
            } else {
                self.set(&key, "legal-hold", legal_hold("OFF")).await?;
                out.released += 1;
            }
        }
        Ok(out)
    }

    /// Those of some entries of which an object isn't under a legal hold.
    pub(crate) async fn not_held(&self, indexes: &[u64]) -> Result<Vec<u64>> {
        let mut out = Vec::new();
        for (number, indexes) in self.batches_of(indexes).await? {
            let name = names::batch(number);
            if !self.lock_of(&name).await?.legal_hold {
                out.extend(indexes);
                continue;
            }
            for (index, key) in self.large_parts(number).await? {
                if indexes.contains(&index) && !self.lock_of(&key).await?.legal_hold {
                    out.push(index);
                }
            }
        }
        Ok(out)
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
