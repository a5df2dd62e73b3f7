//! Asks a node: HTTP/1.1 over its Unix socket or its loopback port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
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
/// How long a node may take to answer, unless the asker knows better.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one may take who is asked again and again, or for a stream: to begin with it.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Which node is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whom {
    /// The one with this URL or socket.
    Named(String),
    /// The one with this data folder and no other.
    Of(PathBuf),
    /// The one with this data folder, else the one on the loopback port.
    Any(PathBuf),
}

/// A client of one node's admin API.
#[derive(Debug)]
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    token: Option<String>,
    /// Whether somebody said which node is meant: any program may listen at the usual port, and is not given the token.
    is_named: bool,
    patience: Duration,
}

/// What a node answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body, at most 64 MiB.
    pub body: Bytes,
    /// Its headers.
    headers: http::HeaderMap,
}

impl Client {
    /// A client of the node that is meant. The token comes from the environment, never from the command line (I13).
    pub(super) fn new(whom: &Whom) -> Result<Self, CliError> {
        let socket = |data: &Path| Endpoint::Socket(data.join("admin.sock"));
        let endpoints = match whom {
            Whom::Named(node) => vec![parse_endpoint(node)?],
            Whom::Of(data) => vec![socket(data)],
            Whom::Any(data) => vec![socket(data), Endpoint::Tcp("127.0.0.1:7900".into())],
        };
        let token = super::set_in_environment("MERIDIAN_TOKEN");
        let is_named = !matches!(whom, Whom::Any(_));
        Ok(Self { endpoints, token, is_named, patience: ANSWER_TIMEOUT })
    }

    /// A client of exactly this endpoint.
    pub(super) fn of(endpoint: Endpoint) -> Self {
        Self { endpoints: vec![endpoint], token: None, is_named: true, patience: ANSWER_TIMEOUT }
    }

    /// The same, for orders that take their time.
    pub(super) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same, for somebody who looks on: he learns soon that nothing comes.
    pub(super) fn watching(self) -> Self {
        self.patient(STREAM_TIMEOUT)
    }

    /// Asks and reads a JSON answer.
    pub(super) async fn json<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, CliError> {
        let answer = self.send(method, path, None, &[]).await?.success()?;
        answer.parse()
    }

    /// Follows a stream of server-sent events: `each` gets the id and the data of every one; the first has no data, and says where the
    /// stream begins. Returns when the stream ends.
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
        let broken = |error| CliError::new(Exit::Unreachable, format!("{endpoint}: {error:#}"));
        let patience = self.patience.min(STREAM_TIMEOUT);
        let beginning = tokio::time::timeout(patience, begin(stream, request)).await;
        let body = beginning.map_err(|_| silent(&endpoint, patience))?.map_err(broken)?;
        follow(body, each).await.map_err(broken)
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
        match tokio::time::timeout(self.patience, exchange(stream, request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(CliError::new(Exit::Unreachable, format!("{endpoint}: {error:#}"))),
            Err(_) => Err(silent(&endpoint, self.patience)),
        }
    }

    fn request(&self, endpoint: &Endpoint, method: Method, path: &str) -> http::request::Builder {
        let (host, is_meant) = match endpoint {
            // Whoever made it may write into the node's data folder.
            Endpoint::Socket(_) => ("localhost", true),
            Endpoint::Tcp(authority) => (authority.as_str(), self.is_named),
        };
        let request = Request::builder().method(method).uri(path).header(HOST, host);
        match self.token.as_ref().filter(|_| is_meant) {
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

/// It takes connections and says nothing.
fn silent(endpoint: &Endpoint, waited: Duration) -> CliError {
    let waited = humantime::format_duration(waited);
    CliError::new(Exit::Timeout, format!("{endpoint} did not answer in {waited}")).hint(
        "is that a node, and does its process run? Its log may say more; another one is asked with --node",
    )
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
        let (text, findings) = match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) => (problem.detail.unwrap_or(problem.title), problem.findings),
            Err(_) => (String::from_utf8_lossy(&self.body).trim().to_owned(), Vec::new()),
        };
        let exit = match self.status {
            StatusCode::UNPROCESSABLE_ENTITY => Exit::InvalidConfiguration,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Exit::Conflict,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Exit::Timeout,
            _ => Exit::Failure,
        };
        let error =
            CliError::new(exit, if text.is_empty() { self.status.to_string() } else { text }).found(findings);
        Err(match self.status {
            StatusCode::UNAUTHORIZED => error.hint(
                "set MERIDIAN_TOKEN to the node's admin token, and name the node with --node (or MERIDIAN_NODE): no other is given it",
            ),
            _ => error,
        })
    }

    /// A header that is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
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
    // A slash at the end is what browsers add to an address.
    if !node.contains("://") && node.trim_end_matches('/').contains('/') || node.starts_with(['/', '.']) {
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

/// Asks for a stream of events.
async fn begin(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> anyhow::Result<Incoming> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends when nobody reads the body any more; why it broke is seen there.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    anyhow::ensure!(response.status().is_success(), "the node answers {}", response.status());
    Ok(response.into_body())
}

/// Reads a stream of events (HTML, 9.2.6 Interpreting an event stream), as far as this API uses it.
async fn follow(mut body: Incoming, mut each: impl FnMut(&str, &str)) -> anyhow::Result<()> {
    let mut text = Vec::new();
    let silent = || anyhow::anyhow!("the node fell silent");
    while let Some(frame) = tokio::time::timeout(ANSWER_TIMEOUT, body.frame()).await.map_err(|_| silent())? {
        text.extend_from_slice(&frame?.into_data().unwrap_or_default());
        anyhow::ensure!(text.len() <= EVENT_MAX_BYTES, "an event is too long");
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event);
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if let Some(id) = field("id:") {
                each(id, field("data:").unwrap_or_default());
            }
        }
    }
    Ok(())
}

async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?
        .to_bytes();
    driver.abort();
    Ok(Answer { status, body, headers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_the_node_that_is_meant_alone() {
        let token = |whom: Whom, endpoint: &Endpoint| {
            let client = Client { token: Some("secret".into()), ..Client::new(&whom).unwrap() };
            let request = client.request(endpoint, Method::GET, "/").body(()).unwrap();
            request.headers().contains_key(AUTHORIZATION)
        };
        let usual = Endpoint::Tcp("127.0.0.1:7900".into());
        let socket = Endpoint::Socket("/data/admin.sock".into());
        assert!(token(Whom::Named("http://127.0.0.1:7900".into()), &usual));
        assert!(token(Whom::Any("/data".into()), &socket));
        assert!(!token(Whom::Any("/data".into()), &usual), "anybody may listen there");
    }

    #[test]
    fn a_node_is_named_by_url_or_socket() {
        assert_eq!(parse_endpoint("/run/x.sock").unwrap(), Endpoint::Socket("/run/x.sock".into()));
        assert_eq!(parse_endpoint("unix:/run/x.sock").unwrap(), Endpoint::Socket("/run/x.sock".into()));
        assert_eq!(
            parse_endpoint("n1/data/admin.sock").unwrap(),
            Endpoint::Socket("n1/data/admin.sock".into())
        );
        assert_eq!(parse_endpoint("127.0.0.2:7901/").unwrap(), Endpoint::Tcp("127.0.0.2:7901".into()));
        assert_eq!(parse_endpoint("http://127.0.0.2:7901").unwrap(), Endpoint::Tcp("127.0.0.2:7901".into()));
        assert_eq!(parse_endpoint("127.0.0.2:7901").unwrap(), Endpoint::Tcp("127.0.0.2:7901".into()));
        assert_eq!(parse_endpoint("http://[::1]").unwrap(), Endpoint::Tcp("[::1]:7900".into()));
        assert!(parse_endpoint("ftp://x").is_err());
    }

    #[tokio::test]
    async fn a_stream_that_does_not_begin_is_given_up_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mute.sock");
        let _mute = tokio::net::UnixListener::bind(&path).unwrap();
        let client = Client::of(Endpoint::Socket(path)).patient(Duration::from_millis(50));
        for error in [
            client.stream("/v1/events", None, |_, _| {}).await.unwrap_err(),
            client.send(Method::GET, "/v1/status", None, &[]).await.unwrap_err(),
        ] {
            let told = format!("{error:?}");
            assert!(
                told.contains("Timeout")
                    && told.contains("did not answer in 50ms")
                    && told.contains("--node"),
                "{told}"
            );
        }
        assert_eq!(client.watching().patience, STREAM_TIMEOUT);
    }
}
