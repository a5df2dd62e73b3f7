//! What the tests of several modules share: a zone, a mesh of three regions, queries, and a reader of answers that is
//! hickory's whole message parser, which the encoder does not use.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::serialize::binary::BinEncodable;

use crate::moment::Moment;
use crate::name::Name;
use crate::responder::{Responder, Transport, Verdict};
use crate::spec::{Policy, RecordSpec, RegionSpec, SteerSpec, TableSpec, ZoneSpec};
use crate::state::{NodeState, RegionState, ServiceState, State};
use crate::table::Table;
use crate::wire::{Rcode, kind_from_text};

pub(crate) const RESOLVER: &str = "198.18.0.1:5353";

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant has no other source; only differences to it matter"
)]
pub(crate) fn start() -> Moment {
    Moment { monotonic: Instant::now(), unix: 1_800_000_000 }
}

/// GeoIP databases, when the surroundings of the workspace hold some.
pub(crate) fn geoip_databases() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/geoip");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no GeoIP test databases in {}", folder.display());
    None
}

pub(crate) fn record(name: &str, kind: &str, value: &str) -> RecordSpec {
    RecordSpec { name: name.into(), kind: kind.into(), value: value.into(), ttl: None }
}

pub(crate) fn steer(label: &str, policy: Policy, answers: usize) -> SteerSpec {
    SteerSpec { label: label.into(), service: "web".into(), policy, answers, shed: None }
}

pub(crate) fn zone_spec() -> ZoneSpec {
    ZoneSpec {
        name: "lb.example.com".into(),
        nameservers: vec![
            ("ns1".into(), vec!["198.51.100.10".parse().unwrap(), "2001:db8::53".parse().unwrap()]),
            ("ns2".into(), vec!["203.0.113.10".parse().unwrap()]),
        ],
        contact: "host.master@example.com".into(),
        ttl: Duration::from_secs(30),
        steers: vec![
            steer("www", Policy::Nearest, 2),
            steer("*.any", Policy::Nearest, 1),
            steer("pair", Policy::Failover(vec!["us".into(), "ap".into()]), 8),
            steer("even", Policy::Weighted, 1),
            steer("fast", Policy::Latency, 1),
        ],
        file: None,
        records: vec![
            RecordSpec { ttl: Some(Duration::from_secs(3600)), ..record("@", "MX", "10 mail.example.com.") },
            record("@", "TXT", "\"v=spf1 -all\""),
            record("www", "TXT", "beside a steered name"),
            record("alias", "CNAME", "www"),
            record("chain", "CNAME", "alias"),
            record("out", "CNAME", "www.example.net."),
            record("dangling", "CNAME", "missing"),
            record("host.deep", "A", "192.0.2.1"),
            record("host.deep", "A", "192.0.2.2"),
            record("*.wild", "A", "192.0.2.9"),
            record("there.wild", "TXT", "no address"),
            record("*.aliases", "CNAME", "host.deep"),
            record("child", "NS", "ns.child"),
            record("child", "NS", "ns.example.net."),
            record("ns.child", "A", "192.0.2.53"),
            record("svc", "HTTPS", "1 . alpn=h2"),
            record("odd", "TYPE65280", r"\# 3 0a0b0c"),
        ],
        signed: None,
    }
}

pub(crate) fn region(name: &str, latitude: f64, longitude: f64, prefix: &str) -> RegionSpec {
    RegionSpec {
        name: name.into(),
        location: Some((latitude, longitude)),
        prefixes: vec![prefix.parse().unwrap()],
    }
}

pub(crate) fn table_spec() -> TableSpec {
    TableSpec {
        serial: 42,
        zones: vec![zone_spec()],
        regions: vec![
            region("eu", 50.11, 8.68, "10.1.0.0/16"),
            region("us", 38.95, -77.45, "10.2.0.0/16"),
            region("ap", 35.68, 139.69, "10.3.0.0/16"),
        ],
    }
}

pub(crate) fn table() -> Table {
    Table::build(&table_spec()).unwrap()
}

pub(crate) fn node(name: &str, addresses: &[&str]) -> NodeState {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    NodeState { name: name.into(), addresses, weight: 100 }
}

/// Three healthy regions of two nodes, 127.R.0.N; only eu's have IPv6.
pub(crate) fn state() -> State {
    let region = |number: usize, v6: bool| {
        let nodes = (1..=2).map(|index| {
            let v4 = format!("127.{number}.0.{index}");
            let v6 = v6.then(|| format!("2001:db8:{number}::{index}"));
            let addresses: Vec<&str> = std::iter::once(v4.as_str()).chain(v6.as_deref()).collect();
            node(&format!("{number}-{index}"), &addresses)
        });
        let web = ServiceState { healthy: true, free: 100, load_permille: 0 };
        RegionState {
            services: [("web".to_owned(), web)].into(),
            nodes: nodes.collect(),
            last_resort: Vec::new(),
        }
    };
    State {
        own_region: "us".into(),
        regions: [
            ("eu".to_owned(), region(1, true)),
            ("us".to_owned(), region(2, false)),
            ("ap".to_owned(), region(3, false)),
        ]
        .into(),
        ..State::default()
    }
}

pub(crate) fn responder() -> Responder {
    let responder = Responder::new(table(), 7);
    responder.set_state(state().into());
    responder
}

/// A query, byte by byte, so that it can be as wrong as a test wants it.
#[derive(Debug, Clone)]
pub(crate) struct QueryBytes {
    pub(crate) flags: u16,
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) opt: Option<Opt>,
}

#[derive(Debug, Clone)]
pub(crate) struct Opt {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) flags: u16,
    pub(crate) options: Vec<u8>,
}

impl QueryBytes {
    pub(crate) fn new(name: &str, kind: &str) -> Self {
        Self {
            flags: 0x0100,
            name: Name::parse_absolute(name).unwrap().wire().to_vec(),
            kind: kind_from_text(kind).unwrap().0,
            class: 1,
            opt: None,
        }
    }

    pub(crate) fn edns(mut self) -> Self {
        self.opt = Some(Opt { payload: 1232, version: 0, flags: 0, options: Vec::new() });
        self
    }

    /// Adds a client-subnet option, written as it should be.
    pub(crate) fn subnet(self, prefix: &str) -> Self {
        let net: ipnet::IpNet = prefix.parse().unwrap();
        let (family, octets) = match net.network() {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (2, address.octets().to_vec()),
        };
        let bytes = &octets[..usize::from(net.prefix_len()).div_ceil(8)];
        self.subnet_bytes(family, net.prefix_len(), 0, bytes)
    }

    pub(crate) fn subnet_bytes(self, family: u8, source: u8, scope: u8, address: &[u8]) -> Self {
        let mut query = if self.opt.is_some() { self } else { self.edns() };
        let options = &mut query.opt.as_mut().unwrap().options;
        options.extend_from_slice(&[0, 8, 0, 4 + address.len() as u8, 0, family, source, scope]);
        options.extend_from_slice(address);
        query
    }

    pub(crate) fn option(self, code: u16, value: &[u8]) -> Self {
        let mut query = if self.opt.is_some() { self } else { self.edns() };
        let options = &mut query.opt.as_mut().unwrap().options;
        options.extend_from_slice(&code.to_be_bytes());
        options.extend_from_slice(&(value.len() as u16).to_be_bytes());
        options.extend_from_slice(value);
        query
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd];
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.opt.is_some())]);
        bytes.extend_from_slice(&self.name);
        bytes.extend_from_slice(&self.kind.to_be_bytes());
        bytes.extend_from_slice(&self.class.to_be_bytes());
        if let Some(opt) = &self.opt {
            bytes.extend_from_slice(&[0, 0, 41]);
            bytes.extend_from_slice(&opt.payload.to_be_bytes());
            bytes.extend_from_slice(&[0, opt.version]);
            bytes.extend_from_slice(&opt.flags.to_be_bytes());
            bytes.extend_from_slice(&(opt.options.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&opt.options);
        }
        bytes
    }
}

/// An answer as hickory reads it.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) message: Message,
    pub(crate) bytes: Vec<u8>,
}

impl Read {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { message: Message::from_vec(&bytes).unwrap(), bytes }
    }

    pub(crate) fn rcode(&self) -> Rcode {
        Rcode(u16::from(self.message.metadata.response_code))
    }

    /// `NAME TYPE TTL DATA` of the answer section, sorted.
    pub(crate) fn answers(&self) -> Vec<String> {
        Self::lines(&self.message.answers)
    }

    pub(crate) fn authority(&self) -> Vec<String> {
        Self::lines(&self.message.authorities)
    }

    pub(crate) fn additional(&self) -> Vec<String> {
        Self::lines(&self.message.additionals)
    }

    fn lines(records: &[hickory_proto::rr::Record]) -> Vec<String> {
        let mut lines: Vec<String> = records
            .iter()
            .map(|record| format!("{} {} {} {}", record.name, record.record_type(), record.ttl, record.data))
            .collect();
        lines.sort();
        lines
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
    }

    pub(crate) fn has(&self, kind: RecordType) -> bool {
        self.message.answers.iter().any(|record| record.record_type() == kind)
    }

    /// The bytes of the client-subnet option.
    pub(crate) fn subnet(&self) -> Option<Vec<u8>> {
        let option = self.message.edns.as_ref()?.option(EdnsCode::Subnet)?;
        option.to_bytes().ok()
    }
}

pub(crate) fn ask_bytes(responder: &Responder, query: &[u8], transport: Transport) -> Option<Read> {
    let mut out = Vec::new();
    let from: SocketAddr = RESOLVER.parse().unwrap();
    match responder.clerk().respond(query, from, transport, start(), &mut out) {
        Verdict::Drop => None,
        Verdict::Reply(rcode) => {
            let read = Read::new(out);
            assert_eq!(read.rcode(), rcode);
            Some(read)
        }
    }
}

pub(crate) fn ask(responder: &Responder, query: &QueryBytes) -> Read {
    ask_bytes(responder, &query.bytes(), Transport::Udp).unwrap()
}
