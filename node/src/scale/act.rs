//! Doing what was decided: a program, a webhook, or the Docker Engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use gossip::id::{NodeName, PoolName};
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::place::Spot;
use crate::config::model::{DockerTemplate, Pool, ScaleVia, SourceSpec};
use crate::docker::{Engine, Start};

/// How long a program, a webhook or the engine may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What is kept of a program's words when it fails.
const WORDS_MAX_BYTES: u64 = 4096;
/// Between SIGTERM and SIGKILL of a container that has drained, in seconds.
const STOP_SECONDS: i32 = 10;

/// A decision, as programs and webhooks get it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Decision {
    pub(super) pool: PoolName,
    /// Grows by one with each decision of the pool.
    pub(super) number: u64,
    /// `add` or `remove`.
    pub(super) action: &'static str,
    /// How many.
    pub(super) count: u32,
    /// How many backends there are.
    pub(super) from: u32,
    /// How many there are to be.
    pub(super) to: u32,
    /// Where each new one is best placed.
    pub(super) place: Vec<Spot>,
    /// Those to be stopped; they have drained.
    pub(super) backends: Vec<Target>,
    /// The numbers behind it.
    pub(super) why: Why,
    /// The node that acts.
    pub(super) by: NodeName,
}

/// One backend to be stopped.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Target {
    pub(super) address: String,
    #[serde(flatten)]
    pub(super) spot: Spot,
}

/// The numbers behind a decision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Why {
    /// `in_flight`, `requests` or `p99`.
    pub(super) target: &'static str,
    /// What each backend is to have; seconds for `p99`.
    pub(super) each: f64,
    /// What each that is ready has.
    pub(super) measured: f64,
    /// Backends that take requests.
    pub(super) ready: u32,
}

/// Does it. `Err`: why not, in words.
pub(super) async fn act(
    pool: &Pool,
    via: &ScaleVia,
    allowed: &[PathBuf],
    decision: &Decision,
) -> Result<(), String> {
    let acting = async {
        match via {
            ScaleVia::Exec(words) => exec(words, allowed, decision).await,
            ScaleVia::Webhook(url) => webhook(url, decision).await,
            ScaleVia::Docker(template) => docker(pool, template, decision).await,
        }
    };
    tokio::time::timeout(TIMEOUT, acting)
        .await
        .unwrap_or_else(|_| Err(format!("not done within {TIMEOUT:?}")))
}

fn json(decision: &Decision) -> Result<Vec<u8>, String> {
    serde_json::to_vec(decision).map_err(|error| error.to_string())
}

/// Exit code 0: it is done. The program is killed when it takes too long. Only what this node's own file allows is run: the
/// mesh's configuration comes from whoever may apply it.
async fn exec(words: &[String], allowed: &[PathBuf], decision: &Decision) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("there is no program")?;
    if !allowed.iter().any(|path| path.as_os_str() == program.as_str()) {
        return Err(format!(
            "{} may not run {program}: allow it with scale_exec = [\"{program}\"] in [node] of its node.toml",
            decision.by
        ));
    }
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let body = json(decision)?;
    if let Some(mut input) = child.stdin.take() {
        // A program that does not read its input may still do what it should.
        let _ = input.write_all(&body).await;
    }
    let mut words = String::new();
    if let Some(errors) = child.stderr.take() {
        // It is read to the end so that the program never waits for a reader; what is too long is cut.
        let mut kept = Vec::new();
        let mut errors = errors.take(WORDS_MAX_BYTES);
        let _ = errors.read_to_end(&mut kept).await;
        words = String::from_utf8_lossy(&kept).trim().to_owned();
        let _ = tokio::io::copy(&mut errors.into_inner(), &mut tokio::io::sink()).await;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{program} ended with {status}: {words}")),
    }
}

/// Any status from 200 to 299: it is done.
async fn webhook(url: &str, decision: &Decision) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let uri: http::Uri = url.parse().map_err(|error| told(&error))?;
    let authority = uri.authority().ok_or("the URL has no host")?;
    let to = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(&to).await.map_err(|error| told(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| told(&error))?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::post(path)
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(json(decision)?)))
        .map_err(|error| told(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| told(&error));
    driver.abort();
    let status = answer?.status();
    match status.is_success() {
        true => Ok(()),
        false => Err(told(&status)),
    }
}

async fn docker(pool: &Pool, template: &DockerTemplate, decision: &Decision) -> Result<(), String> {
    let label = pool.sources.iter().find_map(|spec| match spec {
        SourceSpec::Docker(spec) => Some(spec.label.clone()),
        _ => None,
    });
    let label = label.ok_or("the pool has no discover.docker that would find the containers")?;
    let path: PathBuf = crate::docker::socket();
    let engine = Engine::at(&path).await?;
    if decision.action == "add" {
        for (at, spot) in decision.place.iter().enumerate() {
            engine.start(&container(pool, template, &label, decision.number, at, spot)).await?;
        }
        return Ok(());
    }
    let containers = engine.list(&label).await?;
    for target in &decision.backends {
        let (ip, _) = target.address.rsplit_once(':').ok_or("an address without a port")?;
        let found = containers.iter().find(|container| {
            let mut own = container.networks.values().flatten();
            own.any(|own| own.to_string() == ip.trim_matches(['[', ']']))
        });
        match found {
            // It may have ended by itself.
            None => tracing::info!(backend = target.address, "its container is gone already"),
            Some(container) => engine.stop(&container.id, STOP_SECONDS).await?,
        }
    }
    Ok(())
}

/// The `at`-th container of a decision. Numbers begin anew with a new mesh, so a random part keeps its name its own.
fn container(
    pool: &Pool,
    template: &DockerTemplate,
    label: &str,
    number: u64,
    at: usize,
    spot: &Spot,
) -> Start {
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    let mut labels = BTreeMap::from([
        (key.to_owned(), value.to_owned()),
        ("meridian.port".to_owned(), template.port.to_string()),
        ("meridian.region".to_owned(), spot.region.to_string()),
        ("meridian.scale".to_owned(), format!("{}/{number}", pool.name)),
    ]);
    labels.extend(spot.zone.as_ref().map(|zone| ("meridian.zone".to_owned(), zone.to_string())));
    labels.extend(spot.rack.as_ref().map(|rack| ("meridian.rack".to_owned(), rack.to_string())));
    let unique: u32 = rand::random();
    Start {
        name: format!("meridian-{}-{number}-{at}-{unique:08x}", pool.name),
        image: template.image.clone(),
        labels,
        env: template.env.clone(),
        network: template.network.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixture::{node, pool, region};

    fn decision() -> Decision {
        let spot = Spot { region: region("eu"), zone: None, rack: Some("r1".parse().unwrap()) };
        Decision {
            pool: PoolName::new("web").unwrap(),
            number: 7,
            action: "remove",
            count: 1,
            from: 3,
            to: 2,
            place: Vec::new(),
            backends: vec![Target { address: "10.0.0.1:80".into(), spot }],
            why: Why { target: "in_flight", each: 20.0, measured: 3.0, ready: 3 },
            by: node("eu-1"),
        }
    }

    /// A contract with other people's programs.
    #[test]
    fn a_decision_as_json() {
        let json: serde_json::Value = serde_json::from_slice(&json(&decision()).unwrap()).unwrap();
        let wanted = serde_json::json!({
            "pool": "web", "number": 7, "action": "remove", "count": 1, "from": 3, "to": 2, "place": [],
            "backends": [{ "address": "10.0.0.1:80", "region": "eu", "zone": null, "rack": "r1" }],
            "why": { "target": "in_flight", "each": 20.0, "measured": 3.0, "ready": 3 }, "by": "eu-1",
        });
        assert_eq!(json, wanted);
    }

    #[tokio::test]
    async fn a_program_gets_it_and_its_failure_is_told() {
        let pool = pool("web", &[]);
        let run = async |script: &str| {
            let via = ScaleVia::Exec(["/bin/sh", "-c", script].map(String::from).into());
            act(&pool, &via, &["/bin/sh".into()], &decision()).await
        };
        assert_eq!(run("grep -q '\"number\":7'").await, Ok(()));
        let error = run("echo no room >&2; exit 3").await.unwrap_err();
        assert!(error.contains("no room") && error.contains('3'), "{error}");
        let missing = ScaleVia::Exec(vec!["/nowhere/at/all".into()]);
        let error = act(&pool, &missing, &["/bin/sh".into()], &decision()).await.unwrap_err();
        assert!(error.contains("scale_exec"), "{error}");
        assert!(act(&pool, &missing, &["/nowhere/at/all".into()], &decision()).await.is_err());
    }

    #[tokio::test]
    async fn a_webhook_gets_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let via = ScaleVia::Webhook(format!("http://{}/scale?x=1", listener.local_addr().unwrap()));
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"}") {
                let mut buffer = [0; 1024];
                let length = stream.read(&mut buffer).await.unwrap();
                seen.extend_from_slice(&buffer[..length]);
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        act(&pool("web", &[]), &via, &[], &decision()).await.unwrap();
        let seen = server.await.unwrap();
        assert!(
            seen.starts_with("POST /scale?x=1 HTTP/1.1\r\n") && seen.contains("\"action\":\"remove\""),
            "{seen}"
        );
    }
}
