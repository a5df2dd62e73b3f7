use super::tcp::{pg, tcp_backend};
use super::tunnel::seen_from;
use super::*;
use crate::config::model::{Listener, SendProxy};
use crate::proxy::{End, fixture};

/// Sends bytes from an address of its own and reads the answer to its end; empty when there is none.
async fn say(addr: SocketAddr, from: [u8; 4], bytes: &[u8]) -> Vec<u8> {
    let exchange = async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((std::net::Ipv4Addr::from(from), 0).into()).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("no end in time")
}

fn accepting(listener: Listener) -> Listener {
    Listener { accept_proxy: vec!["127.0.6.0/24".parse().unwrap()], ..listener }
}

const FRONT: [u8; 4] = [127, 0, 6, 1];
const V1: &str = "PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x13\x88\x01\xbb";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-forwarded-for: 6.6.6.6\r\n\r\n";

async fn web(world: &World, deny: Option<&str>) -> Node {
    let mut service = fixture::service("web", &[("web", 1)]);
    service.deny = deny.iter().map(|net| net.parse::<ipnet::IpNet>().unwrap()).collect();
    let pool = fixture::pool("web", &[(http_backend("a").await, "eu")]);
    let listener = accepting(fixture::http_listener("http", 0));
    world.node("eu-1", fixture::snapshot("eu", vec![listener], vec![service], vec![pool]))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_header_is_the_clients_for_http() {
    let world = World::new();
    let node = web(&world, None).await;
    let addr = node.addr("http");
    for header in [V1.as_bytes(), V2] {
        let asked = say(addr, FRONT, &[header, GET.as_bytes()].concat()).await;
        let told = String::from_utf8(asked).unwrap();
        assert!(told.contains("\nx-forwarded-for: 192.0.2.1\n"), "{told}");
        assert!(told.contains("\nforwarded: for=192.0.2.1;"), "{told}");
    }
    let told = say(addr, FRONT, &[b"PROXY UNKNOWN\r\n", GET.as_bytes()].concat()).await;
    assert!(String::from_utf8(told).unwrap().contains("\nx-forwarded-for: 127.0.6.1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_know_the_address_of_the_header() {
    let world = World::new();
    let node = web(&world, Some("192.0.2.0/24")).await;
    let told = say(node.addr("http"), FRONT, &[V2, GET.as_bytes()].concat()).await;
    assert!(told.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&told));
    until(|| node.handle.counters().ends(End::Denied) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_required_nothing_goes_without_and_elsewhere_it_is_none() {
    let world = World::new();
    let node = web(&world, None).await;
    let addr = node.addr("http");
    assert_eq!(say(addr, FRONT, GET.as_bytes()).await, b"");
    until(|| node.handle.counters().ends(End::BadProxyHeader) == 1).await;
    for header in [V1.as_bytes(), V2] {
        let told = say(addr, [127, 0, 7, 1], &[header, GET.as_bytes()].concat()).await;
        assert!(told.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&told));
    }
    assert_eq!(node.handle.counters().ends(End::BadProxyHeader), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_where_a_header_is_required_ends_soon() {
    let world = World::new();
    let node = web(&world, None).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::from(FRONT), 0).into()).unwrap();
    let mut stream = socket.connect(node.addr("http")).await.unwrap();
    stream.write_all(b"PROXY ").await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(15), stream.read(&mut [0; 8])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    until(|| node.handle.counters().ends(End::BadProxyHeader) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_the_header_crosses_to_another_region() {
    let world = World::new();
    let dead: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let mut base = pg("eu", &[(dead, "eu"), (tcp_backend("us-a").await, "us")]);
    let pool = Arc::make_mut(base.pools.values_mut().next().unwrap());
    Arc::make_mut(&mut pool.config).send_proxy = Some(SendProxy::V2);
    let listener = Arc::make_mut(&mut base.services).listeners.values_mut().next().unwrap();
    *listener = Arc::new(accepting((**listener).clone()));
    let eu = world.node("eu-1", seen_from("eu", base.clone(), "us", &["us-1"]));
    let _us = world.node("us-1", seen_from("us", base, "eu", &["eu-1"]));
    let line = b"PROXY TCP4 65.65.65.65 66.66.66.66 17219 17476\r\nx";
    let told = say(eu.addr("pg"), FRONT, line).await;
    assert_eq!(told, *b"us-a|\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0cAAAABBBBCCDDx");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_passes_on_what_it_was_told_in_either_version() {
    let world = World::new();
    let mut snapshot = pg("eu", &[(tcp_backend("a").await, "eu"), (tcp_backend("b").await, "eu")]);
    let services = Arc::make_mut(&mut snapshot.services);
    let listener = services.listeners.values_mut().next().unwrap();
    *listener = Arc::new(accepting((**listener).clone()));
    let node = world.node("eu-1", snapshot);
    let addr = node.addr("pg");
    let told = say(addr, FRONT, &[V2, b"x"].concat()).await;
    let name = told[0];
    assert_eq!(String::from_utf8(told[1..].to_vec()).unwrap(), format!("|{V1}x"));
    // The user stays where the user was, whichever balancer in front the connection comes through.
    for n in 1..=10 {
        assert_eq!(say(addr, [127, 0, 6, n], &[V1.as_bytes(), b"x"].concat()).await[0], name);
    }
    node.change(|snapshot| {
        let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
        Arc::make_mut(&mut pool.config).send_proxy = Some(SendProxy::V2);
    });
    // This backend reads text; a client address of ASCII bytes keeps the header readable.
    let line = b"PROXY TCP4 65.65.65.65 66.66.66.66 17219 17476\r\nx";
    let told = say(addr, FRONT, line).await;
    assert_eq!(told[2..], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0cAAAABBBBCCDDx");
}
