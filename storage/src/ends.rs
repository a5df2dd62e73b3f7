//! Which sessions operators have ended: what is looked at with every cookie that opens.
//!
//! ```text
//!   intents ──(an order, here or from a peer)──▶ Standing ──▶ Ends ──▶ has_ended(stay)     the data plane
//!                                                   └──▶ marks: the records that lie here become an assignment to nothing
//! ```
//!
//! A cookie needs no look-up, so its end cannot lie with the session's replicas alone: every node knows all ends. Each
//! lapses when no session of before it can come again, and they are bounded ([`crate::intents::ENDS_MAX`]). While none
//! stands the look costs one load of a flag.

mod marks;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use gossip::clock::{Hlc, Wall};
use gossip::id::{BackendId, ServiceName, SessionId, Tag};

pub(crate) use self::marks::follow;
use crate::intent::{Intent, IntentMap, Order, Target};
use crate::pin::{Assignment, Pin};

/// A session that began this long before its service's sessions were ended has ended, whatever its assignment says: a
/// node that had not heard of the end may have moved it since. Two nodes' clocks differ by less.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// What a session's carrier says of it.
#[derive(Debug, Clone, Copy)]
pub struct Stay<'a> {
    /// Whose users it is of.
    pub service: &'a ServiceName,
    /// The session.
    pub id: SessionId,
    /// The pool's name as a tag.
    pub pool: Tag,
    /// The backend.
    pub backend: BackendId,
    /// When it was assigned to it.
    pub assigned: Hlc,
    /// When the session began, seconds since 1970. `None` for one that is known by the user's address: the next session
    /// from there has the same id.
    pub began: Option<u32>,
}

/// The ends that stand. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Ends(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    any: AtomicBool,
    standing: ArcSwap<Standing>,
}

impl Ends {
    /// Whether an operator has ended this session.
    pub fn has_ended(&self, stay: &Stay<'_>) -> bool {
        self.0.any.load(Ordering::Acquire) && self.0.standing.load().has_ended(stay)
    }

    /// Takes the orders in force into account from now on.
    pub fn set(&self, orders: &IntentMap) {
        let standing = Standing::of(orders);
        let any = !standing.is_empty();
        self.0.standing.store(Arc::new(standing));
        self.0.any.store(any, Ordering::Release);
    }
}

/// When sessions were ended, and by an order to which node (as a tag).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    at: Hlc,
    by: Tag,
}

/// All ends that stand, by what they are about. Pure.
#[derive(Debug, Default)]
struct Standing {
    sessions: HashMap<SessionId, End>,
    backends: HashMap<BackendId, End>,
    pools: HashMap<Tag, End>,
    services: HashMap<ServiceName, End>,
}

impl Standing {
    fn of(orders: &IntentMap) -> Self {
        let mut standing = Self::default();
        for ((target, _), Intent { order, at, by }) in orders {
            let Order::End { .. } = order else { continue };
            let end = End { at: *at, by: Tag::of(by.as_str()) };
            match target {
                Target::Session(id) => put(&mut standing.sessions, *id, end),
                Target::Backend(pool, address) => {
                    put(&mut standing.backends, BackendId::of(pool, *address), end);
                }
                Target::Pool(name) => put(&mut standing.pools, Tag::of(name.as_str()), end),
                Target::Service(name) => put(&mut standing.services, name.clone(), end),
                // Sessions belong to neither.
                Target::Node(_)
                | Target::Region(_)
                | Target::Key(_)
                | Target::Mesh
                | Target::Network(..)
                | Target::ZoneKey { .. } => {}
            }
        }
        standing
    }

    fn is_empty(&self) -> bool {
        let Self { sessions, backends, pools, services } = self;
        sessions.is_empty() && backends.is_empty() && pools.is_empty() && services.is_empty()
    }

    fn has_ended(&self, stay: &Stay<'_>) -> bool {
        let before = |end: Option<&End>| end.is_some_and(|end| stay.assigned <= end.at);
        let began_before = |end: &End| {
            stay.began.is_some_and(|began| end.at.wall().since(Wall(u64::from(began) * 1000)) > CLOCKS_DIFFER)
        };
        let session = self.sessions.get(&stay.id);
        let service = self.services.get(stay.service);
        // The id of a cookie's session is never used again.
        (session.is_some() && stay.began.is_some())
            || before(session)
            || before(self.backends.get(&stay.backend))
            || before(self.pools.get(&stay.pool))
            || before(service)
            || service.is_some_and(began_before)
    }

    /// What becomes of a record that lies in the store: an assignment to nothing, until it expires. The same on every
    /// node, so that replicas agree without a word. `None` for a record that no end is about. Of a service's end records
    /// know nothing.
    fn marked(&self, pin: &Pin) -> Option<Pin> {
        let backend = pin.assignment.backend?;
        let ends =
            [self.sessions.get(&pin.id), self.backends.get(&backend), self.pools.get(&pin.assignment.pool)];
        let end = ends.into_iter().flatten().filter(|end| pin.assignment.hlc <= end.at);
        let End { at, by } = end.max_by_key(|end| (end.at, end.by))?;
        let assignment = Assignment {
            hlc: *at,
            node: *by,
            pool: Tag::default(),
            backend: None,
            weak: false,
            forwarded: false,
        };
        Some(Pin { assignment, ..*pin })
    }
}

fn put<K: Eq + Hash>(ends: &mut HashMap<K, End>, key: K, end: End) {
    ends.insert(key, end);
}

#[cfg(test)]
mod tests {
    use gossip::id::{NodeName, PoolName};

    use super::*;

    const AT: u64 = 1_790_000_000_000;

    fn orders(targets: Vec<Target>) -> IntentMap {
        let by = NodeName::new("eu-1").unwrap();
        let until = Wall(AT + 1);
        let intent = Intent { order: Order::End { until }, at: Hlc::from_millis(AT), by };
        targets.into_iter().map(|target| ((target, intent.order.aspect()), intent.clone())).collect()
    }

    fn pool(name: &str) -> PoolName {
        PoolName::new(name).unwrap()
    }

    fn service(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    fn backend() -> BackendId {
        BackendId::of(&pool("web"), "10.0.0.1:80".parse().unwrap())
    }

    fn pin(id: u8, millis: u64) -> Pin {
        let assignment = Assignment {
            hlc: Hlc::from_millis(millis),
            node: Tag(1),
            pool: Tag::of("web"),
            backend: Some(backend()),
            weak: false,
            forwarded: false,
        };
        Pin { id: SessionId([id; 16]), assignment, expires: 9 }
    }

    #[test]
    fn what_has_ended_depends_on_what_was_named_and_when() {
        let web = service("web");
        let now = Stay {
            service: &web,
            id: SessionId([1; 16]),
            pool: Tag::of("web"),
            backend: backend(),
            assigned: Hlc::from_millis(AT - 5),
            began: Some((AT / 1000) as u32 - 1),
        };
        let later = Stay { assigned: Hlc::from_millis(AT + 5), ..now };
        let old = Stay { began: Some((AT / 1000) as u32 - 61), ..later };
        let by_address = |stay: Stay<'static>| Stay { began: None, ..stay };
        let web = service("web");
        let leaked: &'static ServiceName = Box::leak(Box::new(web));
        let [now, later, old] = [now, later, old].map(|stay| Stay { service: leaked, ..stay });

        let named = [
            (Target::Session(now.id), [true, true, true]),
            (Target::Backend(pool("web"), "10.0.0.1:80".parse().unwrap()), [true, false, false]),
            (Target::Pool(pool("web")), [true, false, false]),
            (Target::Service(leaked.clone()), [true, false, true]),
        ];
        for (target, ended) in named {
            let ends = Ends::default();
            assert!(!ends.has_ended(&now));
            ends.set(&orders(vec![target.clone()]));
            assert_eq!([now, later, old].map(|stay| ends.has_ended(&stay)), ended, "{target:?}");
            // An address comes again as the same session: what was assigned since is a new one.
            assert!(ends.has_ended(&by_address(now)) && !ends.has_ended(&by_address(old)), "{target:?}");
            ends.set(&IntentMap::new());
            assert!(!ends.has_ended(&now));
        }
        let others = [
            Target::Session(SessionId([2; 16])),
            Target::Backend(pool("web"), "10.0.0.2:80".parse().unwrap()),
            Target::Backend(pool("api"), "10.0.0.1:80".parse().unwrap()),
            Target::Pool(pool("api")),
            Target::Service(service("api")),
        ];
        let ends = Ends::default();
        ends.set(&orders(others.to_vec()));
        assert!(!ends.has_ended(&now));
    }

    #[test]
    fn a_record_is_marked_the_same_everywhere_and_only_if_it_is_older() {
        let id = SessionId([1; 16]);
        let address = "10.0.0.1:80".parse().unwrap();
        for target in [Target::Session(id), Target::Backend(pool("web"), address), Target::Pool(pool("web"))]
        {
            let standing = Standing::of(&orders(vec![target]));
            let marked = standing.marked(&pin(1, AT - 1)).unwrap();
            assert_eq!(
                (marked.assignment.hlc, marked.assignment.node),
                (Hlc::from_millis(AT), Tag::of("eu-1"))
            );
            assert_eq!((marked.assignment.backend, marked.expires), (None, 9));
            assert_eq!(pin(1, AT - 1).merge(marked), marked);
            assert_eq!(standing.marked(&marked), None);
            assert_eq!(standing.marked(&pin(1, AT + 1)), None);
        }
        let standing = Standing::of(&orders(vec![Target::Session(SessionId([2; 16]))]));
        assert_eq!(standing.marked(&pin(1, AT - 1)), None);
        let standing = Standing::of(&orders(vec![Target::Service(service("web"))]));
        assert_eq!(standing.marked(&pin(1, AT - 1)), None);
    }
}
