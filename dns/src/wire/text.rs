//! Values in presentation format (RFC 1035 §5, RFC 3597 §5).
//!
//! Types that hold names or text are read here, so that relative names end in the zone and errors say what the
//! operator can do; the rarer ones by hickory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{RData, RecordType};
use hickory_proto::serialize::binary::{BinDecoder, BinEncodable, BinEncoder, Restrict};

use super::to_hickory;
use crate::name::{self, MAX_LABEL_BYTES, Name, NameError};
use crate::spec::refuse_kind;
use crate::zone::Kind;

/// The mnemonics understood, in questions of `explain` and in static records.
const MNEMONICS: [(&str, Kind); 29] = [
    ("A", Kind::A),
    ("NS", Kind::NS),
    ("CNAME", Kind::CNAME),
    ("SOA", Kind::SOA),
    ("PTR", Kind::PTR),
    ("HINFO", Kind::HINFO),
    ("MX", Kind::MX),
    ("TXT", Kind::TXT),
    ("AAAA", Kind::AAAA),
    ("LOC", Kind::LOC),
    ("SRV", Kind::SRV),
    ("NAPTR", Kind::NAPTR),
    ("CERT", Kind::CERT),
    ("DNAME", Kind::DNAME),
    ("DS", Kind::DS),
    ("SSHFP", Kind::SSHFP),
    ("RRSIG", Kind(46)),
    ("NSEC", Kind(47)),
    ("DNSKEY", Kind::DNSKEY),
    ("TLSA", Kind::TLSA),
    ("SMIMEA", Kind::SMIMEA),
    ("CDS", Kind::CDS),
    ("CDNSKEY", Kind::CDNSKEY),
    ("OPENPGPKEY", Kind::OPENPGPKEY),
    ("SVCB", Kind::SVCB),
    ("HTTPS", Kind::HTTPS),
    ("URI", Kind::URI),
    ("CAA", Kind::CAA),
    ("ANY", Kind::ANY),
];

/// The types that static records and zone files may have by name, in order; others are written `TYPE65280`.
pub fn record_types() -> Vec<&'static str> {
    let stored = MNEMONICS.iter().filter(|(_, kind)| refuse_kind(*kind).is_none());
    let mut names: Vec<&'static str> = stored.map(|(mnemonic, _)| *mnemonic).collect();
    names.sort_unstable();
    names
}

/// Reads a mnemonic or `TYPE65280`, in any case.
pub(crate) fn kind_from_text(text: &str) -> Option<Kind> {
    let known = MNEMONICS.iter().find(|(mnemonic, _)| mnemonic.eq_ignore_ascii_case(text));
    known.map(|(_, kind)| *kind).or_else(|| {
        let (prefix, number) = text.split_at_checked(4)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        (prefix.eq_ignore_ascii_case("TYPE") && digits).then(|| number.parse().ok().map(Kind))?
    })
}

/// Writes a mnemonic, or `TYPE65280` for a type without one.
pub(crate) fn kind_to_text(kind: Kind) -> String {
    let known = MNEMONICS.iter().find(|(_, known)| *known == kind);
    known.map_or_else(|| format!("TYPE{}", kind.0), |(mnemonic, _)| (*mnemonic).to_owned())
}

/// Reads a value into wire form, names uncompressed; relative names end in `origin`.
pub(crate) fn parse_value(kind: Kind, value: &str, origin: &Name) -> Result<Vec<u8>, String> {
    if value.contains(['\n', '\r', '\0']) {
        return Err("must be on one line".to_owned());
    }
    let value = value.trim();
    if let Some(generic) = value.strip_prefix(r"\#") {
        return parse_generic(kind, generic);
    }
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let mut wire = Vec::new();
    match (kind, words.as_slice()) {
        (Kind::A, [address]) => {
            let address: Ipv4Addr =
                address.parse().map_err(|_| format!("`{address}` is no IPv4 address, such as 192.0.2.1"))?;
            wire.extend_from_slice(&address.octets());
        }
        (Kind::AAAA, [address]) => {
            let address: Ipv6Addr = address
                .parse()
                .map_err(|_| format!("`{address}` is no IPv6 address, such as 2001:db8::1"))?;
            wire.extend_from_slice(&address.octets());
        }
        (Kind::CNAME | Kind::NS | Kind::PTR, [target]) => push_name(&mut wire, target, origin)?,
        (Kind::MX, [preference, host]) => {
            push_u16(&mut wire, preference, "preference")?;
            push_name(&mut wire, host, origin)?;
        }
        (Kind::SRV, [priority, weight, port, target]) => {
            push_u16(&mut wire, priority, "priority")?;
            push_u16(&mut wire, weight, "weight")?;
            push_u16(&mut wire, port, "port")?;
            push_name(&mut wire, target, origin)?;
        }
        (Kind::NAPTR, _) => parse_naptr(value, origin, &mut wire)?,
        (Kind::TXT, _) => parse_txt(value, &mut wire)?,
        (Kind::CAA, [flags, tag, _, ..]) => {
            wire.push(flags.parse().map_err(|_| format!("`{flags}` is no number of flags from 0 to 255"))?);
            if tag.len() > 15 || !tag.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(format!("`{tag}` is no tag of up to 15 letters and digits, such as issue"));
            }
            wire.push(tag.len() as u8);
            wire.extend_from_slice(tag.to_ascii_lowercase().as_bytes());
            let rest = after_words(value, 2);
            let strings = character_strings(rest)?;
            let [text] = strings.as_slice() else {
                return Err("has more than one value; put quotes around it".to_owned());
            };
            wire.extend_from_slice(text);
        }
        (Kind::DS, [tag, rest @ ..]) if rest.len() > 2 => {
            push_u16(&mut wire, tag, "key tag")?;
            push_digest(&mut wire, rest, 2)?;
        }
        (Kind::DS, _) => {
            return Err("needs a key tag, algorithm, digest type and digest: `12345 13 2 49fd…`".to_owned());
        }
        (Kind::SSHFP, words) if words.len() > 2 => push_digest(&mut wire, words, 2)?,
        (Kind::SSHFP, _) => {
            return Err("needs an algorithm, a fingerprint type and a fingerprint: `4 2 49fd…`".to_owned());
        }
        (Kind::TLSA | Kind::SMIMEA, words) if words.len() > 3 => push_digest(&mut wire, words, 3)?,
        (Kind::TLSA | Kind::SMIMEA, _) => {
            return Err("needs a usage, selector, matching type and data: `3 1 1 49fd…`".to_owned());
        }
        (Kind::URI, [priority, weight, _, ..]) => {
            push_u16(&mut wire, priority, "priority")?;
            push_u16(&mut wire, weight, "weight")?;
            match character_strings(after_words(value, 2))?.as_slice() {
                [target] if !target.is_empty() => wire.extend_from_slice(target),
                _ => return Err("needs one target in quotes: `10 1 \"https://example.com/\"`".to_owned()),
            }
        }
        (Kind::URI, _) => {
            return Err("needs priority, weight and a target: `10 1 \"https://example.com/\"`".to_owned());
        }
        // Digits in groups, which the library would not put together.
        (Kind::OPENPGPKEY, words) => wire = parse_by_library(kind, &words.concat(), origin)?,
        (Kind::CERT, [one, two, three, digits @ ..]) => {
            wire = parse_by_library(kind, &format!("{one} {two} {three} {}", digits.concat()), origin)?;
        }
        (Kind::A, _) => return Err("needs one IPv4 address: `192.0.2.1`".to_owned()),
        (Kind::AAAA, _) => return Err("needs one IPv6 address: `2001:db8::1`".to_owned()),
        (Kind::CNAME | Kind::NS | Kind::PTR, _) => {
            return Err("needs one name: `host.example.com.`".to_owned());
        }
        (Kind::MX, _) => return Err("needs a preference and a name: `10 mail.example.com.`".to_owned()),
        (Kind::SRV, _) => {
            return Err("needs priority, weight, port and a name: `0 5 5060 sip.example.com.`".to_owned());
        }
        (Kind::CAA, _) => {
            return Err("needs flags, a tag and a value: `0 issue \"ca.example.net\"`".to_owned());
        }
        _ => wire = parse_by_library(kind, value, origin)?,
    }
    if wire.len() > MAX_DATA_BYTES {
        return Err(format!("is {} bytes long; at most {MAX_DATA_BYTES} fit in an answer", wire.len()));
    }
    Ok(wire)
}

/// From here on types are for private use (RFC 6895 §3.1).
const FIRST_PRIVATE_TYPE: u16 = 65_280;

/// Leaves room for header, question and OPT in a message of 64 KiB.
const MAX_DATA_BYTES: usize = 60_000;

fn push_u16(wire: &mut Vec<u8>, text: &str, what: &str) -> Result<(), String> {
    let number: u16 = text.parse().map_err(|_| format!("`{text}` is no {what} from 0 to 65535"))?;
    wire.extend_from_slice(&number.to_be_bytes());
    Ok(())
}

/// Numbers of a byte each, then hexadecimal digits, in groups at will.
fn push_digest(wire: &mut Vec<u8>, words: &[&str], numbers: usize) -> Result<(), String> {
    let (numbers, hex) = words.split_at_checked(numbers).unwrap_or_default();
    for number in numbers {
        wire.push(number.parse().map_err(|_| format!("`{number}` is no number from 0 to 255"))?);
    }
    wire.extend_from_slice(&hexadecimal(hex.iter().copied())?);
    Ok(())
}

fn push_name(wire: &mut Vec<u8>, text: &str, origin: &Name) -> Result<(), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("`{text}` is an address, where a name must stand"));
    }
    let name = Name::parse(text, origin).map_err(|error| format!("the name `{text}` {error}"))?;
    wire.extend_from_slice(name.wire());
    Ok(())
}

fn after_words(value: &str, count: usize) -> &str {
    (0..count).fold(value, |rest, _| {
        rest.trim_start().split_once(|c: char| c.is_ascii_whitespace()).map_or("", |(_, rest)| rest)
    })
}

/// TXT: quoted strings, each of at most 255 bytes; or, without any quote, one text, cut as needed.
fn parse_txt(value: &str, wire: &mut Vec<u8>) -> Result<(), String> {
    let strings = if value.contains('"') { character_strings(value)? } else { vec![unescape_all(value)?] };
    if strings.is_empty() {
        return Err("needs a text: `\"v=spf1 -all\"`".to_owned());
    }
    let quoted = value.contains('"');
    for string in strings {
        if quoted && string.len() > 255 {
            return Err(format!("has a string of {} bytes; at most 255 each, write several", string.len()));
        }
        if string.is_empty() {
            wire.push(0);
        }
        for part in string.chunks(255) {
            wire.push(part.len() as u8);
            wire.extend_from_slice(part);
        }
    }
    Ok(())
}

/// NAPTR: order, preference, three texts and a name (RFC 3403 §4).
fn parse_naptr(value: &str, origin: &Name, wire: &mut Vec<u8>) -> Result<(), String> {
    let shape = || "needs order, preference, flags, services, expression and a name: `100 10 \"u\" \"E2U+sip\" \"\" _sip._udp`";
    let mut words = value.split_ascii_whitespace();
    let numbers = [words.next(), words.next()];
    let (texts, replacement) =
        after_words(value, 2).trim_end().rsplit_once(|c: char| c.is_ascii_whitespace()).ok_or_else(shape)?;
    let strings = character_strings(texts)?;
    if strings.len() != 3 || strings.iter().any(|string| string.len() > 255) {
        return Err(shape().to_owned());
    }
    for (number, what) in numbers.into_iter().zip(["order", "preference"]) {
        push_u16(wire, number.unwrap_or_default(), what)?;
    }
    for string in strings {
        wire.push(string.len() as u8);
        wire.extend_from_slice(&string);
    }
    push_name(wire, replacement, origin)
}

fn unescape_all(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'\\' { name::unescape(&mut bytes).map_err(escape_error)? } else { byte });
    }
    Ok(plain)
}

fn escape_error(error: NameError) -> String {
    error.to_string()
}

/// Strings in quotes or between blanks (RFC 1035 §5.1).
fn character_strings(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut strings: Vec<Vec<u8>> = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(first) = bytes.next() {
        if first.is_ascii_whitespace() {
            continue;
        }
        let mut string = Vec::new();
        let quoted = first == b'"';
        let mut next = if quoted { bytes.next() } else { Some(first) };
        loop {
            match next {
                None if quoted => return Err("has an opening quote without a closing one".to_owned()),
                None => break,
                Some(b'"') if quoted => break,
                Some(b'"') => return Err("has a quote in the middle of a word".to_owned()),
                Some(b'\\') => string.push(name::unescape(&mut bytes).map_err(escape_error)?),
                Some(blank) if !quoted && blank.is_ascii_whitespace() => break,
                Some(byte) => string.push(byte),
            }
            next = bytes.next();
        }
        strings.push(string);
    }
    Ok(strings)
}

/// `\# LENGTH HEX`: any type by its bytes (RFC 3597 §5).
fn parse_generic(kind: Kind, text: &str) -> Result<Vec<u8>, String> {
    let mut words = text.split_ascii_whitespace();
    let length: usize = words
        .next()
        .and_then(|word| word.parse().ok())
        .filter(|length| *length <= MAX_DATA_BYTES)
        .ok_or_else(|| format!(r"needs a length up to {MAX_DATA_BYTES} after \#, then hexadecimal digits"))?;
    let data = hexadecimal(words)?;
    if data.len() != length {
        return Err(format!("says {length} bytes and gives {}", data.len()));
    }
    check_data(kind, &data)?;
    if !has_whole_names(kind, &data) {
        return Err("holds a compressed name; names are written whole (RFC 3597 §4)".to_owned());
    }
    Ok(data)
}

/// True when every name in the data is there whole: a pointer would lead to wherever the record stands in some message.
fn has_whole_names(kind: Kind, data: &[u8]) -> bool {
    let (mut at, names) = kind.names_in(data);
    (0..names).all(|_| {
        loop {
            match data.get(at) {
                Some(0) => break,
                Some(&length) if usize::from(length) <= MAX_LABEL_BYTES => at += 1 + usize::from(length),
                _ => return false,
            }
        }
        at += 1;
        true
    })
}

fn hexadecimal<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = words.flat_map(str::bytes).collect();
    let nibble = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
        _ => None,
    });
    pairs
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| "has something else than pairs of hexadecimal digits".to_owned())
}

/// A type known to the library must have data of that type, since resolvers will read it as such.
fn check_data(kind: Kind, data: &[u8]) -> Result<(), String> {
    // Types without a meaning may hold anything, also nothing (RFC 3597 §4). The library gives one to a number for private
    // use (RFC 6895 §3.1), which only its users can.
    if kind.0 >= FIRST_PRIVATE_TYPE || matches!(RecordType::from(kind.0), RecordType::Unknown(_)) {
        return Ok(());
    }
    let mut decoder = BinDecoder::new(data);
    let length = Restrict::new(data.len() as u16);
    match RData::read(&mut decoder, RecordType::from(kind.0), length) {
        Ok(_) if decoder.is_empty() => Ok(()),
        _ => Err(format!("holds no {} data", kind_to_text(kind))),
    }
}

/// How a value is written whose text is not read here (RFC 3597 §5).
fn by_its_bytes(kind: Kind, text: &str) -> String {
    let example = match kind {
        // 42 21 54 N 71 06 18 W -24m 30m, from RFC 1876 §4.
        Kind::LOC => r"16 of them (RFC 1876 §2): `\# 16 00331613 89172DD0 70BE15F0 00988D20`",
        _ => r"such as `\# 4 0A000001`",
    };
    format!(r"must be written as bytes, `\# LENGTH HEX`; for {text} {example}")
}

fn parse_by_library(kind: Kind, value: &str, origin: &Name) -> Result<Vec<u8>, String> {
    let mut rdata =
        RData::try_from_str(RecordType::from(kind.0), value).map_err(|error| match kind_to_text(kind) {
            text if text.starts_with("TYPE") || kind == Kind::LOC => by_its_bytes(kind, &text),
            text => format!("is no {text} value: {error}"),
        })?;
    let service = match &mut rdata {
        RData::SVCB(service) => Some(service),
        RData::HTTPS(service) => Some(&mut service.0),
        _ => None,
    };
    if let Some(service) = service {
        let target = value.split_ascii_whitespace().nth(1).unwrap_or(".");
        let target = Name::parse(target, origin).map_err(|error| format!("the name `{target}` {error}"))?;
        service.target_name = to_hickory(&target);
        // RFC 9460 §2.2: keys ascend on the wire and none comes twice.
        service.svc_params.sort_by_key(|(key, _)| u16::from(*key));
        if let Some(pair) = service.svc_params.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("has the parameter `{}` twice", pair[0].0));
        }
    }
    let mut wire = Vec::new();
    let mut encoder = BinEncoder::new(&mut wire);
    rdata.emit(&mut encoder).map_err(|error| format!("is no {} value: {error}", kind_to_text(kind)))?;
    check_data(kind, &wire)?;
    Ok(wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, value: &str) -> Result<Vec<u8>, String> {
        let origin = Name::parse_absolute("example.com").unwrap();
        parse_value(kind_from_text(kind).unwrap(), value, &origin)
    }

    #[test]
    fn kinds_have_names_and_numbers() {
        assert_eq!(kind_from_text("aaaa"), Some(Kind::AAAA));
        assert_eq!(kind_from_text("type65280"), Some(Kind(65280)));
        assert_eq!(kind_from_text("TYPE1"), Some(Kind::A));
        for wrong in ["", "TYPE", "TYPE70000", "TYPE-1", "BOGUS", "täg"] {
            assert_eq!(kind_from_text(wrong), None, "{wrong}");
        }
        assert_eq!(kind_to_text(Kind(65280)), "TYPE65280");
        assert_eq!(kind_to_text(Kind::HTTPS), "HTTPS");
    }

    #[test]
    fn values_become_their_wire_form() {
        for (kind, value, wire) in [
            ("A", "192.0.2.1", b"\xc0\x00\x02\x01".as_slice()),
            ("CNAME", "www", b"\x03www\x07example\x03com\x00"),
            ("MX", "10 mail.example.net.", b"\x00\x0a\x04mail\x07example\x03net\x00"),
            ("MX", "0 .", b"\x00\x00\x00"),
            ("SRV", "1 2 443 a", b"\x00\x01\x00\x02\x01\xbb\x01a\x07example\x03com\x00"),
            ("TXT", "\"v=spf1 -all\"", b"\x0bv=spf1 -all"),
            ("TXT", "v=spf1 -all", b"\x0bv=spf1 -all"),
            ("TXT", r#""a" "b \"c\" \065""#, b"\x01a\x07b \"c\" A"),
            ("TXT", "\"\"", b"\x00"),
            ("CAA", "0 issue \"ca.example.net; a=b\"", b"\x00\x05issueca.example.net; a=b"),
            ("HTTPS", "1 . alpn=h2", b"\x00\x01\x00\x00\x01\x00\x03\x02h2"),
            ("HTTPS", "0 svc", b"\x00\x00\x03svc\x07example\x03com\x00"),
            ("SVCB", "1 . port=8443 alpn=h2", b"\x00\x01\x00\x00\x01\x00\x03\x02h2\x00\x03\x00\x02\x20\xfb"),
            ("TYPE65280", r"\# 3 0a0B 0c", b"\x0a\x0b\x0c"),
            ("TYPE65280", r"\# 0", b""),
            ("TYPE65305", r"\# 2 0a0b", b"\x0a\x0b"),
            (
                "NAPTR",
                r#"1 2 "u" "E2U+sip" "" sip"#,
                b"\0\x01\0\x02\x01u\x07E2U+sip\0\x03sip\x07example\x03com\0",
            ),
            ("SSHFP", "4 2 0a0B 0c", b"\x04\x02\x0a\x0b\x0c"),
            ("TLSA", "3 1 1 0a0B 0c", b"\x03\x01\x01\x0a\x0b\x0c"),
            ("HINFO", "\"a b\" c", b"\x03a b\x01c"),
            ("URI", "10 1 \"ftp://a/\"", b"\0\x0a\0\x01ftp://a/"),
            ("OPENPGPKEY", "AAAA AAAA", b"\0\0\0\0\0\0"),
            ("CERT", "1 2 3 AAAA AAAA", b"\0\x01\0\x02\x03\0\0\0\0\0\0"),
            ("DS", "258 13 2 0a0B 0c", b"\x01\x02\x0d\x02\x0a\x0b\x0c"),
            ("A", r"\# 4 c0000201", b"\xc0\x00\x02\x01"),
            (
                "LOC",
                r"\# 16 00331613 89172DD0 70BE15F0 00988D20",
                b"\0\x33\x16\x13\x89\x17\x2d\xd0\x70\xbe\x15\xf0\x00\x98\x8d\x20",
            ),
            ("MX", r"\# 7 000a 03666f6f 00", b"\x00\x0a\x03foo\x00"),
            ("TYPE17", r"\# 4 00 0161 00", b"\x00\x01a\x00"),
            ("HTTPS", r"\# 3 000100", b"\x00\x01\x00"),
        ] {
            assert_eq!(parse(kind, value).as_deref(), Ok(wire), "{kind} {value}");
        }
    }

    #[test]
    fn wrong_values_say_what_would_be_right() {
        for (kind, value, expected) in [
            ("A", "192.0.2", "`192.0.2` is no IPv4 address, such as 192.0.2.1"),
            ("A", "", "needs one IPv4 address: `192.0.2.1`"),
            ("AAAA", "::g", "`::g` is no IPv6 address, such as 2001:db8::1"),
            ("MX", "mail.example.com.", "needs a preference and a name: `10 mail.example.com.`"),
            ("MX", "x mail", "`x` is no preference from 0 to 65535"),
            ("MX", "10 192.0.2.1", "`192.0.2.1` is an address, where a name must stand"),
            ("CNAME", "a..b", "the name `a..b` has an empty label"),
            ("TXT", "\"open", "has an opening quote without a closing one"),
            ("TXT", "a\nb", "must be on one line"),
            ("CAA", "0 issue", "needs flags, a tag and a value: `0 issue \"ca.example.net\"`"),
            ("DS", "12345 13 2", "needs a key tag, algorithm, digest type and digest: `12345 13 2 49fd…`"),
            ("DS", "12345 13 2 49f", "has something else than pairs of hexadecimal digits"),
            ("DS", "12345 256 2 49", "`256` is no number from 0 to 255"),
            (
                "TYPE65280",
                "1.2.3.4",
                r"must be written as bytes, `\# LENGTH HEX`; for TYPE65280 such as `\# 4 0A000001`",
            ),
            (
                "LOC",
                "42 21 54 N 71 06 18 W -24m 30m",
                r"must be written as bytes, `\# LENGTH HEX`; for LOC 16 of them (RFC 1876 §2): `\# 16 00331613 89172DD0 70BE15F0 00988D20`",
            ),
            ("TYPE65280", r"\# 3 0a0b", "says 3 bytes and gives 2"),
            ("TYPE65280", r"\# 1 0", "has something else than pairs of hexadecimal digits"),
            ("A", r"\# 3 c00002", "holds no A data"),
            ("MX", r"\# 4 0000c000", "holds a compressed name; names are written whole (RFC 3597 §4)"),
            (
                "SRV",
                r"\# 10 000000000000 0161c000",
                "holds a compressed name; names are written whole (RFC 3597 §4)",
            ),
            ("TYPE17", r"\# 3 00c000", "holds a compressed name; names are written whole (RFC 3597 §4)"),
            ("HTTPS", "1 . alpn=h2 alpn=h3", "has the parameter `alpn` twice"),
        ] {
            assert_eq!(parse(kind, value), Err(expected.to_owned()), "{kind} {value}");
        }
        let long = format!("\"{}\"", "x".repeat(256));
        assert!(parse("TXT", &long).unwrap_err().contains("256 bytes"));
        assert_eq!(parse("TXT", &"x".repeat(256)).unwrap().len(), 258);
    }

    proptest::proptest! {
        #[test]
        fn any_value_is_read_or_refused(kind in 0usize..27, value in ".{0,80}") {
            let origin = Name::parse_absolute("example.com").unwrap();
            let kind = MNEMONICS[kind].1;
            if let Ok(wire) = parse_value(kind, &value, &origin) {
                assert!(check_data(kind, &wire).is_ok(), "{kind:?} {value:?} {wire:?}");
            }
        }
    }
}
