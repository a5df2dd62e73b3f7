//! A pool grows by itself when ten times as many users come, and shrinks when they have gone; one node decides, another
//! goes on when it dies, and no request fails. Plain processes, started and stopped by what `exec` says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use tests::cli::code;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::{Load, Regular};
use tests::net::HTTP;
use tests::process::Process;
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::stage::Stage;
use tests::wait::{eventually, secs};

const GROWS: Duration = Duration::from_secs(15);
/// How long the program of the node that dies takes: longer than another node needs to be allowed to act.
const ACTS: u32 = 8;

/// A decision, as the program gets it.
#[derive(Debug, Deserialize)]
struct Decision {
    number: u64,
    action: String,
    count: usize,
    place: Vec<Place>,
    backends: Vec<Target>,
    why: serde_json::Value,
    by: String,
}

/// Where a new backend is best placed.
#[derive(Debug, Deserialize)]
struct Place {
    rack: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Target {
    address: String,
}

/// Starts and stops what decisions ask for.
struct Machines<'a> {
    stage: &'a Stage,
    /// The node that processes register with.
    node: SocketAddr,
    inbox: PathBuf,
    running: BTreeMap<SocketAddr, Process>,
    stopping: Vec<Process>,
    numbers: BTreeSet<u64>,
    started: usize,
    /// Who decided, and in which rack each was started.
    actors: BTreeSet<String>,
    racks: Vec<Option<String>>,
}

impl<'a> Machines<'a> {
    fn new(stage: &'a Stage, node: SocketAddr, inbox: PathBuf) -> Self {
        let (running, stopping, numbers, actors, racks) = Default::default();
        Self { stage, node, inbox, running, stopping, numbers, started: 0, actors, racks }
    }

    fn start_one(&mut self, place: &Place) -> Result<()> {
        let address = SocketAddr::from((self.stage.net.backend(self.started), HTTP + 1));
        self.started += 1;
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let origin = env!("CARGO_BIN_EXE_origin");
        let mut args = vec!["run", "--pool", "web", "--address", &ip, "--port", &port];
        args.extend(place.rack.iter().flat_map(|rack| ["--rack", rack]));
        args.extend(["--", origin]);
        self.racks.push(place.rack.clone());
        let mut command = self.stage.cli().command(&args);
        command.env("MERIDIAN_NODE", format!("http://{}", self.node));
        command.env("ADDRESS", address.to_string()).env("NAME", &ip).env("DELAY_MS", "100");
        let log = self.stage.folder().join(format!("run-{ip}.log"));
        self.running.insert(address, Process::spawn(&format!("run {ip}"), command, &log)?);
        Ok(())
    }

    /// Does what has been decided since the last time.
    fn obey(&mut self) -> Result<()> {
        for entry in std::fs::read_dir(&self.inbox)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let decision: Decision = serde_json::from_slice(&std::fs::read(&path)?)?;
            std::fs::remove_file(&path)?;
            eprintln!(
                "decision {}: {} {}, {}",
                decision.number, decision.action, decision.count, decision.why
            );
            ensure!(self.numbers.insert(decision.number), "{decision:?} came twice");
            self.actors.insert(decision.by);
            if decision.action == "add" {
                ensure!(decision.place.len() == decision.count, "a place each: {:?}", decision.place);
                decision.place.iter().try_for_each(|place| self.start_one(place))?;
            }
            for target in decision.backends {
                let address = target.address.parse()?;
                let mut process = self.running.remove(&address).context("an unknown backend is stopped")?;
                process.signal(Signal::TERM)?;
                self.stopping.push(process);
            }
        }
        Ok(())
    }
}

/// Notes that it has begun, and hands on what was decided some seconds later.
fn program(folder: &Path, seconds: u32) -> Result<String> {
    let script = format!(
        "cat > \"$1/$$.new\" && touch \"$1/begun\" && sleep {seconds} && mv \"$1/$$.new\" \"$1/$$.json\"\n"
    );
    let path = folder.join("decided.sh");
    std::fs::write(&path, script)?;
    Ok(path.display().to_string())
}

/// So many backends take requests, as a node sees it; meanwhile decisions are obeyed.
async fn has(
    mesh: &Cluster<'_>,
    node: &str,
    machines: &mut Machines<'_>,
    count: usize,
    within: Duration,
) -> Result<()> {
    let cli = mesh.node(node).cli();
    eventually(&format!("the pool has {count} backends"), within, async || {
        machines.obey()?;
        let status = cli.status().await?;
        let backends = &status.pools.first().context("no pool")?.backends;
        let up = backends.iter().filter(|backend| backend.state == "up").count();
        ensure!(up == count && backends.len() == count, "{up} of {} are up", backends.len());
        Ok(())
    })
    .await
}

#[derive(Debug, Deserialize)]
struct Scale {
    actor: Option<String>,
    unable: BTreeMap<String, String>,
}

/// Whose turn it is to act as soon as a node sees it so, and all it sees.
async fn turns_as(
    mesh: &Cluster<'_>,
    node: &str,
    wanted: impl Fn(&Scale) -> bool,
) -> Result<(String, Scale)> {
    eventually("it is somebody's turn", secs(20), async || {
        let said = mesh.node(node).cli().expect(code::OK, &["scale", "-o", "json"]).await?;
        let scales: Vec<Scale> = serde_json::from_str(&said.stdout)?;
        let scale = scales.into_iter().next().context("no pool scales")?;
        ensure!(wanted(&scale), "{scale:?}");
        Ok((scale.actor.clone().context("nobody's turn")?, scale))
    })
    .await
}

/// Whose turn it is to act, and the other nodes.
async fn turns(mesh: &Cluster<'_>) -> Result<(String, Vec<String>)> {
    let (actor, _) = turns_as(mesh, "eu-2", |_| true).await?;
    let names = mesh.nodes.iter().map(|node| node.name.clone());
    let others = names.filter(|name| *name != actor).collect();
    Ok((actor, others))
}

/// So many users, of these nodes in turn.
fn users(mesh: &Cluster<'_>, nodes: &[String], count: usize) -> Load<Regular> {
    let targets: Vec<SocketAddr> = nodes.iter().map(|name| mesh.node(name).http()).collect();
    let users = (0..count).map(|n| Regular::new(Browser::new(), targets[n % targets.len()]));
    Load::start(users.collect::<Vec<_>>())
}

#[test]
fn a_pool_follows_ten_times_the_load_and_back() {
    prove!(Heavy, secs(240), async |stage| {
        let inbox = stage.folder().join("inbox");
        std::fs::create_dir(&inbox)?;
        let mut mesh = Cluster::of(stage, &[("eu", 3)]).await?;
        let pool = format!(
            "[pool.web]\n{HTTP_CHECK}\nlease = {{ ttl = \"5s\" }}\ndrain = \"10s\"\n\
             scale = {{ min = 2, max = 8, target = {{ in_flight = 5 }}, cooldown = \"10s\", \
             via = {{ exec = [\"/bin/sh\", \"{}\", \"{}\"] }} }}",
            program(stage.folder(), 0)?,
            inbox.display()
        );
        let services = Services::new().http_listener().service("web", "web = 1", "").and(pool);
        mesh.apply("eu-1", &services).await?;
        let (actor, others) = turns(&mesh).await?;
        let mut machines = Machines::new(stage, mesh.node(&others[0]).admin(), inbox);

        // An empty pool is filled to its least.
        has(&mesh, &others[0], &mut machines, 2, secs(40)).await?;
        let few = users(&mesh, &others, 4);
        few.progress(100).await?;
        ensure!(machines.started == 2, "a load that two carry needs no third");

        let many = users(&mesh, &others, 36);
        has(&mesh, &others[0], &mut machines, 8, GROWS).await?;
        many.progress(400).await?;

        // Who decided dies; another goes on.
        many.stop().await?.1.must_be_clean()?;
        mesh.node_mut(&actor).kill().await?;
        has(&mesh, &others[1], &mut machines, 2, secs(90)).await?;
        few.progress(100).await?;
        few.stop().await?.1.must_be_clean()?;
        for process in &mut machines.stopping {
            let ended = process.exit(secs(30)).await?;
            ensure!(ended.success(), "a process ends with {ended}");
        }
        ensure!(machines.started == 8, "{} were started", machines.started);
        let events = mesh.node(&others[1]).log();
        ensure!(events.contains("in_flight is"), "the numbers are told");
        Ok(())
    });
}

/// The node that acts is killed while its program runs. The program goes on, and nobody starts a second time what it starts;
/// what is to be done after that another node does. New backends go to the emptiest rack.
#[test]
fn one_dies_in_the_act_and_no_backend_is_started_twice() {
    prove!(Heavy, secs(240), async |stage| {
        let inbox = stage.folder().join("inbox");
        std::fs::create_dir(&inbox)?;
        let mut mesh = Cluster::of(stage, &[("eu", 3)]).await?;
        // Three backends of the operator's: two in rack a, one in b.
        let own = tests::backend::http_backends(&stage.net, &[("eu", 3)]).await?;
        for backend in &own {
            backend.set_delay(Duration::from_millis(100));
        }
        let entries = own.iter().zip(["a", "a", "b"]).map(|(backend, rack)| {
            format!("{{ address = \"{}\", region = \"eu\", rack = \"{rack}\" }}", backend.address())
        });
        let pool = format!(
            "[pool.web]\n{HTTP_CHECK}\nbackend = [{}]\nlease = {{ ttl = \"5s\" }}\ndrain = \"10s\"\n\
             scale = {{ min = 3, max = 6, target = {{ in_flight = 5 }}, cooldown = \"10s\", \
             via = {{ exec = [\"/bin/sh\", \"{}\", \"{}\"] }} }}",
            entries.collect::<Vec<_>>().join(", "),
            program(stage.folder(), ACTS)?,
            inbox.display()
        );
        let services = Services::new().http_listener().service("web", "web = 1", "").and(pool);
        mesh.apply("eu-1", &services).await?;
        let (actor, others) = turns(&mesh).await?;
        let mut machines = Machines::new(stage, mesh.node(&others[0]).admin(), inbox.clone());
        // The addresses of the first three are the operator's.
        machines.started = own.len();
        has(&mesh, &others[0], &mut machines, 3, secs(30)).await?;

        let many = users(&mesh, &others, 40);
        eventually("the program has begun", GROWS, async || {
            ensure!(inbox.join("begun").exists(), "not yet");
            Ok(())
        })
        .await?;
        mesh.node_mut(&actor).kill().await?;
        has(&mesh, &others[0], &mut machines, 6, secs(60)).await?;
        many.progress(400).await?;
        ensure!(machines.actors == [actor.clone()].into(), "{:?} acted", machines.actors);
        let racks: Vec<&str> = machines.racks.iter().flatten().map(String::as_str).collect();
        ensure!(racks == ["b", "a", "b"], "started in {racks:?}");
        many.stop().await?.1.must_be_clean()?;

        // What was started goes again, by another node's decision; what the file says stays.
        has(&mesh, &others[1], &mut machines, 3, secs(90)).await?;
        ensure!(machines.started == 6, "{} were started", machines.started - 3);
        let heirs: Vec<&String> = machines.actors.iter().filter(|by| **by != actor).collect();
        ensure!(heirs.len() == 1, "{:?} acted", machines.actors);
        for process in &mut machines.stopping {
            process.exit(secs(30)).await?;
        }
        Ok(())
    });
}

/// Of three nodes one may not run the program, and on one it fails: the third acts. Who cannot, and why, is told; and when
/// nobody can, that is a problem.
#[test]
fn the_turn_passes_to_a_node_that_can_act() {
    prove!(Heavy, secs(240), async |stage| {
        let inbox = stage.folder().join("inbox");
        std::fs::create_dir(&inbox)?;
        let mut mesh = Cluster::of(stage, &[("eu", 3)]).await?;
        let own = tests::backend::http_backends(&stage.net, &[("eu", 2)]).await?;
        let entries: Vec<String> = own
            .iter()
            .map(|backend| format!("{{ address = \"{}\", region = \"eu\" }}", backend.address()))
            .collect();
        let pool = |program: &str, most: u32| {
            let pool = format!(
                "[pool.web]\n{HTTP_CHECK}\nbackend = [{}]\nlease = {{ ttl = \"5s\" }}\ndrain = \"10s\"\n\
                 scale = {{ min = {most}, max = {most}, target = {{ in_flight = 5 }}, cooldown = \"10s\", \
                 via = {{ exec = [\"{program}\", \"{}\", \"{}\"] }} }}",
                entries.join(", "),
                stage.folder().join("decided.sh").display(),
                inbox.display()
            );
            Services::new().http_listener().service("web", "web = 1", "").and(pool)
        };
        mesh.apply("eu-1", &pool("/bin/sh", 2)).await?;
        let (first, others) = turns(&mesh).await?;
        mesh.node_mut(&first).stop(secs(70)).await?;
        let (second, _) = turns_as(&mesh, &others[0], |scale| scale.actor.as_ref() != Some(&first)).await?;
        let third = others.iter().find(|name| **name != second).context("a third node")?.clone();

        // The first comes back without leave to run the program; on the second it fails.
        let node = mesh.node_mut(&first);
        let command = node.command()?;
        let file = std::fs::read_to_string(node.file())?;
        std::fs::write(node.file(), file.replace("scale_exec = [\"/bin/sh\"]\n", ""))?;
        node.launch_as(command)?;
        node.ready().await?;
        let script = format!(
            "cat > \"$1/$$.new\"\n\
             if grep -q '\"by\":\"{second}\"' \"$1/$$.new\"; then echo out of order >&2; exit 7; fi\n\
             mv \"$1/$$.new\" \"$1/$$.json\"\n"
        );
        std::fs::write(stage.folder().join("decided.sh"), script)?;

        mesh.apply(&third, &pool("/bin/sh", 4)).await?;
        let mut machines = Machines::new(stage, mesh.node(&third).admin(), inbox.clone());
        // The addresses of the first two are the operator's.
        machines.started = own.len();
        has(&mesh, &third, &mut machines, 4, secs(90)).await?;
        ensure!(machines.actors == [third.clone()].into(), "{:?} acted", machines.actors);
        ensure!(machines.started == 4, "{} were started", machines.started - 2);
        let (_, scale) = turns_as(&mesh, &third, |scale| scale.unable.contains_key(&first)).await?;
        ensure!(scale.unable[&first].contains("scale_exec"), "{scale:?}");
        let log = mesh.node(&third).log();
        for said in ["out of order", "rests for 15 s", &format!("the turn goes from {second} to {third}")] {
            ensure!(log.contains(said), "{third} has not heard: {said}");
        }

        // What no node may run is a problem, and nothing is done.
        mesh.apply(&third, &pool("/bin/true", 6)).await?;
        let cli = mesh.node(&third).cli();
        eventually("that nobody can act is told", secs(20), async || {
            cli.expect(code::OK, &["scale"]).await?.must_say("no node can act")?;
            let would = cli.expect(code::OK, &["scale", "web", "--dry-run"]).await?;
            would.must_say(
                "nothing would be done: no node can act: eu-1, eu-2, eu-3: may not run /bin/true",
            )?;
            let problems = cli.status().await?.problems;
            let told = problems.iter().any(|it| it.contains("pool web cannot scale: no node can act"));
            ensure!(told, "{problems:?}");
            Ok(())
        })
        .await?;
        machines.obey()?;
        ensure!(machines.started == 4, "{} were started", machines.started - 2);
        machines.running.values_mut().try_for_each(|process| process.signal(Signal::TERM))
    });
}

/// With `dry_run` the mesh says once what it would do, with the numbers, and does nothing; so does the command.
#[test]
fn a_rehearsal_tells_and_changes_nothing() {
    prove!(Heavy, secs(120), async |stage| {
        let inbox = stage.folder().join("inbox");
        std::fs::create_dir(&inbox)?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let own = tests::backend::http_backends(&stage.net, &[("eu", 2)]).await?;
        let entries = own.iter().map(|backend| {
            backend.set_delay(Duration::from_millis(100));
            format!("{{ address = \"{}\", region = \"eu\" }}", backend.address())
        });
        let pool = format!(
            "[pool.web]\n{HTTP_CHECK}\nbackend = [{}]\nlease = {{ ttl = \"5s\" }}\n\
             scale = {{ min = 2, max = 6, target = {{ in_flight = 2 }}, cooldown = \"5s\", dry_run = true, \
             via = {{ exec = [\"/bin/sh\", \"{}\", \"{}\"] }} }}",
            entries.collect::<Vec<_>>().join(", "),
            program(stage.folder(), 0)?,
            inbox.display()
        );
        let services = Services::new().http_listener().service("web", "web = 1", "").and(pool);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let names: Vec<String> = mesh.nodes.iter().map(|node| node.name.clone()).collect();
        let load = users(&mesh, &names, 24);
        let cli = mesh.node("eu-1").cli();
        let would = "would add 4, 2 to 6";
        eventually("both say what they would do", secs(30), async || {
            let said = cli.expect(code::OK, &["scale", "web", "--dry-run"]).await?;
            said.must_say(would)?;
            said.must_say("in_flight is")?;
            for name in &names {
                ensure!(mesh.node(name).log().contains(would), "{name} has heard of no decision");
            }
            Ok(())
        })
        .await?;
        // Longer than any wait between two decisions.
        let began = load.done();
        while load.done() < began + 3_000 {
            load.progress(100).await?;
        }
        for name in &names {
            let told = mesh.node(name).log().matches(would).count();
            ensure!(told == 1, "{name} has told it {told} times");
        }
        ensure!(std::fs::read_dir(&inbox)?.next().is_none(), "a program ran");
        let status = cli.status().await?;
        ensure!(status.pools[0].backends.len() == 2, "{:?}", status.pools[0].backends);
        load.stop().await?.1.must_be_clean()
    });
}
