//! Where the users come from: the networks that ask most, by /24 and /48. No full address is kept.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi 2005) in small sets: a network that is not known takes the place of the one
//! in its set that asked least, and inherits its count as its possible error. So memory is bounded whoever asks, counting costs
//! one look at eight places, and who asks much is never lost. Counts are of the present minute and the one before.
//!
//! Each worker has a crowd of its own, which it alone writes; readers may see a count that is one request old.
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;

/// Sets of places, a power of two.
const SETS: usize = 128;
/// Places in a set.
const WAYS: usize = 8;
/// For how long counts are one window's.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Bits of an address that are kept.
const BITS: (u8, u8) = (24, 48);
/// Marks IPv6 in a key; an empty place has the key 0.
const V6: u64 = 1 << 63;
const V4: u64 = 1 << 62;

/// A network as a number: its family and its first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(u64);

impl Network {
    /// The network of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(V4 | u64::from(address.to_bits() >> (32 - BITS.0))),
            IpAddr::V6(address) => Self(V6 | (address.to_bits() >> (128 - BITS.1)) as u64),
        }
    }

    /// As a number, for other nodes.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// From another node's number.
    pub fn from_bits(bits: u64) -> Option<Self> {
        let v4 = bits & V4 != 0 && bits ^ V4 < 1 << BITS.0;
        let v6 = bits & V6 != 0 && bits ^ V6 < 1 << BITS.1;
        (v4 || v6).then_some(Self(bits))
    }

    /// As it is written.
    pub fn net(self) -> IpNet {
        let net = match self.0 & V6 {
            0 => {
                let bits = ((self.0 ^ V4) as u32) << (32 - BITS.0);
                IpNet::new(std::net::Ipv4Addr::from_bits(bits).into(), BITS.0)
            }
            _ => {
                let bits = u128::from(self.0 ^ V6) << (128 - BITS.1);
                IpNet::new(std::net::Ipv6Addr::from_bits(bits).into(), BITS.1)
            }
        };
        net.expect("24 and 48 are lengths of prefixes")
    }
}

/// What a network asked for, in the present window and the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Requests and connections.
    pub requests: u64,
    /// Of these, those that ended in an error or a refusal.
    pub errors: u64,
    /// Bytes of bodies sent.
    pub bytes: u64,
    /// By how many requests the first number may be too great.
    pub doubt: u64,
}

#[derive(Debug, Default)]
struct Place {
    key: AtomicU64,
    /// The window of `now`; `before` is of the one before.
    window: AtomicU64,
    now: Counts,
    before: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    doubt: AtomicU64,
}

impl Counts {
    fn read(&self) -> Asked {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Asked {
            requests: read(&self.requests),
            errors: read(&self.errors),
            bytes: read(&self.bytes),
            doubt: read(&self.doubt),
        }
    }

    fn write(&self, asked: Asked) {
        self.requests.store(asked.requests, Ordering::Relaxed);
        self.errors.store(asked.errors, Ordering::Relaxed);
        self.bytes.store(asked.bytes, Ordering::Relaxed);
        self.doubt.store(asked.doubt, Ordering::Relaxed);
    }
}

impl Place {
    fn requests(&self, window: u64) -> u64 {
        match window.wrapping_sub(self.window.load(Ordering::Relaxed)) {
            0 => self.now.requests.load(Ordering::Relaxed) + self.before.requests.load(Ordering::Relaxed),
            1 => self.now.requests.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    /// Makes `now` the counts of this window.
    fn turn(&self, window: u64) {
        match window.wrapping_sub(self.window.swap(window, Ordering::Relaxed)) {
            0 => return,
            1 => self.before.write(self.now.read()),
            _ => self.before.write(Asked::default()),
        }
        self.now.write(Asked::default());
    }
}

/// One worker's crowd.
#[derive(Debug)]
pub(super) struct Crowd(Box<[[Place; WAYS]]>);

impl Default for Crowd {
    fn default() -> Self {
        Self((0..SETS).map(|_| Default::default()).collect())
    }
}

impl Crowd {
    /// Counts a request of a client that ended in this window. Only the worker that owns the crowd may.
    pub(super) fn note(&self, client: IpAddr, window: u64, failed: bool, bytes: u64) {
        let Network(key) = Network::of(client);
        let set = &self.0[spread(key)];
        let known = set.iter().find(|place| place.key.load(Ordering::Relaxed) == key);
        let place = known.unwrap_or_else(|| {
            let least = set.iter().min_by_key(|place| place.requests(window));
            let place = least.expect("a set has places");
            let inherited = place.requests(window);
            place.key.store(key, Ordering::Relaxed);
            place.window.store(window, Ordering::Relaxed);
            place.before.write(Asked::default());
            place.now.write(Asked { requests: inherited, doubt: inherited, ..Asked::default() });
            place
        });
        place.turn(window);
        let Asked { requests, errors, bytes: sent, doubt } = place.now.read();
        place.now.write(Asked {
            requests: requests + 1,
            errors: errors + u64::from(failed),
            bytes: sent.saturating_add(bytes),
            doubt,
        });
    }

    /// All networks that asked in this window or the one before.
    pub(super) fn all(&self, window: u64) -> impl Iterator<Item = (Network, Asked)> {
        self.0.iter().flatten().filter_map(move |place| {
            let key = Network::from_bits(place.key.load(Ordering::Relaxed))?;
            let (now, before) = (place.now.read(), place.before.read());
            let asked = match window.wrapping_sub(place.window.load(Ordering::Relaxed)) {
                0 => Asked {
                    requests: now.requests + before.requests,
                    errors: now.errors + before.errors,
                    bytes: now.bytes.saturating_add(before.bytes),
                    doubt: now.doubt + before.doubt,
                },
                1 => now,
                _ => return None,
            };
            Some((key, asked))
        })
    }
}

/// Fibonacci hashing: neighbouring networks lie in different sets.
fn spread(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_keeps_no_address() {
        let written = |text| Network::of(ip(text)).net().to_string();
        assert_eq!(written("198.51.100.77"), "198.51.100.0/24");
        assert_eq!(written("::ffff:198.51.100.77"), "198.51.100.0/24");
        assert_eq!(written("2001:db8:1:2::3"), "2001:db8:1::/48");
        let bits = Network::of(ip("2001:db8:1:2::3")).to_bits();
        assert_eq!(Network::from_bits(bits).map(Network::to_bits), Some(bits));
        for nonsense in [0, 1, V4 | 1 << 24, V6 | 1 << 48, V4 | V6, u64::MAX] {
            assert_eq!(Network::from_bits(nonsense), None, "{nonsense:x}");
        }
    }

    #[test]
    fn counts_are_of_this_window_and_the_one_before() {
        let crowd = Crowd::default();
        for window in [7, 7, 8, 10] {
            crowd.note(ip("192.0.2.1"), window, window == 8, 5);
        }
        let at =
            |window| crowd.all(window).map(|(_, asked)| (asked.requests, asked.errors, asked.bytes)).next();
        assert_eq!((at(10), at(11), at(12)), (Some((1, 0, 5)), Some((1, 0, 5)), None));
        crowd.note(ip("192.0.2.9"), 11, true, 1);
        assert_eq!(at(11), Some((2, 1, 6)));
    }

    #[test]
    fn memory_is_bounded_and_who_asks_much_is_not_lost() {
        let crowd = Crowd::default();
        let loud = ip("203.0.113.5");
        for n in 0..200_000u32 {
            crowd.note(std::net::Ipv4Addr::from_bits(n << 8).into(), 1, false, 0);
            if n % 100 == 0 {
                crowd.note(loud, 1, false, 0);
            }
        }
        assert!(crowd.all(1).count() <= SETS * WAYS);
        let (_, asked) = crowd.all(1).find(|(network, _)| *network == Network::of(loud)).unwrap();
        assert!(asked.requests >= 2000 && asked.requests - asked.doubt <= 2000, "{asked:?}");
    }

    proptest! {
        /// Space-Saving's promise: never too low, and too high by no more than it says.
        #[test]
        fn a_count_is_never_too_low(asking in prop::collection::vec(0u32..3000, 0..4000)) {
            let crowd = Crowd::default();
            let mut truth = BTreeMap::<Network, u64>::new();
            for n in asking {
                let client: IpAddr = std::net::Ipv4Addr::from_bits(n << 8).into();
                *truth.entry(Network::of(client)).or_default() += 1;
                crowd.note(client, 3, false, 0);
            }
            for (network, asked) in crowd.all(3) {
                let is = truth[&network];
                prop_assert!(asked.requests >= is && asked.requests - asked.doubt <= is, "{:?} of {}", asked, is);
            }
        }
    }
}
