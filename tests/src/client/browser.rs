//! An HTTP/1.1 client with a cookie jar, a chosen source address and at most one connection.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, COOKIE, HOST, SET_COOKIE};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::{PATIENCE, connect};
use crate::backend::Seen;
use crate::services;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// No connection: nothing was sent.
    #[error("connecting to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// The connection broke before the reply was whole.
    #[error("talking to {0}: {1}")]
    Broken(SocketAddr, hyper::Error),
    /// No whole reply in time.
    #[error("no whole reply from {0} within {PATIENCE:?}")]
    Late(SocketAddr),
    /// The request could not be made.
    #[error(transparent)]
    Request(#[from] hyper::http::Error),
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// What the backend has seen; an error unless a backend answered with 200.
    pub fn seen(&self) -> Result<Seen> {
        ensure!(self.status == StatusCode::OK, "{} {}", self.status, self.text());
        serde_json::from_slice(&self.body).with_context(|| format!("no backend's answer: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// All that a user can read of it: head and body.
    pub fn everything(&self) -> String {
        let mut text = format!("{}\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        text + &self.text()
    }

    /// The Set-Cookie line for a cookie.
    pub fn set_cookie(&self, name: &str) -> Option<&str> {
        let lines = self.headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
        lines.into_iter().find(|line| line.split('=').next().is_some_and(|key| key.trim() == name))
    }
}

struct Connection {
    target: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

/// One user.
#[derive(Default)]
pub struct Browser {
    source: Option<Ipv4Addr>,
    host: Option<String>,
    headers: Vec<(String, String)>,
    closes: bool,
    connection: Option<Connection>,
    /// The cookie jar.
    pub cookies: BTreeMap<String, String>,
    /// How often a kept connection was found closed and a new one made, as every browser does for a GET.
    pub reconnects: u64,
}

impl Browser {
    /// A user with an empty jar who asks for [`services::HOST`].
    pub fn new() -> Self {
        Self::default()
    }

    /// From this address.
    #[must_use]
    pub fn from(mut self, source: Ipv4Addr) -> Self {
        self.source = Some(source);
        self
    }

    /// For this host.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// With this header in every request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A new connection for every request.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// With this cookie in the jar.
    #[must_use]
    pub fn cookie(mut self, name: &str, value: &str) -> Self {
        self.cookies.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The session cookie's value.
    pub fn session(&self) -> Result<String> {
        self.cookies.get(services::COOKIE).cloned().context("no session cookie in the jar")
    }

    /// Another user's device with the same jar and a connection of its own.
    pub fn twin(&self) -> Self {
        Self {
            source: self.source,
            host: self.host.clone(),
            headers: self.headers.clone(),
            closes: self.closes,
            connection: None,
            cookies: self.cookies.clone(),
            reconnects: 0,
        }
    }

    /// GET.
    pub async fn get(&mut self, target: SocketAddr, path: &str) -> Result<Reply, Trouble> {
        self.request(Method::GET, target, path, Bytes::new()).await
    }

    /// GET / and which backend answered.
    pub async fn visit(&mut self, target: SocketAddr) -> Result<Seen> {
        self.get(target, "/").await?.seen().with_context(|| format!("from {target}"))
    }

    /// POST.
    pub async fn post(&mut self, target: SocketAddr, path: &str, body: &str) -> Result<Reply, Trouble> {
        self.request(Method::POST, target, path, Bytes::from(body.to_owned())).await
    }

    /// Any request.
    pub async fn request(
        &mut self,
        method: Method,
        target: SocketAddr,
        path: &str,
        body: Bytes,
    ) -> Result<Reply, Trouble> {
        let whole = self.attempt(&method, target, path, &body);
        let reply = tokio::time::timeout(PATIENCE, whole).await.map_err(|_| Trouble::Late(target))??;
        self.keep_cookies(&reply.headers);
        Ok(reply)
    }

    async fn attempt(
        &mut self,
        method: &Method,
        target: SocketAddr,
        path: &str,
        body: &Bytes,
    ) -> Result<Reply, Trouble> {
        if let Some(mut kept) = self.connection.take().filter(|kept| kept.target == target)
            && kept.sender.ready().await.is_ok()
        {
            match self.exchange(kept, method, path, body).await {
                Err(Trouble::Broken(..)) if *method == Method::GET => self.reconnects += 1,
                outcome => return outcome,
            }
        }
        let stream = connect(self.source, target).await.map_err(|error| Trouble::Connect(target, error))?;
        let shaken = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| Trouble::Broken(target, error))?;
        tokio::spawn(connection);
        self.exchange(Connection { target, sender }, method, path, body).await
    }

    async fn exchange(
        &mut self,
        mut connection: Connection,
        method: &Method,
        path: &str,
        body: &Bytes,
    ) -> Result<Reply, Trouble> {
        let target = connection.target;
        let broken = |error| Trouble::Broken(target, error);
        let request = self.compose(method, path, body)?;
        let (head, body) = connection.sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        if !self.closes {
            self.connection = Some(connection);
        }
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    fn compose(&self, method: &Method, path: &str, body: &Bytes) -> Result<Request<Full<Bytes>>, Trouble> {
        let host = self.host.as_deref().unwrap_or(services::HOST);
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if !self.cookies.is_empty() {
            let jar: Vec<String> =
                self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(COOKIE, jar.join("; "));
        }
        if self.closes {
            request = request.header(CONNECTION, "close");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(request.body(Full::new(body.clone()))?)
    }

    fn keep_cookies(&mut self, headers: &HeaderMap) {
        for line in headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
            let Some((name, value)) = pair.split_once('=') else { continue };
            let gone = attributes.split(';').any(|each| each.trim().eq_ignore_ascii_case("max-age=0"));
            if gone {
                self.cookies.remove(name.trim());
            } else {
                self.cookies.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::http_backends;
    use crate::net::Net;

    #[tokio::test]
    async fn a_browser_keeps_its_connection_its_cookies_and_its_address() {
        let net = Net::claim().unwrap();
        let mut backends = http_backends(&net, &[("eu", 1)]).await.unwrap();
        let target = backends[0].address();
        let mut user = Browser::new().from(net.user(3)).cookie("a", "1").header("x-note", "hi");
        let seen = user.post(target, "/cart?add=1", "shoes").await.unwrap().seen().unwrap();
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str(), seen.body.as_str()),
            ("POST", "/cart?add=1", "shoes")
        );
        assert_eq!(seen.header("cookie"), ["a=1"]);
        assert_eq!(seen.header("x-note"), ["hi"]);
        assert!(user.connection.is_some());

        // The server closes the kept connection; a GET finds out and is asked again, as in every browser.
        backends[0].refuse().await;
        assert!(matches!(user.twin().get(target, "/").await, Err(Trouble::Connect(..))));
        backends[0].reopen().await.unwrap();
        user.visit(target).await.unwrap();
        assert_eq!(backends[0].requests(), 2);
        assert!(user.closing().visit(target).await.is_ok());
    }

    #[test]
    fn the_jar_takes_renews_and_drops_cookies() {
        let mut headers = HeaderMap::new();
        for line in ["s=1; Path=/; HttpOnly", "t=2", "s=3; Max-Age=100", "t=; Max-Age=0"] {
            headers.append(SET_COOKIE, line.parse().unwrap());
        }
        let mut user = Browser::new();
        user.keep_cookies(&headers);
        assert_eq!(user.cookies, BTreeMap::from([("s".to_owned(), "3".to_owned())]));
        let reply = Reply { status: StatusCode::OK, headers, body: Bytes::new() };
        assert_eq!(reply.set_cookie("s"), Some("s=1; Path=/; HttpOnly"));
        assert_eq!(reply.set_cookie("u"), None);
    }
}
