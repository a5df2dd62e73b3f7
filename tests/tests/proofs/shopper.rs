//! A user's session stays on its backend when the node dies, when the user turns up in another region, and when
//! every store is lost.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tests::backend::{Seen, http_backends, tcp_backends};
use tests::client::{Browser, TcpTalk, Trouble};
use tests::cluster::Cluster;
use tests::load::{Load, User, all_visit};
use tests::prove;
use tests::services::{Entry, STICKY_SOURCE, Services, TCP_CHECK};
use tests::stage::Stage;
use tests::wait::secs;

const AT_ONCE: usize = 32;

/// One who insists on the backend first met, and takes the next address when one does not answer.
struct Loyal {
    browser: Browser,
    addresses: Vec<SocketAddr>,
    backend: String,
}

impl User for Loyal {
    async fn act(&mut self) -> Result<()> {
        let reply = loop {
            let target = *self.addresses.first().context("no address answers")?;
            match self.browser.get(target, "/").await {
                Ok(reply) => break reply,
                Err(Trouble::Request(error)) => return Err(error.into()),
                Err(_) => self.addresses.remove(0),
            };
        };
        let seen = reply.seen()?;
        ensure!(seen.backend == self.backend, "moved from {} to {}", self.backend, seen.backend);
        Ok(())
    }
}

/// All sessions again, through another node: how many were answered by another backend must be none.
async fn none_moved(users: &mut [Browser], first: &[Seen], through: SocketAddr) -> Result<()> {
    let again = all_visit(users, through, AT_ONCE).await?;
    let moved = first.iter().zip(&again).filter(|(was, is)| was.backend != is.backend).count();
    ensure!(moved == 0, "{moved} of {} sessions moved through {through}", first.len());
    Ok(())
}

#[test]
fn a_thousand_sessions_outlive_their_node_their_region_and_every_store() {
    prove!(Heavy, secs(240), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3), ("us", 2), ("ap", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2), ("us", 2), ("ap", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (a, b, far) = (mesh.node("eu-1").http(), mesh.node("eu-2").http(), mesh.node("us-1").http());

        let mut users: Vec<Browser> =
            (0..1000).map(|index| Browser::new().from(stage.net.user(index)).closing()).collect();
        let first = all_visit(&mut users, a, AT_ONCE).await?;
        for backend in &backends {
            let met = first.iter().filter(|seen| seen.backend == backend.id()).count();
            let nearby = backend.region() == "eu";
            ensure!((met > 0) == nearby, "{met} sessions of {a} are on {}", backend.id());
        }

        // Some of them are in the shop when their node is killed.
        let shopping = users.iter().zip(&first).take(24).map(|(user, seen)| Loyal {
            browser: user.twin(),
            addresses: vec![a, b, far],
            backend: seen.backend.clone(),
        });
        let load = Load::start(shopping);
        load.progress(100).await?;
        mesh.node_mut("eu-1").kill().await?;
        load.progress(400).await?;
        let (_, tally) = load.stop().await?;
        tally.must_be_clean()?;

        none_moved(&mut users, &first, b).await?;
        none_moved(&mut users, &first, far).await?;

        // Nothing is left but what the users carry.
        for node in mesh.nodes.iter_mut().filter(|node| node.runs()) {
            node.kill().await?;
            node.wipe_store()?;
        }
        for node in mesh.nodes.iter_mut().filter(|node| node.name != "eu-1") {
            node.launch()?;
        }
        for node in mesh.nodes.iter_mut().filter(|node| node.name != "eu-1") {
            node.ready().await?;
        }
        mesh.each_sees("all six others are back", secs(30), |status| {
            let alive = status.members_that_are("alive").len();
            ensure!(alive == 5, "{alive} of 5 are alive");
            Ok(())
        })
        .await?;
        mesh.accept(b.port()).await?;
        mesh.healthy().await?;
        none_moved(&mut users, &first, b).await?;
        none_moved(&mut users, &first, far).await?;
        Ok(())
    });
}

/// Which backend each of so many users gets, by address alone.
async fn who_serves(stage: &Stage, users: usize, target: SocketAddr) -> Result<Vec<String>> {
    let lanes = (0..AT_ONCE).map(|lane| async move {
        let mut served = Vec::new();
        for user in (lane..users).step_by(AT_ONCE) {
            let mut talk = TcpTalk::open(stage.net.user(user), target).await?;
            talk.echo(b"the cart").await?;
            served.push((user, talk.backend.clone()));
        }
        anyhow::Ok(served)
    });
    let mut served = try_join_all(lanes).await?.concat();
    served.sort();
    Ok(served.into_iter().map(|(_, backend)| backend).collect())
}

#[test]
fn five_hundred_users_known_by_address_alone_outlive_their_node() {
    prove!(Heavy, secs(120), async |stage| {
        let backends = tcp_backends(&stage.net, 0, &[("eu", 4)], false).await?;
        // Four nodes and three copies: some of what B is asked for, only others know.
        let mut mesh = Cluster::of(stage, &[("eu", 4)]).await?;
        let services = |weights: [u32; 4]| {
            let entries =
                backends.iter().zip(weights).map(|(backend, weight)| Entry { weight, ..backend.into() });
            let services = Services::new().tcp_listener("cart").service("cart", "cart = 1", STICKY_SOURCE);
            services.pool("cart", TCP_CHECK, entries)
        };
        mesh.apply("eu-1", &services([100, 100, 100, 100])).await?;
        mesh.healthy().await?;

        let (a, b) = (mesh.node("eu-1").tcp(), mesh.node("eu-2").tcp());
        let first = who_serves(stage, 500, a).await?;
        for backend in &backends {
            let met = first.iter().filter(|served| *served == backend.id()).count();
            ensure!(met > 50, "only {met} of 500 users are on {}", backend.id());
        }

        // Were the choice made anew, almost all would now go to the last.
        mesh.apply("eu-3", &services([1, 1, 1, 1000])).await?;
        mesh.node_mut("eu-1").kill().await?;
        let again = who_serves(stage, 500, b).await?;
        let moved = first.iter().zip(&again).filter(|(was, is)| was != is).count();
        ensure!(moved == 0, "{moved} of 500 sessions moved");

        // A new user does feel the weights.
        let new = TcpTalk::open(stage.net.user(1000), b).await?;
        ensure!(backends.iter().any(|backend| backend.id() == new.backend), "{:?}", new.backend);
        Ok(())
    });
}
