//! Meridian as real processes on loopback: the harness of the proofs in `tests/`.
//!
//! ```text
//!   prove!(within 90 s, async |stage| ...)          one proof: its bound, its turn, its logs when it fails
//!        │
//!      Stage ─── Net          a /16 of 127.0.0.0/8 that nobody else uses; ports are fixed numbers
//!        │  ├─── Cluster      nodes: real processes of the program under test, each with its own address
//!        │  └─── Cli          one command line call, with its exit code
//!        ├── Wire, Machine    hosts of their own, for what documents tell to type (`Document`)
//!        ├── HttpBackend, TcpBackend      what the mesh balances, in this process, each with a switch for every fault
//!        ├── Parent, Resolver             other people's resolvers, and the zone above the mesh's
//!        ├── Siege                        those who mean harm, in a process of their own
//!        └── Browser, TcpTalk, Resolver   the users: a cookie jar, a chosen source address, ECS
//! ```
//!
//! Everything here waits for conditions ([`wait::eventually`]) and has a bound; nothing sleeps for a guess. Every
//! child process dies with the test process, however that ends ([`process`]).

pub mod backend;
pub mod chromium;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod dns;
pub mod document;
pub mod load;
pub mod machine;
pub mod mmdb;
pub mod net;
pub mod peer;
pub mod process;
pub mod resolvers;
pub mod services;
pub mod sessions;
pub mod siege;
pub mod stage;
pub mod status;
pub mod tls;
pub mod wait;
