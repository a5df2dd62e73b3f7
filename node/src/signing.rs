//! What each key of a zone is for. Pure.
//!
//! ```text
//!   the oldest ─▶ active ──┐ an operator's order                 for RETIRING                 after it
//!   the others ─▶ extra ───┴─────────▶ retiring: published, signs the keys alone ─▶ retired: not published any more
//! ```
//!
//! A retired key stays in the file: an order may be lost with the store, a key must not. Nor is a zone left without
//! one: where all are retired, by orders that were given on two sides of a cut, the oldest is the active one all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dns::{Signing, SigningKey};
use gossip::clock::Wall;
use storage::intents::{IntentMap, Order, Target};
use storage::zone_keys::{Known, ZoneKey};

/// For so long a retired key is published: as long as what it has signed is valid, which is longer than resolvers remember
/// that or, as a rule, the DS record which named it.
pub(crate) const RETIRING: Duration = Duration::from_secs(3 * 86_400);

/// A key that an order has retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// It is published until then.
    Until(Wall),
    /// It is not published any more.
    Gone,
}

/// The retired keys, by their id.
pub type RetiredKeys = BTreeMap<[u8; 16], Retired>;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It signs.
    Active,
    /// It is published and signs the keys, so that the parent may name it.
    Extra,
    /// It was retired, and is published until then.
    Retiring(Wall),
    /// It was retired, and is not published.
    Retired,
}

impl Role {
    /// As the API spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Extra => "extra",
            Self::Retiring(_) => "retiring",
            Self::Retired => "retired",
        }
    }

    /// Whether the parent may name the key, now and later.
    pub(crate) fn stays(self) -> bool {
        matches!(self, Self::Active | Self::Extra)
    }
}

/// The keys that orders in force have retired at `now`, and when the next of them goes.
pub(crate) fn retired(map: &IntentMap, now: Wall) -> (RetiredKeys, Option<Wall>) {
    let orders = map.iter().filter_map(|((target, _), intent)| match (target, &intent.order) {
        (Target::ZoneKey { id, .. }, Order::RetireZoneKey) => Some((*id, intent.at.wall().plus(RETIRING))),
        _ => None,
    });
    let state = |until| if until > now { Retired::Until(until) } else { Retired::Gone };
    let retired: RetiredKeys = orders.map(|(id, until)| (id, state(until))).collect();
    let next = retired.values().filter_map(|retired| match retired {
        Retired::Until(until) => Some(*until),
        Retired::Gone => None,
    });
    let next = next.min();
    (retired, next)
}

/// The keys of a zone, the oldest first, and what each is for. At most one is active, and none only where there is none.
pub(crate) fn roles(zone: &str, known: &Known, retired: &RetiredKeys) -> Vec<(Arc<ZoneKey>, Role)> {
    let role = |key: &Arc<ZoneKey>| match retired.get(&key.id()) {
        None => Role::Extra,
        Some(Retired::Until(until)) => Role::Retiring(*until),
        Some(Retired::Gone) => Role::Retired,
    };
    let mut keys: Vec<_> = known.of(zone).map(|key| (key.clone(), role(key))).collect();
    let active = keys.iter().position(|(_, role)| role.stays()).unwrap_or(0);
    if let Some((_, role)) = keys.get_mut(active) {
        *role = Role::Active;
    }
    keys
}

/// What a zone is signed with, the active key first.
pub(crate) fn signing(zone: &str, known: &Known, retired: &RetiredKeys) -> Signing {
    let mut signing = Signing { all_sign: known.is_settling(zone), ..Signing::default() };
    for (key, role) in roles(zone, known, retired) {
        let into = match role {
            Role::Active | Role::Extra => &mut signing.keys,
            Role::Retiring(_) => &mut signing.retiring,
            Role::Retired => continue,
        };
        match SigningKey::from_pkcs8(&key.secret) {
            Ok(key) => into.push(key),
            Err(error) => tracing::error!(zone, %error, "a key of the zone cannot be used"),
        }
    }
    signing
}

#[cfg(test)]
mod tests {
    use gossip::clock::Hlc;
    use gossip::id::NodeName;
    use storage::intents::Intent;

    use super::*;

    const ZONE: &str = "lb.example.com";

    fn keys(count: u64) -> Vec<ZoneKey> {
        let key = |made| ZoneKey {
            zone: ZONE.into(),
            made: Wall(1000 + made),
            secret: SigningKey::generate().unwrap(),
        };
        (0..count).map(key).collect()
    }

    fn orders(retired: &[&ZoneKey], at: Wall) -> IntentMap {
        let by = NodeName::new("eu-1").unwrap();
        let order = |key: &&ZoneKey| {
            let target = Target::ZoneKey { zone: ZONE.into(), tag: 1, id: key.id() };
            let order = Order::RetireZoneKey;
            ((target, order.aspect()), Intent { order, at: Hlc::from_millis(at.0), by: by.clone() })
        };
        retired.iter().map(order).collect()
    }

    fn spelled(keys: &[ZoneKey], retired: &RetiredKeys) -> Vec<&'static str> {
        let known = Known::of_keys(keys.to_vec());
        roles(ZONE, &known, retired).iter().map(|(_, role)| role.name()).collect()
    }

    #[test]
    fn a_retired_key_stays_published_for_a_while_and_then_goes() {
        let keys = keys(3);
        assert_eq!(spelled(&keys, &RetiredKeys::new()), ["active", "extra", "extra"]);
        let at = Wall(5_000);
        let map = orders(&[&keys[0]], at);
        let until = at.plus(RETIRING);
        let (leaving, next) = retired(&map, at);
        assert_eq!((spelled(&keys, &leaving), next), (vec!["retiring", "active", "extra"], Some(until)));
        let (gone, next) = retired(&map, until);
        assert_eq!((spelled(&keys, &gone), next), (vec!["retired", "active", "extra"], None));

        let tag = |key: &ZoneKey| SigningKey::from_pkcs8(&key.secret).unwrap().tag();
        let tags = |keys: &[SigningKey]| keys.iter().map(SigningKey::tag).collect::<Vec<_>>();
        let known = Known::of_keys(keys.clone());
        let of = |retired: &RetiredKeys| {
            let signing = signing(ZONE, &known, retired);
            (tags(&signing.keys), tags(&signing.retiring))
        };
        let [first, second, third] = [&keys[0], &keys[1], &keys[2]].map(tag);
        assert_eq!(of(&leaving), (vec![second, third], vec![first]));
        assert_eq!(of(&gone), (vec![second, third], vec![]));
    }

    #[test]
    fn a_zone_is_never_left_without_a_key() {
        let keys = keys(2);
        let (leaving, _) = retired(&orders(&[&keys[0], &keys[1]], Wall(5_000)), Wall(6_000));
        assert_eq!(spelled(&keys, &leaving), ["active", "retiring"]);
        let (gone, _) = retired(&orders(&[&keys[0], &keys[1]], Wall(5_000)), Wall(u64::MAX));
        assert_eq!(spelled(&keys, &gone), ["active", "retired"]);
        assert!(spelled(&[], &gone).is_empty());
    }
}
