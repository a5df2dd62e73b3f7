//! Unbound, BIND and Knot Resolver go from the root through the delegation to the mesh: they resolve, validate, remember, and
//! ask the next name server when one is killed.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tests::backend::http_backends;
use tests::cli::code;
use tests::cluster::Cluster;
use tests::dns::{Answer, Question};
use tests::net::DNS;
use tests::resolvers::{PORT, Parent, Resolver, may_use_port_53};
use tests::services::{NAME, Services, ZONE};
use tests::stage::Stage;
use tests::wait::{eventually, secs};
use tests::{peer, prove};

const PEERS: [&str; 5] = ["knotd", "keymgr", "unbound", "named", "kresd"];

async fn ask(resolver: &Resolver, name: &str, kind: RecordType) -> Result<Answer> {
    let question = Question::new(&format!("{name}{ZONE}."), kind)?.validated();
    let answer = question.ask(resolver.address).await;
    answer.with_context(|| format!("{} is asked for {name} {kind}", resolver.name))
}

/// What every name says, and that it is validated.
async fn resolves(resolver: &Resolver, mesh: &Cluster<'_>) -> Result<()> {
    let told = |name: &'static str, kind| async move {
        let answer = ask(resolver, name, kind).await?;
        ensure!(answer.code == ResponseCode::NoError, "{} {name} {kind}: {}", resolver.name, answer.message);
        answer.must_be_secure().with_context(|| format!("{} {name} {kind}", resolver.name))?;
        anyhow::Ok(answer)
    };
    let nodes: Vec<_> = mesh.running().map(|node| node.address).collect();
    for name in ["www.", "alias."] {
        told(name, RecordType::A).await?.only(&nodes)?;
    }
    ensure!(told("x.wild.", RecordType::A).await?.addresses.len() == 1, "a name of the wildcard");
    for (name, kind) in [("", RecordType::MX), ("", RecordType::DNSKEY), ("", RecordType::NS)] {
        ensure!(!told(name, kind).await?.message.answers.is_empty(), "{name} {kind}");
    }
    // No data, no data at a name above others, no data at a wildcard's name, and no such name, which is said as no data.
    for (name, kind) in [
        ("www.", RecordType::AAAA),
        ("deep.", RecordType::A),
        ("y.wild.", RecordType::TXT),
        ("missing.", RecordType::A),
    ] {
        let answer = told(name, kind).await?;
        ensure!(answer.addresses.is_empty(), "{} {name}: {}", resolver.name, answer.message);
    }
    // A delegation that is proven not to be signed.
    let child = ask(resolver, "www.child.", RecordType::A).await?;
    ensure!(child.addresses.len() == 1, "{}: {}", resolver.name, child.message);
    ensure!(child.must_be_secure().is_err(), "{} takes an unsigned zone for signed", resolver.name);
    Ok(())
}

async fn signed_mesh(stage: &Stage) -> Result<Cluster<'_>> {
    let backends = http_backends(&stage.net, &[("eu", 1), ("us", 1)]).await?;
    let mut mesh = Cluster::empty(stage).await?;
    for region in ["eu", "us"] {
        let node = mesh.place(region);
        let mut command = node.command()?;
        for port in [DNS, PORT] {
            command.arg("--dns-listen").arg(format!("{}:{port}", node.address));
        }
        node.launch_as(command)?;
        node.ready().await?;
    }
    mesh.agree().await?;
    let services = Services::shop(&stage.net, &backends)
        .signed()
        .record("@", "MX", "10 mail.example.net.")
        .record("alias", "CNAME", "www")
        .record("*.wild", "A", "192.0.2.9")
        .record("a.deep", "TXT", "below an empty name")
        .record("child", "NS", "ns.child")
        .record("ns.child", "A", &Parent::address(stage).to_string());
    mesh.apply("eu-1", &services).await?;
    mesh.healthy().await?;
    Ok(mesh)
}

/// The DS record, once both nodes say the same.
async fn ds(mesh: &Cluster<'_>) -> Result<String> {
    eventually("all nodes tell the same DS record", secs(20), async || {
        let asked = mesh.running().map(|node| async move {
            let ran = node.cli().expect(code::OK, &["dns", "ds", ZONE]).await?;
            anyhow::Ok(ran.stdout.trim().to_owned())
        });
        let told = try_join_all(asked).await?;
        let first = told.first().context("a node that runs")?;
        ensure!(told.iter().all(|each| each == first), "{told:?}");
        Ok(first.clone())
    })
    .await
}

#[test]
fn resolvers_follow_the_delegation_validate_remember_and_ask_the_next_server() {
    if !may_use_port_53() || peer::all(PEERS).is_none() {
        return;
    }
    prove!(Heavy, secs(180), async |stage| {
        let mut mesh = signed_mesh(stage).await?;
        let servers: Vec<_> = mesh.nodes.iter().map(|node| node.address).collect();
        let parent = Parent::start(stage, &servers, &ds(&mesh).await?).await?;
        let resolvers = [
            Resolver::unbound(stage, &parent).await?,
            Resolver::bind(stage, &parent).await?,
            Resolver::knot(stage, &parent).await?,
        ];
        for resolver in &resolvers {
            resolves(resolver, &mesh).await?;
        }

        // The registrar's view: name servers, glue and DS record agree with the zone.
        let (port, from) = (PORT.to_string(), format!("{}:{PORT}", Parent::address(stage)));
        let check = ["dns", "check", ZONE, "--port", &port, "--parent", &from];
        let checked = mesh.node("us-1").cli().expect(code::OK, &check).await?;
        checked.must_say("is well delegated")?;
        ensure!(!checked.stdout.contains("DS record"), "{}", checked.stdout);

        // One name server is killed: names that nobody remembers come from the other.
        mesh.node_mut("eu-1").kill().await?;
        for resolver in &resolvers {
            for fresh in ["one", "two", "three"] {
                let what = format!("{} asks the next server for {fresh}", resolver.name);
                eventually(&what, secs(20), async || {
                    let answer = ask(resolver, &format!("{fresh}.wild."), RecordType::A).await?;
                    ensure!(answer.addresses.len() == 1, "{}", answer.message);
                    answer.must_be_secure()
                })
                .await?;
            }
            let only = [mesh.node("us-1").address];
            let what = format!("{} is told of the node that is left", resolver.name);
            eventually(&what, secs(20), async || {
                let answer = Question::addresses(NAME)?.validated().ask(resolver.address).await?;
                answer.only(&only)?;
                answer.must_be_secure()
            })
            .await?;
        }

        // Nobody is left to be asked: what is remembered is told, and it is still validated.
        mesh.node_mut("us-1").kill().await?;
        for resolver in &resolvers {
            let answer = ask(resolver, "", RecordType::MX).await?;
            ensure!(answer.ttl.is_some_and(|ttl| ttl <= 3600), "{}: {}", resolver.name, answer.message);
            answer.must_be_secure()?;
        }
        Ok(())
    });
}

#[test]
fn whatever_is_asked_validates() {
    if !may_use_port_53() || peer::all(PEERS).is_none() {
        return;
    }
    prove!(Heavy, secs(180), async |stage| {
        let mesh = signed_mesh(stage).await?;
        let servers: Vec<_> = mesh.nodes.iter().map(|node| node.address).collect();
        let parent = Parent::start(stage, &servers, &ds(&mesh).await?).await?;
        let resolver = Resolver::unbound(stage, &parent).await?;
        let labels = ["www", "alias", "wild", "deep", "a", "ns1", "*", "x", "WWW", "xn--bcher-kva", "_tcp"];
        let kinds = [
            RecordType::A,
            RecordType::AAAA,
            RecordType::NS,
            RecordType::SOA,
            RecordType::MX,
            RecordType::TXT,
            RecordType::CNAME,
            RecordType::DNSKEY,
            RecordType::CDS,
            RecordType::DS,
            RecordType::HTTPS,
            RecordType::SRV,
            RecordType::Unknown(65_280),
        ];
        let mut rng = SmallRng::seed_from_u64(0x5eed);
        for _ in 0..600 {
            let depth = rng.random_range(0..4);
            let name: String =
                (0..depth).map(|_| format!("{}.", labels[rng.random_range(0..labels.len())])).collect();
            let kind = kinds[rng.random_range(0..kinds.len())];
            let answer = ask(&resolver, &name, kind).await?;
            ensure!(answer.code == ResponseCode::NoError, "{name} {kind}: {}", answer.message);
            answer.must_be_secure().with_context(|| format!("{name} {kind}"))?;
        }
        Ok(())
    });
}
