//! What peers send here: connections are accepted, payloads are limited and handed to their channel's reader.
//!
//! A place in the channel's queue is taken *before* a payload is read, so what a peer can make this node hold is at most
//! the queue's length times the channel's largest payload, whatever it sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::endpoint::{explain, peer_name};
use super::quic::Shared;
use super::wire::{REFUSED, REPLACED, STREAM_PATIENCE, read_channel, unframed};
use super::{Channel, Inbound, Peer, Reply};

/// How long the reader of an exchange may take to answer before the stream is given back.
const REPLY_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What was not taken, since the start.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    count: AtomicU64,
}

impl Dropped {
    /// Counts one and logs at powers of two: a flood must not fill the log.
    fn note(&self, from: &Peer, channel: u8, why: &'static str) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(peer = %from.name, channel, count, why, "inbound payloads were dropped");
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Accepts connections until the endpoint closes.
pub(crate) async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let addr = incoming.remote_address();
        let entering = match shared.door.admit(&shared.endpoint, incoming) {
            Ok(entering) => entering,
            Err(error) => {
                if let Some(error) = error {
                    refused(&shared, addr, &error);
                }
                continue;
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            match entering.finished().await {
                Ok(connection) => receive(shared, connection).await,
                Err(ConnectionError::TimedOut) => tracing::debug!(%addr, "a handshake took too long"),
                Err(error) => refused(&shared, addr, &error),
            }
        });
    }
}

fn refused(shared: &Shared, addr: SocketAddr, error: &ConnectionError) {
    let reason = explain(error);
    tracing::debug!(%addr, reason, "refused a connection");
    shared.strangers.refused(addr, &reason, shared.clock.now());
}

/// Receives on one connection until it ends.
async fn receive(shared: Arc<Shared>, connection: Connection) {
    let Some(name) = peer_name(&connection) else { return };
    let from = Peer { name, addr: connection.remote_address() };
    shared.met(&from);
    let mut rings = shared.identity.rings();
    loop {
        tokio::select! {
            Ok(()) = rings.changed() => if !shared.identity.still_trusts(&connection) {
                tracing::warn!(peer = %from.name, addr = %from.addr, "its mesh key was removed: disconnected");
                return connection.close(REPLACED, b"the key was removed");
            },
            datagram = connection.read_datagram() => match datagram {
                Ok(datagram) => take_datagram(&shared, &from, datagram),
                Err(_) => return,
            },
            stream = connection.accept_uni() => match stream {
                Ok(stream) => drop(tokio::spawn(take_message(shared.clone(), from.clone(), stream))),
                Err(_) => return,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    drop(tokio::spawn(take_exchange(shared.clone(), from.clone(), send, recv)));
                }
                Err(_) => return,
            },
        }
    }
}

fn take_datagram(shared: &Shared, from: &Peer, datagram: Bytes) {
    let Some((id, bytes)) = unframed(datagram) else { return };
    let Some((channel, reader)) = shared.listener(id) else { return };
    if bytes.len() > channel.max_bytes {
        return shared.dropped.note(from, id, "larger than the channel allows");
    }
    if reader.try_send(Inbound::Datagram { from: from.clone(), bytes }).is_err() {
        shared.dropped.note(from, id, "the queue is full");
    }
}

async fn take_message(shared: Arc<Shared>, from: Peer, mut stream: RecvStream) {
    let Some((channel, place)) = admit_stream(&shared, &from, &mut stream).await else { return };
    match timeout(STREAM_PATIENCE, stream.read_to_end(channel.max_bytes)).await {
        Ok(Ok(bytes)) => drop(place.send(Inbound::Message { from, bytes: bytes.into() })),
        _ => refuse(&shared, &from, channel, &mut stream),
    }
}

async fn take_exchange(shared: Arc<Shared>, from: Peer, mut send: SendStream, mut recv: RecvStream) {
    let Some((channel, place)) = admit_stream(&shared, &from, &mut recv).await else {
        let _ = send.reset(REFUSED);
        return;
    };
    let Ok(Ok(bytes)) = timeout(STREAM_PATIENCE, recv.read_to_end(channel.max_bytes)).await else {
        refuse(&shared, &from, channel, &mut recv);
        let _ = send.reset(REFUSED);
        return;
    };
    let (answer, answered) = oneshot::channel();
    place.send(Inbound::Exchange { from: from.clone(), bytes: bytes.into(), reply: Reply { answer } });
    let answer = tokio::select! {
        answer = timeout(REPLY_PATIENCE, answered) => answer.ok().and_then(Result::ok),
        _ = send.stopped() => None,
    };
    match answer {
        Some(bytes) if bytes.len() <= channel.max_bytes => {
            let write = async {
                send.write_all(&bytes).await.ok()?;
                send.finish().ok()
            };
            let _ = timeout(STREAM_PATIENCE, write).await;
        }
        Some(bytes) => {
            tracing::error!(peer = %from.name, channel = channel.name, bytes = bytes.len(), "an answer is too large");
            let _ = send.reset(REFUSED);
        }
        None => {
            let _ = send.reset(REFUSED);
        }
    }
}

/// Reads the channel and takes a place in its queue.
async fn admit_stream(
    shared: &Shared,
    from: &Peer,
    stream: &mut RecvStream,
) -> Option<(Channel, mpsc::OwnedPermit<Inbound>)> {
    let id = timeout(STREAM_PATIENCE, read_channel(stream)).await.ok()??;
    let why = match shared.listener(id) {
        // So it is while this node starts: its rooms begin to listen one after the other.
        None => {
            tracing::debug!(peer = %from.name, channel = id, "nobody listens on the channel");
            let _ = stream.stop(REFUSED);
            return None;
        }
        Some((channel, reader)) => match reader.try_reserve_owned() {
            Ok(place) => return Some((channel, place)),
            Err(_) => "the queue is full",
        },
    };
    shared.dropped.note(from, id, why);
    let _ = stream.stop(REFUSED);
    None
}

fn refuse(shared: &Shared, from: &Peer, channel: Channel, stream: &mut RecvStream) {
    shared.dropped.note(from, channel.id, "too large, too slow or broken off");
    let _ = stream.stop(REFUSED);
}
