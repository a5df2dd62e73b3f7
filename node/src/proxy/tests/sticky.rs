use gossip::state::BackendState;

use super::http::web;
use super::*;
use crate::config::model::{ForceRule, OnDown, Service};
use crate::proxy::{Affinity, fixture};

fn sticky_web(backends: &[(SocketAddr, &str)], change: impl FnOnce(&mut Service)) -> Snapshot {
    let mut snapshot = web(backends);
    let services = Arc::make_mut(&mut snapshot.services);
    let service = Arc::make_mut(services.services.values_mut().next().unwrap());
    service.sticky_cookie = Some(fixture::sticky());
    change(service);
    snapshot
}

async fn three_backends() -> Vec<(SocketAddr, &'static str)> {
    vec![(http_backend("a").await, "eu"), (http_backend("b").await, "eu"), (http_backend("c").await, "eu")]
}

fn set_state(snapshot: &mut Snapshot, at: usize, state: BackendState) {
    Arc::make_mut(snapshot.pools.values_mut().next().unwrap()).backends[at].state = state;
}

fn index(backend: &str) -> usize {
    usize::from(backend.as_bytes()[0] - b'a')
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_over_all_nodes_and_nobody_is_asked() {
    let backends = three_backends().await;
    let world = World::new();
    let one = world.node("eu-1", sticky_web(&backends, |_| {}));
    let two = world.node("eu-2", sticky_web(&backends, |_| {}));
    for _ in 0..20 {
        let first = get(one.addr("http"), "/", &[("cookie", "theme=dark")]).await;
        let cookie = first.cookie().unwrap();
        assert!(cookie.starts_with("meridian="));
        let attributes = first.header("set-cookie").unwrap();
        assert!(attributes.ends_with("; Path=/; Max-Age=28800; HttpOnly; SameSite=Lax"), "{attributes}");
        assert_eq!(first.header("cache-control"), Some("private"));
        let both = format!("theme=dark; {cookie}; lang=de");
        for node in [&two, &one, &two] {
            let next = get(node.addr("http"), "/", &[("cookie", &both)]).await;
            assert_eq!(next.backend(), first.backend());
            assert_eq!(next.cookie(), None);
            assert!(next.body.contains("cookie: theme=dark; lang=de\n"), "{next:?}");
        }
    }
    assert_eq!(world.store.commits.load(Ordering::Relaxed), 20);
    assert_eq!(world.store.finds.load(Ordering::Relaxed) + world.store.repins.load(Ordering::Relaxed), 0);
    until(|| two.handle.in_flight() == 0).await;
    until(|| two.handle.counters().affinity(Affinity::Kept) == 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_its_pin() {
    let store = FakeStore { commit_takes: Duration::from_millis(150), ..FakeStore::default() };
    let world = World::with(store);
    let node = world.node("eu-1", sticky_web(&three_backends().await, |_| {}));
    let clock = Clock::system();
    let began = clock.now();
    let first = get(node.addr("http"), "/", &[]).await;
    assert!(clock.now() - began >= Duration::from_millis(150));
    assert!(first.cookie().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_meet_a_homeless_session_choose_the_same_backend() {
    let backends = three_backends().await;
    let world = World::new();
    let one = world.node("eu-1", sticky_web(&backends, |_| {}));
    let two = world.node("eu-2", sticky_web(&backends, |_| {}));
    for _ in 0..20 {
        let first = get(one.addr("http"), "/", &[]).await;
        let cookie = first.cookie().unwrap();
        let gone = index(first.backend());
        for node in [&one, &two] {
            node.change(|snapshot| set_state(snapshot, gone, BackendState::Down));
        }
        let headers = [("cookie", cookie.as_str())];
        let (at_one, at_two) =
            tokio::join!(get(one.addr("http"), "/", &headers), get(two.addr("http"), "/", &headers));
        assert_ne!(at_one.backend(), first.backend());
        assert_eq!(at_one.backend(), at_two.backend());
        // It has moved once and for all: it does not go back when the old backend does.
        let moved = at_one.cookie().unwrap();
        for node in [&one, &two] {
            node.change(|snapshot| set_state(snapshot, gone, BackendState::Up));
        }
        assert_eq!(get(two.addr("http"), "/", &[("cookie", &moved)]).await.backend(), at_one.backend());
        // An old tab asks, because the backend broke off since, and follows.
        let back = world.hlc();
        two.change(|snapshot| {
            let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
            pool.backends[gone].up_since = back;
        });
        let tab = get(two.addr("http"), "/", &[("cookie", &cookie)]).await;
        assert_eq!(tab.backend(), at_one.backend());
        assert!(tab.cookie().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_tab_follows_a_move_that_this_node_holds_though_it_saw_no_break() {
    let backends = three_backends().await;
    let world = World::with(FakeStore { held_here: true, ..FakeStore::default() });
    let one = world.node("eu-1", sticky_web(&backends, |_| {}));
    let two = world.node("eu-2", sticky_web(&backends, |_| {}));
    let first = get(one.addr("http"), "/", &[]).await;
    let old = first.cookie().unwrap();
    let gone = index(first.backend());
    one.change(|snapshot| set_state(snapshot, gone, BackendState::Down));
    let moved = get(one.addr("http"), "/", &[("cookie", &old)]).await;
    assert_ne!(moved.backend(), first.backend());
    // The second node never saw the backend down, and its snapshot knows of no break.
    let asked = world.store.finds.load(Ordering::Relaxed) + world.store.repins.load(Ordering::Relaxed);
    let tab = get(two.addr("http"), "/", &[("cookie", &old)]).await;
    assert_eq!(tab.backend(), moved.backend());
    assert!(tab.cookie().is_some());
    assert_eq!(world.store.finds.load(Ordering::Relaxed) + world.store.repins.load(Ordering::Relaxed), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_backend_returned_is_confirmed_once() {
    let backends = three_backends().await;
    let world = World::new();
    let node = world.node("eu-1", sticky_web(&backends, |_| {}));
    let first = get(node.addr("http"), "/", &[]).await;
    let back = world.hlc();
    node.change(|snapshot| {
        let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
        pool.backends[index(first.backend())].up_since = back;
    });
    let asked = get(node.addr("http"), "/", &[("cookie", &first.cookie().unwrap())]).await;
    assert_eq!(asked.backend(), first.backend());
    assert_eq!(world.store.repins.load(Ordering::Relaxed), 1);
    let again = get(node.addr("http"), "/", &[("cookie", &asked.cookie().unwrap())]).await;
    assert_eq!(again.backend(), first.backend());
    assert_eq!(world.store.repins.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_moves_the_session() {
    let backends = three_backends().await;
    let world = World::new();
    let node = world.node("eu-1", sticky_web(&backends, |_| {}));
    let first = get(node.addr("http"), "/", &[]).await;
    let gone = index(first.backend());
    // The same backend id, but nobody listens there any more.
    node.change(|snapshot| {
        let pool = Arc::make_mut(snapshot.pools.values_mut().next().unwrap());
        let config = Arc::make_mut(&mut pool.backends[gone].config);
        config.address = ([127, 0, 0, 1], free_port()).into();
    });
    // Connections that are kept open may still serve it; they are gone with the test's backend in real life.
    let fresh_worker = world.node("eu-2", (*node.snapshot.load_full()).clone());
    let moved = get(fresh_worker.addr("http"), "/", &[("cookie", &first.cookie().unwrap())]).await;
    assert_eq!(moved.status, 200);
    assert_ne!(moved.backend(), first.backend());
    until(|| fresh_worker.handle.counters().affinity(Affinity::Moved) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_session_whose_backend_is_gone_is_the_services_choice() {
    let backends = three_backends().await;
    for on_down in [OnDown::Refuse, OnDown::Temporary] {
        let world = World::new();
        let choice = |service: &mut Service| service.sticky_cookie.as_mut().unwrap().on_down = on_down;
        let node = world.node("eu-1", sticky_web(&backends, choice));
        let first = get(node.addr("http"), "/", &[]).await;
        let cookie = first.cookie().unwrap();
        let gone = index(first.backend());
        node.change(|snapshot| set_state(snapshot, gone, BackendState::Down));
        let meanwhile = get(node.addr("http"), "/", &[("cookie", &cookie)]).await;
        assert_eq!(meanwhile.status, if on_down == OnDown::Refuse { 503 } else { 200 });
        assert_eq!(meanwhile.cookie(), None);
        node.change(|snapshot| set_state(snapshot, gone, BackendState::Up));
        let back = get(node.addr("http"), "/", &[("cookie", &cookie)]).await;
        assert_eq!(back.backend(), first.backend());
        assert_eq!(world.store.repins.load(Ordering::Relaxed), 0);
        // What an operator takes out is left, whatever the choice.
        node.change(|snapshot| set_state(snapshot, gone, BackendState::Maintenance));
        let moved = get(node.addr("http"), "/", &[("cookie", &cookie)]).await;
        assert_eq!(moved.status, 200);
        assert!(moved.cookie().is_some() && moved.backend() != first.backend());
        until(|| world.store.repins.load(Ordering::Relaxed) == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_backend_keeps_its_sessions_and_gets_no_new_ones() {
    let backends = three_backends().await;
    let world = World::new();
    let node = world.node("eu-1", sticky_web(&backends, |_| {}));
    let first = get(node.addr("http"), "/", &[]).await;
    let draining = index(first.backend());
    node.change(|snapshot| set_state(snapshot, draining, BackendState::Draining));
    for _ in 0..20 {
        assert_ne!(get(node.addr("http"), "/", &[]).await.backend(), first.backend());
        let kept = get(node.addr("http"), "/", &[("cookie", &first.cookie().unwrap())]).await;
        assert_eq!(kept.backend(), first.backend());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_moves_sessions_and_they_stay_where_they_went() {
    let backends = three_backends().await;
    let world = World::new();
    let node = world.node("eu-1", sticky_web(&backends, |_| {}));
    let first = get(node.addr("http"), "/", &[]).await;
    node.change(|snapshot| set_state(snapshot, index(first.backend()), BackendState::Maintenance));
    let moved = get(node.addr("http"), "/", &[("cookie", &first.cookie().unwrap())]).await;
    assert_ne!(moved.backend(), first.backend());
    until(|| node.handle.counters().affinity(Affinity::Moved) == 1).await;
    for _ in 0..10 {
        let kept = get(node.addr("http"), "/", &[("cookie", &moved.cookie().unwrap())]).await;
        assert_eq!(kept.backend(), moved.backend());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_or_foreign_cookie_makes_a_new_session() {
    let backends = three_backends().await;
    let world = World::new();
    let node = world.node("eu-1", sticky_web(&backends, |_| {}));
    let stranger = World::new().node("eu-1", sticky_web(&backends, |_| {}));
    let foreign = get(stranger.addr("http"), "/", &[]).await.cookie().unwrap();
    for cookie in [foreign.as_str(), "meridian=", "meridian=AAAA", "meridian=\"%%%\""] {
        let said = get(node.addr("http"), "/", &[("cookie", cookie)]).await;
        assert_eq!(said.status, 200);
        assert!(said.cookie().is_some_and(|fresh| fresh != cookie));
        assert!(!said.body.contains("meridian="));
    }
    until(|| node.handle.counters().affinity(Affinity::Invalid) == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_stays_on_the_version_first_met_until_it_is_gone() {
    let (v1, v2) = (http_backend("v1").await, http_backend("v2").await);
    let mut service = fixture::service("web", &[("v1", 50), ("v2", 50)]);
    service.sticky_cookie = Some(fixture::sticky());
    service.force.push(ForceRule {
        header: ::http::HeaderName::from_static("x-version"),
        value: ::http::HeaderValue::from_static("v2"),
        pool: fixture::pool_name("v2"),
    });
    let pools = || vec![fixture::pool("v1", &[(v1, "eu")]), fixture::pool("v2", &[(v2, "eu")])];
    let listeners = || vec![fixture::http_listener("http", 0)];
    let world = World::new();
    let node = world.node("eu-1", fixture::snapshot("eu", listeners(), vec![service.clone()], pools()));
    let addr = node.addr("http");
    let mut met = Vec::new();
    for _ in 0..40 {
        let first = get(addr, "/", &[]).await;
        met.push((first.backend().to_owned(), first.cookie().unwrap()));
    }
    let seconds = met.iter().filter(|(version, _)| version == "v2").count();
    assert!((8..=32).contains(&seconds), "{seconds} of 40 met v2");
    // Other shares change nothing for those who are there.
    node.change(|snapshot| {
        let services = Arc::make_mut(&mut snapshot.services);
        let service = Arc::make_mut(services.services.values_mut().next().unwrap());
        service.split = vec![(fixture::pool_name("v1"), 1), (fixture::pool_name("v2"), 1_000_000)];
    });
    for (version, cookie) in &met {
        assert_eq!(get(addr, "/", &[("cookie", cookie)]).await.backend(), version);
    }
    // A rule goes before all.
    assert_eq!(get(addr, "/", &[("x-version", "v2")]).await.backend(), "v2");
    let first = met.iter().find(|(version, _)| version == "v1").unwrap();
    let forced = get(addr, "/", &[("cookie", &first.1), ("x-version", "v2")]).await;
    assert_eq!(forced.backend(), "v2");
    // When a version has no backend left, its users move to the other.
    let version_1 = |state| {
        node.change(|snapshot| {
            let pool = Arc::make_mut(snapshot.pools.get_mut(&fixture::pool_name("v1")).unwrap());
            pool.backends[0].state = state;
        });
    };
    version_1(BackendState::Down);
    assert_eq!(get(addr, "/", &[("cookie", &first.1)]).await.backend(), "v2");
    version_1(BackendState::Up);
    // When the version leaves the service, its users go to what is left.
    node.change(|snapshot| {
        let services = Arc::make_mut(&mut snapshot.services);
        let service = Arc::make_mut(services.services.values_mut().next().unwrap());
        service.split = vec![(fixture::pool_name("v2"), 1)];
    });
    for (_, cookie) in &met {
        let said = get(addr, "/", &[("cookie", cookie)]).await;
        assert_eq!(said.backend(), "v2");
    }
}

fn end(world: &World, target: storage::intents::Target) {
    use storage::intents::{Intent, IntentMap, Order};
    let (at, by) = (world.hlc(), NodeName::new("eu-9").unwrap());
    let intent = Intent { order: Order::End { until: at.wall() }, at, by };
    world.ends.set(&IntentMap::from([((target, intent.order.aspect()), intent)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_an_operator_ended_is_followed_by_a_new_one() {
    use storage::intents::Target;
    let backends = three_backends().await;
    let world = World::new();
    let node = world.node("eu-1", sticky_web(&backends, |_| {}));
    let addr = node.addr("http");
    let pool = node.snapshot.load().pools.keys().next().unwrap().clone();
    let service = node.snapshot.load().services.services.keys().next().unwrap().clone();
    let mut commits = 0;
    for name in ["backend", "pool", "service"] {
        let first = get(addr, "/", &[]).await;
        let cookie = first.cookie().unwrap();
        assert_eq!(get(addr, "/", &[("cookie", &cookie)]).await.cookie(), None);
        end(
            &world,
            match name {
                "backend" => Target::Backend(pool.clone(), backends[index(first.backend())].0),
                "pool" => Target::Pool(pool.clone()),
                _ => Target::Service(service.clone()),
            },
        );
        let after = get(addr, "/", &[("cookie", &cookie)]).await;
        assert_eq!(after.status, 200);
        let fresh = after.cookie().unwrap();
        let again = get(addr, "/", &[("cookie", &fresh)]).await;
        assert_eq!((again.cookie(), again.backend()), (None, after.backend()), "{name}");
        commits += 2;
        assert_eq!(world.store.commits.load(Ordering::Relaxed), commits);
    }
    until(|| node.handle.counters().affinity(Affinity::Expired) == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_does_not_bring_back_a_session_whose_record_says_that_it_ended() {
    let backends = three_backends().await;
    let world = World::new();
    let node = world.node("eu-1", sticky_web(&backends, |_| {}));
    let first = get(node.addr("http"), "/", &[]).await;
    let cookie = first.cookie().unwrap();
    world.store.end_all(world.hlc());
    // Its backend broke off, so the store is asked.
    let gone = index(first.backend());
    node.change(|snapshot| set_state(snapshot, gone, BackendState::Down));
    let after = get(node.addr("http"), "/", &[("cookie", &cookie)]).await;
    assert_eq!(after.status, 200);
    assert!(after.cookie().is_some());
    assert_eq!((world.store.standing(), world.store.commits.load(Ordering::Relaxed)), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_all_stores_have_lost_is_written_again_when_its_cookie_is_renewed() {
    let world = World::new();
    let node = world.node("eu-1", sticky_web(&three_backends().await, |_| {}));
    let service = node.snapshot.load().services.services.keys().next().unwrap().clone();
    let first = get(node.addr("http"), "/", &[]).await;
    let (name, value) = (first.cookie().unwrap(), world.cookies());
    let sealed = name.strip_prefix("meridian=").unwrap();
    let now = Clock::system().wall();
    let told = value.open(&service, sealed, now).unwrap();
    let before = world.store.held(&told.id).unwrap();
    world.store.lose_all();
    assert_eq!(get(node.addr("http"), "/", &[("cookie", &name)]).await.cookie(), None);
    assert_eq!(world.store.held(&told.id), None, "a young cookie costs no store anything");
    // A quarter of the eight idle hours and more.
    let old = storage::cookie::SessionCookie { last_seen: told.last_seen - 3 * 3600, ..told };
    let old = format!("meridian={}", value.seal(&service, &old, now));
    let renewed = get(node.addr("http"), "/", &[("cookie", &old)]).await;
    assert!(renewed.cookie().is_some() && renewed.backend() == first.backend());
    let after = world.store.held(&told.id).unwrap();
    assert_eq!(
        (after.assignment.hlc, after.assignment.backend),
        (before.assignment.hlc, before.assignment.backend)
    );
    // Whoever still holds the record keeps it, but for its longer life.
    assert_eq!(before.merge(after).assignment, before.assignment);
}
