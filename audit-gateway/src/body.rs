//! The bodies that clients get.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

/// What is relayed to a client.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The record is durable, so the answer may end.
    End,
}

/// The answer ends here without its end, on purpose.
#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer was cut")
    }
}

impl std::error::Error for Broken {}

#[derive(Debug)]
pub(crate) enum Body {
    Empty,
    Full(Option<Bytes>),
    Relayed {
        pieces: mpsc::Receiver<Piece>,
        ended: bool,
        /// Whether what came before the break had its chance to be flushed.
        yielded: bool,
        /// Of a connection that counts them.
        counted: Option<Counted>,
    },
}

/// One of the exchanges that a connection has open.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(crate) fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Body {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::Full(Some(bytes))
    }

    pub(crate) fn relayed(pieces: mpsc::Receiver<Piece>) -> Self {
        Self::Relayed {
            pieces,
            ended: false,
            yielded: false,
            counted: None,
        }
    }

    /// The same, which counts as open until it is dropped.
    pub(crate) fn keeping(mut self, by: Counted) -> Self {
        if let Self::Relayed { counted, .. } = &mut self {
            *counted = Some(by);
        }
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Relayed {
                pieces,
                ended,
                yielded,
                ..
            } => {
                if *ended {
                    return Poll::Ready(None);
                }
                match ready!(pieces.poll_recv(cx)) {
                    Some(Piece::Data(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Some(Piece::Trailers(trailers)) => {
                        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                    }
                    Some(Piece::End) => {
                        *ended = true;
                        Poll::Ready(None)
                    }
                    // hyper drops what it has buffered when a body fails, and flushes when a body waits.
                    None if !*yielded => {
                        *yielded = true;
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                    // A channel that closes without an end is never taken for an end.
                    None => Poll::Ready(Some(Err(Broken))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Relayed { ended, .. } => *ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Relayed { .. } => SizeHint::default(),
        }
    }
}
