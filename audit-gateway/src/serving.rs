//! A connection's task carries on the exchanges that came over it, beside serving the client.
//!
//! So a call stays on one thread from the client's request to the provider and back. An exchange outlives its client: what
//! is left of it when the connection ends gets a task of its own.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;

/// What is left of an exchange.
pub(crate) type Exchange = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Exchanges that came over a connection, and that its task has not taken up.
#[derive(Default)]
pub(crate) struct Begun(Mutex<Vec<Exchange>>);

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").finish_non_exhaustive()
    }
}

/// What a connection becomes when HTTP on it has ended, as `CONNECT` has it.
#[derive(Default)]
pub(crate) struct Next(Mutex<Option<Exchange>>);

impl std::fmt::Debug for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

impl Next {
    pub(crate) fn set(&self, next: Exchange) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
    }

    pub(crate) fn take(&self) -> Option<Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Begun {
    /// Hands an exchange to the connection's task, from within serving.
    pub(crate) fn push(&self, exchange: Exchange) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(exchange);
    }

    fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Lets what was handed over reach the client's socket before the exchange goes on.
pub(crate) async fn yield_to_client() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Turns of the two sides before other tasks have theirs: what they wait for may be ready again and again.
const TURNS_MAX: u32 = 16;

/// Serves a client and carries on the exchanges that come of it, until serving has ended.
pub(crate) async fn drive(serving: impl Future<Output = ()>, begun: &Begun) {
    let mut serving = pin!(serving);
    let mut open = Open {
        exchanges: Vec::new(),
        begun,
        runtime: Handle::current(),
    };
    let ours = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&ours));
    poll_fn(|cx| {
        ours.enter(cx.waker());
        let mut inner = Context::from_waker(&waker);
        for _ in 0..TURNS_MAX {
            ours.again.store(false, Ordering::SeqCst);
            if serving.as_mut().poll(&mut inner).is_ready() {
                return Poll::Ready(());
            }
            open.exchanges.extend(begun.take());
            open.poll(&mut inner);
            // One side woke the other, most often.
            if !ours.again.load(Ordering::SeqCst) && ours.leave() {
                return Poll::Pending;
            }
        }
        ours.running.store(false, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Whether one of the two sides is to be polled again. While the task runs, nobody else has to be told of it.
struct Woken {
    again: AtomicBool,
    running: AtomicBool,
    task: Mutex<Waker>,
}

impl Default for Woken {
    fn default() -> Self {
        Self {
            again: AtomicBool::new(false),
            running: AtomicBool::new(false),
            task: Mutex::new(Waker::noop().clone()),
        }
    }
}

impl Woken {
    fn enter(&self, task: &Waker) {
        self.task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(task);
        self.running.store(true, Ordering::SeqCst);
    }

    /// Ends running; false if somebody woke a side meanwhile, and the task goes on.
    ///
    /// Whoever wakes sets `again` before looking at `running`, and this looks at them the other way round, so one of the
    /// two sees the other.
    fn leave(&self) -> bool {
        self.running.store(false, Ordering::SeqCst);
        let over = !self.again.load(Ordering::SeqCst);
        if !over {
            self.running.store(true, Ordering::SeqCst);
        }
        over
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.again.store(true, Ordering::SeqCst);
        if !self.running.load(Ordering::SeqCst) {
            self.task
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .wake_by_ref();
        }
    }
}

/// The exchanges of one connection that haven't ended: one, but for the moment after an answer's end.
struct Open<'a> {
    exchanges: Vec<Exchange>,
    begun: &'a Begun,
    runtime: Handle,
}

impl Open<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) {
        // A panic ends its exchange, whose client is told, and nothing else.
        self.exchanges.retain_mut(|exchange| {
            matches!(
                catch_unwind(AssertUnwindSafe(|| exchange.as_mut().poll(cx))),
                Ok(Poll::Pending)
            )
        });
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.exchanges.extend(self.begun.take());
        for exchange in self.exchanges.drain(..) {
            // Where the runtime is going away too, its request is left as one that was cut off by a crash.
            drop(self.runtime.spawn(exchange));
        }
    }
}
