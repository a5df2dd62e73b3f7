//! Messages on the wire and values in presentation format.
//!
//! Questions are read and answers written in place, without a library and without an allocation; what happens rarely
//! (values of rarer types, answers read back for people, the client) is hickory's, which only this folder names.

mod client;
mod padding;
mod query;
mod read_back;
mod reply;
mod text;

use std::fmt;

use hickory_proto::rr::Name as HickoryName;

pub use client::{Inquiry, addresses, ask_server};
pub(crate) use padding::pad;
pub(crate) use query::{HEADER_BYTES, Question, Request, decode};
pub(crate) use read_back::{ask, read_back};
pub(crate) use reply::{ExtendedError, Extras, Owner, Reply, Section, Written};
pub use text::record_types;
pub(crate) use text::{kind_from_text, kind_to_text, parse_value};

use crate::name::Name;

/// Class IN.
pub(crate) const CLASS_IN: u16 = 1;

/// Which server it is (RFC 5001).
const OPTION_NSID: u16 = 3;
/// The client-subnet option (RFC 7871 §6).
const OPTION_CLIENT_SUBNET: u16 = 8;
/// Cookies (RFC 7873 §4).
const OPTION_COOKIE: u16 = 10;
/// Why, beside the response code (RFC 8914 §2).
const OPTION_EXTENDED_ERROR: u16 = 15;

/// What this server can take over UDP, and the most it sends there: what crosses the Internet unfragmented
/// (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD_BYTES: u16 = 1232;

/// A response code, with the upper bits that EDNS carries (RFC 6895 §2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rcode(pub u16);

impl Rcode {
    /// An answer, possibly empty.
    pub const NOERROR: Self = Self(0);
    /// The question could not be read.
    pub const FORMERR: Self = Self(1);
    /// Something failed here.
    pub const SERVFAIL: Self = Self(2);
    /// No such name.
    pub const NXDOMAIN: Self = Self(3);
    /// Another operation than a query.
    pub const NOTIMP: Self = Self(4);
    /// Not for this server.
    pub const REFUSED: Self = Self(5);
    /// An EDNS version above 0 (RFC 6891 §6.1.3).
    pub const BADVERS: Self = Self(16);
    /// A cookie that was not made here (RFC 7873 §8): ask again with the one that comes with this.
    pub const BADCOOKIE: Self = Self(23);
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NOERROR => f.write_str("NOERROR"),
            Self::FORMERR => f.write_str("FORMERR"),
            Self::SERVFAIL => f.write_str("SERVFAIL"),
            Self::NXDOMAIN => f.write_str("NXDOMAIN"),
            Self::NOTIMP => f.write_str("NOTIMP"),
            Self::REFUSED => f.write_str("REFUSED"),
            Self::BADVERS => f.write_str("BADVERS"),
            Self::BADCOOKIE => f.write_str("BADCOOKIE"),
            Self(other) => write!(f, "RCODE{other}"),
        }
    }
}

fn to_hickory(name: &Name) -> HickoryName {
    let mut converted =
        HickoryName::from_labels(name.labels()).expect("a Name is within hickory's limits too");
    converted.set_fqdn(true);
    converted
}
