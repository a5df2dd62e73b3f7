//! Every node of two regions is killed in turn while two thousand sessions go on and new ones come: none is lost, and none
//! moves without cause. Three quarters of the users have a cookie; the others are known by their address, so that only the
//! replicas can tell where they were. Who moved all the same is shown with all that the nodes have done for them.
//!
//! The round lasts 40 s and at least until each node was killed once; with `MERIDIAN_KILL_SECONDS=180` it lasts longer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gossip::clock::Clock;
use tests::backend::{http_backends, tcp_backends};
use tests::client::{Browser, TcpTalk, Trouble};
use tests::cluster::{Cluster, Node};
use tests::load::{Load, User};
use tests::net::{HTTP, TCP};
use tests::prove;
use tests::services::{STICKY_SOURCE, Services};
use tests::wait::{eventually, secs};

const LANES: usize = 20;
const USERS_A_LANE: usize = 100;
/// After so many visits of a lane a new user comes.
const NEWCOMER_EVERY: usize = 12;
/// How often all nodes are tried before a user gives up: one that was killed leaves others.
const ROUNDS: usize = 3;
/// A check that no busy machine fails: what moves here must move for want of a record, not of a backend.
const PATIENT_HTTP: &str =
    "health.http = { path = \"/healthz\", interval = \"1s\", timeout = \"3s\", rise = 1, fall = 5 }";
const PATIENT_TCP: &str = "health.tcp = { interval = \"1s\", timeout = \"3s\", rise = 1, fall = 5 }";

/// How long nodes are killed, at least.
fn round() -> Duration {
    let asked = std::env::var("MERIDIAN_KILL_SECONDS").ok().and_then(|text| text.parse().ok());
    secs(asked.unwrap_or(40))
}

/// Who a user is to the mesh.
enum Known {
    ByCookie(Box<Browser>),
    ByAddress,
}

struct Member {
    address: Ipv4Addr,
    known: Known,
    backend: Option<String>,
}

/// What all lanes share.
struct Town {
    addresses: Vec<Ipv4Addr>,
    /// The nodes' HTTP and TCP listeners. Who is known by address stays in the first region: each keeps its own.
    http: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    born: AtomicUsize,
    detours: AtomicUsize,
    /// Who moved, and how.
    moved: Mutex<Vec<(Ipv4Addr, String)>>,
}

impl Town {
    fn member(&self) -> Member {
        let number = self.born.fetch_add(1, Ordering::Relaxed);
        let address = self.addresses[number % self.addresses.len()];
        let known = match number % 4 {
            0 => Known::ByAddress,
            _ => Known::ByCookie(Box::new(Browser::new().from(address).closing())),
        };
        Member { address, known, backend: None }
    }
}

/// Users who come one after the other, each to another node than the last time.
struct Lane {
    town: Arc<Town>,
    members: Vec<Member>,
    visits: usize,
}

impl Lane {
    fn new(town: &Arc<Town>) -> Self {
        let members = (0..USERS_A_LANE).map(|_| town.member()).collect();
        Self { town: town.clone(), members, visits: 0 }
    }
}

impl User for Lane {
    async fn act(&mut self) -> Result<()> {
        if self.visits.is_multiple_of(NEWCOMER_EVERY) && self.visits > self.members.len() {
            self.members.push(self.town.member());
        }
        let (visits, count) = (self.visits, self.members.len());
        self.visits += 1;
        let member = &mut self.members[visits % count];
        let (backend, target) = visit(&self.town, member, visits + visits / count).await?;
        match &member.backend {
            Some(was) if *was != backend => {
                let kind = if matches!(member.known, Known::ByAddress) {
                    "known by address"
                } else {
                    "with a cookie"
                };
                let moved = format!("a user {kind} moved from {was} to {backend} at {target}");
                self.town.moved.lock().expect("no lane panics").push((member.address, moved.clone()));
                // Counted once, wherever they stay from now on.
                member.backend = Some(backend);
                bail!(moved);
            }
            Some(_) => Ok(()),
            None => {
                member.backend = Some(backend);
                Ok(())
            }
        }
    }
}

/// Which backend serves a user who asks one node after the other until one answers.
async fn visit(town: &Town, member: &mut Member, first: usize) -> Result<(String, SocketAddr)> {
    let targets = match member.known {
        Known::ByCookie(_) => &town.http,
        Known::ByAddress => &town.tcp,
    };
    let mut last = None;
    for turn in 0..targets.len() * ROUNDS {
        let target = targets[(first + turn) % targets.len()];
        town.detours.fetch_add(usize::from(turn > 0), Ordering::Relaxed);
        match &mut member.known {
            Known::ByCookie(browser) => match browser.get(target, "/").await {
                // A node that lives must serve.
                Ok(reply) => {
                    let seen = reply.seen().with_context(|| format!("from {target}"))?;
                    return Ok((seen.backend, target));
                }
                Err(Trouble::Request(error)) => return Err(error.into()),
                Err(trouble) => last = Some(trouble.into()),
            },
            Known::ByAddress => match TcpTalk::open(member.address, target).await {
                Ok(talk) => return Ok((talk.backend, target)),
                Err(error) => last = Some(error),
            },
        }
    }
    Err(last.context("no node")?.context("no node serves"))
}

/// What all nodes have done for a user, in order of time.
fn life(mesh: &Cluster<'_>, user: Ipv4Addr) -> String {
    let who = format!(" {user} ");
    let lines = |node: &Node| {
        let log = node.log();
        let lines =
            log.lines().filter(|line| line.contains(&who)).map(|line| format!("{line} at {}", node.name));
        lines.collect::<Vec<_>>()
    };
    let mut lines: Vec<_> = mesh.nodes.iter().flat_map(lines).collect();
    lines.sort();
    lines.join("\n  ")
}

#[test]
fn two_thousand_sessions_outlive_the_kill_of_every_node_in_turn() {
    let round = round();
    prove!(Heavy, secs(240) + round * 2, async |stage| {
        let web = http_backends(&stage.net, &[("eu", 3), ("us", 2)]).await?;
        let cart = tcp_backends(&stage.net, web.len(), &[("eu", 3)], false).await?;
        let mut mesh = Cluster::empty(stage).await?;
        for region in ["eu", "eu", "eu", "us", "us", "us"] {
            let node = mesh.place(region);
            node.tells_requests = true;
            node.start().await?;
        }
        mesh.agree().await?;
        let services = Services::new()
            .http_listener()
            .tcp_listener("cart")
            .service("web", "web-v1 = 1", tests::services::STICKY_COOKIE)
            .service("cart", "cart = 1", STICKY_SOURCE)
            .pool("web-v1", PATIENT_HTTP, &web)
            .pool("cart", PATIENT_TCP, &cart);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;

        let town = Arc::new(Town {
            addresses: (0..60_000).map(|number| stage.net.user(number)).collect(),
            http: mesh.nodes.iter().map(|node| node.http()).collect(),
            tcp: mesh.nodes.iter().filter(|node| node.region == "eu").map(|node| node.tcp()).collect(),
            born: AtomicUsize::new(0),
            detours: AtomicUsize::new(0),
            moved: Mutex::default(),
        });
        let load = Load::start((0..LANES).map(|_| Lane::new(&town)));
        load.progress((LANES * USERS_A_LANE) as u64).await?;

        let clock = Clock::system();
        let end = clock.now() + round;
        let mut kills = 0;
        let mut deaths = Vec::new();
        while kills < mesh.nodes.len() || clock.now() < end {
            let at = kills % mesh.nodes.len();
            deaths.push(format!("{} at {}", mesh.nodes[at].name, clock.wall().0));
            mesh.nodes[at].kill().await?;
            load.progress(400).await?;
            mesh.nodes[at].start().await?;
            mesh.agree().await?;
            mesh.accept(HTTP).await?;
            mesh.accept(TCP).await?;
            load.progress(400).await?;
            kills += 1;
        }
        let (lanes, tally) = load.stop().await?;
        let members = lanes.iter().map(|lane| lane.members.len()).sum::<usize>();
        eprintln!(
            "{kills} kills, {members} sessions, {} visits in {:.0} s, {} detours, {} lost or moved",
            tally.done,
            tally.lasted.as_secs_f64(),
            town.detours.load(Ordering::Relaxed),
            tally.failed
        );
        for (user, moved) in town.moved.lock().expect("no lane panics").iter() {
            eprintln!("{moved}\n  {}", life(&mesh, *user));
        }
        if tally.failed > 0 {
            eprintln!("killed, in ms since 1970: {}", deaths.join(", "));
        }
        tally.must_be_clean()?;

        // Once more, everybody, with nobody being killed.
        for mut lane in lanes {
            for (at, member) in lane.members.iter_mut().enumerate() {
                let (backend, target) = visit(&town, member, at).await?;
                match &member.backend {
                    Some(was) if *was != backend => {
                        bail!(
                            "a user moved from {was} to {backend} at {target} at last\n  {}",
                            life(&mesh, member.address)
                        )
                    }
                    _ => {}
                }
            }
        }
        let cli = mesh.node("us-2").cli();
        eventually("all replicas agree", secs(40), async || {
            let found = cli.consistency().await?;
            ensure!(found.agree, "{} buckets differ", found.differ.len());
            Ok(())
        })
        .await?;
        let listed = cli.sessions().await?.count() as usize;
        ensure!(listed >= members, "{listed} sessions are known, of {members}");
        for node in &mut mesh.nodes {
            node.process()?.must_run()?;
        }
        Ok(())
    });
}
