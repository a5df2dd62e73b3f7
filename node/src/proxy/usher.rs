//! A request's seat: the pool and the place that serve it, and the session that binds it there.
//!
//! ```text
//! cookie ─▶ no session ────────────────▶ arm of the split ─▶ balance ─▶ commit beside the request (I3)
//!        └▶ session ─▶ an operator ended it ─▶ as without one
//!                   ├▶ this node holds a later move ─▶ follow it
//!                   ├▶ backend stands ─▶ keep, nobody is asked (I2)
//!                   ├▶ it broke off ───▶ ask the pin's owners by compare-and-set
//!                   └▶ it is gone ─────▶ propose the successor by compare-and-set
//! ```
//! Source-address sessions differ in where they come from: the store instead of a cookie.
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gossip::clock::{Hlc, Wall};
use gossip::id::{BackendId, PoolName, RegionName, SessionId, Tag};
use gossip::state::BackendState;
use storage::cookie::SessionCookie;
use storage::ends::Stay;
use storage::pin::{Assignment, Pin};
use storage::sessions::Repinned;

use super::affinity::{Standing, Told, is_refresh_due, judge};
use super::choose::{Hops, Place, Tried, arm_for, arms, place_of, successor};
use super::keys::Keys;
use super::outcome::{Affinity, End};
use super::plan::{Plan, position};
use super::session::{Carrier, Session};
use super::worker::Worker;
use crate::backend::{BackendView, PoolView};
use crate::config::model::{OnDown, Service, StickyCookie};

/// How often a proposal that lost to another one is made anew before the last one is used as it is.
const PROPOSALS: usize = 3;
/// A source-address session has no absolute age.
const NO_MAX_AGE: Duration = Duration::from_secs(u32::MAX as u64);

/// Where a request goes, and what binds it there.
pub(super) struct Seat {
    pub(super) pool: Arc<PoolView>,
    pub(super) place: Place,
    pub(super) session: Option<Session>,
}

/// What is needed to find a seat.
pub(super) struct Usher<'a> {
    pub(super) worker: &'a Worker,
    pub(super) plan: &'a Plan,
    pub(super) service: &'a Service,
    pub(super) forced: Option<&'a PoolName>,
    pub(super) hops: Hops,
    /// Whether the seat was chosen elsewhere, so that the request may use no other backend.
    pub(super) bound: bool,
    /// What policies hash of the request.
    pub(super) keys: Keys<'a>,
}

impl Usher<'_> {
    /// A seat for a request without a session.
    pub(super) fn free(&self, tried: &Tried) -> Result<Seat, End> {
        self.fresh(None, tried)
    }

    /// A seat for a request whose cookies say `told`.
    pub(super) async fn by_cookie(&self, sticky: &StickyCookie, told: Told, now: Wall) -> Result<Seat, End> {
        let tried = Tried::default();
        let outcome = match told {
            Told::Nothing => Affinity::New,
            Told::Expired => Affinity::Expired,
            Told::Invalid => Affinity::Invalid,
            Told::Session(cookie) if self.has_ended(&cookie) => Affinity::Expired,
            Told::Session(cookie) => {
                let session = self.known(sticky, &cookie, now);
                return match self.moved_meanwhile(&session) {
                    Some(pin) => Box::pin(self.follow(session, pin, &tried)).await,
                    None => match self.kept(&session) {
                        Some((pool, place)) => Ok(Seat { pool, place, session: Some(session) }),
                        None => Box::pin(self.seated(session, &tried)).await,
                    },
                };
            }
        };
        let session = Session {
            id: SessionId(rand::random()),
            carrier: Carrier::Cookie,
            home: self.plan.snapshot.region.clone(),
            ttl: sticky.ttl,
            max_age: sticky.max_age,
            on_down: sticky.on_down,
            first_seen: self.seconds(),
            assigned: None,
            pool: Tag::default(),
            outcome,
            reseal: true,
            commit: None,
        };
        self.fresh(Some(session), &tried)
    }

    /// A seat for whoever comes from `client`, for a service that is sticky by address.
    pub(super) async fn by_source(&self, ttl: Duration, client: IpAddr) -> Result<Seat, End> {
        let shared = &self.worker.shared;
        let (id, under_other_keys) = shared.source_keys.sessions(&self.service.name, client);
        let home = self.plan.snapshot.region.clone();
        let now = shared.clock.wall();
        let lives = |pin: &Pin| u64::from(pin.expires) > now.seconds();
        let mut pin = shared.sessions.find(&home, id).await.filter(lives);
        for other in under_other_keys {
            if pin.is_some() {
                break;
            }
            let found = shared.sessions.find(&home, other).await.filter(lives);
            pin = found.filter(|pin| pin.assignment.backend.is_some()).map(|pin| Pin { id, ..pin });
            if let Some(pin) = pin {
                // The key changed since it began. Whoever else meets its user stores the same.
                drop(shared.sessions.commit_patiently(&home, pin));
            }
        }
        if let Some(pin) = pin {
            // A new assignment must be later than the one, or the end, that it takes the place of.
            let _ = shared.clock.observe(pin.assignment.hlc);
        }
        let known = pin.and_then(|pin| Some((pin, pin.assignment.backend?)));
        let known = known.filter(|(pin, backend)| {
            let Assignment { hlc, pool, .. } = pin.assignment;
            let service = &self.service.name;
            !shared.ends.has_ended(&Stay { service, id, pool, backend: *backend, assigned: hlc, began: None })
        });
        let mut session = Session {
            id,
            carrier: Carrier::Source,
            home,
            ttl,
            max_age: NO_MAX_AGE,
            on_down: OnDown::Repin,
            first_seen: self.seconds(),
            assigned: None,
            pool: Tag::default(),
            outcome: Affinity::New,
            reseal: false,
            commit: None,
        };
        let Some((pin, backend)) = known else { return self.fresh(Some(session), &Tried::default()) };
        let last_seen = u64::from(pin.expires).saturating_sub(ttl.as_secs());
        session.reseal = is_refresh_due(u32::try_from(last_seen).unwrap_or(0), ttl, now);
        session.assigned = Some((pin.assignment.hlc, backend));
        session.pool = pin.assignment.pool;
        session.outcome = Affinity::Kept;
        self.seated(session, &Tried::default()).await
    }

    /// Changes `seat`, which failed, for another one; `tried` says which ones failed. Where there is none it keeps no session.
    pub(super) async fn another(&self, seat: &mut Seat, tried: &Tried) -> Result<(), End> {
        *seat = match seat.session.take() {
            None => match self.worker.place(self.plan, &seat.pool, tried, self.hops, &self.keys) {
                Some(place) => {
                    seat.place = place;
                    return Ok(());
                }
                None => self.fresh(None, tried)?,
            },
            Some(session) if session.assigned.is_none() => self.fresh(Some(session), tried)?,
            Some(session) => self.seated(session, tried).await?,
        };
        Ok(())
    }

    /// A later assignment of a cookie's session to another backend that this node holds itself: its user moved with
    /// another tab, and this node may not have heard yet that the backend was gone for a moment. Costs a look into
    /// memory, and waits for nobody (I2).
    fn moved_meanwhile(&self, session: &Session) -> Option<Pin> {
        let (assigned, backend) = session.assigned.filter(|_| self.forced.is_none())?;
        let pin = self.worker.shared.sessions.local(&session.id)?;
        (pin.assignment.hlc > assigned && pin.assignment.backend != Some(backend)).then_some(pin)
    }

    /// Whether an operator has ended a cookie's session. While no end stands this is one look at a flag.
    fn has_ended(&self, cookie: &SessionCookie) -> bool {
        let SessionCookie { id, pool, backend, assigned, first_seen, .. } = *cookie;
        let service = &self.service.name;
        self.worker.shared.ends.has_ended(&Stay {
            service,
            id,
            pool,
            backend,
            assigned,
            began: Some(first_seen),
        })
    }

    /// A seat for the user of a session that has ended: as for one who comes without.
    fn anew(&self, session: Session, tried: &Tried) -> Result<Seat, End> {
        let id = match session.carrier {
            Carrier::Cookie => SessionId(rand::random()),
            Carrier::Source => session.id,
        };
        let session = Session {
            id,
            home: self.plan.snapshot.region.clone(),
            first_seen: self.seconds(),
            assigned: None,
            pool: Tag::default(),
            outcome: Affinity::Expired,
            reseal: session.carrier == Carrier::Cookie,
            commit: None,
            ..session
        };
        self.fresh(Some(session), tried)
    }

    fn known(&self, sticky: &StickyCookie, cookie: &SessionCookie, now: Wall) -> Session {
        let home = self.plan.region(cookie.home).unwrap_or(&self.plan.snapshot.region);
        Session {
            id: cookie.id,
            carrier: Carrier::Cookie,
            home: home.clone(),
            ttl: sticky.ttl,
            max_age: sticky.max_age,
            on_down: sticky.on_down,
            first_seen: cookie.first_seen,
            assigned: Some((cookie.assigned, cookie.backend)),
            pool: cookie.pool,
            outcome: Affinity::Kept,
            reseal: is_refresh_due(cookie.last_seen, sticky.ttl, now),
            commit: None,
        }
    }

    /// A seat by balance: in the forced pool, or in the first arm that has any.
    fn fresh(&self, mut session: Option<Session>, tried: &Tried) -> Result<Seat, End> {
        let pools = match self.forced {
            Some(forced) => self.plan.pool(forced).cloned().into_iter().collect(),
            None => self.worker.random(|rng| arms(self.plan, self.service, rng)),
        };
        for pool in pools {
            if let Some(place) = self.worker.place(self.plan, &pool, tried, self.hops, &self.keys) {
                if let Some(session) = &mut session {
                    session.pool = Tag::of(pool.config.name.as_str());
                }
                return Ok(Seat { pool, place, session });
            }
        }
        Err(End::NoBackend)
    }

    /// Where a session stays whose backend stands: nobody is asked (I2).
    fn kept(&self, session: &Session) -> Option<(Arc<PoolView>, Place)> {
        let (assigned, backend) = session.assigned?;
        let pool = self.plan.pool_of(self.service, session.pool)?;
        if self.forced.is_some_and(|forced| pool.config.name != *forced) {
            return None;
        }
        let at = position(pool, backend)?;
        let keeps = judge(&pool.backends[at], assigned) == Standing::Keep;
        keeps.then(|| (pool.clone(), place_of(self.plan, pool, at)))
    }

    /// The seat of a session that has an assignment.
    async fn seated(&self, mut session: Session, tried: &Tried) -> Result<Seat, End> {
        let pool = self.plan.pool_of(self.service, session.pool);
        let pool = match (pool, self.forced) {
            (Some(pool), Some(forced)) if pool.config.name != *forced => None,
            (pool, _) => pool,
        };
        let Some(pool) = pool else {
            // Its version is gone, or a rule wants another one: it moves whatever `on_down` says.
            let pool = match self.forced {
                Some(forced) => self.plan.pool(forced),
                None => arm_for(self.plan, self.service, &session.id),
            };
            let pool = pool.ok_or(End::NoBackend)?.clone();
            return self.moved(session, pool, tried).await;
        };
        let standing = session.assigned.and_then(|(hlc, backend)| {
            let at = position(pool, backend).filter(|_| !tried.backends.contains(&backend))?;
            Some((at, backend, judge(&pool.backends[at], hlc)))
        });
        match standing {
            Some((at, _, Standing::Keep)) => {
                Ok(Seat { pool: pool.clone(), place: place_of(self.plan, pool, at), session: Some(session) })
            }
            Some((at, backend, Standing::Ask)) => {
                let pool = pool.clone();
                match self.propose(&mut session, &pool, backend).await {
                    Some(elsewhere) => self.follow(session, elsewhere, tried).await,
                    None => {
                        let place = place_of(self.plan, &pool, at);
                        Ok(Seat { pool, place, session: Some(session) })
                    }
                }
            }
            Some((at, _, Standing::Gone)) if pool.backends[at].state == BackendState::Maintenance => {
                // An operator who takes a backend out means its sessions too: `on_down` is about what fails.
                self.unseated(session, pool.clone(), tried).await
            }
            Some((_, _, Standing::Gone)) | None => match session.on_down {
                OnDown::Refuse => Err(End::SessionRefused),
                OnDown::Temporary => self.lent(session, pool.clone(), tried),
                OnDown::Repin => self.unseated(session, pool.clone(), tried).await,
            },
        }
    }

    /// Moves a session within its version; one none of whose backends can take it loses it, since another one beats a 503.
    async fn unseated(&self, session: Session, pool: Arc<PoolView>, tried: &Tried) -> Result<Seat, End> {
        let able =
            |backend: &BackendView| backend.takes_new() && !tried.backends.contains(&backend.config.id);
        let lost = self.forced.is_none() && !pool.backends.iter().any(able);
        let other = lost.then(|| arm_for(self.plan, self.service, &session.id)).flatten();
        self.moved(session, other.cloned().unwrap_or(pool), tried).await
    }

    /// A seat elsewhere for this request alone; the session stays where it is.
    fn lent(&self, mut session: Session, pool: Arc<PoolView>, tried: &Tried) -> Result<Seat, End> {
        let gone = session.assigned.map(|(_, backend)| backend);
        let at = successor(&pool, &session.id, &session.home, gone, tried).ok_or(End::NoBackend)?;
        session.outcome = Affinity::Moved;
        Ok(Seat { place: place_of(self.plan, &pool, at), pool, session: Some(session) })
    }

    /// Moves a session to its successor in `pool`, or to where another node moved it first.
    async fn moved(&self, mut session: Session, pool: Arc<PoolView>, tried: &Tried) -> Result<Seat, End> {
        let gone = session.assigned.map(|(_, backend)| backend);
        let at = successor(&pool, &session.id, &session.home, gone, tried).ok_or(End::NoBackend)?;
        let backend = pool.backends[at].config.id;
        match self.propose(&mut session, &pool, backend).await {
            Some(elsewhere) => self.follow(session, elsewhere, tried).await,
            None => Ok(Seat { place: place_of(self.plan, &pool, at), pool, session: Some(session) }),
        }
    }

    /// Goes where another node moved the session; when that is no place to go, moves it on from there. A session that was
    /// ended goes nowhere.
    async fn follow(&self, mut session: Session, mut pin: Pin, tried: &Tried) -> Result<Seat, End> {
        for _ in 0..PROPOSALS {
            // It lies in our past from now on; a timestamp from the far future is used but not believed.
            let _ = self.worker.clock().observe(pin.assignment.hlc);
            if pin.assignment.forwarded
                && let Some(home) = self.plan.region(pin.assignment.pool)
            {
                session.home = home.clone();
                pin = self.worker.shared.sessions.find(home, session.id).await.unwrap_or(pin);
            }
            if pin.assignment.backend.is_none() && !pin.assignment.forwarded {
                return self.anew(session, tried);
            }
            let pool = self.plan.pool_of(self.service, pin.assignment.pool);
            let backend = pin.assignment.backend;
            session.outcome = Affinity::Moved;
            session.reseal = true;
            session.pool = pin.assignment.pool;
            session.assigned = Some((pin.assignment.hlc, backend.unwrap_or(BackendId(0))));
            let seat = pool.zip(backend).and_then(|(pool, backend)| {
                let at = position(pool, backend)?;
                let usable = pool.backends[at].serves() && !tried.backends.contains(&backend);
                usable.then_some((pool, at))
            });
            if let Some((pool, at)) = seat {
                let place = place_of(self.plan, pool, at);
                return Ok(Seat { pool: pool.clone(), place, session: Some(session) });
            }
            let pool = pool.or_else(|| arm_for(self.plan, self.service, &session.id));
            let pool = pool.ok_or(End::NoBackend)?.clone();
            let at = successor(&pool, &session.id, &session.home, backend, tried).ok_or(End::NoBackend)?;
            let successor = pool.backends[at].config.id;
            match self.propose(&mut session, &pool, successor).await {
                Some(elsewhere) => pin = elsewhere,
                None => {
                    return Ok(Seat { place: place_of(self.plan, &pool, at), pool, session: Some(session) });
                }
            }
        }
        Err(End::NoBackend)
    }

    /// Proposes `backend` by compare-and-set on the session's present assignment. `None`: it is the assignment now;
    /// else the one that was there first.
    async fn propose(&self, session: &mut Session, pool: &PoolView, backend: BackendId) -> Option<Pin> {
        let shared = &self.worker.shared;
        let mut former = None;
        if !self.has_nodes(&session.home) {
            // The whole home region is gone: the session gets a new one, and the old one is told when it is back.
            former = Some(std::mem::replace(&mut session.home, self.plan.snapshot.region.clone()));
        }
        let before = session.assigned;
        let replaces = before.map_or(Hlc::ZERO, |(hlc, _)| hlc);
        // Cookie and break may come from nodes whose clocks are ahead; the proposal must be the greatest all the same.
        let _ = shared.clock.observe(replaces);
        if let Some(at) = position(pool, backend) {
            let _ = shared.clock.observe(pool.backends[at].up_since);
        }
        let stays = before.is_some_and(|(_, present)| present == backend);
        let proposal = session.pin(self.worker, Tag::of(pool.config.name.as_str()), backend);
        let answer = shared.sessions.repin(&session.home, proposal, replaces).await;
        let pin = match answer {
            Repinned::Superseded(pin) if pin.assignment.backend != Some(backend) => return Some(pin),
            Repinned::Weak(pin) => {
                shared.counters.degraded.fetch_add(1, Ordering::Relaxed);
                pin
            }
            Repinned::Committed(pin) | Repinned::Superseded(pin) => pin,
        };
        if let Some(former) = former {
            shared.sessions.forward(&former, &session.home, pin);
        }
        let _ = shared.clock.observe(pin.assignment.hlc);
        session.assigned = Some((pin.assignment.hlc, backend));
        session.pool = pin.assignment.pool;
        session.reseal = true;
        if !stays {
            session.outcome = Affinity::Moved;
        }
        None
    }

    fn has_nodes(&self, region: &RegionName) -> bool {
        let snapshot = &self.plan.snapshot;
        *region == snapshot.region || snapshot.regions.get(region).is_some_and(|view| !view.nodes.is_empty())
    }

    fn seconds(&self) -> u32 {
        u32::try_from(self.worker.clock().wall().seconds()).unwrap_or(u32::MAX)
    }
}
