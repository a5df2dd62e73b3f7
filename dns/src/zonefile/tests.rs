use proptest::prelude::*;

use super::*;
use crate::spec::ZoneSpec;
use crate::table::Table;
use crate::{RegionSpec, TableSpec};

const TTL: Duration = Duration::from_secs(30);

fn parse(text: &str) -> ParsedZoneFile {
    ZoneFile::parse("example.com", text, TTL)
}

fn name(text: &str) -> Name {
    Name::parse_absolute(text).unwrap()
}

/// `OWNER TTL TYPE HEX` of every record.
fn lines(parsed: &ParsedZoneFile) -> Vec<String> {
    assert_eq!(parsed.errors, []);
    let hex = |data: &[u8]| data.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = |record: &FileRecord| {
        let FileRecord { owner, ttl, record, .. } = record;
        format!("{owner} {ttl} {} {}", kind_to_text(record.kind), hex(&record.data))
    };
    parsed.file.records.iter().map(line).collect()
}

/// Every error as `LINE:COLUMN: MESSAGE`.
fn errors(text: &str) -> Vec<String> {
    parse(text).errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_usual_file_is_read() {
    let parsed = parse(
        "$ORIGIN example.com.\n\
         $TTL 1h ; for all\n\
         @\tIN SOA ns1 hostmaster (\n\t2026112101 ; serial\n\t1d 2h 1000h ; refresh, retry, expire\n\t5m )\n\
         \tNS ns1\n\
         \tNS ns2.example.net.\r\n\
         ns1 A 192.0.2.53\n\
         www 60 IN A 192.0.2.1\n\
         \tIN 1h30m AAAA 2001:db8::1\n\
         $ORIGIN sub\n\
         a TXT one \"two three\"\n\
         @ MX 10 mail\n\
         *.wild.example.com. CNAME www.EXAMPLE.com.\n",
    );
    let soa = parsed.file.soa.clone().unwrap();
    assert_eq!((soa.primary, soa.contact), (name("ns1.example.com"), name("hostmaster.example.com")));
    assert_eq!((soa.timers, soa.minimum, soa.ttl), ([86_400, 7_200, 3_600_000], 300, 3600));
    assert_eq!(
        lines(&parsed),
        [
            "example.com. 3600 NS 036e7331076578616d706c6503636f6d00",
            "example.com. 3600 NS 036e7332076578616d706c65036e657400",
            "ns1.example.com. 3600 A c0000235",
            "www.example.com. 60 A c0000201",
            "www.example.com. 5400 AAAA 20010db8000000000000000000000001",
            "a.sub.example.com. 3600 TXT 036f6e650974776f207468726565",
            "sub.example.com. 3600 MX 000a046d61696c03737562076578616d706c6503636f6d00",
            "*.wild.example.com. 3600 CNAME 03777777074558414d504c4503636f6d00",
        ]
    );
    assert!(parsed.file.has_nameservers(&name("example.com")));
}

#[test]
fn ttls_come_from_the_directive_then_from_the_last_record_then_from_the_zone() {
    let ttls = |text: &str| {
        let parsed = parse(text);
        assert_eq!(parsed.errors, []);
        parsed.file.records.iter().map(|record| record.ttl).collect::<Vec<_>>()
    };
    assert_eq!(ttls("a A 192.0.2.1\nb 7 A 192.0.2.1\nc A 192.0.2.1"), [30, 7, 7]);
    assert_eq!(ttls("$TTL 9\na A 192.0.2.1\nb 7 A 192.0.2.1\nc A 192.0.2.1"), [9, 7, 9]);
    assert_eq!(
        ttls("a 0 IN A 192.0.2.1\nb IN 1w A 192.0.2.1\nc class1 2147483647 A 192.0.2.1"),
        [0, 604_800, 2_147_483_647]
    );
}

#[test]
fn quotes_and_escapes_keep_what_they_hold() {
    let data = |value: &str| {
        let parsed = parse(&format!("a {value}"));
        assert_eq!(parsed.errors, [], "{value}");
        parsed.file.records[0].record.data.to_vec()
    };
    assert_eq!(data("TXT \"a;b (c) \\\" \\065\"  ; comment"), b"\x0ba;b (c) \" A");
    assert_eq!(data("TXT a\\;b \\\"q\\\" \\032"), b"\x03a;b\x03\"q\"\x01 ");
    assert_eq!(data("TXT ( a\n ; nothing\n \"\" b )"), b"\x01a\x00\x01b");
    assert_eq!(data(r"TXT \# 3 02 6162"), b"\x02ab");
    assert_eq!(
        data(
            r"TYPE65280 \# 2 ( 0a ; one
            0b )"
        ),
        b"\x0a\x0b"
    );
    assert_eq!(data(r"TYPE1 \# 4 C0000201"), b"\xc0\0\x02\x01");
    assert_eq!(data("CAA 0 issue \"ca.example.net; a=b\""), b"\0\x05issueca.example.net; a=b");
    assert_eq!(
        data("HTTPS 1 . alpn=\"h2,h3\" port=8443"),
        b"\0\x01\0\0\x01\0\x06\x02h2\x02h3\0\x03\0\x02\x20\xfb"
    );
    assert_eq!(data("SVCB 1 svc alpn=h2"), b"\0\x01\x03svc\x07example\x03com\0\0\x01\0\x03\x02h2");
    assert_eq!(
        data(r#"NAPTR 100 10 "u" "E2U+sip" "" sip"#),
        b"\0d\0\x0a\x01u\x07E2U+sip\0\x03sip\x07example\x03com\0"
    );
    assert_eq!(data("SRV 1 2 443 @"), b"\0\x01\0\x02\x01\xbb\x07example\x03com\0");
    let owner = |text: &str| parse(&format!("{text} A 192.0.2.1")).file.records[0].owner.clone();
    assert_eq!(owner(r"a\.b").labels().next(), Some(b"a.b".as_slice()));
    assert_eq!(owner(r"\$origin").labels().next(), Some(b"$origin".as_slice()));
    assert_eq!(owner(r"a\032b").labels().next(), Some(b"a b".as_slice()));
}

#[test]
fn every_fault_is_told_with_its_place_and_what_to_do() {
    for (text, expected) in [
        (
            "$INCLUDE other",
            "1:1: `$INCLUDE` is not followed: a zone stands in one file; put the records here",
        ),
        (
            "$generate 1-9 a$ A 192.0.2.$",
            "1:1: `$generate` is not supported; write the records out, or a wildcard",
        ),
        ("$ORIGIN", "1:1: `$ORIGIN` needs one name behind it"),
        ("$TTL soon", "1:6: `soon` is no time in seconds, nor such as 1h30m; at most 2147483647 s"),
        ("$TTL 1h30", "1:6: `1h30` is no time in seconds, nor such as 1h30m; at most 2147483647 s"),
        (
            "$X 1",
            "1:1: `$X` is no directive ($ORIGIN and $TTL are); write a name that begins with a dollar as `\\$`",
        ),
        (" A 192.0.2.1", "1:2: no name stands before this record; begin the line with one, `@` for the zone"),
        ("www", "1:1: `www` stands alone; a type and a value must follow"),
        ("www 60 IN", "1:5: the type is missing, such as A or MX"),
        ("www A", "1:6: the A value needs one IPv4 address: `192.0.2.1`"),
        ("www  A 192.0.2", "1:8: the A value `192.0.2` is no IPv4 address, such as 192.0.2.1"),
        ("www A 192.0.2.1 192.0.2.2", "1:7: the A value needs one IPv4 address: `192.0.2.1`"),
        ("www CH TXT x", "1:5: `CH` is no class of this zone; leave it out, or write IN"),
        ("www 1 2 A 192.0.2.1", "1:7: `2` is a second TTL; a record has one"),
        (
            "www 2147483648 A 192.0.2.1",
            "1:5: `2147483648` is no time in seconds, nor such as 1h30m; at most 2147483647 s",
        ),
        ("www BOGUS x", "1:5: `BOGUS` is no record type; unlisted types are written TYPE65280"),
        ("www DNSKEY 257 3 13 AA==", "1:5: `DNSKEY` belongs to DNSSEC, which signs by itself"),
        (
            "www.example.net. A 192.0.2.1",
            "1:1: the name `www.example.net.` lies outside the zone example.com.; names without a final dot are relative to it",
        ),
        ("a..b A 192.0.2.1", "1:1: the name `a..b` has an empty label"),
        (
            "\"www\" A 192.0.2.1",
            "1:1: the name `\"www\"` has a quote; names are written without, and `\\\"` is a quote in a label",
        ),
        (
            "a CNAME \"www\"",
            "1:9: the CNAME value the name `\"www\"` has a quote; names are written without, and `\\\"` is a quote in a label",
        ),
        (
            "a TXT \"open\nb A 192.0.2.1",
            "1:7: `\"` opens a quote that is not closed on its line; put `\"` behind the text",
        ),
        ("a TXT ( b", "1:7: `(` opens a parenthesis that is never closed; put `)` behind the last value"),
        ("a TXT b )", "1:9: `)` closes a parenthesis that is not open; leave it out"),
        ("a TXT ( ( b ) )", "1:9: `(` opens a parenthesis inside of another; leave it out"),
        ("a TXT b\\", "1:8: `\\` escapes the end of the line; write `\\\\` for a backslash"),
        ("a TXT b\u{1}", "1:8: `\\u{1}` is a control character; write it as `\\DDD`, its decimal value"),
        (
            "a TXT \\999",
            "1:7: the TXT value has a wrong escape; `\\.` is a dot in a label, `\\065` a byte by its decimal value",
        ),
        ("a SOA ns host 1 1 1 1 1", "1:3: the SOA must be that of example.com., the zone"),
        ("@ SOA ns host x 1 1 1 1", "1:15: `x` is no serial from 0 to 4294967295"),
        (
            "ü A 192.0.2.1",
            "1:1: the name `ü` has a character that is not printable ASCII; internationalised names are written in their xn-- form",
        ),
    ] {
        assert_eq!(errors(text).first().map(String::as_str), Some(expected), "{text}");
    }
    assert_eq!(errors("@ SOA ns host 1 1 1 1").len(), 1);
    assert_eq!(errors("@ SOA a b 1 1 1 1 1\n@ SOA a b 1 1 1 1 1").len(), 1);
    let all = errors("a A 1\nü TXT x\n TXT y\n\n  ; nothing\nb MX mail\nc A 192.0.2.1\n$TTL x");
    let places: Vec<&str> = all.iter().map(|error| error.split_once(": ").unwrap().0).collect();
    assert_eq!(places, ["1:5", "2:1", "6:6", "8:6"], "{all:?}");
}

#[test]
fn a_record_that_is_there_twice_counts_once() {
    let parsed = parse("a A 192.0.2.1\nA 60 A 192.0.2.1\na A 192.0.2.2");
    assert_eq!((parsed.errors.len(), parsed.file.records.len()), (0, 2));
    assert_eq!(parsed.warnings[0].to_string(), "2:3: this record is there twice; one counts");
}

#[test]
fn a_file_is_bounded() {
    let many: String = (0..=MAX_FILE_RECORDS).map(|number| format!("a{number} A 192.0.2.1\n")).collect();
    let parsed = parse(&many);
    assert_eq!(parsed.errors[0].to_string(), "100001:1: is one record too many; a file may have 100000");
    let long = " ".repeat(MAX_FILE_BYTES + 1);
    assert!(errors(&long)[0].contains("at most 4194304 are read"));
    assert_eq!(errors(&"x\n".repeat(10_000)).len(), MAX_FAULTS);
    assert!(errors(&"(".repeat(100_000)).len() < 30);
    assert!(ZoneFile::parse("a..b", "", TTL).errors[0].message.contains("a..b"));
}

/// A zone of the file `text` and of what else the configuration says of it.
fn built(text: &str, spec: ZoneSpec) -> Vec<String> {
    let parsed = parse(text);
    assert_eq!(parsed.errors, []);
    let zone = ZoneSpec {
        name: "example.com".into(),
        contact: "hostmaster@example.com".into(),
        ttl: TTL,
        file: Some(parsed.file.into()),
        ..spec
    };
    let regions = vec![RegionSpec { name: "eu".into(), location: None, prefixes: Vec::new() }];
    let spec = TableSpec { serial: 7, zones: vec![zone], regions };
    let errors = Table::build(&spec).err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

fn with_server() -> ZoneSpec {
    ZoneSpec { nameservers: vec![("ns1".into(), vec!["192.0.2.53".parse().unwrap()])], ..ZoneSpec::default() }
}

#[test]
fn a_file_and_the_configuration_make_one_zone() {
    let record = |name: &str, kind: &str, value: &str| crate::RecordSpec {
        name: name.into(),
        kind: kind.into(),
        value: value.into(),
        ttl: None,
    };
    let steer = |label: &str| crate::SteerSpec {
        label: label.into(),
        service: "web".into(),
        policy: crate::Policy::Nearest,
        answers: 1,
        shed: None,
    };
    let bare = ZoneSpec::default;
    let none: [&str; 0] = [];
    assert_eq!(built("@ NS ns\nns A 192.0.2.1", bare()), none);
    assert_eq!(built("@ NS ns.example.net.", bare()), none);
    assert_eq!(built("a A 192.0.2.1", with_server()), none);
    let steered = ZoneSpec {
        steers: vec![steer("www")],
        records: vec![record("a", "A", "192.0.2.2")],
        ..with_server()
    };
    assert_eq!(built("a 30 A 192.0.2.1\nwww TXT x", steered.clone()), none);

    let file = "dns.zone.\"example.com\".file";
    let clash = "stands beside steer.\"www\": a steered name has no A, AAAA or CNAME of its own; take one of the two out";
    let server = "names the name server ns.example.com.";
    for (text, spec, expected) in [
        ("a A 192.0.2.1", bare(), "dns.zone.\"example.com\".nameserver: needs at least one: ns1 = [\"198.51.100.10\"], or NS records of the zone itself in its file".to_owned()),
        ("@ NS ns.example.net.", with_server(), "dns.zone.\"example.com\".nameserver: stands beside the name servers (NS) of the zone file; keep one of the two".into()),
        ("@ NS ns", bare(), format!("{file}: {server}, which has no address in this zone; add an A or AAAA record of it")),
        ("@ NS ns\nns CNAME a\na A 192.0.2.1", bare(), format!("{file}: {server}, which is an alias (CNAME); a name server needs addresses of its own")),
        ("@ NS ns", ZoneSpec { steers: vec![steer("ns")], ..bare() }, format!("{file}: {server}, which is steered; a name server needs a name of its own, with addresses that stay")),
        ("a A 192.0.2.2", steered.clone(), format!("{file}: stands here twice")),
        ("a 60 A 192.0.2.3", steered.clone(), format!("{file}: has a TTL of 60 s, another record of this name and type one of 30 s; they must be equal")),
        ("a CNAME b", steered.clone(), format!("{file}: is an alias (CNAME) beside other records of this name; an alias stands alone")),
        ("www A 192.0.2.1", steered.clone(), format!("{file}: {clash}")),
        ("www CNAME b", steered, format!("{file}: {clash}")),
        ("ns1 A 192.0.2.53", with_server(), format!("{file}: stands here twice")),
        ("*.a NS ns.example.net.", with_server(), format!("{file}: is a wildcard, which cannot be delegated (RFC 4592 §4.2)")),
        ("sub NS ns.example.net.\na.sub TXT x", with_server(), format!("{file}: lies in sub.example.com., which is delegated by its NS records")),
    ] {
        assert!(built(text, spec.clone()).contains(&expected), "{text}: {:?}", built(text, spec));
    }
}

#[test]
fn a_time_that_no_resolver_keeps_to_is_told_once() {
    for (text, place) in [
        ("a 1w A 192.0.2.1\nb 99w A 192.0.2.1\nc 99w A 192.0.2.1", "2:3"),
        ("$TTL 2w\na A 192.0.2.1\n$TTL 3w", "1:6"),
        ("a IN 604801 A 192.0.2.1", "1:6"),
    ] {
        let parsed = parse(text);
        assert_eq!((parsed.errors.len(), parsed.warnings.len()), (0, 1), "{text}");
        let told = parsed.warnings[0].to_string();
        assert!(told.starts_with(&format!("{place}: a TTL of ")), "{told}");
    }
    // The zone's own timers are for secondaries, and longer by custom.
    assert_eq!(parse("@ SOA ns host 1 1d 2h 1000h 5m").warnings, []);
}

#[test]
fn a_set_that_is_too_long_is_told_once() {
    let many: String =
        (0..9_000).map(|number| format!("a A 10.0.{}.{}\n", number / 256, number % 256)).collect();
    let errors = built(&many, with_server());
    assert_eq!(errors.len(), 1);
    assert!(errors[0].ends_with("too many for one answer"), "{}", errors[0]);
}

/// A label as it may stand in a file: every byte that needs it is escaped, others at will.
fn written_label(label: &[u8], escape_all: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    label
        .iter()
        .map(|&byte| match byte {
            byte if plain(byte) && !escape_all => char::from(byte).to_string(),
            byte if byte.is_ascii_graphic() && !byte.is_ascii_digit() && !escape_all => {
                format!("\\{}", char::from(byte))
            }
            byte => format!("\\{byte:03}"),
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Line {
    labels: Vec<Vec<u8>>,
    /// Written relative to the origin, or whole.
    relative: bool,
    escape_all: bool,
    ttl: Option<u32>,
    class: bool,
    data: Data,
    /// How it is laid out.
    parentheses: bool,
    comment: bool,
}

#[derive(Debug, Clone)]
enum Data {
    Address([u8; 4]),
    Text(Vec<Vec<u8>>),
    Mail(u16, Vec<Vec<u8>>),
    Unknown(u16, Vec<u8>),
}

fn wire_of(labels: &[Vec<u8>]) -> Name {
    Name::from_labels(labels.iter().map(Vec::as_slice).chain([b"example".as_slice(), b"com"])).unwrap()
}

impl Line {
    fn name(&self, labels: &[Vec<u8>]) -> String {
        let mut text: Vec<String> =
            labels.iter().map(|label| written_label(label, self.escape_all)).collect();
        match self.relative {
            true if text.is_empty() => return "@".into(),
            true => {}
            false => text.push("example.com.".into()),
        }
        text.join(".")
    }

    fn write(&self) -> String {
        let gap = if self.parentheses { " (\n\t" } else { " " };
        let comment = if self.comment { " ; a \"comment ( \\" } else { "" };
        let mut text = self.name(&self.labels);
        let ttl = self.ttl.map(|ttl| format!(" {ttl}")).unwrap_or_default();
        text += &if self.class { format!(" IN{ttl}") } else { ttl };
        let words: Vec<String> = match &self.data {
            Data::Address(octets) => vec!["A".into(), std::net::Ipv4Addr::from(*octets).to_string()],
            Data::Text(strings) => {
                let quoted = |string: &Vec<u8>| format!("\"{}\"", written_label(string, self.escape_all));
                std::iter::once("TXT".to_owned()).chain(strings.iter().map(quoted)).collect()
            }
            Data::Mail(preference, host) => vec!["mx".into(), preference.to_string(), self.name(host)],
            Data::Unknown(kind, data) => {
                let hex: Vec<String> = data.iter().map(|byte| format!("{byte:02X}")).collect();
                vec![format!("TYPE{kind}"), "\\#".into(), data.len().to_string(), hex.concat()]
            }
        };
        text = text + gap + &words.join(if self.parentheses { "\n  " } else { "\t" }) + comment;
        if self.parentheses { text + "\n )\n" } else { text + "\n" }
    }

    fn record(&self) -> (Name, u32, Kind, Vec<u8>) {
        let (kind, data) = match &self.data {
            Data::Address(octets) => (Kind::A, octets.to_vec()),
            Data::Text(strings) => {
                let wire = |string: &Vec<u8>| [&[string.len() as u8], string.as_slice()].concat();
                (Kind::TXT, strings.iter().flat_map(wire).collect())
            }
            Data::Mail(preference, host) => {
                (Kind::MX, [&preference.to_be_bytes(), wire_of(host).wire()].concat())
            }
            Data::Unknown(kind, data) => (Kind(*kind), data.clone()),
        };
        (wire_of(&self.labels), self.ttl.unwrap_or(77), kind, data)
    }
}

fn labels() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let label = proptest::collection::vec(any::<u8>(), 1..10);
    proptest::collection::vec(label, 0..4)
        // A `*` that is not the first label is refused.
        .prop_filter("wildcard", |labels| labels.iter().all(|label| label != b"*"))
}

fn line() -> impl Strategy<Value = Line> {
    let strings = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..4);
    let data = prop_oneof![
        any::<[u8; 4]>().prop_map(Data::Address),
        strings.prop_map(Data::Text),
        (any::<u16>(), labels()).prop_map(|(preference, host)| Data::Mail(preference, host)),
        (65_280u16..65_534, proptest::collection::vec(any::<u8>(), 0..30))
            .prop_map(|(kind, data)| Data::Unknown(kind, data)),
    ];
    let ttl = proptest::option::of(0..=MAX_TTL as u32);
    (labels(), any::<[bool; 5]>(), ttl, data).prop_map(|(labels, flags, ttl, data)| Line {
        labels,
        relative: flags[0],
        escape_all: flags[1],
        ttl,
        class: flags[2],
        data,
        parentheses: flags[3],
        comment: flags[4],
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(lines in proptest::collection::vec(line(), 0..12)) {
        let text = format!("$TTL 77\n{}", lines.iter().map(Line::write).collect::<String>());
        let parsed = parse(&text);
        prop_assert_eq!(&parsed.errors, &[], "{}", text);
        let mut expected: Vec<_> = Vec::new();
        for line in &lines {
            let record = line.record();
            if !expected.iter().any(|(name, _, kind, data)| (name, kind, data) == (&record.0, &record.2, &record.3)) {
                expected.push(record);
            }
        }
        let read: Vec<_> = parsed.file.records.iter()
            .map(|record| (record.owner.clone(), record.ttl, record.record.kind, record.record.data.to_vec()))
            .collect();
        prop_assert_eq!(read, expected, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(words in proptest::collection::vec(
        prop_oneof!["[ \t\n\r;()\"\\\\@$.*]{1,3}", "(www|A|TXT|IN|60|1h|SOA|MX|[$]TTL|[$]ORIGIN|\\\\#|192.0.2.1)", ".{0,4}"], 0..40)) {
        let text = words.concat();
        let parsed = parse(&text);
        for fault in parsed.errors.iter().chain(&parsed.warnings) {
            prop_assert!(fault.span.end <= text.len() && text.is_char_boundary(fault.span.start) && text.is_char_boundary(fault.span.end));
            let line = text.lines().nth(fault.line - 1).unwrap_or_default();
            prop_assert!(fault.column <= line.chars().count() + 2, "{}", fault);
        }
        let origin = name("example.com");
        prop_assert!(parsed.file.records.iter().all(|record| record.owner.is_within(&origin)));
    }
}
