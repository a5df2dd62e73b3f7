use std::cell::Cell;

use proptest::prelude::*;

use super::*;

fn of_clients(per_second: f64, burst: u32) -> RateLimit {
    RateLimit { per_client: Some(Rate { per_second, burst }), service: None }
}

fn limiter(per_client: f64, burst: u32) -> (Limiter, Time) {
    (Limiter::new(of_clients(per_client, burst)), Time::default())
}

#[derive(Default)]
struct Time(Cell<Duration>);

impl Time {
    fn now(&self) -> Duration {
        self.0.get()
    }

    fn advance(&self, by: Duration) {
        self.0.set(self.0.get() + by);
    }
}

fn client(n: u32) -> IpAddr {
    std::net::Ipv4Addr::from(n).into()
}

/// How many requests at once are let through.
fn burst(limiter: &Limiter, clock: &Time, who: IpAddr) -> u32 {
    (0..1_000_000).take_while(|_| limiter.take(who, clock.now()).is_ok()).count() as u32
}

#[test]
fn a_burst_and_then_the_rate() {
    let (limiter, clock) = limiter(100.0, 200);
    clock.advance(Duration::from_secs(1000));
    assert_eq!(burst(&limiter, &clock, client(1)), 200);
    assert_eq!(burst(&limiter, &clock, client(2)), 200, "another client has its own");
    clock.advance(Duration::from_millis(101));
    assert_eq!(burst(&limiter, &clock, client(1)), 10);
    let wait = limiter.take(client(1), clock.now()).unwrap_err();
    assert!(wait <= Duration::from_millis(10), "{wait:?}");
    clock.advance(wait + Duration::from_micros(1));
    assert_eq!(burst(&limiter, &clock, client(1)), 1);
    clock.advance(Duration::from_secs(7));
    assert_eq!(burst(&limiter, &clock, client(1)), 200);
}

#[test]
fn slow_and_fast_limits() {
    let (limiter, clock) = limiter(0.001, 1);
    assert_eq!(burst(&limiter, &clock, client(1)), 1);
    clock.advance(Duration::from_secs(999));
    assert_eq!(burst(&limiter, &clock, client(1)), 0);
    clock.advance(Duration::from_secs(2));
    assert_eq!(burst(&limiter, &clock, client(1)), 1);
    let (limiter, clock) = self::limiter(1e6, 100_000);
    assert_eq!(burst(&limiter, &clock, client(1)), 100_000);
    clock.advance(Duration::from_millis(1));
    assert!((990..1010).contains(&burst(&limiter, &clock, client(1))));
}

#[test]
fn a_client_of_ipv6_is_its_network() {
    let (limiter, clock) = limiter(1.0, 3);
    let who = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, last]);
    assert!((0..3).all(|last| limiter.take(who(last), clock.now()).is_ok()));
    assert!(limiter.take(who(9), clock.now()).is_err());
    assert!(limiter.take(IpAddr::from([0x2001, 0xdb8, 0, 8, 0, 0, 0, 1]), clock.now()).is_ok());
}

#[test]
fn strangers_without_number_push_out_those_who_used_least() {
    let (limiter, clock) = limiter(0.01, 50);
    assert_eq!(burst(&limiter, &clock, client(1)), 50);
    for n in 0..300_000 {
        let _ = limiter.take(client(1000 + n), clock.now());
    }
    assert!(limiter.take(client(1), clock.now()).is_err(), "who used its whole burst is remembered");
}

#[test]
fn workers_together_let_no_more_through() {
    let (limiter, clock) = limiter(0.01, 1000);
    let now = clock.now();
    let through: usize = std::thread::scope(|scope| {
        let count = || (0..2000).filter(|_| limiter.take(client(5), now).is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(through, 1000);
}

proptest! {
    #[test]
    fn never_more_than_burst_and_rate_and_never_less(
        per_client in 0.5f64..1000.0,
        size in 1u32..500,
        steps in prop::collection::vec(0u64..2000, 1..300),
    ) {
        let (limiter, clock) = limiter(per_client, size);
        // A token bucket as everybody writes it.
        let mut tokens = f64::from(size);
        for millis in steps {
            clock.advance(Duration::from_millis(millis));
            tokens = (tokens + millis as f64 * per_client / 1000.0).min(f64::from(size));
            let passes = limiter.take(client(9), clock.now()).is_ok();
            // Ticks round; within a hundredth of a request both are right.
            prop_assert!(!passes || tokens >= 0.99, "{tokens}");
            prop_assert!(passes || tokens < 1.01, "{tokens}");
            tokens = if passes { (tokens - 1.0).max(0.0) } else { tokens };
        }
    }
}

#[test]
fn all_clients_together_have_a_limit_of_their_own() {
    let service = Some(Rate { per_second: 1.0, burst: 10 });
    let limiter = Limiter::new(RateLimit { service, ..of_clients(0.1, 4) });
    let clock = Time::default();
    assert_eq!(burst(&limiter, &clock, client(1)), 4);
    assert_eq!(burst(&limiter, &clock, client(2)), 4);
    assert_eq!(burst(&limiter, &clock, client(3)), 2, "the service's ten are used up");
    clock.advance(Duration::from_secs(2));
    assert_eq!(
        burst(&limiter, &clock, client(3)),
        2,
        "what the service refused is not held against the client"
    );
    clock.advance(Duration::from_secs(10));
    assert_eq!(burst(&limiter, &clock, client(3)), 1, "its own limit still counts");
}

#[test]
fn what_was_used_outlives_a_revision_that_leaves_the_limit() {
    let services = |per_client: f64| {
        let mut service = crate::proxy::fixture::service("web", &[]);
        service.rate_limit = Some(of_clients(per_client, 1));
        let name = service.name.clone();
        (Services { services: [(name.clone(), Arc::new(service))].into(), ..Services::default() }, name)
    };
    let limiters = Limiters::default();
    let (present, name) = services(0.1);
    let first = limiters.of(&present)[&name].clone();
    assert!(Arc::ptr_eq(&first, &limiters.of(&services(0.1).0)[&name]));
    assert!(!Arc::ptr_eq(&first, &limiters.of(&services(0.2).0)[&name]));
    assert!(limiters.of(&Services::default()).is_empty());
}

#[test]
fn clients_are_known_while_they_have_used_of_their_burst() {
    let (limiter, time) = limiter(10.0, 5);
    assert_eq!(limiter.tracked(time.now()), Some(0));
    for n in 0..100 {
        limiter.take(client(n), time.now()).unwrap();
    }
    let known = limiter.tracked(time.now()).unwrap();
    assert!((95..=100).contains(&known), "{known}");
    time.advance(Duration::from_secs(2));
    assert_eq!(limiter.tracked(time.now()), Some(0));
    assert_eq!(Limiter::new(RateLimit { per_client: None, service: None }).tracked(time.now()), None);
}
