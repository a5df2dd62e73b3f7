//! The admin API: any node tells the whole mesh, in shapes that its own document describes; errors are problems; a stream of
//! events goes on where it was; Prometheus finds what it wants.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::backend::http_backends;
use tests::client::{Browser, Reply};
use tests::cluster::Cluster;
use tests::prove;
use tests::services::Services;
use tests::wait::{eventually, secs};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

async fn ask(admin: SocketAddr, path: &str) -> Result<Reply> {
    Ok(Browser::new().host(&admin.to_string()).get(admin, path).await?)
}

async fn json(admin: SocketAddr, path: &str) -> Result<Value> {
    let reply = ask(admin, path).await?;
    ensure!(reply.status.is_success(), "{path}: {}", reply.everything());
    serde_json::from_slice(&reply.body).with_context(|| path.to_owned())
}

async fn order(admin: SocketAddr, method: &str, path: &str, header: Option<(&str, &str)>) -> Result<Reply> {
    let mut browser = Browser::new().host(&admin.to_string());
    if let Some((name, value)) = header {
        browser = browser.header(name, value);
    }
    Ok(browser.request(method.parse()?, admin, path, Default::default()).await?)
}

#[test]
fn any_node_tells_the_whole_in_the_shapes_of_its_document() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2), ("us", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        let admin = mesh.node("us-1").admin();
        let early = ask(admin, "/readyz").await?;
        ensure!(early.status.as_u16() == 503, "ready with nothing to serve: {}", early.everything());
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;

        let ready = json(admin, "/readyz?verbose").await?;
        ensure!(
            ready["ready"] == true && ready["checks"].as_array().is_some_and(|all| all.len() >= 4),
            "{ready}"
        );
        let nodes = json(admin, "/v1/nodes").await?;
        ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 3), "{nodes}");
        ensure!(json(admin, "/v1/nodes/eu-2").await?["region"] == "eu", "one node");
        let regions = json(admin, "/v1/regions").await?;
        let eu = regions.as_array().into_iter().flatten().find(|region| region["name"] == "eu");
        let eu = eu.with_context(|| format!("no eu in {regions}"))?;
        ensure!(eu["nodes_alive"] == 2 && eu["pools"][0]["healthy"] == 2, "{eu}");
        let address = backends[0].address();
        let one = json(admin, &format!("/v1/backends/web-v1/{address}")).await?;
        ensure!(one["state"] == "up" && one["pool"] == "web-v1", "{one}");
        let of_us = json(admin, "/v1/backends?region=us").await?;
        ensure!(of_us.as_array().is_some_and(|all| all.len() == 1), "{of_us}");
        let service = json(admin, "/v1/services/web").await?;
        ensure!(service["split"][0]["takes_new"] == 3 && service["listeners"][0] == "http", "{service}");

        let document = json(admin, "/v1/openapi.json").await?;
        for path in ["/v1/status", "/v1/sessions/{id}", "/v1/drains/{kind}/{name}", "/v1/revisions"] {
            ensure!(document["paths"][path].is_object(), "{path} is not described");
        }

        for (path, status) in
            [("/v1/nodes/eu-9", 404), ("/v1/nothing", 404), ("/v1/sessions?limit=many", 400)]
        {
            let reply = ask(admin, path).await?;
            let kind = reply.headers.get("content-type").and_then(|kind| kind.to_str().ok());
            ensure!(reply.status.as_u16() == status, "{path}: {}", reply.everything());
            ensure!(kind == Some("application/problem+json"), "{path}: {kind:?}");
            let policy = reply.headers.get("content-security-policy").context("no policy")?.to_str()?;
            ensure!(policy.contains("default-src 'none'"), "{policy}");
        }
        let got = order(admin, "GET", "/v1/drains/node/eu-1", None).await?;
        ensure!(got.status.as_u16() == 405 && got.headers.contains_key("allow"), "{}", got.everything());
        let foreign =
            order(admin, "PUT", "/v1/drains/node/eu-1", Some(("origin", "http://evil.example"))).await?;
        ensure!(foreign.status.as_u16() == 403, "{}", foreign.everything());
        Ok(())
    });
}

#[test]
fn orders_are_compared_and_set() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let admin = mesh.node("eu-1").admin();
        let path = format!("/v1/drains/backend/{}", backends[0].address());
        let before = ask(admin, "/v1/intents").await?;
        let tag = before.headers.get("etag").context("no etag")?.to_str()?.to_owned();
        let first = order(admin, "PUT", &path, Some(("if-match", &tag))).await?;
        ensure!(first.status.is_success(), "{}", first.everything());
        let late = order(admin, "DELETE", &path, Some(("if-match", &tag))).await?;
        ensure!(late.status.as_u16() == 412, "{}", late.everything());
        let tag = first.headers.get("etag").context("no etag")?.to_str()?.to_owned();
        let undone = order(admin, "DELETE", &path, Some(("if-match", &tag))).await?;
        ensure!(undone.status.is_success(), "{}", undone.everything());
        Ok(())
    });
}

/// Reads a stream until an event's text has these words; gives its id.
async fn hear(admin: SocketAddr, after: Option<&str>, words: &str) -> Result<String> {
    let stream = TcpStream::connect(admin).await?;
    let mut stream = BufReader::new(stream);
    let resume = after.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
    let head =
        format!("GET /v1/events HTTP/1.1\r\nhost: {admin}\r\naccept: text/event-stream\r\n{resume}\r\n");
    stream.get_mut().write_all(head.as_bytes()).await?;
    let mut id = String::new();
    let reading = async {
        loop {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line).await? > 0, "the stream ended");
            if let Some(is) = line.strip_prefix("id:") {
                id = is.trim().to_owned();
            }
            if line.starts_with("data:") && line.contains(words) {
                return Ok(id);
            }
        }
    };
    tokio::time::timeout(secs(20), reading).await.with_context(|| format!("nobody says {words:?}"))?
}

#[test]
fn a_stream_of_events_goes_on_where_it_was() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        let admin = mesh.node("eu-1").admin();
        let listening = tokio::spawn(async move { hear(admin, None, "eu-2 is silent").await });
        mesh.node_mut("eu-2").kill().await?;
        let id = listening.await??;
        mesh.node_mut("eu-2").start().await?;
        hear(admin, Some(&id), "eu-2 ").await?;
        let events = json(admin, "/v1/events").await?;
        ensure!(
            events.as_array().is_some_and(|all| all.iter().any(|event| event["kind"] == "suspect")),
            "{events}"
        );
        Ok(())
    });
}

#[test]
fn metrics_count_what_was_served_and_by_whom_it_was_asked() {
    prove!(Light, secs(60), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (http, admin) = (mesh.node("eu-1").http(), mesh.node("eu-1").admin());
        let network = stage.net.user(0);
        for at in 0..7 {
            Browser::new().from(stage.net.user(at)).visit(http).await?;
        }
        let page = ask(admin, "/metrics").await?;
        let kind = page.headers.get("content-type").context("no type")?.to_str()?;
        ensure!(kind.starts_with("application/openmetrics-text"), "{kind}");
        let page = page.text();
        let value = |wanted: &str| {
            page.lines().find_map(|line| line.strip_prefix(wanted)?.trim().parse::<f64>().ok())
        };
        let served = value("meridian_service_requests_total{service=\"web\",end=\"ok\"}");
        ensure!(served == Some(7.0), "{served:?} in\n{page}");
        ensure!(value("meridian_request_duration_seconds_count{service=\"web\"}") == Some(7.0), "{page}");
        ensure!(value("meridian_mesh_members{state=\"alive\"}") == Some(2.0), "{page}");
        ensure!(value("meridian_listener_connections_limit{listener=\"http\"}").is_some(), "{page}");
        ensure!(page.lines().all(|line| line.starts_with("meridian_") || line.starts_with('#')), "{page}");
        ensure!(page.ends_with("# EOF\n"), "it is not whole");

        // From another node: who asked, as a network, and how it went.
        let other = mesh.node("eu-2").admin();
        eventually("eu-2 tells of the users of eu-1", secs(10), async || {
            let users = json(other, "/v1/users").await?;
            let octets = network.octets();
            let net = format!("{}.{}.{}.0/24", octets[0], octets[1], octets[2]);
            let known =
                users["networks"].as_array().into_iter().flatten().find(|of| of["network"] == net.as_str());
            ensure!(known.is_some_and(|of| of["requests"] == 7), "{net} is not in {users}");
            ensure!(!users.to_string().contains(&network.to_string()), "a full address is told: {users}");
            ensure!(users["services"][0]["requests"] == 7, "{users}");
            let traffic = json(other, "/v1/traffic").await?;
            let seconds = traffic["seconds"].as_array().context("seconds")?;
            let sum: u64 = seconds.iter().filter_map(|second| second["requests"].as_u64()).sum();
            ensure!(sum == 7, "{sum} requests in {traffic}");
            Ok(())
        })
        .await
    });
}
