//! The decoders of this crate, and of `dns` as this crate uses it, by name, with golden bytes: for the fuzz targets
//! (`cfg(fuzzing)`) and for the test below. In no other build.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dns::{
    Clerk, Moment, NodeState, Policy, RecordSpec, RegionSpec, RegionState, Responder, ServiceState, Signing,
    SigningKey, State, SteerSpec, Table, TableSpec, Transport, Verdict, ZoneFile, ZoneSpec,
};
use gossip::clock::{Clock, Wall};

use crate::admin::{events, reports, traffic};
use crate::config::node_file::{self, Machine, NodeOverrides};
use crate::config::{Report, services};
use crate::discovery::fuzzing as sources;
use crate::proxy::fuzzing as proxy;
pub use proxy::{client_hello, proxy_header, tunnel_preface};

/// A decoder's name, the decoder, and its golden bytes.
pub type Decoder = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub const DECODERS: [Decoder; 17] = [
    ("tunnel-preface", tunnel_preface, proxy::tunnel_preface_golden),
    ("proxy-header", proxy_header, proxy::proxy_header_golden),
    ("client-hello", client_hello, proxy::client_hello_golden),
    ("dns", dns_message, dns_golden),
    ("dns-signed", signed_dns_message, signed_dns_golden),
    ("zone-file", zone_file, || vec![ZONE.into()]),
    ("services", services_file, || vec![SERVICES.into()]),
    ("node", node_file, || vec![NODE.into()]),
    ("report", report, report_golden),
    ("scale", scale, crate::scale::wire::golden),
    ("claims", claims, crate::discovery::wire::golden),
    ("traffic", traffic, traffic_golden),
    ("backend-list", backend_list, sources::list_golden),
    ("endpoint-slices", endpoint_slices, sources::endpoints_golden),
    ("containers", containers, sources::containers_golden),
    ("events", events, events::golden),
    ("stored-events", stored_events, events::file_golden),
];

const SERVICES: &str = include_str!("../../deploy/examples/services.toml");
const NODE: &str = include_str!("../../deploy/examples/node.toml");

const ZONE: &str = "$ORIGIN example.com.\n$TTL 1h\n@ SOA ns1 host ( 1 ; serial\n 1d 2h 4w 5m )\n NS ns1\nns1 60 IN A 192.0.2.1\n\
    a.b TXT \"a \\\"b\\\" \\065\" c\n TYPE65280 \\# 3 0a 0b0c\n@ HTTPS 1 . alpn=\"h2,h3\" port=8443\n CAA 0 issue \"ca.example\"\n";

/// What nodes tell each other of backends; what is read is written the same.
pub fn claims(bytes: &[u8]) {
    use crate::discovery::wire;
    if let Some(message) = wire::decode(bytes) {
        assert!(wire::encode(&message).and_then(|bytes| wire::decode(&bytes)) == Some(message));
    }
}

/// What nodes tell each other of load and of decisions.
pub fn scale(bytes: &[u8]) {
    assert!(crate::scale::wire::is_stable(bytes));
}

/// A list of backends in a file that somebody else writes.
pub fn backend_list(bytes: &[u8]) {
    sources::list(bytes);
}

/// What the API of a Kubernetes cluster says of a service.
pub fn endpoint_slices(bytes: &[u8]) {
    sources::endpoints(bytes);
}

/// What a Docker Engine says.
pub fn containers(bytes: &[u8]) {
    sources::containers(bytes);
}

/// A zone file.
pub fn zone_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let parsed = ZoneFile::parse("example.com", &text, Duration::from_secs(30));
    for fault in parsed.errors.iter().chain(&parsed.warnings) {
        assert!(text.get(fault.span.clone()).is_some() && fault.line >= 1 && fault.column >= 1);
    }
    let zone = ZoneSpec {
        name: "example.com".into(),
        contact: "hostmaster@example.com".into(),
        ttl: Duration::from_secs(30),
        file: Some(Arc::new(parsed.file)),
        ..ZoneSpec::default()
    };
    let spec = TableSpec { serial: 1, zones: vec![zone], regions: Vec::new() };
    for fault in Table::build(&spec).err().unwrap_or_default() {
        assert!(!fault.message.is_empty());
    }
}

/// A DNS message, over UDP and over TCP.
pub fn dns_message(bytes: &[u8]) {
    thread_local! {
        static CLERK: RefCell<Clerk> = RefCell::new(responder(None).clerk());
    }
    CLERK.with_borrow_mut(|clerk| answer(clerk, bytes, moment()));
}

/// The same to a signed zone. Time goes on, or the bound on signatures would soon be all that is met.
pub fn signed_dns_message(bytes: &[u8]) {
    thread_local! {
        static CLERK: RefCell<(Clerk, u64)> = RefCell::new((signing().clerk(), 0));
    }
    CLERK.with_borrow_mut(|(clerk, asked)| {
        *asked += 1;
        let Moment { monotonic, unix } = moment();
        let now = Moment { monotonic: monotonic + Duration::from_millis(*asked), unix: unix + *asked };
        answer(clerk, bytes, now);
    });
}

fn answer(clerk: &mut Clerk, bytes: &[u8], now: Moment) {
    let from = SocketAddr::from(([198, 18, 0, 1], 5353));
    let mut out = Vec::new();
    for (transport, most) in [(Transport::Udp, 4096), (Transport::Tcp, 65_535)] {
        match clerk.respond(bytes, from, transport, now, &mut out) {
            Verdict::Drop => assert!(bytes.len() < 12 || bytes[2] & 0x80 != 0),
            Verdict::Reply(_) => {
                assert!((12..=most).contains(&out.len()) && out[..2] == bytes[..2] && out[2] & 0x80 != 0);
                // What is sent is an answer, which nobody answers in turn.
                let answer = std::mem::take(&mut out);
                assert_eq!(clerk.respond(&answer, from, transport, now, &mut out), Verdict::Drop);
            }
        }
    }
}

/// Always the same.
fn moment() -> Moment {
    static NOW: OnceLock<Instant> = OnceLock::new();
    Moment { monotonic: *NOW.get_or_init(|| Clock::simulated(Wall(0)).now()), unix: 0 }
}

/// A `services.toml`.
pub fn services_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let report = match services::parse("services.toml", &text) {
        Ok(valid) => valid.warnings,
        Err(report) => {
            assert!(report.has_errors());
            report
        }
    };
    look_at(&report, &text);
}

/// A `node.toml`.
pub fn node_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let machine = Machine { host_name: "host-7".into(), data: "/var/lib/meridian".into() };
    let report = match node_file::parse("node.toml", &text, &NodeOverrides::default(), &machine) {
        Ok(valid) => valid.warnings,
        Err(report) => {
            assert!(report.has_errors());
            report
        }
    };
    look_at(&report, &text);
}

/// A node's report to another.
pub fn report(bytes: &[u8]) {
    if let Some(report) = reports::decode(bytes) {
        assert_eq!(reports::decode(&reports::encode(&report)), Some(report));
    }
}

/// What a node tells another of its traffic.
pub fn traffic(bytes: &[u8]) {
    if let Some(account) = traffic::decode(bytes) {
        assert_eq!(traffic::decode(&traffic::encode(&account)), Some(account));
    }
}

/// What a node tells another of what it saw.
pub fn events(bytes: &[u8]) {
    if let Some(told) = events::decode(bytes) {
        assert_eq!(events::decode(&events::encode(&told)), Some(told));
    }
}

/// The events of before, in the data folder.
pub fn stored_events(bytes: &[u8]) {
    if let Some(kept) = events::decode_file(bytes) {
        assert_eq!(events::encode_file(&kept).and_then(|bytes| events::decode_file(&bytes)), Some(kept));
    }
}

fn look_at(report: &Report, text: &str) {
    assert!(report.entries().len() <= Report::MAX_ENTRIES + 1);
    let lines = text.split('\n').count();
    assert!(report.entries().iter().all(|entry| entry.file.is_some() || entry.line <= lines));
    assert!(!report.render(false).contains('\u{1b}'));
}

/// With a key of its own, which no golden bytes depend on.
fn signing() -> Responder {
    let key = SigningKey::generate().and_then(|secret| SigningKey::from_pkcs8(&secret)).expect("a key");
    responder(Some(Signing { keys: vec![key], all_sign: false, ..Signing::default() }))
}

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
    let zone = ZoneSpec {
        name: "lb.example.com".into(),
        nameservers: vec![("ns1".into(), vec![[198, 51, 100, 10].into()])],
        contact: "hostmaster@example.com".into(),
        ttl: Duration::from_secs(30),
        steers: vec![steer("www", Policy::Nearest), steer("*.any", Policy::Weighted)],
        file: None,
        records: vec![
            record("@", "MX", "10 mail.example.com."),
            record("@", "TXT", "\"v=spf1 -all\""),
            record("alias", "CNAME", "www"),
            record("*.wild", "A", "192.0.2.9"),
            record("child", "NS", "ns.child"),
            record("ns.child", "A", "192.0.2.53"),
        ],
        signed,
    };
    let regions = [("eu", 50.0, 8.0, "10.1.0.0/16"), ("us", 38.0, -77.0, "10.2.0.0/16")];
    let region = |(name, latitude, longitude, prefix): &(&str, f64, f64, &str)| RegionSpec {
        name: (*name).into(),
        location: Some((*latitude, *longitude)),
        prefixes: prefix.parse().into_iter().collect(),
    };
    let spec = TableSpec { serial: 42, zones: vec![zone], regions: regions.iter().map(region).collect() };
    let responder = Responder::new(Table::build(&spec).expect("a table without faults"), 7);
    let state = |number: u8| RegionState {
        services: [("web".to_owned(), ServiceState { healthy: true, free: 100, load_permille: 0 })].into(),
        nodes: vec![NodeState {
            name: format!("n-{number}"),
            addresses: vec![[127, number, 0, 1].into(), [127, number, 0, 2].into()],
            weight: 100,
        }],
        last_resort: Vec::new(),
    };
    let regions = [("eu".to_owned(), state(1)), ("us".to_owned(), state(2))].into();
    responder.set_state(Arc::new(State { own_region: "us".into(), regions, ..State::default() }));
    responder
}

/// Queries: a steered name, one with a client's subnet (RFC 7871 §6), one with a cookie (RFC 7873 §4), a static name, a
/// delegation, a name in another zone, an opcode nobody knows.
fn dns_golden() -> Vec<Vec<u8>> {
    let query = |flags: [u8; 2], name: &[&[u8]], kind: u8, options: Option<&[u8]>| {
        let mut bytes =
            vec![0xab, 0xcd, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, u8::from(options.is_some())];
        for label in name {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label);
        }
        bytes.extend([0, 0, kind, 0, 1]);
        if let Some(options) = options {
            bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, options.len() as u8]);
            bytes.extend_from_slice(options);
        }
        bytes
    };
    let zone: [&[u8]; 3] = [b"lb", b"example", b"com"];
    let of = |label: &'static [u8]| [&[label][..], &zone].concat();
    let asks = [1, 0];
    vec![
        query(asks, &of(b"www"), 1, None),
        query(asks, &of(b"www"), 28, Some(&[])),
        query(asks, &of(b"www"), 1, Some(&[0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 0])),
        query(asks, &of(b"www"), 255, Some(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])),
        query(asks, &of(b"alias"), 1, Some(&[0, 3, 0, 0])),
        query(asks, &[&[&b"a"[..], b"any"], &zone[..]].concat(), 1, None),
        query(asks, &[&[&b"a"[..], b"wild"], &zone[..]].concat(), 1, None),
        query(asks, &[&[&b"a"[..], b"child"], &zone[..]].concat(), 1, None),
        query(asks, &zone, 6, None),
        query(asks, &zone, 15, None),
        query(asks, &[b"www", b"example", b"net"], 1, None),
        query([0x29, 0], &zone, 1, None),
        query([0x01, 0], &[], 2, None),
    ]
}

/// The same questions with EDNS behind them, DO and CO set.
fn signed_dns_golden() -> Vec<Vec<u8>> {
    let plain = dns_golden().into_iter().filter(|query| query[11] == 0 && query[5] == 1);
    let flagged = plain.flat_map(|query| {
        [0x80, 0xc0].map(|flags| {
            let mut query = query.clone();
            query[11] = 1;
            query.extend([0, 0, 41, 4, 0xd0, 0, 0, flags, 0, 0, 0]);
            query
        })
    });
    flagged.collect()
}

fn traffic_golden() -> Vec<Vec<u8>> {
    let full = [
        &[1, 1, b'n', 2, b'e', b'u'][..],
        &[1, 3, 1, 251, 44, 1, 2, 0, 2],
        &[1, 3, b'w', b'e', b'b', 9, 1, 2, 252, 112, 17, 1, 0],
        &[1, 253, 2, 0, 192, 0, 0, 0, 0, 64, 5, 1, 10, 0],
        &[4, 0],
    ];
    vec![full.concat(), vec![1, 0, 0, 0, 0, 0, 0, 0]]
}

fn report_golden() -> Vec<Vec<u8>> {
    vec![vec![2, 1, 7, 3, 251, 44, 1, 1, 2, b'n', b'o'], vec![2, 0, 0]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_are_read() {
        assert!(services::parse("services.toml", SERVICES).is_ok());
        let answered = |bytes: &Vec<u8>| {
            let mut out = Vec::new();
            let from = SocketAddr::from(([198, 18, 0, 1], 5353));
            match responder(None).clerk().respond(bytes, from, Transport::Udp, moment(), &mut out) {
                Verdict::Reply(rcode) => rcode.0,
                Verdict::Drop => panic!("{bytes:02x?} is dropped"),
            }
        };
        let rcodes: Vec<_> = dns_golden().iter().map(answered).collect();
        assert_eq!(rcodes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 4, 5]);
        assert!(report_golden().iter().all(|bytes| reports::decode(bytes).is_some()));
        assert!(traffic_golden().iter().all(|bytes| traffic::decode(bytes).is_some()));
    }

    #[test]
    fn changed_golden_bytes_are_survived() {
        mutate::survive(&DECODERS, |name| match name {
            // The tree of a file, every value with its place, and a report that quotes it.
            "services" | "node" => mutate::Room { bytes: 4 << 20, times: 400 },
            // serde makes room for up to a megabyte of announced items before it reads the first.
            "report" | "traffic" | "scale" | "claims" | "events" | "stored-events" => {
                mutate::Room { bytes: 3 << 20, times: 64 }
            }
            // An answer may be as long as a message can be.
            "dns" => mutate::Room { bytes: 512 << 10, times: 64 },
            // And the table of signatures is made with the first.
            "dns-signed" => mutate::Room { bytes: 2 << 20, times: 64 },
            _ => mutate::Room { bytes: 64 << 10, times: 64 },
        });
    }
}
