//! The least busy backend is the least busy of the mesh, not of the node.

use anyhow::ensure;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::{Load, Regular};
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::wait::{millis, secs};

#[test]
fn a_slow_backend_gets_less_than_half_an_equal_share_on_each_node() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 4)]).await?;
        for backend in &backends {
            backend.set_delay(millis(20));
        }
        backends[0].set_delay(millis(300));
        let slow = backends[0].id();
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let services = Services::new().http_listener().service("web", "web-v1 = 1", "");
        mesh.apply(
            "eu-1",
            &services.pool("web-v1", &format!("balance = \"least-busy\"\n{HTTP_CHECK}"), &backends),
        )
        .await?;
        mesh.healthy().await?;

        // More clients on one node than on the other: each must count what the other sends.
        let nodes = [(mesh.node("eu-1").http(), 8), (mesh.node("eu-2").http(), 4)];
        let regulars = nodes
            .iter()
            .flat_map(|(target, count)| (0..*count).map(|_| Regular::new(Browser::new(), *target)));
        let load = Load::start(regulars);
        load.progress(1500).await?;
        let (regulars, tally) = load.stop().await?;
        tally.must_be_clean()?;
        for (target, _) in nodes {
            let (mut all, mut to_slow) = (0, 0);
            for regular in regulars.iter().filter(|regular| regular.target == target) {
                all += regular.met.values().sum::<u64>();
                to_slow += regular.met.get(slow).copied().unwrap_or_default();
            }
            ensure!(all > 200, "only {all} requests through {target}");
            let equal_share = all / backends.len() as u64;
            ensure!(to_slow * 2 < equal_share, "{to_slow} of {all} went to the slow one through {target}");
        }
        Ok(())
    });
}

#[test]
fn weighted_round_robin_follows_the_weights() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let weights = [100, 200, 300];
        let entries = backends
            .iter()
            .zip(weights)
            .map(|(backend, weight)| tests::services::Entry { weight, ..backend.into() });
        let services = Services::new().http_listener().service("web", "web-v1 = 1", "");
        let more = format!("balance = \"weighted-round-robin\"\n{HTTP_CHECK}");
        mesh.apply("eu-1", &services.pool("web-v1", &more, entries)).await?;
        mesh.healthy().await?;

        let mut user = Browser::new();
        for _ in 0..600 {
            user.visit(mesh.node("eu-1").http()).await?;
        }
        for (backend, weight) in backends.iter().zip(weights) {
            let got = backend.requests();
            ensure!(got.abs_diff(u64::from(weight)) <= 10, "{} got {got}, not about {weight}", backend.id());
        }
        Ok(())
    });
}
