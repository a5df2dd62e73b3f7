use gossip::clock::{Clock, Hlc, Wall};
use proptest::prelude::*;

use super::*;
use crate::config::model::{FileSpec, LeaseRule};
use crate::discovery::claims::tests::key;
use crate::discovery::claims::{Answer, Failing};
use crate::registry::fixture::{node, pool, region, services};

const DRAIN: Duration = Duration::from_secs(30);

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

fn found(n: u8) -> Found {
    Found::at(address(n), region("eu"))
}

/// One static backend, .1; a file, two Docker engines and leases add to it.
fn configured() -> Services {
    let mut pool = pool("web", &[("10.0.0.1:80", "eu")]);
    pool.sources = vec![
        SourceSpec::File(FileSpec { path: "f".into(), region: None }),
        SourceSpec::Docker(crate::config::model::DockerSpec {
            label: "a=b".into(),
            network: None,
            published: false,
        }),
    ];
    pool.lease = Some(LeaseRule { ttl: Duration::from_secs(15) });
    pool.drain = DRAIN;
    services(&["eu"], vec![pool])
}

struct World {
    services: Services,
    claims: Claims,
    living: BTreeSet<NodeName>,
    roster: Roster,
    clock: Clock,
    version: u64,
}

impl World {
    fn new() -> Self {
        Self {
            services: configured(),
            claims: Claims::default(),
            living: [node("n-1"), node("n-2")].into(),
            roster: Roster::new("127.0.0.1:7900".parse().unwrap()),
            clock: Clock::simulated(Wall(1)),
            version: 0,
        }
    }

    fn says(&mut self, kind: SourceKind, of: &str, found: Vec<Found>, failing: bool) {
        let scope = if kind == SourceKind::File { "f" } else { "a=b" };
        self.version += 1;
        let failing = failing.then(|| Failing { since: Wall(1), error: "no".into() });
        let answer = Answer { found, failing, lease: None };
        let claim = Claim { version: Hlc(self.version), by: node(of), answer };
        self.claims.merge(key(kind, scope, Some(of)), claim);
    }

    fn update(&mut self) -> Changes {
        self.roster.update(&self.services, &self.claims, &self.living, self.clock.now())
    }

    /// The last part of each address, with a mark on those that leave.
    fn members(&self) -> Vec<(u8, bool)> {
        let config = self.services.pools["web"].clone();
        let pool = self.roster.pools().get("web").cloned().unwrap_or(config);
        let last = |address: SocketAddr| match address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        pool.backends.iter().map(|backend| (last(backend.address), backend.leaving)).collect()
    }
}

#[test]
fn sources_add_to_the_file_and_say_so() {
    let mut world = World::new();
    world.update();
    assert!(world.roster.pools().is_empty(), "a pool without anything found is the configuration's own");
    world.says(SourceKind::File, "n-1", vec![found(1), found(2)], false);
    let joined = world.update().joined;
    let pool = world.roster.pools()["web"].clone();
    let sources: Vec<String> = pool.backends.iter().map(|backend| backend.sources.to_string()).collect();
    assert_eq!(sources, ["static,file", "file"]);
    assert_eq!(joined.len(), 1, "the first was there before");
    assert_eq!(world.update(), Changes::default());
    assert!(Arc::ptr_eq(&pool, &world.roster.pools()["web"]), "what does not change is shared");
}

#[test]
fn what_is_named_no_more_drains_and_then_goes() {
    let mut world = World::new();
    world.says(SourceKind::File, "n-1", vec![found(2)], false);
    world.update();
    world.says(SourceKind::File, "n-1", vec![], false);
    assert_eq!(world.update().leaving, [("web".parse().unwrap(), address(2))]);
    assert_eq!(world.members(), [(1, false), (2, true)]);
    assert_eq!(world.roster.next_deadline(), Some(world.clock.now() + DRAIN));
    world.clock.advance(DRAIN / 2);
    world.says(SourceKind::File, "n-1", vec![found(2)], false);
    world.update();
    assert_eq!(world.members(), [(1, false), (2, false)], "it has come back in time");
    world.says(SourceKind::File, "n-1", vec![], false);
    world.update();
    world.clock.advance(DRAIN);
    assert_eq!(world.update().left.len(), 1);
    assert_eq!(world.members(), [(1, false)]);
}

#[test]
fn what_is_gone_for_certain_goes_at_once() {
    let mut world = World::new();
    world.says(SourceKind::Docker, "n-1", vec![found(2), found(3)], false);
    world.update();
    let gone = Found { standing: Standing::Gone, ..found(2) };
    let leaving = Found { standing: Standing::Leaving, ..found(3) };
    world.says(SourceKind::Docker, "n-1", vec![gone, leaving], false);
    world.update();
    assert_eq!(world.members(), [(1, false), (3, true)]);
}

#[test]
fn no_failure_and_no_death_takes_a_backend_away() {
    let mut world = World::new();
    world.says(SourceKind::File, "n-1", vec![found(2)], false);
    world.says(SourceKind::File, "n-2", vec![found(2), found(3)], false);
    world.says(SourceKind::Docker, "n-2", vec![found(4)], false);
    world.update();
    let all = [(1, false), (2, false), (3, false), (4, false)];
    assert_eq!(world.members(), all);
    world.says(SourceKind::File, "n-2", vec![found(2), found(3)], true);
    world.says(SourceKind::File, "n-1", vec![found(2)], true);
    world.update();
    assert_eq!(world.members(), all, "nobody can say: all last answers stand");
    world.living = [node("n-1")].into();
    world.update();
    assert_eq!(world.members(), all, "a death changes nothing");
    world.says(SourceKind::File, "n-1", vec![found(2)], false);
    world.update();
    assert_eq!(
        world.members(),
        [(1, false), (2, false), (3, true), (4, false)],
        "a good answer of the living replaces the word of the dead; containers stay: nobody else sees them"
    );
}

/// Who speaks for a source could else hand the node over to its users: on loopback the admin API asks for no token.
#[test]
fn no_source_leads_to_the_nodes_own_admin_port() {
    let mut world = World::new();
    let at = |address: &str| Found::at(address.parse().unwrap(), region("eu"));
    let both = vec![at("127.0.0.1:7900"), at("[::ffff:127.0.0.1]:7900"), at("127.0.0.9:7900"), found(2)];
    for kind in [SourceKind::File, SourceKind::Docker] {
        world.says(kind, "n-1", both.clone(), false);
    }
    world.update();
    let pool = world.roster.pools()["web"].clone();
    let addresses: Vec<String> = pool.backends.iter().map(|backend| backend.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1:80", "10.0.0.2:80", "127.0.0.9:7900"]);
}

#[test]
fn what_the_configuration_does_not_name_does_not_count() {
    let mut world = World::new();
    world.says(SourceKind::Kubernetes, "n-1", vec![found(9)], false);
    world.update();
    assert_eq!(world.members(), [(1, false)]);
}

proptest! {
    /// Whatever sources say and whoever dies: a backend leaves only because a good answer says so, and then drains first.
    #[test]
    fn errors_never_empty_a_pool(
        steps in prop::collection::vec((0..2_u8, any::<bool>(), any::<bool>(), 0..16_u8, 0..4_u8), 1..40),
    ) {
        let mut world = World::new();
        for (by, docker, fails, which, living) in steps {
            let of = format!("n-{}", by + 1);
            let kind = if docker { SourceKind::Docker } else { SourceKind::File };
            let before = world.members();
            let scope = if docker { "a=b" } else { "f" };
            let list = match fails {
                true => world.claims.get(&key(kind, scope, Some(&of))).map(|c| c.answer.found.clone()),
                false => Some((0..4).filter(|bit| which & 1 << bit != 0).map(|bit| found(bit + 2)).collect()),
            };
            world.says(kind, &of, list.unwrap_or_default(), fails);
            world.living = (0..2).filter(|bit| living & 1 << bit != 0).map(|bit| node(&format!("n-{}", bit + 1))).collect();
            world.clock.advance(Duration::from_secs(1));
            world.update();
            let after = world.members();
            prop_assert!(after.contains(&(1, false)), "what the file says stays");
            for (n, was_leaving) in before {
                let now = after.iter().find(|(other, _)| *other == n);
                prop_assert!(now.is_some() || was_leaving, "{n} was cut without a drain");
            }
        }
    }
}
