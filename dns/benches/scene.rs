//! What a query costs without its way through the kernel, in a small scene and a large one, and what it costs to change
//! them; and what signatures cost: `cargo bench -p dns`. Prints figures and judges none. Times of changes are the least of several, since others disturb
//! and nobody helps; that of a query is the median of many short stretches, most of which nobody interrupts.

#![allow(clippy::disallowed_methods, reason = "this program measures, and has no clock of its own")]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::{
    Clerk, Moment, NodeState, Policy, RegionSpec, RegionState, Responder, ServiceState, Signing, SigningKey,
    State, SteerSpec, Table, TableSpec, Transport, ZoneSpec,
};
use ipnet::IpNet;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Queries that are asked again and again.
const QUERIES: usize = 100_000;
const ROUNDS: usize = 20;
/// How many are timed together.
const STRETCH: usize = 1000;

struct Size {
    names: usize,
    regions: usize,
    prefixes: usize,
}

fn main() {
    for (name, size) in [
        ("small", Size { names: 1, regions: 3, prefixes: 3 }),
        ("large", Size { names: 10_000, regions: 100, prefixes: 500_000 }),
    ] {
        measure(name, &size);
    }
    measure_signatures();
}

/// The same question with its signature made before, and questions for names that are not there, each of which is signed
/// anew.
fn measure_signatures() {
    let size = Size { names: 1, regions: 3, prefixes: 3 };
    let mut rng = SmallRng::seed_from_u64(7);
    let mut spec = table_spec(&size, &mut rng);
    let secret = SigningKey::generate().expect("randomness");
    let keys = vec![SigningKey::from_pkcs8(&secret).expect("what was made")];
    spec.zones[0].signed = Some(Signing { keys, all_sign: false, ..Signing::default() });
    let responder = Responder::new(Table::build(&spec).expect("a sound specification"), 7);
    responder.set_state(Arc::new(state(&size, 0)));
    let signed = |mut query: Vec<u8>| {
        let flags = query.len() - 15;
        query[flags] = 0x80;
        query
    };
    let known: Vec<Vec<u8>> = (0..QUERIES).map(|_| signed(query(&size, &mut rng))).collect();
    let unsigned: Vec<Vec<u8>> = (0..QUERIES).map(|_| query(&size, &mut rng)).collect();
    // Fewer than a thread may sign in a second.
    let missing: Vec<Vec<u8>> =
        (0..9_000).map(|number| signed(query_for(&format!("missing-{number}"), &mut rng))).collect();
    let rates = [&unsigned, &known, &missing].map(|queries| {
        let (mut clerk, mut out) = (responder.clerk(), Vec::with_capacity(1280));
        median(&mut clerk, queries, if queries.len() == QUERIES { ROUNDS } else { 1 }, &mut out)
    });
    let [unsigned, known, missing] = rates;
    let fresh = responder.counters().snapshot().signed;
    assert!(fresh >= 9_000, "only {fresh} signatures were made");
    println!(
        "signed: {known:?} a query whose signature is there, {unsigned:?} without; {missing:?} for a name that is not \
         there, {:.0} a second; {fresh} signatures made",
        1.0 / missing.as_secs_f64()
    );
}

fn measure(name: &str, size: &Size) {
    let mut rng = SmallRng::seed_from_u64(7);
    let spec = table_spec(size, &mut rng);
    let responder = Responder::new(Table::empty(), 7);
    let built = least(5, |_| {
        let begun = Instant::now();
        let table = Table::build(&spec).expect("a sound specification");
        let built = begun.elapsed();
        responder.set_table(Arc::new(table));
        built
    });
    drop(spec);
    let swapped = least(50, |round| {
        let state = Arc::new(state(size, round));
        let begun = Instant::now();
        responder.set_state(state);
        begun.elapsed()
    });
    let queries: Vec<Vec<u8>> = (0..QUERIES).map(|_| query(size, &mut rng)).collect();
    let (mut clerk, mut out) = (responder.clerk(), Vec::with_capacity(1280));
    let answered = median(&mut clerk, &queries, ROUNDS, &mut out);
    println!(
        "{name}: {} names, {} regions, {} prefixes: built in {built:.0?}, a state swapped in {swapped:.0?}, \
         {answered:?} a query, {} in memory with the queries",
        size.names,
        size.regions,
        size.prefixes,
        resident()
    );
}

/// The time of a query, by the median of stretches.
fn median(clerk: &mut Clerk, queries: &[Vec<u8>], rounds: usize, out: &mut Vec<u8>) -> Duration {
    let from: SocketAddr = "127.0.0.1:5353".parse().expect("an address");
    let now = Moment { monotonic: Instant::now(), unix: 1_800_000_000 };
    let mut stretches: Vec<Duration> = queries
        .chunks(STRETCH)
        .cycle()
        .take(rounds * queries.len() / STRETCH)
        .map(|stretch| {
            let begun = Instant::now();
            for query in stretch {
                black_box(clerk.respond(query, from, Transport::Udp, now, out));
            }
            begun.elapsed() / STRETCH as u32
        })
        .collect();
    stretches.sort_unstable();
    stretches[stretches.len() / 2]
}

fn least(rounds: usize, measured: impl FnMut(usize) -> Duration) -> Duration {
    (0..rounds).map(measured).min().unwrap_or_default()
}

fn table_spec(size: &Size, rng: &mut SmallRng) -> TableSpec {
    let steers = (0..size.names).map(|number| SteerSpec {
        label: format!("n{number}"),
        service: "web".into(),
        policy: Policy::Nearest,
        answers: 1,
        shed: None,
    });
    let zone = ZoneSpec {
        name: "example.com".into(),
        nameservers: vec![("ns1".into(), vec![IpAddr::from([192, 0, 2, 53])])],
        contact: "hostmaster@example.com".into(),
        ttl: Duration::from_secs(30),
        steers: steers.collect(),
        file: None,
        records: Vec::new(),
        ..ZoneSpec::default()
    };
    let mut regions: Vec<RegionSpec> = (0..size.regions)
        .map(|number| RegionSpec {
            name: format!("r{number}"),
            location: Some((rng.random_range(-80.0..80.0), rng.random_range(-170.0..170.0))),
            prefixes: Vec::new(),
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    while seen.len() < size.prefixes {
        let address = IpAddr::from(rng.random::<u32>().to_be_bytes());
        let net = IpNet::new(address, rng.random_range(16..=24)).expect("a length within 32").trunc();
        if seen.insert(net) {
            regions[rng.random_range(0..size.regions)].prefixes.push(net);
        }
    }
    TableSpec { serial: 1, zones: vec![zone], regions }
}

/// All regions healthy but one, four nodes each.
fn state(size: &Size, sick: usize) -> State {
    let region = |number: usize| RegionState {
        services: [("web".to_owned(), ServiceState { healthy: number != sick, free: 100, load_permille: 0 })]
            .into(),
        nodes: (0..4)
            .map(|node| NodeState {
                name: format!("r{number}-{node}"),
                addresses: vec![IpAddr::from([127, number as u8, 0, node])],
                weight: 1,
            })
            .collect(),
        last_resort: Vec::new(),
    };
    State {
        own_region: "r0".into(),
        regions: (0..size.regions).map(|number| (format!("r{number}"), region(number))).collect(),
        ..State::default()
    }
}

/// A name and a client subnet at random.
fn query(size: &Size, rng: &mut SmallRng) -> Vec<u8> {
    query_for(&format!("n{}", rng.random_range(0..size.names)), rng)
}

fn query_for(label: &str, rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, label.len() as u8];
    bytes.extend_from_slice(label.as_bytes());
    bytes.extend_from_slice(b"\x07example\x03com\x00\x00\x01\x00\x01");
    bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0]);
    bytes.extend_from_slice(&rng.random::<u32>().to_be_bytes()[..3]);
    bytes
}

/// What the system says this program holds.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or_else(|| "unknown".to_owned(), |line| line.trim().to_owned())
}
