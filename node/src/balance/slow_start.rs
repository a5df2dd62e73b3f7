//! Slow start: the weight of a backend that has just come (back) grows from a tenth to the whole, in a straight line.
use std::time::Duration;

use gossip::clock::Wall;

/// What a weight of 1 is in force when the ramp is over. Fine enough that a weight of 1 can grow, too.
pub const WHOLE: u32 = 1000;
/// What it is at the beginning.
const FIRST: u32 = WHOLE / 10;

/// The part of its weight that a backend has at `now` when it came at `since`: 100 to 1000 thousandths. One that was
/// always there (`since` is 0) has the whole; one that comes in the future, by a clock that is ahead, has a tenth.
pub fn share(since: Wall, now: Wall, ramp: Duration) -> u32 {
    let ramp = ramp.as_millis() as u64;
    let passed = now.0.saturating_sub(since.0);
    if since.0 == 0 || passed >= ramp {
        return WHOLE;
    }
    let grown = u128::from(WHOLE - FIRST) * u128::from(passed) / u128::from(ramp);
    FIRST + grown as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RAMP: Duration = Duration::from_secs(30);

    #[test]
    fn from_a_tenth_to_the_whole() {
        let since = Wall(1_000_000);
        let at = |seconds: u64| share(since, Wall(since.0 + seconds * 1000), RAMP);
        assert_eq!([at(0), at(10), at(15), at(29), at(30), at(3000)], [100, 400, 550, 970, 1000, 1000]);
        assert_eq!(share(since, Wall(0), RAMP), 100, "a clock that is behind");
        assert_eq!(share(Wall(0), Wall(5), RAMP), 1000, "it was always there");
        assert_eq!(share(since, since, Duration::ZERO), 1000, "no ramp");
    }

    proptest! {
        #[test]
        fn it_never_shrinks_and_stays_between(since: u64, a: u64, b: u64, ramp in 0u64..1_000_000) {
            let (since, ramp) = (Wall(since), Duration::from_millis(ramp));
            let (sooner, later) = (share(since, Wall(a.min(b)), ramp), share(since, Wall(a.max(b)), ramp));
            prop_assert!(sooner <= later);
            prop_assert!((FIRST..=WHOLE).contains(&sooner) && later <= WHOLE);
        }
    }
}
