use std::sync::atomic::Ordering;

use super::http::web;
use super::*;
use crate::config::model::{Disclosure, Telltale};
use crate::proxy::fixture;

fn change_service(snapshot: &mut Snapshot, change: impl FnOnce(&mut crate::config::model::Service)) {
    let services = Arc::make_mut(&mut snapshot.services);
    change(Arc::make_mut(services.services.values_mut().next().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_learn_what_backends_are_made_of() {
    let world = World::new();
    let node = world.node("eu-1", web(&[(http_backend("a").await, "eu")]));
    let said = get(node.addr("http"), "/telling", &[]).await;
    assert_eq!(said.status, 200);
    for name in ["server", "via", "x-powered-by"] {
        assert_eq!(said.header(name), None, "{said:?}");
    }
    node.change(|snapshot| {
        change_service(snapshot, |service| {
            let server = Some("shop".parse().unwrap());
            service.disclosure = Disclosure { passes: vec![Telltale::Via], server };
        });
    });
    let said = get(node.addr("http"), "/telling", &[]).await;
    assert_eq!((said.header("server"), said.header("via")), (Some("shop"), Some("1.1 inner")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_cookie_of_the_sessions_name_takes_nobodys_session_away() {
    let world = World::new();
    let mut snapshot = web(&[(http_backend("a").await, "eu"), (http_backend("b").await, "eu")]);
    change_service(&mut snapshot, |service| service.sticky_cookie = Some(fixture::sticky()));
    let node = world.node("eu-1", snapshot);
    let first = get(node.addr("http"), "/telling", &[]).await;
    let cookies: Vec<_> =
        first.head.lines().filter(|line| line.to_lowercase().starts_with("set-cookie")).collect();
    assert_eq!(cookies.len(), 2, "the backend's other cookie and the session's: {first:?}");
    assert!(!cookies.iter().any(|cookie| cookie.contains("mine")), "{first:?}");
    let session = cookies.iter().find_map(|line| line.split_once("meridian=")).unwrap().1;
    let session = format!("meridian={}", session.split(';').next().unwrap());
    for _ in 0..5 {
        let again = get(node.addr("http"), "/telling", &[("cookie", &session)]).await;
        assert_eq!(again.backend(), first.backend());
        assert!(!again.head.contains("meridian="), "the session is as it was: {again:?}");
    }
    assert_eq!(node.handle.counters().cookies_dropped.load(Ordering::Relaxed), 6);
}
