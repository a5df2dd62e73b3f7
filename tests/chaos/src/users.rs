//! Users: each looks the name up in its region, asks whom it is told, keeps its cookie, and waits a moment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use gossip::clock::Clock;
use tests::client::{Browser, Trouble};
use tests::dns::Question;
use tests::load::User;

/// The steered name.
pub const NAME: &str = "www.lb.example.com.";
/// The port of the HTTP listener.
pub const HTTP: u16 = 8080;
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(60);
/// Requests between two look-ups.
const A_LOOKUP: u32 = 10;
/// Who reaches nobody looks the name up and tries again for so long, as people reload a page.
const RELOADS: Duration = Duration::from_secs(6);
/// Between two of those tries.
const AGAIN: Duration = Duration::from_millis(250);
/// A browser takes the next address when one does not answer its connection for so long.
const CONNECT: Duration = Duration::from_secs(2);

/// One of them.
pub struct Shopper {
    browser: Browser,
    from: Ipv4Addr,
    servers: Vec<SocketAddr>,
    network: String,
    addresses: Vec<IpAddr>,
    asked: u32,
    backend: Option<String>,
    moved: Arc<AtomicU64>,
}

impl Shopper {
    /// One at this address who asks these name servers in turn. Each change of its backend is counted in `moved`.
    pub fn new(from: Ipv4Addr, servers: Vec<SocketAddr>, network: String, moved: Arc<AtomicU64>) -> Self {
        let browser = Browser::new().host("www.lb.example.com").from(from);
        Self { browser, from, servers, network, addresses: Vec::new(), asked: 0, backend: None, moved }
    }

    async fn look_up(&mut self) -> Result<()> {
        let mut last = None;
        for server in &self.servers {
            let question = Question::addresses(NAME)?.for_users(&self.network)?.from(self.from);
            match tokio::time::timeout(CONNECT, question.ask(*server)).await {
                Ok(Ok(answer)) if !answer.addresses.is_empty() => {
                    self.addresses = answer.addresses;
                    return Ok(());
                }
                Ok(Ok(answer)) => last = Some(anyhow::anyhow!("no addresses: {}", answer.code)),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(anyhow::anyhow!("{server} does not answer")),
            }
        }
        Err(last.context("no name server")?)
    }
}

impl User for Shopper {
    /// A request fails when it broke off, was answered badly, or could not even be sent for [`RELOADS`].
    async fn act(&mut self) -> Result<()> {
        tokio::time::sleep(PAUSE).await;
        let clock = Clock::system();
        let latest = clock.now() + RELOADS;
        let stale = self.asked.is_multiple_of(A_LOOKUP);
        self.asked += 1;
        if stale {
            self.addresses.clear();
        }
        loop {
            let last = match self.send().await? {
                Ok(backend) => {
                    if self.backend.replace(backend.clone()).is_some_and(|before| before != backend) {
                        self.moved.fetch_add(1, Ordering::Relaxed);
                    }
                    return Ok(());
                }
                Err(nobody) => nobody,
            };
            self.addresses.clear();
            if clock.now() >= latest {
                return Err(last);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

impl Shopper {
    /// Which backend answered; the inner error: nothing could be sent to anybody.
    async fn send(&mut self) -> Result<Result<String>> {
        if self.addresses.is_empty()
            && let Err(error) = self.look_up().await
        {
            return Ok(Err(error.context("looking the name up")));
        }
        let mut last = None;
        for address in self.addresses.clone() {
            match self.browser.get((address, HTTP).into(), "/").await {
                Ok(reply) => {
                    let seen = reply.seen().with_context(|| format!("from {address}"))?;
                    return Ok(Ok(seen.backend));
                }
                Err(trouble @ Trouble::Connect(..)) => last = Some(trouble),
                Err(trouble) => {
                    self.addresses.clear();
                    return Err(trouble.into());
                }
            }
        }
        Ok(Err(last.context("no address")?.into()))
    }
}
