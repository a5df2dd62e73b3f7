//! HTTPS: the right certificate, sessions that resume on every node, certificates that change under way, and the way there.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::cli::code;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::{HOST, HTTP_CHECK, STICKY_COOKIE, Services};
use tests::tls::Authority;
use tests::wait::{eventually, secs};

const HTTPS: u16 = 8443;
const CLOSED: u16 = 9443;

fn at(http: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(http.ip(), port)
}

#[test]
fn the_name_chooses_the_certificate_and_a_session_resumes_on_every_node() {
    prove!(Light, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let (authority, clients) = (Authority::new()?, Authority::new()?);
        let signed = [HOST, "*.example.com", "example.net"].map(|name| authority.sign(&[name]));
        let mut entries = Vec::new();
        let mut certificates = Vec::new();
        for (number, signed) in signed.into_iter().enumerate() {
            let signed = signed?;
            entries.push(signed.write(stage.folder(), &format!("site-{number}"))?);
            certificates.push(signed.cert);
        }
        let ca = stage.folder().join("clients.pem");
        clients.write(&ca)?;
        let entries = entries.join(", ");
        let services = Services::new()
            .and(format!(
                "[listener.http]\nport = 8080\nprotocol = \"http\"\nredirect_https = true\n\
                 [listener.https]\nport = {HTTPS}\nprotocol = \"https\"\nhsts = \"30days\"\ncertificate = [{entries}]\n\
                 [listener.closed]\nport = {CLOSED}\nprotocol = \"https\"\nclient_ca = \"{}\"\ncertificate = [{entries}]",
                ca.display()
            ))
            .service("web", "web-v1 = 1", STICKY_COOKIE)
            .pool("web-v1", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        let nodes = ["eu-1", "eu-2"].map(|name| mesh.node(name).http());
        for node in nodes {
            eventually("the backends are up", secs(20), async || {
                let (answer, _) = authority.user(None)?.get(at(node, HTTPS), HOST, "/").await?;
                ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                Ok(())
            })
            .await?;
        }

        // The name chooses.
        let user = authority.user(None)?;
        for (name, number) in [(HOST, 0), ("shop.example.com", 1), ("example.net", 2)] {
            let talk = authority.user(None)?.open(at(nodes[0], HTTPS), name).await?;
            ensure!(talk.shown() == Some(&certificates[number]), "another certificate for {name}");
        }
        let stranger = authority.user(None)?.open(at(nodes[0], HTTPS), "a.b.example.com").await;
        ensure!(stranger.is_err(), "a wildcard covers two labels");

        // A session of one node resumes on the other, and back.
        for (node, expected) in [(nodes[0], false), (nodes[1], true), (nodes[0], true)] {
            let (answer, resumed) = user.get(at(node, HTTPS), HOST, "/").await?;
            ensure!(resumed == expected, "at {node}: resumed {resumed}");
            let head = answer.to_lowercase();
            for said in ["\r\nstrict-transport-security: max-age=2592000\r\n", "; secure"] {
                ensure!(head.contains(said), "no {said:?} in {answer}");
            }
            ensure!(head.contains("\"x-forwarded-proto\":[\"https\"]"), "the backend is not told: {answer}");
        }

        // In the clear one is sent there.
        let reply = Browser::new().get(nodes[1], "/cart?x=1").await?;
        ensure!(reply.status == 308, "{reply:?}");
        let location = reply.headers.get("location").and_then(|value| value.to_str().ok());
        ensure!(location == Some(&format!("https://{HOST}:{HTTPS}/cart?x=1")), "{location:?}");

        // The closed door opens to its clients alone, and no ticket of the open one opens it.
        let known = authority.user(Some(&clients.sign(&["user.example.com"])?))?;
        let (answer, _) = known.get(at(nodes[0], CLOSED), HOST, "/").await?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let forged = authority.user(Some(&authority.sign(&["user.example.com"])?))?;
        ensure!(forged.get(at(nodes[0], CLOSED), HOST, "/").await.is_err(), "a forged certificate is taken");
        ensure!(user.get(at(nodes[0], CLOSED), HOST, "/").await.is_err(), "no certificate is asked for");
        Ok(())
    });
}

#[test]
fn a_certificate_changes_and_breaks_without_a_dropped_connection() {
    prove!(Light, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let authority = Authority::new()?;
        let first = authority.sign(&[HOST])?;
        let entry = first.write(stage.folder(), "site")?;
        let services = Services::new()
            .and(format!("[listener.https]\nport = {HTTPS}\nprotocol = \"https\"\ncertificate = [{entry}]"))
            .service("web", "web-v1 = 1", "")
            .pool("web-v1", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        let (node, cli) = (at(mesh.node("eu-1").http(), HTTPS), mesh.node("eu-1").cli());
        let user = authority.user(None)?;
        eventually("the backend is up", secs(20), async || {
            let (answer, _) = user.get(node, HOST, "/").await?;
            ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            Ok(())
        })
        .await?;
        let mut kept = user.open(node, HOST).await?;
        kept.get("/").await?;

        let second = authority.sign(&[HOST])?;
        second.write(stage.folder(), "site")?;
        let is_shown = async || {
            let talk = authority.user(None)?.open(node, HOST).await?;
            ensure!(talk.shown() == Some(&second.cert), "the old certificate is shown");
            Ok(())
        };
        eventually("the new certificate is shown", secs(15), is_shown).await?;
        kept.get("/").await.context("over the connection from before")?;
        ensure!(user.get(node, HOST, "/").await?.1, "the session does not resume over the change");

        std::fs::write(stage.folder().join("site.key"), "not a key")?;
        let told = async |words: &str, expected: bool| {
            eventually("status speaks of the key", secs(15), async || {
                let said = cli.expect(code::OK, &["status", "-o", "json"]).await?.stdout;
                ensure!(said.contains(words) == expected, "{said}");
                Ok(())
            })
            .await
        };
        told("holds no private key", true).await?;
        is_shown().await?;
        kept.get("/").await.context("with a broken key")?;
        authority.sign(&[HOST])?.write(stage.folder(), "site")?;
        told("holds no private key", false).await?;
        kept.get("/").await.context("with the third certificate")?;

        // A revision whose certificate this node does not have is taken, told, and costs nothing.
        let absent = "{ cert = \"/nowhere/a.pem\", key = \"/nowhere/a.key\" }";
        let services = Services::new()
            .and(format!("[listener.https]\nport = {HTTPS}\nprotocol = \"https\"\ncertificate = [{absent}]"))
            .service("web", "web-v1 = 1", "")
            .pool("web-v1", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        told("/nowhere/a.pem: there is no such file", true).await?;
        authority.user(None)?.open(node, HOST).await?;
        kept.get("/").await.context("with a revision that names nothing")?;
        Ok(())
    });
}

#[test]
fn a_node_starts_without_its_certificates_and_backends_speak_tls() {
    prove!(Light, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let authority = Authority::new()?;
        let (inner, door) = (authority.sign(&["backend.internal"])?, stage.folder().join("ca.pem"));
        authority.write(&door)?;
        let entry = inner.write(stage.folder(), "inner")?;
        // The first listener is the backend of the second: TLS on both of its sides.
        let node = mesh.node("eu-1").address;
        let services = |inner: &str| -> Result<Services> {
            Ok(Services::new()
                .http_listener()
                .and(format!("[listener.inner]\nport = {HTTPS}\nprotocol = \"https\"\ncertificate = [{inner}]"))
                .service("outer", "outer = 1", &format!("hosts = [\"{HOST}\"]"))
                .service("inner", "inner = 1", "hosts = [\"backend.internal\"]\npaths = [\"/\"]")
                .pool(
                    "outer",
                    &format!(
                        "protocol = \"https\"\nca = \"{}\"\nserver_name = \"backend.internal\"\n\
                         health.http = {{ path = \"/healthz\", host = \"backend.internal\", interval = \"500ms\", timeout = \"500ms\" }}",
                        door.display()
                    ),
                    [tests::services::Entry { address: (node, HTTPS).into(), region: "eu".into(), weight: 100 }],
                )
                .pool("inner", HTTP_CHECK, &backends))
        };
        mesh.apply("eu-1", &services(&entry)?).await?;
        let up = async |mesh: &Cluster<'_>| {
            let cli = mesh.node("eu-1").cli();
            eventually("the pool behind TLS is up", secs(20), async || {
                let status = cli.status().await?;
                let pool = status.pools.iter().find(|pool| pool.name == "outer").context("no pool")?;
                let states: Vec<_> = pool.backends.iter().map(|backend| backend.state.clone()).collect();
                ensure!(states == ["up"], "{states:?}");
                Ok(())
            })
            .await
        };
        up(&mesh).await?;

        // Without its files the node starts all the same, and says what it lacks.
        let away = stage.folder().join("inner.away");
        std::fs::rename(stage.folder().join("inner.pem"), &away)?;
        mesh.node_mut("eu-1").kill().await?;
        mesh.node_mut("eu-1").start().await?;
        let said = mesh.node("eu-1").cli().expect(code::OK, &["status", "-o", "json"]).await?.stdout;
        ensure!(said.contains("handshakes that need it are refused"), "{said}");
        ensure!(authority.user(None)?.open((node, HTTPS).into(), "backend.internal").await.is_err());
        std::fs::rename(&away, stage.folder().join("inner.pem"))?;
        up(&mesh).await
    });
}
