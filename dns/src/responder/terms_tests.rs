//! Cookies, NSID, limits, transfers and hints: what depends on who asks.

use std::time::Duration;

use hickory_proto::op::ResponseCode;

use super::*;
use crate::fixtures::{QueryBytes, Read, record, responder, start, state, table_spec};
use crate::limit::ResponseRate;
use crate::spec::TableSpec;
use crate::terms::CookieSecret;
use crate::transfer::Next;

const OUTSIDE: &str = "198.51.100.7:5353";

fn with_terms(terms: Terms) -> Responder {
    let responder = responder();
    responder.set_terms(terms);
    responder
}

fn query(label: &str, kind: &str) -> QueryBytes {
    QueryBytes::new(&format!("{label}.lb.example.com"), kind).edns()
}

/// What `from` is answered; `None`: nothing.
fn asked(clerk: &mut Clerk, query: &QueryBytes, from: &str, transport: Transport) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let verdict = clerk.respond(&query.bytes(), from.parse().unwrap(), transport, start(), &mut out);
    (verdict != Verdict::Drop).then_some(out)
}

/// The data of an option of the answer's OPT record, which ends it.
fn option(answer: &[u8], code: u16) -> Option<Vec<u8>> {
    let opt = answer.windows(3).rposition(|window| window == [0, 0, 41])?;
    let mut options = &answer[opt + 11..];
    while let Some((head, rest)) = options.split_first_chunk::<4>() {
        let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([head[2], head[3]])));
        if u16::from_be_bytes([head[0], head[1]]) == code {
            return Some(value.to_vec());
        }
        options = rest;
    }
    None
}

#[test]
fn a_cookie_is_answered_with_one_of_the_mesh() {
    let terms = Terms { cookie_secrets: vec![CookieSecret([7; 16])], ..Terms::default() };
    let (one, other) = (with_terms(terms.clone()), with_terms(terms));
    let bare = query("www", "A").option(10, &[1; 8]);
    let answer = asked(&mut one.clerk(), &bare, OUTSIDE, Transport::Udp).unwrap();
    assert_eq!(Read::new(answer.clone()).addresses().len(), 2, "a client without a cookie is served");
    let told = option(&answer, 10).unwrap();
    assert_eq!((told.len(), &told[..8]), (24, [1; 8].as_slice()));
    // Another server of the mesh knows it, and tells it again while it is young.
    let shown = query("www", "A").option(10, &told);
    let again = asked(&mut other.clerk(), &shown, OUTSIDE, Transport::Udp).unwrap();
    assert_eq!(option(&again, 10).unwrap(), told);
    // Without a secret there are no cookies, and none in an answer to a query without one.
    assert_eq!(option(&asked(&mut responder().clerk(), &bare, OUTSIDE, Transport::Udp).unwrap(), 10), None);
    let plain = asked(&mut one.clerk(), &query("www", "A"), OUTSIDE, Transport::Udp).unwrap();
    assert_eq!(option(&plain, 10), None);
}

#[test]
fn a_query_for_a_cookie_alone_needs_no_question() {
    let terms = Terms { cookie_secrets: vec![CookieSecret([7; 16])], ..Terms::default() };
    let asks = |responder: &Responder, cookie: &[u8]| {
        let mut bytes = vec![0xab, 0xcd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&[cookie.len() as u8 + 4, 0, 10, 0, cookie.len() as u8]);
        bytes.extend_from_slice(cookie);
        let mut out = Vec::new();
        let from = OUTSIDE.parse().unwrap();
        let verdict = responder.clerk().respond(&bytes, from, Transport::Udp, start(), &mut out);
        (verdict, option(&out, 10))
    };
    let knows = with_terms(terms);
    let (verdict, told) = asks(&knows, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let told = told.unwrap();
    assert_eq!((verdict, told.len()), (Verdict::Reply(Rcode::NOERROR), 24));
    // Whether one is still good can be asked too; who has a bad one gets a good one with the answer.
    assert_eq!(asks(&knows, &told), (Verdict::Reply(Rcode::NOERROR), Some(told.clone())));
    for wrong in [[&told[..23], &[!told[23]]].concat(), told[..16].to_vec(), [&told[..], &[0]].concat()] {
        assert_eq!(asks(&knows, &wrong), (Verdict::Reply(Rcode::BADCOOKIE), Some(told.clone())));
    }
    // Where no cookies are made none is wrong.
    assert_eq!(asks(&responder(), &told).0, Verdict::Reply(Rcode::NOERROR));
}

#[test]
fn cookies_of_a_wrong_length_are_form_errors() {
    for length in [0, 7, 9, 15, 41] {
        let wrong = query("www", "A").option(10, &vec![0; length]);
        let read = Read::new(asked(&mut responder().clerk(), &wrong, OUTSIDE, Transport::Udp).unwrap());
        assert_eq!(read.rcode(), Rcode::FORMERR, "{length}");
    }
}

#[test]
fn who_asks_for_the_servers_name_is_told_it() {
    let responder = with_terms(Terms { nsid: b"eu-1".to_vec(), ..Terms::default() });
    let asks = query("www", "A").option(3, &[]);
    assert_eq!(
        option(&asked(&mut responder.clerk(), &asks, OUTSIDE, Transport::Udp).unwrap(), 3).unwrap(),
        b"eu-1"
    );
    let silent = asked(&mut responder.clerk(), &query("www", "A"), OUTSIDE, Transport::Udp).unwrap();
    assert_eq!(option(&silent, 3), None);
}

#[test]
fn a_flood_is_limited_but_not_who_is_known() {
    let responder = with_terms(Terms {
        cookie_secrets: vec![CookieSecret([7; 16])],
        response_rate: Some(ResponseRate { per_second: 10, slip: 2 }),
        ..Terms::default()
    });
    let mut clerk = responder.clerk();
    let plain = query("www", "A");
    let flood: Vec<_> = (0..1000).map(|_| asked(&mut clerk, &plain, OUTSIDE, Transport::Udp)).collect();
    let reads: Vec<Read> = flood.into_iter().flatten().map(Read::new).collect();
    let whole = reads.iter().filter(|read| !read.addresses().is_empty()).count();
    let cut = reads.iter().filter(|read| read.message.metadata.truncation).count();
    // A test that takes long gets a few more.
    assert!((10..100).contains(&whole), "{whole}");
    assert!((350..650).contains(&cut) && whole + cut == reads.len(), "{cut} of {}", reads.len());
    let counted = responder.counters().snapshot();
    assert_eq!(counted.limited + whole as u64, 1000);
    assert_eq!(counted.dropped + reads.len() as u64, 1000);

    // Another network, TCP, and one who shows its cookie are served.
    let served =
        |answer: Option<Vec<u8>>| answer.is_some_and(|answer| Read::new(answer).addresses().len() == 2);
    assert!(served(asked(&mut clerk, &plain, "203.0.113.1:53", Transport::Udp)));
    assert!(served(asked(&mut clerk, &plain, OUTSIDE, Transport::Tcp)));
    let bare = query("www", "A").option(10, &[1; 8]);
    let told = (0..1000).find_map(|_| asked(&mut clerk, &bare, OUTSIDE, Transport::Udp)).unwrap();
    let read = Read::new(told.clone());
    assert_eq!(read.message.metadata.response_code, ResponseCode::BADCOOKIE);
    let known = query("www", "A").option(10, &option(&told, 10).unwrap());
    for _ in 0..100 {
        assert!(served(asked(&mut clerk, &known, OUTSIDE, Transport::Udp)));
    }
}

#[test]
fn secrets_rotate_without_a_break() {
    let terms = |secrets: &[u8]| Terms {
        cookie_secrets: secrets.iter().map(|byte| CookieSecret([*byte; 16])).collect(),
        response_rate: Some(ResponseRate { per_second: 1, slip: 0 }),
        ..Terms::default()
    };
    let responder = with_terms(terms(&[1]));
    let mut clerk = responder.clerk();
    let mut ask =
        |cookie: &[u8]| asked(&mut clerk, &query("www", "A").option(10, cookie), OUTSIDE, Transport::Udp);
    let old = option(&ask(&[1; 8]).unwrap(), 10).unwrap();
    // Installed, in use, alone. Who shows a cookie of a secret that is known is told one of the first.
    responder.set_terms(terms(&[1, 2]));
    assert_eq!(option(&ask(&old).unwrap(), 10), Some(old.clone()));
    responder.set_terms(terms(&[2, 1]));
    let new = option(&ask(&old).unwrap(), 10).unwrap();
    assert_ne!(new, old);
    responder.set_terms(terms(&[2]));
    assert_eq!(option(&ask(&new).unwrap(), 10), Some(new));
    // The old cookie is no excuse any more, and a flood is over its limit whatever becomes of the secrets.
    while ask(&old).is_some() {}
    responder.set_terms(terms(&[2, 3]));
    assert!(ask(&old).is_none());
}

#[test]
fn a_zone_is_given_whole_to_those_listed() {
    let mut spec = table_spec();
    let many =
        (0..3000).map(|number| record(&format!("host{number}"), "TXT", "some text to fill messages with"));
    spec.zones[0].records.extend(many);
    let responder = Responder::new(Table::build(&spec).unwrap(), 7);
    responder.set_state(state().into());
    let terms = || Terms { transfer: vec!["198.51.100.0/24".parse().unwrap()], ..Terms::default() };
    let query = |name: &str, kind: u16| QueryBytes { kind, ..QueryBytes::new(name, "A") }.bytes();
    let begin = |name, kind, from: &str| {
        responder.set_terms(terms());
        responder.clerk().transfer(&query(name, kind), from.parse().unwrap(), start())
    };
    assert!(begin("lb.example.com", 252, "203.0.113.1:53").is_none(), "not listed");
    assert!(begin("www.lb.example.com", 252, OUTSIDE).is_none(), "no zone");
    assert!(begin("example.org", 252, OUTSIDE).is_none(), "not served");
    assert!(begin("lb.example.com", 1, OUTSIDE).is_none(), "no transfer");
    let why = |name: &str, from, transport| {
        let query = QueryBytes { kind: 252, ..QueryBytes::new(name, "A") }.edns();
        let answer = asked(&mut responder.clerk(), &query, from, transport).unwrap();
        assert_eq!(Read::new(answer.clone()).rcode(), Rcode::REFUSED);
        option(&answer, 15).map(|why| (why[1], String::from_utf8(why[2..].to_vec()).unwrap()))
    };
    let stranger = "203.0.113.1:53";
    assert_eq!(why("lb.example.com", stranger, Transport::Tcp), Some((18, String::new())));
    assert_eq!(
        why("example.org", stranger, Transport::Tcp),
        Some((18, String::new())),
        "nothing is given away"
    );
    assert_eq!(why("example.org", OUTSIDE, Transport::Tcp), Some((20, String::new())));
    assert_eq!(why("lb.example.com", OUTSIDE, Transport::Udp), Some((21, "zones are given over TCP".into())));
    for kind in [252, 251] {
        let mut transfer = begin("LB.example.com", kind, OUTSIDE).unwrap();
        let (mut out, mut records, mut messages) = (Vec::new(), Vec::new(), 0);
        while transfer.next(&mut out) == Next::Message {
            assert!(out.len() < 17_000);
            let read = Read::new(out.clone());
            assert!(read.message.metadata.authoritative);
            records.extend(read.message.answers);
            messages += 1;
        }
        assert!(messages > 5, "{messages}");
        let kinds: Vec<String> = records.iter().map(|record| record.record_type().to_string()).collect();
        assert_eq!((kinds.first(), kinds.last()), (kinds.last(), kinds.first()));
        assert_eq!(kinds.iter().filter(|kind| *kind == "SOA").count(), 2);
        assert_eq!(records.iter().filter(|record| record.name.to_string().starts_with("host")).count(), 3002);
        // Steered names as this client sees them: two of its region, which is that of the server.
        let www: Vec<String> = records
            .iter()
            .filter(|record| {
                record.name.to_string() == "www.lb.example.com." && record.record_type().to_string() == "A"
            })
            .map(|record| record.data.to_string())
            .collect();
        assert!(www.len() == 2 && www.iter().all(|address| address.starts_with("127.2.")), "{www:?}");
    }
}

/// A TXT value of at least so many bytes in wire form, in strings of 200 and one of its own.
fn text(bytes: usize, last: usize) -> String {
    let mut value = ["\"", &"x".repeat(200), "\" "].concat().repeat(bytes / 201);
    value.push_str(&format!("\"{}\"", "y".repeat(last)));
    value
}

/// All records of a transfer to a client that is told of both families, and the length of the longest message.
fn transferred(zone: &TableSpec) -> (Vec<String>, usize) {
    let responder = Responder::new(Table::build(zone).unwrap(), 7);
    responder.set_state(state().into());
    responder.set_terms(Terms { transfer: vec!["10.1.0.0/16".parse().unwrap()], ..Terms::default() });
    let query = QueryBytes { kind: 252, ..QueryBytes::new("lb.example.com", "A") }.bytes();
    let mut transfer = responder.clerk().transfer(&query, "10.1.0.1:53".parse().unwrap(), start()).unwrap();
    let (mut out, mut records, mut longest) = (Vec::new(), Vec::new(), 0);
    for _ in 0..100 {
        longest = longest.max(out.len());
        match transfer.next(&mut out) {
            Next::Message => records.extend(Read::new(out.clone()).answers()),
            Next::Failure => panic!("everything fits"),
            Next::End => return (records, longest),
        }
    }
    panic!("a transfer that does not end")
}

#[test]
fn a_long_set_is_answered_and_transferred_whole() {
    let mut spec = table_spec();
    // The data of the last record begins behind 0xC000.
    for index in 0..280 {
        let text = format!("\"{index:03}{}\"", "x".repeat(190));
        spec.zones[0].records.push(record("long", "TXT", &text));
    }
    // Each owner would be as long as ten of these records.
    let deep = ["y".repeat(60), "y".repeat(60), "y".repeat(60)].join(".");
    for index in 0..2_000 {
        spec.zones[0].records.push(record(&deep, "A", &format!("192.0.{}.{}", index / 250, index % 250)));
    }
    let responder = Responder::new(Table::build(&spec).unwrap(), 7);
    let whole = asked(&mut responder.clerk(), &query("long", "TXT"), OUTSIDE, Transport::Tcp).unwrap();
    let whole = Read::new(whole);
    assert!(!whole.message.metadata.truncation && whole.answers().len() == 280, "{}", whole.answers().len());
    let (records, _) = transferred(&spec);
    assert_eq!(records.iter().filter(|record| record.starts_with("long.")).count(), 280);
    assert_eq!(records.iter().filter(|record| record.starts_with("yyy")).count(), 2_000);
}

#[test]
fn no_steered_address_is_transferred_twice() {
    let mut near = false;
    for last in 0..200 {
        let mut spec = table_spec();
        spec.zones[0].steers.truncate(1);
        spec.zones[0].records =
            vec![record("www", "TXT", &text(59_500, last)), record("@", "TXT", &text(5_500, 200))];
        let (records, longest) = transferred(&spec);
        let addresses: Vec<&String> =
            records.iter().filter(|record| record.starts_with("www.") && !record.contains(" TXT ")).collect();
        let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!((addresses.len(), distinct.len()), (4, 4), "{addresses:?}");
        // Behind this text there was room for the addresses of one family alone.
        near |= (65_535 - 90..65_535 - 45).contains(&longest);
    }
    assert!(near);
}

#[test]
fn hints_are_the_steered_addresses_of_who_asks() {
    let mut spec = table_spec();
    spec.zones[0].records.push(record("www", "HTTPS", "1 . alpn=h2 port=8443 key65280=x"));
    let responder = Responder::new(Table::build(&TableSpec { ..spec }).unwrap(), 7);
    responder.set_state(state().into());
    let ask = |subnet: &str| {
        let query = QueryBytes::new("www.lb.example.com", "HTTPS").subnet(subnet);
        Read::new(asked(&mut responder.clerk(), &query, OUTSIDE, Transport::Udp).unwrap())
    };
    let eu = ask("10.1.7.0/24");
    let text = eu.answers().remove(0);
    assert_eq!(eu.subnet().unwrap()[3], 16, "the answer depends on the client");
    for hint in
        ["127.1.0.1", "127.1.0.2", "2001:db8:1::1", "2001:db8:1::2", "alpn=h2", "port=8443", "key65280"]
    {
        assert!(text.contains(hint), "{text} {hint}");
    }
    let us = ask("10.2.0.0/16").answers().remove(0);
    assert!(us.contains("127.2.0.1") && !us.contains("ipv6hint") && !us.contains("127.1."), "{us}");
    // Towards a change the hints live no longer than the addresses.
    let mut uneasy = state();
    uneasy.ttl_ceiling = Some(Duration::from_secs(5));
    responder.set_state(uneasy.into());
    assert!(ask("10.1.7.0/24").answers()[0].starts_with("www.lb.example.com. HTTPS 5 1 . "));
    // Without any node the record stands alone.
    responder.set_state(Arc::default());
    assert!(!ask("10.1.7.0/24").answers()[0].contains("hint"));
}
