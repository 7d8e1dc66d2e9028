//! Records of what has happened already: tried until they land, or given up with a word to the service.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "tower")]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use audit_core::event::Event;
use audit_core::log::{Log, Pending};
use audit_core::{Error, ErrorKind, Result};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::closing::{Ask, LostHook};
use crate::scope::Scope;

/// Until the first retry; each further one takes twice as long, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// 0.2 + 0.4 + … + 25.6 s, then 30 s each: about 10 minutes, as long as the gateway tries.
const ATTEMPTS_MAX: u32 = 26;

#[cfg(feature = "tower")]
/// Records that wait although nobody waits for them, at most: what a client who comes and goes could heap up while the
/// log is down.
const UNWATCHED_MAX: usize = 4096;

/// How many records wait although nobody waits for them.
#[cfg(feature = "tower")]
#[derive(Debug, Default)]
pub(crate) struct Unwatched(AtomicUsize);

/// One of them.
#[cfg(feature = "tower")]
#[derive(Debug)]
struct Place(Arc<Unwatched>);

#[cfg(feature = "tower")]
impl Place {
    fn take(of: &Arc<Unwatched>) -> Option<Self> {
        of.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            (n < UNWATCHED_MAX).then_some(n + 1)
        })
        .ok()
        .map(|_| Self(Arc::clone(of)))
    }
}

#[cfg(feature = "tower")]
impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What to record, and whether making it takes long.
pub(crate) struct Making {
    pub(crate) make: Box<dyn FnOnce() -> Event + Send>,
    pub(crate) slow: bool,
}

/// A record on its way. Wherever it is lost, the hook is told.
pub(crate) struct Late {
    making: Option<Making>,
    /// The record that it belongs to, if nobody knows yet whether that one is durable.
    after: Option<Pending>,
    answer: Option<oneshot::Sender<Result<()>>>,
    session: String,
    hook: LostHook,
    over: bool,
    #[cfg(feature = "tower")]
    /// Given back when the record's fate is known.
    place: Option<Place>,
}

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Late")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Late {
    fn new(scope: &Scope, making: Making) -> Self {
        Self {
            making: Some(making),
            after: None,
            answer: None,
            session: scope.session_id().unwrap_or_default().to_owned(),
            hook: scope.shared().lost.clone(),
            over: false,
            #[cfg(feature = "tower")]
            place: None,
        }
    }

    /// Has it recorded; the answer says whether it was, the first time that it was tried.
    pub(crate) fn watched(scope: &Scope, making: Making) -> oneshot::Receiver<Result<()>> {
        let (answer, answered) = oneshot::channel();
        let mut late = Self::new(scope, making);
        late.answer = Some(answer);
        late.send(scope);
        answered
    }

    /// Has it recorded, once the record `after` is durable, and not at all if that one isn't in the log. Waits for
    /// nothing and needs no runtime.
    pub(crate) fn left(scope: &Scope, making: Making, after: Option<Pending>) {
        let mut late = Self::new(scope, making);
        late.after = after;
        late.send(scope);
    }

    /// The same for records that no earlier record bounds the number of.
    #[cfg(feature = "tower")]
    pub(crate) fn unbounded(scope: &Scope, making: Making) {
        let mut late = Self::new(scope, making);
        late.place = Place::take(&scope.shared().unwatched);
        if late.place.is_none() {
            late.lost(&Error::unavailable(
                "too many records wait for the log already",
            ));
        } else {
            late.send(scope);
        }
    }

    fn send(self, scope: &Scope) {
        scope.handed_in();
        // If nobody takes it any more, it comes back, and tells that it was lost when it is dropped.
        drop(scope.shared().closings.send(Ask::Late(self)));
    }

    fn lost(&mut self, error: &Error) {
        self.over = true;
        self.hook.tell(&self.session, error);
    }

    /// Hands the record to the log, in the order of the queue, and leaves waiting for it to a task.
    pub(crate) async fn hand_in(
        mut self,
        log: &Log,
        waiting: &mut JoinSet<Result<()>>,
        mut hurry: watch::Receiver<()>,
    ) {
        hurry.mark_unchanged();
        if let Some(mut before) = self.after.take()
            && let Err(error) = before.outcome().await
            && error.kind() != ErrorKind::Unknown
        {
            // What it belongs to isn't in the log, and its caller was told or has gone: nothing has happened.
            self.over = true;
            return;
        }
        let Some(Making { make, slow }) = self.making.take() else {
            return;
        };
        let made = if slow {
            tokio::task::spawn_blocking(make).await.ok()
        } else {
            Some(make())
        };
        // Without an event, because the runtime ends, the hook is told when `self` is dropped.
        let Some(event) = made.map(Arc::new) else {
            return;
        };
        let pending = log.submit(Arc::clone(&event)).await;
        waiting.spawn(self.land(log.clone(), event, pending, hurry));
    }

    async fn land(
        mut self,
        log: Log,
        event: Arc<Event>,
        pending: Result<Pending>,
        mut hurry: watch::Receiver<()>,
    ) -> Result<()> {
        let mut outcome = match pending {
            Ok(pending) => pending.durable().await,
            Err(error) => Err(error),
        };
        let mut told = false;
        let mut last = false;
        let mut pause = PAUSE;
        for attempt in 1.. {
            let Err(error) = outcome else { break };
            let retried = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown);
            let given_up = last || !retried || attempt >= ATTEMPTS_MAX;
            if given_up {
                self.lost(&error);
            }
            if let Some(answer) = self.answer.take() {
                told = true;
                // Who asked may have gone.
                drop(answer.send(Err(error)));
                if given_up {
                    return Ok(());
                }
            } else if given_up {
                return if told { Ok(()) } else { Err(error) };
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = hurry.changed() => last = true,
            }
            pause = (pause * 2).min(PAUSE_MAX);
            // An append whose outcome was lost may have been durable all the same.
            if matches!(log.reader().position(event.id).await, Ok(Some(_))) {
                break;
            }
            outcome = log.append(Arc::clone(&event)).await;
        }
        self.over = true;
        if let Some(answer) = self.answer.take() {
            drop(answer.send(Ok(())));
        }
        Ok(())
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        if !self.over {
            self.lost(&Error::unavailable(
                "the tracer ended before the exchange was recorded",
            ));
        }
    }
}
