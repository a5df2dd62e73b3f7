//! A signed zone: one key on all nodes, for all their lives, that nobody is shown; answers that validate, and a flipped bit
//! that does not pass.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tests::backend::http_backends;
use tests::cli::code;
use tests::cluster::{Cluster, Node};
use tests::dns::Question;
use tests::resolvers::{Resolver, delv};
use tests::services::{NAME, Services, ZONE};
use tests::wait::{eventually, secs};
use tests::{peer, prove};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

async fn ds(node: &Node) -> Result<String> {
    let what = format!("{} knows the zone's key", node.name);
    eventually(&what, secs(20), async || {
        let ran = node.cli().run(&["dns", "ds", ZONE]).await?;
        ensure!(ran.code == code::OK, "{}", ran.said());
        Ok(ran.stdout.trim().to_owned())
    })
    .await
}

async fn same_everywhere(mesh: &Cluster<'_>) -> Result<String> {
    let mut told = Vec::new();
    for node in mesh.running() {
        told.push(ds(node).await?);
    }
    let first = told.first().context("a node that runs")?;
    ensure!(told.iter().all(|each| each == first), "{told:?}");
    Ok(first.clone())
}

#[test]
fn a_zones_key_is_the_same_on_all_nodes_and_outlives_them() {
    prove!(Heavy, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1), ("us", 1)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        let unsigned = Services::shop(&stage.net, &backends);
        mesh.apply("us-1", &unsigned).await?;
        let ran = mesh.node("eu-2").cli().expect(code::FAILURE, &["dns", "ds", ZONE]).await?;
        ran.must_say("dnssec = true")?;
        let ran = mesh.node("eu-2").cli().expect(code::FAILURE, &["dns", "ds", "other.example.com"]).await?;
        ran.must_say(ZONE)?;

        mesh.apply("us-1", &unsigned.signed()).await?;
        let made = same_everywhere(&mesh).await?;
        ensure!(made.starts_with(&format!("{ZONE}. IN DS ")) && made.contains(" 13 2 "), "{made}");
        let json = mesh.node("eu-1").cli().expect(code::OK, &["dns", "ds", ZONE, "-o", "json"]).await?;
        ensure!(json.stdout.contains("\"record\""), "{}", json.stdout);

        // All are killed at once, and one loses its disk but for the mesh's key; a further one joins.
        for node in &mut mesh.nodes {
            node.kill().await?;
        }
        std::fs::remove_dir_all(mesh.node("eu-1").data())?;
        for node in &mut mesh.nodes {
            node.launch()?;
        }
        for node in &mut mesh.nodes {
            node.ready().await?;
        }
        mesh.add("us").await?;
        mesh.agree().await?;
        mesh.revised("us-1").await?;
        ensure!(same_everywhere(&mesh).await? == made, "another key than {made}");

        // Nobody is shown it.
        let file = std::fs::read_to_string(mesh.node("us-2").data().join("zone.keys"))?;
        let sealed = file.lines().find(|line| !line.starts_with('#')).context("a key in the file")?;
        ensure!(sealed.len() > 200 && !file.contains(ZONE), "{file}");
        for node in mesh.running() {
            let status = node.cli().expect(code::OK, &["status", "-o", "json"]).await?;
            ensure!(!status.stdout.contains("zone.keys"), "{}", status.stdout);
            ensure!(!node.log().contains(sealed), "{} logs a key", node.name);
        }
        Ok(())
    });
}

#[test]
fn delv_validates_what_a_node_says() {
    if peer::all(["delv"]).is_none() {
        return;
    }
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::shop(&stage.net, &backends)
            .signed()
            .record("alias", "CNAME", "www")
            .record("*.wild", "TXT", "made");
        mesh.apply("eu-1", &services).await?;
        let node = mesh.node("eu-1");
        let ds = ds(node).await?;
        let below = |name: &str| format!("{name}.{ZONE}");
        for (name, kind) in [
            (below("www"), "A"),
            (below("alias"), "A"),
            (below("x.wild"), "TXT"),
            (ZONE.to_owned(), "SOA"),
            (ZONE.to_owned(), "CDS"),
            (below("www"), "AAAA"),
            (below("missing"), "A"),
            (below("wild"), "A"),
        ] {
            // What is not there is said to standard error as well; it fails no more than it should.
            let said = delv(stage, node.dns(), &ds, &name, kind).await?;
            ensure!(said.contains("fully validated"), "{name} {kind}: {said}");
        }
        Ok(())
    });
}

/// Carries datagrams to a name server and back; flips one bit of every answer with this address in it while it is told to.
async fn relay(listen: SocketAddr, server: SocketAddr, flips: Arc<AtomicBool>) -> Result<JoinSet<()>> {
    let front = Arc::new(UdpSocket::bind(listen).await?);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut asked = JoinSet::new();
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = front.recv_from(&mut buffer).await {
            let (query, front, flips) = (buffer[..length].to_vec(), front.clone(), flips.clone());
            asked.spawn(async move {
                let back = UdpSocket::bind((listen.ip(), 0)).await?;
                back.send_to(&query, server).await?;
                let mut answer = vec![0; 4096];
                let length = back.recv(&mut answer).await?;
                answer.truncate(length);
                let place = answer.windows(4).position(|bytes| bytes == [192, 0, 2, 9]);
                if let (Some(at), true) = (place, flips.load(Ordering::Relaxed)) {
                    answer[at + 3] ^= 1;
                }
                front.send_to(&answer, from).await
            });
        }
    });
    Ok(tasks)
}

#[test]
fn a_flipped_bit_does_not_pass() {
    if peer::all(["unbound"]).is_none() {
        return;
    }
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::shop(&stage.net, &backends).signed().record("*.wild", "A", "192.0.2.9");
        mesh.apply("eu-1", &services).await?;
        let node = mesh.node("eu-1");
        let ds = ds(node).await?;
        let flips = Arc::new(AtomicBool::new(false));
        let between = SocketAddr::from((stage.net.backend(220), 5301));
        let _relay = relay(between, node.dns(), flips.clone()).await?;
        let resolver = Resolver::unbound_of(stage, between, &ds).await?;
        let ask = async |name: &str| {
            Question::new(&format!("{name}.wild.{ZONE}."), RecordType::A)?
                .validated()
                .ask(resolver.address)
                .await
        };
        let good = ask("before").await?;
        good.must_be_secure()?;
        flips.store(true, Ordering::Relaxed);
        let bad = eventually("an answer of some kind", secs(20), async || ask("flipped").await).await?;
        ensure!(bad.code == ResponseCode::ServFail && bad.addresses.is_empty(), "{}", bad.message);
        flips.store(false, Ordering::Relaxed);
        ask("after").await?.must_be_secure()?;
        let steered = Question::addresses(NAME)?.validated().ask(resolver.address).await?;
        steered.only(&mesh.addresses("eu"))?;
        steered.must_be_secure()
    });
}
