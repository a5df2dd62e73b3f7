//! The protocol, case by case, and what holds for any bytes.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::*;
use crate::fixtures::{QueryBytes, Read, ask, ask_bytes, record, responder, start, state, table_spec};
use crate::spec::{Policy, TableSpec};
use crate::steer::Step;

const SOA: &str =
    "lb.example.com. SOA 30 ns1.lb.example.com. host\\.master.example.com. 42 3600 900 3600000 30";

fn zone_name(label: &str) -> String {
    if label == "@" { "lb.example.com".into() } else { format!("{label}.lb.example.com") }
}

fn asked(label: &str, kind: &str) -> Read {
    ask(&responder(), &QueryBytes::new(&zone_name(label), kind).edns())
}

#[test]
fn static_data_is_answered_with_authority() {
    for (label, kind, expected) in [
        ("@", "MX", vec!["lb.example.com. MX 3600 10 mail.example.com."]),
        ("@", "TXT", vec!["lb.example.com. TXT 30 v=spf1 -all"]),
        ("@", "SOA", vec![SOA]),
        (
            "host.deep",
            "A",
            vec!["host.deep.lb.example.com. A 30 192.0.2.1", "host.deep.lb.example.com. A 30 192.0.2.2"],
        ),
        ("ns1", "AAAA", vec!["ns1.lb.example.com. AAAA 30 2001:db8::53"]),
        ("svc", "HTTPS", vec!["svc.lb.example.com. HTTPS 30 1 . alpn=h2,"]),
        ("www", "TXT", vec!["www.lb.example.com. TXT 30 beside a steered name"]),
        // A wildcard makes any depth below its parent, under the name asked for (RFC 4592 §3.3.1).
        ("a.wild", "A", vec!["a.wild.lb.example.com. A 30 192.0.2.9"]),
        ("a.b.wild", "A", vec!["a.b.wild.lb.example.com. A 30 192.0.2.9"]),
        ("*.wild", "A", vec!["*.wild.lb.example.com. A 30 192.0.2.9"]),
        // ANY is answered with little (RFC 8482).
        ("@", "ANY", vec!["lb.example.com. HINFO 3600 RFC8482 "]),
        ("out", "ANY", vec!["out.lb.example.com. CNAME 30 www.example.net."]),
        ("out", "CNAME", vec!["out.lb.example.com. CNAME 30 www.example.net."]),
        ("out", "A", vec!["out.lb.example.com. CNAME 30 www.example.net."]),
        (
            "x.aliases",
            "A",
            vec![
                "host.deep.lb.example.com. A 30 192.0.2.1",
                "host.deep.lb.example.com. A 30 192.0.2.2",
                "x.aliases.lb.example.com. CNAME 30 host.deep.lb.example.com.",
            ],
        ),
    ] {
        let read = asked(label, kind);
        assert_eq!(read.rcode(), Rcode::NOERROR, "{label} {kind}");
        assert!(read.message.metadata.authoritative, "{label} {kind}");
        assert_eq!(read.answers(), expected, "{label} {kind}");
        assert!(read.authority().is_empty(), "{label} {kind}");
    }
    let odd = asked("odd", "TYPE65280");
    assert!(odd.bytes.windows(5).any(|window| window == [0, 3, 0x0a, 0x0b, 0x0c]));
}

#[test]
fn name_servers_come_with_their_addresses() {
    let read = asked("@", "NS");
    assert_eq!(
        read.answers(),
        ["lb.example.com. NS 30 ns1.lb.example.com.", "lb.example.com. NS 30 ns2.lb.example.com."]
    );
    assert_eq!(
        read.additional(),
        [
            "ns1.lb.example.com. A 30 198.51.100.10",
            "ns1.lb.example.com. AAAA 30 2001:db8::53",
            "ns2.lb.example.com. A 30 203.0.113.10",
        ]
    );
}

#[test]
fn what_is_not_there_comes_with_the_soa() {
    for (label, kind, rcode, answers) in [
        ("missing", "A", Rcode::NXDOMAIN, 0),
        ("a.www", "A", Rcode::NXDOMAIN, 0),
        ("missing", "ANY", Rcode::NXDOMAIN, 0),
        ("host.deep", "AAAA", Rcode::NOERROR, 0),
        // Empty non-terminals are there (RFC 4592 §2.2.2, RFC 8020).
        ("deep", "A", Rcode::NOERROR, 0),
        ("deep", "ANY", Rcode::NOERROR, 0),
        ("wild", "A", Rcode::NOERROR, 0),
        // A name that is there hides the wildcard for itself and for what lies below it.
        ("there.wild", "A", Rcode::NOERROR, 0),
        ("a.there.wild", "A", Rcode::NXDOMAIN, 0),
        ("a.wild", "TXT", Rcode::NOERROR, 0),
        // The code is that of the end of the chain (RFC 6604).
        ("dangling", "A", Rcode::NXDOMAIN, 1),
        ("x.aliases", "AAAA", Rcode::NOERROR, 1),
        ("www", "MX", Rcode::NOERROR, 0),
    ] {
        let read = asked(label, kind);
        assert_eq!(read.rcode(), rcode, "{label} {kind}");
        assert!(read.message.metadata.authoritative, "{label} {kind}");
        assert_eq!(read.answers().len(), answers, "{label} {kind}");
        assert_eq!(read.authority(), [SOA], "{label} {kind}");
    }
}

#[test]
fn delegations_are_referred_to() {
    for label in ["child", "www.child", "ns.child"] {
        let read = asked(label, "A");
        assert_eq!(read.rcode(), Rcode::NOERROR);
        assert!(!read.message.metadata.authoritative, "{label}");
        assert!(read.answers().is_empty());
        assert_eq!(
            read.authority(),
            [
                "child.lb.example.com. NS 30 ns.child.lb.example.com.",
                "child.lb.example.com. NS 30 ns.example.net."
            ]
        );
        assert_eq!(read.additional(), ["ns.child.lb.example.com. A 30 192.0.2.53"]);
    }
    // DS stands above the cut.
    let read = asked("child", "DS");
    assert!(read.message.metadata.authoritative);
    assert_eq!(read.authority(), [SOA]);
}

#[test]
fn what_belongs_to_others_is_refused() {
    for name in ["example.com", "example.org", "com", ".", "xlb.example.com", "www.lb.example.com.org"] {
        let read = ask(&responder(), &QueryBytes::new(name, "A").edns());
        assert_eq!(read.rcode(), Rcode::REFUSED, "{name}");
        assert!(!read.message.metadata.authoritative);
        assert!(read.authority().is_empty());
    }
    let mut chaos = QueryBytes::new("version.bind", "TXT");
    chaos.class = 3;
    assert_eq!(ask(&responder(), &chaos).rcode(), Rcode::REFUSED);
    for (kind, rcode) in
        [(252, Rcode::REFUSED), (251, Rcode::REFUSED), (250, Rcode::NOTIMP), (41, Rcode::FORMERR)]
    {
        let mut query = QueryBytes::new("lb.example.com", "A");
        query.kind = kind;
        assert_eq!(ask(&responder(), &query).rcode(), rcode, "{kind}");
    }
}

#[test]
fn case_is_ignored_and_kept() {
    let read = ask(&responder(), &QueryBytes::new("HoSt.dEEp.LB.example.COM", "A"));
    assert_eq!(read.answers()[0], "HoSt.dEEp.LB.example.COM. A 30 192.0.2.1");
    assert_eq!(read.message.queries[0].name().to_string(), "HoSt.dEEp.LB.example.COM.");
}

#[test]
fn the_header_is_echoed_where_it_must_be() {
    let read = ask(&responder(), &QueryBytes::new("www.lb.example.com", "A"));
    assert_eq!(&read.bytes[..2], [0xab, 0xcd]);
    // QR, AA, RD; no RA.
    assert_eq!(&read.bytes[2..4], [0x85, 0x00]);
    assert!(read.message.edns.is_none(), "no EDNS to those who do not speak it");
    let mut dnssec = QueryBytes::new("www.lb.example.com", "A").edns();
    dnssec.opt.as_mut().unwrap().flags = 0x8000;
    dnssec.flags = 0x0030;
    let read = ask(&responder(), &dnssec);
    assert_eq!(&read.bytes[2..4], [0x84, 0x00], "AD and CD are not copied");
    assert!(read.message.edns.unwrap().flags().dnssec_ok);
}

#[test]
fn other_operations_and_versions_are_answered() {
    for opcode in [1, 2, 4, 5, 6, 15] {
        let mut query = QueryBytes::new("lb.example.com", "SOA");
        query.flags = opcode << 11;
        let read = ask(&responder(), &query);
        assert_eq!(read.rcode(), Rcode::NOTIMP, "{opcode}");
        assert_eq!(read.bytes.len(), 12);
        assert_eq!(u16::from(read.bytes[2] >> 3 & 0xf), opcode);
    }
    let mut future = QueryBytes::new("www.lb.example.com", "A").edns();
    future.opt.as_mut().unwrap().version = 1;
    // Options of another version may look like anything.
    future.opt.as_mut().unwrap().options = vec![1, 2, 3];
    let read = ask(&responder(), &future);
    assert_eq!(read.rcode(), Rcode::BADVERS);
    assert_eq!(read.message.edns.as_ref().unwrap().version(), 0);
    assert!(read.answers().is_empty());
}

#[test]
fn broken_questions_are_form_errors() {
    let good = QueryBytes::new("www.lb.example.com", "A").edns().bytes();
    let patched = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let mut two_opts = good.clone();
    two_opts[11] = 2;
    two_opts.extend_from_slice(&[0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 0]);
    let mut trailing = good.clone();
    trailing.push(0);
    let question_end = good.len() - 11;
    for (what, bytes) in [
        ("no question", [&good[..5], &[0], &[0, 0, 0, 0, 0, 0]].concat()),
        ("two questions", patched(5, 2)),
        ("a name without end", good[..20].to_vec()),
        ("a label of 64 bytes", patched(12, 64)),
        ("a pointer to itself", [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat()),
        ("a header alone", good[..12].to_vec()),
        ("a record too few", patched(11, 2)),
        ("two OPT records", two_opts),
        ("bytes after the end", trailing),
        ("an OPT that is not the root's", {
            let mut bytes = good[..question_end].to_vec();
            bytes.extend_from_slice(&[1, b'a', 0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 0]);
            bytes
        }),
        ("an option longer than the record", {
            let mut query = QueryBytes::new("www.lb.example.com", "A").edns();
            query.opt.as_mut().unwrap().options = vec![0, 10, 0, 9, 1];
            query.bytes()
        }),
    ] {
        let read = ask_bytes(&responder(), &bytes, Transport::Udp).unwrap();
        assert_eq!(read.rcode(), Rcode::FORMERR, "{what}");
    }
    for bytes in [&good[..11], &[], &patched(2, 0x81)] {
        assert!(ask_bytes(&responder(), bytes, Transport::Udp).is_none());
    }
}

#[test]
fn a_subnet_steers_and_is_echoed_with_its_scope() {
    let responder = responder();
    for (prefix, region, scope) in
        [("10.1.7.0/24", 1, 16), ("10.2.0.0/16", 2, 16), ("10.3.3.3/32", 3, 16), ("10.0.0.0/8", 2, 16)]
    {
        let read = ask(&responder, &QueryBytes::new("www.lb.example.com", "A").subnet(prefix));
        assert_eq!(read.addresses().len(), 2, "{prefix}");
        for address in read.addresses() {
            assert!(address.to_string().starts_with(&format!("127.{region}.")), "{prefix} {address}");
        }
        let net: IpNet = prefix.parse().unwrap();
        assert_eq!(read.subnet().unwrap()[..4], [0, 1, net.prefix_len(), scope], "{prefix}");
    }
    // Static and negative answers hold for everyone.
    for (label, kind) in [("host.deep", "A"), ("missing", "A"), ("www", "MX")] {
        let read = ask(&responder, &QueryBytes::new(&zone_name(label), kind).subnet("10.1.7.0/24"));
        assert_eq!(read.subnet().unwrap(), [0, 1, 24, 0, 10, 1, 7], "{label}");
    }
    let v6 = ask(&responder, &QueryBytes::new("www.lb.example.com", "A").subnet("2001:db8:5::/48"));
    assert_eq!(v6.subnet().unwrap(), [0, 2, 48, 1, 0x20, 0x01, 0x0d, 0xb8, 0, 5]);
    // An IPv4 address in the clothes of an IPv6 one: the scope counts the clothes too, or the answer would hold for everybody.
    let mapped = [&[0; 10][..], &[0xff, 0xff, 10, 1, 7]].concat();
    let query = QueryBytes::new("www.lb.example.com", "A").subnet_bytes(2, 120, 0, &mapped);
    let read = ask(&responder, &query);
    assert!(read.addresses().iter().all(|address| address.to_string().starts_with("127.1.")));
    assert_eq!(read.subnet().unwrap()[..4], [0, 2, 120, 96 + 16]);
    let fixed =
        ask(&responder, &QueryBytes::new(&zone_name("host.deep"), "A").subnet_bytes(2, 120, 0, &mapped));
    assert_eq!(fixed.subnet().unwrap()[..4], [0, 2, 120, 0]);
    // Who tells nothing is the resolver, and the answer must not be kept by prefix.
    let none = ask(&responder, &QueryBytes::new("www.lb.example.com", "A").subnet("0.0.0.0/0"));
    assert_eq!(none.subnet().unwrap(), [0, 1, 0, 0]);
    assert_eq!(none.addresses().len(), 2);
}

#[test]
fn a_wrong_subnet_is_a_form_error() {
    let query = || QueryBytes::new("www.lb.example.com", "A");
    for (what, query) in [
        ("stray bits", query().subnet_bytes(1, 20, 0, &[10, 1, 1])),
        ("too many bytes", query().subnet_bytes(1, 16, 0, &[10, 1, 0])),
        ("too few bytes", query().subnet_bytes(1, 24, 0, &[10, 1])),
        ("a scope in a query", query().subnet_bytes(1, 24, 24, &[10, 1, 0])),
        ("33 bits of IPv4", query().subnet_bytes(1, 33, 0, &[10, 1, 0, 0, 0])),
        ("an unknown family", query().subnet_bytes(3, 8, 0, &[10])),
        ("bits of no family", query().subnet_bytes(0, 8, 0, &[10])),
        ("two subnets", query().subnet("10.1.0.0/16").subnet("10.1.0.0/16")),
    ] {
        let read = ask(&responder(), &query);
        assert_eq!(read.rcode(), Rcode::FORMERR, "{what}");
        assert!(read.message.edns.is_some(), "{what}");
    }
    // No family and no bits is a way to ask for privacy (RFC 7871 §7.1.2); hickory cannot read the echo.
    let mut out = Vec::new();
    let private = query().subnet_bytes(0, 0, 0, &[]).bytes();
    let from = crate::fixtures::RESOLVER.parse().unwrap();
    let verdict = responder().clerk().respond(&private, from, Transport::Udp, start(), &mut out);
    assert_eq!(verdict, Verdict::Reply(Rcode::NOERROR));
    assert!(out.ends_with(&[0, 8, 0, 4, 0, 0, 0, 0]));
}

#[test]
fn a_region_is_found_for_the_family() {
    let responder = responder();
    let eu = ask(&responder, &QueryBytes::new("www.lb.example.com", "AAAA").subnet("10.1.0.0/16"));
    assert_eq!(eu.addresses().len(), 2);
    let us = |responder: &Responder| {
        ask(responder, &QueryBytes::new("www.lb.example.com", "AAAA").subnet("10.2.0.0/16"))
    };
    // Its own region has no IPv6, the next one does.
    assert_eq!(us(&responder).addresses().len(), 2);
    assert_eq!(us(&responder).subnet().unwrap()[3], 16, "the answer depends on the client");
    // Suspects are better than nothing.
    let mut state = state();
    let eu = state.regions.get_mut("eu").unwrap();
    eu.last_resort = std::mem::take(&mut eu.nodes);
    responder.set_state(state.clone().into());
    assert_eq!(us(&responder).addresses().len(), 2);
    // No node has it: there is no such data, for nobody, and no longer than addresses live.
    state.regions.remove("eu");
    state.ttl_ceiling = Some(Duration::from_secs(7));
    responder.set_state(state.into());
    let none = us(&responder);
    assert_eq!((none.rcode(), none.addresses().len(), none.subnet().unwrap()[3]), (Rcode::NOERROR, 0, 0));
    assert_eq!(none.authority(), [SOA.replace(" 30 ", " 7 ")]);
    assert_eq!(responder.counters().snapshot().fail_open, 1, "the suspects");
    let mail = ask(&responder, &QueryBytes::new("www.lb.example.com", "MX"));
    assert_eq!(mail.authority(), [SOA.replace(" 30 ", " 7 ")]);
}

#[test]
fn aliases_and_wildcards_lead_to_steered_names() {
    let responder = responder();
    let read = ask(&responder, &QueryBytes::new("chain.lb.example.com", "A").subnet("10.3.0.0/16"));
    assert_eq!(read.message.answers.len(), 4);
    assert!(read.has(RecordType::CNAME));
    assert!(read.addresses().iter().all(|address| address.to_string().starts_with("127.3.")));
    assert_eq!(read.subnet().unwrap()[3], 16);
    let read = ask(&responder, &QueryBytes::new("x.any.lb.example.com", "A").subnet("10.3.0.0/16"));
    assert!(read.answers()[0].starts_with("x.any.lb.example.com. A 30 127.3."), "{read:?}");
}

#[test]
fn answers_fit_what_the_sender_takes() {
    let mut spec = table_spec();
    for index in 0..60 {
        spec.zones[0].records.push(record("many", "A", &format!("192.0.2.{index}")));
    }
    let responder = Responder::new(Table::build(&spec).unwrap(), 7);
    let query = |payload: Option<u16>| {
        let mut query = QueryBytes::new("many.lb.example.com", "A").subnet("10.0.0.0/8");
        match payload {
            Some(payload) => query.opt.as_mut().unwrap().payload = payload,
            None => query.opt = None,
        }
        query.bytes()
    };
    for (payload, limit, truncated) in [
        (None, 512, true),
        (Some(100), 512, true),
        (Some(900), 900, true),
        (Some(1232), 1232, false),
        (Some(65535), 1232, false),
    ] {
        let read = ask_bytes(&responder, &query(payload), Transport::Udp).unwrap();
        assert!(read.bytes.len() <= limit, "{payload:?}");
        assert_eq!(read.message.metadata.truncation, truncated, "{payload:?}");
        assert_eq!(read.message.answers.len(), if truncated { 0 } else { 60 }, "whole sets or none");
        assert_eq!(read.message.edns.is_some(), payload.is_some());
    }
    let read = ask_bytes(&responder, &query(None), Transport::Tcp).unwrap();
    assert_eq!(read.message.answers.len(), 60);
    assert_eq!(responder.counters().snapshot().truncated, 3);
}

#[test]
fn everything_is_counted() {
    let mut state = state();
    for region in state.regions.values_mut() {
        region.services.clear();
    }
    let responder = responder();
    responder.set_state(state.into());
    ask(&responder, &QueryBytes::new("www.lb.example.com", "A"));
    ask(&responder, &QueryBytes::new("missing.lb.example.com", "A"));
    ask_bytes(&responder, &[0; 12], Transport::Tcp);
    ask_bytes(&responder, &[0; 3], Transport::Udp);
    let counted = responder.counters().snapshot();
    assert_eq!((counted.queries_udp, counted.queries_tcp, counted.dropped, counted.fail_open), (3, 1, 1, 1));
    assert_eq!(counted.rcodes, [(Rcode::NOERROR, 1), (Rcode::FORMERR, 1), (Rcode::NXDOMAIN, 1)]);
}

#[test]
fn an_empty_responder_refuses() {
    let responder = Responder::new(Table::empty(), 1);
    assert_eq!(ask(&responder, &QueryBytes::new("www.lb.example.com", "A")).rcode(), Rcode::REFUSED);
    // A table without any state: the addresses are not known here, but may be elsewhere.
    responder.set_table(Table::build(&table_spec()).unwrap().into());
    let read = ask(&responder, &QueryBytes::new("www.lb.example.com", "A"));
    assert_eq!((read.rcode(), read.authority().len()), (Rcode::SERVFAIL, 0));
}

#[test]
fn a_zone_below_another_answers_for_itself() {
    let mut spec = table_spec();
    let mut parent = spec.zones[0].clone();
    parent.name = "example.com".into();
    parent.steers.clear();
    parent.records = vec![record("lb", "NS", "ns1.lb"), record("ns1.lb", "A", "192.0.2.1")];
    spec.zones.push(parent);
    let responder = Responder::new(Table::build(&spec).unwrap(), 1);
    let www = ask(&responder, &QueryBytes::new("www.lb.example.com", "TXT"));
    assert!(www.message.metadata.authoritative);
    assert_eq!(www.answers().len(), 1);
    let ds = ask(&responder, &QueryBytes::new("lb.example.com", "DS"));
    assert!(ds.authority()[0].starts_with("example.com. SOA"), "{ds:?}");
}

#[test]
fn explanations_tell_what_answers_did() {
    let mut state = state();
    state.regions.get_mut("eu").unwrap().services.clear();
    let responder = responder();
    responder.set_state(state.into());
    let client: IpNet = "10.1.2.3/32".parse().unwrap();
    let told = responder.explain("alias.lb.example.com", "A", client, start().monotonic).unwrap();
    let steering = told.steering.unwrap();
    assert_eq!(told.zone.as_deref(), Some("lb.example.com."));
    assert_eq!(steering.order, ["eu", "us", "ap"]);
    assert_eq!(steering.skipped, [("eu".to_owned(), crate::explain::Skip::Unhealthy)]);
    assert_eq!((steering.region.as_deref(), steering.scope), (Some("us"), 16));
    assert_eq!((steering.chosen.len(), told.ttl), (2, Some(30)));
    assert!(responder.explain("a..b", "A", client, start().monotonic).is_err());
    assert_eq!(
        responder.explain("a", "B", client, start().monotonic).unwrap_err().to_string(),
        "`B` is no record type, such as A or AAAA"
    );
}

#[test]
fn explanations_tell_what_a_policy_went_by() {
    let mut state = state();
    state.regions.get_mut("eu").unwrap().services.get_mut("web").unwrap().healthy = false;
    state.regions.get_mut("us").unwrap().services.get_mut("web").unwrap().free = 300;
    state.rtt.insert(("eu".into(), "us".into()), Duration::from_millis(80));
    let responder = responder();
    let explain = |state: &State, name: &str| {
        responder.set_state(state.clone().into());
        let client: IpNet = "10.1.2.0/24".parse().unwrap();
        responder.explain(&format!("{name}.lb.example.com"), "A", client, start().monotonic).unwrap()
    };
    let even = explain(&state, "even").steering.unwrap();
    assert_eq!(even.policy.as_str(), "weighted");
    assert_eq!(even.shares, [("us".to_owned(), 300), ("ap".to_owned(), 100)]);
    assert_eq!(even.skipped, [("eu".to_owned(), crate::explain::Skip::Unhealthy)]);
    assert_eq!((even.looked_up.to_string().as_str(), even.service.as_str()), ("10.1.2.0", "web"));
    assert_eq!(even.scope_prefix.to_string(), "10.1.0.0/16");

    let fast = explain(&state, "fast").steering.unwrap();
    let measured = fast.measured.unwrap();
    assert_eq!(measured.from, "eu");
    let expected = [("eu", Some(0)), ("us", Some(80)), ("ap", None)]
        .map(|(region, millis)| (region.to_owned(), millis.map(Duration::from_millis)));
    assert_eq!(measured.to, expected);
    assert!(even.measured.is_none() && fast.shares.is_empty());

    // None of the order is healthy, and one beside it is; another one of the order nobody has heard of.
    for region in ["us", "ap"] {
        state.regions.get_mut(region).unwrap().services.clear();
    }
    state.regions.get_mut("eu").unwrap().services.get_mut("web").unwrap().healthy = true;
    let pair = explain(&state, "pair").steering.unwrap();
    assert_eq!((pair.step, pair.unnamed.as_slice()), (Step::FailOpen, ["eu".to_owned()].as_slice()));
    assert_eq!(pair.unknown, [""; 0]);
    let mut spec = table_spec();
    spec.zones[0].steers =
        vec![crate::fixtures::steer("typo", Policy::Failover(vec!["ue".into(), "eu".into()]), 1)];
    responder.set_table(Table::build(&spec).unwrap().into());
    let typo = explain(&state, "typo").steering.unwrap();
    assert_eq!((typo.unknown, typo.unnamed, typo.region.as_deref()), (vec!["ue".into()], vec![], Some("eu")));
}

#[test]
fn explanations_tell_of_a_delegation() {
    let client: IpNet = "10.1.2.0/24".parse().unwrap();
    let told = |name| responder().explain(name, "A", client, start().monotonic).unwrap();
    let below = told("host.child.lb.example.com");
    assert_eq!((below.answers.len(), below.rcode.as_str()), (0, "NOERROR"));
    assert_eq!(
        below.referral,
        ["child.lb.example.com. NS ns.child.lb.example.com.", "child.lb.example.com. NS ns.example.net."]
    );
    assert!(told("www.lb.example.com").referral.is_empty() && told("no.lb.example.com").referral.is_empty());
}

#[test]
fn golden_bytes() {
    let responder = Responder::new(Table::build(&TableSpec { serial: 1, ..table_spec() }).unwrap(), 7);
    let read = ask(&responder, &QueryBytes::new("a.wild.lb.example.com", "A").subnet("10.1.0.0/16"));
    let mut expected = b"\xab\xcd\x85\x00\x00\x01\x00\x01\x00\x00\x00\x01".to_vec();
    expected.extend_from_slice(b"\x01a\x04wild\x02lb\x07example\x03com\x00\x00\x01\x00\x01");
    expected.extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\xc0\x00\x02\x09");
    expected.extend_from_slice(
        b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x0a\x00\x08\x00\x06\x00\x01\x10\x00\x0a\x01",
    );
    assert_eq!(read.bytes, expected);
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_dropped(bytes in prop::collection::vec(any::<u8>(), 0..600), udp in any::<bool>()) {
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        let read = ask_bytes(&responder(), &bytes, transport);
        let droppable = bytes.len() < 12 || bytes[2] & 0x80 != 0;
        prop_assert_eq!(read.is_none(), droppable);
    }

    /// A message that is nearly right gets deeper into the parser than random bytes.
    #[test]
    fn any_damaged_query_is_answered(
        label in "[a-z*.]{1,20}", kind in 0u16..300, payload in any::<u16>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(), whole in any::<bool>(),
    ) {
        let mut query = QueryBytes::new("www.lb.example.com", "A").subnet("10.1.0.0/16");
        if let Ok(name) = crate::name::Name::parse_absolute(&zone_name(&label)) {
            query.name = name.wire().to_vec();
        }
        query.kind = kind;
        query.opt.as_mut().unwrap().payload = payload;
        let mut bytes = query.bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(read) = ask_bytes(&responder(), &bytes, Transport::Udp) {
            prop_assert!(read.bytes.len() <= 1232);
            prop_assert_eq!(&read.bytes[..2], &bytes[..2]);
            prop_assert!(read.bytes[2] & 0x80 != 0);
        }
    }
}
