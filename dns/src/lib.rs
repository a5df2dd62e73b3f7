//! Authoritative DNS: what is asked, where the user is, which region answers, which bytes go back.
//!
//! ```text
//!   server.rs ─ udp.rs tcp.rs    sockets: bytes in, bytes out; mmsg.rs has the system calls of UDP, dot.rs the handshake of TLS
//!        └──────┬──────┘
//!          responder.rs          one message in, one message out, on an immutable scene:
//!               │                  Table (names and rules)   Board (the State, numbered)   GeoIp (a file)
//!           answer.rs            which records answer a question; explain.rs says why
//!          ┌────┴─────┐
//!       zone.rs    steer.rs      name → prepared records        client → region → node addresses
//!          │          │
//!    fragment.rs   board.rs deck.rs ranked.rs                   who can serve, who is drawn, who is near
//!       name.rs    geo.rs prefixes.rs                           address → place, and how far around it holds
//!     hinted.rs    sign/                                     DNSSEC: the signature behind each set
//!          └── wire/             messages and presentation format; the only folder that names hickory
//!
//!   zonefile.rs → spec.rs → build.rs → table.rs   zone files, the configuration, its checks, the immutable result
//! ```
//!
//! Beside it: check.rs judges how a zone is delegated, from what its servers and its parent answered.
//!
//! The crate knows neither the mesh nor its configuration files: it is handed a [`TableSpec`] when the
//! configuration changes and a [`State`] when health or membership does. It reads no clock and no global random
//! source: `now` and a seed are arguments.

mod answer;
mod board;
mod build;
pub mod check;
mod connections;
mod cookie;
mod counters;
mod deck;
mod dot;
mod explain;
#[cfg(test)]
mod fixtures;
mod fragment;
pub mod geo;
mod hinted;
mod index;
mod limit;
mod mmsg;
mod moment;
pub mod name;
mod prefixes;
mod ranked;
mod responder;
mod server;
mod sign;
mod spec;
mod state;
mod steer;
mod table;
mod tcp;
mod terms;
mod transfer;
mod udp;
mod wire;
pub mod zone;
mod zonefile;

pub use counters::{Counters, CountersSnapshot};
pub use dot::{DOT_ALPN, TlsListen};
pub use explain::{ExplainError, Explanation, Measured, PolicyKind, Skip, Steering};
pub use geo::{GeoError, GeoIp};
pub use limit::ResponseRate;
pub use moment::{Clock, Moment};
pub use responder::{Clerk, Responder, Transport, Verdict};
pub use server::{BindError, DnsServer, Inherited, ServerConfig, TcpLimits};
pub use sign::{KeyError, SigningKey, names_key};
pub use spec::{
    Place, Policy, RecordError, RecordSpec, RecordTypeError, RegionSpec, Shed, Signing, SpecError, SteerSpec,
    TableSpec, ZoneSpec, check_contact, check_label, check_record, check_record_type, check_zone_name,
    parse_record,
};
pub use state::{NodeState, RegionState, ServiceState, State};
pub use steer::{Family, MIN_SHRUNK_TTL, Source, Step};
pub use table::Table;
pub use terms::{CookieSecret, MAX_NSID_BYTES, Terms};
pub use wire::{Inquiry, Rcode, addresses, ask_server, record_types};
pub use zonefile::{
    FileRecord, FileSoa, MAX_FILE_BYTES, MAX_FILE_RECORDS, ParsedZoneFile, ZoneFile, ZoneFileFault,
};
