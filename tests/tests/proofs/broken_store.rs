//! The copy on disk is a convenience: whatever happens to it, the node starts, gets back what it must know from its peers,
//! and says what happened (I11). What was on disk when a node was killed is there when it comes back, in the middle of
//! whatever it was writing.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, ensure};
use futures_util::future::try_join_all;
use tests::backend::{TcpBackend, tcp_backends};
use tests::cli::{Cli, code};
use tests::client::TcpTalk;
use tests::cluster::Cluster;
use tests::load::{Load, User};
use tests::net::TCP;
use tests::prove;
use tests::services::{Entry, STICKY_SOURCE, Services, TCP_CHECK};
use tests::stage::Stage;
use tests::wait::{eventually, secs};

const AT_ONCE: usize = 16;
const USERS: usize = 150;
/// Theirs, and that of whoever waited for the listener.
const SESSIONS: u64 = USERS as u64 + 1;

/// Users known by address alone: nothing but the store knows where they were.
fn services(backends: &[TcpBackend], weights: [u32; 3]) -> Services {
    let entries = backends.iter().zip(weights).map(|(backend, weight)| Entry { weight, ..backend.into() });
    let services = Services::new().tcp_listener("cart").service("cart", "cart = 1", STICKY_SOURCE);
    services.pool("cart", TCP_CHECK, entries)
}

/// Which backend each of the users gets.
async fn served(stage: &Stage, users: usize, target: SocketAddr) -> Result<Vec<String>> {
    let lanes = (0..AT_ONCE).map(|lane| async move {
        let mut served = Vec::new();
        for user in (lane..users).step_by(AT_ONCE) {
            served.push((user, TcpTalk::open(stage.net.user(user), target).await?.backend));
        }
        anyhow::Ok(served)
    });
    let mut served = try_join_all(lanes).await?.concat();
    served.sort();
    Ok(served.into_iter().map(|(_, backend)| backend).collect())
}

async fn agree(cli: &Cli, replicas: u64) -> Result<()> {
    eventually("every replica has every session", secs(40), async || {
        let found = cli.consistency().await?;
        let wanted = replicas * SESSIONS;
        ensure!(found.agree && found.records == wanted, "{} records of {wanted}", found.records);
        Ok(())
    })
    .await
}

/// A way in which a store is damaged.
type Damage = (&'static str, fn(&Path) -> std::io::Result<()>);

const DAMAGES: [Damage; 5] = [
    ("another program's configuration", |store| fs::write(store.join("conf"), [0x5a; 300])),
    ("garbage in the middle", |store| {
        let mut bytes = fs::read(store.join("db"))?;
        let third = bytes.len() / 3;
        bytes[third..2 * third].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 31 % 251) as u8);
        fs::write(store.join("db"), bytes)
    }),
    ("half of it cut off", |store| {
        let length = fs::metadata(store.join("db"))?.len();
        fs::OpenOptions::new().write(true).open(store.join("db"))?.set_len(length / 2)
    }),
    ("a file where the folder was", |store| {
        fs::remove_dir_all(store)?;
        fs::write(store, "not a store")
    }),
    ("nothing at all", |store| fs::remove_dir_all(store)),
];

#[test]
fn a_node_whose_store_is_damaged_or_gone_starts_and_is_refilled() {
    prove!(Heavy, secs(240), async |stage| {
        let backends = tcp_backends(&stage.net, 0, &[("eu", 3)], false).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 3)]).await?;
        mesh.apply("eu-1", &services(&backends, [100, 100, 1])).await?;
        mesh.healthy().await?;
        let first = served(stage, USERS, mesh.node("eu-1").tcp()).await?;
        // Were the choice made anew, almost all would go to the last from now on.
        mesh.apply("eu-1", &services(&backends, [1, 1, 1000])).await?;
        let cli = mesh.node("eu-3").cli();
        agree(&cli, 3).await?;

        let node = mesh.node("eu-2");
        let (data, store) = (node.data(), node.data().join("store"));
        for (what, damage) in DAMAGES {
            mesh.node_mut("eu-2").kill().await?;
            damage(&store).with_context(|| format!("damaging the store: {what}"))?;
            mesh.node_mut("eu-2").start().await.with_context(|| format!("a start with {what}"))?;
            mesh.agree().await?;
            agree(&cli, 3).await.with_context(|| format!("after {what}"))?;
        }
        // What could not be read was kept for whoever wants to look at it, and is told of until it is taken away.
        let aside = |entry: std::io::Result<fs::DirEntry>| {
            let path = entry.ok()?.path();
            path.file_name()?.to_str()?.starts_with("store.corrupt-").then_some(path)
        };
        let asides: Vec<_> = fs::read_dir(&data)?.filter_map(aside).collect();
        ensure!((2..=3).contains(&asides.len()), "{asides:?}");
        mesh.node("eu-2").says(&["store", "damaged", "set aside"], secs(5)).await?;

        // It knows all by itself.
        for other in ["eu-1", "eu-3"] {
            mesh.node_mut(other).kill().await?;
        }
        let again = served(stage, USERS, mesh.node("eu-2").tcp()).await?;
        let moved = first.iter().zip(&again).filter(|(was, is)| was != is).count();
        ensure!(moved == 0, "{moved} of {USERS} sessions moved");
        Ok(())
    });
}

#[test]
fn a_damaged_store_is_told_of_until_somebody_has_seen_to_it() {
    prove!(Light, secs(60), async |stage| {
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let node = mesh.node_mut("eu-1");
        node.kill().await?;
        fs::write(node.data().join("store").join("conf"), [0x5a; 300])?;
        node.start().await?;
        let line = node.says(&["store", "damaged", "set aside"], secs(5)).await?;
        let (data, cli) = (node.data(), node.cli());
        let problems = cli.status().await?.problems;
        let problem = problems.iter().find(|problem| problem.contains("store.corrupt-")).context(line)?;
        ensure!(problem.contains("eu-1"), "{problem}");
        for entry in fs::read_dir(&data)? {
            let path = entry?.path();
            if path.to_string_lossy().contains("store.corrupt-") {
                fs::remove_dir_all(path)?;
            }
        }
        let problems = cli.status().await?.problems;
        ensure!(!problems.iter().any(|problem| problem.contains("store.corrupt-")), "{problems:?}");
        Ok(())
    });
}

#[test]
fn a_store_deleted_under_a_running_node_is_written_anew() {
    prove!(Light, secs(120), async |stage| {
        let backends = tcp_backends(&stage.net, 0, &[("eu", 3)], false).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &services(&backends, [100, 100, 1])).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").tcp();
        let first = served(stage, USERS, target).await?;
        fs::remove_dir_all(mesh.node("eu-1").data().join("store"))?;
        // Something must be written for the loss to be noticed at once.
        TcpTalk::open(stage.net.user(USERS), target).await?;
        mesh.node("eu-1").says(&["store", "deleted", "anew"], secs(10)).await?;
        mesh.apply("eu-1", &services(&backends, [1, 1, 1000])).await?;

        // There is no peer: all it knows afterwards it has from the disk.
        let node = mesh.node_mut("eu-1");
        node.stop(secs(30)).await?;
        node.start().await?;
        mesh.accept(TCP).await?;
        mesh.healthy().await?;
        let again = served(stage, USERS, target).await?;
        let moved = first.iter().zip(&again).filter(|(was, is)| was != is).count();
        ensure!(moved == 0, "{moved} of {USERS} sessions moved");
        Ok(())
    });
}

/// Somebody new with every connection.
struct Newcomers {
    target: SocketAddr,
    addresses: Arc<[Ipv4Addr]>,
    born: Arc<AtomicUsize>,
    told: Told,
}

/// Who was served by which backend.
type Told = Arc<Mutex<Vec<(usize, String)>>>;

impl User for Newcomers {
    async fn act(&mut self) -> Result<()> {
        let number = self.born.fetch_add(1, Ordering::Relaxed);
        let backend = TcpTalk::open(self.addresses[number], self.target).await?.backend;
        self.told.lock().map_err(|_| anyhow!("a user panicked"))?.push((number, backend));
        Ok(())
    }
}

#[test]
fn what_was_on_disk_survives_kills_in_the_middle_of_writing() {
    prove!(Light, secs(240), async |stage| {
        let backends = tcp_backends(&stage.net, 0, &[("eu", 3)], false).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let weights = [[1000, 1, 1], [1, 1, 1000]];
        let target = mesh.node("eu-1").tcp();
        let (told, born) = (Told::default(), Arc::<AtomicUsize>::default());
        let addresses: Arc<[Ipv4Addr]> = (0..60_000).map(|number| stage.net.user(number)).collect();
        mesh.apply("eu-1", &services(&backends, weights[0])).await?;
        mesh.healthy().await?;
        let mut safe = Vec::new();
        for life in 0..6 {
            let newcomers = (0..8).map(|_| Newcomers {
                target,
                addresses: addresses.clone(),
                born: born.clone(),
                told: told.clone(),
            });
            let load = Load::start(newcomers);
            load.progress(150).await?;
            let known = told.lock().map_err(|_| anyhow!("a user panicked"))?.clone();
            // An order is on disk when it is answered, and so is all that was before it.
            let cli = mesh.node("eu-1").cli();
            cli.expect(code::OK, &["drain", "node", "eu-1", "--force"]).await?;
            cli.expect(code::OK, &["undrain", "node", "eu-1"]).await?;
            safe = known;
            load.progress(30 + life as u64 * 17).await?;
            mesh.node_mut("eu-1").kill().await?;
            let _ = load.stop().await?;

            mesh.node_mut("eu-1").start().await?;
            mesh.apply("eu-1", &services(&backends, weights[(life + 1) % 2])).await?;
            mesh.healthy().await?;
            let lanes = (0..AT_ONCE).map(|lane| {
                let safe = &safe;
                async move {
                    for (user, was) in safe.iter().skip(lane).step_by(AT_ONCE) {
                        let is = TcpTalk::open(stage.net.user(*user), target).await?.backend;
                        ensure!(is == *was, "life {life}: user {user} moved from {was} to {is}");
                    }
                    anyhow::Ok(())
                }
            });
            try_join_all(lanes).await?;
        }
        ensure!(safe.len() > 800, "only {} sessions were made", safe.len());
        let log = mesh.node("eu-1").log();
        ensure!(!log.contains("set aside"), "a kill damaged the store");
        Ok(())
    });
}
