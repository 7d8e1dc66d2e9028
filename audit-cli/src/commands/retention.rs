//! `audit-trail retention`.

use audit_core::log::Log;
use audit_core::reader::LogReader;
use audit_core::time::Timestamp;
use audit_tracer::Locks;
use serde_json::json;

use crate::cli::{LockPlace, RetentionCommand};
use crate::context::{Context, StoreUrl, store_url};
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context, command: &RetentionCommand) -> Result<u8> {
    match command {
        RetentionCommand::Status { place, json } => status(context, place, *json).await,
        RetentionCommand::Extend {
            place,
            until,
            answers,
        } => {
            let until = Timestamp::parse_rfc3339(until).map_err(|e| {
                CliError::from(e)
                    .code(2)
                    .hint("write a time like 2027-11-22T00:00:00Z")
            })?;
            let opened = Opened::new(context, place).await?;
            let log = context.log().await?;
            let done = opened
                .extend(&log, until, &answers.by, &answers.reason)
                .await;
            let closed = log.close().await;
            let extended = done?;
            output::line(format_args!(
                "extended   {} objects are locked for longer now, until {until}",
                extended.objects
            ))?;
            output::note(&format!(
                "every object of {} entries is locked at least until then; what is written later is locked as long as the \
                 log was made to",
                extended.entries
            ));
            closed?;
            Ok(0)
        }
    }
}

/// The store that is locked.
pub(super) struct Opened {
    pub(super) url: StoreUrl,
    pub(super) locks: Locks,
}

impl Opened {
    /// Before the log is opened: a wrong call leaves no run behind.
    pub(super) async fn new(context: &Context, place: &LockPlace) -> Result<Self> {
        let url = match &place.at {
            Some(url) => store_url(url)?,
            None => context.store_url()?,
        };
        let locks = url.locks().await.map_err(|e| {
            let error = CliError::from(e);
            if place.at.is_none() {
                error
                    .hint("--at URL names a copy or mirror of the log in a bucket with Object Lock")
            } else {
                error
            }
        })?;
        Ok(Self { url, locks })
    }

    /// A read handle on it.
    pub(super) async fn reader(&self, context: &Context) -> Result<LogReader> {
        let keys = context.keys()?;
        let store = self.url.read().await?;
        let description = store.description().await?;
        if description.is_none_or(|d| d.origin != keys.origin()) {
            return Err(CliError::usage(format!(
                "{} isn't a store of the log {}",
                self.url,
                keys.origin()
            )));
        }
        Ok(LogReader::new(store, keys))
    }

    async fn extend(
        &self,
        log: &Log,
        until: Timestamp,
        by: &str,
        reason: &str,
    ) -> Result<audit_tracer::Extended, audit_core::Error> {
        let entries = self.url.read().await?.head().await?.size;
        self.locks
            .extend_retention(log, entries, until, by, reason)
            .await
    }
}

async fn status(context: &Context, place: &LockPlace, as_json: bool) -> Result<u8> {
    let opened = Opened::new(context, place).await?;
    let status = opened.locks.status().await?;
    // A log that locks what it writes has none that isn't locked.
    let exit = u8::from(status.unlocked > 0);
    if as_json {
        output::line(json!({
            "earliest": status.earliest,
            "expired": status.expired,
            "held": status.held,
            "latest": status.latest,
            "objects": status.objects,
            "requests": opened.locks.requests(),
            "retain_days": status.retain_days,
            "schema": "audit-trail-retention/1",
            "unlocked": status.unlocked,
        }))?;
        return Ok(exit);
    }
    let time = |time: Option<Timestamp>| time.map_or("-".to_owned(), |time| time.to_string());
    output::line(format_args!(
        "objects    {}, {} of them under a legal hold",
        status.objects, status.held
    ))?;
    output::line(format_args!(
        "locked     at least until {}, the last until {}",
        time(status.earliest),
        time(status.latest)
    ))?;
    if status.expired > 0 {
        output::line(format_args!(
            "expired    the lock of {} objects is past: they can be deleted, unless they are held",
            status.expired
        ))?;
    }
    if status.unlocked > 0 {
        output::line(format_args!(
            "UNLOCKED   {} objects are not locked, and should be",
            status.unlocked
        ))?;
    }
    output::line(format_args!(
        "new ones   are locked for {} days",
        status.retain_days
    ))?;
    output::note(&format!(
        "asked {} requests: the server can't say it of many objects at once",
        opened.locks.requests()
    ));
    Ok(exit)
}
