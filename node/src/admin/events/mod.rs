//! What happened, anywhere in the mesh: a list, or a stream that goes on (server-sent events).
//!
//! ```text
//!   this node's view, orders, notes ─▶ own facts ─┐           ┌─▶ GET /v1/events, streams
//!   the other nodes' own facts ──(exchange)───────┴─▶ ring ───┤
//!                                                             └─▶ DATA/events: kept over a restart and an upgrade
//! ```
//!
//! Each node keeps the last facts that it saw itself, numbered, and asks the others for theirs, once a second and when a list is asked
//! for. Most facts are seen by many: equal ones within ten seconds
//! are one event, told with the node that saw it first and how many did (`ring.rs`, pure). What happens all the time does not
//! push out what happens rarely (`shelf.rs`, pure).

mod describe;
mod file;
mod handovers;
mod log;
mod ring;
pub(super) mod routes;
mod shelf;
mod spread;
mod wire;

pub(crate) use self::log::EventLog;
pub(crate) use self::ring::Event;
pub(super) use self::routes::STREAMS_MAX;
pub(crate) use self::spread::Spread;
#[cfg(any(test, fuzzing))]
pub(crate) use self::{
    file::{decode as decode_file, encode as encode_file, golden as file_golden},
    wire::{decode, encode, golden},
};
