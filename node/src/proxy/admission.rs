//! A place on a backend: at once while it has less than `max_connections`, else after a wait in a bounded queue.
//!
//! ```text
//! session ─▶ queue of its backend ─┐  (first: its users are here already)
//! others ──▶ queue of the pool ────┴─▶ woken one by one, in the order in which they came, by requests that end
//! ```
//! The limit is the node's, over all its workers. A request waits 1 s at most and ends with `queue_full` then, or at once when
//! 1,024 wait before it. One that gives up its wait passes its turn on.
use std::time::Duration;

use super::choose::{Place, Tried};
use super::outcome::End;
use super::session::Session;
use super::usher::{Seat, Usher};
use crate::backend::InFlight;
use crate::queue::Queue;

/// The longest wait.
const PATIENCE: Duration = Duration::from_secs(1);
/// Those who wait at one queue.
pub const WAITING_MAX: usize = 1024;

/// Takes a place for the request on its seat's backend, when nobody limits it or there is room and nobody waits. `None`: it
/// has to [`admit`] itself.
pub(super) fn admit_now(usher: &Usher<'_>, seat: &Seat) -> Option<InFlight> {
    let Place::Direct(at) = seat.place else { return None };
    let backend = &seat.pool.backends[at].shared;
    let Some(limit) = seat.pool.config.max_connections else { return Some(backend.enter()) };
    // Who comes goes behind those who wait.
    let nobody_waits = queue(usher, seat, at).waiting() == 0;
    nobody_waits.then(|| backend.try_enter(limit, &seat.pool.queue)).flatten()
}

fn is_bound(usher: &Usher<'_>, seat: &Seat) -> bool {
    usher.bound || seat.session.as_ref().is_some_and(Session::is_assigned)
}

fn queue<'a>(usher: &Usher<'_>, seat: &'a Seat, at: usize) -> &'a Queue {
    if is_bound(usher, seat) { seat.pool.backends[at].shared.queue() } else { &seat.pool.queue }
}

/// Waits for a place for the request on its seat's backend. A request that is bound to none may get another seat of the pool.
///
/// # Errors
/// `QueueFull` after the longest wait, or when too many wait already.
pub(super) async fn admit(usher: &Usher<'_>, seat: &mut Seat, tried: &Tried) -> Result<InFlight, End> {
    if let Some(place) = admit_now(usher, seat) {
        return Ok(place);
    }
    let Place::Direct(at) = seat.place else { return Err(End::NoBackend) };
    let pool = seat.pool.clone();
    let limit = pool.config.max_connections.unwrap_or(u32::MAX);
    let enter = |at: usize| pool.backends[at].shared.try_enter(limit, &pool.queue);
    let is_bound = is_bound(usher, seat);
    let queue = if is_bound { pool.backends[at].shared.queue() } else { &*pool.queue };
    let mut turn = queue.join(WAITING_MAX, &pool.queue).ok_or(End::QueueFull)?;
    // What ended since the first look has woken nobody.
    let mut look = turn.is_first();
    let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
    loop {
        let mut woken = std::pin::pin!(queue.woken());
        woken.as_mut().enable();
        if look {
            let next = if is_bound {
                Some(Place::Direct(at))
            } else {
                usher.worker.place(usher.plan, &pool, tried, usher.hops, &usher.keys)
            };
            if let Some(Place::Direct(at)) = next
                && let Some(place) = enter(at)
            {
                turn.used();
                seat.place = Place::Direct(at);
                return Ok(place);
            }
        }
        tokio::select! {
            () = woken => look = true,
            () = &mut patience => return Err(End::QueueFull),
        }
    }
}
