//! When a backend dies, each of its sessions moves once, and to one place, whoever meets it first.

use anyhow::{Context, ensure};
use futures_util::future::join;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::all_visit;
use tests::prove;
use tests::services::Services;
use tests::wait::secs;

#[test]
fn two_nodes_that_meet_the_same_session_choose_the_same_backend() {
    prove!(Heavy, secs(150), async |stage| {
        let mut backends = http_backends(&stage.net, &[("eu", 4), ("us", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 3), ("us", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (a, b, c) = (mesh.node("eu-1").http(), mesh.node("eu-2").http(), mesh.node("eu-3").http());

        let mut users: Vec<Browser> = (0..400).map(|_| Browser::new().closing()).collect();
        let first = all_visit(&mut users, a, 16).await?;
        let dead = backends[0].id().to_owned();
        backends[0].refuse().await;

        let mut moved = 0;
        for (user, was) in users.iter_mut().zip(&first) {
            if was.backend != dead {
                continue;
            }
            moved += 1;
            // Two tabs, two nodes, one moment.
            let mut tab = user.twin();
            let (here, there) = join(user.visit(a), tab.visit(b)).await;
            let (here, there) = (here?.backend, there?.backend);
            ensure!(here == there, "the cart is split between {here} and {there}");
            ensure!(here != dead && here.starts_with("eu/"), "moved to {here}");
            // The old cookie, of a tab that slept through all this, at a third node; and both others again.
            let mut slept = Browser::new().closing();
            slept.cookies = tab.cookies.clone();
            for at in [c, a, b] {
                let again = slept.visit(at).await?.backend;
                ensure!(again == here, "moved twice: to {here}, then to {again}");
            }
        }
        ensure!(moved > 20, "only {moved} sessions were on {dead}");
        // Sessions of the living have not moved.
        let again = all_visit(&mut users, c, 16).await?;
        for (was, is) in first.iter().zip(&again).filter(|(was, _)| was.backend != dead) {
            ensure!(was.backend == is.backend, "moved from {} to {} for no reason", was.backend, is.backend);
        }

        // The dead one returns; those that moved stay where they went.
        backends[0].reopen().await?;
        mesh.healthy().await?;
        let returned = all_visit(&mut users, b, 16).await?;
        let back = again.iter().zip(&returned).filter(|(was, is)| was.backend != is.backend).count();
        ensure!(back == 0, "{back} sessions moved a second time");
        let new = all_visit(&mut (0..60).map(|_| Browser::new()).collect::<Vec<_>>(), a, 8).await?;
        new.iter().find(|seen| seen.backend == dead).context("the returned backend gets no new sessions")?;
        Ok(())
    });
}

#[test]
fn a_tab_that_kept_the_old_cookie_follows_the_move() {
    prove!(Light, secs(90), async |stage| {
        let mut backends = http_backends(&stage.net, &[("eu", 4)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (a, b) = (mesh.node("eu-1").http(), mesh.node("eu-2").http());

        let mut user = Browser::new();
        let was = user.visit(a).await?.backend;
        let mut sleeping_tab = user.twin();
        let index = backends.iter().position(|backend| backend.id() == was).context("a backend")?;
        backends[index].refuse().await;
        let moved = user.visit(a).await?.backend;
        ensure!(moved != was, "still on the dead one");

        // The old backend is up again, and the old cookie still names it: the move is what counts (I2).
        backends[index].reopen().await?;
        mesh.healthy().await?;
        let seen = sleeping_tab.visit(b).await?.backend;
        ensure!(seen == moved, "the old tab is on {seen}, the new one on {moved}");
        Ok(())
    });
}
