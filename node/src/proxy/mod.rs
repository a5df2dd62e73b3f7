//! The data plane: what happens to a user's connection, one file a step (DESIGN §9).
//!
//! [`start`] binds every listener of the present snapshot, or none: it fails with the ports that are taken. From
//! then on the listeners follow the snapshot.
//!
//! ```text
//! handle ── listeners ── bind          what is listened on, following the snapshot
//!    └ thread ── worker ── plan        one thread a core; the snapshot with what follows from it
//!         └ accept ── places ── secure ── connection      one task a connection
//!              │                                └ opening, activity, windows, acquaintance   what it speaks, how long it waits, what is known
//!              ├ proxy_protocol           whom a connection is for; what backends are told of it
//!              ├ http ── fields ── headers ── trace ── forwarded ── added ── websocket, grpc
//!              │    ├ route ── limit ── addressee ── affinity ── usher ── session ── choose ── keys ── pick
//!              │    ├ outgoing ── exchange ── admission ── upstream ── http1, multiplex ── settings ── gather ── retry ── body ── upload
//!              │    └ disguise ── record ── outcome ── tally ── crowd ── log
//!              ├ tcp ── hello ── sni ── relay ── sockets ── pipe
//!              └ tunnel/{preface, near, far}
//! ```

mod accept;
mod acquaintance;
mod activity;
mod added;
mod addressee;
mod admission;
mod affinity;
mod bind;
mod body;
mod choose;
mod connection;
mod crowd;
mod disguise;
mod exchange;
mod fields;
#[cfg(test)]
pub(crate) mod fixture;
mod forwarded;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gather;
mod grpc;
mod handle;
mod headers;
mod hello;
mod http;
mod http1;
mod keys;
mod limit;
mod listeners;
mod log;
mod multiplex;
mod opening;
mod outcome;
mod outgoing;
mod pick;
mod pipe;
mod places;
mod plan;
mod problem;
mod proxy_protocol;
mod record;
mod redirect;
mod relay;
mod retry;
mod route;
mod secure;
mod session;
mod settings;
mod sni;
mod sockets;
mod source;
mod store;
mod tally;
mod tcp;
#[cfg(test)]
mod tests;
mod thread;
mod trace;
mod tunnel;
mod upload;
mod upstream;
mod usher;
mod websocket;
mod windows;
mod worker;

pub use admission::WAITING_MAX;
pub use bind::{BindError, BindProblem, check as check_ports};
pub use crowd::{Asked, Network, WINDOW};
pub use handle::{ProxyConfig, ProxyHandle, StartError, start};
pub use limit::CLIENTS_MAX;
pub use listeners::Inherited;
pub use outcome::{Affinity, Counters, Cut, End};
pub use route::RouteTable;
pub use source::SourceKeys;
pub use store::SessionStore;
pub use tally::{BOUNDS_MICROS, BUCKETS, ServiceCounts};
pub use tunnel::{InboundTunnel, TunnelDial, TunnelIo};
