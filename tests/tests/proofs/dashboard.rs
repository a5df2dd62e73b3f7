//! The dashboard as a person meets it: in a browser, live, by mouse and keyboard. Screenshots lie in `target/tmp/dashboard`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fantoccini::Locator;
use fantoccini::actions::{InputSource, MOUSE_BUTTON_LEFT, MouseActions, PointerAction};
use fantoccini::key::Key;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tests::backend::http_backends;
use tests::chromium::Window;
use tests::client::Browser;
use tests::cluster::Cluster;
use tests::load::{Load, Regular};
use tests::prove;
use tests::services::{Entry, HTTP_CHECK, STICKY_COOKIE, Services};
use tests::wait::{eventually, secs};
use tokio::net::TcpListener;

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

/// Clicks once; again only if the page drew it anew in the act, or moved something over it.
async fn click(window: &Window, selector: &str) -> Result<()> {
    eventually(&format!("{selector} is clicked"), secs(20), async || {
        Ok(window.page.find(Locator::Css(selector)).await?.click().await?)
    })
    .await
}

/// Waits until the page has asked the node how things are since the timings were cleared.
async fn asked_anew(window: &Window) -> Result<()> {
    eventually("the page has asked the node anew", secs(20), async || {
        let asked =
            "return performance.getEntriesByType('resource').some((of) => of.name.endsWith('/v1/traffic'))";
        ensure!(window.run(asked).await? == true, "it has not");
        Ok(())
    })
    .await
}

/// Makes the page wait for the next revision's text that it asks for, until `release` is called.
const HOLD_A_REVISION: &str = "\
  const fetch = window.fetch;\
  window.release = null;\
  window.fetch = async (path, options) => {\
    const held = window.release === null && /[/]revisions[/]/.test(path);\
    if (held) await new Promise((resolve) => { window.release = resolve; });\
    return fetch(path, options);\
  };";

/// Presses the button, holds it until the page has asked the node anew, and lets it go. The page knows it as `pressed` then.
async fn press_while_it_is_asked_anew(window: &Window, selector: &str) -> Result<()> {
    let element = window.page.find(Locator::Css(selector)).await?;
    window.run(&format!("window.pressed = document.querySelector({selector:?})")).await?;
    window.run("performance.clearResourceTimings()").await?;
    let mouse = || MouseActions::new("mouse".to_owned());
    let onto = PointerAction::MoveToElement { element, duration: None, x: 0.0, y: 0.0 };
    window
        .page
        .perform_actions(mouse().then(onto).then(PointerAction::Down { button: MOUSE_BUTTON_LEFT }))
        .await?;
    asked_anew(window).await?;
    window.page.perform_actions(mouse().then(PointerAction::Up { button: MOUSE_BUTTON_LEFT })).await?;
    Ok(())
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
        // What is shown of a region that nobody hears is as old as that.
        shows(&window, "#regions", "us heard").await?;
        eventually("its backend is marked as well", secs(20), async || {
            let stale = window.run("return document.querySelectorAll('.cell.stale').length").await?;
            ensure!(stale == 1, "{stale} cells are marked");
            Ok(())
        })
        .await?;
        window.shoot("degraded").await?;

        // A drain, through the dialog, which says what it means and how a shell says it.
        let address = backends[0].address();
        let cell = format!(".cell[data-key=\"web-v1/{address}\"]");
        press_while_it_is_asked_anew(&window, &cell).await?;
        shows(&window, "#dialog-command", &format!("meridian drain backend web-v1/{address}")).await?;
        shows(&window, "#dialog-impact", "sessions").await?;
        shows(&window, "#dialog-impact", "other backends").await?;
        window.shoot("drain").await?;
        click(&window, "[data-act=Drain]").await?;
        eventually("the cell shows the drain", secs(20), async || {
            let cell = window.page.find(Locator::Css(&cell)).await?;
            let state = cell.attr("data-state").await?.context("no state")?;
            ensure!(state == "draining", "{state}");
            Ok(())
        })
        .await?;
        // It is the one that was there before, and the keyboard is on it again once the dialog is closed.
        eventually("the cell is the same", secs(20), async || {
            let same = "return window.pressed === document.querySelector('.cell[data-state=draining]') \
                        && window.pressed === document.activeElement";
            ensure!(window.run(same).await? == true, "the cell was made anew, or lost the keyboard");
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
        click(&window, "#tab-overview").await?;
        for (tab, selector, words) in [
            ("nodes", "#nodes", "s ago"),
            ("users", "#services", "web"),
            ("sessions", "#sessions", "web-v1"),
            ("events", "#events", "us-1"),
            ("revisions", "#revision", "[pool.web-v1]"),
        ] {
            window.page.active_element().await?.send_keys(&char::from(Key::Right).to_string()).await?;
            shows(&window, selector, words).await?;
            window.shoot(tab).await?;
        }
        ensure!(text(&window, "#tab-nodes").await? == "Nodes", "the tab has another name");
        window.no_complaint(&[]).await?;
        window.close().await
    });
}

#[test]
fn a_person_sees_a_rescue_and_what_changed_and_refuses_a_network() {
    prove!(Heavy, secs(240), async |stage| {
        let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
        let Some(window) = Window::open(stage, &shots).await? else { return Ok(()) };
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        let (abroad, admin) = (mesh.node("us-1").http(), mesh.node("eu-1").admin());
        window.page.goto(&format!("http://{admin}/")).await?;

        // Users of a region without backends.
        let load = Load::start((0..2).map(|_| Regular::new(Browser::new(), abroad)));
        eventually("an arc leads from us to eu", secs(20), async || {
            let arcs =
                "return [...document.querySelectorAll('#map .arc title')].map((arc) => arc.textContent)";
            let arcs = window.run(arcs).await?;
            ensure!(arcs == json!(["rescue us → eu"]), "{arcs}");
            Ok(())
        })
        .await?;
        window.shoot("rescue").await?;
        load.stop().await?.1.must_be_clean()?;

        // Their network, refused through the dialog.
        click(&window, "#tab-users").await?;
        click(&window, "[data-key^=\"deny/\"]").await?;
        shows(&window, "#dialog-command", "meridian deny add 127.").await?;
        click(&window, "[data-act=\"Refuse for an hour\"]").await?;
        click(&window, "#tab-events").await?;
        shows(&window, "#events", "an operator refuses its users").await?;
        shows(&window, "#events", "eu-1").await?;

        // What the last revision changed.
        let more = Services::shop(&stage.net, &backends).pool("web-v2", HTTP_CHECK, &backends);
        mesh.apply("us-1", &more).await?;
        click(&window, "#tab-revisions").await?;
        shows(&window, "#revisions", "us-1").await?;
        // What was asked for before comes after it, and is not shown in its place.
        window.run(HOLD_A_REVISION).await?;
        eventually("the page asks for the revision in force", secs(20), async || {
            ensure!(window.run("return window.release !== null").await? == true, "it has not");
            Ok(())
        })
        .await?;
        click(&window, "[data-key^=\"diff/\"]").await?;
        shows(&window, "#revision", "+ [pool.web-v2]").await?;
        window.run("performance.clearResourceTimings(); window.release()").await?;
        asked_anew(&window).await?;
        shows(&window, "#revision", "+ [pool.web-v2]").await?;
        window.shoot("diff").await?;
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

/// A node's own answers and files, with the mesh in them made large.
struct Grown {
    answers: BTreeMap<String, (String, Bytes)>,
}

impl Grown {
    /// Twelve nodes in six regions, two of them close to each other, and sixty backends, as a node would tell of them.
    async fn from(admin: SocketAddr) -> Result<Self> {
        let mut answers = BTreeMap::new();
        let mut fetch = async |path: &str| -> Result<Bytes> {
            let reply = Browser::new().host(&admin.to_string()).get(admin, path).await?;
            ensure!(reply.status.is_success(), "{path}: {}", reply.everything());
            let kind = reply.headers.get("content-type").context("a type")?.to_str()?.to_owned();
            answers.insert(path.to_owned(), (kind, reply.body.clone()));
            Ok(reply.body)
        };
        for file in ["style.css", "app.js", "map.js", "diff.js", "morph.js", "icon.svg"] {
            fetch(&format!("/dashboard/{file}")).await?;
        }
        for path in ["/", "/v1/users", "/v1/sessions?limit=100", "/v1/revisions", "/v1/revisions/current"] {
            fetch(path).await?;
        }
        let mut status: Value = serde_json::from_slice(&fetch("/v1/status").await?)?;
        let mut regions: Value = serde_json::from_slice(&fetch("/v1/regions").await?)?;
        let mut traffic: Value = serde_json::from_slice(&fetch("/v1/traffic").await?)?;
        let grown = |path: &str, value: &Value| {
            (path.to_owned(), ("application/json".to_owned(), Bytes::from(value.to_string())))
        };

        let places = [
            ("eu-central-1", 50.1, 8.7),
            ("eu-west-3", 48.9, 2.4),
            ("us-east-1", 39.0, -77.5),
            ("us-west-2", 45.8, -119.7),
            ("ap-southeast-1", 1.3, 103.8),
            ("sa-east-1", -23.5, -46.6),
        ];
        let (member, region) = (status["members"][0].clone(), regions[0].clone());
        let (mut members, mut all, mut rates) = (vec![], vec![], vec![]);
        for (at, (name, latitude, longitude)) in places.into_iter().enumerate() {
            let nodes: Vec<String> = (1..=2).map(|node| format!("{name}-node-{node}")).collect();
            for (number, node) in nodes.iter().enumerate() {
                let mut one = member.clone();
                (one["name"], one["region"]) = (json!(node), json!(name));
                (one["zone"], one["state"]) =
                    (json!(format!("{name}a")), json!(["alive", "suspect"][usize::from(at + number == 6)]));
                one["stale_seconds"] = json!([None, Some(3600)][usize::from(at + number == 6)]);
                one["address"] = json!(format!("198.51.{}.{}:7946", 100 + at, 200 + number));
                members.push(one);
            }
            let mut one = region.clone();
            (one["name"], one["latitude"], one["longitude"]) =
                (json!(name), json!(latitude), json!(longitude));
            (one["nodes"], one["nodes_alive"]) = (json!(nodes), json!(2));
            one["stale_seconds"] = json!([None, Some(3600)][usize::from(at == 3)]);
            all.push(one);
            let mut rate = traffic["regions"][0].clone();
            (rate["name"], rate["requests_per_second"]) = (json!(name), json!(12_345.6 / (at + 1) as f64));
            rates.push(rate);
        }
        let names: Vec<String> =
            members.iter().filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect();
        let row = |from: &String| -> Value {
            let others = names.iter().filter(|to| *to != from);
            others
                .enumerate()
                .map(|(at, to)| (to.clone(), json!(0.4 + 27.3 * at as f64)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        status["rtt_ms"] =
            names.iter().map(|from| (from.clone(), row(from))).collect::<serde_json::Map<_, _>>().into();
        (status["members"], regions, traffic["regions"]) = (members.into(), all.into(), rates.into());
        let pool = status["pools"][0].clone();
        let states = ["up", "up", "up", "down", "draining", "ejected", "going-up"];
        let pools = (0..3).map(|number| {
            let mut one = pool.clone();
            one["name"] = json!(format!("checkout-service-v{number}"));
            let backends = (0..20).map(|at| {
                let mut backend = pool["backends"][0].clone();
                backend["address"] = json!(format!("10.{number}.1.{}:8080", 100 + at));
                (backend["region"], backend["state"]) = (json!(places[at % 6].0), json!(states[at % 7]));
                backend
            });
            one["backends"] = backends.collect();
            one
        });
        status["pools"] = pools.collect();
        status["problems"] = json!([
            "backend 10.0.1.103:8080 of pool checkout-service-v0 is down: eu-central-1-node-1 and eu-west-3-node-2: connection refused at 12:01:07"
        ]);
        status["degraded"] = json!(true);
        answers.extend([
            grown("/v1/status", &status),
            grown("/v1/regions", &regions),
            grown("/v1/traffic", &traffic),
        ]);
        Ok(Self { answers })
    }

    /// Answers as a node does, until the process ends; where.
    async fn serve(self, address: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let at = listener.local_addr()?;
        let answers = Arc::new(self.answers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answers = answers.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let found =
                        request.uri().path_and_query().and_then(|path| answers.get(path.as_str())).cloned();
                    async move {
                        let mut response = Response::new(Full::default());
                        match found {
                            Some((kind, body)) => {
                                let kind = kind.parse().map_err(anyhow::Error::from)?;
                                response.headers_mut().insert(CONTENT_TYPE, kind);
                                *response.body_mut() = Full::new(body);
                            }
                            // No events happen here.
                            None => *response.status_mut() = StatusCode::NO_CONTENT,
                        }
                        anyhow::Ok(response)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(at)
    }
}

/// What is wrong with the layout as it is now: boxes beyond the window, words that do not fit their box, words over words.
const MISFITS: &str = r##"
  const width = document.documentElement.clientWidth;
  const wrong = [];
  if (document.documentElement.scrollWidth > width) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
  const shown = (element) => element.getClientRects().length > 0;
  const name = (element) => `${element.tagName}${element.id ? "#" + element.id : ""} "${element.textContent.trim().slice(0, 40)}"`;
  for (const element of document.querySelectorAll("header *, #tiles *, nav *, main *")) {
    if (!shown(element)) continue;
    const box = element.getBoundingClientRect();
    if (box.right > width + 1 || box.left < -1) wrong.push(`${name(element)} reaches from ${box.left} to ${box.right}`);
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
    if (element instanceof HTMLElement && element.clientWidth > 0 && !scrolls && element.scrollWidth > element.clientWidth + 1) wrong.push(`${name(element)} is cut at ${element.clientWidth} of ${element.scrollWidth}`);
  }
  const map = document.getElementById("map");
  const labels = [...document.querySelectorAll("#map text")].filter(shown).map((text) => [text.textContent, text.getBoundingClientRect()]);
  const frame = map.getBoundingClientRect();
  for (const [words, box] of labels) {
    if (box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom) wrong.push(`${words} leaves the map`);
    for (const [others, other] of labels) {
      const apart = box.right <= other.left + 1 || other.right <= box.left + 1 || box.bottom <= other.top + 2 || other.bottom <= box.top + 2;
      if (words < others && !apart) wrong.push(`${words} lies over ${others}`);
    }
  }
  return wrong;
"##;

#[test]
fn twelve_nodes_and_sixty_backends_are_readable_on_a_small_screen() {
    prove!(Heavy, secs(180), async |stage| {
        let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
        let Some(window) = Window::open(stage, &shots).await? else { return Ok(()) };
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        mesh.healthy().await?;
        Browser::new().visit(mesh.node("eu-1").http()).await?;
        let large = Grown::from(mesh.node("eu-1").admin()).await?;
        let at = large.serve((stage.net.nobody(), 7900).into()).await?;
        window.page.goto(&format!("http://{at}/")).await?;
        shows(&window, "#pools", "checkout-service-v2").await?;
        for tab in ["overview", "nodes", "users", "sessions", "events", "revisions"] {
            click(&window, &format!("#tab-{tab}")).await?;
            if tab == "nodes" {
                shows(&window, "#rtt", "sa-east-1-node-2").await?;
                let cells = window.run("return document.querySelectorAll('#rtt tbody td').length").await?;
                let told = window.run("return [...document.querySelectorAll('#rtt tbody td')].filter((cell) => /[0-9]/.test(cell.textContent)).length").await?;
                ensure!(cells == 144 && told == 132, "{told} of {cells} round trips are told");
            }
            let wrong = window.run(MISFITS).await?;
            window.shoot(&format!("large-{tab}")).await?;
            ensure!(wrong.as_array().is_some_and(Vec::is_empty), "{tab}: {wrong:#}");
        }
        window.close().await
    });
}
