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
        service.deny = vec!["127.0.0.0/8".parse().unwrap()];
    });
    assert_eq!(ask(node.addr("pg"), [127, 0, 0, 1], "x").await, None);
    until(|| node.handle.counters().ends(End::Denied) == 1).await;
    until(|| node.handle.counters().ends(End::ConnectFailed) == 1).await;
}
