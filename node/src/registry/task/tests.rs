use std::sync::Mutex;

use gossip::clock::{Clock, Hlc};
use gossip::state::BackendState;

use super::*;
use crate::health::BackendHealth;
use crate::registry::fixture::{member, node, pool, region, services, view};

type Published = Arc<Mutex<Vec<BTreeMap<PoolName, PoolSummary>>>>;

struct Inlets {
    current: watch::Sender<Current>,
    view: watch::Sender<Arc<ClusterView>>,
    health: watch::Sender<Arc<HealthTable>>,
    loads: mpsc::Sender<LoadReport>,
    published: Published,
}

fn start() -> (Registry, JoinHandle<()>, Inlets) {
    let (current, current_of) = watch::channel(Current::default());
    let (view, view_of) =
        watch::channel(Arc::new(view("eu-1", vec![member("eu-1", "eu"), member("eu-2", "eu")])));
    let (health, health_of) = watch::channel(Arc::default());
    let (_, orders) = watch::channel(Arc::default());
    let (loads, loads_of) = mpsc::channel(16);
    let published = Published::default();
    let to = published.clone();
    let config = RegistryConfig {
        me: node("eu-1"),
        region: region("eu"),
        current: current_of,
        view: view_of,
        health: health_of,
        orders,
        loads: loads_of,
        clock: Clock::system(),
        publish: Box::new(move |summaries| to.lock().unwrap().push(summaries)),
    };
    let (registry, task) = Registry::start(config);
    (registry, task, Inlets { current, view, health, loads, published })
}

async fn until(changes: &mut watch::Receiver<Arc<Snapshot>>, wanted: impl Fn(&Snapshot) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), changes.wait_for(|snapshot| wanted(snapshot)));
    waited.await.expect("in time").expect("the registry runs");
}

fn two_backends() -> Current {
    let pool = pool("web", &[("10.0.0.1:80", "eu"), ("10.0.0.2:80", "eu")]);
    Current { services: Arc::new(services(&["eu"], vec![pool])), ..Current::default() }
}

#[tokio::test]
async fn follows_its_inputs_and_tells_the_mesh() {
    let (registry, task, inlets) = start();
    let mut changes = registry.changes();
    assert!(registry.snapshot().load().pools.is_empty());
    assert!(registry.snapshot().load().regions.contains_key("eu"), "the first snapshot is complete");

    let current = two_backends();
    let ids: Vec<_> = current.services.pools["web"].backends.iter().map(|backend| backend.id).collect();
    inlets.current.send_replace(current);
    until(&mut changes, |snapshot| snapshot.pools.len() == 1).await;

    let down = BackendHealth {
        state: BackendState::Down,
        up_since: Hlc::ZERO,
        down_since: Hlc::ZERO,
        ejected: None,
        reason: "eu-1: HTTP 503".to_owned(),
    };
    inlets.health.send_replace(Arc::new([(ids[0], down)].into()));
    until(&mut changes, |snapshot| snapshot.regions["eu"].pools["web"].healthy == 1).await;
    let told = inlets.published.lock().unwrap().last().cloned().unwrap();
    assert_eq!(told["web"], PoolSummary { healthy: 1, total: 2, capacity: 100, in_flight: 0 });

    drop(inlets);
    task.await.unwrap();
}

#[tokio::test]
async fn counters_are_shared_with_the_fast_lane() {
    let (registry, _task, inlets) = start();
    let mut changes = registry.changes();
    inlets.current.send_replace(two_backends());
    until(&mut changes, |snapshot| snapshot.pools.len() == 1).await;
    let shared = registry.snapshot().load().pools["web"].backends[0].clone();

    let stranger = LoadReport { from: node("us-9"), loads: vec![(shared.config.id, 99)] };
    let peer = LoadReport { from: node("eu-2"), loads: vec![(shared.config.id, 5)] };
    inlets.loads.send(stranger).await.unwrap();
    inlets.loads.send(peer).await.unwrap();
    let _in_flight = shared.shared.enter();
    assert_eq!(registry.loads(), [(shared.config.id, 1)]);

    // Once a second the requests in flight are told too.
    let wanted = PoolSummary { healthy: 2, total: 2, capacity: 200, in_flight: 6 };
    let told =
        || inlets.published.lock().unwrap().last().is_some_and(|told| told.get("web") == Some(&wanted));
    tokio::time::timeout(Duration::from_secs(10), async {
        while !told() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("in time");
    assert_eq!(shared.shared.elsewhere(), 5);

    inlets.view.send_replace(Arc::new(view("eu-1", vec![member("eu-1", "eu")])));
    tokio::time::timeout(Duration::from_secs(10), async {
        while shared.shared.elsewhere() != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a node that is gone has nothing in flight");
}
