use super::tcp::tcp_backend;
use super::*;
use crate::proxy::hello::UNRECOGNIZED_NAME;
use crate::proxy::hello::tests::hello;
use crate::proxy::{Affinity, End, fixture};

/// Says bytes from an address of its own, ends its half, and reads to the end.
async fn say(addr: SocketAddr, from: [u8; 4], pieces: &[&[u8]]) -> Vec<u8> {
    let exchange = async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((std::net::Ipv4Addr::from(from), 0).into()).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in pieces {
            let _ = stream.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("no end in time")
}

const USER: [u8; 4] = [127, 0, 5, 1];

/// A backend that reads bytes to their end and gives them back behind its name.
async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                let _ = stream.read_to_end(&mut read).await;
                let _ = stream.write_all(name.as_bytes()).await;
                let _ = stream.write_all(&read).await;
            });
        }
    });
    addr
}

async fn node(world: &World) -> Node {
    let mut services = Vec::new();
    let mut pools = Vec::new();
    for (name, hosts) in [("a", &["a.example"][..]), ("w", &["*.example"]), ("rest", &[])] {
        let mut service = fixture::service(name, &[(name, 1)]);
        service.hosts = hosts.iter().map(ToString::to_string).collect();
        services.push(service);
        pools.push(fixture::pool(name, &[(echo(name).await, "eu")]));
    }
    let listener = fixture::tls_listener("tls", 0, None, &[]);
    world.node("eu-1", fixture::snapshot("eu", vec![listener], services, pools))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_where_its_name_says_unopened() {
    let world = World::new();
    let node = node(&world).await;
    for (name, to) in
        [("a.example", "a"), ("b.example", "w"), ("a.example.org", "rest"), ("192.0.2.7", "rest")]
    {
        let hello = hello(name);
        let told = say(node.addr("tls"), USER, &[&hello, b"and more"]).await;
        assert_eq!(told, [to.as_bytes(), &hello, b"and more"].concat(), "{name}");
        let bytes: Vec<&[u8]> = hello.chunks(11).collect();
        assert_eq!(say(node.addr("tls"), USER, &bytes).await, [to.as_bytes(), &hello].concat(), "{name}");
    }
    until(|| node.handle.counters().ends(End::Ok) == 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hello_is_closed_and_a_name_that_nobody_has_is_told() {
    let world = World::new();
    let node = node(&world).await;
    let ends = |end| node.handle.counters().ends(end);
    let half = hello("a.example")[..80].to_vec();
    for bytes in [&b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"[..], b"\x16\x03\x01", b"", &half] {
        assert_eq!(say(node.addr("tls"), USER, &[bytes]).await, b"");
    }
    until(|| ends(End::BadClientHello) == 4).await;
    node.change(|snapshot| {
        Arc::make_mut(&mut snapshot.services).services.retain(|name, _| name.as_str() != "rest");
    });
    assert_eq!(say(node.addr("tls"), USER, &[&hello("other.org")]).await, UNRECOGNIZED_NAME);
    until(|| ends(End::NoRoute) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_addresses_stick_lists_hold_and_the_backend_learns_who_it_is() {
    let world = World::new();
    let mut service = fixture::service("a", &[("a", 1)]);
    service.sticky_source_ip = Some(Duration::from_secs(60));
    service.deny = ["127.0.5.99/32".parse::<ipnet::IpNet>().unwrap()].into_iter().collect();
    let mut pool =
        fixture::pool("a", &[(echo("1").await, "eu"), (echo("2").await, "eu"), (echo("3").await, "eu")]);
    pool.send_proxy = Some(crate::config::model::SendProxy::V1);
    let mut listener = fixture::tls_listener("tls", 0, Some("a"), &[]);
    listener.accept_proxy = vec!["127.0.4.0/24".parse().unwrap()];
    let node = world.node("eu-1", fixture::snapshot("eu", vec![listener], vec![service], vec![pool]));
    let addr = node.addr("tls");
    let hello = hello("a.example");
    let first = say(addr, USER, &[&hello]).await;
    let line_end = first.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    assert!(first[1..].starts_with(b"PROXY TCP4 127.0.5.1 127.0.0.1 "), "{first:?}");
    assert_eq!(first[line_end..], hello);
    for _ in 0..6 {
        assert_eq!(say(addr, USER, &[&hello]).await[0], first[0]);
    }
    until(|| node.handle.counters().affinity(Affinity::Kept) == 6).await;
    // The same user through a balancer in front.
    let line = format!("PROXY TCP4 127.0.5.1 127.0.0.1 5000 {}\r\n", addr.port());
    let told = say(addr, [127, 0, 4, 1], &[line.as_bytes(), &hello]).await;
    assert_eq!(told, [&first[..1], line.as_bytes(), &hello].concat());
    assert_eq!(say(addr, [127, 0, 5, 99], &[&hello]).await, b"");
    until(|| node.handle.counters().ends(End::Denied) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_listeners_pass_tls_on_as_any_bytes() {
    let world = World::new();
    let service = fixture::service("pg", &[("pg", 1)]);
    let pool = fixture::pool("pg", &[(tcp_backend("a").await, "eu")]);
    let listener = fixture::tcp_listener("pg", 0, "pg");
    let node = world.node("eu-1", fixture::snapshot("eu", vec![listener], vec![service], vec![pool]));
    assert_eq!(say(node.addr("pg"), USER, &[b"\x16\x03\x01"]).await, b"a|\x16\x03\x01");
}
