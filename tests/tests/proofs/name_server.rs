//! What an operator of a zone does: apply its file, encrypt, replace the GeoIP file, ask why, ask whether the delegation is right.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::cli::{code, text};
use tests::cluster::Cluster;
use tests::dns::{Question, resolve};
use tests::net::DNS;
use tests::peer::{all, said};
use tests::prove;
use tests::services::{HTTP_CHECK, NAME, STICKY_COOKIE, Services, ZONE};
use tests::stage::Stage;
use tests::tls::Authority;
use tests::wait::{eventually, secs};

const TLS_PORT: u16 = 5853;
const EU: (f64, f64) = (50.11, 8.68);
const US: (f64, f64) = (39.04, -77.49);

/// A zone file with two name servers of its own.
fn zone_file(servers: [Ipv4Addr; 2]) -> String {
    let [first, second] = servers;
    format!(
        "$TTL 1h\n@ SOA ns1 hostmaster ( 2026112101 1d 2h 1000h 5m ) ; the serial is not served\n\
         \tNS ns1\n\tNS ns2\nns1 A {first}\nns2 A {second}\nmail 300 A 192.0.2.25\n@ MX 10 mail\n"
    )
}

/// A GeoIP file that places the users of 198.51.100.0/24, put where the node finds it, as a whole.
fn place_users(stage: &Stage, (north, east): (f64, f64)) -> Result<()> {
    let database = tests::mmdb::database(1_700_000_000, &[("198.51.100.0/24", north, east)]);
    let (new, path) = (stage.folder().join("city.new"), stage.folder().join("city.mmdb"));
    std::fs::write(&new, database)?;
    Ok(std::fs::rename(new, path)?)
}

/// eu-1 and us-1, both with a GeoIP file, eu-1 with DNS over TLS; the zone comes from a file.
async fn mesh<'s>(stage: &'s Stage, authority: &Authority) -> Result<Cluster<'s>> {
    let mut mesh = Cluster::empty(stage).await?;
    let shown = authority.sign(&["ns1.lb.example.com"])?.write(stage.folder(), "dns")?;
    place_users(stage, US)?;
    let geoip = format!("geoip = \"{}\"\n", stage.folder().join("city.mmdb").display());
    for region in ["eu", "us"] {
        let node = mesh.place(region);
        let command = node.command()?;
        let tls =
            format!("tls = {{ listen = [\"{}:{TLS_PORT}\"], certificate = [{shown}] }}\n", node.address);
        let file = std::fs::read_to_string(node.file())?;
        std::fs::write(node.file(), file.replace("[dns]\n", &format!("[dns]\n{geoip}{tls}")))?;
        node.launch_as(command)?;
        node.ready().await?;
    }
    mesh.agree().await?;
    Ok(mesh)
}

#[test]
fn a_zone_file_is_served_by_all_nodes_and_over_tls() {
    prove!(Light, secs(120), async |stage| {
        let Some([kdig, dig]) = all(["kdig", "dig"]) else { return Ok(()) };
        let backends = http_backends(&stage.net, &[("eu", 1), ("us", 1)]).await?;
        let authority = Authority::new()?;
        let ca = stage.folder().join("ca.pem");
        authority.write(&ca)?;
        let mesh = mesh(stage, &authority).await?;
        let (eu, us) = (mesh.node("eu-1"), mesh.node("us-1"));
        let services = Services::new()
            .and(format!(
                "[dns.zone.\"{ZONE}\"]\nfile = \"lb.zone\"\nttl = \"5s\"\nsteer.www = {{ service = \"web\" }}"
            ))
            .http_listener()
            .service("web", "web-v1 = 1", STICKY_COOKIE)
            .pool("web-v1", HTTP_CHECK, &backends);
        let file = stage.write("services.toml", services.text())?;
        let apply = ["apply", text(&file)?];

        // A zone file with faults changes nothing and is named with its lines.
        let whole = zone_file([eu.address, us.address]);
        stage.write("lb.zone", &format!("{whole}www A 1.2.3\n$INCLUDE more\n"))?;
        let refused = eu.cli().expect(code::INVALID, &apply).await?;
        refused.must_say("lb.zone:9:7]")?;
        refused.must_say("`$INCLUDE` is not followed")?;
        ensure!(eu.cli().status().await?.revision.is_none(), "nothing was applied");
        stage.write("lb.zone", &whole)?;
        eu.cli().expect(code::OK, &apply).await?;
        std::fs::remove_file(stage.folder().join("lb.zone"))?;

        // All nodes serve it, though none has the file.
        for node in [eu, us] {
            eventually(&format!("{} serves the zone", node.name), secs(20), async || {
                resolve(node.dns(), "mail.lb.example.com.", "192.0.2.0/24")
                    .await?
                    .only(&["192.0.2.25".parse()?])
            })
            .await?;
        }

        // Over TLS, verified, padded, with the steered addresses too.
        let at = format!("@{}", eu.address);
        let port = TLS_PORT.to_string();
        let (kdig, ca, hostname) =
            (text(&kdig)?, format!("+tls-ca={}", text(&ca)?), "+tls-hostname=ns1.lb.example.com");
        let arguments = [&at, "-p", &port, &ca, hostname, "+padding=128", "MX", ZONE];
        let answer = said(kdig, &arguments).await?;
        ensure!(answer.contains("10 mail.lb.example.com.") && answer.contains("Received 468 B"), "{answer}");
        let wrong = [&at, "-p", &port, &ca, "+tls-hostname=ns9.lb.example.com", "+retry=0", "MX", ZONE];
        ensure!(said(kdig, &wrong).await.is_err(), "another name was accepted");

        // The node asks itself why; its file says that these users are in the other region.
        mesh.healthy().await?;
        let users = "198.51.100.0/24";
        eventually("users are sent where the file says", secs(20), async || {
            resolve(eu.dns(), NAME, users).await?.only(&[us.address])
        })
        .await?;
        let dns = DNS.to_string();
        let asked = [&at, "-p", &dns, "+nsid", "+cookie", "+subnet=198.51.100.0/24", "A", NAME];
        let answer = said(text(&dig)?, &asked).await?;
        for part in ["(\"eu-1\")", "(good)", "CLIENT-SUBNET: 198.51.100.0/24/24", &us.address.to_string()] {
            ensure!(answer.contains(part), "{part}: {answer}");
        }
        let explain = ["dns", "explain", NAME, "--from", "198.51.100.7", "--resolver", "10.1.2.3"];
        let explained = eu.cli().expect(code::OK, &explain).await?;
        explained.must_say("the GeoIP file (Test-City) knows it")?;
        explained.must_say(&format!("us-1 at {}", us.address))?;
        explained.must_say(&format!("eu-1 at {}", eu.address))?;

        // The file is replaced, then damaged: the first counts within seconds, the second is told and takes nothing away.
        place_users(stage, EU)?;
        eventually("the new file is used", secs(20), async || {
            resolve(eu.dns(), NAME, users).await?.only(&[eu.address])
        })
        .await?;
        std::fs::write(stage.folder().join("city.mmdb"), "cut")?;
        eventually("the damage is told", secs(20), async || {
            let ran = eu.cli().expect(code::OK, &["status"]).await?;
            ran.must_say("stays in use")
        })
        .await?;
        resolve(eu.dns(), NAME, users).await?.only(&[eu.address])?;

        // The delegation, from outside.
        let port = DNS.to_string();
        let check = ["dns", "check", ZONE, "--port", &port];
        let checked = us.cli().expect(code::OK, &check).await?;
        checked.must_say("lb.example.com. is well delegated")?;
        let json = us.cli().expect(code::OK, &["dns", "check", ZONE, "--port", &port, "-o", "json"]).await?;
        let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
        ensure!(json["sound"] == true && json["servers"].as_array().context("servers")?.len() == 2, "{json}");
        let parent = format!("{}", eu.dns());
        let lame = us.cli().expect(code::FAILURE, &["dns", "check", ZONE, "--port", "9"]).await?;
        lame.must_say("it does not answer")?;
        // A server of the zone itself knows nothing of its parent.
        let same = ["dns", "check", ZONE, "--port", &port, "--parent", &parent];
        let same = us.cli().expect(code::FAILURE, &same).await?;
        same.must_say("answers for lb.example.com. itself, not for its parent")?;
        same.must_say("dig NS example.com.")?;
        us.cli()
            .expect(code::FAILURE, &["dns", "check", "other.example"])
            .await?
            .must_say("there is lb.example.com")?;
        Ok(())
    });
}

#[test]
fn no_query_is_lost_while_configuration_and_health_change() {
    prove!(Heavy, secs(120), async |stage| {
        let Some([dnsperf]) = all(["dnsperf"]) else { return Ok(()) };
        let dnsperf = text(&dnsperf)?;
        let backends = http_backends(&stage.net, &[("eu", 1), ("us", 1)]).await?;
        let authority = Authority::new()?;
        let mut mesh = Cluster::empty(stage).await?;
        let shown = authority.sign(&["ns1.lb.example.com"])?.write(stage.folder(), "dns")?;
        let node = mesh.place("eu");
        let command = node.command()?;
        let tls =
            format!("tls = {{ listen = [\"{}:{TLS_PORT}\"], certificate = [{shown}] }}\n", node.address);
        let file = std::fs::read_to_string(node.file())?;
        std::fs::write(
            node.file(),
            file.replace(
                "[dns]\n",
                &format!("[dns]\n{tls}rate_limit = {{ per_network = 1000000, slip = 2 }}\n"),
            ),
        )?;
        node.launch_as(command)?;
        node.ready().await?;
        let services =
            |number: usize| Services::shop(&stage.net, &backends).record("n", "TXT", &number.to_string());
        let revisions: Vec<Services> = (0..6).map(services).collect();
        mesh.apply("eu-1", &revisions[0]).await?;

        let queries =
            stage.write("queries", &format!("{NAME} A\nn.{ZONE} TXT\nmissing.{ZONE} A\n{ZONE} SOA\n"))?;
        let (server, dns, dot) =
            (mesh.node("eu-1").address.to_string(), DNS.to_string(), TLS_PORT.to_string());
        let asks = |mode: &'static str| {
            let port = if mode == "dot" { &dot } else { &dns };
            let common = [
                "-s",
                &server,
                "-d",
                text(&queries)?,
                "-m",
                mode,
                "-p",
                port,
                "-c",
                "4",
                "-l",
                "8",
                "-Q",
                "400",
            ];
            anyhow::Ok(common.map(str::to_owned))
        };
        let perf = async |mode: &'static str| {
            let arguments = asks(mode)?;
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            said(dnsperf, &arguments).await
        };
        let changes = async {
            for services in &revisions[1..] {
                mesh.apply("eu-1", services).await?;
            }
            backends[1].set_healthy(false);
            mesh.each_sees("one is down", secs(15), |status| {
                let state = &status.backend(backends[1].address())?.state;
                ensure!(state == "down", "it is {state}");
                Ok(())
            })
            .await?;
            backends[1].set_healthy(true);
            mesh.healthy().await
        };
        let (udp, tcp, dot, changed) = tokio::join!(perf("udp"), perf("tcp"), perf("dot"), changes);
        changed?;
        for (mode, said) in [("udp", udp?), ("tcp", tcp?), ("dot", dot?)] {
            let count = |what: &str| {
                let line = said.lines().find_map(|line| line.trim().strip_prefix(what));
                line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
            };
            ensure!(count("Queries sent:") > 500, "{mode}: {said}");
            ensure!(count("Queries lost:") == 0, "{mode}: {said}");
            ensure!(!said.contains("SERVFAIL") && !said.contains("REFUSED"), "{mode}: {said}");
        }
        Ok(())
    });
}

#[test]
fn what_a_node_gives_back_can_be_applied_again() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let node = mesh.node("eu-1");
        let text_of = |zone: &str| {
            format!("[dns.zone.\"{ZONE}\"]\nfile = {zone}\n\n{}", {
                let rest = Services::new().http_listener().service("web", "p = 1", STICKY_COOKIE);
                rest.pool("p", HTTP_CHECK, &backends).text().to_owned()
            })
        };
        stage.write("lb.zone", &zone_file([node.address, node.address]))?;
        let file = stage.write("services.toml", &text_of("\"lb.zone\""))?;
        node.cli().expect(code::OK, &["apply", text(&file)?]).await?;
        let url = format!("http://{}/v1/revisions/current", node.admin());
        let given = said("curl", &["-sf", &url]).await?;
        let again = stage.write("again.toml", &given)?;
        node.cli().expect(code::OK, &["apply", text(&again)?]).await?.must_say("already in force")?;
        // The bare path is of no use to a node, which says what to do.
        let posted = ["-s", "--data-binary", &format!("@{}", text(&file)?), &url.replace("/current", "")];
        let refused = said("curl", &posted).await?;
        ensure!(refused.contains("meridian apply"), "{refused}");
        let soa =
            Question::new(&format!("{ZONE}."), hickory_proto::rr::RecordType::SOA)?.ask(node.dns()).await?;
        let record = soa.message.answers.first().context("an SOA")?;
        ensure!(
            record.data.to_string().contains("hostmaster.lb.example.com. 1 86400 7200 3600000 300"),
            "{record}"
        );
        Ok(())
    });
}
