//! The replicated session store on a virtual clock: one seed is one run.
//!
//! ```text
//!   seed ─▶ Scenario   who there is, how bad the network is, what users and faults do and when
//!              │
//!            World     nodes (the real replicas of `storage`, their RAM, their disks), events in order of time
//!              ├── network   delay, loss, duplicates, disorder, one-way cuts, halves and bridges
//!              ├── beliefs   who takes whom for alive: suspects, deaths, isolation
//!              └── ledger    what was promised to users; says when a promise is broken
//!                    │
//!                 Violation ─▶ shrink ─▶ the fewest steps that still break it
//! ```
//!
//! Every run with one seed is the same to the last event. No socket, task or clock of the machine is touched.

pub mod beliefs;
pub mod ledger;
pub mod network;
pub mod node;
pub mod scenario;
pub mod shrink;
pub mod sweep;
pub mod world;

pub use ledger::Violation;
pub use scenario::{Scenario, Step};
pub use world::run;
