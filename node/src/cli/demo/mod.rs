//! `meridian demo`: a mesh of real nodes with backends and users on this machine's loopback, and what it does when
//! parts of it fail.
//!
//! ```text
//!   this process                                child processes (meridian start)
//!   ├ backends  tiny shops, by region           ├ eu-1 eu-2
//!   ├ shoppers  users, by region                ├ us-1 us-2     each on 127.N.R.K
//!   ├ observe   asks nodes and name servers     └ ap-1 ap-2
//!   └ story     what happened, in sentences (pure)
//! ```

mod backends;
mod control;
mod fleet;
mod observe;
mod plan;
mod script;
mod shopper;
mod story;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use gossip::clock::Clock;
use gossip::keyring::Keyring;
use http::Method;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::backends::Backends;
use self::control::Order;
use self::fleet::Fleet;
use self::observe::Observer;
use self::plan::{DNS_PORT, ECHO_PORT, HOST, HTTP_PORT, MAX_NODES, MAX_REGIONS, Plan};
use self::script::Scripted;
use self::shopper::Shoppers;
use self::story::{Blow, Story};
use super::exit::{CliError, Exit};
use super::output::{line, table};
use crate::admin::api::{Applied, Status};

/// The loopback networks tried, 127.N.0.0/16: the first that no other demo uses.
const NETWORKS: std::ops::RangeInclusive<u8> = 77..=96;
/// How long the mesh may take to form and to see its backends.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const SHOPPERS_PER_REGION: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Regions, 1 to 6: eu, us, ap, sa, af, oc.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=MAX_REGIONS as i64))]
    regions: u8,
    /// Nodes in each region, 1 to 9.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=MAX_NODES as i64))]
    nodes: u8,
    /// Take all backends of a region down at a time after the mesh is ready; may be given several times.
    #[arg(long, value_name = "REGION@TIME")]
    fail: Vec<Scripted>,
    /// Kill a node (SIGKILL) at a time after the mesh is ready; may be given several times.
    #[arg(long, value_name = "NODE@TIME")]
    kill: Vec<Scripted>,
    /// End by itself after this time; the exit code then tells whether the mesh kept its promises.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    lasts: Option<Duration>,
}

pub(super) fn run(args: DemoArgs) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(play(args))
}

async fn play(args: DemoArgs) -> Result<ExitCode, CliError> {
    let (listener, plan) = free_network(args.regions.into(), args.nodes.into()).await?;
    let script =
        script::merge(&plan, &args.kill, &args.fail).map_err(|error| CliError::new(Exit::Usage, error))?;
    let folder = tempfile::Builder::new().prefix("meridian-demo-").tempdir()?;
    let key = folder.path().join("mesh.key");
    Keyring::generate().save(&key).map_err(anyhow::Error::from)?;

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut shops = BTreeMap::new();
    for region in &plan.regions {
        shops.insert(region.name, Backends::start(region.name, &region.backends).await?);
    }
    let mut fleet = Fleet::start(&plan, folder.path(), &key)?;
    let clock = Clock::system();
    let began = clock.now();
    let ready = tokio::select! {
        ready = make_ready(&plan, &mut fleet, &clock) => ready,
        _ = interrupt.recv() => Err(stopped()),
        _ = terminate.recv() => Err(stopped()),
    };
    if let Err(error) = ready {
        fleet.stop().await;
        return Err(error);
    }
    line(format_args!(
        "{} nodes in {} regions found each other and see all backends up after {:.1} s\n",
        plan.nodes().count(),
        plan.regions.len(),
        clock.now().duration_since(began).as_secs_f64()
    ));
    introduce(&plan, &fleet, args.lasts);

    let (orders, mut ordered) = mpsc::channel(16);
    let taking = tokio::spawn(control::listen(listener, plan.clone(), orders));
    let mut demo = Running {
        story: Story::new(plan.clone()),
        observer: Observer::start(plan.clone()),
        shoppers: Shoppers::start(&plan, SHOPPERS_PER_REGION, &clock),
        movable: 0,
        ready: clock.now(),
        plan,
        fleet,
        shops,
        clock,
    };
    let mut script = script.into_iter().peekable();
    let end = args.lasts.map(|lasts| demo.ready + lasts);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {
                let now = demo.clock.now();
                if end.is_some_and(|end| now >= end) {
                    break;
                }
                if let Some((_, order)) = script.next_if(|(at, _)| now >= demo.ready + *at) {
                    demo.obey(order).await?;
                }
                demo.reap();
            }
            () = demo.observer.changed() => demo.look(),
            Some(order) = ordered.recv() => demo.obey(order).await?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        }
    }
    taking.abort();
    let verdict = demo.conclude(args.lasts.is_some());
    line("stopping the nodes ...");
    demo.fleet.stop().await;
    line("nothing is left behind");
    Ok(verdict)
}

fn stopped() -> CliError {
    CliError::new(Exit::Failure, "stopped before the mesh was ready")
}

/// The first loopback network on which nothing is in the way of the plan. Its control port keeps other demos away.
async fn free_network(regions: usize, nodes: usize) -> Result<(TcpListener, Plan), CliError> {
    let mut obstacle = String::new();
    for network in NETWORKS {
        let plan = Plan::new(network, regions, nodes);
        match TcpListener::bind(plan.control_addr()).await {
            Ok(listener) => {
                let taken = plan.sockets().find(|addr| !is_free(*addr));
                match taken {
                    None => return Ok((listener, plan)),
                    Some(taken) => obstacle = format!("{taken} is in use"),
                }
            }
            Err(error) => obstacle = format!("{}: {error}", plan.control_addr()),
        }
    }
    let text = format!("no loopback network from 127.77.0.0/16 to 127.96.0.0/16 is free ({obstacle})");
    Err(CliError::new(Exit::Failure, text)
        .hint("the demo needs addresses of 127.0.0.0/8, as Linux has them; what else listens on them?"))
}

fn is_free(addr: SocketAddr) -> bool {
    std::net::TcpListener::bind(addr).is_ok() && std::net::UdpSocket::bind(addr).is_ok()
}

/// Waits until all nodes see each other, gives them a configuration, and waits until they see all backends up.
async fn make_ready(plan: &Plan, fleet: &mut Fleet, clock: &Clock) -> Result<(), CliError> {
    let limit = clock.now() + READY_PATIENCE;
    let count = plan.nodes().count();
    wait(plan, fleet, clock, limit, |status| {
        status.members.iter().filter(|member| member.state == "alive").count() == count
    })
    .await?;
    let first = &plan.regions[0].nodes[0];
    let body = Some(("application/toml", Bytes::from(plan.services_toml())));
    let answer = observe::client(first).send(Method::POST, "/v1/revisions", body, &[]).await?;
    let _: Applied = answer.success()?.parse()?;
    wait(plan, fleet, clock, limit, |status| {
        let spread = status.revision.as_ref().is_some_and(|revision| revision.nodes_on == count);
        let backends = || status.pools.iter().flat_map(|pool| &pool.backends);
        spread && backends().next().is_some() && backends().all(|backend| backend.state == "up")
    })
    .await
}

async fn wait(
    plan: &Plan,
    fleet: &mut Fleet,
    clock: &Clock,
    limit: Instant,
    holds: impl Fn(&Status) -> bool,
) -> Result<(), CliError> {
    for node in plan.nodes() {
        loop {
            if let Ok(status) = observe::client(node).json::<Status>(Method::GET, "/v1/status").await
                && holds(&status)
            {
                break;
            }
            if let Some((name, how)) = fleet.ended().into_iter().next() {
                let words = fleet.last_words(&name);
                return Err(CliError::new(
                    Exit::Failure,
                    format!("{name} ended by itself ({how}):\n{words}"),
                ));
            }
            if clock.now() >= limit {
                let words = fleet.last_words(&node.name);
                let text = format!("the mesh is not ready after 60 s; {} says:\n{words}", node.name);
                return Err(CliError::new(Exit::Timeout, text));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

fn introduce(plan: &Plan, fleet: &Fleet, lasts: Option<Duration>) {
    let nodes = plan.nodes().map(|node| {
        vec![
            node.name.clone(),
            node.region.to_owned(),
            node.at(HTTP_PORT).to_string(),
            node.at(ECHO_PORT).to_string(),
            node.at(DNS_PORT).to_string(),
            node.admin(),
            fleet.pid(node).to_string(),
        ]
    });
    table(&["node", "region", "shop (http)", "echo (tcp)", "dns", "admin (http)", "pid"], nodes);
    let first = &plan.regions[0].nodes[0];
    let last = &plan.regions[plan.regions.len() - 1];
    let (network, bits) = last.users();
    let program =
        std::env::current_exe().map_or_else(|_| "meridian".into(), |path| path.display().to_string());
    line(format_args!(
        "\nTry, from another terminal:
  a session       curl -s -c jar -b jar -H 'Host: {HOST}' http://{shop}/ ; repeat it: the same shop answers
  where users go  dig @{ip} -p {DNS_PORT} {HOST} +short +subnet={network}/{bits}   ({users})
  kill a node     kill -9 {pid}   ({name}; the session goes on over http://{other}/)
  fail a region   curl -X POST http://{control}/fail/{region}   (and /heal/{region})
  see it all      {program} status --node http://{admin}
{ending}\n",
        shop = first.at(HTTP_PORT),
        ip = first.ip,
        users = plan
            .regions
            .iter()
            .map(|region| format!("{}: {}", region.name, region.users().0))
            .collect::<Vec<_>>()
            .join(", "),
        pid = fleet.pid(first),
        name = first.name,
        other = plan.nodes().nth(1).unwrap_or(first).at(HTTP_PORT),
        control = plan.control_addr(),
        region = last.name,
        admin = first.admin(),
        ending = match lasts {
            Some(lasts) => format!("It ends by itself after {}.", humantime::format_duration(lasts)),
            None => "Ctrl-C stops everything and leaves nothing behind.".to_owned(),
        },
    ));
}

struct Running {
    plan: Plan,
    fleet: Fleet,
    shops: BTreeMap<&'static str, Backends>,
    story: Story,
    observer: Observer,
    shoppers: Shoppers,
    /// How many sessions had to move so far: their shops were taken down.
    movable: u64,
    ready: Instant,
    clock: Clock,
}

impl Running {
    fn tell(&self, text: impl std::fmt::Display) {
        let at = self.clock.now().saturating_duration_since(self.ready);
        line(format_args!("[{:5.1} s] {text}", at.as_secs_f64()));
    }

    async fn obey(&mut self, order: Order) -> Result<(), CliError> {
        match order {
            Order::Kill(name) if self.fleet.runs(&name) => {
                let at = self.clock.now();
                self.fleet.kill(&name).await?;
                self.tell(format_args!("{name} is killed (SIGKILL)"));
                self.story.struck(Blow::Kill(name), at);
                self.ask_the_living();
            }
            Order::Fail(region) => match self.shops.get(region.as_str()) {
                Some(shops) => {
                    if let Some(failing) = self.plan.region(&region) {
                        self.movable += self.shoppers.served_by(&failing.backends);
                    }
                    shops.set_running(false);
                    self.tell(format_args!("all backends of {region} go down"));
                    self.story.struck(Blow::Fail(region), self.clock.now());
                }
                None => self.tell(format_args!("there is no region {region}")),
            },
            Order::Heal(region) => {
                if let Some(shops) = self.shops.get(region.as_str()) {
                    shops.set_running(true);
                    self.story.healed(&region);
                    self.tell(format_args!("the backends of {region} are back"));
                }
            }
            Order::Kill(name) => self.tell(format_args!("there is no running node {name}")),
        }
        Ok(())
    }

    /// Takes note of nodes that ended.
    fn reap(&mut self) {
        let ended = self.fleet.ended();
        if !ended.is_empty() {
            for (name, how) in ended {
                self.tell(format_args!("{name} ended ({how})"));
                self.story.struck(Blow::Kill(name), self.clock.now());
            }
            self.ask_the_living();
        }
    }

    fn ask_the_living(&self) {
        let living = self.plan.nodes().filter(|node| self.fleet.runs(&node.name));
        self.observer.set_running(living.cloned().collect());
    }

    fn look(&mut self) {
        let now = self.clock.now();
        let lines = self.story.look(&self.observer.seen(), now);
        for text in lines {
            self.tell(text);
        }
    }

    /// Tells what the users met, and whether the mesh kept its promises.
    fn conclude(&self, judged: bool) -> ExitCode {
        let met = self.shoppers.met();
        line("");
        table(
            &["users of", "requests", "failed", "moved", "by second address", "last failure or move"],
            met.iter().map(|(region, met)| {
                vec![
                    (*region).to_owned(),
                    met.served.to_string(),
                    met.failed.to_string(),
                    met.moved.to_string(),
                    met.second_address.to_string(),
                    met.last_change.map_or_else(
                        || "-".to_owned(),
                        |at| format!("{:.1} s", at.saturating_duration_since(self.ready).as_secs_f64()),
                    ),
                ]
            }),
        );
        let failed: u64 = met.iter().map(|(_, met)| met.failed).sum();
        let moved: u64 = met.iter().map(|(_, met)| met.moved).sum();
        let mut broken = self.story.unfinished();
        if failed > 0 {
            let last = met.iter().find_map(|(_, met)| met.last_failure.clone()).unwrap_or_default();
            broken.push(format!("{failed} requests of users failed; the last: {last}"));
        }
        // The users that a failed region's shops served move once; nobody else does.
        if moved > self.movable {
            broken.push(format!("{moved} sessions moved, at most {} had to", self.movable));
        }
        line("");
        for text in &broken {
            line(format_args!("broken: {text}"));
        }
        match (broken.is_empty(), judged) {
            (true, _) => {
                line("every promise was kept: no request failed, and no session moved without cause");
                ExitCode::SUCCESS
            }
            (false, true) => ExitCode::from(Exit::Failure as u8),
            (false, false) => ExitCode::SUCCESS,
        }
    }
}
