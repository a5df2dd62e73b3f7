//! Whether what this node holds may be believed without asking (pure but for its flags).
//!
//! A node that comes back holds what was true when it went, and one that was cut off what was true then; until its mates
//! have told it what it missed, its own copy of a record may be an old one. A cookie says itself how new it is, and an
//! election asks a majority; but who is known by address alone has nothing but the record. So for [`SETTLE`] after a mate
//! came (back), the replicas are asked too, which costs a round trip within the region.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gossip::id::NodeName;
use tokio::sync::watch;

use crate::replica::{Mates, PeerState};

/// Repair has replicas agree again within this.
const SETTLE: Duration = Duration::from_secs(30);

/// For so long after its start a node that has met nobody waits a moment for somebody.
const YOUNG: Duration = Duration::from_secs(2);

/// Shared by the face and the driver.
#[derive(Debug)]
pub(crate) struct Settling {
    born: Instant,
    /// Milliseconds after `born`.
    until: AtomicU64,
    met: watch::Sender<bool>,
}

impl Settling {
    /// For a node that starts now and knows these.
    pub(crate) fn new(mates: &Mates, now: Instant) -> Self {
        let until = AtomicU64::new(SETTLE.as_millis() as u64);
        let met = mates.peers.values().any(|peer| peer.alive);
        Self { born: now, until, met: watch::Sender::new(met) }
    }

    /// The mesh has changed.
    pub(crate) fn meet(&self, before: &Mates, after: &Mates, now: Instant) {
        let came = |(name, peer): (&NodeName, &PeerState)| {
            peer.alive && before.peers.get(name).is_none_or(|before| !before.alive)
        };
        if after.peers.iter().any(came) {
            let until = (now.saturating_duration_since(self.born) + SETTLE).as_millis() as u64;
            self.until.fetch_max(until, Ordering::Relaxed);
            self.met.send_if_modified(|met| !std::mem::replace(met, true));
        }
    }

    /// Whether the own copy of a record is as good as any.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.born).as_millis() as u64;
        age >= self.until.load(Ordering::Relaxed)
    }

    /// Waits until a mate was met, as long as the node is young, and at most so long. One that stays alone is its own
    /// authority then.
    pub(crate) async fn met(&self, now: Instant, patience: Duration) {
        let young = YOUNG.saturating_sub(now.saturating_duration_since(self.born));
        if !young.is_zero() {
            let _ =
                tokio::time::timeout(patience.min(young), self.met.subscribe().wait_for(|met| *met)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use gossip::clock::Clock;

    use super::*;

    fn mates(alive: Option<bool>) -> Mates {
        let name = |name| NodeName::new(name).unwrap();
        let peers: BTreeMap<_, _> =
            alive.map(|alive| (name("b"), PeerState { alive, rtt: None })).into_iter().collect();
        Mates { me: name("a"), placement: Arc::default(), peers }
    }

    #[test]
    fn a_copy_is_believed_some_time_after_the_last_mate_came() {
        let start = Clock::system().now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let settling = Settling::new(&mates(None), start);
        assert!(!settling.is_over(at(29)) && settling.is_over(at(30)));
        settling.meet(&mates(None), &mates(Some(true)), at(40));
        assert!(!settling.is_over(at(69)) && settling.is_over(at(70)));
        // Neither its stay, nor its end, nor a suspicion makes the own copy older; its return does.
        settling.meet(&mates(Some(true)), &mates(Some(true)), at(80));
        settling.meet(&mates(Some(true)), &mates(Some(false)), at(80));
        settling.meet(&mates(Some(false)), &mates(None), at(80));
        assert!(settling.is_over(at(80)));
        settling.meet(&mates(Some(false)), &mates(Some(true)), at(90));
        assert!(!settling.is_over(at(119)));
    }

    #[tokio::test]
    async fn a_young_node_waits_for_its_first_mate() {
        let clock = Clock::system();
        let settling = Arc::new(Settling::new(&mates(None), clock.now()));
        let waiting = {
            let (settling, now) = (settling.clone(), clock.now());
            tokio::spawn(async move { settling.met(now, Duration::from_secs(60)).await })
        };
        tokio::task::yield_now().await;
        settling.meet(&mates(None), &mates(Some(true)), clock.now());
        waiting.await.unwrap();
        // One who has met somebody, or is old, waits for nobody.
        settling.met(clock.now(), Duration::from_secs(60)).await;
        let alone = Settling::new(&mates(None), clock.now());
        alone.met(clock.now() + YOUNG, Duration::from_secs(60)).await;
    }
}
