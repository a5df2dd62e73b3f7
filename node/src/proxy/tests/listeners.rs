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
