//! HTTP/1.1's corners with curl as the user and nginx as the backend: HEAD, 100-continue, CONNECT, and bodies far larger than
//! the node may grow.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::cluster::Cluster;
use tests::peer::{self, said};
use tests::process::Process;
use tests::prove;
use tests::services::{Entry, Services, TCP_CHECK};
use tests::stage::Stage;
use tests::wait::secs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const LARGE_BYTES: u64 = 512 << 20;
/// The same through a tunnel, where all is encrypted once more.
const FAR_BYTES: u64 = 128 << 20;
/// What the whole must bear when somebody asks for it.
const HUGE_BYTES: u64 = 10 << 30;
/// What a node may grow by while such bodies pass, slow users among them.
const GROWTH_MAX_KIB: u64 = 48 << 10;

fn curl<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["-sS", "--max-time", "60"], arguments].concat()
}

/// The most memory that a process ever had.
fn peak_kib(process: &Process) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// A backend with one file of so many bytes at `/large` that takes uploads at `/put/NAME`.
fn origin(stage: &Stage, program: &Path, region: &str, bytes: u64) -> Result<(Process, Entry)> {
    let (folder, address) = (stage.folder().display(), stage.net.backend(1));
    std::fs::create_dir(stage.folder().join("put"))?;
    std::fs::File::create(stage.folder().join("large"))?.set_len(bytes)?;
    let site = format!(
        "server {{ listen {address}:8083; root {folder}; client_max_body_size 0; client_body_buffer_size 64k; \
         location = /said {{ return 200 \"$request_method $http_expect\"; }} \
         location /put {{ dav_methods PUT; }} }}"
    );
    let entry = Entry { address: (address, 8083).into(), region: region.into(), weight: 100 };
    Ok((peer::nginx(stage, program, &site, "")?, entry))
}

fn web(entry: Entry) -> Services {
    Services::new().http_listener().service("web", "web = 1", "").pool("web", TCP_CHECK, [entry])
}

#[test]
fn head_continue_and_connect() {
    let Some([_, nginx]) = peer::all(["curl", "nginx"]) else { return };
    prove!(Light, secs(90), async |stage| {
        let (mut origin, entry) = origin(stage, &nginx, "eu", LARGE_BYTES)?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &web(entry)).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http();
        let at = |path: &str| format!("http://{target}{path}");

        // curl complains of a HEAD whose answer has a body, and the second request shows that the connection goes on.
        let told = said("curl", &curl(&["-I", &at("/large"), "-:", "-sS", &at("/said")])).await?;
        ensure!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
        ensure!(told.to_lowercase().contains(&format!("content-length: {LARGE_BYTES}\r\n")), "{told}");
        ensure!(told.ends_with("\r\n\r\nGET "), "{told}");

        // The body comes after 100 Continue, and Expect ends at the node, which answered it.
        let body = stage.write("body", &"pay ".repeat(1000))?;
        let body = format!("@{}", body.display());
        let answer = stage.folder().join("answer").display().to_string();
        let upload = ["-v", "--stderr", "-", "-H", "Expect: 100-continue", "--expect100-timeout", "30"];
        let url = at("/said");
        let upload = [&upload[..], &["--data-binary", &body, "-o", &answer, &url]].concat();
        let told = said("curl", &curl(&upload)).await?;
        ensure!(told.contains("< HTTP/1.1 100 Continue"), "{told}");
        ensure!(std::fs::read_to_string(&answer)? == "POST ", "{told}");

        let connect = ["-v", "--stderr", "-", "-p", "-x", &at(""), "http://www.example.com/"];
        let refused = said("curl", &curl(&connect)).await.err().context("CONNECT is served")?.to_string();
        ensure!(refused.contains("< HTTP/1.1 400 "), "{refused}");
        origin.must_run()
    });
}

#[test]
fn large_bodies_pass_with_flat_memory_however_slow_the_user() {
    let Some([_, nginx]) = peer::all(["curl", "nginx"]) else { return };
    prove!(Light, secs(150), async |stage| {
        let (mut origin, entry) = origin(stage, &nginx, "eu", LARGE_BYTES)?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &web(entry)).await?;
        mesh.healthy().await?;
        pass(stage, &mut mesh, &["eu-1"], LARGE_BYTES).await?;
        origin.must_run()
    });
}

#[test]
fn they_do_so_through_another_region() {
    let Some([_, nginx]) = peer::all(["curl", "nginx"]) else { return };
    prove!(Heavy, secs(200), async |stage| {
        let (mut origin, entry) = origin(stage, &nginx, "us", FAR_BYTES)?;
        let mut mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        mesh.apply("eu-1", &web(entry)).await?;
        mesh.healthy().await?;
        pass(stage, &mut mesh, &["eu-1", "us-1"], FAR_BYTES).await?;
        origin.must_run()
    });
}

/// A backend that takes a body of [`HUGE_BYTES`] and says how much of it came.
async fn sink(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 18];
                let (mut head, mut bytes) = (Vec::new(), 0);
                while bytes < HUGE_BYTES {
                    let read = stream.read(&mut buffer).await?;
                    if read == 0 {
                        break;
                    }
                    if bytes > 0 {
                        bytes += read as u64;
                        continue;
                    }
                    head.extend_from_slice(&buffer[..read]);
                    let end = head.windows(4).position(|end| end == b"\r\n\r\n");
                    bytes = end.map_or(0, |end| (head.len() - end - 4) as u64);
                }
                let said = bytes.to_string();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len());
                stream.write_all(answer.as_bytes()).await
            });
        }
    });
    Ok(())
}

#[test]
#[ignore = "moves 40 GiB: cargo test --test proofs -- --ignored ten_gibibytes"]
fn ten_gibibytes_pass_both_ways_with_flat_memory() {
    let Some([_, nginx]) = peer::all(["curl", "nginx"]) else { return };
    prove!(Light, secs(1800), async |stage| {
        let (mut origin, entry) = origin(stage, &nginx, "eu", HUGE_BYTES)?;
        let upload = SocketAddr::from((stage.net.backend(2), 8084));
        sink(upload).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = web(entry).service("sink", "sink = 1", "paths = [\"/sink\"]").pool(
            "sink",
            TCP_CHECK,
            [Entry { address: upload, region: "eu".into(), weight: 100 }],
        );
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http();
        let at = |path: &str| format!("http://{target}{path}");
        said("curl", &curl(&[&at("/said")])).await?;
        let before = peak_kib(mesh.node_mut("eu-1").process()?)?;
        let large = stage.folder().join("large").display().to_string();
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let common = ["-sS", "--max-time", "800", version];
            let (from, to) = (at("/large"), at("/sink"));
            let download = ["-o", "/dev/null", "-w", "%{http_code} %{size_download}", &from];
            let told = said("curl", &[&common[..], &download].concat()).await?;
            ensure!(told == format!("200 {HUGE_BYTES}"), "{version}: {told}");
            let told = said("curl", &[&common[..], &["-T", &large, &to]].concat()).await?;
            ensure!(told == HUGE_BYTES.to_string(), "{version}: {told}");
        }
        let grown = peak_kib(mesh.node_mut("eu-1").process()?)?.saturating_sub(before);
        eprintln!("{grown} KiB more at the highest");
        ensure!(grown <= GROWTH_MAX_KIB, "it grew by {grown} KiB");
        origin.must_run()
    });
}

/// Users of the first of these nodes fetch and send large bodies; none of the nodes may grow.
async fn pass(stage: &Stage, mesh: &mut Cluster<'_>, nodes: &[&str], bytes: u64) -> Result<()> {
    let target = mesh.node(nodes[0]).http();
    let at = |path: &str| format!("http://{target}{path}");
    said("curl", &curl(&[&at("/said")])).await?;
    let mut before = Vec::new();
    for node in nodes {
        before.push(peak_kib(mesh.node_mut(node).process()?)?);
    }
    let large = stage.folder().join("large").display().to_string();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let download = ["-o", "/dev/null", "-w", "%{http_code} %{size_download}", &at("/large")];
        let told = said("curl", &curl(&[&[version][..], &download].concat())).await?;
        ensure!(told == format!("200 {bytes}"), "{version}: {told}");
        // A user who reads slowly slows the backend down; nothing piles up here.
        let slow = ["--limit-rate", "1M", "--max-time", "3", "-o", "/dev/null", &at("/large")];
        let told = said("curl", &[&["-sS", version][..], &slow].concat()).await;
        let cut = told.is_err_and(|error| error.to_string().contains("timed out"));
        ensure!(cut, "{version}: it was not slow");
        let name = format!("/put/{}", version.trim_start_matches('-'));
        let upload = ["-o", "/dev/null", "-w", "%{http_code}", "-T", &large, &at(&name)];
        let told = said("curl", &curl(&[&[version][..], &upload].concat())).await?;
        ensure!(told == "201", "{version}: {told}");
        let written = stage.folder().join(&name[1..]);
        ensure!(written.metadata()?.len() == bytes, "{version}: it was cut");
        std::fs::remove_file(written)?;
    }
    for (node, before) in nodes.iter().zip(before) {
        let grown = peak_kib(mesh.node_mut(node).process()?)?.saturating_sub(before);
        ensure!(grown <= GROWTH_MAX_KIB, "{node} grew by {grown} KiB");
    }
    Ok(())
}
