//! The API of the Kubernetes cluster that the node runs in: one GET, and one GET whose answer goes on, line by line. It
//! needs no more of it, and no more of a client than HTTP/1.1, TLS and a token.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Sleep;
use tokio_rustls::TlsConnector;

/// Where a cluster tells its pods who they are.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An `http://` address to ask instead, as `kubectl proxy` has one.
const PROXY: &str = "MERIDIAN_KUBERNETES_API";
/// The largest list.
const ANSWER_MAX_BYTES: usize = 32 << 20;
/// The longest line of an answer that goes on. It holds one object, and clusters store none above 1.5 MiB.
const LINE_MAX_BYTES: usize = 4 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// A watch is ended by the server after this, and by this node some time later, whatever comes.
const WATCH_SECONDS: u64 = 240;
/// The longest reason that is told, in characters.
const REASON_MAX_CHARS: usize = 300;

/// One cluster's API.
pub(crate) struct Cluster {
    authority: String,
    token: Option<HeaderValue>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Cluster {
    /// The one this process runs in. Token and authorities are read anew each time: clusters change them.
    ///
    /// # Errors
    /// When the process runs in no cluster, or may not read what it needs.
    pub(crate) fn from_environment() -> Result<Self, String> {
        Self::told_by(|name| std::env::var(name).ok(), Path::new(ACCOUNT))
    }

    /// The same, by these variables and this folder.
    pub(crate) fn told_by(variable: impl Fn(&str) -> Option<String>, account: &Path) -> Result<Self, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(proxy) = variable(PROXY) {
            let uri: http::Uri = proxy.parse().map_err(|error| format!("{PROXY}: {error}"))?;
            let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
            let authority = authority.ok_or_else(|| format!("{PROXY} is no http:// URL"))?;
            return Ok(Self::plain(authority.as_str()));
        }
        let (host, port) = variable("KUBERNETES_SERVICE_HOST")
            .zip(variable("KUBERNETES_SERVICE_PORT"))
            .ok_or("this node runs in no cluster: KUBERNETES_SERVICE_HOST is not set")?;
        let read = |name: &str| {
            let path = account.join(name);
            std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let token = String::from_utf8(read("token")?).map_err(|_| "the token is no text")?;
        let mut token = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| "the token is none that a header may hold")?;
        token.set_sensitive(true);
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&read("ca.crt")?) {
            let certificate = certificate.map_err(|_| "ca.crt holds no certificate")?;
            roots.add(certificate).map_err(|error| format!("ca.crt: {error}"))?;
        }
        if roots.is_empty() {
            return Err(format!("{} holds no certificate", account.join("ca.crt").display()));
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let tls = Some((TlsConnector::from(Arc::new(config)), name));
        Ok(Self { authority: format!("{host}:{port}"), token: Some(token), tls })
    }

    /// One that asks for no token, in the clear: on loopback.
    pub(crate) fn plain(authority: &str) -> Self {
        Self { authority: authority.to_owned(), token: None, tls: None }
    }

    /// One whole answer.
    ///
    /// # Errors
    /// When there is none, or another than 200, in words.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let asked = async {
            let (response, connection) = self.ask(path).await?;
            let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
            drop(connection);
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| unreadable("the answer", &error))
        };
        tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err("no answer in 30 s".into()))
    }

    /// An answer that goes on.
    ///
    /// # Errors
    /// As with [`Cluster::get`].
    pub(crate) async fn follow(&self, path: &str) -> Result<Asked, String> {
        self.follow_for(path, Duration::from_secs(WATCH_SECONDS) + TIMEOUT).await
    }

    /// The same; the answer breaks off after `patience`, however much of it comes.
    async fn follow_for(&self, path: &str, patience: Duration) -> Result<Asked, String> {
        let path = format!("{path}&timeoutSeconds={WATCH_SECONDS}");
        let asked = tokio::time::timeout(TIMEOUT, self.send(&path)).await;
        let (response, connection) = asked.unwrap_or_else(|_| Err("no answer in 30 s".into()))?;
        if response.status() == http::StatusCode::GONE {
            return Ok(Asked::Gone);
        }
        let (response, connection) = expect(response, connection)?;
        Ok(Asked::Answer(Lines {
            body: response.into_body(),
            kept: BytesMut::new(),
            seen: 0,
            end: Box::pin(tokio::time::sleep(patience)),
            _connection: connection,
        }))
    }

    async fn ask(&self, path: &str) -> Result<(Response<Incoming>, Connection), String> {
        let (response, connection) = self.send(path).await?;
        expect(response, connection)
    }

    async fn send(&self, path: &str) -> Result<(Response<Incoming>, Connection), String> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(|error| format!("{}: {error}", self.authority))?;
        match &self.tls {
            None => self.over(stream, path).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                self.over(stream.map_err(|error| format!("{}: {error}", self.authority))?, path).await
            }
        }
    }

    async fn over<S>(&self, stream: S, path: &str) -> Result<(Response<Incoming>, Connection), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }).abort_handle());
        let mut request = Request::get(path).header(HOST, &self.authority).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let answered = sender.send_request(request).await;
        Ok((answered.map_err(|error| error.to_string())?, connection))
    }
}

/// Dropping it closes the connection.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why something is not what it should be. What it holds instead is quoted, and may be all of it.
pub(crate) fn unreadable(what: &str, error: &serde_json::Error) -> String {
    format!("{what} cannot be read: {error}").chars().take(REASON_MAX_CHARS).collect()
}

/// What was asked for, or in words what the API has against it.
fn expect(
    response: Response<Incoming>,
    connection: Connection,
) -> Result<(Response<Incoming>, Connection), String> {
    let why = match response.status() {
        http::StatusCode::OK => return Ok((response, connection)),
        status @ (http::StatusCode::FORBIDDEN | http::StatusCode::UNAUTHORIZED) => format!(
            "the API answers {status}: the service account has to be allowed to list and watch endpointslices"
        ),
        status => format!("the API answers {status}"),
    };
    Err(why)
}

/// What came of asking for an answer that goes on.
pub(crate) enum Asked {
    Answer(Lines),
    /// What it was to go on from is too old.
    Gone,
}

/// The lines of an answer that goes on. Dropping it closes the connection.
pub(crate) struct Lines {
    body: Incoming,
    kept: BytesMut,
    /// So many bytes of `kept` hold no end of a line.
    seen: usize,
    /// When it has lasted long enough: one that drips on would hide all that changes.
    end: Pin<Box<Sleep>>,
    _connection: Connection,
}

impl Lines {
    /// The next; `None` when the server has ended the answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer goes on for longer than was asked for. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.kept[self.seen..]) {
                let line = self.kept.split_to(self.seen + end + 1).freeze();
                let end = std::mem::take(&mut self.seen) + end;
                return Ok(Some(line.slice(..end)));
            }
            self.seen = self.kept.len();
            if self.seen > LINE_MAX_BYTES {
                return Err("a line of the answer is too long".into());
            }
            let frame = tokio::select! {
                biased;
                () = &mut self.end => return Err("the API does not end its answer".into()),
                frame = self.body.frame() => frame,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => self.kept.extend_from_slice(&frame.into_data().unwrap_or_default()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// A byte now and then would keep a watch that tells nothing for ever.
    #[tokio::test]
    async fn an_answer_that_drips_has_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let cluster = Cluster::plain(&address);
        let Ok(Asked::Answer(mut lines)) = cluster.follow_for("/watch?x", Duration::from_millis(200)).await
        else {
            panic!("no answer")
        };
        assert!(lines.next().await.unwrap_err().contains("does not end"));
        drop(lines);
        server.await.unwrap();
    }
}
