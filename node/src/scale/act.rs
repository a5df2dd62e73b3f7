//! Doing what was decided: a program, a webhook, or the Docker Engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use gossip::id::{NodeName, PoolName};
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustix::fs::Access;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio::task::JoinSet;

use super::place::Spot;
use crate::config::model::{DockerTemplate, Pool, ScaleVia, SourceSpec};
use crate::discovery::{Here, docker_address};
use crate::docker::{Container, Ended, Engine, Start};

/// How long a program, a webhook or the engine may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// How long what has ended is cleared away after an act.
const TIDY: Duration = Duration::from_secs(3);
/// How long a webhook's host may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// What is kept of a program's words when it fails.
const WORDS_MAX_BYTES: u64 = 4096;
/// How long they are listened to once it has ended: what it leaves running may hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// What scaling started: the pool and the number of the decision.
const SCALE_LABEL: &str = "meridian.scale";
/// So many containers of a pool that have ended are kept for their logs.
const ENDED_KEPT: usize = 5;
/// So many containers are started at a time: an engine needs most of a second for each, and does several at once.
const TOGETHER: usize = 4;
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

/// An act that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words.
    pub(super) why: String,
    /// Whether nothing can have come of it: whoever tries again begins none of it a second time.
    pub(super) unbegun: bool,
}

impl Failure {
    fn before(why: impl ToString) -> Self {
        Self { why: why.to_string(), unbegun: true }
    }

    fn after(why: impl ToString) -> Self {
        Self { why: why.to_string(), unbegun: false }
    }
}

/// What this node lacks to act, as far as it can be told without acting.
pub(super) fn lacks(via: &ScaleVia, allowed: &[PathBuf]) -> Result<(), String> {
    let ScaleVia::Exec(words) = via else { return Ok(()) };
    let program = words.first().ok_or("there is no program")?;
    if !allowed.iter().any(|path| path.as_os_str() == program.as_str()) {
        return Err(format!(
            "may not run {program}: allow it with scale_exec = [\"{program}\"] in [node] of its node.toml"
        ));
    }
    let file = std::fs::metadata(program).map_err(|error| format!("{program}: {error}"))?;
    if !file.is_file() {
        return Err(format!("{program} is no file"));
    }
    rustix::fs::access(program.as_str(), Access::EXEC_OK)
        .map_err(|error| format!("{program}: {error}: chmod +x?"))
}

/// Does it.
pub(super) async fn act(
    pool: &Pool,
    via: &ScaleVia,
    allowed: &[PathBuf],
    here: &Here,
    decision: &Decision,
) -> Result<(), Failure> {
    let acting = async {
        match via {
            ScaleVia::Exec(words) => exec(words, allowed, decision).await,
            ScaleVia::Webhook(url) => webhook(url, decision).await,
            ScaleVia::Docker(template) => docker(pool, template, here, decision).await,
        }
    };
    within(TIMEOUT, acting).await
}

async fn within(
    patience: Duration,
    acting: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let done = tokio::time::timeout(patience, acting).await;
    done.unwrap_or_else(|_| Err(Failure::after(format!("not done within {patience:?}"))))
}

fn json(decision: &Decision) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(decision).map_err(Failure::before)
}

/// Exit code 0: it is done. A program that takes too long is killed with all it has started; what it leaves running when it
/// ends by itself stays. Only what this node's own file allows is run: the mesh's configuration comes from whoever may
/// apply it.
async fn exec(words: &[String], allowed: &[PathBuf], decision: &Decision) -> Result<(), Failure> {
    lacks(&ScaleVia::Exec(words.to_vec()), allowed).map_err(Failure::before)?;
    let (program, arguments) = words.split_first().ok_or_else(|| Failure::before("there is no program"))?;
    let body = json(decision)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::before(format!("{program}: {error}")))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (input, errors) = (child.stdin.take(), child.stderr.take());
    let mut kept = Vec::new();
    let status = {
        // It may speak before it listens, and never listen at all.
        let talk = async { tokio::join!(feed(input, &body), hear(errors, &mut kept)) };
        tokio::pin!(talk);
        tokio::select! {
            status = child.wait() => {
                let _ = tokio::time::timeout(LAST_WORDS, &mut talk).await;
                status
            }
            _ = &mut talk => child.wait().await,
        }
    };
    let status = status.map_err(Failure::after)?;
    group.0 = None;
    let words = String::from_utf8_lossy(&kept);
    match status.success() {
        true => Ok(()),
        false => Err(Failure::after(format!("{program} ended with {status}: {}", words.trim()))),
    }
}

/// A program with all it has started, as long as it runs; dropping kills them.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended this moment.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn feed(input: Option<ChildStdin>, body: &[u8]) {
    if let Some(mut input) = input {
        // A program that does not read its input may still do what it should.
        let _ = input.write_all(body).await;
    }
}

/// Reads to the end, so that the program never waits for a reader, and keeps the beginning.
async fn hear(errors: Option<ChildStderr>, kept: &mut Vec<u8>) {
    let Some(errors) = errors else { return };
    let mut first = errors.take(WORDS_MAX_BYTES);
    let _ = first.read_to_end(kept).await;
    let _ = tokio::io::copy(&mut first.into_inner(), &mut tokio::io::sink()).await;
}

/// Any status from 200 to 299: it is done.
async fn webhook(url: &str, decision: &Decision) -> Result<(), Failure> {
    let uri: http::Uri =
        url.parse().map_err(|error| Failure::before(format!("the webhook's URL: {error}")))?;
    let authority = uri.authority().ok_or_else(|| Failure::before("the URL has no host"))?;
    let to = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    // Users' names, paths and queries may be secrets.
    let told = |error: &dyn std::fmt::Display| format!("http://{to}: {error}");
    let before = |error: &dyn std::fmt::Display| Failure::before(told(error));
    let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(&to)).await;
    let stream = connecting.map_err(|error| before(&error))?.map_err(|error| before(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| before(&error))?;
    let mut driver = JoinSet::new();
    // Ends with this call, however it ends.
    driver.spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = http::Request::post(path)
        .header(HOST, authority.as_str().rsplit('@').next().unwrap_or_default())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(json(decision)?)))
        .map_err(|error| before(&error))?;
    let answered = sender.send_request(request).await.map_err(|error| Failure::after(told(&error)))?;
    match answered.status() {
        status if status.is_success() => Ok(()),
        status => Err(Failure::after(told(&status))),
    }
}

/// An image that this engine lacks, or an engine that does not answer, is nothing begun.
async fn docker(
    pool: &Pool,
    template: &DockerTemplate,
    here: &Here,
    decision: &Decision,
) -> Result<(), Failure> {
    let spec = pool.sources.iter().find_map(|spec| match spec {
        SourceSpec::Docker(spec) => Some(spec),
        _ => None,
    });
    let missing = "the pool has no discover.docker that would find the containers";
    let spec = spec.ok_or_else(|| Failure::before(missing))?;
    let engine = Engine::at(&here.engine).await.map_err(Failure::before)?;
    if decision.action == "add" {
        let place = decision.place.iter().enumerate();
        let orders =
            place.map(|(at, spot)| container(pool, template, &spec.label, decision.number, at, spot));
        let end = start(&engine, orders.collect()).await;
        let _ = tokio::time::timeout(TIDY, tidy(&engine, pool)).await;
        return end;
    }
    let mut begun = false;
    let failure = |begun: bool| move |why: String| Failure { why, unbegun: !begun };
    let containers = engine.list(&spec.label).await.map_err(Failure::before)?;
    for target in &decision.backends {
        let is_it = |container: &&Container| {
            docker_address(here, spec, container).is_some_and(|own| own.to_string() == target.address)
        };
        match containers.iter().find(is_it) {
            // It may have ended by itself.
            None => tracing::info!(backend = target.address, "its container is gone already"),
            Some(container) => {
                engine.stop(&container.id, STOP_SECONDS).await.map_err(failure(begun))?;
                begun = true;
            }
        }
    }
    Ok(())
}

/// Removes the containers that scaling started for a pool and that have ended, but for the last ones, whose logs tell why. What it
/// does not get done is done the next time.
async fn tidy(engine: &Engine, pool: &Pool) {
    match engine.ended(SCALE_LABEL).await {
        Ok(ended) => {
            for id in outdated(ended, pool) {
                if let Err(error) = engine.remove(&id).await {
                    tracing::debug!(%error, id, "a container that ended is not removed");
                }
            }
        }
        Err(error) => tracing::debug!(%error, "containers that ended are not listed"),
    }
}

/// Those of a pool whose logs nobody needs any more.
fn outdated(mut ended: Vec<Ended>, pool: &Pool) -> Vec<String> {
    ended.retain(|of| of.value.rsplit_once('/').is_some_and(|(name, _)| name == pool.name.as_str()));
    ended.sort_by_key(|of| std::cmp::Reverse(of.made));
    ended.into_iter().skip(ENDED_KEPT).map(|of| of.id).collect()
}

/// Starts them, a few at a time. When one fails the others are still worth having.
async fn start(engine: &Engine, orders: Vec<Start>) -> Result<(), Failure> {
    let starts = orders.into_iter().map(|order| async move { engine.start(&order).await });
    let mut ends = stream::iter(starts).buffer_unordered(TOGETHER);
    let (mut begun, mut failed) = (false, None);
    while let Some(end) = ends.next().await {
        match end {
            Ok(()) => begun = true,
            Err(why) => failed = failed.or(Some(why)),
        }
    }
    match failed {
        None => Ok(()),
        Some(why) => Err(Failure { why, unbegun: !begun }),
    }
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
        (SCALE_LABEL.to_owned(), format!("{}/{number}", pool.name)),
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
    use crate::config::model::DockerSpec;
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
            act(&pool, &via, &["/bin/sh".into()], &here(), &decision()).await
        };
        assert_eq!(run("grep -q '\"number\":7'").await, Ok(()));
        let Failure { why, unbegun } = run("echo no room >&2; exit 3").await.unwrap_err();
        assert!(why.contains("no room") && why.contains('3'), "{why}");
        assert!(!unbegun, "it may have done half of it");
        let missing = ScaleVia::Exec(vec!["/nowhere/at/all".into()]);
        let error = act(&pool, &missing, &["/bin/sh".into()], &here(), &decision()).await.unwrap_err();
        assert!(error.why.contains("scale_exec") && error.unbegun, "{error:?}");
        let error =
            act(&pool, &missing, &["/nowhere/at/all".into()], &here(), &decision()).await.unwrap_err();
        assert!(error.why.contains("No such file") && error.unbegun, "{error:?}");
    }

    #[test]
    fn what_a_node_lacks_is_known_before_it_acts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scale");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let via = ScaleVia::Exec(vec![path.display().to_string()]);
        let lacks = |allowed: &[PathBuf]| lacks(&via, allowed);
        let why = lacks(&[]).unwrap_err();
        assert!(why.contains("may not run") && why.contains("scale_exec"), "{why}");
        let why = lacks(std::slice::from_ref(&path)).unwrap_err();
        assert!(why.contains("chmod +x"), "{why}");
        let runs = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, runs).unwrap();
        assert_eq!(lacks(std::slice::from_ref(&path)), Ok(()));
    }

    fn here() -> Here {
        Here {
            region: region("eu"),
            zone: None,
            address: [127, 0, 0, 1].into(),
            engine: "/nowhere/docker.sock".into(),
            clock: gossip::clock::Clock::system(),
        }
    }

    async fn shell(script: &str, decision: &Decision) -> Result<(), Failure> {
        let words = ["/bin/sh", "-c", script].map(String::from);
        within(Duration::from_secs(30), exec(&words, &["/bin/sh".into()], decision)).await
    }

    #[tokio::test]
    async fn a_program_may_say_a_gigabyte_before_it_listens() {
        let spot = Spot { region: region("eu"), zone: None, rack: Some("r1".parse().unwrap()) };
        // More than a pipe holds.
        let large = Decision { place: vec![spot; 10_000], ..decision() };
        let script = "head -c 1000000000 /dev/zero | tr '\\0' x >&2; grep -q '\"number\":7'; exit 4";
        let error = shell(script, &large).await.unwrap_err().why;
        assert!(error.contains("exit status: 4"), "{}", &error[..200]);
        assert!(error.len() < 2 * WORDS_MAX_BYTES as usize);
    }

    #[tokio::test]
    async fn what_a_program_leaves_running_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        shell(&format!("sleep 600 & echo $! > {}", pid.display()), &decision()).await.unwrap();
        let pid = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let running = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        assert_eq!(running, Ok(()), "it is there until somebody ends it");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {0}.new && mv {0}.new {0}; wait", pid.display());
        let hanging = tokio::spawn(async move { shell(&script, &decision()).await });
        let child = loop {
            match std::fs::read_to_string(&pid) {
                Ok(text) => break text.trim().to_owned(),
                Err(_) => tokio::time::sleep(LAST_WORDS / 20).await,
            }
        };
        hanging.abort();
        assert!(hanging.await.unwrap_err().is_cancelled());
        let is_dead = || match std::fs::read_to_string(format!("/proc/{child}/stat")) {
            // A zombie is dead; whoever inherited it has yet to notice.
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !is_dead() {
            tokio::time::sleep(LAST_WORDS / 20).await;
        }
    }

    #[tokio::test]
    async fn a_webhook_that_never_answers_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Until the other side closes.
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).await.unwrap();
            seen
        });
        let error = within(Duration::from_millis(300), webhook(&url, &decision())).await.unwrap_err();
        assert_eq!(error, Failure::after("not done within 300ms"), "it may have heard");
        assert!(server.await.unwrap().starts_with(b"POST / HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn what_could_not_be_asked_has_begun_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let via = ScaleVia::Webhook(format!("http://{}/", listener.local_addr().unwrap()));
        drop(listener);
        let failed = act(&pool("web", &[]), &via, &[], &here(), &decision()).await.unwrap_err();
        assert!(failed.unbegun && failed.why.contains("refused"), "{failed:?}");
        let template = DockerTemplate { image: "shop:1".into(), port: 80, network: None, env: Vec::new() };
        let spec = DockerSpec { label: "a=b".into(), network: None, published: false };
        let contained = Pool { sources: vec![SourceSpec::Docker(spec)], ..pool("web", &[]) };
        let via = ScaleVia::Docker(template);
        let failed = act(&contained, &via, &[], &here(), &decision()).await.unwrap_err();
        assert!(failed.unbegun, "{failed:?}");
    }

    #[test]
    fn the_last_containers_that_ended_are_kept() {
        let ended = |id: &str, value: &str, made| Ended { id: id.into(), value: value.into(), made };
        let mut all: Vec<Ended> = (0..7).map(|at| ended(&format!("web-{at}"), "web/3", at)).collect();
        all.extend((0..9).map(|at| ended("another pool's", "web2/3", at)));
        all.push(ended("nobody's", "web", 0));
        all.rotate_left(3);
        assert_eq!(outdated(all, &pool("web", &[])), ["web-1", "web-0"]);
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
        act(&pool("web", &[]), &via, &[], &here(), &decision()).await.unwrap();
        let seen = server.await.unwrap();
        assert!(
            seen.starts_with("POST /scale?x=1 HTTP/1.1\r\n") && seen.contains("\"action\":\"remove\""),
            "{seen}"
        );
    }
}
