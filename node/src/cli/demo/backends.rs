//! The demo's backends: tiny HTTP shops and TCP echoes in this process, which can be made to fail.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::plan::{ECHO_PORT, HTTP_PORT};

/// The backends of one region, which fail and recover together.
#[derive(Debug)]
pub(super) struct Backends {
    running: watch::Sender<bool>,
}

impl Backends {
    /// Binds all of them and serves until dropped.
    pub(super) async fn start(region: &'static str, addresses: &[Ipv4Addr]) -> std::io::Result<Self> {
        let (running, _) = watch::channel(true);
        for &ip in addresses {
            for port in [HTTP_PORT, ECHO_PORT] {
                let listener = TcpListener::bind((ip, port)).await?;
                tokio::spawn(live(region, listener, running.subscribe()));
            }
        }
        Ok(Self { running })
    }

    /// Takes them down, connections and all, or brings them back.
    pub(super) fn set_running(&self, running: bool) {
        self.running.send_replace(running);
    }
}

/// Serves while `running` is true; listens anew each time it becomes true again.
async fn live(region: &'static str, listener: TcpListener, mut running: watch::Receiver<bool>) {
    let Ok(addr) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    loop {
        let bound = match listener.take() {
            Some(bound) => bound,
            None => match TcpListener::bind(addr).await {
                Ok(bound) => bound,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = bound.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(serve(region, addr, stream));
                    }
                }
                Some(_) = connections.join_next() => {}
                changed = running.wait_for(|running| !running) => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
        drop(bound);
        connections.shutdown().await;
        if running.wait_for(|running| *running).await.is_err() {
            return;
        }
    }
}

async fn serve(region: &'static str, addr: SocketAddr, mut stream: TcpStream) {
    if addr.port() == ECHO_PORT {
        let (mut from, mut to) = stream.split();
        // The echo ends when either side does; there is nothing to report to.
        let _ = tokio::io::copy(&mut from, &mut to).await;
        return;
    }
    let answer = service_fn(move |request: Request<Incoming>| async move {
        Ok::<_, std::convert::Infallible>(page(region, addr, &request))
    });
    // A connection that breaks is the peer's affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

fn page(region: &str, addr: SocketAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() == "/healthz" {
        return Response::new(Full::new(Bytes::from_static(b"ok\n")));
    }
    let client =
        request.headers().get("x-forwarded-for").and_then(|value| value.to_str().ok()).unwrap_or("-");
    let text = serde_json::json!({
        "shop": addr.ip().to_string(), "region": region, "you": client, "path": request.uri().path(),
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
