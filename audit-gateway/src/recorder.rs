//! Records of what has happened already: they are tried until they land, or given up with a word to the operator.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use audit_core::event::{Event, Guarantee};
use audit_core::{ErrorKind, with_causes};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::counters::{Counters, down, up};
use crate::exchange::stopped;
use crate::report::Severity;
use crate::shared::{Alive, Shared};
use crate::sink::{Absent, Kept, Trouble};

/// Writes the records that end something: an exchange, a tunnel.
#[derive(Clone)]
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    /// The event that began it.
    begun_by: Uuid,
    guarantee: Guarantee,
    /// Which records these are.
    count: fn(&Counters) -> &AtomicU64,
    stop: watch::Receiver<bool>,
    /// Keeps the gateway from ending before them.
    _alive: Alive,
}

impl Recorder {
    pub(crate) fn new(
        shared: Arc<Shared>,
        alive: Alive,
        begun_by: Uuid,
        guarantee: Guarantee,
        count: fn(&Counters) -> &AtomicU64,
    ) -> Self {
        Self {
            stop: shared.stop.clone(),
            shared,
            begun_by,
            guarantee,
            count,
            _alive: alive,
        }
    }

    fn landed(&self) {
        self.shared.log_works();
        up((self.count)(&self.shared.counters));
    }

    /// Records an event; says whether what waits for it may go on. If not, it is tried again in the background.
    pub(crate) async fn record(&self, event: Event) -> bool {
        let shared = &self.shared;
        let event = shared.sink.numbered(event);
        let (why, append) = match shared.sink.take(&event, self.guarantee).await {
            Ok(Kept::Log) => {
                self.landed();
                return true;
            }
            Ok(Kept::Spool | Kept::Nowhere) => return true,
            Err(Trouble::Failed(error)) => (error.to_string(), None),
            Err(Trouble::Late(append)) => ("the log doesn't answer".to_owned(), Some(append)),
        };
        shared.log_fails();
        shared.notice(
            Severity::Error,
            "response_not_recorded",
            format!("the client's answer was broken off, and the record is tried again: {why}"),
            Some(self.begun_by),
        );
        // The client must not wait for what may take minutes; the task keeps the gateway from ending before it.
        let this = self.clone();
        up(&shared.counters.pending);
        tokio::spawn(async move {
            let landed = match append {
                Some(append) => append.await.is_ok(),
                None => false,
            };
            if landed {
                this.landed();
            } else {
                this.until_it_lands(event).await;
            }
            down(&this.shared.counters.pending);
        });
        false
    }

    /// Notes that there is no record of this event, since there is none of what it belongs to.
    pub(crate) async fn leave_out(&self, event: Event) {
        let event = self.shared.sink.numbered(event);
        let reason = "log_unavailable";
        self.shared
            .sink
            .absent(&event, Absent::Missed, reason)
            .await;
    }

    /// Tries until the record is in the log, the time is up, or the gateway stops; then it says that it gave up.
    pub(crate) async fn until_it_lands(&self, event: Arc<Event>) {
        let shared = &self.shared;
        let until = Instant::now() + shared.config.limits.record_retry;
        let mut stop = self.stop.clone();
        let mut pause = Duration::from_millis(200);
        loop {
            // An append whose outcome was lost may have been durable all the same.
            let there = matches!(shared.log.reader().position(event.id).await, Ok(Some(_)));
            let appended = if there {
                Ok(())
            } else {
                shared.log.append(Arc::clone(&event)).await.map(|_| ())
            };
            let error = match appended {
                Ok(()) => {
                    self.landed();
                    return;
                }
                Err(error) => error,
            };
            shared.log_fails();
            let hopeless = !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown);
            if hopeless || Instant::now() >= until || *stop.borrow() {
                up(&shared.counters.unrecorded);
                shared.notice(
                    Severity::Error,
                    "response_lost",
                    format!(
                        "the record of an answer was given up: {}",
                        with_causes(&error)
                    ),
                    Some(self.begun_by),
                );
                let reason = "record_given_up";
                shared.sink.absent(&event, Absent::Missed, reason).await;
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // One last try is made at once.
                () = stopped(&mut stop) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }
}
