//! An operator ends sessions: of one user, of a backend, of a service. Whoever comes again begins anew, whichever node is
//! asked, and nothing brings an ended session back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tests::backend::{http_backends, tcp_backends};
use tests::cli::code;
use tests::client::{Browser, TcpTalk};
use tests::cluster::Cluster;
use tests::load::all_visit;
use tests::prove;
use tests::services::{COOKIE, Entry, STICKY_SOURCE, Services, TCP_CHECK};
use tests::wait::{eventually, secs};

/// Visits once more: the backend, and whether it was the beginning of another session.
async fn comes_again(user: &mut Browser, target: SocketAddr) -> Result<(String, bool)> {
    let reply = user.get(target, "/").await?;
    Ok((reply.seen()?.backend, reply.set_cookie(COOKIE).is_some()))
}

#[test]
fn users_whose_sessions_were_ended_begin_anew_on_every_node() {
    prove!(Heavy, secs(180), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 3), ("us", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let targets: Vec<SocketAddr> = mesh.nodes.iter().map(|node| node.http()).collect();
        let cli = mesh.node("us-1").cli();

        // One user, by id: any node takes the order, and each has it when the answer is there.
        let mut user = Browser::new().closing();
        user.visit(targets[0]).await?;
        let id = cli.has_sessions(1).await?.sessions[0].id.clone();
        ensure!(!comes_again(&mut user.twin(), targets[1]).await?.1, "the session was not kept");
        let ended = cli.end_sessions(&[&id]).await?;
        ensure!(ended.sessions == 1 && ended.silent.is_empty(), "{ended:?}");
        for target in &targets {
            let mut tab = user.twin();
            let (backend, anew) = comes_again(&mut tab, *target).await?;
            ensure!(anew, "the ended session goes on at {target}");
            let again = comes_again(&mut tab, targets[2]).await?;
            ensure!(again == (backend, false), "the new session does not hold");
        }
        eventually("its record says so", secs(10), async || {
            mesh.node("eu-3").cli().expect(code::OK, &["sessions", &id]).await?.must_say("ended")
        })
        .await?;
        let again = cli.end_sessions(&[&id]).await?;
        ensure!(again.sessions == 0, "{again:?}");

        // Who was away when it was given hears of it.
        mesh.node_mut("eu-2").kill().await?;
        mesh.node("eu-2").wipe_store()?;
        mesh.node_mut("eu-2").start().await?;
        mesh.agree().await?;
        mesh.accept(targets[1].port()).await?;
        eventually("a node that lost its store knows the end", secs(10), async || {
            ensure!(comes_again(&mut user.twin(), targets[1]).await?.1, "the ended session goes on");
            Ok(())
        })
        .await?;

        // All of a service: those of before are gone, and only those.
        let cli = mesh.node("eu-3").cli();
        eventually("the node that came back is refilled", secs(30), async || {
            ensure!(cli.consistency().await?.agree, "not all replicas agree");
            Ok(())
        })
        .await?;
        let before = cli.sessions().await?.count();
        let ended = cli.end_sessions(&["--service", "web"]).await?;
        ensure!(before >= 5 && ended.sessions == before, "{ended:?} of {before}");
        cli.has_sessions(0).await?;
        let mut users: Vec<Browser> = (0..90).map(|_| Browser::new().closing()).collect();
        let first = all_visit(&mut users, targets[0], 8).await?;
        cli.has_sessions(90).await?;

        // All of one backend.
        let closed = &backends[0];
        let met = first.iter().filter(|seen| seen.backend == closed.id()).count() as u64;
        ensure!(met > 5, "only {met} of 90 are on {}", closed.id());
        let address = closed.address().to_string();
        let ended = cli.end_sessions(&["--backend", &address, "--pool", "web-v1"]).await?;
        ensure!(ended.sessions == met, "{ended:?}, not {met}");
        let mut stay = BTreeMap::<String, u64>::new();
        for (at, (user, was)) in users.iter_mut().zip(&first).enumerate() {
            let (backend, anew) = comes_again(user, targets[at % targets.len()]).await?;
            let ended = was.backend == closed.id();
            ensure!(anew == ended, "a session of {} begins anew: {anew}", was.backend);
            ensure!(ended || backend == was.backend, "moved from {} to {backend}", was.backend);
            *stay.entry(backend).or_default() += 1;
        }
        let listed = cli.has_sessions(90).await?;
        for backend in &backends {
            let (is, shown) =
                (stay.get(backend.id()).copied().unwrap_or_default(), listed.on(backend.address()));
            ensure!(is == shown, "{is} sessions are on {}, and {shown} are shown", backend.id());
        }

        cli.expect(code::USAGE, &["sessions", "end"]).await?;
        cli.expect(code::USAGE, &["sessions", "end", "--service", "web", "--pool", "web-v1"]).await?;
        cli.expect(code::FAILURE, &["sessions", "end", "--service", "shop"])
            .await?
            .must_say("there is web")?;
        cli.expect(code::FAILURE, &["sessions", "end", &"0".repeat(32)]).await?.must_say("no node holds")
    });
}

#[test]
fn users_known_by_address_begin_anew_too() {
    prove!(Heavy, secs(90), async |stage| {
        let backends = tcp_backends(&stage.net, 0, &[("eu", 3)], false).await?;
        let mesh = Cluster::of(stage, &[("eu", 3)]).await?;
        let services = |weights: [u32; 3]| {
            let entries =
                backends.iter().zip(weights).map(|(backend, weight)| Entry { weight, ..backend.into() });
            let services = Services::new().tcp_listener("cart").service("cart", "cart = 1", STICKY_SOURCE);
            services.pool("cart", TCP_CHECK, entries)
        };
        mesh.apply("eu-1", &services([100, 100, 1])).await?;
        mesh.healthy().await?;
        let (a, b) = (mesh.node("eu-1").tcp(), mesh.node("eu-2").tcp());
        let mut first = Vec::new();
        for user in 0..60 {
            first.push(TcpTalk::open(stage.net.user(user), a).await?.backend);
        }
        let on_last = |served: &[String]| served.iter().filter(|served| *served == backends[2].id()).count();
        ensure!(on_last(&first) < 20, "{first:?}");

        mesh.apply("eu-1", &services([1, 1, 1000])).await?;
        let cli = mesh.node("eu-3").cli();
        // Who waited for the listeners came from an address of its own.
        cli.has_sessions(61).await?;
        // Who asks for a client's sessions by its address finds that client's alone.
        let client = stage.net.user(7).to_string();
        let found = cli.expect(code::OK, &["sessions", "--client", &client, "-o", "json"]).await?;
        let found: serde_json::Value = serde_json::from_str(&found.stdout)?;
        ensure!(found["sessions"].as_array().is_some_and(|sessions| sessions.len() == 1), "{found}");
        let (of, session) = (&found["sessions"][0]["service"], &found["sessions"][0]["session"]);
        let is = session["backend"].as_str().unwrap_or_default();
        let was = backends.iter().find(|backend| backend.id() == first[7]).context("the user's backend")?;
        ensure!(*of == "cart" && is == format!("cart/{}", was.address()), "{found}");
        let nobody = cli.expect(code::OK, &["sessions", "--client", "192.0.2.77"]).await?;
        nobody.must_say("no session of 192.0.2.77")?;
        let ended = cli.end_sessions(&["--service", "cart"]).await?;
        ensure!(ended.sessions == 61, "{ended:?}");
        let mut again = Vec::new();
        for user in 0..60 {
            again.push(TcpTalk::open(stage.net.user(user), b).await?.backend);
        }
        ensure!(on_last(&again) > 40, "the weights of today count for new sessions: {again:?}");
        cli.has_sessions(60).await?;
        for (user, was) in again.iter().enumerate() {
            let is = TcpTalk::open(stage.net.user(user), a).await.context("a third visit")?.backend;
            ensure!(is == *was, "the new session of {user} moved from {was} to {is}");
        }
        Ok(())
    });
}
