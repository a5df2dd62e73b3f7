//! The mesh, its users, and what befalls them, one fault after the other.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gossip::clock::Clock;
use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;
use tests::backend::HttpBackend;
use tests::cli::{Cli, code, text};
use tests::dns::resolve;
use tests::load::{Load, Tally};
use tests::wait::{eventually, secs};

use crate::ground::{BACKENDS, Ground, NODES, REGIONS, USERS};
use crate::host::{Host, ask};
use crate::table::{Limits, Row};
use crate::users::{HTTP, NAME, Shopper};
use crate::watch::{Member, Watch};
use crate::weather::{Side, Weather};

/// Users are at work for so long before a fault.
const WARM: Duration = Duration::from_secs(2);
/// Within this the mesh is whole again, or the scenario has no end.
const WHOLE: Duration = Duration::from_secs(90);
/// DNS answers in a row without the victim: it has moved.
const GONE: usize = 6;

/// Everything that plays.
pub struct Story {
    ground: Ground,
    hosts: Vec<Host>,
    backends: Vec<HttpBackend>,
    cli: Cli,
    clock: Clock,
    watch: Watch,
    folder: TempDir,
}

/// What a fault notes of itself.
#[derive(Debug)]
struct Notes {
    /// When it began.
    began: Instant,
    /// When it ended.
    ended: Option<Instant>,
    /// Who may be held for dead, by anybody.
    victims: Vec<String>,
    near: Option<Duration>,
    far: Option<Duration>,
    dns: Option<Duration>,
}

#[derive(Debug, Deserialize)]
struct Pool {
    backends: Vec<Backend>,
}

#[derive(Debug, Deserialize)]
struct Backend {
    address: String,
    state: String,
    reason: String,
}

impl Story {
    /// Starts everything and waits until it is whole.
    pub async fn begin(program: &Path) -> Result<Self> {
        let ground = Ground::make()?;
        let folder = tempfile::Builder::new().prefix("meridian-chaos-").tempdir()?;
        let (cli, key) = (Cli::new(program), folder.path().join("mesh.key"));
        cli.key_new(&key).await?;
        let mut hosts: Vec<Host> = Vec::new();
        let mut backends = Vec::new();
        for region in 0..REGIONS.len() {
            for node in 0..NODES {
                let seed = hosts.first().map(|first| first.address);
                hosts.push(Host::place(&ground, (region, node), program, folder.path(), &key, seed)?);
            }
            for index in 0..BACKENDS {
                let (name, at) = (format!("{}/{index}", REGIONS[region]), ground.backend(region, index));
                backends.push(HttpBackend::start(&name, REGIONS[region], (at, HTTP).into()).await?);
            }
        }
        for host in &mut hosts {
            host.start()?;
        }
        let watch = Watch::start(hosts.iter().map(|host| (host.name.clone(), host.socket())));
        let story = Self { ground, hosts, backends, cli, clock: Clock::system(), watch, folder };
        let file = story.folder.path().join("services.toml");
        std::fs::write(&file, story.services())?;
        eventually("the first node answers", secs(30), async || story.members("eu-1").await.map(drop))
            .await?;
        let node = story.cli.asking(text(&story.host("eu-1").socket())?);
        node.expect(code::OK, &["apply", text(&file)?]).await?;
        story.whole().await.context("at the beginning")?;
        Ok(story)
    }

    fn services(&self) -> String {
        let mut toml = String::new();
        for (region, place) in [(50.1, 8.7), (39.0, -77.5), (1.4, 103.8)].iter().enumerate() {
            toml += &format!(
                "[region.{}]\nlatitude = {}\nlongitude = {}\nprefixes = [\"{}\"]\n",
                REGIONS[region],
                place.0,
                place.1,
                self.ground.network(region)
            );
        }
        let servers = [self.ground.node(0, 0), self.ground.node(1, 0)];
        toml += &format!(
            "[dns.zone.\"lb.example.com\"]\nnameserver = {{ ns1 = [\"{}\"], ns2 = [\"{}\"] }}\n\
             contact = \"hostmaster@example.com\"\nttl = \"5s\"\n\
             [dns.zone.\"lb.example.com\".steer.www]\nservice = \"web\"\npolicy = \"nearest\"\nanswers = 2\n\
             [listener.http]\nport = {HTTP}\nprotocol = \"http\"\n\
             [service.web]\nsplit = {{ web = 1 }}\nsticky.cookie = {{ name = \"meridian\", ttl = \"8h\", max_age = \"24h\" }}\n\
             [pool.web]\nhealth.http = {{ path = \"/healthz\", interval = \"1s\", timeout = \"1s\" }}\nbackend = [\n",
            servers[0], servers[1]
        );
        for backend in &self.backends {
            toml +=
                &format!("  {{ address = \"{}\", region = \"{}\" }},\n", backend.address(), backend.region());
        }
        toml + "]\n"
    }

    /// # Panics
    /// When there is none of this name: a mistake in a scenario.
    fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).expect("a host of this name")
    }

    /// # Panics
    /// When there is none of this name: a mistake in a scenario.
    fn host_mut(&mut self, name: &str) -> &mut Host {
        self.hosts.iter_mut().find(|host| host.name == name).expect("a host of this name")
    }

    async fn members(&self, of: &str) -> Result<Vec<Member>> {
        ask(&self.host(of).socket(), "/v1/members").await
    }

    /// Waits until every node that runs sees all nodes alive and all backends up.
    async fn whole(&self) -> Result<()> {
        for host in self.hosts.iter().filter(|host| host.runs()) {
            eventually(&format!("{} sees all well", host.name), WHOLE, async || {
                let members = self.members(&host.name).await?;
                let well = members.iter().filter(|member| member.state == "alive").count();
                ensure!(well == self.hosts.len(), "{members:?}");
                let pools: Vec<Pool> = ask(&host.socket(), "/v1/pools").await?;
                let ill = pools.iter().flat_map(|pool| &pool.backends).find(|backend| backend.state != "up");
                ensure!(!pools.is_empty(), "no pools yet");
                match ill {
                    Some(Backend { address, state, reason }) => bail!("{address} is {state}: {reason}"),
                    None => Ok(()),
                }
            })
            .await?;
        }
        Ok(())
    }

    fn users(&self, moved: &Arc<AtomicU64>) -> Vec<Shopper> {
        let everywhere = (0..REGIONS.len()).flat_map(|region| (0..USERS).map(move |user| (region, user)));
        everywhere
            .map(|(region, user)| {
                // The name servers of the own region first, then the others.
                let near = self.hosts.iter().filter(|host| host.region == region);
                let far = self.hosts.iter().filter(|host| host.region != region);
                let servers = near.chain(far).map(Host::dns).collect();
                Shopper::new(
                    self.ground.user(region, user),
                    servers,
                    self.ground.network(region),
                    moved.clone(),
                )
            })
            .collect()
    }

    /// One scenario: users at work, the fault, its end, everything well again.
    async fn tell(
        &mut self,
        what: &'static str,
        limits: Limits,
        fault: impl AsyncFnOnce(&mut Self, &mut Notes) -> Result<()>,
    ) -> Result<Row> {
        self.whole().await.with_context(|| format!("before: {what}"))?;
        let moved = Arc::new(AtomicU64::new(0));
        let load = Load::start(self.users(&moved));
        tokio::time::sleep(WARM).await;
        let began = self.clock.now();
        let mut notes = Notes { began, ended: None, victims: Vec::new(), near: None, far: None, dns: None };
        let befell = fault(self, &mut notes).await;
        let ended = notes.ended.unwrap_or_else(|| self.clock.now());
        if let Err(error) = befell {
            // There is no end of it to wait for.
            drop(load.stop().await);
            return Err(error.context(what));
        }
        let whole = self.whole().await;
        let healed = whole.is_ok().then(|| self.clock.now() - ended);
        tokio::time::sleep(secs(1)).await;
        let (_, Tally { done, failed, failures, .. }) = load.stop().await?;
        if let Err(error) = whole {
            eprintln!("{what}: {error:#}");
        }
        let dead = self.watch.since(began).into_iter().filter(|seen| seen.state == "dead");
        let falsely = dead.filter(|seen| !notes.victims.contains(&seen.of));
        let falsely_dead = falsely.map(|seen| format!("{} by {}", seen.of, seen.by)).collect();
        let Notes { near, far, dns, .. } = notes;
        let moved = moved.load(Ordering::Relaxed);
        let row = Row { what, done, failed, near, far, dns, healed, moved, falsely_dead, failures, limits };
        eprint!("{}", crate::table::render(std::slice::from_ref(&row)));
        Ok(row)
    }

    /// Waits until all others hold `victim` for silent, and notes when its region's first and when the last did.
    async fn suspected(&self, victim: &str, notes: &mut Notes) -> Result<()> {
        let region = self.host(victim).region;
        let observers: Vec<&Host> =
            self.hosts.iter().filter(|host| host.runs() && !notes.victims.contains(&host.name)).collect();
        let times = eventually(&format!("all suspect {victim}"), secs(20), async || {
            let seen = self.watch.since(notes.began);
            let first = |by: &Host| {
                let silent = |state: &str| matches!(state, "suspect" | "dead");
                let sighting =
                    seen.iter().find(|it| it.by == by.name && it.of == victim && silent(&it.state));
                sighting
                    .map(|it| (by.region, it.at - notes.began))
                    .with_context(|| format!("{} does not", by.name))
            };
            observers.iter().map(|by| first(by)).collect::<Result<Vec<_>>>()
        })
        .await?;
        notes.near = times.iter().filter(|(at, _)| *at == region).map(|(_, time)| *time).min();
        notes.far = times.iter().map(|(_, time)| *time).max();
        Ok(())
    }

    /// Waits until a living name server sends no user of the victim's region to it any more.
    async fn out_of_dns(&self, victim: &str, notes: &mut Notes) -> Result<()> {
        let victim = self.host(victim);
        let server = self.hosts.iter().find(|host| host.runs() && !notes.victims.contains(&host.name));
        let server = server.context("a name server")?.dns();
        let network = self.ground.network(victim.region);
        let (mut without, mut first) = (0, self.clock.now());
        let bound = self.clock.now() + secs(20);
        while without < GONE && self.clock.now() < bound {
            let at = self.clock.now();
            let answer = resolve(server, NAME, &network).await?;
            match answer.addresses.iter().any(|address| *address == victim.address) {
                true => without = 0,
                false => {
                    if without == 0 {
                        first = at;
                    }
                    without += 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        notes.dns = (without >= GONE).then(|| first - notes.began);
        Ok(())
    }

    fn end(&self, notes: &mut Notes) {
        notes.ended = Some(self.clock.now());
    }

    async fn weather_for(&self, notes: &mut Notes, weather: Weather, time: Duration) {
        self.ground.relay.set(weather);
        tokio::time::sleep(time).await;
        self.ground.relay.set(Weather::default());
        self.end(notes);
    }

    /// Cuts for so long; within it `by` must hold `victim`, which is on the other side, for silent.
    async fn cut_for(
        &self,
        notes: &mut Notes,
        weather: Weather,
        time: Duration,
        (by, victim): (&str, &str),
    ) -> Result<()> {
        self.ground.relay.set(weather);
        let seen = eventually(&format!("{by} misses {victim}"), time, async || {
            let members = self.members(by).await?;
            let state =
                members.iter().find(|member| member.name == victim).map(|member| member.state.as_str());
            ensure!(matches!(state, Some("suspect" | "dead")), "{state:?}");
            Ok(())
        })
        .await;
        notes.far = seen.is_ok().then(|| self.clock.now() - notes.began);
        let rest = time.saturating_sub(self.clock.now() - notes.began);
        tokio::time::sleep(rest).await;
        self.ground.relay.set(Weather::default());
        self.end(notes);
        seen
    }
}

/// What nobody is to notice but by a second's delay.
fn unnoticed() -> Limits {
    Limits { failed: 0, near: None, far: None, dns: None, healed: secs(20), moved: 0 }
}

/// A node is killed: only requests in flight on it fail.
pub async fn kill_a_node(story: &mut Story) -> Result<Row> {
    let limits = Limits {
        failed: USERS as u64,
        near: Some(Duration::from_millis(1500)),
        far: Some(Duration::from_millis(3500)),
        dns: Some(secs(5)),
        ..unnoticed()
    };
    story
        .tell("kill a node", limits, async |story, notes| {
            notes.victims.push("us-1".into());
            story.host_mut("us-1").kill().await?;
            story.suspected("us-1", notes).await?;
            story.out_of_dns("us-1", notes).await?;
            tokio::time::sleep(secs(3)).await;
            story.end(notes);
            story.host_mut("us-1").start()
        })
        .await
}

/// A region is killed with its backends: its users go elsewhere, and only what was in flight there fails.
pub async fn kill_a_region(story: &mut Story) -> Result<Row> {
    let users = USERS as u64;
    let limits =
        Limits { failed: 2 * users, dns: Some(secs(8)), far: Some(secs(5)), moved: 2 * users, ..unnoticed() };
    story
        .tell("kill a region", limits, async |story, notes| {
            notes.victims.extend(["ap-1".to_owned(), "ap-2".to_owned()]);
            for name in ["ap-1", "ap-2"] {
                story.host_mut(name).kill().await?;
            }
            for backend in story.backends.iter_mut().filter(|backend| backend.region() == "ap") {
                backend.refuse().await;
            }
            story.suspected("ap-1", notes).await?;
            story.out_of_dns("ap-1", notes).await?;
            tokio::time::sleep(secs(5)).await;
            story.end(notes);
            for backend in story.backends.iter_mut().filter(|backend| backend.region() == "ap") {
                backend.reopen().await?;
            }
            for name in ["ap-1", "ap-2"] {
                story.host_mut(name).start()?;
            }
            Ok(())
        })
        .await
}

/// A region is cut off: its users and all others are served on.
pub async fn cut_a_region(story: &mut Story) -> Result<Row> {
    let users = USERS as u64;
    let limits = Limits { failed: users, far: Some(secs(10)), healed: secs(30), moved: users, ..unnoticed() };
    story
        .tell("cut a region off", limits, async |story, notes| {
            notes.victims.extend(story.hosts.iter().map(|host| host.name.clone()));
            let us = || Side::Region(2);
            let weather = Weather::default().cut(us(), Side::Region(1)).cut(us(), Side::Region(3));
            story.cut_for(notes, weather, secs(15), ("eu-1", "us-1")).await
        })
        .await
}

/// The nodes are cut in halves, one of each region on each side; all reach users and backends.
pub async fn cut_in_halves(story: &mut Story) -> Result<Row> {
    let users = USERS as u64;
    let limits = Limits { failed: users, far: Some(secs(10)), healed: secs(30), moved: users, ..unnoticed() };
    story
        .tell("cut in halves", limits, async |story, notes| {
            notes.victims.extend(story.hosts.iter().map(|host| host.name.clone()));
            let side = |number: &str| {
                let half = story.hosts.iter().filter(|host| host.name.ends_with(number));
                Side::Hosts(half.map(|host| host.address).collect())
            };
            let weather = Weather::default().cut(side("1"), side("2"));
            story.cut_for(notes, weather, secs(15), ("eu-1", "eu-2")).await
        })
        .await
}

/// What one node says to one other is lost, not the reverse: nobody dies of it.
pub async fn cut_one_way(story: &mut Story) -> Result<Row> {
    story
        .tell("one-way cut of two nodes", unnoticed(), async |story, notes| {
            let side = |name: &str| Side::Hosts(vec![story.host(name).address]);
            let weather = Weather { cuts: vec![(side("eu-1"), side("us-1"))], ..Weather::default() };
            story.weather_for(notes, weather, secs(15)).await;
            Ok(())
        })
        .await
}

/// Every twentieth packet is lost, everywhere.
pub async fn lose_some(story: &mut Story) -> Result<Row> {
    story
        .tell("5 % loss", Limits { failed: 2, ..unnoticed() }, async |story, notes| {
            let weather = Weather { loss: 0.05, ..Weather::default() };
            story.weather_for(notes, weather, secs(20)).await;
            Ok(())
        })
        .await
}

/// Nearly every third packet is lost, everywhere.
pub async fn lose_many(story: &mut Story) -> Result<Row> {
    let limits = Limits { failed: 12, moved: 12, healed: secs(30), ..unnoticed() };
    story
        .tell("30 % loss", limits, async |story, notes| {
            let weather = Weather { loss: 0.3, ..Weather::default() };
            story.weather_for(notes, weather, secs(15)).await;
            Ok(())
        })
        .await
}

/// Packets overtake each other by up to half a second.
pub async fn jitter(story: &mut Story) -> Result<Row> {
    let limits = Limits { failed: 12, moved: 12, healed: secs(30), ..unnoticed() };
    story
        .tell("500 ms jitter", limits, async |story, notes| {
            let weather = Weather { jitter: Duration::from_millis(500), ..Weather::default() };
            story.weather_for(notes, weather, secs(15)).await;
            Ok(())
        })
        .await
}

/// A node stands still for a moment: it may be suspected, and does not die.
pub async fn freeze_shortly(story: &mut Story) -> Result<Row> {
    story
        .tell(
            "freeze a node for 3 s",
            Limits { failed: USERS as u64, ..unnoticed() },
            async |story, notes| {
                story.host_mut("eu-2").signal(Signal::STOP)?;
                tokio::time::sleep(secs(3)).await;
                story.host_mut("eu-2").signal(Signal::CONT)?;
                story.end(notes);
                Ok(())
            },
        )
        .await
}

/// A node stands still for long: it dies for the others, and comes back without killing anybody.
pub async fn freeze_long(story: &mut Story) -> Result<Row> {
    let limits = Limits {
        failed: 2 * USERS as u64,
        near: Some(Duration::from_millis(1500)),
        far: Some(Duration::from_millis(3500)),
        dns: Some(secs(5)),
        ..unnoticed()
    };
    story
        .tell("freeze a node for 30 s", limits, async |story, notes| {
            notes.victims.push("eu-2".into());
            story.host_mut("eu-2").signal(Signal::STOP)?;
            story.suspected("eu-2", notes).await?;
            story.out_of_dns("eu-2", notes).await?;
            let rest = secs(30).saturating_sub(story.clock.now() - notes.began);
            tokio::time::sleep(rest).await;
            story.host_mut("eu-2").signal(Signal::CONT)?;
            story.end(notes);
            Ok(())
        })
        .await
}

/// A backend's health check says one thing and then the other.
pub async fn flapping_backend(story: &mut Story) -> Result<Row> {
    story
        .tell(
            "a flapping backend",
            Limits { moved: 4 * USERS as u64, ..unnoticed() },
            async |story, notes| {
                for round in 0..16 {
                    story.backends[0].set_healthy(round % 2 == 1);
                    tokio::time::sleep(Duration::from_millis(900)).await;
                }
                story.backends[0].set_healthy(true);
                story.end(notes);
                Ok(())
            },
        )
        .await
}

/// A node that is killed again and again as soon as it is back.
pub async fn restart_in_a_loop(story: &mut Story) -> Result<Row> {
    let limits = Limits { failed: 4 * USERS as u64, healed: secs(30), ..unnoticed() };
    story
        .tell("a node restarts in a loop", limits, async |story, notes| {
            notes.victims.push("ap-2".into());
            for _ in 0..4 {
                story.host_mut("ap-2").kill().await?;
                story.host_mut("ap-2").start()?;
                tokio::time::sleep(secs(3)).await;
            }
            story.end(notes);
            Ok(())
        })
        .await
}

/// The only seed is gone when a node restarts: it finds the mesh by the peers it knew.
pub async fn seeds_gone(story: &mut Story) -> Result<Row> {
    let limits = Limits { failed: 2 * USERS as u64, healed: secs(30), ..unnoticed() };
    story
        .tell("all seeds gone, a node restarts", limits, async |story, notes| {
            notes.victims.extend(["eu-1".to_owned(), "us-2".to_owned()]);
            story.host_mut("eu-1").kill().await?;
            story.host_mut("us-2").kill().await?;
            story.host_mut("us-2").start()?;
            eventually("us-2 is back without its seed", secs(30), async || {
                let members = story.members("us-2").await?;
                let alive = members.iter().filter(|member| member.state == "alive").count();
                ensure!(alive == 5, "{members:?}");
                Ok(())
            })
            .await?;
            story.end(notes);
            story.host_mut("eu-1").start()
        })
        .await
}
