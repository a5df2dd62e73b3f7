//! The driver of [`outliers`](super::outliers): looks at the counters of all backends once a second and tells health whom
//! this node's requests speak against.
//!
//! Workers only count (`BackendShared`); nothing here is on a request's way. The task owns what it remembers of the last
//! interval; it ends when health does not listen any more, and aborting it is safe.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gossip::clock::{Clock, ticks};
use gossip::id::{BackendId, PoolName};
use tokio::sync::mpsc;

use super::outliers::Outliers;
use crate::backend::{Evidence, Snapshot};

/// How often the counters are looked at: the shortest interval that can be configured.
const LOOK: Duration = Duration::from_secs(1);

/// Looks for as long as somebody listens.
pub async fn follow(
    snapshot: Arc<ArcSwap<Snapshot>>,
    evidence: mpsc::Sender<(BackendId, Evidence)>,
    clock: Clock,
) {
    let mut looks = ticks(LOOK);
    let mut pools: HashMap<PoolName, Outliers> = HashMap::new();
    loop {
        looks.tick().await;
        let snapshot = snapshot.load_full();
        let judged =
            |name: &PoolName| snapshot.pools.get(name).filter(|pool| pool.config.ejection.rate.is_judged());
        pools.retain(|name, _| judged(name).is_some());
        let mut out = Vec::new();
        for (name, pool) in &snapshot.pools {
            let rule = &pool.config.ejection.rate;
            if !rule.is_judged() {
                continue;
            }
            let totals = pool.backends.iter().map(|backend| (backend.config.id, backend.shared.totals()));
            out.extend(pools.entry(name.clone()).or_default().look(rule, totals, clock.now()));
        }
        for backend in out {
            if evidence.send((backend, Evidence::FailingOften)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;

    use super::*;
    use crate::config::model::{EjectionRule, FailureRate};
    use crate::proxy::fixture;

    #[tokio::test]
    async fn who_fails_too_often_is_told_of_after_an_interval() {
        let addr = |port| std::net::SocketAddr::from(([10, 0, 0, 1], port));
        let mut pool = fixture::pool("web", &[(addr(1), "eu"), (addr(2), "eu")]);
        let rate = FailureRate {
            interval: Duration::from_secs(2),
            min_requests: 10,
            failures: Some(0.5),
            deviations: None,
        };
        pool.ejection = EjectionRule { rate, ..EjectionRule::default() };
        let snapshot = fixture::snapshot("eu", vec![], vec![], vec![pool]);
        let backends: Vec<_> = snapshot.pools.values().flat_map(|pool| pool.backends.clone()).collect();
        let (sender, mut heard) = mpsc::channel(8);
        let clock = Clock::simulated(Wall(0));
        let mut task = tokio::spawn(follow(Arc::new(ArcSwap::from_pointee(snapshot)), sender, clock.clone()));
        // The first look may come at any time; each round is an interval that speaks against one of them.
        let told = async {
            loop {
                for backend in &backends {
                    (0..10).for_each(|_| drop(backend.shared.enter()));
                }
                (0..5).for_each(|_| backends[1].shared.erred());
                (0..4).for_each(|_| backends[0].shared.erred());
                clock.advance(Duration::from_secs(2));
                if let Ok(told) = tokio::time::timeout(2 * LOOK, heard.recv()).await {
                    return told;
                }
            }
        };
        let told = tokio::time::timeout(20 * LOOK, told).await.unwrap();
        assert_eq!(told, Some((backends[1].config.id, Evidence::FailingOften)));
        drop(heard);
        // Nobody listens: the next word ends it.
        let ended = async {
            while !task.is_finished() {
                (0..10).for_each(|_| drop(backends[1].shared.enter()));
                (0..10).for_each(|_| backends[1].shared.erred());
                clock.advance(Duration::from_secs(2));
                let _ = tokio::time::timeout(LOOK, &mut task).await;
            }
        };
        tokio::time::timeout(20 * LOOK, ended).await.unwrap();
    }
}
