//! The near end: opens a stream to a node of another region and hands it over once the far end has accepted it.
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use gossip::id::{BackendId, RegionName};
use gossip::mesh::tunnel::has_moved;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::TunnelIo;
use super::preface::{Kind, Preface, Verdict};
use crate::backend::{PoolView, TunnelNode};
use crate::proxy::outcome::End;
use crate::proxy::upstream::{ConnectError, Driven};
use crate::proxy::usher::Usher;
use crate::proxy::worker::Worker;
use crate::proxy::{multiplex, upstream};

/// Without a word from the far end for max(3 × RTT, this) the next node is asked too, and after the last one the try
/// counts as a failed connect.
const PATIENCE: Duration = Duration::from_millis(300);
/// Nodes of one region that are tried: one may have died, another just come back, and a session would move for it.
const NODES: usize = 4;
/// What is bound to a backend of the region waits so long for the last word of the nodes that were asked: until nodes that
/// are gone would be suspected. What moves a session must be more than a moment's silence.
const LAST_WORD: Duration = Duration::from_secs(3);

/// A node that goes on as another process serves again within so long, at the latest.
const MOVE: Duration = Duration::from_secs(5);
/// How often it is asked meanwhile.
const MOVE_LOOK: Duration = Duration::from_millis(50);

/// Which backend answered; between the two ends only, never shown to users.
pub(in crate::proxy) const BACKEND: HeaderName = HeaderName::from_static("meridian-tunnel-backend");
/// Fields of a head between the two ends: the user's hundred and those that the ends add.
pub(in crate::proxy) const FIELDS_MAX: usize = 128;
/// Bytes of a head between the two ends: the user's 64 KiB as HTTP/2 counts them, and what the ends add.
pub(in crate::proxy) const HEAD_MAX_BYTES: u32 = 128 * 1024;

/// How the request ended at the far end, when no backend answered; between the two ends only.
pub(in crate::proxy) const END: HeaderName = HeaderName::from_static("meridian-tunnel-end");

/// What crosses.
pub(in crate::proxy) struct Crossing<'a> {
    pub(in crate::proxy) kind: Kind,
    pub(in crate::proxy) client: SocketAddr,
    pub(in crate::proxy) local: SocketAddr,
    pub(in crate::proxy) request_id: Option<&'a [u8]>,
}

/// No node of the region takes it. Nothing was sent to any backend.
#[derive(Debug)]
pub(in crate::proxy) struct Refusal;

/// Opens a stream to some node of `region` that accepts to serve `pool`, by `wanted` when it is given. One that is slow is
/// not given up while another is asked: the first word counts.
pub(in crate::proxy) async fn open(
    usher: &Usher<'_>,
    pool: &PoolView,
    region: &RegionName,
    wanted: Option<BackendId>,
    crossing: &Crossing<'_>,
) -> Result<Box<dyn TunnelIo>, Refusal> {
    let shared = &usher.worker.shared;
    let preface = Preface {
        kind: crossing.kind,
        service: usher.service.name.clone(),
        pool: pool.config.name.clone(),
        wanted,
        client: crossing.client,
        local: crossing.local,
        request_id: crossing.request_id.map_or(Vec::new(), <[u8]>::to_vec),
    }
    .encode();
    let nodes = usher.plan.snapshot.regions.get(region).map_or(&[][..], |view| &view.nodes);
    let first = usher.worker.random(|rng| rng.random_range(0..nodes.len().max(1)));
    let mut rest = nodes.iter().cycle().skip(first).take(nodes.len().min(NODES));
    // Whether one of them goes on as another process, which is worth a longer wait.
    let moves = Cell::new(false);
    let mut asked = FuturesUnordered::new();
    let clock = usher.worker.clock();
    let mut next = rest.next();
    let mut until = None;
    loop {
        let wait = match (next, until) {
            (Some(node), _) => {
                let (preface, moves) = (&preface, &moves);
                asked.push(async move { (node, ask(usher, node, preface, moves).await) });
                patience(usher, node)
            }
            (None, _) if asked.is_empty() => return Err(Refusal),
            (None, None) => {
                // Who has no session is better served elsewhere soon.
                let wait = match wanted {
                    _ if moves.get() => MOVE,
                    Some(_) => LAST_WORD,
                    None => PATIENCE,
                };
                until = Some(clock.now() + wait);
                wait
            }
            // One of them failed: the others have what is left of the time.
            (None, Some(until)) => until.saturating_duration_since(clock.now()),
        };
        match tokio::time::timeout(wait, asked.next()).await {
            Ok(Some((_, Ok((stream, Verdict::Accepted))))) => {
                shared.counters.tunnels_out.fetch_add(1, Ordering::Relaxed);
                return Ok(stream);
            }
            // Its backends are as good or bad for every node of the region.
            Ok(Some((_, Ok((_, Verdict::Unavailable))))) => return Err(Refusal),
            Ok(Some((node, Ok((_, Verdict::Unknown))))) => {
                tracing::debug!(peer = %node.name, "the far end knows no such service yet");
            }
            Ok(Some((node, Err(error)))) => tracing::debug!(peer = %node.name, %error, "no tunnel"),
            Ok(None) => {}
            Err(_) if until.is_some() => return Err(Refusal),
            Err(_) => tracing::debug!(%region, "the far end has not answered yet"),
        }
        next = rest.next();
    }
}

fn patience(usher: &Usher<'_>, node: &TunnelNode) -> Duration {
    match usher.worker.shared.tunnels.rtt(&node.name) {
        Some(rtt) => (3 * rtt).max(PATIENCE),
        // There is no connection yet: the handshake takes its round trips too.
        None => 2 * (3 * node.rtt.unwrap_or_default()).max(PATIENCE),
    }
}

/// Asks one node, and its next process when it goes on as another one: what it has not acknowledged was not done.
async fn ask(
    usher: &Usher<'_>,
    node: &TunnelNode,
    preface: &[u8],
    moves: &Cell<bool>,
) -> io::Result<(Box<dyn TunnelIo>, Verdict)> {
    let clock = usher.worker.clock();
    let latest = clock.now() + MOVE;
    let mut moved = false;
    loop {
        match ask_once(usher, node, preface).await {
            // Until the next process has the port, nobody answers there.
            Err(error) if (moved || has_moved(&error)) && clock.now() < latest => {
                moved = true;
                moves.set(true);
                tokio::time::sleep(MOVE_LOOK).await;
            }
            asked => return asked,
        }
    }
}

async fn ask_once(
    usher: &Usher<'_>,
    node: &TunnelNode,
    preface: &[u8],
) -> io::Result<(Box<dyn TunnelIo>, Verdict)> {
    let mut stream = usher.worker.shared.tunnels.open(&node.name, node.addr).await?;
    stream.write_all(preface).await?;
    stream.flush().await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    let verdict = Verdict::decode(answer).map_err(io::Error::other)?;
    Ok((stream, verdict))
}

/// Prepares to send the one request of an accepted stream.
///
/// # Errors
/// When the stream broke meanwhile.
pub(in crate::proxy) async fn sender(
    stream: Box<dyn TunnelIo>,
    crossing: &Crossing<'_>,
    worker: &Worker,
) -> Result<Driven, ConnectError> {
    match crossing.kind {
        Kind::Http2 => {
            let alone = multiplex::alone(stream, HEAD_MAX_BYTES, worker.clock());
            alone.await.map(Driven::Http2).map_err(|error| ConnectError { error })
        }
        Kind::Http1 | Kind::Tcp => {
            let mut builder = upstream::client();
            let bytes = HEAD_MAX_BYTES as usize;
            builder.max_headers(FIELDS_MAX).max_header_size(bytes).max_buf_size(bytes);
            upstream::drive(&builder, stream).await
        }
    }
}

/// What becomes of a TCP connection that a node of another region has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Connected {
    /// It stands, to this backend.
    To(BackendId),
    /// The node found no backend that answers.
    Nobody,
    /// The node is gone, or silent: another one may do better, since nothing was said yet.
    Gone,
}

/// For TCP: waits until the far end's connection stands and says to whom.
pub(in crate::proxy) async fn connected(stream: &mut Box<dyn TunnelIo>, limit: Duration) -> Connected {
    let read = async {
        match stream.read_u8().await {
            Ok(1) => stream.read_u64_le().await.map_or(Connected::Gone, |id| Connected::To(BackendId(id))),
            Ok(_) => Connected::Nobody,
            Err(_) => Connected::Gone,
        }
    };
    tokio::time::timeout(limit, read).await.unwrap_or(Connected::Gone)
}

/// What the far end says beside the answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Told {
    pub(in crate::proxy) backend: Option<BackendId>,
    pub(in crate::proxy) end: Option<End>,
}

/// Takes what the far end says out of the answer's head.
pub(in crate::proxy) fn told(headers: &mut HeaderMap) -> Told {
    let backend = headers.remove(BACKEND);
    let end = headers.remove(END);
    let text = |value: Option<HeaderValue>| value.and_then(|value| value.to_str().ok().map(str::to_owned));
    let backend = text(backend).and_then(|hex| u64::from_str_radix(&hex, 16).ok()).map(BackendId);
    let end = text(end).map(|end| {
        // An end that a newer node made up is an end all the same.
        End::ALL.iter().copied().find(|known| known.as_str() == end).unwrap_or(End::UpstreamReset)
    });
    Told { backend, end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_far_end_says_never_reaches_the_user() {
        let mut headers = HeaderMap::new();
        headers.insert(BACKEND, HeaderValue::from_static("00000000000000ab"));
        headers.insert(END, HeaderValue::from_static("no_backend"));
        let said = told(&mut headers);
        assert_eq!(said, Told { backend: Some(BackendId(0xab)), end: Some(End::NoBackend) });
        assert!(headers.is_empty());
        headers.insert(END, HeaderValue::from_static("something_new"));
        assert_eq!(told(&mut headers).end, Some(End::UpstreamReset));
        assert_eq!(told(&mut headers), Told::default());
    }
}
