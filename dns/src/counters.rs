//! What the server counts. Only sums: who reads them makes the rates.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::responder::Transport;
use crate::wire::Rcode;

/// Counters shared by all sockets.
#[derive(Debug, Default)]
pub struct Counters {
    queries_udp: AtomicU64,
    queries_tcp: AtomicU64,
    dropped: AtomicU64,
    truncated: AtomicU64,
    fail_open: AtomicU64,
    tcp_refused: AtomicU64,
    rcodes: [AtomicU64; 24],
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CountersSnapshot {
    /// Messages over UDP, answered or not.
    pub queries_udp: u64,
    /// Messages over TCP, answered or not.
    pub queries_tcp: u64,
    /// Messages that got no answer: shorter than a header, or answers themselves.
    pub dropped: u64,
    /// Answers cut to fit UDP.
    pub truncated: u64,
    /// Steered answers given although no region was healthy (I6).
    pub fail_open: u64,
    /// TCP connections closed because too many were open.
    pub tcp_refused: u64,
    /// Answers by response code; only those seen.
    pub rcodes: Vec<(Rcode, u64)>,
}

impl Counters {
    /// Reads all counters.
    pub fn snapshot(&self) -> CountersSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CountersSnapshot {
            queries_udp: read(&self.queries_udp),
            queries_tcp: read(&self.queries_tcp),
            dropped: read(&self.dropped),
            truncated: read(&self.truncated),
            fail_open: read(&self.fail_open),
            tcp_refused: read(&self.tcp_refused),
            rcodes: (0u16..)
                .zip(&self.rcodes)
                .map(|(code, counter)| (Rcode(code), read(counter)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    pub(crate) fn query(&self, transport: Transport) {
        let counter = match transport {
            Transport::Udp => &self.queries_udp,
            Transport::Tcp => &self.queries_tcp,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn drop(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn truncate(&self) {
        self.truncated.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn fail_open(&self) {
        self.fail_open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tcp_refuse(&self) {
        self.tcp_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rcode(&self, rcode: Rcode) {
        if let Some(counter) = self.rcodes.get(usize::from(rcode.0)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}
