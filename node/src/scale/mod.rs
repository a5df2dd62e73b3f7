//! Pools that grow and shrink with their load.
//!
//! ```text
//!   every node ── pulse, once a second: in flight, requests, latency of its own requests ──▶ every node
//!   the first by rendezvous ── tracks the target (pure) ──▶ wants N
//!        └── asks all for the next decision's number ── granted by a majority ──▶ acts: exec, webhook, docker
//! ```
//!
//! One decision has one number, a number is granted once by each node and only some time after the last, and whoever has
//! no majority of all known nodes does nothing. So two nodes that both think it is their turn, or two halves of a cut mesh,
//! never both act; and a decision whose node dies in the middle is never repeated: the next one looks anew.

mod act;
mod agree;
mod place;
mod pulse;
mod target;
mod task;
pub(crate) mod wire;

pub(crate) use self::task::{ScaleConfig, ScaleState, Scaling, start};
