//! The API of the Kubernetes cluster that the node runs in: one GET, and one GET whose answer goes on, line by line. It
//! needs no more of it, and no more of a client than HTTP/1.1, TLS and a token.

use std::path::Path;
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
use tokio_rustls::TlsConnector;

/// Where a cluster tells its pods who they are.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An `http://` address to ask instead, as `kubectl proxy` has one.
const PROXY: &str = "MERIDIAN_KUBERNETES_API";
/// The largest list, and the longest line.
const ANSWER_MAX_BYTES: usize = 32 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// A watch is ended by the server after this, and counts as dead some time later.
const WATCH_SECONDS: u64 = 240;

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
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(proxy) = variable(PROXY) {
            let uri: http::Uri = proxy.parse().map_err(|error| format!("{PROXY}: {error}"))?;
            let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
            let authority = authority.ok_or_else(|| format!("{PROXY} is no http:// URL"))?;
            return Ok(Self::plain(authority.as_str()));
        }
        let (host, port) = variable("KUBERNETES_SERVICE_HOST")
            .zip(variable("KUBERNETES_SERVICE_PORT"))
            .ok_or("this node runs in no cluster: KUBERNETES_SERVICE_HOST is not set")?;
        let account = Path::new(ACCOUNT);
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
            connection.abort();
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| format!("the answer cannot be read: {error}"))
        };
        tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err("no answer in 30 s".into()))
    }

    /// An answer that goes on.
    ///
    /// # Errors
    /// As with [`Cluster::get`].
    pub(crate) async fn follow(&self, path: &str) -> Result<Lines, String> {
        let path = format!("{path}&timeoutSeconds={WATCH_SECONDS}");
        let asked = tokio::time::timeout(TIMEOUT, self.ask(&path)).await;
        let (response, connection) = asked.unwrap_or_else(|_| Err("no answer in 30 s".into()))?;
        Ok(Lines { body: response.into_body(), kept: BytesMut::new(), connection })
    }

    async fn ask(&self, path: &str) -> Result<(Response<Incoming>, AbortHandle), String> {
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

    async fn over<S>(&self, stream: S, path: &str) -> Result<(Response<Incoming>, AbortHandle), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let mut request = Request::get(path).header(HOST, &self.authority).header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        match response.status() {
            http::StatusCode::OK => Ok((response, connection)),
            http::StatusCode::FORBIDDEN | http::StatusCode::UNAUTHORIZED => Err(format!(
                "the API answers {}: the service account has to be allowed to list and watch endpointslices",
                response.status()
            )),
            status => Err(format!("the API answers {status}")),
        }
    }
}

/// The lines of an answer that goes on. Dropping it closes the connection.
pub(crate) struct Lines {
    body: Incoming,
    kept: BytesMut,
    connection: AbortHandle,
}

impl Lines {
    /// The next; `None` when the server has ended the answer.
    ///
    /// # Errors
    /// When the connection breaks, or the server is silent for longer than it said.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.kept) {
                let line = self.kept.split_to(end + 1).freeze();
                return Ok(Some(line.slice(..end)));
            }
            if self.kept.len() > ANSWER_MAX_BYTES {
                return Err("a line of the answer is too long".into());
            }
            let patience = Duration::from_secs(WATCH_SECONDS) + TIMEOUT;
            let frame = tokio::time::timeout(patience, self.body.frame()).await;
            match frame.map_err(|_| "the API has fallen silent")? {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => self.kept.extend_from_slice(&frame.into_data().unwrap_or_default()),
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
