use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

use super::super::Report;
use super::*;
use crate::config::model::SourceSpec;
use crate::registry::fixture::region;

fn spec() -> KubernetesSpec {
    KubernetesSpec { service: "web".into(), namespace: "shop".into(), port: None, region: region("eu") }
}

fn slice(name: &str, endpoints: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": name, "uid": "x" },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP", "appProtocol": null }],
    })
}

fn endpoint(ip: &str, conditions: &str) -> serde_json::Value {
    let (ready, serving, terminating) =
        (conditions.contains('r'), conditions.contains('s'), conditions.contains('t'));
    serde_json::json!({
        "addresses": [ip], "zone": "eu-a", "nodeName": "n1",
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
    })
}

fn of(slices: &[serde_json::Value], spec: &KubernetesSpec) -> Result<Vec<Found>, String> {
    let read = slices.iter().map(|slice| serde_json::from_value::<Slice>(slice.clone()).unwrap());
    found(spec, &read.map(|slice| (slice.metadata.name.clone(), slice)).collect())
}

#[test]
fn conditions_say_who_serves() {
    let endpoints = serde_json::json!([
        endpoint("10.0.0.1", "rs"), endpoint("10.0.0.2", "st"), endpoint("10.0.0.3", "t"), endpoint("10.0.0.4", ""),
        { "addresses": ["10.0.0.5"], "hints": { "forZones": [{ "name": "eu-b" }] }, "zone": "eu-a" },
        { "addresses": ["10.0.0.6"], "hints": { "forZones": null }, "conditions": {} },
    ]);
    let found = of(&[slice("a", &endpoints)], &spec()).unwrap();
    let said: Vec<_> = found
        .iter()
        .map(|found| (found.address.to_string(), found.standing, found.zone.as_ref().map(|z| z.to_string())))
        .collect();
    let (serving, leaving) = (Standing::Serving, Standing::Leaving);
    let wanted = [
        ("10.0.0.1:8080", serving, Some("eu-a")),
        ("10.0.0.2:8080", leaving, Some("eu-a")),
        ("10.0.0.5:8080", serving, Some("eu-b")),
        ("10.0.0.6:8080", serving, None),
    ];
    assert_eq!(said, wanted.map(|(ip, standing, zone)| (ip.to_owned(), standing, zone.map(String::from))));
    assert_eq!(of(&[slice("a", &serde_json::Value::Null)], &spec()), Ok(Vec::new()));
}

#[test]
fn several_ports_have_to_be_told_apart() {
    let mut two = slice("a", &serde_json::json!([endpoint("10.0.0.1", "rs")]));
    let more = serde_json::json!({ "name": "metrics", "port": 9100 });
    two["ports"].as_array_mut().unwrap().push(more);
    assert!(of(&[two.clone()], &spec()).unwrap_err().contains("several ports"));
    let named = KubernetesSpec { port: Some("metrics".into()), ..spec() };
    assert_eq!(of(&[two], &named).unwrap()[0].address.port(), 9100);
}

/// An API server that lists `slices` and then tells the changes it is given; `None` cuts the watch.
async fn api(
    slices: Arc<Mutex<Vec<serde_json::Value>>>,
    mut changes: mpsc::Receiver<Option<String>>,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head(&mut stream).await;
            assert!(head.contains(
                "/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb"
            ));
            if !head.contains("watch=true") {
                let items = slices.lock().await.clone();
                let list = serde_json::json!({ "metadata": { "resourceVersion": "17" }, "items": items })
                    .to_string();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{list}", list.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                continue;
            }
            assert!(head.contains("resourceVersion=17"));
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            while let Some(Some(change)) = changes.recv().await {
                // In two pieces: a line is whole only with its end.
                let line = format!("{change}\n");
                for part in [&line[..7], &line[7..]] {
                    stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                }
            }
        }
    });
    address
}

async fn head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_list_and_then_each_change() {
    let first = slice("a", &serde_json::json!([endpoint("10.0.0.1", "rs")]));
    let slices = Arc::new(Mutex::new(vec![first]));
    let (tell, changes) = mpsc::channel(4);
    let cluster = Cluster::plain(&api(slices.clone(), changes).await);
    let (to, mut reports) = mpsc::channel::<Report>(1);
    let pool = gossip::id::PoolName::new("web").unwrap();
    let reporter = Reporter { pool, spec: SourceSpec::Kubernetes(spec()), to };
    let task = tokio::spawn(async move { with(&cluster, &spec(), &reporter, &mut false).await });
    let mut next = async || -> Vec<String> {
        let found = reports.recv().await.unwrap().said.unwrap();
        found.iter().map(|found| found.address.ip().to_string()).collect()
    };
    assert_eq!(next().await, ["10.0.0.1"]);
    let change = |kind: &str, slice| Some(serde_json::json!({ "type": kind, "object": slice }).to_string());
    let second = slice("b", &serde_json::json!([endpoint("10.0.0.2", "rs")]));
    tell.send(change("ADDED", second.clone())).await.unwrap();
    assert_eq!(next().await, ["10.0.0.1", "10.0.0.2"]);
    tell.send(change("BOOKMARK", serde_json::json!({ "metadata": {} }))).await.unwrap();
    tell.send(change("DELETED", second)).await.unwrap();
    assert_eq!(next().await, ["10.0.0.1"]);
    // The version is too old: what was missed comes with a new list.
    slices.lock().await.push(slice("c", &serde_json::json!([endpoint("10.0.0.3", "rs")])));
    tell.send(change("ERROR", serde_json::json!({ "code": 410 }))).await.unwrap();
    tell.send(None).await.unwrap();
    assert_eq!(next().await, ["10.0.0.1", "10.0.0.3"]);
    task.abort();
}
