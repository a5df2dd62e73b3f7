//! Two and three real endpoints on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::VarInt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::endpoint::{TUNNEL_WINDOW_BYTES, bind_pair};
use super::tls::Identity;
use super::tunnel::Tunnels;
use super::*;
use crate::clock::{Clock, Wall};
use crate::keyring::Keyring;

const CHANNEL: Channel = Channel { id: 200, name: "test", max_bytes: 100_000, queue: 4 };
const PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    name: NodeName,
    addr: SocketAddr,
    mesh: Mesh,
    identity: Arc<Identity>,
    tunnels: Tunnels,
    streams: tokio::sync::mpsc::Receiver<tunnel::TunnelAccept>,
}

fn node(name: &str, ring: &Keyring) -> Node {
    node_at(name, ring, Clock::system())
}

/// A node whose certificate lives by another clock than its timers.
fn node_at(name: &str, ring: &Keyring, clock: Clock) -> Node {
    let name: NodeName = name.parse().unwrap();
    let identity = Identity::new(name.clone(), ring.clone(), clock).unwrap();
    let [mesh, tunnel] = bind_pair("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = mesh.local_addr().unwrap();
    let mesh = Mesh::start(name.clone(), identity.clone(), Clock::system(), mesh).unwrap();
    let (tunnels, streams) = Tunnels::start(identity.clone(), tunnel).unwrap();
    Node { name, addr, mesh, identity, tunnels, streams }
}

fn introduce(nodes: &[&Node]) {
    let member = |node: &&Node| MemberAddr { name: node.name.clone(), addr: node.addr, generation: 1 };
    let members = nodes.iter().map(member).collect::<Vec<_>>();
    for node in nodes {
        node.mesh.set_members(&members);
    }
}

async fn connected(from: &Node, to: &NodeName) {
    let wait = async {
        while from.mesh.rtt(to).is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("they connect");
}

fn tunnel_addr(node: &Node) -> SocketAddr {
    SocketAddr::new(node.addr.ip(), node.addr.port() + 1)
}

#[tokio::test]
async fn the_three_ways_to_speak() {
    let ring = Keyring::generate();
    let (a, b) = (node("a", &ring), node("b", &ring));
    introduce(&[&a, &b]);
    let mut inbound = b.mesh.listen(CHANNEL);
    connected(&a, &b.name).await;

    a.mesh.datagram(&b.name, CHANNEL, Bytes::from_static(b"one")).unwrap();
    let Inbound::Datagram { from, bytes } = timeout(PATIENCE, inbound.recv()).await.unwrap().unwrap() else {
        panic!("a datagram arrives as one")
    };
    assert_eq!((from.name, from.addr, &bytes[..]), (a.name.clone(), a.addr, &b"one"[..]));

    let large = Bytes::from(vec![7; CHANNEL.max_bytes]);
    a.mesh.message(&b.name, CHANNEL, large.clone()).unwrap();
    let Inbound::Message { bytes, .. } = timeout(PATIENCE, inbound.recv()).await.unwrap().unwrap() else {
        panic!("a message arrives as one")
    };
    assert_eq!(bytes, large);

    let echo = tokio::spawn(async move {
        while let Some(Inbound::Exchange { bytes, reply, .. }) = inbound.recv().await {
            match &bytes[..] {
                b"drop" => drop(reply),
                b"keep" => std::mem::forget(reply),
                b"much" => reply.send(Bytes::from(vec![0; CHANNEL.max_bytes + 1])),
                // From a thread that no runtime knows.
                _ => drop(std::thread::spawn(move || reply.send(bytes))),
            }
        }
    });
    let ask =
        |text: &'static [u8], patience| a.mesh.exchange(&b.name, CHANNEL, Bytes::from_static(text), patience);
    assert_eq!(ask(b"hello", PATIENCE).await, Ok(Bytes::from_static(b"hello")));
    assert_eq!(ask(b"drop", PATIENCE).await, Err(ExchangeError::Refused(b.name.clone())));
    assert_eq!(ask(b"much", PATIENCE).await, Err(ExchangeError::Refused(b.name.clone())));
    assert_eq!(ask(b"keep", Duration::from_millis(50)).await, Err(ExchangeError::TimedOut(b.name.clone())));
    echo.abort();
}

/// Dials as a node of this name would that speaks these versions of the protocol.
async fn dial_speaking(name: &str, ring: &Keyring, alpn: &[&[u8]], to: SocketAddr) -> Scripted {
    let identity = Identity::new(name.parse().unwrap(), ring.clone(), Clock::system()).unwrap();
    let tls = identity.client(alpn.iter().map(|version| version.to_vec()).collect(), None).unwrap();
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(quic));
    let connecting = endpoint.connect_with(config, to, "meridian").unwrap();
    let connected = timeout(PATIENCE, connecting).await.expect("an answer");
    Scripted { addr: endpoint.local_addr().unwrap(), connected, endpoint }
}

struct Scripted {
    addr: SocketAddr,
    connected: Result<quinn::Connection, quinn::ConnectionError>,
    endpoint: quinn::Endpoint,
}

#[tokio::test]
async fn a_peer_that_also_speaks_a_later_version_is_let_in_with_this_one() {
    let ring = Keyring::generate();
    let a = node("a", &ring);
    let mut inbound = a.mesh.listen(CHANNEL);
    let later = dial_speaking("b", &ring, &[b"meridian-mesh/2", b"meridian-mesh/1"], a.addr).await;
    let connection = later.connected.expect("they have a version in common");
    let handshake = connection.handshake_data().unwrap();
    let handshake = handshake.downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
    assert_eq!(handshake.protocol.as_deref(), Some(&b"meridian-mesh/1"[..]));

    // What it says on a channel that this version does not know is refused alone; all else arrives.
    for bytes in [&b"\xfawhat is this"[..], b"\xc8hello"] {
        let mut stream = connection.open_uni().await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.finish();
    }
    connection.send_datagram(Bytes::from_static(b"\xfawhat is this")).unwrap();
    let Inbound::Message { from, bytes } = timeout(PATIENCE, inbound.recv()).await.unwrap().unwrap() else {
        panic!("a message arrives as one")
    };
    assert_eq!((from.name.as_str(), &bytes[..]), ("b", &b"hello"[..]));
    assert!(connection.close_reason().is_none() && a.mesh.strangers().is_empty());
}

#[tokio::test]
async fn a_peer_that_speaks_other_versions_alone_is_refused_and_both_say_so() {
    let ring = Keyring::generate();
    let a = node("a", &ring);
    for (number, version) in [&b"meridian-mesh/2"[..], b"meridian-mesh/0"].into_iter().enumerate() {
        let other = dial_speaking("b", &ring, &[version], a.addr).await;
        let reason = endpoint::explain(&other.connected.expect_err("they have no version in common"));
        assert!(reason.contains("another version of the mesh protocol"), "{reason}");
        let told = async {
            loop {
                let told = a.mesh.strangers();
                if told.len() > number && told.iter().any(|line| line.contains(&other.addr.to_string())) {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = timeout(PATIENCE, told).await.expect("it is told");
        assert!(told.iter().all(|line| line.contains("upgrade the older")), "{told:?}");
        other.endpoint.close(VarInt::from_u32(0), b"");
    }

    // The same the other way round: who dials a node of another version.
    let identity = Identity::new("c".parse().unwrap(), ring.clone(), Clock::system()).unwrap();
    let tls = identity.server(vec![b"meridian-mesh/2".to_vec()]).unwrap();
    let quic = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(quic));
    let server = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = server.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            let _ = incoming.await;
        }
    });
    a.mesh.set_members(&[MemberAddr { name: "c".parse().unwrap(), addr, generation: 1 }]);
    let told = async {
        while !a.mesh.strangers().iter().any(|line| line.contains(&addr.to_string())) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("it is told");
    assert_eq!(a.mesh.rtt(&"c".parse().unwrap()), None);
    accepting.abort();
}

#[test]
fn an_exchange_works_from_another_runtime() {
    let mesh = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ring = Keyring::generate();
    let (a, b) = mesh.block_on(async { (node("a", &ring), node("b", &ring)) });
    let mut inbound = b.mesh.listen(CHANNEL);
    mesh.spawn(async move {
        while let Some(Inbound::Exchange { bytes, reply, .. }) = inbound.recv().await {
            reply.send(bytes);
        }
    });
    introduce(&[&a, &b]);
    let worker = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The first waits for the dial that is under way, the others use what stands.
    for _ in 0..3 {
        let answer = worker.block_on(a.mesh.exchange(&b.name, CHANNEL, Bytes::from_static(b"x"), PATIENCE));
        assert_eq!(answer, Ok(Bytes::from_static(b"x")));
    }
}

#[tokio::test]
async fn limits_hold_at_both_ends() {
    let ring = Keyring::generate();
    let (a, b) = (node("a", &ring), node("b", &ring));
    introduce(&[&a, &b]);
    let narrow = Channel { max_bytes: 10, ..CHANNEL };
    let mut inbound = b.mesh.listen(narrow);
    connected(&a, &b.name).await;
    let eleven = Bytes::from_static(b"0123456789a");
    let too_large = |sent| matches!(sent, Err(SendError::TooLarge { bytes: 11, max: 10, .. }));
    assert!(too_large(a.mesh.message(&b.name, narrow, eleven.clone())));
    assert!(too_large(a.mesh.datagram(&b.name, narrow, eleven.clone())));
    let beyond_path = a.mesh.datagram(&b.name, CHANNEL, Bytes::from(vec![0; 70_000]));
    assert!(matches!(beyond_path, Err(SendError::TooLarge { .. })), "{beyond_path:?}");
    a.mesh.datagram(&b.name, CHANNEL, Bytes::from(vec![0; 11])).unwrap();

    // A sender that knows no limit: the receiver cuts the stream and stays well.
    a.mesh.message(&b.name, CHANNEL, eleven.clone()).unwrap();
    let refused = a.mesh.exchange(&b.name, CHANNEL, eleven, PATIENCE).await;
    assert_eq!(refused, Err(ExchangeError::Refused(b.name.clone())));
    let unknown = Channel { id: 201, ..CHANNEL };
    let refused = a.mesh.exchange(&b.name, unknown, Bytes::new(), PATIENCE).await;
    assert_eq!(refused, Err(ExchangeError::Refused(b.name.clone())));

    // A flood: what the queue does not hold is dropped and counted.
    for _ in 0..500 {
        let _ = a.mesh.message(&b.name, narrow, Bytes::from_static(b"flood"));
    }
    let counted = async {
        while b.mesh.dropped() < 490 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("the flood is dropped");
    let mut kept = 0;
    while inbound.try_recv().is_ok() {
        kept += 1;
    }
    assert!(kept <= narrow.queue, "{kept}");
}

#[tokio::test]
async fn a_stranger_is_refused_in_the_handshake() {
    let a = node("a", &Keyring::generate());
    let stranger = node("b", &Keyring::generate());
    introduce(&[&a, &stranger]);
    let mut inbound = a.mesh.listen(CHANNEL);
    let refused = stranger.mesh.exchange(&a.name, CHANNEL, Bytes::new(), PATIENCE).await;
    assert_eq!(refused, Err(SendError::NotConnected("a".into()).into()));
    let refused = stranger.tunnels.open(&a.name, tunnel_addr(&a)).await.unwrap_err();
    assert_eq!(refused.to_string(), "it holds another mesh key");
    let told = async {
        while a.mesh.strangers().is_empty() || stranger.mesh.strangers().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("both sides tell of it");
    assert!(inbound.try_recv().is_err());
    assert!(a.mesh.links().iter().all(|link| link.peer.is_none()));
}

#[tokio::test]
async fn who_dials_a_name_gets_that_name_or_nobody() {
    let ring = Keyring::generate();
    let (a, b) = (node("a", &ring), node("b", &ring));
    let c: NodeName = "c".parse().unwrap();
    a.mesh.set_members(&[MemberAddr { name: c.clone(), addr: b.addr, generation: 1 }]);
    let refused = a.mesh.exchange(&c, CHANNEL, Bytes::new(), PATIENCE).await;
    assert_eq!(refused, Err(SendError::NotConnected("c".into()).into()));
    let refused = a.tunnels.open(&c, tunnel_addr(&b)).await.unwrap_err();
    assert_eq!(refused.to_string(), "it is another node");
}

/// A node that died may have left its address to another one.
#[tokio::test]
async fn the_next_node_at_an_address_is_reached_and_gets_nothing_meant_for_the_last() {
    let ring = Keyring::generate();
    let (a, b) = (node("a", &ring), node("b", &ring));
    let mut inbound = b.mesh.listen(CHANNEL);
    let dead: NodeName = "dead".parse().unwrap();
    a.mesh.set_members(&[MemberAddr { name: dead.clone(), addr: b.addr, generation: 1 }]);
    a.mesh.message(&dead, CHANNEL, Bytes::from_static(b"for the dead")).unwrap();
    a.mesh.message_to_addr(b.addr, CHANNEL, b"for whoever is there").unwrap();
    let got = timeout(PATIENCE, inbound.recv()).await.expect("nothing arrives").unwrap();
    assert!(
        matches!(&got, Inbound::Message { bytes, .. } if &bytes[..] == b"for whoever is there"),
        "{got:?}"
    );
    let dead = a.mesh.exchange(&dead, CHANNEL, Bytes::new(), PATIENCE).await;
    assert!(dead.is_err(), "{dead:?}");
}

#[tokio::test]
async fn keys_rotate_under_running_nodes() {
    let old = Keyring::generate();
    let (a, b) = (node("a", &old), node("b", &old));
    introduce(&[&a, &b]);
    connected(&a, &b.name).await;
    connected(&b, &a.name).await;
    let _accepts = [&a, &b].map(|node| node.mesh.listen(CHANNEL));
    let mut both = old.clone();
    let new = both.install_new().unwrap();
    let mut used = both.clone();
    used.use_key(new).unwrap();
    let mut alone = used.clone();
    alone.remove(old.in_use()).unwrap();

    // One node after the other, and nobody is disconnected at any time: neither while `b` lacks the new key ...
    for ring in [&both, &used] {
        a.identity.set_keyring(ring.clone()).unwrap();
        stays_connected(&a, &b).await;
    }
    // ... nor while it takes it into use, nor when the old one goes.
    for ring in [&both, &used] {
        b.identity.set_keyring(ring.clone()).unwrap();
        stays_connected(&a, &b).await;
    }
    for node in [&a, &b] {
        node.identity.set_keyring(alone.clone()).unwrap();
        stays_connected(&a, &b).await;
    }
}

/// Both are connected to each other all the time that a redial takes.
async fn stays_connected(a: &Node, b: &Node) {
    for _ in 0..20 {
        assert!(a.mesh.rtt(&b.name).is_some() && b.mesh.rtt(&a.name).is_some());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_node_that_missed_the_new_key_is_let_in_until_the_old_one_goes() {
    let old = Keyring::generate();
    let mut ring = old.clone();
    let new = ring.install_new().unwrap();
    ring.use_key(new).unwrap();
    let (a, b) = (node("a", &old), node("b", &ring));
    introduce(&[&a, &b]);
    connected(&a, &b.name).await;
    connected(&b, &a.name).await;
    // Then it is a stranger, on connections that stand too.
    ring.remove(old.in_use()).unwrap();
    b.identity.set_keyring(ring).unwrap();
    let apart = async {
        while a.mesh.rtt(&b.name).is_some() || b.mesh.rtt(&a.name).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, apart).await.expect("the key was removed");
    let refused = b.tunnels.open(&a.name, tunnel_addr(&a)).await.unwrap_err();
    assert_eq!(refused.to_string(), "it holds another mesh key");
}

#[tokio::test]
async fn certificates_end_and_are_renewed_and_forgive_a_day() {
    let ring = Keyring::generate();
    let [day_0, later] = [(); 2].map(|()| Clock::simulated(Wall(1_700_000_000_000)));
    let (a, b) = (node_at("a", &ring, day_0.clone()), node_at("b", &ring, later.clone()));
    later.advance(Duration::from_secs(5 * 24 * 3600));
    introduce(&[&a, &b]);
    assert!(b.mesh.exchange(&a.name, CHANNEL, Bytes::new(), PATIENCE).await.is_err(), "a's has ended for b");
    day_0.advance(Duration::from_secs(4 * 24 * 3600 + 7200));
    a.identity.renew().unwrap();
    b.identity.renew().unwrap();
    connected(&b, &a.name).await;
    connected(&a, &b.name).await;
}

#[tokio::test]
async fn who_is_not_there_is_not_waited_for() {
    let ring = Keyring::generate();
    let a = node("a", &ring);
    let b: NodeName = "b".parse().unwrap();
    let not_connected = || SendError::NotConnected("b".into());
    assert_eq!(a.mesh.message(&b, CHANNEL, Bytes::new()), Err(not_connected()));
    let asked = a.mesh.exchange(&b, CHANNEL, Bytes::new(), PATIENCE).await;
    assert_eq!(asked, Err(not_connected().into()));
    a.mesh.stop();
    assert_eq!(a.mesh.datagram(&b, CHANNEL, Bytes::new()), Err(SendError::Stopped));
}

#[tokio::test]
async fn tunnels_carry_streams_with_half_close_and_reset() {
    let ring = Keyring::generate();
    let (a, mut b) = (node("a", &ring), node("b", &ring));
    let mut near = a.tunnels.open(&b.name, tunnel_addr(&b)).await.unwrap();
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let accepted = timeout(PATIENCE, b.streams.recv()).await.unwrap().unwrap();
    assert_eq!(accepted.from.name, a.name);
    let mut far = accepted.stream;
    let mut question = String::new();
    far.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    let answer = vec![9; 3_000_000];
    let written = answer.clone();
    let writing = tokio::spawn(async move {
        far.write_all(&written).await.unwrap();
        far.shutdown().await.unwrap();
    });
    let mut read = Vec::new();
    timeout(PATIENCE, near.read_to_end(&mut read)).await.unwrap().unwrap();
    assert_eq!(read, answer);
    writing.await.unwrap();
    assert!(a.tunnels.rtt(&b.name).is_some());

    let mut near = a.tunnels.open(&b.name, tunnel_addr(&b)).await.unwrap();
    near.write_all(b"x").await.unwrap();
    let mut far = timeout(PATIENCE, b.streams.recv()).await.unwrap().unwrap().stream;
    assert_eq!(far.read_u8().await.unwrap(), b'x');
    drop(near);
    assert!(timeout(PATIENCE, far.read_u8()).await.unwrap().is_err());

    // The far end starts anew: the next open dials again.
    b.tunnels.stop();
    b.tunnels.stopped(PATIENCE).await;
    let addr = tunnel_addr(&b);
    drop(b.tunnels);
    drop(far);
    let socket = std::net::UdpSocket::bind(addr).unwrap();
    let (_tunnels, mut streams) = Tunnels::start(b.identity.clone(), socket).unwrap();
    let again = async {
        loop {
            if let Ok(mut near) = a.tunnels.open(&b.name, addr).await
                && near.write_all(b"again").await.is_ok()
                && near.shutdown().await.is_ok()
                && let Ok(Some(_)) = timeout(Duration::from_millis(200), streams.recv()).await
            {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("tunnels come back");
}

#[tokio::test]
async fn a_node_that_goes_on_as_another_process_ends_what_it_accepted_and_sends_on_what_it_did_not() {
    let ring = Keyring::generate();
    let (a, mut b) = (node("a", &ring), node("b", &ring));
    let addr = tunnel_addr(&b);
    let mut near = a.tunnels.open(&b.name, addr).await.unwrap();
    near.write_all(b"x").await.unwrap();
    let mut far = timeout(PATIENCE, b.streams.recv()).await.unwrap().unwrap().stream;
    assert_eq!(b.tunnels.inbound()[&a.name], 1);
    let moving = b.tunnels.clone();
    let moving = tokio::spawn(async move { moving.move_inbound(Duration::ZERO, 3 * PATIENCE).await });
    // A stream that comes before the move has begun is accepted, and nobody answers it here.
    let turned_away = async {
        loop {
            let mut late = a.tunnels.open(&b.name, addr).await.unwrap();
            // What is written may be turned away as well as what is read.
            let _ = late.write_all(b"y").await;
            match timeout(Duration::from_millis(200), late.read_u8()).await {
                Ok(Err(error)) if tunnel::has_moved(&error) => return,
                Ok(read) => panic!("{read:?}"),
                Err(_) => drop(b.streams.try_recv()),
            }
        }
    };
    timeout(PATIENCE, turned_away).await.expect("further streams are turned away");
    far.write_all(b"z").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(near.read_u8().await.unwrap(), b'z', "what was accepted goes on");
    drop((far, near));
    while b.streams.try_recv().is_ok() {}
    assert_eq!(timeout(PATIENCE, moving).await.unwrap().unwrap(), 0, "nothing is cut");
    let closed = async {
        while !b.tunnels.inbound().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("the connections are closed");
}

/// Users that do not read what they asked for hold up themselves alone.
#[tokio::test]
async fn streams_that_nobody_reads_hold_up_no_other() {
    let ring = Keyring::generate();
    let (a, mut b) = (node("a", &ring), node("b", &ring));
    let (addr, to) = (tunnel_addr(&b), b.name.clone());
    let full = Arc::new(AtomicUsize::new(0));
    let serve = async {
        loop {
            let tunnel::TunnelAccept { mut stream, .. } = b.streams.recv().await.unwrap();
            let full = full.clone();
            tokio::spawn(async move {
                if stream.read_u8().await.unwrap() == b'!' {
                    let mut written = 0;
                    // For ever: nobody takes it.
                    while stream.write_all(&[0; 65536]).await.is_ok() {
                        written += 65536;
                        full.fetch_add(usize::from(written == TUNNEL_WINDOW_BYTES), Ordering::Relaxed);
                    }
                }
                stream.write_u8(b'.').await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    };
    let ask = async {
        let mut unread = Vec::new();
        for _ in 0..64 {
            let mut stream = a.tunnels.open(&to, addr).await.unwrap();
            stream.write_u8(b'!').await.unwrap();
            // It flows.
            stream.read_u8().await.unwrap();
            unread.push(stream);
        }
        while full.load(Ordering::Relaxed) < unread.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut other = a.tunnels.open(&to, addr).await.unwrap();
        other.write_u8(b'?').await.unwrap();
        assert_eq!(timeout(PATIENCE, other.read_u8()).await.expect("the others hold it up").unwrap(), b'.');
    };
    tokio::select! {
        asked = timeout(2 * PATIENCE, ask) => asked.expect("the unread ones hold each other up"),
        () = serve => {}
    }
}
