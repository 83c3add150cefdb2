//! Serves metrics to Prometheus, at `/metrics`.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use libp2p_quinn::Handle;
use libp2p_quinn_metrics::Registry;
use prometheus_client::encoding::text;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::failure::Failure;

/// Most connections at a time. Prometheus needs one.
const MAX_CONNECTIONS: usize = 16;

/// The wait after a failure.
const PAUSE: Duration = Duration::from_millis(100);

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Serves the metrics of a transport until the end of the program. Returns the address.
pub(crate) async fn serve(handle: &Handle, addr: SocketAddr) -> Result<SocketAddr, Failure> {
    let mut registry = Registry::default();
    libp2p_quinn_metrics::register(handle, &mut registry);
    let registry = Arc::new(registry);

    let failure = |error| Failure::new("cannot serve metrics", &error);
    let listener = TcpListener::bind(addr).await.map_err(failure)?;
    let addr = listener.local_addr().map_err(failure)?;
    tokio::spawn(accept(listener, registry));
    Ok(addr)
}

async fn accept(listener: TcpListener, registry: Arc<Registry>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely there is no descriptor left.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            answer(stream, &registry).await;
            drop(permit);
        });
    }
}

async fn answer(stream: TcpStream, registry: &Registry) {
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(response(request.uri().path(), registry))
    });
    // An error concerns this client only.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn response(path: &str, registry: &Registry) -> Response<String> {
    let mut response = Response::new(String::new());
    if path != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if text::encode(response.body_mut(), registry).is_err() {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    } else {
        response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
    }
    response
}
