//! Many users at once, each asking again as soon as it has its answer, until told to stop.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use gossip::clock::Clock;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::backend::Seen;
use crate::client::{Browser, Trouble};
use crate::dns::resolve;

/// Failures that are kept to be shown.
const SHOWN: usize = 5;

/// Somebody who does one thing after the other.
pub trait User: Send + 'static {
    /// Does the next thing.
    fn act(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// What became of all that was done.
#[derive(Debug, Default)]
pub struct Tally {
    /// What went well.
    pub done: u64,
    /// What failed.
    pub failed: u64,
    /// The first failures of each user, in words.
    pub failures: Vec<String>,
    /// From the start to the end.
    pub lasted: Duration,
}

impl Tally {
    /// An error with the first failures unless there were none.
    pub fn must_be_clean(&self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} of {} failed: {}", self.failed, self.done + self.failed, self.failures.join("; "));
        }
        Ok(())
    }

    /// Done per second.
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.lasted.as_secs_f64().max(0.001)
    }
}

/// Users at work.
pub struct Load<U> {
    stop: watch::Sender<bool>,
    done: watch::Sender<u64>,
    users: JoinSet<(U, Tally)>,
    clock: Clock,
    began: std::time::Instant,
}

impl<U: User> Load<U> {
    /// Sets them to work.
    pub fn start(users: impl IntoIterator<Item = U>) -> Self {
        let (stop, _) = watch::channel(false);
        let (done, _) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for user in users {
            tasks.spawn(work(user, stop.subscribe(), done.clone()));
        }
        let clock = Clock::system();
        let began = clock.now();
        Self { stop, done, users: tasks, clock, began }
    }

    /// What all of them have done so far.
    pub fn done(&self) -> u64 {
        *self.done.borrow()
    }

    /// Waits until they have done this many more things.
    pub async fn progress(&self, more: u64) -> Result<()> {
        let mut done = self.done.subscribe();
        let goal = self.done() + more;
        let reached = tokio::time::timeout(Duration::from_secs(30), done.wait_for(|done| *done >= goal));
        reached.await.with_context(|| format!("the load does not get {more} things done in 30 s"))??;
        Ok(())
    }

    /// Lets each finish what it is doing, and counts.
    pub async fn stop(mut self) -> Result<(Vec<U>, Tally)> {
        self.stop.send_replace(true);
        let mut users = Vec::new();
        let mut total = Tally::default();
        while let Some(finished) = self.users.join_next().await {
            let (user, tally) = finished.context("a user panicked")?;
            users.push(user);
            total.done += tally.done;
            total.failed += tally.failed;
            total.failures.extend(tally.failures);
        }
        total.lasted = self.clock.now().saturating_duration_since(self.began);
        Ok((users, total))
    }
}

async fn work<U: User>(mut user: U, stop: watch::Receiver<bool>, done: watch::Sender<u64>) -> (U, Tally) {
    let mut tally = Tally::default();
    while !*stop.borrow() {
        match user.act().await {
            Ok(()) => {
                tally.done += 1;
                done.send_modify(|done| *done += 1);
            }
            Err(error) => {
                tally.failed += 1;
                if tally.failures.len() < SHOWN {
                    tally.failures.push(format!("{error:#}"));
                }
                // A failure that comes at once must not turn into a busy loop.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    (user, tally)
}

/// A user who looks the name up for every `per_connection` requests and tries the addresses in turn, as browsers do.
pub struct Visitor {
    /// The browser, with its jar.
    pub browser: Browser,
    /// Name servers, asked in turn.
    pub servers: Vec<SocketAddr>,
    /// The name.
    pub name: String,
    /// The network the name server is told about.
    pub network: String,
    /// The port of the listener.
    pub port: u16,
    /// After how many requests the name is looked up again.
    pub per_connection: u32,
    /// How often an address did not answer and the next one did.
    pub detours: u64,
    asked: u32,
    addresses: Vec<IpAddr>,
}

impl Visitor {
    /// One who asks `servers` as a user of `network` would.
    pub fn new(browser: Browser, servers: Vec<SocketAddr>, name: &str, network: &str, port: u16) -> Self {
        Self {
            browser,
            servers,
            name: name.to_owned(),
            network: network.to_owned(),
            port,
            per_connection: 20,
            detours: 0,
            asked: 0,
            addresses: Vec::new(),
        }
    }

    async fn look_up(&mut self) -> Result<()> {
        let mut last = None;
        for server in &self.servers {
            match resolve(*server, &self.name, &self.network).await {
                Ok(answer) if !answer.addresses.is_empty() => {
                    self.addresses = answer.addresses;
                    return Ok(());
                }
                Ok(answer) => last = Some(anyhow::anyhow!("no addresses, {}", answer.code)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no name server")?)
    }
}

impl User for Visitor {
    async fn act(&mut self) -> Result<()> {
        if self.asked.is_multiple_of(self.per_connection) || self.addresses.is_empty() {
            self.look_up().await?;
        }
        self.asked += 1;
        let mut last = None;
        for (index, address) in self.addresses.iter().enumerate() {
            match self.browser.get((*address, self.port).into(), "/").await {
                Ok(reply) => {
                    reply.seen().with_context(|| format!("from {address}"))?;
                    self.detours += u64::from(index > 0);
                    return Ok(());
                }
                Err(trouble @ Trouble::Connect(..)) => last = Some(trouble),
                Err(trouble) => return Err(trouble.into()),
            }
        }
        self.addresses.clear();
        Err(last.context("no address")?.into())
    }
}

/// A user who visits one node again and again.
pub struct Regular {
    /// The browser, with its jar.
    pub browser: Browser,
    /// The listener.
    pub target: SocketAddr,
    /// Which backend answered how often.
    pub met: std::collections::BTreeMap<String, u64>,
}

impl Regular {
    /// One who has met nobody yet.
    pub fn new(browser: Browser, target: SocketAddr) -> Self {
        Self { browser, target, met: std::collections::BTreeMap::new() }
    }
}

impl User for Regular {
    async fn act(&mut self) -> Result<()> {
        let seen = self.browser.visit(self.target).await?;
        *self.met.entry(seen.backend).or_default() += 1;
        Ok(())
    }
}

/// Every browser visits `target` once, so many at a time. What each was told, in order; the first failure ends it.
pub async fn all_visit(browsers: &mut [Browser], target: SocketAddr, at_once: usize) -> Result<Vec<Seen>> {
    let lane_length = browsers.len().div_ceil(at_once.max(1)).max(1);
    let lanes = browsers.chunks_mut(lane_length).map(|lane| async move {
        let mut seen = Vec::with_capacity(lane.len());
        for browser in lane {
            seen.push(browser.visit(target).await?);
        }
        anyhow::Ok(seen)
    });
    Ok(try_join_all(lanes).await?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::http_backends;
    use crate::net::Net;

    #[tokio::test]
    async fn a_load_counts_what_goes_well_and_what_fails() {
        let net = Net::claim().unwrap();
        let mut backends = http_backends(&net, &[("eu", 1)]).await.unwrap();
        let target = backends[0].address();
        let load = Load::start((0..3).map(|_| Regular::new(Browser::new(), target)));
        load.progress(50).await.unwrap();
        backends[0].refuse().await;
        // Each has at least one request on its way or about to be made, and it has nowhere to go.
        let (regulars, tally) = load.stop().await.unwrap();
        assert!(tally.done >= 50 && tally.lasted > Duration::ZERO, "{tally:?}");
        assert_eq!(tally.must_be_clean().is_err(), tally.failed > 0);
        assert_eq!(regulars.iter().filter_map(|regular| regular.met.get("eu/1")).sum::<u64>(), tally.done);
    }

    #[tokio::test]
    async fn all_visit_in_order() {
        let net = Net::claim().unwrap();
        let backends = http_backends(&net, &[("eu", 1)]).await.unwrap();
        let mut browsers: Vec<Browser> =
            (0..10).map(|index| Browser::new().header("x-number", &index.to_string())).collect();
        let seen = all_visit(&mut browsers, backends[0].address(), 3).await.unwrap();
        let numbers: Vec<String> = seen.iter().map(|seen| seen.header("x-number").join("")).collect();
        assert_eq!(numbers, (0..10).map(|index: i32| index.to_string()).collect::<Vec<_>>());
    }
}
