//! Choosing: one policy a file, all pure. What may be chosen at all is the caller's question.
//!
//! ```text
//! a new session   split (which version) ──▶ zone (where in the region) ──▶ least_busy │ round_robin
//!                 │ least_connections │ peak_ewma │ random │ hash (which backend), by weights that slow_start bends
//!                 least_busy and least_connections ──▶ rack (among equals)
//! a moved session rendezvous (the same choice on every node that asks)
//! ```
//!
//! A policy is handed an iterator of candidates and answers with the index of one of them. It holds no reference to
//! backends, reads no clock and draws from the random source it is given.
pub mod hash;
pub mod least_busy;
pub mod least_connections;
mod lowest;
pub mod peak_ewma;
pub mod rack;
pub mod random;
pub mod rendezvous;
pub mod round_robin;
pub mod slow_start;
pub mod split;
pub mod zone;

/// What the load policies need to know of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests in flight from this node.
    pub here: u32,
    /// Requests in flight from all others.
    pub elsewhere: u32,
    /// The share; a candidate of weight 0 is never chosen.
    pub weight: u32,
    /// Where it stands.
    pub rack: rack::Rack,
}
