//! What the server counts. Only sums: who reads them makes the rates.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::responder::Transport;
use crate::wire::Rcode;

/// All tallies there ever were. One is added for each thread that answers, so there are few.
#[derive(Debug, Default)]
pub struct Counters {
    tallies: Mutex<Vec<Arc<Tally>>>,
}

/// What one thread counts, on cache lines of its own. No other one writes it, so counting needs no locked instruction; any may
/// read it.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(crate) struct Tally {
    // First what nearly every query counts, on one cache line.
    queries_udp: AtomicU64,
    queries_tcp: AtomicU64,
    rcodes: [AtomicU64; 24],
    queries_tls: AtomicU64,
    tls_failed: AtomicU64,
    dropped: AtomicU64,
    truncated: AtomicU64,
    fail_open: AtomicU64,
    tcp_refused: AtomicU64,
    tcp_evicted: AtomicU64,
    tcp_open: AtomicU64,
    tcp_places: AtomicU64,
    tls_open: AtomicU64,
    tls_places: AtomicU64,
    limited: AtomicU64,
    transfers: AtomicU64,
    signed: AtomicU64,
    unsigned: AtomicU64,
    panics: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CountersSnapshot {
    /// Messages over UDP, answered or not.
    pub queries_udp: u64,
    /// Messages over TCP, answered or not; over TLS too.
    pub queries_tcp: u64,
    /// Of these, those over TLS.
    pub queries_tls: u64,
    /// Handshakes of TLS that came to nothing.
    pub tls_failed: u64,
    /// Messages that got no answer: shorter than a header, or answers themselves.
    pub dropped: u64,
    /// Answers cut to fit UDP.
    pub truncated: u64,
    /// Steered answers given although no region was healthy (I6).
    pub fail_open: u64,
    /// TCP connections closed at once because too many were open and none of them idle.
    pub tcp_refused: u64,
    /// Idle TCP connections closed because others needed their places.
    pub tcp_evicted: u64,
    /// TCP connections that are open now ...
    pub tcp_open: u64,
    /// ... and those that may be, at all addresses together.
    pub tcp_places: u64,
    /// TLS connections that are open now ...
    pub tls_open: u64,
    /// ... and those that may be.
    pub tls_places: u64,
    /// Answers over UDP held back or cut because their network got too many.
    pub limited: u64,
    /// Zones given away whole.
    pub transfers: u64,
    /// Signatures made; those used again are not counted.
    pub signed: u64,
    /// Answers put off because too many signatures were made of late.
    pub unsigned: u64,
    /// Batches lost to a panic, which is a bug.
    pub panics: u64,
    /// Answers by response code; only those seen.
    pub rcodes: Vec<(Rcode, u64)>,
}

impl Counters {
    /// Reads all counters.
    pub fn snapshot(&self) -> CountersSnapshot {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: &dyn Fn(&Tally) -> &AtomicU64| -> u64 {
            tallies.iter().map(|tally| of(tally).load(Ordering::Relaxed)).sum()
        };
        CountersSnapshot {
            queries_udp: sum(&|tally| &tally.queries_udp),
            queries_tcp: sum(&|tally| &tally.queries_tcp),
            queries_tls: sum(&|tally| &tally.queries_tls),
            tls_failed: sum(&|tally| &tally.tls_failed),
            dropped: sum(&|tally| &tally.dropped),
            truncated: sum(&|tally| &tally.truncated),
            fail_open: sum(&|tally| &tally.fail_open),
            tcp_refused: sum(&|tally| &tally.tcp_refused),
            tcp_evicted: sum(&|tally| &tally.tcp_evicted),
            tcp_open: sum(&|tally| &tally.tcp_open),
            tcp_places: sum(&|tally| &tally.tcp_places),
            tls_open: sum(&|tally| &tally.tls_open),
            tls_places: sum(&|tally| &tally.tls_places),
            limited: sum(&|tally| &tally.limited),
            transfers: sum(&|tally| &tally.transfers),
            signed: sum(&|tally| &tally.signed),
            unsigned: sum(&|tally| &tally.unsigned),
            panics: sum(&|tally| &tally.panics),
            rcodes: (0..Tally::default().rcodes.len())
                .map(|code| (Rcode(code as u16), sum(&|tally| &tally.rcodes[code])))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    /// A tally for one more thread.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::default());
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&tally));
        tally
    }
}

/// By the only thread that writes it.
fn set(counter: &AtomicU64, change: impl FnOnce(u64) -> u64) -> u64 {
    let now = change(counter.load(Ordering::Relaxed));
    counter.store(now, Ordering::Relaxed);
    now
}

fn add(counter: &AtomicU64) {
    set(counter, |count| count.wrapping_add(1));
}

impl Tally {
    pub(crate) fn query(&self, transport: Transport) {
        add(match transport {
            Transport::Udp => &self.queries_udp,
            Transport::Tcp => &self.queries_tcp,
        });
    }

    /// Counts a message over TLS, which counts as one over TCP too.
    pub(crate) fn tls_query(&self) {
        add(&self.queries_tls);
    }

    pub(crate) fn tls_fail(&self) {
        add(&self.tls_failed);
    }

    /// Counts a message that gets no answer.
    pub(crate) fn ignore(&self) {
        add(&self.dropped);
    }

    pub(crate) fn truncate(&self) {
        add(&self.truncated);
    }

    pub(crate) fn fail_open(&self) {
        add(&self.fail_open);
    }

    pub(crate) fn tcp_refuse(&self) {
        add(&self.tcp_refused);
    }

    pub(crate) fn tcp_evict(&self) {
        add(&self.tcp_evicted);
    }

    /// One more address takes so many connections.
    pub(crate) fn places(&self, encrypted: bool, places: usize) {
        let of = if encrypted { &self.tls_places } else { &self.tcp_places };
        set(of, |all| all + places as u64);
    }

    /// A connection has begun.
    pub(crate) fn connected(&self, encrypted: bool) {
        add(if encrypted { &self.tls_open } else { &self.tcp_open });
    }

    /// One has ended.
    pub(crate) fn disconnected(&self, encrypted: bool) {
        let of = if encrypted { &self.tls_open } else { &self.tcp_open };
        set(of, |open| open.saturating_sub(1));
    }

    pub(crate) fn limit(&self) {
        add(&self.limited);
    }

    pub(crate) fn transfer(&self) {
        add(&self.transfers);
    }

    pub(crate) fn sign(&self) {
        add(&self.signed);
    }

    pub(crate) fn sign_not(&self) {
        add(&self.unsigned);
    }

    /// Counts a panic; returns how many there were.
    pub(crate) fn panic(&self) -> u64 {
        set(&self.panics, |panics| panics.wrapping_add(1))
    }

    pub(crate) fn rcode(&self, rcode: Rcode) {
        if let Some(counter) = self.rcodes.get(usize::from(rcode.0)) {
            add(counter);
        }
    }
}
