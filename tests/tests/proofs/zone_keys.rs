//! A zone that came to have two keys: either is retired, on all nodes, when its parent does not name it.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use hickory_proto::rr::{Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use serde_json::Value;
use tests::backend::http_backends;
use tests::cli::code;
use tests::cluster::{Cluster, Node};
use tests::dns::Question;
use tests::prove;
use tests::services::{Services, ZONE};
use tests::wait::{eventually, secs};

async fn keys(node: &Node) -> Result<Vec<Value>> {
    let ran = node.cli().expect(code::OK, &["dns", "key", "list", ZONE, "-o", "json"]).await?;
    let told: Value = serde_json::from_str(&ran.stdout)?;
    Ok(told["keys"].as_array().context("keys")?.clone())
}

/// `TAG ROLE` of each, the active one first.
async fn roles(node: &Node) -> Result<Vec<(u16, String)>> {
    let role = |key: &Value| {
        let tag = key["key_tag"].as_u64().and_then(|tag| u16::try_from(tag).ok());
        Some((tag?, key["role"].as_str()?.to_owned()))
    };
    keys(node).await?.iter().map(|key| role(key).context("a key")).collect()
}

/// The key tag of an RRSIG (RFC 4034 §3.1) or a DS (§5.1), whether or not this build of the library knows what they are.
fn tag_of(record: &Record) -> Option<u16> {
    let at = match record.record_type() {
        RecordType::RRSIG => 16..18,
        RecordType::DS => 0..2,
        _ => return None,
    };
    let bytes = record.data.to_bytes().ok()?;
    Some(u16::from_be_bytes(bytes.get(at)?.try_into().ok()?))
}

/// Which keys have signed a set of the zone's apex, and how many keys it publishes.
async fn signed_by(server: SocketAddr, kind: RecordType) -> Result<(Vec<u16>, usize)> {
    let answer = Question::new(&format!("{ZONE}."), kind)?.validated().over_tcp().ask(server).await?;
    let mut tags: Vec<u16> = answer.message.answers.iter().filter_map(tag_of).collect();
    tags.sort_unstable();
    let keys = answer.message.answers.iter().filter(|record| record.record_type() == RecordType::DNSKEY);
    Ok((tags, keys.count()))
}

/// Waits until the parent, which this node serves too, names the key.
async fn names_key(parent: &Node, tag: u16) -> Result<()> {
    eventually(&format!("the parent names key {tag}"), secs(30), async || {
        let question = Question::new(&format!("{ZONE}."), RecordType::DS)?.over_tcp();
        let answer = question.ask(parent.dns()).await?;
        let tags: Vec<u16> = answer.message.answers.iter().filter_map(tag_of).collect();
        ensure!(tags == [tag], "{tags:?} in {:?}", answer.message);
        Ok(())
    })
    .await
}

/// The shop, and its parent, which is served beside it and names one key.
fn with_parent(shop: &Services, mesh: &Cluster<'_>, ds: &str) -> Services {
    let (eu, us) = (mesh.node("eu-1").address, mesh.node("us-1").address);
    let record = |name: &str, kind: &str, value: &str| {
        format!(
            "[[dns.zone.\"example.com\".record]]\nname = \"{name}\"\ntype = \"{kind}\"\nvalue = \"{value}\""
        )
    };
    shop.clone()
        .and(format!(
            "[dns.zone.\"example.com\"]\nnameserver = {{ ns1 = [\"{eu}\"], ns2 = [\"{us}\"] }}\ncontact = \"hostmaster@example.com\""
        ))
        .and(record("lb", "NS", "ns1.lb"))
        .and(record("lb", "NS", "ns2.lb"))
        .and(record("ns1.lb", "A", &eu.to_string()))
        .and(record("ns2.lb", "A", &us.to_string()))
        .and(record("lb", "DS", ds))
}

#[test]
fn one_of_two_keys_is_retired_on_all_nodes_but_not_one_that_is_needed() {
    prove!(Heavy, secs(150), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1), ("us", 1)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        let shop = Services::shop(&stage.net, &backends).signed();
        mesh.apply("eu-1", &shop).await?;
        let both = async |mesh: &Cluster<'_>, count: usize| {
            for node in mesh.running() {
                eventually(&format!("{} has {count} keys", node.name), secs(30), async || {
                    let roles = roles(node).await?;
                    ensure!(roles.len() == count, "{roles:?}");
                    Ok(())
                })
                .await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        both(&mesh, 1).await?;
        let file = mesh.node("eu-1").data().join("zone.keys");
        let first = std::fs::read_to_string(&file)?;

        // The only key is not retired, by nobody.
        let only = roles(mesh.node("us-1")).await?[0].0.to_string();
        let ran = mesh
            .node("us-1")
            .cli()
            .expect(code::CONFLICT, &["dns", "key", "retire", ZONE, &only, "--force"])
            .await?;
        ran.must_say("the only key")?;

        // All nodes lose it, so another one is made; then a copy of the file comes back.
        for node in &mut mesh.nodes {
            node.kill().await?;
            std::fs::remove_file(node.data().join("zone.keys"))?;
        }
        for node in &mut mesh.nodes {
            node.launch()?;
        }
        for node in &mut mesh.nodes {
            node.ready().await?;
        }
        mesh.agree().await?;
        both(&mesh, 1).await?;
        mesh.nodes[0].kill().await?;
        std::fs::write(&file, &first)?;
        mesh.nodes[0].start().await?;
        mesh.agree().await?;
        both(&mesh, 2).await?;
        let (eu, us) = (mesh.node("eu-1"), mesh.node("us-1"));
        let listed = roles(us).await?;
        let [(old, role), (new, other)] = &listed[..] else { anyhow::bail!("{listed:?}") };
        ensure!(role == "active" && other == "extra" && old.to_string() == only, "{listed:?}");
        let (old_tag, new_tag) = (old.to_string(), new.to_string());

        // Nobody knows which one the parent names until it is asked.
        let data = |at: usize, keys: &[Value]| {
            let record = keys[at]["record"].as_str().unwrap_or_default();
            record.split(" DS ").nth(1).unwrap_or_default().to_owned()
        };
        let told = keys(us).await?;
        let (ds_old, ds_new) = (data(0, &told), data(1, &told));
        mesh.apply("us-1", &with_parent(&shop, &mesh, &ds_old)).await?;
        names_key(eu, *old).await?;
        let parent = eu.dns().to_string();
        let ran = us.cli().expect(code::CONFLICT, &["dns", "key", "retire", ZONE, &new_tag]).await?;
        ran.must_say("--parent")?;
        let named = ["dns", "key", "retire", ZONE, &old_tag, "--parent", &parent];
        let ran = us.cli().expect(code::CONFLICT, &named).await?;
        ran.must_say("names key")?;
        let unnamed = ["dns", "key", "retire", ZONE, &new_tag, "--parent", &parent];
        us.cli().expect(code::OK, &unnamed).await?.must_say("retiring")?;

        // It is published and signs the keys on all nodes, and nothing else.
        let mut tags = vec![*old, *new];
        tags.sort_unstable();
        for node in mesh.running() {
            eventually(&format!("{} follows", node.name), secs(20), async || {
                let roles = roles(node).await?;
                ensure!(
                    roles[0] == (*old, "active".into()) && roles[1] == (*new, "retiring".into()),
                    "{roles:?}"
                );
                let (keys, soa) = (
                    signed_by(node.dns(), RecordType::DNSKEY).await?,
                    signed_by(node.dns(), RecordType::SOA).await?,
                );
                ensure!(keys == (tags.clone(), 2) && soa.0 == [*old], "{keys:?} {soa:?}");
                Ok(())
            })
            .await?;
            let ds = node.cli().expect(code::OK, &["dns", "ds", ZONE, "-o", "json"]).await?;
            let ds: Value = serde_json::from_str(&ds.stdout)?;
            ensure!(ds["keys"].as_array().is_some_and(|keys| keys.len() == 1), "{ds}");
        }
        let ran = eu.cli().expect(code::OK, &["status"]).await?;
        ran.must_say(&format!("{ZONE} {new_tag}"))?;

        // The order is taken back, and the parent names the other key: now the active one can go.
        eu.cli().expect(code::OK, &["dns", "key", "restore", ZONE, &new_tag]).await?.must_say("extra")?;
        mesh.apply("eu-1", &with_parent(&shop, &mesh, &ds_new)).await?;
        names_key(eu, *new).await?;
        eventually("us-1 takes it back too", secs(20), async || {
            let roles = roles(us).await?;
            ensure!(roles[1].1 == "extra", "{roles:?}");
            Ok(())
        })
        .await?;
        // Both nodes were started a moment ago.
        let ran = us.cli().expect(code::CONFLICT, &named).await?;
        ran.must_say("ten minutes")?;
        let forced = [&named[..], &["--force"]].concat();
        us.cli().expect(code::OK, &forced).await?;
        for node in mesh.running() {
            eventually(&format!("{} is signed by the other key", node.name), secs(20), async || {
                let (keys, soa) = (
                    signed_by(node.dns(), RecordType::DNSKEY).await?,
                    signed_by(node.dns(), RecordType::SOA).await?,
                );
                ensure!(keys == (tags.clone(), 2) && soa.0 == [*new], "{keys:?} {soa:?}");
                let ran = node.cli().expect(code::OK, &["dns", "ds", ZONE]).await?;
                ran.must_say(&ds_new)
            })
            .await?;
        }
        Ok(())
    });
}
