//! Who may begin a handshake.
//!
//! Without a mesh key a stranger gets no further than a handshake that is not finished. Such ones are bounded: in all, by
//! network, and in time; from [`PROOF_FROM`] of them on an address must first show that it is its own (RFC 9000, 8.1.2).
//! Addresses from which a peer with a key has come have places of their own, so that a flood of strangers keeps out no member.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{Connecting, Connection, ConnectionError, Endpoint, Incoming};
use tokio::time::timeout;

/// Beyond so many connections, new ones are refused: peers of the mesh hold them, each a few.
pub(crate) const CONNECTIONS_MAX: usize = 4096;
/// Handshakes of strangers, and again of known addresses, that may be unfinished at once; each takes up to 100 KB.
pub(crate) const UNFINISHED_MAX: usize = 512;
/// Of them those from one network of strangers.
const OF_ONE_NETWORK: usize = 32;
/// With so many unfinished, an address has to prove itself.
const PROOF_FROM: usize = 64;
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses that are remembered; a mesh has fewer nodes.
const KNOWN_MAX: usize = 4096;

/// The door of one endpoint.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<Mutex<Book>>);

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Entering {
    connecting: Connecting,
    place: Place,
}

impl Door {
    /// Handshakes of strangers that are not finished; at most [`UNFINISHED_MAX`].
    pub(super) fn unfinished(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).strange
    }

    /// Lets a connection in, defers or refuses it before anything is spent on it. `Err` holds why, when its first packet shows
    /// that there can be no connection.
    pub(super) fn admit(
        &self,
        endpoint: &Endpoint,
        incoming: Incoming,
    ) -> Result<Entering, Option<ConnectionError>> {
        let network = network(incoming.remote_address().ip());
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = endpoint.open_connections() >= CONNECTIONS_MAX;
        match book.judge(network, incoming.remote_address_validated()) {
            Verdict::Enters(kind) if !full => {
                book.enters(network, kind);
                drop(book);
                let place = Place { book: self.0.clone(), network, kind };
                Ok(Entering { connecting: incoming.accept().map_err(Some)?, place })
            }
            Verdict::Proves if incoming.may_retry() && !full => {
                // It could be sent again; an error means that it could not.
                let _ = incoming.retry();
                Err(None)
            }
            _ => {
                incoming.refuse();
                Err(None)
            }
        }
    }
}

impl Entering {
    /// The connection, when the handshake showed a key of the mesh in time.
    pub(super) async fn finished(self) -> Result<Connection, ConnectionError> {
        let Ok(connection) = timeout(PATIENCE, self.connecting).await else {
            return Err(ConnectionError::TimedOut);
        };
        let connection = connection?;
        self.place.book.lock().unwrap_or_else(PoisonError::into_inner).knows(self.place.network);
        Ok(connection)
    }
}

/// What one unfinished handshake takes.
#[derive(Debug)]
struct Place {
    book: Arc<Mutex<Book>>,
    network: IpAddr,
    kind: Kind,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).leaves(self.network, self.kind);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stranger,
    Known,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Enters(Kind),
    /// It must show that the address is its own.
    Proves,
    Refused,
}

/// Who is in the middle of a handshake.
#[derive(Debug, Default)]
struct Book {
    strangers: HashMap<IpAddr, usize>,
    strange: usize,
    familiar: usize,
    known: HashSet<IpAddr>,
}

impl Book {
    fn judge(&self, network: IpAddr, proven: bool) -> Verdict {
        if !proven && self.strange + self.familiar >= PROOF_FROM {
            return Verdict::Proves;
        }
        let own = self.strangers.get(&network).copied().unwrap_or(0);
        if self.known.contains(&network) && self.familiar < UNFINISHED_MAX {
            Verdict::Enters(Kind::Known)
        } else if self.strange < UNFINISHED_MAX && own < OF_ONE_NETWORK {
            Verdict::Enters(Kind::Stranger)
        } else {
            Verdict::Refused
        }
    }

    fn enters(&mut self, network: IpAddr, kind: Kind) {
        match kind {
            Kind::Known => self.familiar += 1,
            Kind::Stranger => {
                self.strange += 1;
                *self.strangers.entry(network).or_default() += 1;
            }
        }
    }

    fn leaves(&mut self, network: IpAddr, kind: Kind) {
        match kind {
            Kind::Known => self.familiar -= 1,
            Kind::Stranger => {
                self.strange -= 1;
                if let Some(count) = self.strangers.get_mut(&network) {
                    *count -= 1;
                    if *count == 0 {
                        self.strangers.remove(&network);
                    }
                }
            }
        }
    }

    fn knows(&mut self, network: IpAddr) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(network);
    }
}

/// An IPv4 address, or the first 56 bits of an IPv6 one: what one stranger has for nothing.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 72 << 72).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    #[test]
    fn strangers_prove_their_addresses_and_have_few_places_each() {
        let mut book = Book::default();
        for _ in 0..OF_ONE_NETWORK {
            assert_eq!(book.judge(ip(1), false), Verdict::Enters(Kind::Stranger));
            book.enters(ip(1), Kind::Stranger);
        }
        assert_eq!(book.judge(ip(1), true), Verdict::Refused);
        assert_eq!(book.judge(ip(2), false), Verdict::Enters(Kind::Stranger));
        for _ in OF_ONE_NETWORK..PROOF_FROM {
            book.enters(ip(2), Kind::Stranger);
        }
        assert_eq!(book.judge(ip(3), false), Verdict::Proves);
        assert_eq!(book.judge(ip(3), true), Verdict::Enters(Kind::Stranger));
        book.leaves(ip(1), Kind::Stranger);
        assert_eq!(book.judge(ip(1), false), Verdict::Enters(Kind::Stranger));
    }

    #[test]
    fn a_flood_of_strangers_keeps_out_no_member() {
        let mut book = Book::default();
        book.knows(ip(9));
        let mut flood = 0;
        while let Verdict::Enters(kind) = book.judge(ip(1000 + flood), true) {
            book.enters(ip(1000 + flood), kind);
            flood += 1;
        }
        assert_eq!(flood as usize, UNFINISHED_MAX);
        assert_eq!(book.judge(ip(9), false), Verdict::Proves);
        assert_eq!(book.judge(ip(9), true), Verdict::Enters(Kind::Known));
    }

    #[test]
    fn a_flood_from_the_address_of_a_member_is_bounded_too() {
        let mut book = Book::default();
        book.knows(ip(9));
        let mut flood = 0;
        while let Verdict::Enters(kind) = book.judge(ip(9), true) {
            book.enters(ip(9), kind);
            flood += 1;
        }
        assert_eq!(flood, UNFINISHED_MAX + OF_ONE_NETWORK);
        for left in 0..flood {
            book.leaves(ip(9), if left < UNFINISHED_MAX { Kind::Known } else { Kind::Stranger });
        }
        assert!(book.strangers.is_empty() && book.strange == 0 && book.familiar == 0);
    }

    #[test]
    fn neighbours_in_ipv6_are_one_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:200::1"), of("2001:db8:1:2ff::9"));
        assert_ne!(of("2001:db8:1:200::1"), of("2001:db8:1:300::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
