//! Users are told the nodes of the nearest region whose service is healthy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tests::backend::http_backends;
use tests::cli::code;
use tests::cluster::Cluster;
use tests::dns::{Question, resolve};
use tests::prove;
use tests::services::{NAME, Services, ZONE, users_of};
use tests::wait::{eventually, secs};

/// From a failing check to the last node's answer: three probes half a second apart, and the word passed on.
const MOVES: Duration = Duration::from_secs(20);

/// Whichever name server they ask, users of `from` are sent to `to`.
async fn goes(mesh: &Cluster<'_>, from: &str, to: &str, within: Duration) -> Result<()> {
    let nodes = mesh.addresses(to);
    for server in mesh.running() {
        let what = format!("{} sends users of {from} to {to}", server.name);
        eventually(&what, within, async || resolve(server.dns(), NAME, users_of(from)).await?.only(&nodes))
            .await?;
    }
    Ok(())
}

#[test]
fn answers_follow_the_users_region_and_its_health() {
    prove!(Heavy, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2), ("us", 2), ("ap", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 2), ("ap", 2)]).await?;
        let services = Services::shop(&stage.net, &backends).and(format!(
            "[[dns.zone.\"{ZONE}\".record]]\nname = \"@\"\ntype = \"MX\"\nvalue = \"10 mail.example.com.\"\nttl = \"1h\""
        ));
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;

        for region in ["eu", "us", "ap"] {
            goes(&mesh, region, region, secs(10)).await?;
        }
        let eu = mesh.node("eu-1").dns();
        let answer = resolve(eu, NAME, "10.1.7.0/24").await?;
        ensure!(answer.addresses.len() == 2, "two nodes an answer: {:?}", answer.addresses);
        ensure!(answer.message.metadata.authoritative, "authoritative");
        let scope = answer.scope.context("an answer to ECS has a scope")?;
        ensure!((1..=24).contains(&scope), "scope {scope}");
        ensure!(answer.ttl.is_some_and(|ttl| ttl <= 5), "TTL {:?}", answer.ttl);
        let over_tcp = Question::addresses(NAME)?.for_users("10.2.0.0/16")?.over_tcp().ask(eu).await?;
        over_tcp.only(&mesh.addresses("us"))?;

        // All of a region's backends fail their checks: its users go to the next nearest, all others stay.
        for backend in backends.iter().filter(|backend| backend.region() == "eu") {
            backend.set_healthy(false);
        }
        goes(&mesh, "eu", "us", MOVES).await?;
        goes(&mesh, "us", "us", secs(1)).await?;
        goes(&mesh, "ap", "ap", secs(1)).await?;

        for backend in &backends {
            backend.set_healthy(true);
        }
        goes(&mesh, "eu", "eu", MOVES).await?;

        // With everything down there is still an answer, never an error (I6).
        for backend in &backends {
            backend.set_healthy(false);
        }
        mesh.each_sees("all backends are down", MOVES, |status| status.all_backends_are("down")).await?;
        for server in mesh.running() {
            let answer = resolve(server.dns(), NAME, users_of("ap")).await?;
            ensure!(answer.code == ResponseCode::NoError, "{} says {}", server.name, answer.code);
            ensure!(!answer.addresses.is_empty(), "{} has no addresses", server.name);
        }
        Ok(())
    });
}

#[test]
fn the_zone_answers_as_a_name_server_must() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::shop(&stage.net, &backends).and(format!(
            "[[dns.zone.\"{ZONE}\".record]]\nname = \"@\"\ntype = \"MX\"\nvalue = \"10 mail.example.com.\"\nttl = \"1h\""
        ));
        mesh.apply("eu-1", &services).await?;
        let server = mesh.node("eu-1").dns();
        let apex = format!("{ZONE}.");

        let soa = Question::new(&apex, RecordType::SOA)?.ask(server).await?;
        ensure!(soa.code == ResponseCode::NoError && soa.message.answers.len() == 1, "SOA: {}", soa.message);
        let ns = Question::new(&apex, RecordType::NS)?.ask(server).await?;
        ensure!(ns.message.answers.len() == 2, "two name servers: {}", ns.message);
        ensure!(ns.message.additionals.len() >= 2, "and their glue: {}", ns.message);
        let glue = Question::addresses(&format!("ns1.{apex}"))?.ask(server).await?;
        ensure!(glue.names(stage.net.node(0)), "ns1 is {:?}", glue.addresses);
        let mx = Question::new(&apex, RecordType::MX)?.ask(server).await?;
        ensure!(mx.ttl == Some(3600) && mx.message.answers.len() == 1, "MX: {}", mx.message);

        let none = Question::new(&apex, RecordType::TXT)?.ask(server).await?;
        ensure!(
            none.code == ResponseCode::NoError && none.message.answers.is_empty(),
            "NODATA: {}",
            none.message
        );
        ensure!(none.message.authorities.len() == 1, "NODATA with SOA: {}", none.message);
        let six = Question::new(NAME, RecordType::AAAA)?.ask(server).await?;
        ensure!(six.code == ResponseCode::NoError && six.addresses.is_empty(), "no AAAA: {}", six.message);
        let missing = Question::addresses(&format!("nowhere.{apex}"))?.ask(server).await?;
        ensure!(missing.code == ResponseCode::NXDomain, "{}", missing.code);
        ensure!(missing.message.authorities.len() == 1, "NXDOMAIN with SOA: {}", missing.message);
        let foreign = Question::addresses("www.example.org.")?.ask(server).await?;
        ensure!(foreign.code == ResponseCode::Refused, "{}", foreign.code);
        Ok(())
    });
}

/// A resolver tells a user's network alone; where the user itself is placed otherwise, that is told beside it.
#[test]
fn a_user_who_is_placed_otherwise_than_its_network_is_explained_apart() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1), ("us", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        let (eu, us) = (mesh.node("eu-1"), mesh.node("us-1"));
        let services = Services::shop(&stage.net, &backends)
            .and("[region.odd]\nlatitude = 39.0\nlongitude = -77.4\nprefixes = [\"10.1.7.7/32\"]");
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;

        // Its network belongs to eu; it alone to a region without nodes, next to us.
        let network = resolve(eu.dns(), NAME, "10.1.7.0/24").await?;
        network.only(&[eu.address])?;
        resolve(eu.dns(), NAME, "10.1.7.7/32").await?.only(&[us.address])?;
        let scope = network.scope.context("an answer to ECS has a scope")?;
        ensure!(scope > 24, "not all of the network is sent there: scope {scope}");

        let explain = ["dns", "explain", NAME, "--from", "10.1.7.7"];
        let explained = eu.cli().expect(code::OK, &explain).await?;
        for said in [
            "To a resolver that tells the user's network, 10.1.7.0/24 (ECS):",
            "To 10.1.7.7 itself, which is placed otherwise than its network",
            &format!("eu-1 at {}", eu.address),
            &format!("us-1 at {}", us.address),
        ] {
            explained.must_say(said)?;
        }
        let json =
            eu.cli().expect(code::OK, &["dns", "explain", NAME, "--from", "10.1.7.7", "-o", "json"]).await?;
        let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
        ensure!(json["views"][0]["steering"]["region"] == "eu", "{json}");
        ensure!(
            json["exact"]["client"] == "10.1.7.7/32" && json["exact"]["steering"]["region"] == "us",
            "{json}"
        );

        // A neighbour is placed as its network is: nothing more is told.
        let neighbour = ["dns", "explain", NAME, "--from", "10.1.7.8", "-o", "json"];
        let json: serde_json::Value =
            serde_json::from_str(&eu.cli().expect(code::OK, &neighbour).await?.stdout)?;
        ensure!(json.get("exact").is_none_or(serde_json::Value::is_null), "{json}");
        Ok(())
    });
}
