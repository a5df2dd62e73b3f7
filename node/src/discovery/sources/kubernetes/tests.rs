use std::collections::VecDeque;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
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

fn of(slices: &[serde_json::Value], spec: &KubernetesSpec) -> Said {
    let mut all = Slices::default();
    for slice in slices {
        all.put(spec, serde_json::from_value(slice.clone()).unwrap())?;
    }
    all.found()
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

/// Instead of a watch: its version is too old.
const GONE: &str = "410 Gone";

/// What the API server answers to the next watch, piece by piece; then it closes the connection.
type Pieces = Vec<String>;

/// An API server that lists what it is told to, and answers each watch with the next pieces it is given. Its watches last
/// until the next one is given.
struct Api {
    address: String,
    list: Arc<Mutex<Answer>>,
    /// Answered before that one, once each.
    chunks: Arc<Mutex<VecDeque<Answer>>>,
    watches: mpsc::Sender<Pieces>,
    /// The heads of all requests so far.
    asked: Arc<Mutex<Vec<String>>>,
}

/// Status line and body.
type Answer = (&'static str, String);

fn list_of(slices: &[serde_json::Value]) -> Answer {
    let list = serde_json::json!({ "metadata": { "resourceVersion": "17" }, "items": slices });
    ("200 OK", list.to_string())
}

impl Api {
    async fn start(slices: &[serde_json::Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (list, asked) = (Arc::new(Mutex::new(list_of(slices))), Arc::<Mutex<Vec<String>>>::default());
        let chunks = Arc::<Mutex<VecDeque<Answer>>>::default();
        let (watches, mut given) = mpsc::channel::<Pieces>(8);
        let (answers, first, heads) = (list.clone(), chunks.clone(), asked.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = head(&mut stream).await;
                let is_watch = head.contains("watch=true");
                heads.lock().await.push(head);
                if !is_watch {
                    let chunk = first.lock().await.pop_front();
                    let (status, body) = match chunk {
                        Some(chunk) => chunk,
                        None => answers.lock().await.clone(),
                    };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    let _ = stream.write_all(answer.as_bytes()).await;
                    continue;
                }
                let pieces = given.recv().await.unwrap_or_default();
                if pieces == [GONE] {
                    let answer = format!("HTTP/1.1 {GONE}\r\ncontent-length: 0\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                    continue;
                }
                let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                // Who has been told to ask again has closed.
                let _ = stream.write_all(start).await;
                for piece in pieces {
                    let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                    // Who has had enough closes.
                    if stream.write_all(chunk.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        Self { address, list, chunks, watches, asked }
    }

    /// What a source says that follows this server.
    fn reports(&self) -> Reports {
        let address = self.address.clone();
        follow_by(move || Ok(Cluster::plain(&address)))
    }

    async fn lists(&self, answer: Answer) {
        *self.list.lock().await = answer;
    }

    /// The next watch: these pieces, and its end.
    async fn watch(&self, pieces: impl IntoIterator<Item = String>) {
        self.watches.send(pieces.into_iter().collect()).await.unwrap();
    }
}

struct Reports(mpsc::Receiver<Report>, tokio::task::JoinHandle<()>);

fn follow_by(cluster: impl Fn() -> Result<Cluster, String> + Send + Sync + 'static) -> Reports {
    let (to, reports) = mpsc::channel::<Report>(1);
    let pool = gossip::id::PoolName::new("web").unwrap();
    let reporter = Reporter { pool, spec: SourceSpec::Kubernetes(spec()), to };
    Reports(reports, tokio::spawn(follow(spec(), reporter, cluster)))
}

impl Reports {
    async fn next(&mut self) -> Result<Vec<String>, String> {
        let said = self.0.recv().await.unwrap().said;
        said.map(|found| found.iter().map(|found| found.address.ip().to_string()).collect())
    }

    /// The next that is none of `before`.
    async fn next_but(&mut self, before: &[&str]) -> Result<Vec<String>, String> {
        loop {
            let next = self.next().await;
            if next.as_ref().is_ok_and(|said| said == before) {
                continue;
            }
            return next;
        }
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.1.abort();
    }
}

async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(seen).unwrap()
}

/// One change, in two pieces: a line is whole only with its end.
fn change(kind: &str, object: &serde_json::Value) -> [String; 2] {
    let line = format!("{}\n", serde_json::json!({ "type": kind, "object": object }));
    let (first, second) = line.split_at(7);
    [first.to_owned(), second.to_owned()]
}

fn one(name: &str, ip: &str) -> serde_json::Value {
    slice(name, &serde_json::json!([endpoint(ip, "rs")]))
}

#[tokio::test]
async fn a_list_and_then_each_change() {
    let api = Api::start(&[one("a", "10.0.0.1")]).await;
    let mut reports = api.reports();
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"]);
    let second = one("b", "10.0.0.2");
    // In the end the version is too old: what was missed comes with a new list.
    api.lists(list_of(&[one("a", "10.0.0.1"), one("c", "10.0.0.3")])).await;
    let bookmark = serde_json::json!({ "kind": "EndpointSlice", "metadata": { "resourceVersion": "18" } });
    let gone = serde_json::json!({ "kind": "Status", "code": 410, "reason": "Expired" });
    let changes = [
        change("ADDED", &second),
        change("BOOKMARK", &bookmark),
        change("DELETED", &second),
        change("ERROR", &gone),
    ];
    api.watch(changes.into_iter().flatten()).await;
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"]);
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1", "10.0.0.3"]);
    let asked = api.asked.lock().await;
    assert!(asked[0].contains(
        "/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb&limit=100 HTTP/1.1"
    ));
    assert!(asked[1].contains("watch=true&allowWatchBookmarks=true&resourceVersion=17"), "{}", asked[1]);
}

#[tokio::test]
async fn a_watch_that_breaks_is_no_failure_as_long_as_the_list_is_had() {
    let api = Api::start(&[one("a", "10.0.0.1")]).await;
    let mut reports = api.reports();
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"]);
    // What is no object; then a slice that is none.
    for piece in ["{]\n", "{\"type\":\"ADDED\",\"object\":7}\n"] {
        api.watch([piece.to_owned()]).await;
        assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"], "the same list again, and no error");
    }
    api.lists(("503 Service Unavailable", String::new())).await;
    api.watch(["{]\n".to_owned()]).await;
    assert!(reports.next_but(&["10.0.0.1"]).await.unwrap_err().contains("503"));
    api.lists(list_of(&[one("a", "10.0.0.9")])).await;
    let well = loop {
        if let Ok(said) = reports.next().await {
            break said;
        }
    };
    assert_eq!(well, ["10.0.0.9"]);
}

/// Servers close each watch after some minutes, and connections break: no list is asked for again, and nothing is missed.
#[tokio::test]
async fn a_watch_that_ends_goes_on_from_its_last_version() {
    let api = Api::start(&[one("a", "10.0.0.1")]).await;
    let mut reports = api.reports();
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"]);
    let at = |version: &str, mut slice: serde_json::Value| {
        slice["metadata"]["resourceVersion"] = version.into();
        slice
    };
    // Closed after a change; cut in the middle of one, after a bookmark; refused as too old.
    api.watch(change("ADDED", &at("18", one("b", "10.0.0.2")))).await;
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1", "10.0.0.2"]);
    let bookmark =
        serde_json::json!({ "kind": "EndpointSlice", "metadata": { "resourceVersion": "2 &x=1" } });
    let [half, _] = change("DELETED", &at("24", one("b", "10.0.0.2")));
    api.watch(change("BOOKMARK", &bookmark).into_iter().chain([half])).await;
    api.watch(change("DELETED", &at("24", one("b", "10.0.0.2")))).await;
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"]);
    api.lists(list_of(&[one("c", "10.0.0.3")])).await;
    api.watch([GONE.to_owned()]).await;
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.3"]);
    let asked = api.asked.lock().await;
    let versions: Vec<Option<&str>> =
        asked.iter().map(|head| head.split_once("&resourceVersion=")?.1.split('&').next()).collect();
    assert_eq!(versions[..6], [None, Some("17"), Some("18"), Some("2%20%26x%3D1"), Some("24"), None]);
}

/// A list that comes in chunks, and one whose next chunk is forgotten.
#[tokio::test]
async fn a_list_comes_in_chunks() {
    let api = Api::start(&[]).await;
    let chunk = |name: &str, ip: &str, more: &str| {
        let metadata = serde_json::json!({ "resourceVersion": "17", "continue": more });
        ("200 OK", serde_json::json!({ "metadata": metadata, "items": [one(name, ip)] }).to_string())
    };
    *api.chunks.lock().await = [chunk("a", "10.0.0.1", "x/1=="), chunk("b", "10.0.0.2", "y")].into();
    api.lists(chunk("c", "10.0.0.3", "")).await;
    let mut reports = api.reports();
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let heads = api.asked.lock().await.clone();
    assert!(heads[1].contains("&limit=100&continue=x%2F1%3D%3D HTTP"), "{}", heads[1]);
    *api.chunks.lock().await = [chunk("a", "10.0.0.1", "x"), ("410 Gone", String::new())].into();
    api.watch(["{]\n".to_owned()]).await;
    assert!(reports.next().await.unwrap_err().contains("410"));
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.3"], "it begins anew");
}

/// A service of both families has a slice of each, with the same pods.
#[test]
fn a_pod_of_both_families_is_one_backend() {
    let pod = |uid: &str, ip: &str| {
        let mut endpoint = endpoint(ip, "rs");
        endpoint["targetRef"] = serde_json::json!({ "kind": "Pod", "name": uid, "uid": uid });
        endpoint
    };
    let fourth = slice("web-4", &serde_json::json!([pod("a", "10.0.0.1"), pod("b", "10.0.0.2")]));
    let mut sixth = slice("web-6", &serde_json::json!([pod("a", "fd00::1"), pod("c", "fd00::3")]));
    sixth["addressType"] = "IPv6".into();
    let found = of(&[fourth, sixth.clone()], &spec()).unwrap();
    let ips: Vec<String> = found.iter().map(|found| found.address.ip().to_string()).collect();
    assert_eq!(ips, ["10.0.0.1", "10.0.0.2", "fd00::3"]);
    assert_eq!(of(&[sixth], &spec()).unwrap().len(), 2, "where there is no other, it counts");
}

#[tokio::test]
async fn a_thousand_endpoints_in_ten_slices() {
    let many = |n: u8| {
        let endpoints: Vec<_> = (0..100).map(|at| endpoint(&format!("10.0.{n}.{at}"), "rs")).collect();
        slice(&format!("web-{n}"), &endpoints.into())
    };
    let api = Api::start(&(0..10).map(many).collect::<Vec<_>>()).await;
    let mut reports = api.reports();
    assert_eq!(reports.next().await.unwrap().len(), 1_000);
    api.watch(change("DELETED", &many(3)).into_iter().chain(change("MODIFIED", &one("web-4", "10.9.9.9"))))
        .await;
    assert_eq!(reports.next().await.unwrap().len(), 900);
    assert_eq!(reports.next().await.unwrap().len(), 801);
}

#[tokio::test]
async fn hostile_answers_are_bounded() {
    // Addresses that are none, or nobody's, or tell secrets.
    let ips = ["10.0.0.1", "::1%lo", "0.0.0.0", "169.254.169.254", "localhost", "10.0.0.1:80", "224.0.0.1"];
    let endpoints: Vec<_> = ips.iter().map(|ip| endpoint(ip, "rs")).collect();
    assert_eq!(of(&[slice("a", &endpoints.into())], &spec()).unwrap().len(), 1);
    // More than the API allows.
    let endpoints = vec![endpoint("10.0.0.1", "rs"); ENDPOINTS_MAX + 1];
    assert!(of(&[slice("a", &endpoints.into())], &spec()).unwrap_err().contains("allowed"));
    let slices: Vec<_> = (0..=SLICES_MAX).map(|n| one(&format!("s-{n}"), "10.0.0.1")).collect();
    assert!(of(&slices, &spec()).unwrap_err().contains("more than"));
    assert!(of(&[one(&"x".repeat(1 << 20), "10.0.0.1")], &spec()).is_err());

    // A line without an end is given up, and so is a list without one.
    let api = Api::start(&[one("a", "10.0.0.1")]).await;
    let mut reports = api.reports();
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"]);
    api.watch(std::iter::repeat_n("x".repeat(1 << 20), 16)).await;
    api.watch(change("ADDED", &one("b", "10.0.0.2"))).await;
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1", "10.0.0.2"]);
    api.lists(("200 OK", " ".repeat(64 << 20))).await;
    api.watch(["{]\n".to_owned()]).await;
    let error = reports.next_but(&["10.0.0.1"]).await.unwrap_err();
    assert!(error.contains("limit"), "{error}");
}

/// Three bytes an endpoint, a quarter of a million slices: no more is kept than may be.
#[tokio::test]
async fn hostile_lists_are_bounded() {
    let endpoints = vec!["{}"; 1 << 20].join(",");
    let text = format!(r#"{{"metadata":{{"name":"a"}},"addressType":"IPv4","endpoints":[{endpoints}]}}"#);
    let read: Slice = serde_json::from_str(&text).unwrap();
    assert_eq!(read.endpoints.len(), ENDPOINTS_MAX + 1);
    let items = vec![r#"{"metadata":{"name":"a"}}"#; 1 << 18].join(",");
    let list = format!(r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{items}]}}"#);
    assert_eq!(serde_json::from_str::<List>(&list).unwrap().items.len(), SLICES_MAX + 1);
    let many = |n: usize| {
        let endpoints: Vec<_> = (0..ENDPOINTS_MAX).map(|_| endpoint("10.0.0.1", "rs")).collect();
        slice(&format!("s-{n}"), &endpoints.into())
    };
    let slices: Vec<_> = (0..=PODS_MAX / ENDPOINTS_MAX).map(many).collect();
    assert!(of(&slices, &spec()).unwrap_err().contains("endpoints"));

    // A list whose next chunk is always to come; and a reason that quotes a whole answer.
    let api = Api::start(&[]).await;
    let endless =
        serde_json::json!({ "metadata": { "resourceVersion": "17", "continue": "x" }, "items": [] });
    api.lists(("200 OK", endless.to_string())).await;
    let mut reports = api.reports();
    assert!(reports.next().await.unwrap_err().contains("does not end"));
    let quoted = serde_json::json!({ "metadata": { "resourceVersion": 7 }, "items": "x".repeat(1 << 20) });
    api.lists(("200 OK", quoted.to_string())).await;
    let said = loop {
        match reports.next().await.unwrap_err() {
            said if said.contains("does not end") => {}
            said => break said,
        }
    };
    assert!(said.contains("cannot be read") && said.len() < 400, "{} bytes", said.len());
}

/// Changes that come as fast as a connection carries them are told together, and the last of them is told.
#[tokio::test]
async fn a_flood_of_changes_is_told_now_and_then() {
    const CHANGES: usize = 3_000;
    let api = Api::start(&[one("a", "10.0.0.1")]).await;
    let mut reports = api.reports();
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"]);
    let ip = |n: usize| format!("10.1.{}.{}", n / 256, n % 256);
    let lines = (0..CHANGES).map(|n| change("MODIFIED", &one("a", &ip(n))).concat());
    api.watch([lines.collect::<String>()]).await;
    let mut told = 0;
    while reports.next().await.unwrap() != [ip(CHANGES - 1)] {
        told += 1;
    }
    assert!(told < CHANGES / 2, "{told} reports of {CHANGES} changes");
}

/// A cluster's account, with a token that changes, and an API that takes only the present one.
#[tokio::test]
async fn a_token_that_changes_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().to_owned();
    let put = |name: &str, text: &str| std::fs::write(account.join(name), text).unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let valid = Arc::new(std::sync::Mutex::new("one".to_owned()));
    let taken = valid.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let head = head(&mut stream).await;
            let token = format!("authorization: Bearer {}\r\n", taken.lock().unwrap());
            let (status, body) = match head.contains(&token) {
                true if head.contains("watch=true") => ("200 OK", String::new()),
                true => list_of(&[one("a", "10.0.0.1")]),
                false => ("401 Unauthorized", String::new()),
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let told = {
        let account = account.clone();
        move || {
            let variable = |name: &str| match name {
                "KUBERNETES_SERVICE_HOST" => Some("127.0.0.1".to_owned()),
                "KUBERNETES_SERVICE_PORT" => Some(port.clone()),
                _ => None,
            };
            Cluster::told_by(variable, &account)
        }
    };
    let missing = told().err().unwrap();
    assert!(missing.contains("token") && missing.contains("No such file"), "{missing}");
    put("token", "one\n");
    assert!(told().err().unwrap().contains("ca.crt"));
    put("ca.crt", "");
    assert!(told().err().unwrap().contains("holds no certificate"));
    put("ca.crt", &certified.cert.pem());
    let mut reports = follow_by(told);
    assert_eq!(reports.next().await.unwrap(), ["10.0.0.1"]);
    // The API knows the new one before the file has it.
    "two".clone_into(&mut valid.lock().unwrap());
    let refused = reports.next_but(&["10.0.0.1"]).await.unwrap_err();
    assert!(refused.contains("401") && !refused.contains("one"), "{refused}");
    put("token", "two\n");
    let well = loop {
        if let Ok(said) = reports.next().await {
            break said;
        }
    };
    assert_eq!(well, ["10.0.0.1"]);
}
