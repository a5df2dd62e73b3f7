//! An HTTP backend that answers with what it was asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::PORT;
use super::door::Door;
use crate::net::Net;

const BODY_MAX_BYTES: usize = 1 << 20;

/// What a backend says it has seen of a request: its whole answer, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which backend.
    pub backend: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Every header, lower case, with all its values in order.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The body, if it is text.
    pub body: String,
}

impl Seen {
    /// All values of a header, each list taken apart.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get(name).into_iter().flatten();
        values.flat_map(|value| value.split(',')).map(str::trim).collect()
    }
}

#[derive(Debug, Default)]
struct State {
    id: String,
    unhealthy: AtomicBool,
    delay_ms: AtomicU64,
    /// What every request is answered with; 0: 200.
    status: AtomicU16,
    requests: AtomicU64,
    probes: AtomicU64,
}

/// One HTTP/1.1 backend with a health check at `/healthz`.
pub struct HttpBackend {
    region: String,
    state: Arc<State>,
    door: Door,
}

impl HttpBackend {
    /// Starts one; `id` is what it calls itself.
    pub async fn start(id: &str, region: &str, address: SocketAddr) -> Result<Self> {
        let state = Arc::new(State { id: id.to_owned(), ..State::default() });
        let served = state.clone();
        let door = Door::open(address, move |stream, _| serve(stream, served.clone())).await?;
        Ok(Self { region: region.to_owned(), state, door })
    }

    /// What it calls itself.
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// Where it stands.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Health checks get 200, or 503; requests are served all the same.
    pub fn set_healthy(&self, healthy: bool) {
        self.state.unhealthy.store(!healthy, Ordering::Relaxed);
    }

    /// Every request, but no health check, takes this long.
    pub fn set_delay(&self, delay: Duration) {
        self.state.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Every request, but no health check, is answered with this status.
    pub fn set_status(&self, status: StatusCode) {
        self.state.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// Connections are refused, those that stand are cut.
    pub async fn refuse(&mut self) {
        self.door.close().await;
    }

    /// Accepts again.
    pub async fn reopen(&mut self) -> Result<()> {
        self.door.reopen().await
    }

    /// Requests it has begun to serve, without health checks.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Health checks it has answered.
    pub fn probes(&self) -> u64 {
        self.state.probes.load(Ordering::Relaxed)
    }
}

/// Some in each region, called `eu/1` and so on, on addresses of the net in that order.
pub async fn http_backends(net: &Net, regions: &[(&str, usize)]) -> Result<Vec<HttpBackend>> {
    let mut backends = Vec::<HttpBackend>::new();
    for (region, count) in regions {
        for _ in 0..*count {
            let number = backends.iter().filter(|each| each.region == *region).count() + 1;
            let address = SocketAddr::from((net.backend(backends.len()), PORT));
            backends.push(HttpBackend::start(&format!("{region}/{number}"), region, address).await?);
        }
    }
    Ok(backends)
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| answer(state.clone(), request));
    // A client that goes away is its own business.
    let _ = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/healthz" {
        state.probes.fetch_add(1, Ordering::Relaxed);
        let down = state.unhealthy.load(Ordering::Relaxed);
        let status = if down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        return Ok(reply(status, Bytes::new()));
    }
    state.requests.fetch_add(1, Ordering::Relaxed);
    let delay = state.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let status = StatusCode::from_u16(state.status.load(Ordering::Relaxed)).unwrap_or(StatusCode::OK);
    Ok(match echo(&state.id, request).await {
        Ok(body) => reply(status, body),
        Err(error) => reply(StatusCode::BAD_REQUEST, format!("{error:#}").into()),
    })
}

async fn echo(id: &str, request: Request<Incoming>) -> Result<Bytes> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_MAX_BYTES).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("reading the body: {error}"))?.to_bytes();
    let seen = Seen {
        backend: id.to_owned(),
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: all(&head.headers),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    serde_json::to_vec(&seen).map(Bytes::from).context("writing the answer")
}

fn all(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        all.entry(name.as_str().to_owned()).or_default().push(value);
    }
    all
}

fn reply(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}
