//! The data plane, health, configuration, admin and the command line of Meridian.
//!
//! ```text
//!   cli ──▶ app ── wires ──▶ config   registry   health   proxy   steering   admin
//!                            (pure)      └────── Snapshot ──────────┘
//! ```
//!
//! Only [`app`] knows all rooms; the others meet in [`backend::Snapshot`] and the types of `config::model`.

mod admin;
mod alike;
mod app;
pub mod backend;
pub mod balance;
mod cautions;
mod cli;
pub mod config;
mod dashboard;
mod data_file;
mod discovery;
pub mod distance;
mod docker;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod geoip;
pub mod health;
pub(crate) mod keys;
mod kubernetes;
pub mod proxy;
pub mod queue;
pub mod registry;
mod scale;
pub mod signing;
mod stamp;
mod steering;
pub mod timings;
pub mod tls;
mod watchdog;

pub use cli::main;
