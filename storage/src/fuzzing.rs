//! This crate's decoders of what others wrote, by name, with golden bytes: for the fuzz targets (`cfg(fuzzing)`) and for
//! the test below. In no other build.
//!
//! What a decoder reads it must also write, and read again as the same.

use gossip::clock::{Hlc, Wall};
use gossip::id::{BackendId, NodeName, ServiceName, SessionId, Tag};

use crate::cookie::Cookies;
use crate::digest::Fingerprint;
use crate::intent::{Aspect, Entry, Order, Target};
use crate::intents::task as intents;
use crate::pin::{Assignment, Pin};
use crate::revision::Revision;
use crate::sessions::Repinned;
use crate::table::Record;
use crate::wire::{Ballot, GROUPS, Request, Response, Vote};
use crate::zone_key::{Sealer, ZoneKey};
use crate::zone_keys::task as zone_keys;
use crate::{disk, survey};

/// A decoder's name, the decoder, and its golden bytes.
pub type Decoder = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub const DECODERS: [Decoder; 11] = [
    ("cookie", cookie, cookie_golden),
    ("session-request", request, request_golden),
    ("session-response", response, response_golden),
    ("pin", pin, || vec![pin_of(Some(3)).encode().to_vec(), pin_of(None).encode().to_vec()]),
    ("stored-pin", stored_pin, stored_pin_golden),
    ("intent", intent, || {
        let denial = Entry {
            target: Target::Network([192, 0, 2, 0].into(), 24),
            ..entry(Some(Order::Deny { until: Some(NOW) }))
        };
        let target = Target::ZoneKey { zone: "lb.example".into(), tag: 7, id: [9; 16] };
        let retired = Entry { target, aspect: Aspect::ZoneKey, ..entry(Some(Order::RetireZoneKey)) };
        vec![
            entry(None).encode(),
            retired.encode(),
            entry(Some(Order::Drain { deadline: Some(NOW) })).encode(),
            denial.encode(),
        ]
    }),
    ("intents", intents_message, intents_golden),
    ("revision", revision, revision_golden),
    ("survey", survey, survey::golden),
    ("zone-key", zone_key, zone_key_golden),
    ("zone-keys", zone_keys_message, zone_keys_golden),
];

const NOW: Wall = Wall(1_790_000_000_000);

/// A cookie's value.
pub fn cookie(bytes: &[u8]) {
    let (cookies, service) = (Cookies::fixed(), service());
    let text = String::from_utf8_lossy(bytes);
    if let Ok(opened) = cookies.open(&service, &text, NOW) {
        let sealed = cookies.seal(&service, &opened, NOW);
        assert_eq!(cookies.open(&service, &sealed, NOW), Ok(opened));
    }
}

/// A question between replicas.
pub fn request(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(request.encode(), bytes);
    }
}

/// An answer between replicas.
pub fn response(bytes: &[u8]) {
    if let Ok(response) = Response::decode(bytes) {
        assert_eq!(response.encode(), bytes);
    }
}

/// A pin.
pub fn pin(bytes: &[u8]) {
    if let Ok(pin) = Pin::decode(bytes) {
        assert_eq!(pin.encode(), bytes);
        assert_eq!(Pin::unpack(pin.id, &pin.pack()), pin);
        assert_eq!(pin.merge(pin), pin);
    }
}

/// A record on disk: the key of 20 bytes, then the value.
pub fn stored_pin(bytes: &[u8]) {
    let (key, value) = bytes.split_at(bytes.len().min(20));
    if let Some(record) = disk::decode(key, value) {
        assert_eq!(disk::key(record.home, &record.pin.id), key);
        assert_eq!(disk::decode(key, &disk::value(&record.pin)), Some(record));
    }
}

/// An operator's order.
pub fn intent(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }
}

/// Orders, as nodes exchange them.
pub fn intents_message(bytes: &[u8]) {
    if let Some(entries) = intents::read(bytes) {
        let again = intents::put(&entries);
        assert_eq!(intents::read(&again[2..]), Some(entries));
    }
}

/// A revision of the configuration.
pub fn revision(bytes: &[u8]) {
    if let Ok(revision) = Revision::decode(bytes) {
        assert_eq!(revision.encode(), bytes);
    }
}

/// What nodes ask each other for operators.
pub fn survey(bytes: &[u8]) {
    survey::try_decode(bytes);
}

fn service() -> ServiceName {
    ServiceName::new("web").expect("a valid name")
}

fn node() -> NodeName {
    NodeName::new("eu-1").expect("a valid name")
}

fn pin_of(backend: Option<u64>) -> Pin {
    let assignment = Assignment {
        hlc: Hlc::from_millis(NOW.0),
        node: Tag(1),
        pool: Tag(2),
        backend: backend.map(BackendId),
        weak: false,
        forwarded: false,
    };
    Pin { id: SessionId([7; 16]), assignment, expires: 1_790_000_600 }
}

fn record() -> Record {
    Record { home: Tag(9), pin: pin_of(Some(3)) }
}

fn cookie_golden() -> Vec<Vec<u8>> {
    vec![
        crate::cookie::GOLDEN.into(),
        Cookies::fixed().seal(&service(), &crate::cookie::golden(), NOW).into(),
    ]
}

/// A zone's key, sealed.
pub fn zone_key(bytes: &[u8]) {
    let sealer = Sealer::fixed();
    if let Ok(key) = sealer.open(bytes) {
        assert_eq!(sealer.seal(&key).map(|sealed| sealer.open(&sealed)), Some(Ok(key)));
    }
}

/// Keys of zones, as nodes exchange them.
pub fn zone_keys_message(bytes: &[u8]) {
    zone_keys::read(bytes).into_iter().flatten().for_each(zone_key);
}

fn zone_key_golden() -> Vec<Vec<u8>> {
    let key = ZoneKey { zone: "a.example".into(), made: NOW, secret: vec![1; 138] };
    Vec::from_iter(Sealer::fixed().seal_with(&key, [3; 12]))
}

fn zone_keys_golden() -> Vec<Vec<u8>> {
    let sealed = zone_key_golden().into_iter();
    let message = sealed.flat_map(|sealed| [&(sealed.len() as u16).to_le_bytes()[..], &sealed].concat());
    vec![message.collect(), Vec::new()]
}

fn request_golden() -> Vec<Vec<u8>> {
    let (home, id, replaces) = (Tag(9), SessionId([7; 16]), Hlc(6));
    let ballot = Ballot { hlc: Hlc(5), node: Tag(4) };
    let all = [
        Request::Put(vec![record(), Record { home, pin: pin_of(None) }]),
        Request::HandOff(vec![record()]),
        Request::Get(home, id),
        Request::Repin { record: record(), replaces },
        Request::Accept { record: record(), replaces },
        Request::Prepare { home, id, ballot },
        Request::Refresh(vec![(home, id, 2)]),
        Request::Digest(home, vec![(4095, Fingerprint(5)), (0, Fingerprint(1))]),
        Request::Keys(home, vec![3, 4]),
        Request::Pull(home, vec![id]),
        Request::Summary(home, Box::new([Fingerprint(3); GROUPS])),
    ];
    all.iter().map(|request| request.encode().to_vec()).collect()
}

fn response_golden() -> Vec<Vec<u8>> {
    let (id, pin) = (SessionId([7; 16]), pin_of(Some(3)));
    let all = [
        Response::Ack { refused: vec![2, 5] },
        Response::Found(None),
        Response::Found(Some(pin)),
        Response::Vote(Vote { granted: true, promised: Hlc(3), held: Some(pin) }),
        Response::Vote(Vote { granted: false, promised: Hlc(3), held: None }),
        Response::Repinned(Repinned::Committed(pin)),
        Response::Repinned(Repinned::Superseded(pin)),
        Response::Repinned(Repinned::Weak(pin)),
        Response::Differ(vec![2, 4095]),
        Response::Keys(vec![(2, vec![(id, 8), (id, 9)]), (3, Vec::new())]),
        Response::Pins(vec![pin, pin_of(None)]),
    ];
    all.iter().map(|response| response.encode().to_vec()).collect()
}

fn stored_pin_golden() -> Vec<Vec<u8>> {
    let Record { home, pin } = record();
    let key = disk::key(home, &pin.id);
    vec![[&key[..], &[1], &pin.encode()].concat(), [&key[..], &disk::value(&pin)].concat()]
}

fn entry(order: Option<Order>) -> Entry {
    let aspect = order.as_ref().map_or(Aspect::State, Order::aspect);
    Entry { target: Target::Node(node()), aspect, order, at: Hlc(5), by: node() }
}

fn intents_golden() -> Vec<Vec<u8>> {
    let message = intents::put(&[entry(None), entry(Some(Order::Drain { deadline: Some(NOW) }))]);
    vec![message[2..].to_vec(), Vec::new()]
}

fn revision_golden() -> Vec<Vec<u8>> {
    let first = Revision::after(None, "[pool.web]\n".into(), "ops", node(), NOW);
    let second = Revision::after(Some(first.id), String::new(), "ops", node(), NOW);
    vec![first.encode(), second.encode()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pin::PIN_BYTES;

    #[test]
    fn golden_bytes_are_read() {
        assert!(request_golden().iter().all(|bytes| Request::decode(bytes).is_ok()));
        assert!(response_golden().iter().all(|bytes| Response::decode(bytes).is_ok()));
        assert!(revision_golden().iter().all(|bytes| Revision::decode(bytes).is_ok()));
        assert!(stored_pin_golden().iter().all(|bytes| disk::decode(&bytes[..20], &bytes[20..]).is_some()));
        assert_eq!(stored_pin_golden()[0].len(), 21 + PIN_BYTES);
    }

    #[test]
    fn changed_golden_bytes_are_survived() {
        mutate::survive(&DECODERS, |name| match name {
            // serde makes room for up to a megabyte of announced items before it reads the first.
            "survey" | "intent" | "intents" => mutate::Room { bytes: 3 << 20, times: 64 },
            _ => mutate::Room { bytes: 64 << 10, times: 64 },
        });
    }
}
