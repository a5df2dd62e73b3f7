use std::time::Duration;

use super::*;
use crate::{RecordSpec, SigningKey, ZoneFile};

fn name(text: &str) -> Name {
    Name::parse_absolute(text).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn server(text: &str, addresses: &[&str]) -> NameServer {
    NameServer { name: name(text), addresses: addresses.iter().map(|text| address(text)).collect() }
}

fn record(owner: &str, kind: Kind, data: SeenData) -> SeenRecord {
    SeenRecord { owner: name(owner), kind, ttl: 3600, data }
}

fn soa() -> SeenSoa {
    SeenSoa {
        primary: name("ns1.example.com"),
        contact: name("hostmaster.example.com"),
        serial: 7,
        timers: [86_400, 7_200, 3_600_000],
        minimum: 300,
    }
}

fn answer(records: Vec<SeenRecord>) -> Seen {
    Seen { authoritative: true, edns_payload: Some(1232), answers: records, ..Seen::default() }
}

fn servers() -> Vec<NameServer> {
    vec![
        server("ns1.example.com", &["198.51.100.10", "2001:db8::10"]),
        server("ns2.example.com", &["203.0.113.10"]),
    ]
}

fn probed(server: &NameServer, address: IpAddr) -> Probed {
    let soa = record("example.com", Kind::SOA, SeenData::Soa(soa()));
    let ns = servers().into_iter().map(|server| record("example.com", Kind::NS, SeenData::Name(server.name)));
    Probed {
        server: server.name.clone(),
        address,
        udp: Ok(answer(vec![soa.clone()])),
        tcp: Ok(answer(vec![soa])),
        servers: Ok(answer(ns.collect())),
        keys: Ok(answer(Vec::new())),
        own: Some(Ok(answer(vec![record("ns1.example.com", Kind::A, SeenData::Address(address))]))),
        version: Ok(Seen { rcode: Rcode::BADVERS, ..Seen::default() }),
        recursion: Ok(Seen { rcode: Rcode::REFUSED, ..Seen::default() }),
    }
}

/// A zone that nobody complains about.
fn sound() -> Observed {
    let servers = servers();
    let probes =
        servers.iter().flat_map(|server| server.addresses.iter().map(|address| probed(server, *address)));
    Observed {
        zone: name("example.com"),
        probes: probes.collect(),
        parent: Some(Ok(servers.clone())),
        parent_ds: Some(Vec::new()),
        signed: false,
        servers,
    }
}

/// `GRAVITY SUBJECT: WHAT` of each finding, after a change of the sound zone.
fn after(change: impl FnOnce(&mut Observed)) -> Vec<String> {
    let mut observed = sound();
    change(&mut observed);
    let findings = judge(&observed);
    assert!(findings.iter().all(|finding| !finding.hint.is_empty()));
    findings
        .iter()
        .map(|Finding { gravity, subject, what, .. }| format!("{gravity:?} {subject}: {what}"))
        .collect()
}

fn set_soa(seen: &mut Result<Seen, String>, change: impl FnOnce(&mut SeenSoa)) {
    if let SeenData::Soa(soa) = &mut seen.as_mut().unwrap().answers[0].data {
        change(soa);
    }
}

const SECOND: &str = "ns2.example.com. at 203.0.113.10";

#[test]
fn a_sound_zone_has_no_findings() {
    assert_eq!(after(|_| {}), [""; 0]);
    assert_eq!(after(|observed| observed.parent = None), [""; 0]);
}

#[test]
fn name_servers_are_several_apart_and_public() {
    let found = after(|observed| {
        observed.servers.truncate(1);
        observed.parent = None;
        observed.probes.clear();
    });
    assert_eq!(found[0], "Error example.com.: it has 1 name server, and registrars want two at least");
    let found = after(|observed| {
        observed.servers[1] = server("ns2.example.com", &["198.51.100.10"]);
        observed.servers[0] = server("ns1.example.com", &["198.51.100.10"]);
        observed.parent = None;
    });
    assert_eq!(
        found[0],
        "Error ns2.example.com.: it has the address 198.51.100.10, which ns1.example.com. has too"
    );
    let found = after(|observed| {
        observed.servers = vec![
            server("ns1.example.com", &["198.51.100.10"]),
            server("ns2.example.com", &["198.51.100.11"]),
        ];
        observed.parent = None;
    });
    assert_eq!(
        found,
        [
            "Warning example.com.: all its name servers are in 198.51.100.0/24",
            "Warning example.com.: no name server has an IPv6 address"
        ]
    );
    for private in
        ["10.0.0.1", "127.0.0.1", "192.168.1.1", "100.64.0.1", "169.254.0.1", "fd00::1", "::1", "fe80::1"]
    {
        let found = after(|observed| observed.servers[0].addresses.push(address(private)));
        let expected = format!("Warning {private}: it is no public address");
        assert!(found.contains(&expected), "{found:?}");
    }
    let found = after(|observed| observed.servers[1].addresses.clear());
    assert!(found.contains(&"Error ns2.example.com.: it has no address".to_owned()), "{found:?}");
}

#[test]
fn the_parent_must_say_what_the_zone_says() {
    let parent = |servers: Vec<NameServer>| after(|observed| observed.parent = Some(Ok(servers)));
    assert_eq!(parent(Vec::new()), ["Error parent: it does not delegate the zone"]);
    assert_eq!(parent(servers()[..1].to_vec()), ["Error parent: it does not name ns2.example.com."]);
    let mut more = servers();
    more.push(server("ns.example.net", &[]));
    assert_eq!(parent(more), ["Error parent: it names ns.example.net., and the zone does not"]);
    let mut bare = servers();
    bare[1].addresses.clear();
    assert_eq!(parent(bare), ["Error ns2.example.com.: the parent has no glue for it, so nobody finds it"]);
    let mut wrong = servers();
    wrong[1].addresses = vec![address("203.0.113.99")];
    assert_eq!(
        parent(wrong),
        ["Error ns2.example.com.: the parent's glue for it is 203.0.113.99, its addresses are 203.0.113.10"]
    );
    let found = after(|observed| observed.parent = Some(Err(NoParent::Silent("no answer".into()))));
    assert_eq!(found, ["Error parent: it does not say who serves the zone: no answer"]);
    let found = after(|observed| observed.parent = Some(Err(NoParent::OwnServer)));
    assert_eq!(
        found,
        [
            "Error parent: that server answers for example.com. itself, not for its parent: what the parent says is not known"
        ]
    );
}

#[test]
fn a_server_of_the_zone_is_not_taken_for_the_parents() {
    let zone = name("example.com");
    let ns = || vec![record("example.com", Kind::NS, SeenData::Name(name("ns1.example.com")))];
    let told = vec![server("ns1.example.com", &[])];
    let referral = Seen { authorities: ns(), ..Seen::default() };
    let own = answer(ns());
    let nodata = |owner: &str| Seen {
        authorities: vec![record(owner, Kind::SOA, SeenData::Soa(soa()))],
        ..answer(Vec::new())
    };
    let ds = answer(vec![record("example.com", Kind::DS, SeenData::Other(vec![0; 36]))]);
    let of = |ns: &Seen, ds: Option<&Seen>| told_by_parent(&zone, ns, ds);
    // The parent refers, whatever it says of DS.
    assert_eq!(of(&referral, None), Ok(told.clone()));
    assert_eq!(of(&referral, Some(&nodata("com"))), Ok(told.clone()));
    // The zone's own server answers with authority, and knows of no zone above.
    assert_eq!(of(&own, Some(&nodata("example.com"))), Err(NoParent::OwnServer));
    assert_eq!(of(&own, None), Err(NoParent::OwnServer));
    assert_eq!(of(&own, Some(&nodata("example.net"))), Err(NoParent::OwnServer));
    // One that serves both does.
    assert_eq!(of(&own, Some(&nodata("com"))), Ok(told.clone()));
    assert_eq!(of(&own, Some(&ds)), Ok(told));
    // A server that knows neither names nobody.
    assert_eq!(of(&Seen { rcode: Rcode::REFUSED, ..Seen::default() }, None), Ok(Vec::new()));
}

#[test]
fn every_server_answers_with_authority_over_both_transports() {
    let probe = |change: fn(&mut Probed)| after(|observed| change(&mut observed.probes[2]));
    let expect = |what: &str| vec![format!("Error {SECOND}: {what}")];
    assert_eq!(
        probe(|probed| (probed.udp, probed.tcp) = (Err("no answer".into()), Err("x".into()))),
        expect("it does not answer: no answer")
    );
    assert_eq!(probe(|probed| probed.udp = Err("x".into())), expect("it does not answer over UDP: x"));
    assert_eq!(probe(|probed| probed.tcp = Err("x".into())), expect("it does not answer over TCP: x"));
    assert_eq!(
        probe(|probed| probed.udp.as_mut().unwrap().authoritative = false),
        expect("it answers without authority (AA)")
    );
    assert_eq!(
        probe(|probed| probed.udp.as_mut().unwrap().answers.clear()),
        expect("it does not know the zone's SOA")
    );
    assert_eq!(
        probe(|probed| probed.udp =
            Ok(Seen { rcode: Rcode::REFUSED, edns_payload: Some(1232), ..Seen::default() })),
        expect("it answers REFUSED")
    );
    assert_eq!(
        probe(|probed| probed.recursion.as_mut().unwrap().recursion_available = true),
        expect("it resolves names of others for everybody")
    );
    assert_eq!(
        probe(|probed| probed.own =
            Some(Ok(answer(vec![record("ns2.example.com", Kind::CNAME, SeenData::Other(Vec::new()))])))),
        expect("its name is an alias (CNAME), which a name server's cannot be")
    );
    assert_eq!(
        probe(|probed| drop(probed.servers.as_mut().unwrap().answers.pop())),
        expect("it names ns1.example.com. as name servers, the zone has ns1.example.com., ns2.example.com.")
    );
    for (change, what) in [
        (
            (|probed| probed.udp.as_mut().unwrap().edns_payload = None) as fn(&mut Probed),
            "it does not speak EDNS",
        ),
        (
            |probed| probed.udp.as_mut().unwrap().edns_payload = Some(4096),
            "it sends up to 4096 bytes over UDP",
        ),
        (
            |probed| probed.version = Ok(Seen::default()),
            "it answers NOERROR to EDNS version 1, where BADVERS belongs",
        ),
        (|probed| probed.version = Err("x".into()), "it does not answer EDNS version 1 at all"),
    ] {
        assert_eq!(probe(change), [format!("Warning {SECOND}: {what}")]);
    }
}

#[test]
fn all_servers_have_one_soa_that_registries_like() {
    let first = |change: fn(&mut SeenSoa)| after(|observed| set_soa(&mut observed.probes[0].udp, change));
    assert_eq!(
        first(|soa| soa.serial = 6),
        [
            "Error example.com.: its serials differ: 6 (ns1.example.com. at 198.51.100.10); 7 (ns1.example.com. at 2001:db8::10, ns2.example.com. at 203.0.113.10)"
        ]
    );
    assert_eq!(
        first(|soa| soa.primary = name("other.example.com")),
        ["Error example.com.: its servers give different SOA records"]
    );
    let found = after(|observed| {
        for probed in &mut observed.probes {
            set_soa(&mut probed.udp, |soa| soa.minimum = 30);
        }
    });
    assert_eq!(found, ["Warning example.com.: the SOA's minimum is 30 s; some registries want 180 to 86400"]);
    let found = after(|observed| {
        for probed in &mut observed.probes {
            probed.servers.as_mut().unwrap().answers[0].ttl = 30;
        }
    });
    assert_eq!(found, ["Warning example.com.: its NS records live for 30 s"]);
}

#[test]
fn a_signed_zone_serves_the_key_that_its_parent_names() {
    let key = || SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
    let (zone, ours, other) = (name("example.com"), key(), key());
    let serve = |observed: &mut Observed, key: &SigningKey| {
        let dnskey = record("example.com", Kind::DNSKEY, SeenData::Other(key.dnskey().to_vec()));
        for probed in &mut observed.probes {
            probed.keys = Ok(answer(vec![dnskey.clone()]));
        }
    };
    let signed = |change: &dyn Fn(&mut Observed)| {
        after(|observed| {
            (observed.signed, observed.parent_ds) = (true, Some(vec![ours.ds(&zone)]));
            serve(observed, &ours);
            change(observed);
        })
    };
    assert_eq!(signed(&|_| {}), [""; 0]);
    assert_eq!(signed(&|observed| observed.parent_ds.as_mut().unwrap().push(other.ds(&zone))), [""; 0]);
    assert_eq!(signed(&|observed| observed.parent_ds = None), [""; 0]);
    assert_eq!(
        signed(&|observed| observed.parent_ds = Some(Vec::new())),
        ["Warning parent: it has no DS record, and the zone is signed"]
    );
    let found = signed(&|observed| observed.parent_ds = Some(vec![other.ds(&zone)]));
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(
        found[2],
        format!("Error {SECOND}: the parent's DS records name none of the keys that it serves")
    );
    assert_eq!(
        signed(&|observed| observed.probes[2].keys = Ok(answer(Vec::new()))),
        [
            format!("Error {SECOND}: it serves no DNSKEY, and the zone is to be signed"),
            format!("Error {SECOND}: the parent has a DS record, and it serves no key"),
        ]
    );
    let found = after(|observed| observed.parent_ds = Some(vec![ours.ds(&zone)]));
    assert_eq!(found[2], format!("Error {SECOND}: the parent has a DS record, and it serves no key"));
    let found = after(|observed| serve(observed, &ours));
    assert_eq!(found[2], format!("Error {SECOND}: it serves a DNSKEY of a zone that is not signed"));
}

#[test]
fn a_zone_knows_its_name_servers_wherever_they_are_written() {
    let listed = ZoneSpec {
        name: "example.com".into(),
        nameservers: vec![("ns1".into(), vec![address("198.51.100.10")])],
        records: vec![RecordSpec { name: "a".into(), kind: "NS".into(), value: "b".into(), ttl: None }],
        ..ZoneSpec::default()
    };
    assert_eq!(listed.name_servers(), [server("ns1.example.com", &["198.51.100.10"])]);
    let text = "@ NS ns1\n@ NS ns.example.net.\nsub NS x\nns1 A 198.51.100.10\nns1 AAAA 2001:db8::10\n";
    let file = ZoneFile::parse("example.com", text, Duration::from_secs(30)).file;
    let filed = ZoneSpec { name: "example.com".into(), file: Some(file.into()), ..ZoneSpec::default() };
    assert_eq!(
        filed.name_servers(),
        [server("ns1.example.com", &["198.51.100.10", "2001:db8::10"]), server("ns.example.net", &[])]
    );
    assert_eq!(ZoneSpec { name: "..".into(), ..ZoneSpec::default() }.name_servers(), []);
}

#[test]
fn a_referral_names_servers_with_their_glue() {
    let seen = Seen {
        authorities: vec![record("example.com", Kind::NS, SeenData::Name(name("ns1.example.com")))],
        additionals: vec![record("ns1.example.com", Kind::A, SeenData::Address(address("198.51.100.10")))],
        ..Seen::default()
    };
    assert_eq!(seen.name_servers(&name("EXAMPLE.com")), [server("ns1.example.com", &["198.51.100.10"])]);
}
