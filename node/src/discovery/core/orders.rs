//! Orders: leases, backends added by hand, and those that scaling is about to stop.

use std::net::SocketAddr;
use std::time::Duration;

use gossip::id::PoolName;

use super::{Core, Moment, OrderError, TTL};
use crate::config::model::SourceKind;
use crate::discovery::claims::{Answer, ClaimKey, Hold, LeaseTerms};
use crate::discovery::found::{Found, Standing};

impl Core {
    /// A backend asks for a lease, or renews it; without a TTL an operator adds it.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub(crate) fn put(
        &mut self,
        pool: &PoolName,
        found: Found,
        ttl: Option<Duration>,
        at: Moment,
    ) -> Result<(), OrderError> {
        let config =
            self.services.pools.get(pool).ok_or_else(|| OrderError::NoPool(pool.as_str().to_owned()))?;
        if ttl.is_some() && config.lease.is_none() {
            return Err(OrderError::NoLease(pool.clone()));
        }
        if ttl.is_none() && config.backends.iter().any(|backend| backend.address == found.address) {
            return Err(OrderError::InFile(found.address, pool.clone()));
        }
        if self.roster.is_admin(found.address) {
            return Err(OrderError::Admin(found.address));
        }
        let kind = if ttl.is_some() { SourceKind::Lease } else { SourceKind::Added };
        let key = registered(pool, kind, found.address);
        let lease = ttl.map(|ttl| LeaseTerms { ttl, how: Hold::Taken });
        let new = Answer { found: vec![found.clone()], failing: None, lease };
        let known = self.claims.get(&key);
        // A renewal where nothing changes is nobody's business but the holder's.
        let same = known.is_some_and(|known| known.by == self.me && known.answer == new);
        if !same && !self.write(key.clone(), new, at) {
            return Err(OrderError::Full);
        }
        if let Some(ttl) = ttl {
            self.leases.renew(key, found, ttl, at.now);
        }
        if !same {
            self.stale = true;
        }
        Ok(())
    }

    /// Scaling is about to stop a backend, or does not any more. As long as this node lives and says so, the backend gets
    /// no new sessions.
    ///
    /// # Errors
    /// When there is no room for another claim.
    pub(crate) fn retire(
        &mut self,
        pool: &PoolName,
        address: SocketAddr,
        on: bool,
        at: Moment,
    ) -> Result<(), OrderError> {
        let key = registered(pool, SourceKind::Retired, address);
        let known = self.claims.get(&key);
        let found = known.and_then(|known| known.answer.found.first().cloned());
        let region = found.map(|found| found.region).or_else(|| {
            let pools = self.roster.pools();
            let backends = pools.get(pool).into_iter().flat_map(|pool| pool.backends.clone());
            backends
                .into_iter()
                .find(|backend| backend.address == address)
                .map(|backend| backend.region.clone())
        });
        let Some(region) = region else { return Err(OrderError::NotThere(address, pool.clone())) };
        let found = on.then(|| Found { standing: Standing::Leaving, ..Found::at(address, region) });
        let answer = Answer { found: found.into_iter().collect(), failing: None, lease: None };
        self.stale = true;
        if self.write(key, answer, at) { Ok(()) } else { Err(OrderError::Full) }
    }

    /// Takes back what was added or leased. With `gone` there is nothing to drain: the backend has ended.
    ///
    /// # Errors
    /// See [`OrderError`].
    pub(crate) fn remove(
        &mut self,
        pool: &PoolName,
        address: SocketAddr,
        gone: bool,
        at: Moment,
    ) -> Result<(), OrderError> {
        let config = self
            .services
            .pools
            .get(pool)
            .ok_or_else(|| OrderError::NoPool(pool.as_str().to_owned()))?
            .clone();
        let mut any = false;
        for kind in [SourceKind::Lease, SourceKind::Added] {
            let key = registered(pool, kind, address);
            let Some(known) = self.claims.get(&key) else { continue };
            let over = known.answer.lease.is_some_and(|lease| lease.how.is_over());
            if known.answer.found.is_empty() || over {
                continue;
            }
            any = true;
            let mut found = known.answer.found.clone();
            found.retain(|_| gone);
            found.iter_mut().for_each(|found| found.standing = Standing::Gone);
            let ttl = known.answer.lease.map_or(*TTL.start(), |lease| lease.ttl);
            let lease = Some(LeaseTerms { ttl, how: Hold::Removed });
            self.leases.release(&key);
            self.write(key, Answer { found, failing: None, lease }, at);
        }
        if any {
            self.stale = true;
            return Ok(());
        }
        let pool = pool.clone();
        if config.backends.iter().any(|backend| backend.address == address) {
            return Err(OrderError::Configured(address, pool));
        }
        let merged = self.roster.pools();
        let there = merged.get(&pool).and_then(|pool| pool.backends.iter().find(|b| b.address == address));
        match there {
            // It was taken back before, and drains.
            Some(backend) if backend.leaving && !gone => Ok(()),
            Some(_) => Err(OrderError::OfSource(address, pool)),
            None => Err(OrderError::NotThere(address, pool)),
        }
    }
}

/// The key of a lease or an added backend.
fn registered(pool: &PoolName, kind: SourceKind, address: SocketAddr) -> ClaimKey {
    ClaimKey { pool: pool.clone(), kind, scope: address.to_string().into(), node: None }
}
