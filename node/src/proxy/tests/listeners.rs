use std::io::{Read, Write};

use super::http::web;
use super::*;
use crate::proxy::{StartError, fixture};

fn with_ports(snapshot: &Snapshot, ports: &[(&str, u16)]) -> Snapshot {
    let mut snapshot = snapshot.clone();
    let mut services = (*snapshot.services).clone();
    services.listeners = ports
        .iter()
        .map(|(name, port)| {
            let listener = fixture::http_listener(name, *port);
            (listener.name.clone(), Arc::new(listener))
        })
        .collect();
    snapshot.services = Arc::new(services);
    snapshot
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_follow_the_revision_and_others_stay_untouched() {
    let base = web(&[(http_backend("a").await, "eu")]);
    let (one, two) = (free_port(), free_port());
    let world = World::new();
    let node = world.node("eu-1", with_ports(&base, &[("one", one)]));
    let kept = TcpStream::connect(("127.0.0.1", one)).await.unwrap();
    node.publish(with_ports(&base, &[("one", one), ("two", two)]));
    until(|| node.handle.listening().len() == 2).await;
    assert_eq!(get(([127, 0, 0, 1], two).into(), "/", &[]).await.status, 200);
    node.publish(with_ports(&base, &[("one", one)]));
    until(|| std::net::TcpStream::connect(("127.0.0.1", two)).is_err()).await;
    // The connection from before both changes still works.
    let mut kept = kept;
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    kept.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"));
}

/// What comes up to the end of an answer's head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.unwrap().unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_moves_answers_who_is_still_there_and_tells_them_to_go() {
    let base = web(&[(http_backend("a").await, "eu")]);
    let (old, new) = (free_port(), free_port());
    let world = World::new();
    let node = world.node("eu-1", with_ports(&base, &[("one", old)]));
    let ask = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut kept = TcpStream::connect(("127.0.0.1", old)).await.unwrap();
    kept.write_all(ask).await.unwrap();
    assert!(!head(&mut kept).await.contains("connection: close"));
    let mut silent = TcpStream::connect(("127.0.0.1", old)).await.unwrap();
    let mut busy = TcpStream::connect(("127.0.0.1", old)).await.unwrap();
    busy.write_all(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    until(|| node.handle.in_flight() == 1 && node.handle.connections() == 3).await;

    node.publish(with_ports(&base, &[("one", new)]));
    until(|| std::net::TcpStream::connect(("127.0.0.1", old)).is_err()).await;
    assert_eq!(get(([127, 0, 0, 1], new).into(), "/", &[]).await.status, 200);
    busy.write_all(b"cd").await.unwrap();
    for stream in [&mut kept, &mut silent] {
        stream.write_all(ask).await.unwrap();
    }
    for stream in [&mut kept, &mut silent, &mut busy] {
        let head = head(stream).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("connection: close"), "{head}");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
    }
    until(|| node.handle.connections() == 0).await;
}

/// Connects and asks, again and again, until nobody listens. Returns how many were answered, and how many were not though
/// they had a connection.
fn visit_until_refused(port: u16) -> (usize, usize) {
    let (mut served, mut lost) = (0, 0);
    while let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
        let mut answer = Vec::new();
        let _ = stream.write_all(b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let _ = stream.read_to_end(&mut answer);
        match answer.starts_with(b"HTTP/1.1 200") {
            true => served += 1,
            false => lost += 1,
        }
    }
    (served, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_the_queue_of_a_listener_that_moves_is_served() {
    const MOVES: usize = 15;
    let base = web(&[(http_backend("a").await, "eu")]);
    let world = World::new();
    let mut port = free_port();
    let node = world.node("eu-1", with_ports(&base, &[("one", port)]));
    let (mut served, mut lost) = (0, 0);
    for _ in 0..MOVES {
        let old = std::mem::replace(&mut port, free_port());
        let before = node.handle.counters().connections.load(Ordering::Relaxed);
        let users: Vec<_> =
            (0..6).map(|_| tokio::task::spawn_blocking(move || visit_until_refused(old))).collect();
        until(|| node.handle.counters().connections.load(Ordering::Relaxed) > before + 50).await;
        node.publish(with_ports(&base, &[("one", port)]));
        for user in users {
            let user = user.await.unwrap();
            (served, lost) = (served + user.0, lost + user.1);
        }
    }
    // The system may take one more between the last look and the close. A queue that is thrown away costs several a move.
    assert!(lost <= MOVES, "{served} served, {lost} lost in {MOVES} moves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_does_not_wait_for_the_clients_of_a_listener_that_moved() {
    let base = web(&[(http_backend("a").await, "eu")]);
    let (old, new) = (free_port(), free_port());
    let world = World::new();
    let node = world.node("eu-1", with_ports(&base, &[("one", old)]));
    let mut kept = TcpStream::connect(("127.0.0.1", old)).await.unwrap();
    kept.write_all(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    head(&mut kept).await;
    node.publish(with_ports(&base, &[("one", new)]));
    until(|| std::net::TcpStream::connect(("127.0.0.1", old)).is_err()).await;
    node.handle.shutdown(Duration::from_secs(60)).await;
    assert_eq!(kept.read(&mut [0; 9]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_at_start_and_reported_later() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let base = web(&[(http_backend("a").await, "eu")]);
    let world = World::new();
    let error = world.try_node("eu-1", with_ports(&base, &[("web", port)])).err().unwrap();
    assert!(matches!(error, StartError::Bind(_)));
    assert_eq!(error.to_string(), format!("listener web: 127.0.0.1:{port} is in use by another program"));

    let good = free_port();
    let node = world.node("eu-1", with_ports(&base, &[("good", good)]));
    node.publish(with_ports(&base, &[("good", good), ("web", port)]));
    until(|| node.handle.problems().len() == 1).await;
    assert_eq!(get(([127, 0, 0, 1], good).into(), "/", &[]).await.status, 200);
    // It is taken over as soon as it is free.
    drop(taken);
    until(|| node.handle.problems().is_empty()).await;
    assert_eq!(get(([127, 0, 0, 1], port).into(), "/", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_listener_lets_the_next_one_wait() {
    let mut snapshot = web(&[(http_backend("a").await, "eu")]);
    let services = Arc::make_mut(&mut snapshot.services);
    Arc::make_mut(services.listeners.values_mut().next().unwrap()).max_connections = 2;
    let world = World::new();
    let node = world.node("eu-1", snapshot);
    let addr = node.addr("http");
    let first = TcpStream::connect(addr).await.unwrap();
    let _second = TcpStream::connect(addr).await.unwrap();
    until(|| node.handle.connections() == 2).await;
    let third = tokio::spawn(async move { get(addr, "/", &[]).await });
    until(|| node.handle.counters().connections_held.load(Ordering::Relaxed) == 1).await;
    assert!(!third.is_finished());
    drop(first);
    assert_eq!(third.await.unwrap().status, 200);
}
