//! A recording layer of `tower`, around a client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::BoxError;
use super::body::{RecordedBody, collect};
use super::client::ClientRecorder;

impl<S> Layer<S> for ClientRecorder {
    type Service = RecordedClient<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RecordedClient {
            inner,
            recorder: self.clone(),
        }
    }
}

/// A client whose every exchange is recorded: see [`ClientRecorder`].
///
/// A request's body is read to its end before it is sent, and handed to the client in one piece.
#[derive(Debug, Clone)]
pub struct RecordedClient<S> {
    inner: S,
    recorder: ClientRecorder,
}

impl<S, B, R> Service<Request<B>> for RecordedClient<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + From<Bytes> + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<RecordedBody<R>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready goes; its clone stays, to become ready.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let recorder = self.recorder.clone();
        Box::pin(async move {
            if !recorder.wants(request.method(), request.uri()) {
                let response = inner.call(request).await.map_err(Into::into)?;
                return Ok(response.map(RecordedBody::unrecorded));
            }
            let (parts, body) = request.into_parts();
            let body = collect(body, recorder.bytes_max()).await?;
            let begun = recorder
                .begin(&parts.method, &parts.uri, &parts.headers, &body)
                .await?;
            let request = Request::from_parts(parts, B::from(body));
            let answer: Result<_, BoxError> = inner.call(request).await.map_err(Into::into);
            match answer {
                Ok(response) => Ok(begun.answered(response, None).await?),
                Err(error) => {
                    begun.failed("upstream_failed").await;
                    Err(error)
                }
            }
        })
    }
}
