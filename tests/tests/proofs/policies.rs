//! What each policy of balance looks like from outside. Least-busy and weighted round robin have a file of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::{Load, Regular};
use tests::prove;
use tests::services::{Entry, HTTP_CHECK, Services};
use tests::wait::{eventually, millis, secs};

#[test]
fn the_policies_that_look_at_load_or_latency_spare_a_slow_backend() {
    prove!(Light, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        for backend in &backends {
            backend.set_delay(millis(10));
        }
        backends[0].set_delay(millis(300));
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let mut services = Services::new().http_listener();
        for policy in ["weighted-least-connections", "peak-ewma"] {
            services = services
                .service(policy, &format!("{policy} = 1"), &format!("hosts = [\"{policy}.example.com\"]"))
                .pool(policy, &format!("balance = \"{policy}\"\n{HTTP_CHECK}"), &backends);
        }
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        for policy in ["weighted-least-connections", "peak-ewma"] {
            let user = || {
                let browser = Browser::new().host(&format!("{policy}.example.com"));
                Regular::new(browser, mesh.node("eu-1").http())
            };
            let load = Load::start((0..9).map(|_| user()));
            load.progress(900).await?;
            let (regulars, tally) = load.stop().await?;
            tally.must_be_clean()?;
            let met = |id: &str| regulars.iter().filter_map(|user| user.met.get(id)).sum::<u64>();
            let (slow, others) = (met(backends[0].id()), met(backends[1].id()) + met(backends[2].id()));
            ensure!(slow * 4 < others, "{policy}: {slow} to the slow one, {others} to the two others");
            let (one, two) = (met(backends[1].id()), met(backends[2].id()));
            ensure!(one.min(two) * 3 > one.max(two), "{policy}: {one} and {two} to equals");
        }
        Ok(())
    });
}

#[test]
fn random_follows_the_weights() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let weights = [100, 300, 0];
        let entries =
            backends.iter().zip(weights).map(|(backend, weight)| Entry { weight, ..backend.into() });
        let services = Services::new().http_listener().service("web", "web-v1 = 1", "").pool(
            "web-v1",
            &format!("balance = \"random\"\n{HTTP_CHECK}"),
            entries,
        );
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let mut user = Browser::new();
        for _ in 0..800 {
            user.visit(mesh.node("eu-1").http()).await?;
        }
        let got = [0, 1, 2].map(|at: usize| backends[at].requests());
        // Seven standard deviations: once in some hundred thousand million runs.
        ensure!(got[0].abs_diff(200) < 90 && got[1].abs_diff(600) < 90 && got[2] == 0, "{got:?}");
        Ok(())
    });
}

/// Which backend each of many keys meets, at each of the nodes.
async fn by_key(nodes: &[SocketAddr]) -> Result<BTreeMap<usize, String>> {
    let mut met = BTreeMap::new();
    for key in 0..60 {
        for node in nodes {
            let mut user = Browser::new().header("x-user", &format!("user-{key}"));
            let backend = user.visit(*node).await?.backend;
            let first = met.entry(key).or_insert_with(|| backend.clone());
            ensure!(*first == backend, "user-{key} meets {first}, and at {node} {backend}");
        }
    }
    Ok(met)
}

#[test]
fn a_hash_leads_to_the_same_backend_on_every_node_and_moves_only_who_must() {
    prove!(Light, secs(120), async |stage| {
        let mut backends = http_backends(&stage.net, &[("eu", 4)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let services = Services::new().http_listener().service("web", "web-v1 = 1", "").pool(
            "web-v1",
            &format!("balance = \"hash\"\nhash = {{ header = \"x-user\" }}\n{HTTP_CHECK}"),
            &backends,
        );
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let nodes = [mesh.node("eu-1").http(), mesh.node("eu-2").http()];
        let before = by_key(&nodes).await?;
        let used: BTreeSet<&String> = before.values().collect();
        ensure!(used.len() == 4, "60 keys meet only {used:?}");

        let gone = backends[0].id().to_owned();
        let address = backends[0].address();
        backends[0].refuse().await;
        mesh.each_sees("one is down", secs(30), |status| {
            let state = &status.backend(address)?.state;
            ensure!(state == "down", "{state}");
            Ok(())
        })
        .await?;
        let after = by_key(&nodes).await?;
        for (key, backend) in &before {
            let stays = *backend == gone || after[key] == *backend;
            ensure!(stays, "user-{key} moved from {backend} to {} though nothing happened to it", after[key]);
        }
        ensure!(!after.values().any(|backend| *backend == gone), "somebody meets one that is down");
        Ok(())
    });
}

#[test]
fn a_backend_that_comes_late_begins_with_a_small_share() {
    prove!(Light, secs(90), async |stage| {
        let mut backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        backends[1].refuse().await;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::new().http_listener().service("web", "web-v1 = 1", "").pool(
            "web-v1",
            &format!("balance = \"random\"\nslow_start = \"1day\"\n{HTTP_CHECK}"),
            &backends,
        );
        mesh.apply("eu-1", &services).await?;
        let cli = mesh.node("eu-1").cli();
        let (first, late) = (backends[0].address(), backends[1].address());
        let states = async |wanted: [&str; 2]| {
            eventually(&format!("the two are {wanted:?}"), secs(30), async || {
                let status = cli.status().await?;
                let states = [&status.backend(first)?.state, &status.backend(late)?.state];
                ensure!(states == wanted, "{states:?}");
                Ok(())
            })
            .await
        };
        states(["up", "down"]).await?;
        backends[1].reopen().await?;
        states(["up", "up"]).await?;
        let mut user = Browser::new();
        for _ in 0..500 {
            user.visit(mesh.node("eu-1").http()).await?;
        }
        // A tenth of the weight of the other: one in eleven, where it would be one in two.
        let got = backends[1].requests();
        ensure!((5..125).contains(&got), "{got} of 500 went to the one that has just come");
        Ok(())
    });
}

#[test]
fn two_requests_at_once_stand_in_two_racks() {
    prove!(Light, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 4)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let racks = ["one", "one", "two", "two"];
        let entries: String = backends
            .iter()
            .zip(racks)
            .map(|(backend, rack)| {
                let address = backend.address();
                format!("{{ address = \"{address}\", region = \"eu\", rack = \"{rack}\" }},\n")
            })
            .collect();
        let pool = format!("[pool.web-v1]\n{HTTP_CHECK}\nbackend = [\n{entries}]");
        let services = Services::new().http_listener().service("web", "web-v1 = 1", "").and(pool);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let node = mesh.node("eu-1").http();
        let rack =
            |id: &str| backends.iter().zip(racks).find(|(own, _)| own.id() == id).map(|(_, rack)| rack);
        let begun = || backends.iter().map(tests::backend::HttpBackend::requests).sum::<u64>();
        for backend in &backends {
            backend.set_delay(millis(700));
        }
        let mut rounds = 0;
        while rounds < 12 {
            let before = begun();
            let visit = || tokio::spawn(async move { Browser::new().visit(node).await });
            let mut users = Vec::new();
            for more in 1..=2 {
                users.push(visit());
                eventually("a backend has it", secs(10), async || {
                    ensure!(begun() == before + more, "not yet");
                    Ok(())
                })
                .await?;
            }
            // On a machine that stands still for a while the first may be over before the second begins.
            let at_once = !users[0].is_finished();
            let mut stand = Vec::new();
            for user in users {
                stand.push(rack(&user.await??.backend).context("no backend of the pool")?);
            }
            if at_once {
                ensure!(stand[0] != stand[1], "round {rounds}: both in rack {}", stand[0]);
                rounds += 1;
            }
        }
        Ok(())
    });
}
