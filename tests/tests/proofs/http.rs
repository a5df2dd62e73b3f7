//! What a backend is told of a request, what a user is told of a failure, and which service answers.

use anyhow::{Context, Result, ensure};
use hyper::StatusCode;
use tests::backend::http_backends;
use tests::client::{Browser, Reply};
use tests::cluster::Cluster;
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::wait::secs;

fn problem(reply: &Reply, status: StatusCode, inside: &[&str]) -> Result<()> {
    ensure!(reply.status == status, "{} instead of {status}", reply.everything());
    let kind = reply.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(kind.starts_with("application/problem+json"), "an error of kind {kind:?}");
    let body: serde_json::Value = serde_json::from_slice(&reply.body).context("the problem's body")?;
    ensure!(body["status"] == status.as_u16(), "{body}");
    let told = reply.everything();
    for secret in inside {
        ensure!(!told.contains(secret), "{secret:?} is told to a user:\n{told}");
    }
    Ok(())
}

#[test]
fn requests_reach_the_right_service_with_the_users_true_address() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let (shop, rest) = backends.split_at(1);
        let (images, beta) = rest.split_at(1);
        let trusted = stage.net.user(500);
        let denied = stage.net.user(501);
        let services = Services::new()
            .and(format!(
                "[listener.http]\nport = 8080\nprotocol = \"http\"\ntrusted_proxies = [\"{trusted}/32\"]"
            ))
            .service(
                "shop",
                "shop-a = 1",
                &format!(
                    "hosts = [\"www.example.com\"]\ndeny = [\"{denied}/32\"]\n\
                     force = [{{ header = \"x-version\", value = \"beta\", pool = \"shop-b\" }}]"
                ),
            )
            .service("images", "images = 1", "hosts = [\"www.example.com\"]\npaths = [\"/images\"]")
            .pool("shop-a", HTTP_CHECK, shop)
            .pool("shop-b", "", beta)
            .pool("images", "", images);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http();
        let inside = [stage.net.prefix(), "shop-a".to_owned(), "eu-1".to_owned()];
        let inside: Vec<&str> = inside.iter().map(String::as_str).collect();

        for (path, backend) in
            [("/", "eu/1"), ("/images", "eu/2"), ("/images/a.png?b=c", "eu/2"), ("/imagesque", "eu/1")]
        {
            let seen = Browser::new().get(target, path).await?.seen()?;
            ensure!(seen.backend == backend && seen.target == path, "{path} went to {seen:?}");
        }
        let seen = Browser::new().host("WWW.Example.COM:8080").visit(target).await?;
        ensure!(seen.backend == "eu/1", "{}", seen.backend);
        let seen = Browser::new().header("x-version", "beta").visit(target).await?;
        ensure!(seen.backend == "eu/3", "the forced pool: {}", seen.backend);

        // Nobody who is not trusted says who he is.
        let user = stage.net.user(5);
        let liar =
            Browser::new().from(user).header("x-forwarded-for", "192.0.2.1").header("connection", "x-secret");
        let seen = liar.header("x-secret", "1").visit(target).await?;
        ensure!(seen.header("x-forwarded-for") == [user.to_string()], "{seen:?}");
        ensure!(seen.header("x-forwarded-proto") == ["http"], "{seen:?}");
        ensure!(
            !seen.headers.contains_key("x-secret"),
            "a header named by Connection is passed on: {seen:?}"
        );
        let mut proxy = Browser::new().from(trusted).header("x-forwarded-for", "192.0.2.1");
        let seen = proxy.visit(target).await?;
        ensure!(seen.header("x-forwarded-for") == ["192.0.2.1".to_owned(), trusted.to_string()], "{seen:?}");

        let refused = Browser::new().from(denied).get(target, "/").await?;
        problem(&refused, StatusCode::FORBIDDEN, &inside)?;
        let through = Browser::new()
            .from(trusted)
            .header("x-forwarded-for", &denied.to_string())
            .get(target, "/")
            .await?;
        problem(&through, StatusCode::FORBIDDEN, &inside)?;
        problem(
            &Browser::new().host("other.example").get(target, "/").await?,
            StatusCode::NOT_FOUND,
            &inside,
        )?;

        let reply = Browser::new().post(target, "/pay", &"x".repeat(500_000)).await?;
        ensure!(reply.seen()?.body.len() == 500_000, "the body was cut");
        Ok(())
    });
}

#[test]
fn a_refused_connection_is_tried_elsewhere_and_no_user_sees_it() {
    prove!(Light, secs(90), async |stage| {
        let mut backends = http_backends(&stage.net, &[("eu", 3)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services =
            Services::new().http_listener().service("web", "web = 1", "").pool("web", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http();

        let mut user = Browser::new();
        for round in 0..120 {
            if round == 30 {
                backends[1].refuse().await;
            }
            let reply = user.post(target, "/order", "one").await?;
            reply.seen().with_context(|| format!("in round {round}"))?;
        }
        mesh.each_sees("the dead one is down", secs(15), |status| {
            let state = &status.backend(backends[1].address())?.state;
            ensure!(["down", "ejected"].contains(&state.as_str()), "it is {state}");
            Ok(())
        })
        .await
    });
}
