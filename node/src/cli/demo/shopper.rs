//! The demo's users: each resolves the name as a browser in its region would, keeps a cookie, and buys something ten
//! times a second. What they meet is the demo's verdict.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gossip::clock::Clock;
use http::Request;
use http::header::{CONNECTION, COOKIE, HOST, SET_COOKIE};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use ipnet::{IpNet, Ipv4Net};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::plan::{DNS_PORT, HTTP_PORT, Plan};

const EVERY: Duration = Duration::from_millis(100);
/// A browser gives up on an address and tries the next one; so does a shopper.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Browsers keep addresses for about as long as their TTL; the demo's TTL shrinks to 5 s.
const RESOLVE_EVERY: u32 = 20;

/// What one region's users met.
#[derive(Debug, Clone, Default)]
pub(super) struct Met {
    /// Requests that got an answer from a shop.
    pub(super) served: u64,
    /// Requests that got none on any address.
    pub(super) failed: u64,
    /// Answers from another shop than the time before.
    pub(super) moved: u64,
    /// The first address of the DNS answer did not serve, another one did.
    pub(super) second_address: u64,
    /// The last time something failed or moved.
    pub(super) last_change: Option<Instant>,
    /// The last failure, in words.
    pub(super) last_failure: Option<String>,
    /// By user: the shop that served last.
    pub(super) at: BTreeMap<usize, String>,
}

/// All users.
#[derive(Debug)]
pub(super) struct Shoppers {
    met: Vec<(&'static str, Arc<Mutex<Met>>)>,
    _tasks: JoinSet<()>,
}

impl Shoppers {
    /// `each` users in every region.
    pub(super) fn start(plan: &Plan, each: usize, clock: &Clock) -> Self {
        let servers: Arc<[SocketAddr]> = plan.nodes().map(|node| node.at(DNS_PORT)).collect();
        let mut tasks = JoinSet::new();
        let mut met = Vec::new();
        for region in &plan.regions {
            let sum = Arc::new(Mutex::new(Met::default()));
            met.push((region.name, sum.clone()));
            let (network, bits) = region.users();
            for number in 0..each {
                let shopper = Shopper {
                    subnet: subnet(network, bits),
                    servers: servers.clone(),
                    next_server: number,
                    addresses: Vec::new(),
                    cookie: None,
                    number,
                    met: sum.clone(),
                    clock: clock.clone(),
                };
                tasks.spawn(shopper.shop());
            }
        }
        Self { met, _tasks: tasks }
    }

    /// What the users of each region met so far.
    pub(super) fn met(&self) -> Vec<(&'static str, Met)> {
        self.met
            .iter()
            .map(|(region, met)| (*region, met.lock().map(|met| met.clone()).unwrap_or_default()))
            .collect()
    }

    /// How many users a shop at one of these addresses served last: those that have to move when it goes down.
    pub(super) fn served_by(&self, shops: &[Ipv4Addr]) -> u64 {
        let shops: Vec<String> = shops.iter().map(ToString::to_string).collect();
        let met = self.met();
        met.iter().flat_map(|(_, met)| met.at.values()).filter(|at| shops.contains(at)).count() as u64
    }
}

/// The prefix that a resolver tells of a user.
pub(super) fn subnet(network: Ipv4Addr, bits: u8) -> Option<IpNet> {
    Ipv4Net::new(network, bits).ok().map(IpNet::V4)
}

struct Shopper {
    subnet: Option<IpNet>,
    servers: Arc<[SocketAddr]>,
    next_server: usize,
    addresses: Vec<IpAddr>,
    cookie: Option<String>,
    number: usize,
    met: Arc<Mutex<Met>>,
    clock: Clock,
}

impl Shopper {
    async fn shop(mut self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0u32;
        loop {
            ticks.tick().await;
            if self.addresses.is_empty() || count.is_multiple_of(RESOLVE_EVERY) {
                self.resolve().await;
            }
            count = count.wrapping_add(1);
            self.buy().await;
        }
    }

    /// Asks one name server after the other, as a resolver does.
    async fn resolve(&mut self) {
        for _ in 0..self.servers.len() {
            let server = self.servers[self.next_server % self.servers.len()];
            self.next_server += 1;
            let asked =
                dns::addresses(server, super::plan::HOST, self.subnet, Duration::from_millis(400)).await;
            if let Ok(addresses) = asked
                && !addresses.is_empty()
            {
                self.addresses = addresses;
                return;
            }
        }
    }

    async fn buy(&mut self) {
        let mut failures = Vec::new();
        for (at, ip) in self.addresses.clone().into_iter().enumerate() {
            match tokio::time::timeout(ANSWER_TIMEOUT, self.request(ip)).await {
                Ok(Ok(shop)) => return self.served(shop, at > 0),
                Ok(Err(error)) => failures.push(format!("{ip}: {error:#}")),
                Err(_) => failures.push(format!("{ip}: no answer in 5 s")),
            }
        }
        // None of the addresses: they are stale, a browser would resolve again.
        self.addresses.clear();
        let now = self.clock.now();
        if let Ok(mut met) = self.met.lock() {
            met.failed += 1;
            met.last_change = Some(now);
            met.last_failure = Some(failures.join("; "));
        }
    }

    fn served(&self, shop: String, second_address: bool) {
        let now = self.clock.now();
        let Ok(mut met) = self.met.lock() else { return };
        met.served += 1;
        met.second_address += u64::from(second_address);
        if met.at.insert(self.number, shop.clone()).is_some_and(|before| before != shop) {
            met.moved += 1;
            met.last_change = Some(now);
        }
    }

    async fn request(&mut self, ip: IpAddr) -> anyhow::Result<String> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((ip, HTTP_PORT))).await??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::get("/cart").header(HOST, super::plan::HOST).header(CONNECTION, "close");
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        anyhow::ensure!(response.status().is_success(), "HTTP {}", response.status());
        if let Some(set) = response.headers().get(SET_COOKIE).and_then(|value| value.to_str().ok()) {
            self.cookie = set.split(';').next().map(str::to_owned);
        }
        let body = Limited::new(response.into_body(), 64 << 10).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        driver.abort();
        let page: serde_json::Value = serde_json::from_slice(&body)?;
        let shop = page.get("shop").and_then(|shop| shop.as_str());
        shop.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("not the shop's page"))
    }
}
