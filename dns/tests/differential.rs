//! The same zone in Meridian, Knot and NSD, asked the same 100,000 questions: names in, under, beside and above the zone, all
//! types, EDNS in its variants. The answers are equal section by section but for the choices listed in [`compare`]. Then the
//! same zone file, written in every way there is, in all three.
//!
//! Needs Knot and NSD (`apt-get install knot nsd`); without one of them its half is skipped and says so, or fails when
//! `MERIDIAN_REQUIRE_PEERS=1`.

#![allow(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use dns::{
    Clock, DnsServer, RecordSpec, Responder, ServerConfig, Table, TableSpec, TcpLimits, ZoneFile, ZoneSpec,
};
use hickory_proto::op::Message;
use hickory_proto::rr::Record;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const QUESTIONS: usize = 100_000;
/// Peers started so far: each has a port of its own.
static PEERS: AtomicU16 = AtomicU16::new(0);
const ZONE: &str = "zone.example";

/// Name, type, value; relative names end in the zone. Every record has the zone's TTL.
const RECORDS: &[(&str, &str, &str)] = &[
    ("@", "MX", "10 mail"),
    ("@", "MX", "20 mail.example.net."),
    ("@", "TXT", "\"v=spf1 -all\""),
    ("@", "CAA", "0 issue \"ca.example.net\""),
    ("mail", "A", "192.0.2.25"),
    ("www", "A", "192.0.2.1"),
    ("www", "A", "192.0.2.2"),
    ("www", "AAAA", "2001:db8::1"),
    ("www", "HTTPS", "1 . alpn=h2"),
    ("_sip._tcp", "SRV", "0 5 5060 sip.example.net."),
    ("alias", "CNAME", "www"),
    ("chain", "CNAME", "alias"),
    ("to-apex", "CNAME", "@"),
    ("out", "CNAME", "www.example.net."),
    ("dangling", "CNAME", "missing"),
    ("to-child", "CNAME", "www.child"),
    ("to-wild", "CNAME", "x.wild"),
    ("a.b.c", "TXT", "\"below two empty names\""),
    ("*.wild", "A", "192.0.2.9"),
    ("*.wild", "TXT", "\"made\""),
    ("there.wild", "TXT", "\"there\""),
    ("x.deep.wild", "A", "192.0.2.10"),
    ("*.aliases", "CNAME", "www"),
    ("child", "NS", "ns.child"),
    ("child", "NS", "ns.example.net."),
    ("ns.child", "A", "192.0.2.53"),
    ("ns.child", "AAAA", "2001:db8::53"),
    ("signed", "NS", "ns.example.net."),
    ("signed", "DS", "1 13 2 0000000000000000000000000000000000000000000000000000000000000000"),
    ("odd", "TYPE65280", r"\# 3 0a0b0c"),
    ("many", "TXT", "\"one\""),
    ("many", "TXT", "\"two\""),
    ("ptr", "PTR", "www"),
];

/// Labels that questions are made of: those of the zone, and others.
const LABELS: &[&str] = &[
    "www", "WWW", "mail", "alias", "chain", "to-apex", "out", "dangling", "to-child", "to-wild", "a", "b",
    "c", "wild", "there", "deep", "x", "*", "aliases", "child", "ns", "ns1", "signed", "odd", "many", "ptr",
    "_sip", "_tcp", "missing", "example", "zone", "zzz", "alias2", "none", "c", "ns2",
];

const TYPES: &[u16] =
    &[1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 39, 43, 46, 48, 52, 64, 65, 99, 255, 257, 65280, 65534];

fn zone_file() -> String {
    let mut text = format!("$ORIGIN {ZONE}.\n$TTL 300\n@ SOA ns1 hostmaster 7 3600 900 3600000 300\n");
    text.push_str("@ NS ns1\n@ NS ns2\nns1 A 192.0.2.101\nns1 AAAA 2001:db8::101\nns2 A 192.0.2.102\n");
    for (name, kind, value) in RECORDS {
        writeln!(text, "{name} {kind} {value}").unwrap();
    }
    text
}

/// Much the same names and more, as people and programs write them. Left out is what one of the peers refuses: relative
/// names behind `$ORIGIN` and classes by their number.
const TANGLED: &str = r#"; a comment ( with "quotes" and \
$TTL 5m
$ORIGIN example.
zone	IN	SOA	ns1.zone (
		hostmaster\.of\.zone.zone	; a dot in the mailbox
		7	; serial
		1D 2h
		1000H ; expire
		1m30s )
	NS	ns1.zone
	IN	NS	ns2.zone.example.
$ORIGIN zone.example.
ns1	300	A	192.0.2.101
	IN	300	AAAA	2001:DB8:0:0::101
ns2	A	192.0.2.102
@	86400 MX	10 mail
	86400 MX ( 20
		mail.example.net. )
	TXT	v=spf1 "-all" "a;b" c\;d \"e\"
	CAA	0 issue "ca.example.net; policy=ev"
	CAA	128 iodef mailto:security@zone.example
mail	A	192.0.2.25
WWW	1h	IN	A	192.0.2.1
	IN	1h	A	192.0.2.2
	300	IN	TYPE28	\# 16 20010db8000000000000000000000001
	HTTPS	1 . alpn="h2,h3" port=8443
	SVCB	0 svc
$TTL 7200
a\.b	A	192.0.2.31
\097lias	CNAME	www
alias2 CNAME www ; another
*.wild	A	192.0.2.9
*.wild	TXT	"made"
there.wild	TXT	"there" "" "\001\255"
x.deep.wild	A	192.0.2.10
child	NS	ns.child
	NS	ns.example.net.
$ORIGIN child.zone.example.
ns	A	192.0.2.53
	AAAA	2001:db8::53
$ORIGIN zone.example.
odd	TYPE65280	\# 3 ( 0a 0B
	0c )
many	0	TXT	( "one"
)
many	0	TXT	two
ptr	PTR	www
_sip._tcp	SRV	0 5 5060 sip.example.net.
c	NAPTR	100 10 "u" "E2U+sip" "!^.*$!sip:info@zone.example!" .
b	SSHFP	4 2 ( 0123456789abcdef0123456789abcdef
	0123456789abcdef0123456789abcdef )
x	TLSA	3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
many	0	TXT	two	; there twice
"#;

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant has no other source, and this program has no clock of its own"
)]
fn moment() -> std::time::Instant {
    std::time::Instant::now()
}

fn zone_of_records() -> ZoneSpec {
    let address = |text: &str| text.parse().unwrap();
    let records = RECORDS.iter().map(|(name, kind, value)| RecordSpec {
        name: (*name).into(),
        kind: (*kind).into(),
        value: (*value).into(),
        ttl: None,
    });
    ZoneSpec {
        name: ZONE.into(),
        nameservers: vec![
            ("ns1".into(), vec![address("192.0.2.101"), address("2001:db8::101")]),
            ("ns2".into(), vec![address("192.0.2.102")]),
        ],
        contact: format!("hostmaster@{ZONE}"),
        ttl: Duration::from_secs(300),
        steers: Vec::new(),
        file: None,
        records: records.collect(),
        ..ZoneSpec::default()
    }
}

fn zone_of_file() -> ZoneSpec {
    let ttl = Duration::from_secs(300);
    let parsed = ZoneFile::parse(ZONE, TANGLED, ttl);
    assert_eq!(parsed.errors, []);
    ZoneSpec { name: ZONE.into(), ttl, file: Some(Arc::new(parsed.file)), ..ZoneSpec::default() }
}

fn meridian(zone: ZoneSpec) -> DnsServer {
    let table = Table::build(&TableSpec { serial: 7, zones: vec![zone], regions: Vec::new() }).unwrap();
    let config = ServerConfig {
        inherited: Vec::new(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        udp_threads: 1,
        tcp: TcpLimits::default(),
        tls: None,
        clock: Clock::new(moment, || 1_800_000_000),
    };
    DnsServer::bind(config, Arc::new(Responder::new(table, 1))).unwrap()
}

/// A peer that runs until it is dropped.
struct Peer {
    process: Child,
    address: SocketAddr,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Peer {
    /// Starts a program on loopback; waits until it answers. `None`: it is not installed.
    fn start(
        program: &str,
        arguments: &[&str],
        folder: &Path,
        zone: &str,
        config: impl Fn(SocketAddr) -> String,
    ) -> Option<Self> {
        let folders =
            ["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(|place| Path::new(place).join(program));
        let Some(path) = folders.iter().find(|path| path.exists()) else {
            let required = std::env::var_os("MERIDIAN_REQUIRE_PEERS").is_some_and(|value| value == "1");
            assert!(!required, "{program} is not installed, and peers are required");
            eprintln!("skipped: {program} is not installed");
            return None;
        };
        // An address of this process alone, where nobody's connections take a port away.
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let port = 5300 + PEERS.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 83, high, low], port));
        std::fs::write(folder.join("zone"), zone).unwrap();
        std::fs::write(folder.join("conf"), config(address)).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let process = Command::new(path)
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut peer = Self { process, address };
        let soa = query(0, ZONE, 6, None);
        let mut asker = Asker::new(address, Duration::from_millis(200));
        // Nobody sends to it: its patience is the pause between two tries.
        let mut silence = Asker::new(address, Duration::from_millis(50));
        for _ in 0..400 {
            if asker.ask(&soa).is_some_and(|answer| !answer.answers.is_empty()) {
                return Some(peer);
            }
            silence.socket.recv(&mut silence.buffer).ok();
            let ended = peer.process.try_wait().unwrap();
            let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "{program} ended: {}", log());
        }
        panic!(
            "{program} does not answer: {}",
            std::fs::read_to_string(folder.join("log")).unwrap_or_default()
        );
    }
}

struct Asker {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl Asker {
    fn new(server: SocketAddr, patience: Duration) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        Self { socket, buffer: vec![0; 65_536] }
    }

    /// One question, one answer; `None` when none comes.
    fn ask(&mut self, query: &[u8]) -> Option<Message> {
        self.socket.send(query).ok()?;
        loop {
            let length = self.socket.recv(&mut self.buffer).ok()?;
            if self.buffer[..2] == query[..2] {
                return Some(Message::from_vec(&self.buffer[..length]).expect("an answer that can be read"));
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Edns {
    payload: u16,
    version: u8,
    dnssec_ok: bool,
}

fn query(id: u16, name: &str, kind: u16, edns: Option<Edns>) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if let Some(Edns { payload, version, dnssec_ok }) = edns {
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&payload.to_be_bytes());
        bytes.extend_from_slice(&[0, version, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
    bytes
}

fn any_question(rng: &mut SmallRng, id: u16) -> (String, Vec<u8>) {
    let labels: Vec<&str> =
        (0..rng.random_range(0..4)).map(|_| LABELS[rng.random_range(0..LABELS.len())]).collect();
    let mut name = labels.join(".");
    let beside = ["", "example", "zone.example.org", "xzone.example"];
    let under =
        if rng.random_range(0..10) == 0 { beside[rng.random_range(0..beside.len())] } else { "zone.EXAMPLE" };
    if !name.is_empty() && !under.is_empty() {
        name.push('.');
    }
    name.push_str(under);
    let kind = match rng.random_range(0..4) {
        // No questions of their own: OPT, NXNAME (RFC 9824 §3.5), TKEY to MAILA.
        0 => Some(rng.random_range(1..300)).filter(|kind| !matches!(*kind, 41 | 128 | 249..255)).unwrap_or(1),
        _ => TYPES[rng.random_range(0..TYPES.len())],
    };
    let edns = (rng.random_range(0..3) > 0).then(|| Edns {
        payload: [0, 512, 1232, 4096][rng.random_range(0..4)],
        version: u8::from(rng.random_range(0..50) == 0),
        dnssec_ok: rng.random(),
    });
    let text = format!("{name} {kind} {edns:?}");
    (text, query(id, &name, kind, edns))
}

fn lines(records: &[Record]) -> BTreeSet<String> {
    let line =
        |record: &Record| format!("{} {} {:?}", record.name, record.ttl, record.data).to_ascii_lowercase();
    records.iter().map(line).collect()
}

/// What differs and is no choice of ours. The choices: ANY is answered with little (RFC 8482); addresses of mail and
/// service hosts are left for the resolver to ask. The zone is not signed, so a DS at a cut is data as any other.
fn compare(ours: &Message, theirs: &Message, peer: &str) -> Option<&'static str> {
    let (us, them) = (&ours.metadata, &theirs.metadata);
    let kind = ours.queries.first().map_or(0, |query| u16::from(query.query_type()));
    // Knot agrees that signatures and proofs are asked for at the alias itself (RFC 4035 §2.5), but for NSEC3; NSD the other way round.
    if peer == "nsd" && matches!(kind, 46 | 47 | 50) {
        return None;
    }
    if us.response_code != them.response_code {
        return Some("response code");
    }
    if us.authoritative != them.authoritative {
        return Some("authority");
    }
    if us.truncation != them.truncation {
        return Some("truncation");
    }
    if ours.edns.is_some() != theirs.edns.is_some() {
        return Some("EDNS");
    }
    if kind == 255 {
        return (ours.answers.is_empty() != theirs.answers.is_empty()).then_some("ANY");
    }
    if lines(&ours.answers) != lines(&theirs.answers) {
        return Some("answers");
    }
    let referral = !ours.authorities.is_empty()
        && ours.authorities.iter().all(|record| u16::from(record.record_type()) == 2);
    // NSD names the zone's servers beside each positive answer.
    let padded = peer == "nsd" && !ours.answers.is_empty() && ours.authorities.is_empty();
    if !padded && lines(&ours.authorities) != lines(&theirs.authorities) {
        return Some("authorities");
    }
    if (referral || kind == 2) && !padded && lines(&ours.additionals) != lines(&theirs.additionals) {
        return Some("additional");
    }
    None
}

fn differ(peer: &Peer, zone: ZoneSpec, name: &str) {
    let server = meridian(zone);
    let patience = Duration::from_secs(10);
    let mut us = Asker::new(server.local_addrs()[0], patience);
    let mut them = Asker::new(peer.address, patience);
    let mut rng = SmallRng::seed_from_u64(0x5eed);
    let mut differences = Vec::new();
    for number in 0..QUESTIONS {
        let (text, query) = any_question(&mut rng, number as u16);
        let (ours, theirs) = (us.ask(&query), them.ask(&query));
        match (ours, theirs) {
            (Some(ours), Some(theirs)) => {
                if let Some(what) = compare(&ours, &theirs, name) {
                    differences.push(format!("{text}: {what}\n  ours   {ours:?}\n  theirs {theirs:?}"));
                }
            }
            (ours, theirs) => {
                let silent = if ours.is_none() { "Meridian" } else { name };
                assert!(ours.is_none() == theirs.is_none(), "{silent} does not answer {text}");
            }
        }
        assert!(differences.len() < 5, "{name} differs:\n{}", differences.join("\n"));
    }
    assert!(differences.is_empty(), "{name} differs:\n{}", differences.join("\n"));
}

fn knot(folder: &Path, zone: &str) -> Option<Peer> {
    let config = |address: SocketAddr| {
        let (ip, port) = (address.ip(), address.port());
        format!(
            "server:\n  rundir: \".\"\n  listen: {ip}@{port}\n  udp-workers: 1\n  tcp-workers: 1\n\
             database:\n  storage: \".\"\n\
             zone:\n  - domain: {ZONE}\n    storage: \"{}\"\n    file: zone\n    semantic-checks: off\n",
            folder.display()
        )
    };
    Peer::start("knotd", &["-c", "conf"], folder, zone, config)
}

fn nsd(folder: &Path, zone: &str) -> Option<Peer> {
    let config = |address: SocketAddr| {
        let (ip, port) = (address.ip(), address.port());
        let here = folder.display();
        format!(
            "server:\n  ip-address: {ip}@{port}\n  username: \"\"\n  zonesdir: \"{here}\"\n  database: \"\"\n\
             \x20 pidfile: \"{here}/pid\"\n  xfrdfile: \"{here}/xfrd\"\n  zonelistfile: \"{here}/zones\"\n  xfrdir: \"{here}\"\n\
             \x20 server-count: 1\n  rrl-ratelimit: 0\nremote-control:\n  control-enable: no\nzone:\n  name: {ZONE}\n  zonefile: zone\n"
        )
    };
    Peer::start("nsd", &["-d", "-c", "conf"], folder, zone, config)
}

#[test]
fn answers_are_those_of_knot() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(peer) = knot(folder.path(), &zone_file()) {
        differ(&peer, zone_of_records(), "knot");
    }
}

#[test]
fn answers_are_those_of_nsd() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(peer) = nsd(folder.path(), &zone_file()) {
        differ(&peer, zone_of_records(), "nsd");
    }
}

#[test]
fn a_zone_file_means_to_us_what_it_means_to_knot() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(peer) = knot(folder.path(), TANGLED) {
        differ(&peer, zone_of_file(), "knot");
    }
}

#[test]
fn a_zone_file_means_to_us_what_it_means_to_nsd() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(peer) = nsd(folder.path(), TANGLED) {
        differ(&peer, zone_of_file(), "nsd");
    }
}
