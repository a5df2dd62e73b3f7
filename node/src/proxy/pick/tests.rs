use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gossip::clock::Hlc;
use gossip::id::RackName;
use gossip::keyring::Keyring;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::backend::InFlight;
use crate::config::model::{Backend, HashOn, Pool};
use crate::proxy::fixture;
use crate::proxy::plan::{Plan, RouteCache};
use crate::proxy::source::SourceKeys;

/// A pool of backends given as (zone, rack), all in region eu.
fn pool(balance: BalancePolicy, places: &[(&str, &str)]) -> PoolView {
    let addr = |at: usize| SocketAddr::from(([10, 0, 0, 1], 1000 + at as u16));
    let backends: Vec<_> = (0..places.len()).map(|at| (addr(at), "eu")).collect();
    let mut pool = fixture::pool("web", &backends);
    for (backend, (zone, rack)) in pool.backends.iter_mut().zip(places) {
        let backend: &mut Backend = Arc::make_mut(backend);
        backend.zone = ZoneName::new(zone).ok();
        backend.rack = RackName::new(rack).ok();
    }
    pool.balance = balance;
    fixture::pool_view(&Arc::new(pool))
}

fn change(view: &mut PoolView, change: impl FnOnce(&mut Pool)) {
    change(Arc::make_mut(&mut view.config));
}

struct Hand {
    turns: Turns,
    rng: SmallRng,
    clock: Clock,
}

impl Hand {
    fn new() -> Self {
        let clock = Clock::simulated(Wall(1_000_000_000));
        Self { turns: Turns::default(), rng: SmallRng::seed_from_u64(1), clock }
    }

    fn pick(&mut self, pool: &PoolView, zone: Option<&str>, tried: &Tried) -> Option<usize> {
        let zone = zone.map(|zone| ZoneName::new(zone).unwrap());
        let origin = self.clock.now();
        let mut dice = Dice { turns: &mut self.turns, rng: &mut self.rng, clock: &self.clock, origin };
        let eu = fixture::region("eu");
        in_region(pool, &eu, zone.as_ref(), tried, &Keys::default(), &mut dice)
    }
}

fn all_policies() -> [BalancePolicy; 6] {
    [
        BalancePolicy::LeastBusy,
        BalancePolicy::WeightedRoundRobin,
        BalancePolicy::WeightedLeastConnections,
        BalancePolicy::PeakEwma,
        BalancePolicy::Random,
        BalancePolicy::Hash(HashOn::SourceIp),
    ]
}

#[test]
fn every_policy_honours_weights_and_leaves_nobody_out() {
    for policy in all_policies() {
        let mut hand = Hand::new();
        let mut pool = pool(policy.clone(), &[("a", "r"), ("a", "r"), ("a", "r"), ("a", "r")]);
        pool.backends[1].weight = 300;
        pool.backends[3].weight = 0;
        // Requests that stay, and random ones that do not matter.
        let mut stay: Vec<InFlight> = Vec::new();
        let mut had = [0u32; 4];
        for _ in 0..5000 {
            let at = hand.pick(&pool, None, &Tried::default()).unwrap();
            had[at] += 1;
            stay.push(pool.backends[at].shared.enter());
        }
        let near = |had: u32, fair: u32| had.abs_diff(fair) <= fair / 10;
        assert!(near(had[0], 1000) && near(had[1], 3000) && near(had[2], 1000), "{policy:?}: {had:?}");
        assert_eq!(had[3], 0);
    }
}

#[test]
fn the_own_zone_goes_first_until_it_has_140_percent() {
    let mut hand = Hand::new();
    let pool = pool(BalancePolicy::LeastBusy, &[("a", "r"), ("b", "r"), ("c", "r")]);
    let mut stay = Vec::new();
    let mut had = [0u32; 3];
    for _ in 0..300 {
        let at = hand.pick(&pool, Some("a"), &Tried::default()).unwrap();
        had[at] += 1;
        stay.push(pool.backends[at].shared.enter());
    }
    assert!((139..=142).contains(&had[0]), "{had:?}");
    assert!(had[1].abs_diff(had[2]) <= 1, "{had:?}");
    assert!((0..100).all(|_| hand.pick(&pool, Some("elsewhere"), &Tried::default()) != Some(0)));
}

#[test]
fn few_requests_stay_in_the_zone() {
    for policy in all_policies().into_iter().take(5) {
        let mut hand = Hand::new();
        let pool = pool(policy, &[("a", "r"), ("a", "r"), ("b", "r"), ("b", "r")]);
        let chosen: BTreeSet<_> =
            (0..100).map(|_| hand.pick(&pool, Some("b"), &Tried::default()).unwrap()).collect();
        assert_eq!(chosen, BTreeSet::from([2, 3]));
    }
}

#[test]
fn a_further_try_goes_to_another_rack_when_there_is_one() {
    let mut hand = Hand::new();
    let pool = pool(BalancePolicy::Random, &[("a", "1"), ("a", "1"), ("a", "2"), ("a", "")]);
    let id = |at: usize| pool.backends[at].config.id;
    let tried = Tried { backends: vec![id(0)], ..Tried::default() };
    let next: BTreeSet<_> = (0..100).filter_map(|_| hand.pick(&pool, Some("a"), &tried)).collect();
    assert_eq!(next, BTreeSet::from([2, 3]));
    let tried = Tried { backends: vec![id(0), id(2), id(3)], ..Tried::default() };
    assert_eq!(hand.pick(&pool, Some("a"), &tried), Some(1));
}

#[test]
fn the_loss_of_a_rack_takes_its_share_and_no_more() {
    for policy in [BalancePolicy::LeastBusy, BalancePolicy::WeightedLeastConnections] {
        let mut hand = Hand::new();
        let racks = ["1", "1", "1", "1", "2", "2", "3", "3"];
        let pool = pool(policy, &racks.map(|rack| ("a", rack)));
        let mut stay = Vec::new();
        for placed in 1..=100 {
            let at = hand.pick(&pool, Some("a"), &Tried::default()).unwrap();
            stay.push(pool.backends[at].shared.enter());
            for rack in ["1", "2", "3"] {
                let stand = |at: usize| (racks[at] == rack).then(|| pool.backends[at].shared.in_flight());
                let had: Vec<u32> = (0..racks.len()).filter_map(stand).collect();
                let share = f64::from(placed) * had.len() as f64 / racks.len() as f64;
                assert!(f64::from(had.iter().sum::<u32>()) < share + 1.0, "{rack} after {placed}: {had:?}");
            }
        }
    }
}

#[test]
fn one_that_has_just_come_gets_a_tenth() {
    let mut hand = Hand::new();
    let mut pool = pool(BalancePolicy::Random, &[("a", "1"), ("a", "1")]);
    change(&mut pool, |pool| pool.slow_start = Some(Duration::from_secs(30)));
    pool.backends[1].joined = Hlc::from_millis(hand.clock.wall().0);
    let share = |hand: &mut Hand| {
        (0..11_000).filter(|_| hand.pick(&pool, None, &Tried::default()) == Some(1)).count()
    };
    let first = share(&mut hand);
    assert!((850..1150).contains(&first), "{first}");
    hand.clock.advance(Duration::from_secs(31));
    let then = share(&mut hand);
    assert!((5200..5800).contains(&then), "{then}");
}

#[test]
fn the_same_client_goes_to_the_same_backend() {
    let mut config =
        fixture::pool("web", &[1, 2, 3, 4, 5].map(|port| (SocketAddr::from(([10, 0, 0, 1], port)), "eu")));
    config.balance = BalancePolicy::Hash(HashOn::SourceIp);
    let service = fixture::service("web", &[("web", 1)]);
    let snapshot = fixture::snapshot("eu", vec![], vec![service.clone()], vec![config]);
    let plan = Plan::new(Arc::new(snapshot), &RouteCache::default(), Default::default());
    let pool = plan.pool(&fixture::pool_name("web")).unwrap();
    let secrets = SourceKeys::new(&Keyring::generate());
    let mut hand = Hand::new();
    let mut pick = |last: u8| {
        let keys = Keys::new(&plan, &service, &secrets, [192, 0, 2, last].into(), None);
        let origin = hand.clock.now();
        let mut dice = Dice { turns: &mut hand.turns, rng: &mut hand.rng, clock: &hand.clock, origin };
        in_region(pool, &fixture::region("eu"), None, &Tried::default(), &keys, &mut dice).unwrap()
    };
    let chosen: Vec<_> = (0..50).map(&mut pick).collect();
    assert_eq!(chosen, (0..50).map(&mut pick).collect::<Vec<_>>());
    assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 5, "{chosen:?}");
}
