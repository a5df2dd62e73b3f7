//! The dashboard as a person meets it: in a browser, live, by mouse and keyboard. Screenshots lie in `target/tmp/dashboard`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use fantoccini::Locator;
use fantoccini::key::Key;
use tests::backend::http_backends;
use tests::chromium::Window;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::prove;
use tests::services::{Entry, HTTP_CHECK, STICKY_COOKIE, Services};
use tests::wait::{eventually, secs};

async fn text(window: &Window, selector: &str) -> Result<String> {
    Ok(window.page.find(Locator::Css(selector)).await?.text().await?)
}

async fn shows(window: &Window, selector: &str, words: &str) -> Result<()> {
    eventually(&format!("{selector} shows {words:?}"), secs(20), async || {
        let text = text(window, selector).await?;
        ensure!(text.contains(words), "it shows {text:?}");
        Ok(())
    })
    .await
}

async fn click(window: &Window, selector: &str) -> Result<()> {
    Ok(window.page.find(Locator::Css(selector)).await?.click().await?)
}

#[test]
fn a_person_sees_a_death_and_drains_a_backend() {
    prove!(Heavy, secs(240), async |stage| {
        let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
        let Some(window) = Window::open(stage, &shots).await? else { return Ok(()) };
        let backends = http_backends(&stage.net, &[("eu", 2), ("us", 1)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2), ("us", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (http, admin) = (mesh.node("eu-1").http(), mesh.node("eu-1").admin());
        for at in 0..5 {
            Browser::new().from(stage.net.user(at)).visit(http).await?;
        }
        window.page.goto(&format!("http://{admin}/")).await?;
        shows(&window, "#verdict", "healthy").await?;
        shows(&window, "#pools", "3 of 3 take new users").await?;
        shows(&window, "#regions", "us").await?;
        window.shoot("overview").await?;

        // A death is seen without anybody asking for it.
        mesh.node_mut("us-1").kill().await?;
        shows(&window, "#problems", "us-1").await?;
        shows(&window, "#verdict", "degraded").await?;
        window.shoot("degraded").await?;

        // A drain, through the dialog, which says what it means and how a shell says it.
        let address = backends[0].address();
        let cell = format!(".cell[data-key=\"web-v1/{address}\"]");
        click(&window, &cell).await?;
        shows(&window, "#dialog-command", &format!("meridian drain backend web-v1/{address}")).await?;
        let impact = text(&window, "#dialog-impact").await?;
        ensure!(impact.contains("sessions") && impact.contains("other backends"), "{impact}");
        window.shoot("drain").await?;
        click(&window, "[data-act=Drain]").await?;
        eventually("the cell shows the drain", secs(20), async || {
            let cell = window.page.find(Locator::Css(&cell)).await?;
            let state = cell.attr("data-state").await?.context("no state")?;
            ensure!(state == "draining", "{state}");
            Ok(())
        })
        .await?;
        mesh.node("eu-2").cli().status().await?;

        // Where a user goes, asked in the page.
        let form = window.page.form(Locator::Css("#where")).await?;
        form.set_by_name("name", "www.lb.example.com").await?;
        form.set_by_name("from", "10.1.0.7").await?;
        click(&window, "#where button").await?;
        shows(&window, "#answer", "eu by prefixes").await?;

        // Every view, by keyboard alone.
        let first = window.page.find(Locator::Css("#tab-overview")).await?;
        first.click().await?;
        for (tab, selector, words) in [
            ("nodes", "#nodes", "eu-2"),
            ("users", "#services", "web"),
            ("sessions", "#sessions", "web-v1"),
            ("events", "#events", "us-1"),
            ("revisions", "#revision", "[pool.web-v1]"),
        ] {
            window.page.active_element().await?.send_keys(&char::from(Key::Right).to_string()).await?;
            shows(&window, selector, words).await?;
            window.shoot(tab).await?;
        }
        let order = text(&window, "#tab-nodes").await?;
        ensure!(order == "Nodes", "{order}");
        window.no_complaint(&[]).await?;
        window.close().await
    });
}

#[test]
fn sixty_backends_fit_a_small_screen_in_the_dark_too() {
    prove!(Heavy, secs(180), async |stage| {
        let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
        let Some(window) = Window::open(stage, &shots).await? else { return Ok(()) };
        let live = http_backends(&stage.net, &[("eu", 3)]).await?;
        let dead = (0..57).map(|at| Entry {
            address: (stage.net.backend(100 + at), 9).into(),
            region: ["eu", "us", "ap"][at % 3].to_owned(),
            weight: 100,
        });
        let all: Vec<Entry> = live.iter().map(Entry::from).chain(dead).collect();
        let services = Services::new()
            .http_listener()
            .service("web", "web-v1 = 1, web-v2 = 1", STICKY_COOKIE)
            .pool("web-v1", HTTP_CHECK, all[..30].to_vec())
            .pool("web-v2", HTTP_CHECK, all[30..].to_vec());
        let mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        mesh.apply("eu-1", &services).await?;
        let admin = mesh.node("eu-1").admin();
        window.page.goto(&format!("http://{admin}/")).await?;
        eventually("sixty cells are shown", secs(30), async || {
            let cells = window.run("return document.querySelectorAll('.cell').length").await?;
            ensure!(cells == 60, "{cells} cells");
            let down =
                window.run("return document.querySelectorAll('.cell[data-state=down]').length").await?;
            ensure!(down.as_u64() >= Some(50), "{down} are down");
            Ok(())
        })
        .await?;
        let fits = window
            .run(
                "const strip = [...document.querySelectorAll('.cell')].map((cell) => cell.getBoundingClientRect());\
                 return document.documentElement.scrollWidth <= innerWidth && strip.every((box) => box.right <= innerWidth && box.bottom <= innerHeight)",
            )
            .await?;
        window.shoot("sixty").await?;
        ensure!(fits == true, "some backends are beyond the screen");
        // Sign and word beside colour: nobody needs to tell red from green.
        let words = window
            .run("return [...document.querySelectorAll('.cell')].every((cell) => cell.textContent && cell.getAttribute('aria-label').includes(':'))")
            .await?;
        ensure!(words == true, "a cell tells by colour alone");
        window.no_complaint(&[]).await?;
        window.close().await
    });
}
