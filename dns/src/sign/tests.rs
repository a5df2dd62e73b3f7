//! What is signed is verified by hickory, as a resolver would: set by set, with the key that the zone publishes.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, RRSIG};
use hickory_proto::dnssec::{DigestType, Verifier};
use hickory_proto::op::Message;
use hickory_proto::rr::{Name as HickoryName, RData, Record, RecordType};
use proptest::prelude::*;

use super::SigningKey;
use crate::fixtures::{
    QueryBytes, RESOLVER, Read, ask, ask_bytes, node, record, responder, start, state, table_spec,
};
use crate::moment::Moment;
use crate::name::Name;
use crate::responder::{Responder, Transport, Verdict};
use crate::spec::{Signing, TableSpec};
use crate::table::Table;
use crate::wire::Rcode;

/// One key for all tests, made when the first needs it.
static KEYS: LazyLock<[SigningKey; 3]> =
    LazyLock::new(|| [(); 3].map(|()| SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()));

fn signed_spec(keys: &[SigningKey]) -> TableSpec {
    let mut spec = table_spec();
    let zone = &mut spec.zones[0];
    zone.signed = Some(Signing { keys: keys.to_vec(), all_sign: false, ..Signing::default() });
    zone.records.push(record("safe", "NS", "ns.child"));
    zone.records.push(record(
        "safe",
        "DS",
        "12345 13 2 \
        0000000000000000000000000000000000000000000000000000000000000000",
    ));
    zone.records.push(record("www", "HTTPS", "1 . alpn=h2"));
    zone.records.push(record("Mixed", "MX", "10 MAIL.Example.COM."));
    zone.records.push(record("mixed", "SRV", "0 0 80 Host.DEEP"));
    zone.records.push(record("big", "TXT", &["\"", &"x".repeat(200), "\" "].concat().repeat(5)));
    spec
}

fn signing(keys: &[SigningKey]) -> Responder {
    let responder = Responder::new(Table::build(&signed_spec(keys)).unwrap(), 7);
    responder.set_state(state().into());
    responder
}

fn signer() -> Responder {
    signing(&KEYS[..1])
}

/// A question of a resolver that validates.
fn validating(name: &str, kind: &str) -> QueryBytes {
    flagged(name, kind, 0x8000)
}

fn flagged(name: &str, kind: &str, flags: u16) -> QueryBytes {
    let mut query = QueryBytes::new(name, kind).edns();
    query.opt.as_mut().unwrap().flags = flags;
    query
}

fn rrsig(record: &Record) -> Option<&RRSIG> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => Some(rrsig),
        _ => None,
    }
}

/// The published keys, by tag.
fn published(responder: &Responder) -> Vec<DNSKEY> {
    let answer =
        ask_bytes(responder, &validating("lb.example.com", "DNSKEY").bytes(), Transport::Tcp).unwrap();
    let keys = answer.message.answers.iter().filter_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::DNSKEY(key)) => Some(key.clone()),
        _ => None,
    });
    keys.collect()
}

/// Checks every signature of a section, and says which sets have how many; those of none are not signed.
fn verify(records: &[Record], keys: &[DNSKEY]) -> BTreeMap<(String, RecordType), usize> {
    let mut sets = BTreeMap::new();
    for record in records.iter().filter(|record| rrsig(record).is_none()) {
        sets.insert((record.name.to_lowercase().to_string(), record.record_type()), 0);
    }
    for record in records {
        let Some(rrsig) = rrsig(record) else { continue };
        let input = rrsig.input();
        let covered: Vec<&Record> = records
            .iter()
            .filter(|other| other.name == record.name && other.record_type() == input.type_covered)
            .collect();
        // RFC 4034 §3: the TTLs are equal.
        assert!(covered.iter().all(|other| other.ttl == record.ttl && other.ttl <= input.original_ttl));
        let labels = record.name.num_labels();
        assert_eq!(input.num_labels, labels, "signed as the name that was asked for");
        let key = keys.iter().find(|key| key.calculate_key_tag().unwrap() == input.key_tag).unwrap();
        let verified = key.verify_rrsig(&record.name, record.dns_class, rrsig, covered.into_iter());
        assert!(verified.is_ok(), "{record}: {verified:?}");
        let count = sets.get_mut(&(record.name.to_lowercase().to_string(), input.type_covered));
        *count.unwrap_or_else(|| panic!("a signature of nothing: {record}")) += 1;
    }
    sets
}

/// Everything in the answer and authority sections is signed but the name servers of a delegation.
fn check(read: &Read, keys: &[DNSKEY]) {
    let message = &read.message;
    assert!(!message.metadata.authentic_data, "nobody validated it");
    for records in [&message.answers, &message.authorities] {
        for ((name, kind), signatures) in verify(records, keys) {
            let delegation = kind == RecordType::NS && name != "lb.example.com.";
            assert_eq!(signatures > 0, !delegation, "{name} {kind}\n{message}");
        }
    }
    verify(&message.additionals, keys);
}

fn nsec(read: &Read) -> Option<String> {
    let nsec = read.message.authorities.iter().find(|record| record.record_type() == RecordType::NSEC)?;
    Some(format!("{} {}", nsec.name, nsec.data))
}

#[test]
fn every_kind_of_answer_is_signed() {
    let responder = signer();
    let keys = published(&responder);
    assert_eq!(keys.len(), 1);
    for (name, kind, rcode, answers) in [
        ("lb.example.com", "SOA", Rcode::NOERROR, 2),
        ("lb.example.com", "NS", Rcode::NOERROR, 3),
        ("lb.example.com", "DNSKEY", Rcode::NOERROR, 2),
        ("lb.example.com", "CDS", Rcode::NOERROR, 2),
        ("lb.example.com", "CDNSKEY", Rcode::NOERROR, 2),
        ("lb.example.com", "MX", Rcode::NOERROR, 2),
        ("lb.example.com", "ANY", Rcode::NOERROR, 2),
        ("WWW.lb.Example.com", "A", Rcode::NOERROR, 3),
        ("www.lb.example.com", "TXT", Rcode::NOERROR, 2),
        ("www.lb.example.com", "HTTPS", Rcode::NOERROR, 2),
        ("www.lb.example.com", "AAAA", Rcode::NOERROR, 3),
        ("www.lb.example.com", "ANY", Rcode::NOERROR, 2),
        ("www.lb.example.com", "NSEC", Rcode::NOERROR, 2),
        ("x.y.any.lb.example.com", "A", Rcode::NOERROR, 2),
        ("*.any.lb.example.com", "A", Rcode::NOERROR, 2),
        ("host.deep.lb.example.com", "A", Rcode::NOERROR, 3),
        ("deep.lb.example.com", "A", Rcode::NOERROR, 0),
        ("x.wild.lb.example.com", "A", Rcode::NOERROR, 2),
        ("x.wild.lb.example.com", "MX", Rcode::NOERROR, 0),
        ("chain.lb.example.com", "A", Rcode::NOERROR, 7),
        ("out.lb.example.com", "A", Rcode::NOERROR, 2),
        ("dangling.lb.example.com", "A", Rcode::NOERROR, 2),
        ("y.aliases.lb.example.com", "A", Rcode::NOERROR, 5),
        ("mixed.lb.example.com", "MX", Rcode::NOERROR, 2),
        ("MIXED.lb.example.com", "SRV", Rcode::NOERROR, 2),
        ("odd.lb.example.com", "TYPE65280", Rcode::NOERROR, 2),
        ("missing.lb.example.com", "A", Rcode::NOERROR, 0),
        ("a.child.lb.example.com", "A", Rcode::NOERROR, 0),
        ("child.lb.example.com", "DS", Rcode::NOERROR, 0),
        ("safe.lb.example.com", "DS", Rcode::NOERROR, 2),
        ("b.safe.lb.example.com", "A", Rcode::NOERROR, 0),
    ] {
        let read = ask(&responder, &validating(name, kind));
        assert_eq!(
            (read.rcode(), read.message.answers.len()),
            (rcode, answers),
            "{name} {kind}: {}",
            read.message
        );
        assert!(!read.message.metadata.truncation);
        check(&read, &keys);
    }
}

#[test]
fn what_is_not_there_is_denied_at_its_name() {
    let responder = signer();
    let at = |name: &str, kind: &str| nsec(&ask(&responder, &validating(name, kind))).unwrap();
    let zone = "lb.example.com.";
    // What hickory does not know is NXNAME.
    assert_eq!(at("a.lb.example.com", "A"), format!(r"a.{zone} \000.a.{zone} RRSIG NSEC Unknown"));
    assert_eq!(at("deep.lb.example.com", "A"), format!(r"deep.{zone} \000.deep.{zone} RRSIG NSEC"));
    assert_eq!(
        at("www.lb.example.com", "MX"),
        format!(r"www.{zone} \000.www.{zone} A TXT AAAA RRSIG NSEC HTTPS")
    );
    assert_eq!(at("q.wild.lb.example.com", "MX"), format!(r"q.wild.{zone} \000.q.wild.{zone} A RRSIG NSEC"));
    assert_eq!(at("a.child.lb.example.com", "A"), format!(r"child.{zone} child\000.{zone} NS RRSIG NSEC"));
    assert_eq!(at("child.lb.example.com", "DS"), format!(r"child.{zone} child\000.{zone} NS RRSIG NSEC"));
    assert_eq!(
        at("dangling.lb.example.com", "A"),
        format!(r"missing.{zone} \000.missing.{zone} RRSIG NSEC Unknown")
    );
    assert_eq!(
        at("lb.example.com", "CAA"),
        format!(r"{zone} \000.{zone} NS SOA MX TXT RRSIG NSEC DNSKEY CDS CDNSKEY")
    );
    assert_eq!(nsec(&ask(&responder, &validating("b.safe.lb.example.com", "A"))), None, "a DS instead");
}

#[test]
fn what_no_node_has_is_denied_for_the_moment() {
    let responder = signer();
    let mut state = state();
    state.regions.remove("eu");
    state.ttl_ceiling = Some(Duration::from_secs(7));
    responder.set_state(state.into());
    let keys = published(&responder);
    let zone = "lb.example.com.";
    let without = format!(r"www.{zone} \000.www.{zone} A TXT RRSIG NSEC HTTPS");
    for kind in ["AAAA", "MX"] {
        let read = ask(&responder, &validating("www.lb.example.com", kind));
        assert_eq!(nsec(&read).unwrap(), without, "{kind}");
        assert!(read.message.authorities.iter().all(|record| record.ttl == 7), "{}", read.message);
        check(&read, &keys);
    }
    let told = ask(&responder, &validating("www.lb.example.com", "NSEC"));
    assert!(
        told.answers()[0].starts_with(&format!(r"www.{zone} NSEC 7 \000.www.{zone} A TXT RRSIG")),
        "{told:?}"
    );
    check(&told, &keys);
    // A name that is not steered is what it is.
    let still = ask(&responder, &validating("deep.lb.example.com", "AAAA"));
    assert!(still.message.authorities.iter().all(|record| record.ttl == 30), "{}", still.message);
}

#[test]
fn nothing_outlives_its_signature_in_a_cache() {
    let mut spec = signed_spec(&KEYS[..1]);
    let week = Duration::from_secs(7 * 86_400);
    spec.zones[0].ttl = week;
    let responder = Responder::new(Table::build(&spec).unwrap(), 7);
    responder.set_state(state().into());
    let keys = published(&responder);
    for (name, kind) in [
        ("www", "A"),
        ("www", "HTTPS"),
        ("host.deep", "A"),
        ("host.deep", "MX"),
        ("x", "A"),
        ("safe", "DS"),
        ("a.child", "A"),
    ] {
        let read = ask(&responder, &validating(&format!("{name}.lb.example.com"), kind));
        check(&read, &keys);
        for record in read.message.answers.iter().chain(&read.message.authorities) {
            let Some(rrsig) = rrsig(record) else { continue };
            let expires = u64::from(rrsig.input().sig_expiration.get());
            assert!(start().unix + 3600 + u64::from(record.ttl) < expires, "{record}");
            assert!(rrsig.input().original_ttl <= 2 * 86_400, "{record}");
        }
        assert!(read.message.authorities.iter().all(|record| record.ttl <= 2 * 86_400), "{}", read.message);
    }
    // Without signatures it is as it was asked for.
    spec.zones[0].signed = None;
    let plain = Responder::new(Table::build(&spec).unwrap(), 7);
    let read = ask(&plain, &QueryBytes::new("host.deep.lb.example.com", "A"));
    assert_eq!(u64::from(read.message.answers[0].ttl), week.as_secs());
}

#[test]
fn nxdomain_comes_back_to_who_understands_it() {
    let responder = signer();
    let (name, keys) = ("missing.lb.example.com", published(&responder));
    let plain = ask(&responder, &QueryBytes::new(name, "A"));
    assert_eq!((plain.rcode(), plain.authority().len()), (Rcode::NXDOMAIN, 1));
    let without = ask(&responder, &flagged(name, "A", 0));
    assert_eq!((without.rcode(), without.authority().len()), (Rcode::NXDOMAIN, 1));
    // Of no use without DO, and not repeated then.
    let alone = ask(&responder, &flagged(name, "A", 0x4000));
    assert_eq!((alone.rcode(), alone.authority().len()), (Rcode::NXDOMAIN, 1));
    assert_eq!(alone.message.edns.as_ref().unwrap().flags().z & 0x4000, 0);
    let both = ask(&responder, &flagged(name, "A", 0xc000));
    assert_eq!((both.rcode(), both.authority().len()), (Rcode::NXDOMAIN, 4));
    assert_eq!(both.message.edns.as_ref().unwrap().flags().z & 0x4000, 0x4000);
    check(&both, &keys);
    assert_eq!(ask(&responder, &validating(name, "A")).rcode(), Rcode::NOERROR);
    assert_eq!(ask(&responder, &validating("www.lb.example.com", "TYPE128")).rcode(), Rcode::FORMERR);
}

#[test]
fn who_does_not_ask_for_signatures_gets_none() {
    let (signed, unsigned) = (signer(), responder());
    for (name, kind) in [
        ("www.lb.example.com", "A"),
        ("lb.example.com", "SOA"),
        ("chain.lb.example.com", "A"),
        ("missing.lb.example.com", "A"),
        ("a.child.lb.example.com", "A"),
        ("lb.example.com", "NS"),
        ("deep.lb.example.com", "TXT"),
    ] {
        let read = |responder: &Responder| {
            let read = ask(responder, &QueryBytes::new(name, kind));
            (read.rcode(), read.answers().len(), read.authority(), read.additional())
        };
        assert_eq!(read(&signed), read(&unsigned), "{name} {kind}");
    }
    // Who asks for them by type does.
    for (kind, found) in [("DNSKEY", 1), ("CDS", 1), ("NSEC", 1), ("RRSIG", 1)] {
        let read = ask(&signed, &QueryBytes::new("lb.example.com", kind));
        assert_eq!(read.answers().len(), found, "{kind}: {}", read.message);
    }
    let unsigned = ask(&unsigned, &validating("lb.example.com", "DNSKEY"));
    assert_eq!(
        (unsigned.rcode(), unsigned.answers().len(), unsigned.authority().len()),
        (Rcode::NOERROR, 0, 1)
    );
}

#[test]
fn a_flipped_bit_is_noticed() {
    let responder = signer();
    let keys = published(&responder);
    let good = ask(&responder, &validating("host.deep.lb.example.com", "A"));
    let Some((at, _)) = good.bytes.windows(4).enumerate().find(|(_, bytes)| *bytes == [192, 0, 2, 1]) else {
        panic!("the address stands there")
    };
    let mut bad = good.bytes.clone();
    bad[at + 3] ^= 4;
    let bad = Message::from_vec(&bad).unwrap();
    assert!(std::panic::catch_unwind(|| verify(&bad.answers, &keys)).is_err());
}

#[test]
fn all_keys_are_published_and_the_oldest_signs() {
    let responder = signing(&KEYS[..]);
    let keys = published(&responder);
    assert_eq!(keys.len(), 3);
    let oldest = KEYS[0].tag();
    let set = |kind: &str| {
        let query = validating("lb.example.com", kind).bytes();
        let read = ask_bytes(&responder, &query, Transport::Tcp).unwrap();
        check(&read, &keys);
        let tags: Vec<u16> =
            read.message.answers.iter().filter_map(rrsig).map(|rrsig| rrsig.input().key_tag).collect();
        (read, tags)
    };
    for kind in ["SOA", "MX", "NS"] {
        assert_eq!(set(kind).1, [oldest]);
    }
    // The parent may name any of them.
    for kind in ["DNSKEY", "CDS", "CDNSKEY"] {
        assert_eq!(set(kind).1.len(), 3);
    }
    let mut spec = signed_spec(&KEYS[..]);
    spec.zones[0].signed = Some(Signing { keys: KEYS.to_vec(), all_sign: true, ..Signing::default() });
    let all = Responder::new(Table::build(&spec).unwrap(), 7);
    let read = ask_bytes(&all, &validating("lb.example.com", "MX").bytes(), Transport::Tcp).unwrap();
    check(&read, &keys);
    assert_eq!(read.message.answers.len(), 4, "who knows any one of the keys can validate");
    // One on its way out is still published, and the parent may still name it; it signs nothing else, even though it is the oldest.
    let retiring = Signing { keys: KEYS[1..].to_vec(), all_sign: true, retiring: KEYS[..1].to_vec() };
    spec.zones[0].signed = Some(retiring);
    let leaving = Responder::new(Table::build(&spec).unwrap(), 7);
    for (kind, signatures) in [("MX", KEYS.len() - 1), ("DNSKEY", KEYS.len()), ("CDS", KEYS.len())] {
        let read = ask_bytes(&leaving, &validating("lb.example.com", kind).bytes(), Transport::Tcp).unwrap();
        check(&read, &keys);
        let tags: Vec<u16> =
            read.message.answers.iter().filter_map(rrsig).map(|rrsig| rrsig.input().key_tag).collect();
        assert_eq!(tags.len(), signatures, "{kind}");
        assert_eq!(tags.contains(&oldest), kind != "MX", "{kind}");
    }
    assert_eq!(published(&leaving).len(), KEYS.len());
    let (cds, _) = set("CDS");
    let cds: Vec<u16> = cds
        .message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::DNSSEC(DNSSECRData::CDS(cds)) => Some(cds.key_tag()),
            _ => None,
        })
        .collect();
    assert_eq!(cds, [oldest]);
}

#[test]
fn the_ds_record_covers_the_key() {
    let keys = published(&signer());
    let zone = Name::parse_absolute("LB.example.com").unwrap();
    let ds = KEYS[0].ds(&zone);
    let told = DS::new(
        u16::from_be_bytes([ds[0], ds[1]]),
        hickory_proto::dnssec::Algorithm::from_u8(ds[2]),
        DigestType::from(ds[3]),
        ds[4..].to_vec(),
    );
    let zone: HickoryName = "lb.example.com.".parse().unwrap();
    assert!(told.covers(&zone, &keys[0]).unwrap());
}

#[test]
fn without_its_keys_nobody_answers_a_signed_zone_unsigned() {
    let responder = signing(&[]);
    for kind in ["A", "TXT", "AAAA", "DNSKEY", "NSEC"] {
        assert_eq!(
            ask(&responder, &validating("www.lb.example.com", kind)).rcode(),
            Rcode::SERVFAIL,
            "{kind}"
        );
    }
    assert_eq!(ask(&responder, &QueryBytes::new("lb.example.com", "DNSKEY")).rcode(), Rcode::SERVFAIL);
    // The same with keys and without, so it can be told.
    assert_eq!(ask(&responder, &QueryBytes::new("www.lb.example.com", "A")).rcode(), Rcode::NOERROR);
}

#[test]
fn what_does_not_fit_is_fetched_over_tcp() {
    let responder = signer();
    let keys = published(&responder);
    let mut query = validating("big.lb.example.com", "TXT");
    query.opt.as_mut().unwrap().payload = 1100;
    let cut = ask(&responder, &query);
    assert!(cut.message.metadata.truncation && cut.bytes.len() <= 1100, "{}", cut.bytes.len());
    let whole = ask_bytes(&responder, &query.bytes(), Transport::Tcp).unwrap();
    assert!(!whole.message.metadata.truncation);
    assert_eq!(whole.message.answers.len(), 2);
    check(&whole, &keys);
    // Name servers' addresses are left out before anything is cut.
    let mut query = validating("lb.example.com", "NS");
    query.opt.as_mut().unwrap().payload = 512;
    let read = ask(&responder, &query);
    assert!(!read.message.metadata.truncation && read.bytes.len() <= 512);
    check(&read, &keys);
}

#[test]
fn the_longest_set_behind_the_longest_chain_is_answered_whole() {
    let keys: Vec<SigningKey> =
        (0..8).map(|_| SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()).collect();
    let mut spec = signed_spec(&keys);
    let zone = &mut spec.zones[0];
    zone.signed = Some(Signing { keys, all_sign: true, ..Signing::default() });
    // The signer's name stands in every signature, so that the last aliases stand where no pointer leads.
    zone.name = [60, 60, 60].map(|length| "y".repeat(length)).join(".");
    let label = |index: usize| if index == 8 { "end".to_owned() } else { format!("c{index}") };
    zone.records.extend((0..8).map(|index| record(&label(index), "CNAME", &label(index + 1))));
    for index in 0..174 {
        zone.records.push(record("end", "TXT", &format!("\"{index:03}{}\"", "x".repeat(190))));
    }
    let apex = zone.name.clone();
    let responder = Responder::new(Table::build(&spec).unwrap(), 7);
    let query = validating(&format!("c0.{apex}"), "TXT").bytes();
    let read = ask_bytes(&responder, &query, Transport::Tcp).unwrap();
    assert!(!read.message.metadata.truncation);
    assert_eq!(read.message.answers.len(), 8 + 174 + 9 * 8);
    // Their canonical form is longer than what hickory verifies.
    let texts = read.answers().into_iter().filter(|line| line.starts_with(&format!("end.{apex}. TXT ")));
    assert_eq!(texts.count(), 174);
    assert!(read.bytes.len() > 55_000, "{}", read.bytes.len());
}

#[test]
fn a_signature_is_made_once_an_hour() {
    let responder = signer();
    let mut clerk = responder.clerk();
    let query = validating("host.deep.lb.example.com", "A").bytes();
    let mut out = Vec::new();
    let mut answers = std::collections::BTreeSet::new();
    let now = start();
    for seconds in (0..3 * 3600).step_by(60) {
        let later =
            Moment { monotonic: now.monotonic + Duration::from_secs(seconds), unix: now.unix + seconds };
        clerk.respond(&query, RESOLVER.parse().unwrap(), Transport::Udp, later, &mut out);
        answers.insert(out.clone());
    }
    let made = responder.counters().snapshot().signed;
    assert!((3..=4).contains(&made) && answers.len() as u64 == made, "{made}");
}

#[test]
fn many_nodes_need_few_signatures_and_get_their_shares() {
    let mut spec = signed_spec(&KEYS[..1]);
    spec.zones[0].steers[0].answers = 8;
    let responder = Responder::new(Table::build(&spec).unwrap(), 7);
    let mut all = state();
    let us = all.regions.get_mut("us").unwrap();
    us.nodes = (0..20).map(|at| node(&format!("n{at}"), &[&format!("127.2.1.{at}")])).collect();
    responder.set_state(all.into());
    let query = validating("www.lb.example.com", "A").bytes();
    let (mut clerk, mut out) = (responder.clerk(), Vec::new());
    let mut named = BTreeMap::new();
    let rounds = 20_000;
    for _ in 0..rounds {
        clerk.respond(&query, "127.0.0.1:53".parse().unwrap(), Transport::Udp, start(), &mut out);
        for address in Read::new(out.clone()).addresses() {
            *named.entry(address).or_insert(0u32) += 1;
        }
    }
    // One for each hand, and those again that gave way to others in a full bucket.
    let signed = responder.counters().snapshot().signed;
    assert!(signed <= 1024 + 512, "{signed}");
    let fair = rounds * 8 / 20;
    assert_eq!(named.len(), 20);
    assert!(named.values().all(|count| count.abs_diff(fair) < fair / 5), "{fair}: {named:?}");
}

#[test]
fn floods_of_names_end_at_a_bound() {
    let responder = signer();
    let (mut udp, mut tcp) = (responder.clerk(), responder.clerk());
    let (now, mut out) = (start(), Vec::new());
    let flood =
        |clerk: &mut crate::responder::Clerk, from: &str, transport, out: &mut Vec<u8>, number: u32| {
            let query = validating(&format!("n{number}.lb.example.com"), "A").bytes();
            let verdict = clerk.respond(&query, from.parse().unwrap(), transport, now, out);
            let message = Message::from_vec(out).unwrap();
            (verdict, message.metadata.truncation, message.authorities.len())
        };
    let mut answered = 0;
    for number in 0..5_000 {
        match flood(&mut udp, "203.0.113.9:5353", Transport::Udp, &mut out, number) {
            (Verdict::Reply(Rcode::NOERROR), false, 4) => answered += 1,
            (Verdict::Reply(Rcode::NOERROR), true, 0) => assert!(out.len() < 100),
            other => panic!("{other:?}"),
        }
    }
    assert!((1900..=2000).contains(&answered), "one network: {answered}");
    let refused = (Verdict::Reply(Rcode::SERVFAIL), false, 0);
    assert_eq!(flood(&mut tcp, "203.0.113.9:5353", Transport::Tcp, &mut out, 9_999), refused);
    assert_eq!(responder.counters().snapshot().unsigned, 5_001 - answered);
    // Others are served, and so is the flood's network with what is signed already.
    assert!(!flood(&mut udp, "198.51.100.9:5353", Transport::Udp, &mut out, 5_000).1);
    assert!(!flood(&mut udp, "203.0.113.9:5353", Transport::Udp, &mut out, 5_000).1);
}

#[test]
fn a_signed_zone_is_not_given_away_whole() {
    let responder = signer();
    responder.set_terms(crate::Terms {
        transfer: vec!["198.18.0.0/15".parse().unwrap()],
        ..crate::Terms::default()
    });
    let query = QueryBytes::new("lb.example.com", "TYPE252").bytes();
    assert!(responder.clerk().transfer(&query, RESOLVER.parse().unwrap(), start()).is_none());
    assert_eq!(ask_bytes(&responder, &query, Transport::Tcp).unwrap().rcode(), Rcode::REFUSED);
    // RFC 8914: Not Supported, and what for.
    let query = QueryBytes::new("lb.example.com", "TYPE252").edns().bytes();
    let refused = ask_bytes(&responder, &query, Transport::Tcp).unwrap();
    assert_eq!(refused.rcode(), Rcode::REFUSED);
    let why = b"\0\x15the zone is signed while it is asked (dnssec = true)";
    assert!(refused.bytes.windows(why.len()).any(|window| window == why), "{refused:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_asked_is_signed(
        labels in prop::collection::vec(prop::sample::select(vec![
            "www", "WWW", "*", "any", "alias", "chain", "out", "dangling", "deep", "host", "wild", "there", "aliases",
            "child", "safe", "ns", "ns1", "mixed", "odd", "svc", "x", r"\000", r"\255",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ]), 0..5),
        kind in prop::sample::select(vec![
            "A", "AAAA", "NS", "SOA", "MX", "TXT", "CNAME", "DS", "DNSKEY", "CDS", "NSEC", "HTTPS", "SRV", "ANY", "CAA",
            "TYPE65280", "TYPE1000",
        ]),
        compact in any::<bool>(),
        tcp in any::<bool>(),
        payload in 512u16..1500,
    ) {
        static SIGNER: LazyLock<(Responder, Vec<DNSKEY>)> = LazyLock::new(|| {
            let responder = signing(&KEYS[..2]);
            let keys = published(&responder);
            (responder, keys)
        });
        let (responder, keys) = &*SIGNER;
        let name = [labels.join("."), "lb.example.com".to_owned()].join(".");
        let name = name.trim_start_matches('.');
        prop_assume!(Name::parse_absolute(name).is_ok());
        let mut query = flagged(name, kind, if compact { 0xc000 } else { 0x8000 });
        query.opt.as_mut().unwrap().payload = payload;
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let mut out = Vec::new();
        // A loopback address: no network is to be held back here.
        let verdict = responder.clerk().respond(&query.bytes(), "127.0.0.1:53".parse().unwrap(), transport, start(), &mut out);
        let Verdict::Reply(rcode) = verdict else { panic!("an answer") };
        prop_assert!(matches!(rcode, Rcode::NOERROR | Rcode::NXDOMAIN));
        let read = Read::new(out);
        prop_assert!(tcp || read.bytes.len() <= usize::from(payload));
        if !read.message.metadata.truncation {
            check(&read, keys);
        }
    }
}
