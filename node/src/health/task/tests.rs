use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gossip::state::BackendState;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::model::Probe;
use crate::registry::fixture::{member, node, pool, region, services, view};

/// A server that is well or is not, on a port of its own.
async fn server() -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let well = Arc::new(AtomicBool::new(true));
    let state = well.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = match state.load(Ordering::Relaxed) {
                true => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                false => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            };
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, well)
}

struct Running {
    table: watch::Receiver<Arc<HealthTable>>,
    task: JoinHandle<()>,
    current: watch::Sender<Current>,
    view: watch::Sender<Arc<ClusterView>>,
    evidence: mpsc::Sender<(BackendId, Evidence)>,
    published: Arc<Mutex<BTreeMap<PoolName, Vec<Verdict>>>>,
}

impl Running {
    /// Health of one node with one pool of these backends, asked by HTTP every 50 ms.
    fn start(backends: &[&str]) -> (Self, Vec<BackendId>) {
        let backends: Vec<(&str, &str)> = backends.iter().map(|address| (*address, "eu")).collect();
        let mut pool = pool("web", &backends);
        let ids = pool.backends.iter().map(|backend| backend.id).collect();
        let check = pool.health.as_mut().unwrap();
        check.interval = Duration::from_millis(50);
        check.timeout = Duration::from_secs(5);
        check.probe = Probe::Http {
            path: "/healthz".to_owned(),
            host: None,
            status: vec![(StatusCode::OK, StatusCode::from_u16(399).unwrap())],
        };
        let services = Arc::new(services(&["eu"], vec![pool]));
        let (current, current_of) = watch::channel(Current { services, ..Current::default() });
        let (view, view_of) = watch::channel(Arc::new(view("eu-1", vec![member("eu-1", "eu")])));
        let (evidence, evidence_of) = mpsc::channel(16);
        let published = Arc::new(Mutex::new(BTreeMap::new()));
        let to = published.clone();
        let (table, task) = start(HealthConfig {
            me: node("eu-1"),
            region: region("eu"),
            current: current_of,
            view: view_of,
            evidence: evidence_of,
            publish: Box::new(move |verdicts| *to.lock().unwrap() = verdicts),
            publish_failures: Box::new(|_| {}),
            recalled: HealthTable::new(),
            tls: Tls::none(),
            clock: Clock::system(),
        });
        (Self { table, task, current, view, evidence, published }, ids)
    }

    async fn until(&mut self, id: BackendId, wanted: impl Fn(&super::super::BackendHealth) -> bool) {
        let wait = self.table.wait_for(|table| table.get(&id).is_some_and(&wanted));
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").expect("health runs");
    }

    fn told(&self, id: BackendId) -> Option<BackendState> {
        let published = self.published.lock().unwrap();
        published.get("web")?.iter().find(|verdict| verdict.backend == id).map(|verdict| verdict.state)
    }
}

#[tokio::test]
async fn a_backend_fails_and_recovers() {
    let (address, well) = server().await;
    let (mut health, ids) = Running::start(&[&address]);
    health.until(ids[0], |health| health.state == BackendState::Up).await;
    assert_eq!(health.told(ids[0]), Some(BackendState::Up), "gossip hears it before the registry");
    well.store(false, Ordering::Relaxed);
    health.until(ids[0], |health| health.state == BackendState::Down).await;
    assert!(health.table.borrow()[&ids[0]].reason.starts_with("eu-1: HTTP 503 at "));
    well.store(true, Ordering::Relaxed);
    health.until(ids[0], |health| health.state == BackendState::Up && health.reason.is_empty()).await;
}

#[tokio::test]
async fn evidence_ejects_at_once_and_the_probe_brings_it_back() {
    let (address, _well) = server().await;
    let (mut health, ids) = Running::start(&[&address]);
    health.until(ids[0], |health| health.state == BackendState::Up).await;
    let before = health.table.borrow()[&ids[0]].up_since;
    health.evidence.send((BackendId(1), Evidence::ConnectFailed)).await.unwrap();
    health.evidence.send((ids[0], Evidence::ConnectFailed)).await.unwrap();
    health.until(ids[0], |health| health.up_since > before && health.ejected.is_none()).await;
}

#[tokio::test]
async fn it_follows_the_configuration_and_ends_with_it() {
    let (first, _) = server().await;
    let (mut health, ids) = Running::start(&[&first, "127.0.0.1:1"]);
    health.until(ids[0], |health| health.state == BackendState::Up).await;
    health.until(ids[1], |health| health.state == BackendState::Down).await;
    assert!(health.table.borrow()[&ids[1]].reason.starts_with("eu-1: connection refused at "));
    health.current.send_replace(Current::default());
    let emptied = health.table.wait_for(|table| table.is_empty());
    tokio::time::timeout(Duration::from_secs(20), emptied).await.expect("in time").expect("health runs");
    assert_eq!(health.told(ids[0]), None);
    let Running { task, current, view, evidence, .. } = health;
    drop(evidence); // The proxy may go first.
    drop((current, view));
    task.await.unwrap();
}

#[test]
fn what_comes_alone_is_not_put_off() {
    let clock = Clock::simulated(gossip::clock::Wall(0));
    let mut pace = Pace::default();
    assert!(pace.is_free(clock.now()) && pace.next().is_none());
    pace.taken(clock.now());
    assert!(!pace.is_free(clock.now()));
    assert_eq!(pace.next(), Some(clock.now() + TOGETHER));
    clock.advance(TOGETHER);
    assert!(pace.is_free(clock.now()));
}
