//! The session cookie: who makes it, who can read it, and what becomes of one that is cut or forged.

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use tests::backend::http_backends;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::{COOKIE, Services};
use tests::wait::secs;

const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn noise(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// One character of the value replaced by another.
fn with_one_changed(value: &str, at: usize) -> String {
    let mut bytes = value.as_bytes().to_vec();
    // Four steps away in the alphabet: a difference in bits that carry data, at the end of the value too.
    let place = ALPHABET.iter().position(|byte| *byte == bytes[at]).unwrap_or_default();
    bytes[at] = ALPHABET[(place + 16) % ALPHABET.len()];
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn the_cookie_is_sealed_kept_from_backends_and_renewed_when_it_is_not_ours() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http();

        let mut user = Browser::new().cookie("theme", "dark").cookie("cart", "3");
        let reply = user.get(target, "/").await?;
        let line = reply.set_cookie(COOKIE).context("a session cookie")?.to_lowercase();
        for attribute in ["httponly", "samesite=lax", "path=/", "max-age="] {
            ensure!(line.contains(attribute), "no {attribute} in {line}");
        }
        ensure!(!line.contains("secure"), "Secure over plain HTTP: {line}");
        let first = reply.seen()?;
        let again = user.get(target, "/").await?;
        ensure!(again.set_cookie(COOKIE).is_none(), "the cookie is renewed with every request");
        let seen = again.seen()?;
        ensure!(seen.backend == first.backend, "moved");
        ensure!(seen.headers.get("cookie").is_some_and(|lines| lines == &["cart=3; theme=dark"]), "{seen:?}");
        let value = user.session()?;
        ensure!(value.len() < 256, "the cookie has {} bytes", value.len());

        let mut forged =
            vec![String::new(), "0".into(), noise(40), noise(value.len()), noise(3000), value.repeat(2)];
        forged.push("%00%ff,\"\\".to_owned());
        forged.extend((0..value.len()).step_by(7).map(|at| with_one_changed(&value, at)));
        forged.extend((1..value.len()).step_by(11).map(|length| value[..length].to_owned()));
        for each in &forged {
            renewed(target, each).await.with_context(|| format!("with the cookie {each:?}"))?;
        }
        ensure!(user.visit(target).await?.backend == first.backend, "the true cookie no longer counts");
        Ok(())
    });
}

/// A user with this cookie is a new user: served, with a new cookie, which then holds.
async fn renewed(target: std::net::SocketAddr, forged: &str) -> Result<()> {
    let mut user = Browser::new().cookie(COOKIE, forged);
    let reply = user.get(target, "/").await?;
    let seen = reply.seen()?;
    ensure!(!seen.headers.contains_key("cookie"), "the backend sees it: {seen:?}");
    reply.set_cookie(COOKIE).context("no new cookie")?;
    ensure!(user.visit(target).await?.backend == seen.backend, "the new session moved");
    Ok(())
}

#[test]
fn a_cookie_of_another_mesh_or_another_service_is_nobodys() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let sticky = |name: &str| {
            format!(
                "sticky.cookie = {{ name = \"{name}\", ttl = \"8h\", max_age = \"24h\", on_down = \"repin\" }}"
            )
        };
        let services = Services::new()
            .http_listener()
            .service("shop", "web = 1", &format!("hosts = [\"shop.example.com\"]\n{}", sticky("s")))
            .service("blog", "web = 1", &format!("hosts = [\"blog.example.com\"]\n{}", sticky("s")))
            .pool("web", "", &backends);
        mesh.apply("eu-1", &services).await?;
        let target = mesh.node("eu-1").http();

        let mut shopper = Browser::new().host("shop.example.com");
        shopper.visit(target).await?;
        let value = shopper.cookies.get("s").context("a cookie")?.clone();
        let mut reader = Browser::new().host("blog.example.com").cookie("s", &value);
        let reply = reader.get(target, "/").await?;
        reply.seen()?;
        reply.set_cookie("s").context("the blog takes the shop's cookie")?;

        // Another mesh makes its own key.
        let mut second = tests::cluster::node_at(stage, 20, "eu-1", "eu", Vec::new(), None);
        second.start().await?;
        let file = stage.write("services.toml", services.text())?;
        second.cli().expect(0, &["apply", tests::cli::text(&file)?]).await?;
        tests::wait::eventually("the other mesh serves", secs(10), async || {
            let mut stranger = Browser::new().host("shop.example.com").cookie("s", &value);
            let reply = stranger.get(second.http(), "/").await?;
            reply.seen()?;
            ensure!(reply.set_cookie("s").is_some(), "another mesh takes this one's cookie");
            Ok(())
        })
        .await
    });
}
