//! A query costs no allocation: neither its answer nor the way it comes and goes over UDP. Nor does a signed one, once its
//! signatures are made.
//!
//! The allocator of this program counts. One test alone, so that nobody else's allocations are counted with.

#![allow(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]
#![allow(unsafe_code, reason = "an allocator is an unsafe trait; this one hands everything on and counts")]
#![allow(
    clippy::disallowed_methods,
    reason = "an Instant has no other source, and this program has no clock of its own"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dns::{
    Clock, DnsServer, Moment, NodeState, Policy, Rcode, RecordSpec, RegionSpec, RegionState, Responder,
    ServerConfig, ServiceState, Signing, SigningKey, State, SteerSpec, Table, TableSpec, TcpLimits,
    Transport, Verdict, ZoneSpec,
};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system's, which keeps the promises of the trait.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn moment() -> Moment {
    Moment { monotonic: Instant::now(), unix: 1_800_000_000 }
}

fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

const POLICIES: [(&str, Policy); 3] =
    [("near", Policy::Nearest), ("fast", Policy::Latency), ("even", Policy::Weighted)];

fn responder(signed: Option<Signing>) -> Responder {
    let record = |name: &str, kind: &str, value: &str| RecordSpec {
        name: name.into(),
        kind: kind.into(),
        value: value.into(),
        ttl: None,
    };
    let steer = |label: &str, policy| SteerSpec {
        label: label.into(),
        service: "web".into(),
        policy,
        answers: 2,
        shed: None,
    };
    let order = Policy::Failover((0..8).map(|number| format!("r{number}")).collect());
    let mut steers: Vec<SteerSpec> =
        POLICIES.into_iter().map(|(label, policy)| steer(label, policy)).collect();
    steers.push(steer("pair", order));
    let zone = ZoneSpec {
        name: "example.com".into(),
        nameservers: vec![("ns1".into(), vec!["192.0.2.53".parse().unwrap()])],
        contact: "hostmaster@example.com".into(),
        ttl: Duration::from_secs(30),
        steers,
        file: None,
        records: vec![
            record("@", "MX", "10 mail"),
            record("alias", "CNAME", "near"),
            record("*.wild", "TXT", "text"),
            record("child", "NS", "ns.child"),
            record("ns.child", "A", "192.0.2.54"),
        ],
        signed,
    };
    let regions = (0..8).map(|number| RegionSpec {
        name: format!("r{number}"),
        location: Some((f64::from(number) * 10.0, f64::from(number) * 20.0)),
        prefixes: vec![format!("10.{number}.0.0/16").parse().unwrap()],
    });
    let spec = TableSpec { serial: 1, zones: vec![zone], regions: regions.collect() };
    let responder = Responder::new(Table::build(&spec).unwrap(), 7);
    let node = |region: u8, number: u8| NodeState {
        name: format!("{region}-{number}"),
        addresses: vec![IpAddr::from([127, region, 0, number])],
        weight: u32::from(number),
    };
    let region = |number: u8| RegionState {
        services: [("web".to_owned(), ServiceState { healthy: number != 1, free: 100, load_permille: 0 })]
            .into(),
        nodes: (1..=4).map(|node_number| node(number, node_number)).collect(),
        last_resort: Vec::new(),
    };
    let rtt = (0..8).map(|to| (("r0".to_owned(), format!("r{to}")), Duration::from_millis(to)));
    responder.set_state(Arc::new(State {
        own_region: "r0".into(),
        regions: (0..8).map(|number| (format!("r{number}"), region(number))).collect(),
        rtt: rtt.collect(),
        ..State::default()
    }));
    responder
}

/// A query with EDNS and a client subnet in region `octet`; `flags` are the upper ones of EDNS.
fn query(name: &str, kind: u16, octet: u8, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
        .extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, flags, 0, 0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 10, octet, 0]);
    bytes
}

/// Questions of all kinds, and what is wrong.
fn queries(flags: u8) -> Vec<Vec<u8>> {
    let mut queries = Vec::new();
    for octet in [0, 1, 7, 99] {
        for name in ["near", "fast", "even", "pair", "alias", "a.b.wild", "missing", "www.child", "Near"] {
            for kind in [1, 28, 16, 255] {
                queries.push(query(&format!("{name}.example.com"), kind, octet, flags));
            }
        }
        queries.extend([2, 6, 15, 252].map(|kind| query("example.com", kind, octet, flags)));
        queries.push(query("example.net", 1, octet, flags));
    }
    // And what is wrong: cut anywhere.
    let whole = queries[0].clone();
    queries.extend((0..whole.len()).map(|length| whole[..length].to_vec()));
    queries
}

#[test]
fn queries_allocate_nothing() {
    let responder = responder(None);
    let from: SocketAddr = "198.51.100.1:5353".parse().unwrap();
    let now = moment();
    let queries = queries(0);
    let mut clerk = responder.clerk();
    let mut out = Vec::with_capacity(1280);
    let mut seen = std::collections::BTreeMap::new();
    for query in &queries {
        if let Verdict::Reply(rcode) = clerk.respond(query, from, Transport::Udp, now, &mut out) {
            *seen.entry(rcode).or_insert(0) += 1;
        }
    }
    let codes: Vec<Rcode> = seen.into_keys().collect();
    assert_eq!(codes, [Rcode::NOERROR, Rcode::FORMERR, Rcode::NXDOMAIN, Rcode::REFUSED]);
    let before = allocations();
    for query in &queries {
        clerk.respond(query, from, Transport::Udp, now, &mut out);
    }
    assert_eq!(allocations() - before, 0, "for {} answers", queries.len());

    signed_queries_allocate_nothing();

    let config = ServerConfig {
        inherited: Vec::new(),
        listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        udp_threads: 1,
        tcp: TcpLimits::default(),
        tls: None,
        clock: Clock::new(|| moment().monotonic, || moment().unix),
    };
    let server = DnsServer::bind(config, Arc::new(responder)).unwrap();
    for address in server.local_addrs() {
        let socket = UdpSocket::bind((address.ip(), 0)).unwrap();
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let ask = |count: usize| {
            let mut buffer = [0; 2048];
            for query in queries.iter().filter(|query| query.len() >= 12).cycle().take(count) {
                socket.send(query).unwrap();
                socket.recv(&mut buffer).unwrap();
            }
        };
        // The threads of TCP, which may begin only now, allocate at their start: then the next round costs nothing.
        let costs: Vec<u64> = (0..20)
            .map(|_| {
                let before = allocations();
                ask(500);
                allocations() - before
            })
            .collect();
        assert!(costs.contains(&0), "rounds of 500 over UDP, to {address}: {costs:?}");
    }
}

/// Once all signatures are there: each query is asked until no more are made.
fn signed_queries_allocate_nothing() {
    let key = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
    let responder = responder(Some(Signing { keys: vec![key], all_sign: false, ..Signing::default() }));
    let from: SocketAddr = "127.0.0.1:5353".parse().unwrap();
    let now = moment();
    let queries = queries(0x80);
    let mut clerk = responder.clerk();
    let mut out = Vec::with_capacity(1280);
    let mut signed = 0;
    loop {
        for query in queries.iter().cycle().take(50 * queries.len()) {
            clerk.respond(query, from, Transport::Udp, now, &mut out);
        }
        let before = std::mem::replace(&mut signed, responder.counters().snapshot().signed);
        if signed == before {
            break;
        }
    }
    assert!(signed > 50, "{signed}");
    let before = allocations();
    for query in &queries {
        clerk.respond(query, from, Transport::Udp, now, &mut out);
    }
    let allocated = allocations() - before;
    assert_eq!(responder.counters().snapshot().signed, signed, "all were signed before");
    assert_eq!(allocated, 0, "for {} signed answers", queries.len());
}
