//! What the proxy needs of the replicated session store.
use futures_util::future::BoxFuture;
use gossip::clock::Hlc;
use gossip::id::{RegionName, SessionId};
use storage::pin::Pin;
use storage::sessions::{Committed, Repinned, Sessions};

/// The session store as the data plane sees it. Asked only for sessions that are new, moved, or older than a break of
/// their backend (I2), so a boxed future is no cost that counts.
pub trait SessionStore: Send + Sync {
    /// What this node itself holds. Never waits.
    fn local(&self, id: &SessionId) -> Option<Pin>;
    /// Stores a new pin; starts at once and resolves within I3's bound.
    fn commit(&self, home: &RegionName, pin: Pin) -> BoxFuture<'static, Committed>;
    /// The same for a session that the store alone remembers: the wait is as long as I3 allows.
    fn commit_patiently(&self, home: &RegionName, pin: Pin) -> BoxFuture<'static, Committed>;
    /// The pin as its home's replicas know it.
    fn find<'a>(&'a self, home: &'a RegionName, id: SessionId) -> BoxFuture<'a, Option<Pin>>;
    /// Proposes to move a session from the assignment made at `replaces`.
    fn repin<'a>(&'a self, home: &'a RegionName, proposal: Pin, replaces: Hlc) -> BoxFuture<'a, Repinned>;
    /// Tells a session's former home, which has no nodes now, where the session lives since `pin`; in the background.
    fn forward(&self, from: &RegionName, to: &RegionName, pin: Pin);
    /// Moves the expiry, in the background.
    fn refresh(&self, home: &RegionName, id: SessionId, expires: u32);
}

impl SessionStore for Sessions {
    fn local(&self, id: &SessionId) -> Option<Pin> {
        Sessions::local(self, id)
    }
    fn commit(&self, home: &RegionName, pin: Pin) -> BoxFuture<'static, Committed> {
        Box::pin(Sessions::commit(self, home, pin))
    }
    fn commit_patiently(&self, home: &RegionName, pin: Pin) -> BoxFuture<'static, Committed> {
        Box::pin(Sessions::commit_patiently(self, home, pin))
    }
    fn find<'a>(&'a self, home: &'a RegionName, id: SessionId) -> BoxFuture<'a, Option<Pin>> {
        Box::pin(Sessions::find(self, home, id))
    }
    fn repin<'a>(&'a self, home: &'a RegionName, proposal: Pin, replaces: Hlc) -> BoxFuture<'a, Repinned> {
        Box::pin(Sessions::repin(self, home, proposal, replaces))
    }
    fn forward(&self, from: &RegionName, to: &RegionName, pin: Pin) {
        Sessions::forward(self, from, to, pin);
    }
    fn refresh(&self, home: &RegionName, id: SessionId, expires: u32) {
        Sessions::refresh(self, home, id, expires);
    }
}
