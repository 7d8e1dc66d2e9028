//! `audit-trail hold`.

use audit_core::ErrorKind;
use audit_core::log::Log;
use audit_tracer::{Hold, holds};
use serde_json::json;

use super::retention::Opened;
use crate::cli::{HoldCommand, LockPlace};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::output;

pub(crate) async fn run(context: &Context, command: &HoldCommand) -> Result<u8> {
    match command {
        HoldCommand::Status { place, json } => status(context, place, *json).await,
        HoldCommand::Set {
            session,
            place,
            answers,
        } => {
            let opened = Opened::new(context, place).await?;
            let store = opened.reader(context).await?;
            let log = context.log().await?;
            let locks = &opened.locks;
            let done = locks
                .set_hold(&log, &store, session, &answers.by, &answers.reason)
                .await;
            let set = ended(log, done).await?;
            output::line(set.id)?;
            output::note(&format!(
                "held: {} entries of the session, in {} objects; other entries in the same objects are held with them.\n\
                 Entries that the session gets later aren't: `audit-trail hold status` shows them, `hold set` covers them.",
                set.entries, set.objects
            ));
            Ok(0)
        }
        HoldCommand::Release {
            session,
            hold,
            place,
            answers,
        } => {
            let opened = Opened::new(context, place).await?;
            let store = opened.reader(context).await?;
            let log = context.log().await?;
            let which = |one: &Hold| match hold {
                Some(id) => one.id == *id,
                None => Some(&one.session) == session.as_ref(),
            };
            let done = opened
                .locks
                .release_holds(&log, &store, which, &answers.by, &answers.reason)
                .await;
            let released = ended(log, done).await?;
            for hold in &released.holds {
                output::line(hold.id)?;
            }
            output::note(&format!(
                "released: {} objects aren't held any more, {} stay held, since entries under another hold lie in them",
                released.objects.released, released.objects.kept
            ));
            Ok(0)
        }
    }
}

/// Closes the log whatever came of the act; what came of the act is told first.
async fn ended<T>(log: Log, done: Result<T, audit_core::Error>) -> Result<T> {
    let closed = log.close().await;
    let done = done.map_err(|e| {
        let hint = match e.kind() {
            ErrorKind::NotFound => {
                "`audit-trail log --session ID` and `audit-trail hold status` show what there is"
            }
            ErrorKind::Invalid => "--at URL names the store that is held",
            ErrorKind::Unavailable | ErrorKind::Unknown => {
                "the log may say that it was asked for; repeating goes on where it failed"
            }
            _ => return CliError::from(e),
        };
        CliError::from(e).hint(hint)
    })?;
    closed?;
    Ok(done)
}

async fn status(context: &Context, place: &LockPlace, as_json: bool) -> Result<u8> {
    let opened = Opened::new(context, place).await?;
    let store = opened.reader(context).await?;
    let in_force = holds(&context.reader().await?).await?;
    let mut exit = 0;
    for hold in &in_force {
        let here = hold.place == opened.locks.place();
        // Of another store nothing can be said from here.
        let covered = if here {
            Some(opened.locks.coverage(&store, hold).await?)
        } else {
            None
        };
        if covered.as_ref().is_some_and(|(_, bare)| !bare.is_empty()) {
            exit = 1;
        }
        if as_json {
            output::line(output::json_text(
                &json!({
                    "by": hold.by,
                    "confirmed": hold.confirmed,
                    "entries": covered.as_ref().map(|(entries, _)| entries),
                    "hold": hold.id,
                    "not_held": covered.as_ref().map(|(_, bare)| bare),
                    "reason": hold.reason,
                    "release_requested": hold.release_requested,
                    "session": hold.session,
                    "since": hold.since,
                    "store": hold.place,
                })
                .to_string(),
            ))?;
            continue;
        }
        let state = match &covered {
            None => "on another store".to_owned(),
            Some((entries, bare)) if bare.is_empty() => format!("{entries} entries, all held"),
            Some((entries, bare)) => format!(
                "{entries} entries, {} NOT HELD, the first at index {}",
                bare.len(),
                bare.first().copied().unwrap_or_default()
            ),
        };
        for line in [
            format!("{}  session {}  {state}", hold.id, hold.session),
            format!("  by {} since {}: {}", hold.by, hold.since, hold.reason),
            format!("  on {}", hold.place),
        ] {
            output::line(output::printable(&line))?;
        }
        if !hold.confirmed {
            output::line("  asked for; that it was set is not recorded")?;
        }
        if hold.release_requested {
            output::line("  its release was asked for; that it went through is not recorded")?;
        }
    }
    if in_force.is_empty() && !as_json {
        output::note("no legal hold is in force");
    }
    Ok(exit)
}
