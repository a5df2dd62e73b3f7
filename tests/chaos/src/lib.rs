//! Chaos: a mesh of real processes in three regions, under load, and what befalls it.
//!
//! ```text
//!   netns eu-1 ── TUN ─┐                        ┌─ TUN ── this process: users and backends of all regions
//!   netns eu-2 ── TUN ─┤   weather: delay,      │
//!   netns us-1 ── TUN ─┼── jitter, loss, cuts ──┘
//!   ...                ┘   (one thread, pure rules)
//! ```
//!
//! The kernel of a build machine need not have netem: every packet passes through this process, which decides what becomes
//! of it. So cuts and losses need no firewall either, and end with the process.

pub mod ground;
pub mod host;
pub mod relay;
pub mod story;
pub mod table;
pub mod tun;
pub mod users;
pub mod watch;
pub mod weather;
