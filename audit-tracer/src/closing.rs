//! The ends of sessions and of exchanges, on their way to the log from guards that can't wait.

use std::fmt;
use std::sync::Arc;

use audit_core::event::Event;
use audit_core::log::Log;
use audit_core::{Error, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

type Told = dyn Fn(&str, &Error) + Send + Sync;

/// Told of ends that could not be recorded.
#[derive(Clone, Default)]
pub(crate) struct LostHook(Option<Arc<Told>>);

impl LostHook {
    pub(crate) fn new(told: impl Fn(&str, &Error) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    pub(crate) fn tell(&self, session: &str, error: &Error) {
        if let Some(told) = &self.0 {
            told(session, error);
        }
    }
}

impl fmt::Debug for LostHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LostHook").field(&self.0.is_some()).finish()
    }
}

/// The end of a session that is not recorded yet. Wherever it is lost, in a queue that nobody reads any more or with a
/// runtime that stops, the hook is told.
#[derive(Debug)]
pub(crate) struct Closing {
    /// `None` once its fate is known.
    event: Option<Box<Event>>,
    session: String,
    hook: LostHook,
}

impl Closing {
    pub(crate) fn new(event: Event, session: String, hook: LostHook) -> Self {
        Self {
            event: Some(Box::new(event)),
            session,
            hook,
        }
    }

    fn recorded(mut self) {
        self.event = None;
    }

    fn failed(mut self, error: &Error) {
        self.event = None;
        self.tell(error);
    }

    fn tell(&self, error: &Error) {
        self.hook.tell(&self.session, error);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if self.event.is_some() {
            self.tell(&Error::unavailable(
                "the tracer ended before the end of the session was recorded",
            ));
        }
    }
}

/// What the task that records ends is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Record this end.
    Close(Closing),
    /// Record what has come of an exchange.
    #[cfg(any(feature = "reqwest", feature = "tower"))]
    Late(crate::late::Late),
    /// Answer when every end that was asked for before is handed to the log, so that what follows stands behind it.
    Reached(oneshot::Sender<()>),
    /// Answer when every end that was asked for before is durable, with the first error since the start.
    Durable(oneshot::Sender<Result<()>>),
    /// The same, for the last time: the task lets go of the log before it answers, and ends.
    Finish(oneshot::Sender<Result<()>>),
}

/// Records ends in the order in which they were asked for, until nobody can ask any more. Not one waits for another to
/// be durable: the log takes them in one batch.
///
/// The queue has no bound, since a guard that is dropped can't wait; each guard puts in one small event.
pub(crate) async fn record(log: Log, mut asked: mpsc::UnboundedReceiver<Ask>) {
    let mut waiting: JoinSet<Result<()>> = JoinSet::new();
    let mut first_error = None;
    // Whoever waits for all of it has records that are tried again tried once more, now.
    #[cfg(any(feature = "reqwest", feature = "tower"))]
    let (hurry, hurried) = tokio::sync::watch::channel(());
    #[cfg(any(feature = "reqwest", feature = "tower"))]
    let hurry = || hurry.send_replace(());
    #[cfg(not(any(feature = "reqwest", feature = "tower")))]
    let hurry = || ();
    while let Some(ask) = asked.recv().await {
        while let Some(done) = waiting.try_join_next() {
            note(done, &mut first_error);
        }
        match ask {
            Ask::Close(closing) => {
                let Some(event) = closing.event.clone() else {
                    continue;
                };
                match log.submit(*event).await {
                    Ok(pending) => {
                        waiting.spawn(async move {
                            match pending.durable().await {
                                Ok(_) => {
                                    closing.recorded();
                                    Ok(())
                                }
                                Err(error) => {
                                    closing.failed(&error);
                                    Err(error)
                                }
                            }
                        });
                    }
                    Err(error) => {
                        closing.failed(&error);
                        first_error.get_or_insert(error);
                    }
                }
            }
            #[cfg(any(feature = "reqwest", feature = "tower"))]
            Ask::Late(late) => late.hand_in(&log, &mut waiting, hurried.clone()).await,
            // Who asked may have gone.
            Ask::Reached(answer) => drop(answer.send(())),
            Ask::Durable(answer) => {
                hurry();
                all(&mut waiting, &mut first_error).await;
                drop(answer.send(first_error.take().map_or(Ok(()), Err)));
            }
            Ask::Finish(answer) => {
                hurry();
                all(&mut waiting, &mut first_error).await;
                drop(log);
                drop(answer.send(first_error.take().map_or(Ok(()), Err)));
                return;
            }
        }
    }
    hurry();
    // A `JoinSet` that is dropped ends its tasks.
    all(&mut waiting, &mut first_error).await;
}

async fn all(waiting: &mut JoinSet<Result<()>>, first_error: &mut Option<Error>) {
    while let Some(done) = waiting.join_next().await {
        note(done, first_error);
    }
}

fn note(
    done: std::result::Result<Result<()>, tokio::task::JoinError>,
    first_error: &mut Option<Error>,
) {
    let result = done
        .map_err(|e| Error::unavailable("recording the end of a session was stopped").because(e))
        .flatten();
    if let Err(error) = result {
        first_error.get_or_insert(error);
    }
}
