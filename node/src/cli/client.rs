//! Asks a node: HTTP/1.1 over its Unix socket or its loopback port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::exit::{CliError, Exit};
use crate::admin::api::Problem;

/// The largest answer read from a node.
const ANSWER_MAX_BYTES: usize = 64 << 20;
/// The longest event read from a stream.
const EVENT_MAX_BYTES: usize = 1 << 20;
/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a node's admin API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A Unix socket.
    Socket(PathBuf),
    /// `HOST:PORT` of an `http://` URL.
    Tcp(String),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// A client of one node's admin API.
#[derive(Debug)]
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    token: Option<String>,
}

/// What a node answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body, at most 64 MiB.
    pub body: Bytes,
}

impl Client {
    /// A client of the node that `node` names, else of the one on this machine: its socket in the data folder,
    /// then its loopback port. The token comes from the environment, never from the command line (I13).
    pub(super) fn new(node: Option<&str>, data: &Path) -> Result<Self, CliError> {
        let endpoints = match node {
            Some(node) => vec![parse_endpoint(node)?],
            None => {
                vec![Endpoint::Socket(data.join("admin.sock")), Endpoint::Tcp("127.0.0.1:7900".into())]
            }
        };
        Ok(Self { endpoints, token: std::env::var("MERIDIAN_TOKEN").ok().filter(|token| !token.is_empty()) })
    }

    /// A client of exactly this endpoint.
    pub(super) fn of(endpoint: Endpoint) -> Self {
        Self { endpoints: vec![endpoint], token: None }
    }

    /// Asks and reads a JSON answer.
    pub(super) async fn json<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, CliError> {
        let answer = self.send(method, path, None, &[]).await?.success()?;
        answer.parse()
    }

    /// Follows a stream of server-sent events: `each` gets the id and the data of every one. Returns when the stream ends.
    pub(super) async fn stream(
        &self,
        path: &str,
        last_id: Option<&str>,
        each: impl FnMut(&str, &str),
    ) -> Result<(), CliError> {
        let (endpoint, stream) = self.connect().await?;
        let mut request = self.request(&endpoint, Method::GET, path).header(ACCEPT, "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let request = request.body(Full::new(Bytes::new())).map_err(bad_request)?;
        follow(stream, request, each)
            .await
            .map_err(|error| CliError::new(Exit::Unreachable, format!("{endpoint}: {error:#}")))
    }

    /// Sends a request. Only failing to get an answer is an error here.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
        headers: &[(&str, String)],
    ) -> Result<Answer, CliError> {
        let (endpoint, stream) = self.connect().await?;
        let mut request = self.request(&endpoint, method, path);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let mut payload = Bytes::new();
        if let Some((kind, bytes)) = body {
            request = request.header(CONTENT_TYPE, kind);
            payload = bytes;
        }
        let request = request.body(Full::new(payload)).map_err(bad_request)?;
        match tokio::time::timeout(ANSWER_TIMEOUT, exchange(stream, request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(CliError::new(Exit::Unreachable, format!("{endpoint}: {error:#}"))),
            Err(_) => Err(CliError::new(Exit::Timeout, format!("{endpoint} did not answer in 30 s"))),
        }
    }

    fn request(&self, endpoint: &Endpoint, method: Method, path: &str) -> http::request::Builder {
        let host = match endpoint {
            Endpoint::Socket(_) => "localhost",
            Endpoint::Tcp(authority) => authority,
        };
        let request = Request::builder().method(method).uri(path).header(HOST, host);
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// The first endpoint that takes a connection.
    async fn connect(&self) -> Result<(Endpoint, Box<dyn Stream>), CliError> {
        let mut tried = Vec::new();
        let mut denied = false;
        for endpoint in &self.endpoints {
            match connect(endpoint).await {
                Ok(stream) => return Ok((endpoint.clone(), stream)),
                Err(error) => {
                    denied |= error.kind() == std::io::ErrorKind::PermissionDenied;
                    tried.push(format!("{endpoint}: {error}"));
                }
            }
        }
        let error = CliError::new(Exit::Unreachable, format!("no node answers ({})", tried.join("; ")));
        Err(match denied {
            true => error
                .hint("the socket belongs to the user that the node runs as: try as that user, or as root"),
            false => error.hint(
                "start one with 'meridian start', or name one with --node URL-or-socket (or MERIDIAN_NODE)",
            ),
        })
    }
}

fn bad_request(error: http::Error) -> CliError {
    CliError::new(Exit::Usage, format!("bad request: {error}"))
}

impl Answer {
    /// The answer itself when its status is 2xx, else the problem it carries as an error.
    pub(super) fn success(self) -> Result<Self, CliError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let text = match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => problem.detail.unwrap_or(problem.title),
            Err(_) => String::from_utf8_lossy(&self.body).trim().to_owned(),
        };
        let exit = match self.status {
            StatusCode::UNPROCESSABLE_ENTITY => Exit::InvalidConfiguration,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Exit::Conflict,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Exit::Timeout,
            _ => Exit::Failure,
        };
        let error = CliError::new(exit, if text.is_empty() { self.status.to_string() } else { text });
        Err(match self.status {
            StatusCode::UNAUTHORIZED => error.hint("set MERIDIAN_TOKEN to the node's admin token"),
            _ => error,
        })
    }

    /// The body as JSON.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            CliError::new(Exit::Failure, format!("the node's answer is not understood: {error}"))
                .hint("is the node's version the same as this program's? (meridian --version)")
        })
    }
}

fn parse_endpoint(node: &str) -> Result<Endpoint, CliError> {
    if let Some(path) = node.strip_prefix("unix:") {
        return Ok(Endpoint::Socket(path.trim_start_matches("//").into()));
    }
    if node.starts_with('/') || node.starts_with('.') {
        return Ok(Endpoint::Socket(node.into()));
    }
    let bad = || {
        CliError::new(Exit::Usage, format!("--node {node:?} is neither an http:// URL nor a socket's path"))
            .hint("for example --node http://127.0.0.1:7900 or --node /var/lib/meridian/admin.sock")
    };
    let url = if node.contains("://") { node.to_owned() } else { format!("http://{node}") };
    let uri: Uri = url.parse().map_err(|_| bad())?;
    if uri.scheme_str() != Some("http") {
        return Err(bad());
    }
    let authority = uri.authority().ok_or_else(bad)?;
    let port = authority.port_u16().unwrap_or(7900);
    Ok(Endpoint::Tcp(format!("{}:{port}", authority.host())))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(endpoint: &Endpoint) -> std::io::Result<Box<dyn Stream>> {
    let connecting = async {
        Ok::<Box<dyn Stream>, std::io::Error>(match endpoint {
            Endpoint::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Endpoint::Tcp(authority) => Box::new(TcpStream::connect(authority).await?),
        })
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting took longer than 3 s"))
    })
}

/// Reads a stream of events (HTML, 9.2.6 Interpreting an event stream), as far as this API uses it.
async fn follow(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    mut each: impl FnMut(&str, &str),
) -> anyhow::Result<()> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    anyhow::ensure!(response.status().is_success(), "the node answers {}", response.status());
    let mut body = response.into_body();
    let mut text = Vec::new();
    let silent = || anyhow::anyhow!("the node fell silent");
    while let Some(frame) = tokio::time::timeout(ANSWER_TIMEOUT, body.frame()).await.map_err(|_| silent())? {
        text.extend_from_slice(&frame?.into_data().unwrap_or_default());
        anyhow::ensure!(text.len() <= EVENT_MAX_BYTES, "an event is too long");
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event);
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if let (Some(id), Some(data)) = (field("id:"), field("data:")) {
                each(id, data);
            }
        }
    }
    driver.abort();
    Ok(())
}

async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?
        .to_bytes();
    driver.abort();
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_url_or_socket() {
        assert_eq!(parse_endpoint("/run/x.sock").unwrap(), Endpoint::Socket("/run/x.sock".into()));
        assert_eq!(parse_endpoint("unix:/run/x.sock").unwrap(), Endpoint::Socket("/run/x.sock".into()));
        assert_eq!(parse_endpoint("http://127.0.0.2:7901").unwrap(), Endpoint::Tcp("127.0.0.2:7901".into()));
        assert_eq!(parse_endpoint("127.0.0.2:7901").unwrap(), Endpoint::Tcp("127.0.0.2:7901".into()));
        assert_eq!(parse_endpoint("http://[::1]").unwrap(), Endpoint::Tcp("[::1]:7900".into()));
        assert!(parse_endpoint("ftp://x").is_err());
    }
}
