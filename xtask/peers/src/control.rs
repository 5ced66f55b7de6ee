//! The control listener that both services have: HTTP/1.1 with JSON, on loopback.
//!
//! Scripts of end-to-end runs steer a process through it and read what it saw. An order that cannot be
//! carried out is answered with 400 and the reason as text.

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

/// Largest order.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Why an order was refused.
#[derive(Debug)]
pub(crate) struct Refused(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, format!("{:#}\n", self.0)).into_response()
    }
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, router: Router) -> Result<()> {
    let router = router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    axum::serve(listener, router).await.context("control listener")
}
