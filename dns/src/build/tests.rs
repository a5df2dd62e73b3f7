//! What a specification may get wrong, and where the error points.

use crate::fixtures::{record, region, steer, table_spec, zone_spec};
use crate::spec::{
    Policy, RecordSpec, Shed, Signing, TableSpec, ZoneSpec, check_contact, check_label, check_record,
    check_zone_name, parse_record,
};
use crate::table::Table;
use crate::zonefile::ZoneFile;
use std::sync::Arc;
use std::time::Duration;

/// All errors of the sample zone after a change.
fn errors(change: impl FnOnce(&mut ZoneSpec)) -> Vec<String> {
    let mut zone = zone_spec();
    change(&mut zone);
    match Table::build(&TableSpec { zones: vec![zone], ..table_spec() }) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn errors_of_record(kind: &str, name: &str, value: &str) -> Vec<String> {
    errors(|zone| zone.records.insert(0, record(name, kind, value)))
}

#[test]
fn the_sample_is_whole() {
    assert_eq!(errors(|_| {}), Vec::<String>::new());
}

#[test]
fn records_are_checked_one_by_one() {
    for (kind, name, value, expected) in [
        ("A", "x", "1.2.3", "record[0].value: `1.2.3` is no IPv4 address, such as 192.0.2.1"),
        ("BOGUS", "x", "1", "record[0].type: is no record type; unlisted types are written TYPE65280"),
        ("SOA", "x", "1", "record[0].type: is made from the zone's contact, ttl and revision"),
        ("RRSIG", "x", "1", "record[0].type: belongs to DNSSEC, which signs by itself"),
        ("ANY", "x", "1", "record[0].type: is no type of stored records"),
        ("A", "a..b", "192.0.2.1", "record[0].name: has an empty label"),
        ("A", "x.*", "192.0.2.1", "record[0].name: has a `*` that is not its first label"),
        (
            "A",
            "x.example.org.",
            "192.0.2.1",
            "record[0].name: lies outside the zone lb.example.com.; names without a final dot are relative to it",
        ),
        ("NS", "*.x", "ns", "record[0].name: is a wildcard, which cannot be delegated (RFC 4592 §4.2)"),
    ] {
        assert_eq!(
            errors_of_record(kind, name, value),
            [format!("dns.zone.\"lb.example.com\".{expected}")],
            "{kind} {name} {value}"
        );
    }
    let long = format!("x.{}", "y".repeat(64));
    assert!(errors_of_record("A", &long, "192.0.2.1")[0].contains("a label of more than 63 bytes"));
    // The full name is as good as the relative one.
    assert!(errors_of_record("A", "x.LB.example.com.", "192.0.2.1").is_empty());
}

#[test]
fn records_are_checked_against_each_other() {
    let alone = "is an alias (CNAME) beside other records of this name; an alias stands alone";
    for (kind, name, value, expected) in [
        ("CNAME", "host.deep", "x", format!("record[0].value: {alone}")),
        ("CNAME", "@", "x", format!("record[0].value: {alone}")),
        ("A", "alias", "192.0.2.1", format!("record[4].value: {alone}")),
        ("CNAME", "www", "x", "steer.\"www\": is an alias (CNAME) too; an alias can have no other data".into()),
        (
            "A",
            "www",
            "192.0.2.1",
            "steer.\"www\": has static addresses too (a record or a name server); steered names have none".into(),
        ),
        ("MX", "@", "20 mail.example.com.", "record[1].value: has a TTL of 3600 s, another record of this name and type one of 30 s; they must be equal".into()),
        ("A", "host.deep", "192.0.2.2", "record[9].value: stands here twice".into()),
        ("CNAME", "loop", "loop", "record[0].value: begins a chain of more than 8 aliases, or a circle".into()),
        (
            "CNAME",
            "*.round",
            "a.round",
            "record[0].value: begins a chain of more than 8 aliases, or a circle".into(),
        ),
        ("CNAME", "*.here", "a.b.here", "record[0].value: begins a chain of more than 8 aliases, or a circle".into()),
        ("CNAME", "*.ends", "host.deep", String::new()),
        ("A", "child", "192.0.2.1", String::new()),
        ("TXT", "child", "x", "record[0].value: lies in child.lb.example.com., which is delegated by its NS records".into()),
        ("TXT", "a.child", "x", "record[0].value: lies in child.lb.example.com., which is delegated by its NS records".into()),
    ] {
        let found = errors_of_record(kind, name, value);
        match expected.as_str() {
            "" => assert!(found.is_empty(), "{kind} {name}: {found:?}"),
            text => assert_eq!(found[0], format!("dns.zone.\"lb.example.com\".{text}"), "{kind} {name}"),
        }
    }
    assert!(errors_of_record("HTTPS", "www", "1 . alpn=h2").is_empty());
    assert_eq!(
        errors_of_record("HTTPS", "www", "1 . ipv4hint=192.0.2.1"),
        [
            "dns.zone.\"lb.example.com\".record[0].value: has ipv4hint or ipv6hint, but the name is steered, which makes them; leave them out"
        ]
    );
    let two = errors(|zone| zone.records.push(record("alias", "CNAME", "ns1")));
    assert!(two[0].ends_with("is one of several aliases (CNAME) of this name; there can be one"), "{two:?}");
    let chain = errors(|zone| {
        zone.records
            .extend((0..9).map(|link| record(&format!("c{link}"), "CNAME", &format!("c{}", link + 1))));
    });
    assert_eq!(chain.len(), 1, "{chain:?}");
}

#[test]
fn what_no_message_holds_is_refused() {
    let texts = |count: usize| {
        (0..count).map(|index| record("big", "TXT", &format!("\"{index:03}{}\"", "x".repeat(190))))
    };
    let too_many = "makes the records of this name and type too many for one answer";
    // 206 bytes each.
    assert_eq!(errors(|zone| zone.records.extend(texts(291))), Vec::<String>::new());
    assert!(errors(|zone| zone.records.extend(texts(292)))[0].ends_with(too_many));
    let signed = |zone: &mut ZoneSpec| zone.signed = Some(Signing::default());
    let count = |count: usize| {
        errors(|zone| {
            signed(zone);
            zone.records.extend(texts(count));
        })
    };
    assert_eq!(count(174), Vec::<String>::new());
    assert!(count(175).len() == 1 && count(175)[0].ends_with(too_many));
    let one = errors(|zone| {
        signed(zone);
        zone.records.push(record("big", "TXT", &"x".repeat(40_000)));
    });
    assert!(one[0].contains("at most 35988 fit in a signed answer"), "{one:?}");
    // Each gets hints of up to sixteen addresses.
    let hinted = |count: u16| {
        errors(|zone| {
            let all = (0..count).map(|port| record("www", "HTTPS", &format!("1 . port={}", port + 1)));
            zone.records.extend(all);
        })
    };
    assert_eq!(hinted(300), Vec::<String>::new());
    assert!(hinted(400).len() == 1 && hinted(400)[0].contains("with the hints"), "{:?}", hinted(400));
}

#[test]
fn zones_and_steers_are_checked() {
    let zone = |rest: &str| format!("dns.zone.\"lb.example.com\"{rest}");
    type Change = fn(&mut ZoneSpec);
    let cases: [(Change, String); 13] = [
        (|z| z.nameservers.clear(), zone(".nameserver: needs at least one: ns1 = [\"198.51.100.10\"]")),
        (|z| z.nameservers[1].1.clear(), zone(".nameserver.ns2: needs at least one address")),
        (
            |z| z.nameservers[1].0 = "www".into(),
            zone(
                ".steer.\"www\": has static addresses too (a record or a name server); steered names have none",
            ),
        ),
        (
            |z| z.nameservers[1].0 = "*".into(),
            zone(".nameserver.*: is a wildcard, which cannot be a name server"),
        ),
        (
            |z| z.contact = "hostmaster".into(),
            zone(".contact: is no mailbox, such as hostmaster@example.com"),
        ),
        (|z| z.ttl = Duration::from_secs(1 << 31), zone(".ttl: must be whole seconds, at most 2147483647")),
        (|z| z.steers[0].answers = 9, zone(".steer.\"www\".answers: must be from 1 to 8")),
        (|z| z.steers.push(steer("WWW", Policy::Nearest, 1)), zone(".steer.\"WWW\": is steered twice")),
        (
            |z| z.steers[0].shed = Some(Shed { low_permille: 700, high_permille: 700 }),
            zone(".steer.\"www\".shed: needs a low watermark below the high one"),
        ),
        (
            |z| z.steers[3].shed = Some(Shed { low_permille: 700, high_permille: 900 }),
            zone(
                ".steer.\"even\".shed: has no meaning with the policy weighted, which follows the free capacity anyway",
            ),
        ),
        (
            |z| z.steers.push(steer("x", Policy::Failover(vec![]), 1)),
            zone(".steer.\"x\".order: needs at least one region"),
        ),
        (
            |z| z.steers.push(steer("x", Policy::Failover(vec!["eu".into(), "eu".into()]), 1)),
            zone(".steer.\"x\".order: names eu twice"),
        ),
        (
            |z| z.steers.push(steer("x.child", Policy::Nearest, 1)),
            zone(".steer.\"x.child\": lies in child.lb.example.com., which is delegated by its NS records"),
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(errors(change), [expected]);
    }
}

#[test]
fn all_errors_come_at_once_and_in_order() {
    let mut spec = table_spec();
    spec.regions.push(region("eu", 91.0, 0.0, "10.2.0.0/16"));
    spec.zones.push(ZoneSpec { name: "a..b".into(), ..zone_spec() });
    spec.zones.push(ZoneSpec { name: "LB.example.com.".into(), ..zone_spec() });
    spec.zones[0].contact = String::new();
    spec.zones[0]
        .records
        .push(RecordSpec { ttl: Some(Duration::from_millis(1500)), ..record("x", "A", "192.0.2.1") });
    spec.zones[0].records.push(record("y", "A", "nonsense"));
    let found: Vec<String> = Table::build(&spec).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "region.eu: is declared twice",
            "region.eu.latitude: must be from -90 to 90, longitude from -180 to 180",
            "region.eu.prefixes: 10.2.0.0/16 belongs to region us already",
            "dns.zone.\"lb.example.com\".contact: is no mailbox, such as hostmaster@example.com",
            "dns.zone.\"lb.example.com\".record[17].ttl: must be whole seconds, at most 2147483647",
            "dns.zone.\"lb.example.com\".record[18].value: `nonsense` is no IPv4 address, such as 192.0.2.1",
            "dns.zone.\"a..b\": has an empty label",
            "dns.zone.\"LB.example.com.\": is declared twice",
        ]
    );
}

/// Read for another zone: above this one, and beside it with the same labels before the origin.
#[test]
fn a_file_of_another_zone_is_not_served() {
    for (origin, owner, text) in
        [("com", "com.", "@ TXT x\n"), ("lb.example.net", "www.lb.example.net.", "www A 192.0.2.1\n")]
    {
        let file = ZoneFile::parse(origin, text, Duration::from_secs(30)).file;
        assert_eq!(file.records.len(), 1);
        let found = errors(|zone| zone.file = Some(Arc::new(file)));
        assert!(
            found
                .iter()
                .any(|error| error.ends_with(&format!("belongs to {owner}, which lies outside the zone"))),
            "{found:?}"
        );
    }
}

#[test]
fn a_validator_can_check_value_by_value() {
    assert_eq!(check_zone_name("lb.example.com"), Ok(()));
    assert!(check_zone_name(".").is_err());
    assert!(check_zone_name("*.example.com").is_err());
    for label in ["@", "*", "www", "*.shop", "a.b"] {
        assert_eq!(check_label("lb.example.com", label), Ok(()), "{label}");
    }
    assert!(check_label("lb.example.com", "a.*").is_err());
    assert_eq!(check_contact("host.master@example.com"), Ok(()));
    for wrong in ["", "@", "a@", "@b", "a b@c", "a@b@c..d"] {
        assert!(check_contact(wrong).is_err(), "{wrong}");
    }
    let (owner, mx) = parse_record("lb.example.com", "@", "mx", "10 mail").unwrap();
    assert_eq!(owner.to_string(), "lb.example.com.");
    assert_eq!(&mx.data[..], b"\x00\x0a\x04mail\x02lb\x07example\x03com\x00");
    assert_eq!(check_record("lb.example.com", "@", "mx", "mail").unwrap_err().key, "value");
}
