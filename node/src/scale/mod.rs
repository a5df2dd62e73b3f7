//! Pools that grow and shrink with their load.
//!
//! ```text
//!   every node ── pulse, once a second: in flight, requests, latency of its own requests ──▶ every node
//!   the first by rendezvous of those that can act ── tracks the target (pure) ──▶ wants N
//!        └── asks all for the next decision's number ── granted by a majority ──▶ acts: exec, webhook, docker
//! ```
//!
//! One decision has one number, a number is granted once by each node and only some time after the last, and whoever has
//! no majority of all known nodes does nothing. So two nodes that both think it is their turn, or two halves of a cut mesh,
//! never both act. A node that lacks what it takes (the program, the engine), or whose last act failed, says so with its
//! pulse, and the turn passes to the next. A decision whose node dies in the middle is never repeated: the next one looks anew.

mod act;
mod agree;
mod coming;
mod core;
mod doing;
mod jobs;
mod nursery;
mod place;
mod pulse;
mod store;
mod target;
mod task;
mod turn;
pub(crate) mod wire;

pub(crate) use self::core::ScaleState;
pub(crate) use self::task::{ScaleConfig, Scaling, start};
