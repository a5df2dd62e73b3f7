//! The PROXY protocol ("The PROXY protocol", HAProxy Technologies, versions 1 and 2): a header in front of a TCP connection
//! that says who the client is.
//!
//! ```text
//!   a balancer in front ── header ──▶ read ── parse (pure) ──▶ the client's address
//!   header(version, client, local) ── bytes ──▶ a backend that wants to know
//! ```
//! Own code: the crate `proxy-header` 0.1.3 takes `PROXYxTCP4`, `+80` for a port and lines of any length, asks for more of
//! a complete header whose addresses are missing, refuses LOCAL with an empty address, and checks no checksum.
mod crc32c;
pub(super) mod parse;
mod read;
mod write;

pub(super) use read::{Arrival, arrive};
pub(super) use write::header;

/// How a header of version 2 begins (§2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
