//! A body that is watched while it is read.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use audit_capture::Outcome;
use audit_core::{Error, Result};
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::{BoxError, Ending};

/// Bytes held back after a provider's last event; a provider that sends more than that after it isn't waited for.
const HELD_BYTES_MAX: usize = 1 << 20;

/// How long a stream is waited for after its last event, if the provider doesn't end it.
const TERMINAL_WAIT: Duration = Duration::from_secs(2);

/// The end of a body is recorded already, or nobody waits for that.
pub(crate) type Answered = Option<oneshot::Receiver<Result<()>>>;

/// What may be passed on of a piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passage {
    /// The last event has been seen.
    pub(crate) terminal: bool,
    /// Leading bytes that stand before the event that is held back.
    pub(crate) safe: usize,
    /// Whether what was held back before may go first.
    pub(crate) release: bool,
}

/// What is done with a body that passes.
pub(crate) trait Tap: Send + Sync {
    /// A piece came: as [`audit_capture::Progress`] says, which bytes of it may go, and those of earlier ones.
    fn piece(&mut self, data: &[u8]) -> Passage;

    /// It is over, with what came behind it. If a record has to be durable before the reader learns so, the answer to
    /// that.
    fn over(self: Box<Self>, ending: Ending, trailers: Option<HeaderMap>, left: bool) -> Answered;
}

/// Which pieces wait for the record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holding {
    /// Readers don't wait for the end, so neither do pieces.
    pub(crate) streamed: bool,
    /// Bytes of the whole body, if that was said.
    pub(crate) announced: Option<u64>,
}

enum Stage {
    #[cfg(feature = "tower")]
    Passing,
    Reading(Box<dyn Tap>),
    Recording(oneshot::Receiver<Result<()>>),
    Released,
    Over,
}

/// A body whose pieces are recorded as they are read, and whose end is passed on when its record is durable.
///
/// Nothing is read ahead of the reader, but for the last piece: it waits until the end is recorded. Dropping the body
/// before its end is recorded too.
pub struct RecordedBody<B> {
    /// `None` after its end.
    inner: Option<Pin<Box<B>>>,
    holding: Holding,
    length: u64,
    ready: VecDeque<Bytes>,
    held: VecDeque<Bytes>,
    held_bytes: usize,
    /// Runs from the provider's last event on.
    deadline: Option<Pin<Box<Sleep>>>,
    terminal: bool,
    trailers: Option<HeaderMap>,
    error: Option<BoxError>,
    stage: Stage,
}

impl<B> fmt::Debug for RecordedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedBody")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl<B> RecordedBody<B> {
    pub(crate) fn new(inner: B, holding: Holding, tap: Box<dyn Tap>) -> Self {
        let mut body = Self::empty();
        body.holding = holding;
        body.inner = Some(Box::pin(inner));
        body.stage = Stage::Reading(tap);
        body
    }

    /// A body without content that is recorded already, or isn't.
    pub(crate) fn empty() -> Self {
        Self {
            inner: None,
            holding: Holding {
                streamed: false,
                announced: None,
            },
            length: 0,
            ready: VecDeque::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            deadline: None,
            terminal: false,
            trailers: None,
            error: None,
            stage: Stage::Over,
        }
    }

    /// A body that nobody records.
    #[cfg(feature = "tower")]
    pub(crate) fn unrecorded(inner: B) -> Self {
        let mut body = Self::empty();
        body.inner = Some(Box::pin(inner));
        body.stage = Stage::Passing;
        body
    }

    fn hold(&mut self, data: Bytes) {
        self.held_bytes += data.len();
        if !data.is_empty() {
            self.held.push_back(data);
        }
    }

    /// Sorts a piece into what may be passed on and what waits for the record.
    fn take(&mut self, mut data: Bytes, last: bool) -> Option<Ending> {
        if data.is_empty() {
            return None;
        }
        let Stage::Reading(tap) = &mut self.stage else {
            return None;
        };
        self.length += data.len() as u64;
        let passage = tap.piece(&data);
        let whole = last || self.holding.announced.is_some_and(|n| self.length >= n);
        if self.terminal {
            self.hold(data);
            if self.held_bytes > HELD_BYTES_MAX {
                return Some(Ending {
                    reason: Some("provider_kept_open"),
                    ..Ending::COMPLETE
                });
            }
        } else if passage.terminal || !passage.release || passage.safe < data.len() {
            // The last event, or one that is the last unless another follows.
            if passage.release {
                self.let_go();
                let safe = data.split_to(passage.safe);
                if !safe.is_empty() {
                    self.ready.push_back(safe);
                }
            }
            self.hold(data);
            if passage.terminal {
                self.terminal = true;
                // Without tokio's clock there is nothing to wait with, and the provider decides.
                self.deadline = tokio::runtime::Handle::try_current()
                    .ok()
                    .map(|_| Box::pin(tokio::time::sleep(TERMINAL_WAIT)));
            } else if self.held_bytes > HELD_BYTES_MAX {
                // So much doesn't follow a last event.
                self.let_go();
            }
        } else if whole {
            self.hold(data);
        } else if self.holding.streamed || self.holding.announced.is_some() {
            self.let_go();
            self.ready.push_back(data);
        } else {
            // Any piece may be the last one.
            self.let_go();
            self.hold(data);
        }
        None
    }

    fn end(&mut self, ending: Ending) {
        // If the answer is not at its end, this closes its connection.
        self.inner = None;
        self.deadline = None;
        let Stage::Reading(tap) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return;
        };
        match tap.over(ending, self.trailers.clone(), false) {
            Some(answered) => self.stage = Stage::Recording(answered),
            None => self.release(),
        }
    }

    fn release(&mut self) {
        self.stage = Stage::Released;
        self.let_go();
    }

    fn let_go(&mut self) {
        self.ready.append(&mut self.held);
        self.held_bytes = 0;
    }
}

impl<B> Body for RecordedBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if let Some(data) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            match &mut this.stage {
                #[cfg(feature = "tower")]
                Stage::Passing => {
                    let Some(inner) = this.inner.as_mut() else {
                        return Poll::Ready(None);
                    };
                    return inner.as_mut().poll_frame(cx).map(|frame| {
                        let pass = |frame: Frame<B::Data>| {
                            frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
                        };
                        frame.map(|frame| frame.map(pass).map_err(Into::into))
                    });
                }
                Stage::Reading(_) => {
                    let Some(inner) = this.inner.as_mut() else {
                        this.end(Ending::COMPLETE);
                        continue;
                    };
                    match inner.as_mut().poll_frame(cx) {
                        Poll::Pending => {
                            let Some(deadline) = this.deadline.as_mut() else {
                                return Poll::Pending;
                            };
                            ready!(deadline.as_mut().poll(cx));
                            this.end(Ending {
                                reason: Some("provider_kept_open"),
                                ..Ending::COMPLETE
                            });
                        }
                        Poll::Ready(None) => this.end(Ending::COMPLETE),
                        Poll::Ready(Some(Err(error))) => {
                            let error = error.into();
                            let reason = reason(&error);
                            this.error = Some(error);
                            this.end(Ending::new(Outcome::UpstreamCut, reason));
                        }
                        Poll::Ready(Some(Ok(frame))) => {
                            let last = inner.is_end_stream();
                            match frame.into_data() {
                                Ok(mut data) => {
                                    let data = data.copy_to_bytes(data.remaining());
                                    if let Some(ending) = this.take(data, last) {
                                        this.end(ending);
                                    }
                                }
                                Err(frame) => this.trailers = frame.into_trailers().ok(),
                            }
                        }
                    }
                }
                Stage::Recording(answered) => {
                    let recorded = ready!(Pin::new(answered).poll(cx)).unwrap_or_else(|e| {
                        Err(Error::unavailable("the tracer has ended").because(e))
                    });
                    if let Err(error) = recorded {
                        this.stage = Stage::Over;
                        this.held.clear();
                        return Poll::Ready(Some(Err(not_recorded(error).into())));
                    }
                    this.release();
                }
                Stage::Released => {
                    if let Some(error) = this.error.take() {
                        this.stage = Stage::Over;
                        return Poll::Ready(Some(Err(error)));
                    }
                    if let Some(trailers) = this.trailers.take() {
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    this.stage = Stage::Over;
                }
                Stage::Over => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let silent = self.ready.is_empty() && self.error.is_none() && self.trailers.is_none();
        match self.stage {
            #[cfg(feature = "tower")]
            Stage::Passing => match &self.inner {
                Some(inner) => inner.is_end_stream(),
                None => true,
            },
            // The end has to be recorded, so it must be asked for.
            Stage::Reading(_) | Stage::Recording(_) => false,
            Stage::Released => silent,
            Stage::Over => self.ready.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let waiting: usize = self.ready.iter().chain(&self.held).map(Bytes::len).sum();
        let waiting = waiting as u64;
        let mut hint = SizeHint::with_exact(waiting);
        if let Some(inner) = &self.inner {
            let inner = inner.size_hint();
            match inner.upper() {
                Some(upper) => hint.set_upper(upper.saturating_add(waiting)),
                None => hint = SizeHint::new(),
            }
            hint.set_lower(inner.lower().saturating_add(waiting));
        }
        hint
    }
}

impl<B> Drop for RecordedBody<B> {
    fn drop(&mut self) {
        if let Stage::Reading(tap) = std::mem::replace(&mut self.stage, Stage::Over) {
            let ending = Ending::new(Outcome::ClientGone, "client_left");
            drop(tap.over(ending, self.trailers.take(), true));
        }
    }
}

/// How a body breaks, in one word.
#[cfg_attr(
    not(feature = "reqwest"),
    expect(unused_variables, reason = "only some clients tell their own deadline")
)]
fn reason(error: &BoxError) -> &'static str {
    #[cfg(feature = "reqwest")]
    if error
        .downcast_ref::<reqwest::Error>()
        .is_some_and(reqwest::Error::is_timeout)
    {
        return "upstream_timeout";
    }
    "upstream_reset"
}

/// Why an answer was broken off.
fn not_recorded(error: Error) -> Error {
    Error::new(
        error.kind(),
        "the answer could not be recorded, so its end is held back",
    )
    .because(error)
}

/// Reads a request's body to its end.
///
/// # Errors
///
/// [`Invalid`](crate::ErrorKind::Invalid) if it is longer than `bytes_max`, or ends in trailers;
/// [`Unavailable`](crate::ErrorKind::Unavailable) if it fails by itself.
pub(crate) async fn collect<B>(body: B, bytes_max: usize) -> Result<Bytes>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut body = Box::pin(body);
    let mut first = Bytes::new();
    let mut all = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|e| {
            Error::unavailable("the request's body can't be read, so it was not sent").because(e)
        })?;
        let Ok(mut data) = frame.into_data() else {
            let what = "the request has trailers, which can't be recorded, so it was not sent";
            return Err(Error::invalid(what));
        };
        let data = data.copy_to_bytes(data.remaining());
        if first.len() + all.len() + data.len() > bytes_max {
            return Err(Error::invalid(format!(
                "the request's body is longer than {bytes_max} bytes, so it was neither recorded nor sent"
            )));
        }
        if first.is_empty() && all.is_empty() {
            // As a rule there is one piece, which is taken as it is.
            first = data;
        } else {
            if !first.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.into() })
}
