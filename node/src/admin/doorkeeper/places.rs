//! Who has a place at a socket, and who gives his up when there is none left. Pure.
//!
//! ```text
//!                    a request with right
//!   enters ─▶ fresh ──────────────────────▶ operator ◀─┐ a request with right
//!               │                              │       │
//!               └── any other request ──▶ stranger ◀───┘ a request that is refused
//!
//!   gives way:  strangers, who was answered longest ago  →  the fresh, who came first  →  operators never
//! ```
//!
//! Operators have fewer places than there are, so whoever comes finds one that may be given to him.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// What a connection has shown of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// It had a request answered, and no right to more.
    Stranger,
    /// Nothing yet.
    Fresh,
    /// That it may ask and order: its last request was let in.
    Operator,
}

/// What a request shows of who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// It has what is asked for.
    Right,
    /// It asks for what anybody may have.
    Nothing,
    /// It was refused.
    Wrong,
}

/// Whose places are counted together: an IPv4 address, an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowd(IpAddr);

impl Crowd {
    pub(super) fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
            v4 => v4,
        })
    }
}

/// How many may be there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// All together.
    pub(super) places: usize,
    /// Operators; fewer than places.
    pub(super) operators: usize,
    /// Of one crowd, without those that are operators.
    pub(super) crowd: usize,
}

/// As many operators are there as may be, or the place was given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoPlace;

#[derive(Debug)]
struct Guest<T> {
    tier: Tier,
    crowd: Option<Crowd>,
    /// Grows with who came or was answered later.
    turn: u64,
    what: T,
}

/// The places, and with each what its guest leaves when it is given away.
#[derive(Debug)]
pub(super) struct Places<T> {
    bounds: Bounds,
    turns: u64,
    guests: BTreeMap<u64, Guest<T>>,
}

impl<T> Places<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, turns: 0, guests: BTreeMap::new() }
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.guests.len()
    }

    /// How many of them by operators.
    pub(super) fn operators(&self) -> usize {
        self.guests.values().filter(|guest| guest.tier == Tier::Operator).count()
    }

    /// A place for who comes, by its number, and whoever gave it up. Who belongs to no crowd is counted with all alone.
    pub(super) fn enter(&mut self, crowd: Option<Crowd>, what: T) -> (u64, Option<T>) {
        let is_mate = |guest: &Guest<T>| crowd.is_some() && guest.crowd == crowd;
        let mates =
            self.guests.values().filter(|guest| guest.tier < Tier::Operator && is_mate(guest)).count();
        let leaver = if mates >= self.bounds.crowd {
            self.first_to_go(is_mate)
        } else if self.guests.len() >= self.bounds.places {
            self.first_to_go(|_| true)
        } else {
            None
        };
        let left = leaver.and_then(|number| self.guests.remove(&number));
        self.turns += 1;
        self.guests.insert(self.turns, Guest { tier: Tier::Fresh, crowd, turn: self.turns, what });
        (self.turns, left.map(|guest| guest.what))
    }

    fn first_to_go(&self, may: impl Fn(&Guest<T>) -> bool) -> Option<u64> {
        let others = self.guests.iter().filter(|(_, guest)| guest.tier < Tier::Operator && may(guest));
        others.min_by_key(|(_, guest)| (guest.tier, guest.turn)).map(|(number, _)| *number)
    }

    /// Takes note of what a request has shown. Who shows a right is an operator from then on.
    ///
    /// # Errors
    /// There is no place for one more operator. It keeps the place that it has.
    pub(super) fn shows(&mut self, number: u64, shown: Shown) -> Result<(), NoPlace> {
        let operators = self.operators();
        let guest = self.guests.get_mut(&number).ok_or(NoPlace)?;
        let is_operator = guest.tier == Tier::Operator;
        guest.tier = match shown {
            Shown::Right if !is_operator && operators >= self.bounds.operators => return Err(NoPlace),
            Shown::Right => Tier::Operator,
            Shown::Nothing if is_operator => Tier::Operator,
            Shown::Nothing | Shown::Wrong => Tier::Stranger,
        };
        self.turns += 1;
        guest.turn = self.turns;
        Ok(())
    }

    /// Its guest is gone.
    pub(super) fn leave(&mut self, number: u64) {
        self.guests.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { places: 8, operators: 5, crowd: 3 };

    #[derive(Debug, Clone)]
    enum Step {
        Enter(Option<u8>),
        Shows(usize, Shown),
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => proptest::option::of(0u8..4).prop_map(Step::Enter),
            4 => (0usize..12, prop_oneof![Just(Shown::Right), Just(Shown::Nothing), Just(Shown::Wrong)])
                .prop_map(|(who, shown)| Step::Shows(who, shown)),
            1 => (0usize..12).prop_map(Step::Leave),
        ]
    }

    fn crowd(of: u8) -> Crowd {
        Crowd::of(IpAddr::from([192, 0, 2, of]))
    }

    /// Who is there: number, tier and turn. The numbers are what guests leave as well.
    fn there(places: &Places<u64>) -> Vec<(u64, Tier, u64, Option<Crowd>)> {
        let all = places.guests.iter();
        all.map(|(number, guest)| (*number, guest.tier, guest.turn, guest.crowd)).collect()
    }

    proptest! {
        /// Whatever comes, asks and leaves: an operator is never cut, neither for a stranger nor for another operator, and of the
        /// others strangers go first.
        #[test]
        fn an_operator_is_never_cut(steps in proptest::collection::vec(step(), 0..80)) {
            let mut places = Places::new(BOUNDS);
            for step in steps {
                let before = there(&places);
                let whose = |at: usize| before.get(at).map(|guest| guest.0);
                match step {
                    Step::Enter(of) => {
                        let of = of.map(crowd);
                        let (number, left) = places.enter(of, places.turns + 1);
                        prop_assert!(places.guests.contains_key(&number), "who comes has a place");
                        let gone = before.iter().find(|guest| Some(guest.0) == left);
                        prop_assert_eq!(gone.is_some(), left.is_some(), "who left was there");
                        let mates = |guest: &&(u64, Tier, u64, Option<Crowd>)| guest.1 != Tier::Operator && guest.3 == of;
                        let is_crowded = of.is_some() && before.iter().filter(mates).count() >= BOUNDS.crowd;
                        prop_assert_eq!(gone.is_some(), is_crowded || before.len() == BOUNDS.places);
                        if let Some(&(_, tier, turn, whose)) = gone {
                            prop_assert_ne!(tier, Tier::Operator);
                            prop_assert!(!is_crowded || whose == of, "a crowd makes room for itself");
                            let earlier = before.iter().filter(|other| !is_crowded || other.3 == of);
                            prop_assert!(earlier.clone().all(|other| (other.1, other.2) >= (tier, turn)));
                        }
                    }
                    Step::Shows(at, shown) => {
                        let Some(number) = whose(at) else { continue };
                        let (was, operators) = (before[at].1, places.operators());
                        let shows = places.shows(number, shown);
                        let is_full = was != Tier::Operator && operators == BOUNDS.operators;
                        prop_assert_eq!(shows.is_err(), shown == Shown::Right && is_full);
                    }
                    Step::Leave(at) => {
                        if let Some(number) = whose(at) {
                            places.leave(number);
                        }
                    }
                }
                prop_assert!(places.taken() <= BOUNDS.places && places.operators() <= BOUNDS.operators);
            }
        }
    }

    #[test]
    fn who_lost_the_place_is_no_operator() {
        let mut places = Places::new(Bounds { places: 1, operators: 0, crowd: 1 });
        let (first, _) = places.enter(None, "first");
        assert_eq!(places.enter(None, "second").1, Some("first"));
        assert_eq!(places.shows(first, Shown::Right), Err(NoPlace));
        places.leave(first);
        assert_eq!(places.taken(), 1);
    }

    #[test]
    fn a_host_has_a_whole_64_of_ipv6_and_one_ipv4_address_however_it_is_written() {
        let of = |ip: &str| Crowd::of(ip.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.2"), of("192.0.2.1"));
    }
}
