//! What the mesh balances: servers in this process, each with a switch for every fault.
//!
//! ```text
//!   HttpBackend ┐
//!               ├── Door      a listener that can be closed (refused, all connections reset) and opened again
//!   TcpBackend  ┘
//! ```

mod door;
mod http;
mod tcp;

pub use http::{HttpBackend, Seen, http_backends};
pub use tcp::{TcpBackend, tcp_backends};

/// The port of all backends.
pub const PORT: u16 = 8081;
