//! Zones: traffic prefers the zone of its node.
//!
//! The own zone takes everything until its load per weight exceeds 140 % of the region's mean; what comes then
//! overflows to the other zones. While its backends have less than two requests each, nothing overflows: so few say nothing.
use super::Load;

/// 140 %.
const OVERFLOW: (u64, u64) = (7, 5);

/// Where in the region the next request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To the own zone.
    Own,
    /// To the others: the own zone has its part.
    Others,
    /// Anywhere: the own zone has nobody, or everybody.
    All,
}

impl Scope {
    /// Whether a candidate belongs to it.
    pub fn holds(self, is_own: bool) -> bool {
        match self {
            Self::Own => is_own,
            Self::Others => !is_own,
            Self::All => true,
        }
    }
}

/// Where the next request goes, from all candidates of the region as `(is in the own zone, load)`.
pub fn scope(candidates: impl Iterator<Item = (bool, Load)>) -> Scope {
    let (mut own, mut all) = (Sum::default(), Sum::default());
    for (is_own, load) in candidates.filter(|(_, load)| load.weight > 0) {
        all.add(load);
        if is_own {
            own.add(load);
        }
    }
    if own.count == 0 || own.count == all.count {
        return Scope::All;
    }
    // own.load / own.weight > 7/5 × all.load / all.weight, without a division.
    let (part, unit) = OVERFLOW;
    let is_over = u128::from(own.load) * u128::from(all.weight) * u128::from(unit)
        > u128::from(all.load) * u128::from(own.weight) * u128::from(part);
    if is_over && own.load >= 2 * own.count { Scope::Others } else { Scope::Own }
}

#[derive(Default)]
struct Sum {
    load: u64,
    weight: u64,
    count: u64,
}

impl Sum {
    fn add(&mut self, load: Load) {
        self.load += u64::from(load.here) + u64::from(load.elsewhere);
        self.weight += u64::from(load.weight);
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(here: u32, weight: u32) -> Load {
        Load { here, weight, ..Load::default() }
    }

    #[test]
    fn an_idle_zone_takes_its_own() {
        let three_zones = [(true, load(0, 100)), (false, load(0, 100)), (false, load(9, 100))];
        assert_eq!(scope(three_zones.into_iter()), Scope::Own);
        let first_request = [(true, load(1, 100)), (false, load(0, 100)), (false, load(0, 100))];
        assert_eq!(scope(first_request.into_iter()), Scope::Own);
    }

    #[test]
    fn a_zone_without_backends_or_without_others_changes_nothing() {
        assert_eq!(scope([(false, load(5, 100)), (true, load(0, 0))].into_iter()), Scope::All);
        assert_eq!(scope([(true, load(5, 100)), (false, load(0, 0))].into_iter()), Scope::All);
        assert_eq!(scope([].into_iter()), Scope::All);
    }

    #[test]
    fn beyond_140_percent_of_the_mean_it_overflows() {
        // The mean is 10 for each weight of 100.
        let at = |own: u32| [(true, load(own, 100)), (false, load(20 - own, 100))];
        assert_eq!(scope(at(14).into_iter()), Scope::Own);
        assert_eq!(scope(at(15).into_iter()), Scope::Others);
    }

    proptest! {
        #[test]
        fn requests_that_stay_never_push_a_zone_far_over(
            own in prop::collection::vec(1u32..300, 1..5),
            others in prop::collection::vec(1u32..300, 1..5),
            requests in 1usize..600,
        ) {
            let mut all: Vec<(bool, Load)> = own.iter().map(|&weight| (true, load(0, weight))).collect();
            all.extend(others.iter().map(|&weight| (false, load(0, weight))));
            for _ in 0..requests {
                let scope = scope(all.iter().copied());
                // Least busy within the scope.
                let next = all.iter_mut().filter(|(is_own, _)| scope.holds(*is_own)).min_by(|(_, a), (_, b)| {
                    (u64::from(a.here + 1) * u64::from(b.weight)).cmp(&(u64::from(b.here + 1) * u64::from(a.weight)))
                });
                next.unwrap().1.here += 1;
            }
            let per_weight = |only_own: bool| {
                let of = all.iter().filter(|(is_own, _)| *is_own || !only_own);
                let (load, weight) = of.fold((0, 0), |sum, (_, l)| (sum.0 + l.here, sum.1 + l.weight));
                (load, f64::from(load) / f64::from(weight))
            };
            let (own_load, own_mean) = per_weight(true);
            let own_weight: u32 = own.iter().sum();
            let bound = 1.4 * per_weight(false).1 + 1.0 / f64::from(own_weight);
            prop_assert!(own_load as usize <= 2 * own.len() || own_mean <= bound + 1e-9, "{all:?}");
        }
    }
}
