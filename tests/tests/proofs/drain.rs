//! An operator takes a node, a backend or a region out of service and nobody is cut off.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;
use tests::backend::http_backends;
use tests::cli::{Cli, code};
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::dns::resolve;
use tests::load::all_visit;
use tests::process::Process;
use tests::prove;
use tests::services::{NAME, Services, users_of};
use tests::stage::Stage;
use tests::wait::{eventually, secs};

const SPREADS: Duration = Duration::from_secs(15);

async fn told(mesh: &Cluster<'_>, what: &str, from: &str, to: &[std::net::Ipv4Addr]) -> Result<()> {
    for server in mesh.running() {
        eventually(&format!("{} {what}", server.name), SPREADS, async || {
            resolve(server.dns(), NAME, users_of(from)).await?.only(to)
        })
        .await?;
    }
    Ok(())
}

#[test]
fn what_is_drained_keeps_its_users_and_gets_no_new_ones() {
    prove!(Heavy, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2), ("us", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        let services = Services::shop(&stage.net, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let (a, b) = (mesh.node("eu-1").address, mesh.node("eu-2").address);
        let (http, cli) = (mesh.node("eu-1").http(), mesh.node("us-1").cli());
        let mut users: Vec<Browser> = (0..40).map(|_| Browser::new().closing()).collect();
        let first = all_visit(&mut users, http, 8).await?;

        // A node, by order of another: it leaves the answers, serves on, and comes back.
        cli.expect(code::OK, &["drain", "node", "eu-1"]).await?;
        mesh.each_sees("eu-1 drains", SPREADS, |status| {
            let state = &status.member("eu-1")?.state;
            ensure!(state == "draining", "eu-1 is {state}");
            Ok(())
        })
        .await?;
        told(&mesh, "no longer names eu-1", "eu", &[b]).await?;
        let passer_by = Browser::new().visit(http).await?;
        cli.expect(code::OK, &["undrain", "node", "eu-1"]).await?;
        mesh.agree().await?;
        eventually("eu-1 is named again", SPREADS, async || {
            let answer = resolve(mesh.node("eu-2").dns(), NAME, users_of("eu")).await?;
            ensure!(answer.names(a), "{:?}", answer.addresses);
            Ok(())
        })
        .await?;

        // A backend: its sessions stay, new ones go elsewhere, and a new revision does not undo it.
        let drained = &backends[0];
        let all = first.iter().chain([&passer_by]);
        let met = all.filter(|seen| seen.backend == drained.id()).count() as u64;
        let said = cli.expect(code::OK, &["drain", "backend", &drained.address().to_string()]).await?;
        said.must_say(&format!("sessions left there: {met}"))?;
        mesh.apply("eu-2", &services.and("# something else")).await?;
        mesh.each_sees("the backend drains", SPREADS, |status| {
            let state = &status.backend(drained.address())?.state;
            ensure!(state == "draining", "it is {state}");
            let left = status.backend(drained.address())?.sessions;
            ensure!(left == met, "{left} sessions are left, not {met}");
            Ok(())
        })
        .await?;
        let again = all_visit(&mut users, http, 8).await?;
        let moved = first.iter().zip(&again).filter(|(was, is)| was.backend != is.backend).count();
        ensure!(moved == 0, "{moved} sessions moved off a draining backend");
        let mut new: Vec<Browser> = (0..30).map(|_| Browser::new()).collect();
        let seen = all_visit(&mut new, http, 8).await?;
        ensure!(seen.iter().all(|seen| seen.backend != drained.id()), "a draining backend got a new session");
        cli.expect(code::OK, &["undrain", "backend", &drained.address().to_string()]).await?;
        mesh.healthy().await?;

        // A region: its users are sent to the next.
        cli.expect(code::OK, &["drain", "region", "eu"]).await?;
        told(&mesh, "sends users of eu to us", "eu", &mesh.addresses("us")).await?;
        cli.expect(code::OK, &["undrain", "region", "eu"]).await?;
        told(&mesh, "sends users of eu to eu", "eu", &[a, b]).await?;

        let unknown = cli.run(&["drain", "node", "eu-9"]).await?;
        ensure!(unknown.code == code::FAILURE, "{}: {}", unknown.code, unknown.said());
        unknown.must_say("eu-9")
    });
}

/// Ctrl-C ends the waiting with an exit code of its own. The drain goes on, with the deadline that it has.
async fn broken_off(stage: &Stage, cli: &Cli, backend: &str) -> Result<()> {
    let order = ["drain", "backend", backend, "--wait", "--deadline", "1h"];
    let mut waiting = Process::spawn("drain", cli.command(&order), &stage.folder().join("drain.log"))?;
    eventually("it says what is left", SPREADS, async || {
        waiting.must_run()?;
        ensure!(waiting.log().contains("sessions left: 40"), "{}", waiting.log());
        Ok(())
    })
    .await?;
    waiting.signal(Signal::INT)?;
    let ended = waiting.exit(SPREADS).await?;
    ensure!(ended.code() == Some(code::INTERRUPTED), "it ends with {ended}:\n{}", waiting.log());
    ensure!(waiting.log().contains("the drain goes on"), "{}", waiting.log());
    cli.expect(code::OK, &["drain", "backend", backend]).await?.must_say("as ordered before")?;
    let off = cli.expect(code::OK, &["drain", "backend", backend, "--no-deadline"]).await?;
    ensure!(!off.said().contains("as ordered before"), "{}", off.said());
    Ok(())
}

#[test]
fn who_drains_is_told_when_the_last_session_has_gone() {
    prove!(Heavy, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let mut users: Vec<Browser> = (0..40).map(|_| Browser::new().closing()).collect();
        let first = all_visit(&mut users, mesh.node("eu-1").http(), 8).await?;
        let drained = &backends[0];
        let address = drained.address().to_string();
        let met = first.iter().filter(|seen| seen.backend == drained.id()).count();
        ensure!(met > 5, "only {met} sessions are on {}", drained.id());

        let cli = mesh.node("eu-2").cli();
        let order = cli.command(&["drain", "backend", &address, "--wait"]);
        let mut waiting = Process::spawn("drain", order, &stage.folder().join("wait.log"))?;
        eventually("it says what is left", SPREADS, async || {
            waiting.must_run()?;
            ensure!(waiting.log().contains(&format!("sessions left: {met}")), "{}", waiting.log());
            Ok(())
        })
        .await?;
        mesh.each_sees("the backend drains", SPREADS, |status| {
            let backend = status.backend(drained.address())?;
            ensure!(backend.state == "draining" && backend.sessions == met as u64, "{backend:?}");
            Ok(())
        })
        .await?;
        let ended = mesh.node("eu-1").cli().end_sessions(&["--backend", &address]).await?;
        ensure!(ended.sessions == met as u64, "{ended:?}");
        let ran = waiting.exit(SPREADS).await?;
        ensure!(ran.code() == Some(code::OK), "it ends with {ran}:\n{}", waiting.log());
        ensure!(waiting.log().contains("no session is left there"), "{}", waiting.log());
        // Those users are served elsewhere now, as new ones.
        let again = all_visit(&mut users, mesh.node("eu-1").http(), 8).await?;
        ensure!(again.iter().all(|seen| seen.backend != drained.id()), "a draining backend got a session");

        // With a deadline it ends when that has passed: those who are left move when they come.
        cli.expect(code::OK, &["undrain", "backend", &address]).await?;
        mesh.healthy().await?;
        let other = backends[1].address().to_string();
        let http = mesh.node("eu-1").http();
        broken_off(stage, &cli, &other).await?;

        // What is in flight when the deadline passes is told, with an exit code that stops a script.
        backends[1].set_delay(secs(60));
        let mut slow = users[0].twin();
        let draining = async {
            mesh.each_sees("a request is in flight", SPREADS, |status| {
                let in_flight = status.backend(backends[1].address())?.in_flight;
                ensure!(in_flight == 1, "{in_flight} are in flight");
                Ok(())
            })
            .await?;
            cli.expect(code::TIMEOUT, &["drain", "backend", &other, "--wait", "--deadline", "1s"]).await
        };
        let ran = tokio::select! {
            ran = draining => ran?,
            visited = slow.visit(http) => bail!("it was served: {visited:?}"),
        };
        ran.must_say("still in flight")?;
        drop(slow);
        backends[1].set_delay(Duration::ZERO);
        mesh.each_sees("nothing is in flight", SPREADS, |status| {
            let in_flight = status.backend(backends[1].address())?.in_flight;
            ensure!(in_flight == 0, "{in_flight} are in flight");
            Ok(())
        })
        .await?;
        cli.expect(code::OK, &["undrain", "backend", &other]).await?;
        mesh.healthy().await?;

        let ran = cli.expect(code::OK, &["drain", "backend", &other, "--wait", "--deadline", "2s"]).await?;
        ran.must_say("the deadline has passed: 40 sessions")?;
        let moved = all_visit(&mut users, mesh.node("eu-1").http(), 8).await?;
        ensure!(
            moved.iter().all(|seen| seen.backend == drained.id()),
            "a session stayed beyond the deadline"
        );
        cli.expect(code::USAGE, &["drain", "node", "eu-1", "--wait"]).await.map(drop)
    });
}
