use super::*;
use crate::config::model::SendProxy;
use crate::proxy::{Affinity, End, fixture};

/// Reads to the end, then says its name, what it read, and closes.
pub(super) async fn tcp_backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = String::new();
                let _ = stream.read_to_string(&mut read).await;
                let _ = stream.write_all(format!("{name}|{read}").as_bytes()).await;
            });
        }
    });
    addr
}

pub(super) fn pg(place: &str, backends: &[(SocketAddr, &str)]) -> Snapshot {
    let mut service = fixture::service("pg", &[("pg", 1)]);
    service.sticky_source_ip = Some(Duration::from_secs(1800));
    let mut pool = fixture::pool("pg", backends);
    pool.send_proxy = Some(SendProxy::V1);
    fixture::snapshot(place, vec![fixture::tcp_listener("pg", 0, "pg")], vec![service], vec![pool])
}

/// Asks from a loopback address of its own; returns the backend, the PROXY line, and what was echoed.
pub(super) async fn ask(addr: SocketAddr, from: [u8; 4], say: &str) -> Option<(String, String, String)> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::from(from), 0).into()).unwrap();
    let mut stream = socket.connect(addr).await.ok()?;
    stream.write_all(say.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.ok()?.ok()?;
    let (name, rest) = answer.split_once('|')?;
    let (line, echoed) = rest.split_once("\r\n")?;
    Some((name.to_owned(), line.to_owned(), echoed.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_learns_the_address_and_each_way_ends_by_itself() {
    let world = World::new();
    let node = world.node("eu-1", pg("eu", &[(tcp_backend("a").await, "eu")]));
    let addr = node.addr("pg");
    let (name, line, echoed) = ask(addr, [127, 0, 7, 9], "select 1").await.unwrap();
    assert_eq!((name.as_str(), echoed.as_str()), ("a", "select 1"));
    assert!(line.starts_with("PROXY TCP4 127.0.7.9 127.0.0.1 "), "{line}");
    assert!(line.ends_with(&format!(" {}", addr.port())), "{line}");
    until(|| node.handle.counters().ends(End::Ok) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_stays_on_its_backend_over_all_nodes_whatever_the_weights() {
    let backends =
        [(tcp_backend("a").await, "eu"), (tcp_backend("b").await, "eu"), (tcp_backend("c").await, "eu")];
    let world = World::new();
    let one = world.node("eu-1", pg("eu", &backends));
    let two = world.node("eu-2", pg("eu", &backends));
    let mut met = Vec::new();
    for n in 1..=60 {
        met.push(ask(one.addr("pg"), [127, 0, 8, n], "x").await.unwrap().0);
    }
    for name in ["a", "b", "c"] {
        assert!(met.iter().any(|met| met == name), "nobody met {name}");
    }
    two.change(|snapshot| {
        let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
        pool.backends[0].weight = 60_000;
        pool.backends[1].weight = 0;
    });
    for (n, before) in (1..=60).zip(&met) {
        assert_eq!(&ask(two.addr("pg"), [127, 0, 8, n], "x").await.unwrap().0, before);
    }
    until(|| two.handle.counters().affinity(Affinity::Kept) == 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_on_another_backend() {
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let world = World::new();
    let node = world.node("eu-1", pg("eu", &[(dead, "eu"), (tcp_backend("b").await, "eu")]));
    for n in 1..=10 {
        assert_eq!(ask(node.addr("pg"), [127, 0, 9, n], "x").await.unwrap().0, "b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_missing_backends_close_the_connection() {
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let world = World::new();
    let node = world.node("eu-1", pg("eu", &[(dead, "eu")]));
    assert_eq!(ask(node.addr("pg"), [127, 0, 0, 1], "x").await, None);
    node.change(|snapshot| {
        let services = Arc::make_mut(&mut snapshot.services);
        let service = Arc::make_mut(services.services.values_mut().next().unwrap());
        service.deny = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
    });
    assert_eq!(ask(node.addr("pg"), [127, 0, 0, 1], "x").await, None);
    until(|| node.handle.counters().ends(End::Denied) == 1).await;
    until(|| node.handle.counters().ends(End::ConnectFailed) == 1).await;
}

/// A backend that greets at once, and then says nothing and reads nothing.
async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"hello").await;
            kept.push(stream);
        }
    });
    addr
}

fn plain(
    backend: SocketAddr,
    change: impl FnOnce(&mut crate::config::model::Listener, &mut Duration),
) -> Snapshot {
    let mut service = fixture::service("pg", &[("pg", 1)]);
    let mut listener = fixture::tcp_listener("pg", 0, "pg");
    change(&mut listener, &mut service.timeout.idle);
    fixture::snapshot("eu", vec![listener], vec![service], vec![fixture::pool("pg", &[(backend, "eu")])])
}

async fn greeted(addr: SocketAddr, within: Duration) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let read = tokio::time::timeout(within, stream.read_exact(&mut [0; 5])).await;
    read.ok().map(|read| {
        read.unwrap();
        stream
    })
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_has_so_many_places_and_the_next_one_waits_for_its_own() {
    let world = World::new();
    let snapshot = plain(greeter().await, |listener, idle| {
        listener.max_connections = 2;
        *idle = Duration::from_secs(60);
    });
    let node = world.node("eu-1", snapshot);
    let addr = node.addr("pg");
    let first = greeted(addr, SOON).await.unwrap();
    let _second = greeted(addr, SOON).await.unwrap();
    let mut waiting = TcpStream::connect(addr).await.unwrap();
    let mut hello = [0; 5];
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.read_exact(&mut hello)).await;
    assert!(early.is_err(), "a third one was served beside two");
    until(|| node.handle.counters().connections_held.load(Ordering::Relaxed) >= 1).await;
    // A client that resets gives its place back at once.
    socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
    drop(first);
    tokio::time::timeout(SOON, waiting.read_exact(&mut hello)).await.unwrap().unwrap();
    assert_eq!(&hello, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_on_both_sides_ends_a_connection_and_is_counted() {
    let world = World::new();
    let snapshot = plain(greeter().await, |_, idle| *idle = Duration::from_millis(300));
    let node = world.node("eu-1", snapshot);
    let mut stream = greeted(node.addr("pg"), SOON).await.unwrap();
    let end = tokio::time::timeout(SOON, stream.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    until(|| node.handle.counters().ends(End::Idle) == 1 && node.handle.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_silent_connections_leave_others_unharmed() {
    let world = World::new();
    let mut snapshot = plain(tcp_backend("a").await, |listener, idle| {
        listener.max_connections = 5000;
        *idle = Duration::from_secs(60);
    });
    let web = fixture::tls_listener("tls", free_port(), Some("pg"), &[]);
    let services = Arc::make_mut(&mut snapshot.services);
    services.listeners.insert(web.name.clone(), Arc::new(web));
    let node = world.node("eu-1", snapshot);
    let mut silent = Vec::new();
    for n in 0..400 {
        let mut stream = TcpStream::connect(node.addr(if n % 2 == 0 { "pg" } else { "tls" })).await.unwrap();
        stream.write_all(&[0x16]).await.unwrap();
        silent.push(stream);
    }
    let mut stream = TcpStream::connect(node.addr("pg")).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "a|hello");
    until(|| node.handle.connections() >= 400).await;
    drop(silent);
    until(|| node.handle.connections() == 0).await;
}
