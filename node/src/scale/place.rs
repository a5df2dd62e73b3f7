//! Where new backends go, and which are the first to leave. Pure.

use std::collections::BTreeMap;

use gossip::id::{RackName, RegionName, ZoneName};
use serde::Serialize;

use crate::backend::BackendView;
use crate::config::model::SourceKind;

/// A region, a zone and a rack, as far as they are named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Spot {
    pub(super) region: RegionName,
    pub(super) zone: Option<ZoneName>,
    pub(super) rack: Option<RackName>,
}

impl Spot {
    pub(super) fn of(backend: &BackendView) -> Self {
        let config = &backend.config;
        Self { region: config.region.clone(), zone: config.zone.clone(), rack: config.rack.clone() }
    }
}

/// Places for so many new backends: one after the other into the emptiest of those that the pool has, so that the loss of
/// one takes no more than its share. A pool without any begins at `home`.
pub(super) fn add(backends: &[&BackendView], home: Spot, count: u32) -> Vec<Spot> {
    let mut held: BTreeMap<Spot, u32> = BTreeMap::new();
    for backend in backends {
        *held.entry(Spot::of(backend)).or_default() += 1;
    }
    if held.is_empty() {
        held.insert(home, 0);
    }
    let mut places = Vec::new();
    for _ in 0..count {
        let Some((spot, held)) = held.iter_mut().min_by_key(|(_, held)| **held) else { break };
        *held += 1;
        places.push(spot.clone());
    }
    places
}

/// The backends to be stopped: one after the other from the fullest place, never one that stands in the configuration;
/// first those that serve nobody.
pub(super) fn remove<'a>(backends: &[&'a BackendView], count: u32) -> Vec<&'a BackendView> {
    let mut held: BTreeMap<Spot, Vec<&BackendView>> = BTreeMap::new();
    for backend in backends {
        held.entry(Spot::of(backend)).or_default().push(backend);
    }
    for at in held.values_mut() {
        // The last of each is the first to leave.
        at.sort_by_key(|backend| (!backend.takes_new(), is_ours(backend), backend.config.address));
    }
    let mut leaving = Vec::new();
    for _ in 0..count {
        let removable = held.values_mut().filter(|at| at.iter().any(|backend| is_ours(backend)));
        let Some(at) = removable.max_by_key(|at| at.len()) else { break };
        let Some(last) = at.iter().rposition(|backend| is_ours(backend)) else { break };
        leaving.push(at.remove(last));
    }
    leaving
}

/// Whether scaling may stop it: what stands in the file, or was added by hand, is the operator's.
fn is_ours(backend: &BackendView) -> bool {
    let sources = backend.config.sources;
    !sources.has(SourceKind::Static) && !sources.has(SourceKind::Added)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gossip::clock::Hlc;
    use gossip::id::PoolName;
    use gossip::state::BackendState;
    use proptest::prelude::*;

    use super::*;
    use crate::backend::BackendShared;
    use crate::balance::rack;
    use crate::config::model::{Backend, SourceKinds};
    use crate::registry::fixture::region;

    fn backend(n: u8, in_rack: &str, source: SourceKind, state: BackendState) -> BackendView {
        let address = std::net::SocketAddr::from(([10, 0, 0, n], 80));
        let pool = PoolName::new("web").unwrap();
        let config = Backend {
            id: gossip::id::BackendId::of(&pool, address),
            address,
            region: region("eu"),
            zone: None,
            rack: Some(in_rack.parse().unwrap()),
            weight: 100,
            sources: SourceKinds::of(source),
            leaving: false,
            priority: 0,
        };
        BackendView {
            rack: rack::number(std::iter::once((&config.region, &config.zone, &config.rack))).remove(0),
            config: Arc::new(config),
            shared: Arc::new(BackendShared::default()),
            state,
            up_since: Hlc::ZERO,
            joined: Hlc::ZERO,
            weight: 100,
            reason: String::new(),
        }
    }

    #[test]
    fn the_emptiest_rack_first_and_the_fullest_last() {
        use BackendState::{Down, Up};
        let all = [
            backend(1, "a", SourceKind::Static, Up),
            backend(2, "a", SourceKind::Lease, Up),
            backend(3, "b", SourceKind::Lease, Up),
            backend(4, "a", SourceKind::Lease, Down),
        ];
        let all: Vec<&BackendView> = all.iter().collect();
        let home = Spot { region: region("eu"), zone: None, rack: None };
        let racks: Vec<String> =
            add(&all, home.clone(), 3).iter().map(|spot| spot.rack.clone().unwrap().to_string()).collect();
        assert_eq!(racks, ["b", "b", "a"]);
        assert_eq!(add(&[], home.clone(), 2), [home.clone(), home]);
        let last =
            |count| remove(&all, count).iter().map(|b| b.config.address.to_string()).collect::<Vec<_>>();
        assert_eq!(last(1), ["10.0.0.4:80"], "who is down goes first");
        assert_eq!(last(9).len(), 3, "what the file says stays");
    }

    proptest! {
        /// The fullest and the emptiest rack never drift apart by what is added.
        #[test]
        fn growth_levels_racks(racks in prop::collection::vec(0..4_u8, 1..20), count in 0..20_u32) {
            let all: Vec<BackendView> = racks.iter().enumerate().map(|(n, rack)| {
                backend(n as u8 + 1, &format!("r{rack}"), SourceKind::Lease, BackendState::Up)
            }).collect();
            let all: Vec<&BackendView> = all.iter().collect();
            let home = Spot { region: region("eu"), zone: None, rack: None };
            let mut held: BTreeMap<Spot, u32> = BTreeMap::new();
            all.iter().for_each(|backend| *held.entry(Spot::of(backend)).or_default() += 1);
            let apart = |held: &BTreeMap<Spot, u32>| held.values().max().unwrap() - held.values().min().unwrap();
            let before = apart(&held);
            for spot in add(&all, home, count) {
                *held.entry(spot).or_default() += 1;
            }
            prop_assert!(apart(&held) <= before.max(1));
        }

        /// Nor by what is removed: no rack is left with more than its share for that.
        #[test]
        fn shrinking_levels_racks(racks in prop::collection::vec(0..4_u8, 1..20), count in 0..20_u32) {
            let all: Vec<BackendView> = racks.iter().enumerate().map(|(n, rack)| {
                backend(n as u8 + 1, &format!("r{rack}"), SourceKind::Lease, BackendState::Up)
            }).collect();
            let all: Vec<&BackendView> = all.iter().collect();
            let mut held: BTreeMap<Spot, u32> = BTreeMap::new();
            all.iter().for_each(|backend| *held.entry(Spot::of(backend)).or_default() += 1);
            let apart = |held: &BTreeMap<Spot, u32>| held.values().max().unwrap() - held.values().min().unwrap();
            let before = apart(&held);
            let leaving = remove(&all, count);
            prop_assert_eq!(leaving.len(), all.len().min(count as usize));
            for backend in leaving {
                *held.get_mut(&Spot::of(backend)).unwrap() -= 1;
            }
            prop_assert!(apart(&held) <= before.max(1));
        }
    }
}
