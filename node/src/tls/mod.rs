//! TLS of the data plane: what listeners show, whom they ask, and how backends are verified.
//!
//! ```text
//!   Services ──▶ keeper (a task; reads files off the request path, every two seconds again)
//!                  ├ files      PEM → certificates, keys, authorities; each remembers what it last was
//!                  ├ server     one rustls configuration a listener ◀── names (SNI), tickets (mesh key)
//!                  └ client     one rustls configuration a pool that speaks TLS
//!                       └──▶ Table (immutable) ──▶ Tls: workers and health look up by name
//!   node.toml ──▶ dot: the same for DNS over TLS, whose certificates are the node's own
//! ```
//!
//! The configuration names files; each node reads its own. A file that cannot be read never takes a node down: what was
//! read before stays in use, and without that only the handshakes that need the file are refused. [`Tls::problems`] says
//! so. A changed file is in use for new handshakes within seconds; connections that stand are not touched, and sessions
//! resume over the change.

mod client;
pub(crate) mod dot;
mod files;
mod keeper;
mod names;
mod server;
#[cfg(test)]
pub(crate) mod testing;
mod tickets;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gossip::id::{ListenerName, PoolName};
use rustls::ServerConfig;
use tokio::sync::watch;

pub use client::Upstream;
pub use keeper::{TlsConfig, start};
pub use tickets::TicketKeys;

/// The protocols that https listeners speak, the preferred first (ALPN, RFC 7301).
pub(crate) const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What is in force. `None`: it cannot be used, and a problem says why.
#[derive(Debug, Default)]
struct Table {
    listeners: HashMap<ListenerName, Option<Arc<ServerConfig>>>,
    pools: HashMap<PoolName, Option<Arc<Upstream>>>,
    problems: Vec<String>,
}

/// What the data plane and health ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    table: Arc<ArcSwap<Table>>,
    changed: watch::Receiver<()>,
}

impl Tls {
    /// What an https listener shows. Waits for a listener that is so new that its files are still being read: the caller
    /// bounds that. `None`: new handshakes are refused.
    pub(crate) async fn server(&self, listener: &ListenerName) -> Option<Arc<ServerConfig>> {
        self.known(|table| table.listeners.get(listener).cloned()).await
    }

    /// How the backends of a pool that speaks TLS are spoken to; waits as [`Tls::server`] does.
    pub(crate) async fn upstream(&self, pool: &PoolName) -> Option<Arc<Upstream>> {
        self.known(|table| table.pools.get(pool).cloned()).await
    }

    /// Without any listener or pool.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { table: Arc::default(), changed: watch::channel(()).1 }
    }

    /// What is wrong with files, in words for operators.
    pub fn problems(&self) -> Vec<String> {
        self.table.load().problems.clone()
    }

    async fn known<T>(&self, find: impl Fn(&Table) -> Option<Option<T>>) -> Option<T> {
        if let Some(found) = find(&self.table.load()) {
            return found;
        }
        let mut changed = self.changed.clone();
        loop {
            changed.mark_unchanged();
            if let Some(found) = find(&self.table.load()) {
                return found;
            }
            changed.changed().await.ok()?;
        }
    }
}
