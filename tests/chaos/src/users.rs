//! The users of a region: browsers with cookie jars behind one resolver, as patient as people are.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gossip::clock::Clock;
use hyper::StatusCode;
use tests::client::Browser;
use tests::dns::resolve;
use tests::net::{DNS, HTTP};
use tests::services::{HOST, NAME};
use tokio::time::{sleep, timeout};

/// Between two requests of one user.
const PAUSE: Duration = Duration::from_millis(250);
/// A resolver asks the next name server after this, a browser tries the next address.
const ASK: Duration = Duration::from_millis(800);
const TRY: Duration = Duration::from_secs(2);
/// Nobody waits longer for a page; longer than `SLOW` is noticed.
const PATIENCE: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_secs(3);

/// What users met.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    /// Requests that ended, one way or the other.
    pub requests: u64,
    /// Those without a good answer.
    pub failed: u64,
    /// Good answers after more than three seconds.
    pub slow: u64,
    /// Answers by another backend than the one before.
    pub moved: u64,
    /// Look-ups that no name server answered.
    pub unresolved: u64,
}

impl std::ops::Sub for Figures {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            failed: self.failed - before.failed,
            slow: self.slow - before.slow,
            moved: self.moved - before.moved,
            unresolved: self.unresolved - before.unresolved,
        }
    }
}

/// Where all users count.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<(Figures, String)>);

impl Tally {
    pub(crate) fn figures(&self) -> Figures {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The last failure, in words.
    pub(crate) fn last_failure(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    fn count(&self, met: impl FnOnce(&mut Figures)) {
        met(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0);
    }

    fn fails(&self, why: String) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        met.0.failed += 1;
        met.1 = why;
    }
}

/// The resolver of a region: asks the servers in turn, the one that answered last first, and remembers for the TTL.
#[derive(Debug)]
pub(crate) struct Resolver {
    servers: Vec<Ipv4Addr>,
    network: &'static str,
    clock: Clock,
    known: Mutex<(Vec<Ipv4Addr>, Option<Instant>)>,
    favourite: AtomicU64,
    tally: Arc<Tally>,
}

impl Resolver {
    pub(crate) fn new(servers: Vec<Ipv4Addr>, network: &'static str, tally: Arc<Tally>) -> Self {
        let (known, favourite) = (Mutex::default(), AtomicU64::default());
        Self { servers, network, clock: Clock::system(), known, favourite, tally }
    }

    /// The name's addresses; what was known last when nobody answers (RFC 8767).
    async fn look_up(&self) -> Vec<Ipv4Addr> {
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.1.is_some_and(|until| until > self.clock.now()) {
                return known.0.clone();
            }
        }
        let first = self.favourite.load(Ordering::Relaxed) as usize;
        for turn in 0..self.servers.len() {
            let index = (first + turn) % self.servers.len();
            let asked = resolve((self.servers[index], DNS).into(), NAME, self.network);
            let Ok(Ok(answer)) = timeout(ASK, asked).await else { continue };
            let addresses: Vec<Ipv4Addr> = answer.ipv4().collect();
            let Some(ttl) = answer.ttl.filter(|_| !addresses.is_empty()) else { continue };
            self.favourite.store(index as u64, Ordering::Relaxed);
            let until = self.clock.now() + Duration::from_secs(ttl.into());
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = (addresses.clone(), Some(until));
            return addresses;
        }
        self.tally.count(|met| met.unresolved += 1);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.1 = Some(self.clock.now() + Duration::from_secs(1));
        known.0.clone()
    }
}

/// One user, for as long as the runtime lives.
pub(crate) async fn shop(number: u64, resolver: Arc<Resolver>, tally: Arc<Tally>) {
    let clock = Clock::system();
    let mut browser = Browser::new().host(HOST);
    let (mut at, mut backend): (Option<Ipv4Addr>, Option<String>) = (None, None);
    sleep(PAUSE.mul_f64(number as f64 * 0.137 % 1.0)).await;
    loop {
        let begun = clock.now();
        let end = loop {
            let addresses = resolver.look_up().await;
            let kept = at.filter(|kept| addresses.contains(kept));
            let mut candidates: Vec<Ipv4Addr> = kept.into_iter().collect();
            candidates.extend(addresses.iter().filter(|address| Some(**address) != kept));
            let mut why = "no name server answers".to_owned();
            let mut reply = None;
            for candidate in candidates {
                let target = SocketAddr::from((candidate, HTTP));
                match timeout(TRY, browser.get(target, "/")).await {
                    Ok(Ok(answer)) => {
                        at = Some(candidate);
                        reply = Some(answer);
                        break;
                    }
                    Ok(Err(trouble)) => why = trouble.to_string(),
                    Err(_) => why = format!("{candidate} does not answer in {TRY:?}"),
                }
                at = None;
            }
            match reply {
                Some(answer) => break Ok(answer),
                None if clock.now() - begun >= PATIENCE => break Err(why),
                None => sleep(PAUSE).await,
            }
        };
        tally.count(|met| met.requests += 1);
        match end {
            Err(why) => tally.fails(why),
            Ok(answer) if answer.status != StatusCode::OK => {
                tally.fails(format!("{:?} answers {} {}", at, answer.status, answer.text()));
            }
            Ok(answer) => {
                if clock.now() - begun > SLOW {
                    tally.count(|met| met.slow += 1);
                }
                match answer.seen() {
                    Ok(seen) => {
                        if backend.as_ref().is_some_and(|before| *before != seen.backend) {
                            tally.count(|met| met.moved += 1);
                        }
                        backend = Some(seen.backend);
                    }
                    Err(error) => tally.fails(format!("{error:#}")),
                }
            }
        }
        sleep(PAUSE).await;
    }
}
