//! The proxy end to end: real sockets on loopback, hand-made snapshots, and a session store and tunnels in memory.
mod crossing;
mod disguise;
mod http;
mod http2;
mod http2_tls;
mod https;
mod limits;
mod link;
mod listeners;
mod proxy_protocol;
mod smuggling;
mod sticky;
mod tcp;
mod tls;
mod tunnel;
mod websocket;
mod windows;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use gossip::clock::{Clock, Hlc};
use gossip::id::{BackendId, NodeName, RegionName, SessionId};
use gossip::keyring::Keyring;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use storage::cookie::Cookies;
use storage::ends::Ends;
use storage::pin::Pin;
use storage::sessions::{Committed, Repinned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::{InboundTunnel, ProxyConfig, ProxyHandle, SessionStore, SourceKeys, TunnelDial, TunnelIo, start};
use crate::backend::{Evidence, Snapshot};
use crate::config::model::{AccessFormat, AccessLog};

/// A port that is free at the moment, on an address of its own.
pub(super) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A session store that several nodes share, and that counts what it is asked.
#[derive(Default)]
pub(super) struct FakeStore {
    pins: Mutex<HashMap<SessionId, Pin>>,
    pub(super) commits: AtomicUsize,
    pub(super) finds: AtomicUsize,
    pub(super) repins: AtomicUsize,
    pub(super) commit_takes: Duration,
    /// Whether every node is a replica of every session.
    pub(super) held_here: bool,
}

impl FakeStore {
    /// As an operator's order does.
    pub(super) fn end_all(&self, at: Hlc) {
        for pin in self.pins.lock().unwrap().values_mut() {
            pin.assignment.hlc = at;
            pin.assignment.backend = None;
        }
    }

    /// As the loss of every disk and memory does.
    pub(super) fn lose_all(&self) {
        self.pins.lock().unwrap().clear();
    }

    /// What is held of a session.
    pub(super) fn held(&self, id: &SessionId) -> Option<Pin> {
        self.pins.lock().unwrap().get(id).copied()
    }

    /// Sessions that have not ended.
    pub(super) fn standing(&self) -> usize {
        self.pins.lock().unwrap().values().filter(|pin| pin.assignment.backend.is_some()).count()
    }
}

impl SessionStore for FakeStore {
    fn local(&self, id: &SessionId) -> Option<Pin> {
        self.held_here.then(|| self.pins.lock().unwrap().get(id).copied()).flatten()
    }
    fn commit(&self, _: &RegionName, pin: Pin) -> BoxFuture<'static, Committed> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.pins.lock().unwrap().insert(pin.id, pin);
        let takes = self.commit_takes;
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            Committed::Acknowledged
        })
    }
    fn commit_patiently(&self, home: &RegionName, pin: Pin) -> BoxFuture<'static, Committed> {
        self.commit(home, pin)
    }
    fn find<'a>(&'a self, _: &'a RegionName, id: SessionId) -> BoxFuture<'a, Option<Pin>> {
        self.finds.fetch_add(1, Ordering::Relaxed);
        let found = self.pins.lock().unwrap().get(&id).copied();
        Box::pin(async move { found })
    }
    fn repin<'a>(&'a self, _: &'a RegionName, proposal: Pin, replaces: Hlc) -> BoxFuture<'a, Repinned> {
        self.repins.fetch_add(1, Ordering::Relaxed);
        let mut pins = self.pins.lock().unwrap();
        let answer = match pins.get(&proposal.id) {
            Some(present) if present.assignment.hlc > replaces => Repinned::Superseded(*present),
            _ => {
                pins.insert(proposal.id, proposal);
                Repinned::Committed(proposal)
            }
        };
        Box::pin(async move { answer })
    }
    fn forward(&self, _: &RegionName, _: &RegionName, _: Pin) {}
    fn refresh(&self, _: &RegionName, _: SessionId, _: u32) {}
}

/// Tunnels in memory: a name leads to a node's queue.
#[derive(Default)]
pub(super) struct FakeTunnels(Mutex<HashMap<NodeName, mpsc::Sender<InboundTunnel>>>);

impl TunnelDial for FakeTunnels {
    fn open<'a>(&'a self, to: &'a NodeName, _: SocketAddr) -> BoxFuture<'a, io::Result<Box<dyn TunnelIo>>> {
        let queue = self.0.lock().unwrap().get(to).cloned();
        Box::pin(async move {
            let queue = queue.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (near, far) = link::End::pair();
            let inbound = InboundTunnel { from: NodeName::new("near").unwrap(), io: Box::new(far) };
            queue.send(inbound).await.map_err(|_| io::ErrorKind::ConnectionReset)?;
            Ok(Box::new(near) as Box<dyn TunnelIo>)
        })
    }
    fn rtt(&self, _: &NodeName) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }
}

/// What the nodes of a test have in common.
pub(super) struct World {
    pub(super) store: Arc<FakeStore>,
    pub(super) tunnels: Arc<FakeTunnels>,
    pub(super) ends: Ends,
    keyring: Keyring,
    clock: Clock,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(FakeStore::default())
    }

    pub(super) fn with(store: FakeStore) -> Self {
        Self {
            store: Arc::new(store),
            tunnels: Arc::default(),
            ends: Ends::default(),
            keyring: Keyring::generate(),
            clock: Clock::system(),
        }
    }

    /// The cookies of all nodes.
    pub(super) fn cookies(&self) -> Cookies {
        Cookies::new(&self.keyring)
    }

    pub(super) fn hlc(&self) -> Hlc {
        self.clock.hlc()
    }

    pub(super) fn try_node(&self, name: &str, snapshot: Snapshot) -> Result<Node, super::StartError> {
        let name = NodeName::new(name).unwrap();
        let snapshot = Arc::new(snapshot);
        let current = Arc::new(ArcSwap::new(snapshot.clone()));
        let (changes, changed) = watch::channel(snapshot);
        let (tunnel, tunnel_accepts) = mpsc::channel(64);
        let (evidence, seen) = mpsc::channel(64);
        let tickets = crate::tls::TicketKeys::new(&self.keyring, self.clock.clone());
        let tls = crate::tls::TlsConfig { tickets, clock: self.clock.clone() };
        let (tls, _) =
            crate::tls::start(&tls, changed.clone(), |snapshot: &Arc<Snapshot>| snapshot.services.clone());
        let handle = start(ProxyConfig {
            node: name.clone(),
            listen: vec!["127.0.0.1".parse().unwrap()],
            workers: Some(2),
            snapshot: current.clone(),
            changes: changed,
            sessions: self.store.clone(),
            cookies: self.cookies(),
            ends: self.ends.clone(),
            source_keys: SourceKeys::new(&self.keyring),
            tunnels: self.tunnels.clone(),
            tunnel_accepts,
            evidence,
            tls,
            access: AccessLog::Off,
            inherited: Default::default(),
            access_format: AccessFormat::Text,
            clock: self.clock.clone(),
        })?;
        self.tunnels.0.lock().unwrap().insert(name, tunnel);
        Ok(Node { handle, snapshot: current, changes, seen })
    }

    pub(super) fn node(&self, name: &str, snapshot: Snapshot) -> Node {
        self.try_node(name, snapshot).unwrap()
    }
}

pub(super) struct Node {
    pub(super) handle: ProxyHandle,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    changes: watch::Sender<Arc<Snapshot>>,
    pub(super) seen: mpsc::Receiver<(BackendId, Evidence)>,
}

impl Node {
    /// The address of a listener.
    pub(super) fn addr(&self, listener: &str) -> SocketAddr {
        let listening = self.handle.listening();
        listening.iter().find(|(name, _)| name.as_str() == listener).unwrap().1
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(snapshot.clone());
        self.changes.send_replace(snapshot);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = (*self.snapshot.load_full()).clone();
        change(&mut snapshot);
        self.publish(snapshot);
    }
}

/// Waits until `condition` holds, at most ten seconds.
pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("the condition never held");
}

/// An HTTP backend that says what it was asked. Paths with a meaning: `/slow`, `/reset`, `/gateway`,
/// `/public`, `/telling`, `/upgrade`.
pub(super) async fn http_backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(move |request| say(name, request));
                let served = hyper::server::conn::http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), service);
                let _ = served.with_upgrades().await;
            });
        }
    });
    addr
}

async fn say(name: &'static str, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
    let mut response = Response::builder().header("x-backend", name).header("meridian-tunnel-end", "forged");
    match request.uri().path() {
        "/slow" => std::future::pending::<()>().await,
        "/reset" => return Err(io::Error::other("reset")),
        "/gateway" => response = response.status(StatusCode::BAD_GATEWAY),
        "/public" => response = response.header("cache-control", "public, max-age=60"),
        "/telling" => {
            response = response
                .header("server", "nginx/1.22.1")
                .header("via", "1.1 inner")
                .header("x-powered-by", "PHP/8.2.7")
                .header("set-cookie", "cart=1")
                .header("set-cookie", "meridian=mine; Path=/");
        }
        "/upgrade" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgraded.await.unwrap());
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(name.as_bytes()).await.unwrap();
                stream.write_all(&word).await.unwrap();
                stream.shutdown().await.unwrap();
            });
            let response = response
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "upgrade")
                .header("upgrade", "websocket");
            return Ok(response.body(Full::default()).unwrap());
        }
        _ => {}
    }
    let mut told = format!("{} {}\n", request.method(), request.uri());
    for (header, value) in request.headers() {
        told.push_str(&format!("{header}: {}\n", value.to_str().unwrap_or("?")));
    }
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    told.push_str(&format!("body: {} bytes\n", body.len()));
    Ok(response.body(Full::from(told)).unwrap())
}

/// A parsed answer.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Said {
    pub(super) fn parse(answer: &[u8]) -> Self {
        let answer = String::from_utf8_lossy(answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(super) fn backend(&self) -> &str {
        self.header("x-backend").unwrap_or_else(|| panic!("no backend answered: {self:?}"))
    }

    /// The session cookie as a browser sends it back.
    pub(super) fn cookie(&self) -> Option<String> {
        Some(self.header("set-cookie")?.split(';').next()?.to_owned())
    }
}

/// Sends bytes over a connection of its own and reads the answer to its end.
pub(super) async fn raw(addr: SocketAddr, bytes: &[u8]) -> Said {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // The proxy may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let answer = tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("no answer in time");
    Said::parse(&answer)
}

pub(super) async fn get(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Said {
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    raw(addr, format!("{request}\r\n").as_bytes()).await
}
