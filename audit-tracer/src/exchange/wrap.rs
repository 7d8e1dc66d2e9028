//! A recording client of `reqwest`.

use http::{Extensions, Uri};
use reqwest::{Client, Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{
    ClientBuilder, ClientWithMiddleware, Error, Middleware, Next, Result as Answer,
};

use super::body::collect;
use super::client::ClientRecorder;

impl ClientRecorder {
    /// A client whose every exchange is recorded.
    ///
    /// What else is to see each attempt stands below it: [`ClientRecorder`] is a [`Middleware`] too, so it can be added to
    /// a stack of them, behind one that retries.
    #[must_use]
    pub fn wrap(self, client: Client) -> ClientWithMiddleware {
        ClientBuilder::new(client).with(self).build()
    }
}

#[async_trait::async_trait]
impl Middleware for ClientRecorder {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Answer<Response> {
        let uri: Uri = request.url().as_str().parse().map_err(|e| {
            Error::middleware(
                audit_core::Error::invalid("the request's URL can't be sent").because(e),
            )
        })?;
        if !self.wants(request.method(), &uri) {
            return next.run(request, extensions).await;
        }
        let body = match request.body_mut().take() {
            Some(body) => {
                let bytes = collect(body, self.bytes_max())
                    .await
                    .map_err(Error::middleware)?;
                *request.body_mut() = Some(bytes.clone().into());
                bytes
            }
            None => bytes::Bytes::new(),
        };
        let begun = self
            .begin(request.method(), &uri, request.headers(), &body)
            .await
            .map_err(Error::middleware)?;
        drop(body);
        let asked = request.url().clone();
        let response = match next.run(request, extensions).await {
            Ok(response) => response,
            Err(error) => {
                begun.failed(reason(&error)).await;
                return Err(error);
            }
        };
        let url = response.url().clone();
        let elsewhere = (url != asked).then(|| url.as_str().to_owned());
        let response = begun
            .answered(http::Response::from(response), elsewhere.as_deref())
            .await
            .map_err(Error::middleware)?;
        let (mut parts, body) = response.into_parts();
        // The conversion has lost it.
        let named = http::Response::builder().url(url).body(());
        let named = named.map_err(Error::middleware)?.into_parts().0;
        parts.extensions.extend(named.extensions);
        let body = reqwest::Body::wrap(body);
        Ok(http::Response::from_parts(parts, body).into())
    }
}

fn reason(error: &Error) -> &'static str {
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => "upstream_connect_timeout",
        (true, false) => "upstream_unreachable",
        (false, true) => "upstream_timeout",
        (false, false) => "upstream_failed",
    }
}
