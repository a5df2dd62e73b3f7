//! What needs no network: the cookie, the table.

use std::hint::black_box;

use gossip::clock::{Clock, Hlc, Wall};
use gossip::id::{BackendId, ServiceName, SessionId, Tag};
use gossip::keyring::Keyring;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use storage::cookie::{Cookies, SessionCookie};
use storage::pin::{Assignment, PIN_BYTES, Pin};
use storage::table::{Record, Table};

use crate::{say, system};

const ROUNDS: usize = 9;
const COOKIES: u32 = 20_000;
const LOOKS: usize = 500_000;

pub(crate) fn run(pins: usize) -> anyhow::Result<()> {
    let clock = Clock::system();
    cookies(&clock)?;
    table(&clock, pins);
    memory(&clock, pins);
    Ok(())
}

/// The median and the least of some rounds, in nanoseconds a call.
fn timed(clock: &Clock, name: &str, calls: u32, mut round: impl FnMut()) {
    round();
    let mut rounds: Vec<f64> = Vec::new();
    for _ in 0..ROUNDS {
        let begun = clock.now();
        round();
        rounds.push((clock.now() - begun).as_nanos() as f64 / f64::from(calls));
    }
    rounds.sort_by(f64::total_cmp);
    say(name, format!("{:.0}", rounds[ROUNDS / 2]), "ns");
    say(&format!("{name}, best round"), format!("{:.0}", rounds[0]), "ns");
}

fn cookies(clock: &Clock) -> anyhow::Result<()> {
    let (cookies, service, now) =
        (Cookies::new(&Keyring::generate()), ServiceName::new("web")?, clock.wall());
    let cookie = SessionCookie {
        id: SessionId([7; 16]),
        pool: Tag(1),
        backend: BackendId(2),
        assigned: Hlc::from_millis(now.0),
        home: Tag(3),
        first_seen: now.seconds() as u32,
        last_seen: now.seconds() as u32,
    };
    let value = cookies.seal(&service, &cookie, now);
    timed(clock, "cookie open", COOKIES, || {
        for _ in 0..COOKIES {
            let _ = black_box(cookies.open(&service, black_box(&value), now));
        }
    });
    timed(clock, "cookie seal", COOKIES, || {
        for _ in 0..COOKIES {
            drop(black_box(cookies.seal(&service, black_box(&cookie), now)));
        }
    });
    Ok(())
}

/// What a look-up cannot be faster than: one read from memory as large as the pins alone, each from where the last one says.
fn memory(clock: &Clock, pins: usize) {
    const LINE: usize = 64 / size_of::<u32>();
    let lines = (pins * PIN_BYTES / 64).max(1);
    let mut order: Vec<u32> = (0..lines as u32).collect();
    order.shuffle(&mut StdRng::seed_from_u64(2));
    let mut memory = vec![0_u32; lines * LINE];
    for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
        memory[*from as usize * LINE] = *to;
    }
    let mut at = 0;
    timed(clock, "a read from as much memory", LOOKS as u32, || {
        (0..LOOKS).for_each(|_| at = memory[at as usize * LINE]);
        black_box(at);
    });
}

fn table(clock: &Clock, pins: usize) {
    let (home, now) = (Tag(9), clock.wall());
    let mut rng = StdRng::seed_from_u64(1);
    let mut ids: Vec<SessionId> = (0..pins).map(|_| SessionId(rng.random())).collect();
    let before = system::resident_bytes();
    let table = Table::default();
    let begun = clock.now();
    for id in &ids {
        table.merge(Record { home, pin: pin(*id, now) }, now);
    }
    let took = clock.now() - begun;
    say("merge of a new pin", took.as_nanos() / pins.max(1) as u128, "ns");
    say("RAM a pin in the table", (system::resident_bytes() - before) / pins.max(1) as u64, "bytes");
    ids.shuffle(&mut rng);
    ids.truncate(LOOKS);
    timed(clock, "local look-up", ids.len() as u32, || {
        for id in &ids {
            black_box(table.find_anywhere(home, black_box(id), now));
        }
    });
    let strangers: Vec<SessionId> = (0..ids.len()).map(|_| SessionId(rng.random())).collect();
    timed(clock, "local look-up of none", strangers.len() as u32, || {
        for id in &strangers {
            black_box(table.find_anywhere(home, black_box(id), now));
        }
    });
}

/// A new session's record.
pub(crate) fn pin(id: SessionId, now: Wall) -> Pin {
    let assignment = Assignment {
        hlc: Hlc::from_millis(now.0),
        node: Tag(1),
        pool: Tag(2),
        backend: Some(BackendId(3)),
        weak: false,
        forwarded: false,
    };
    Pin { id, assignment, expires: now.seconds() as u32 + 8 * 3600 }
}
