//! HTTP/2 and gRPC with other people's programs: curl, nghttp, h2load, grpcio.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tests::backend::http_backends;
use tests::cluster::Cluster;
use tests::process::Process;
use tests::prove;
use tests::services::{HTTP_CHECK, Services};
use tests::stage::skip;
use tests::wait::secs;
use tokio::process::Command;

/// What a program says, which must succeed.
async fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("running {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {}\n{text}\n{errors}", output.status);
    Ok(text)
}

async fn runs(program: &str, arguments: &[&str]) -> bool {
    said(program, arguments).await.is_ok()
}

fn peer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/grpc_peer.py")
}

#[test]
fn curl_nghttp_and_h2load_speak_http2_by_prior_knowledge() {
    prove!(Light, secs(90), async |stage| {
        for program in ["curl", "nghttp", "h2load"] {
            if !runs(program, &["--version"]).await {
                skip(&format!("{program} is not installed (apt-get install curl nghttp2-client)"));
                return Ok(());
            }
        }
        let backends = http_backends(&stage.net, &[("eu", 2)]).await?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services =
            Services::new().http_listener().service("web", "web = 1", "").pool("web", HTTP_CHECK, &backends);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let url = format!("http://{}/", mesh.node("eu-1").http());

        let curl =
            ["-sS", "--max-time", "20", "--http2-prior-knowledge", "-w", "\n%{http_code} %{http_version}"];
        let told = said("curl", &[&curl[..], &["-d", "hello", &url]].concat()).await?;
        ensure!(told.ends_with("\n200 2") && told.contains("\"body\":\"hello\""), "{told}");
        let told = said("nghttp", &["-nsv", "-m", "20", &url]).await?;
        ensure!(told.matches(":status: 200").count() == 20, "{told}");
        let told = said("h2load", &["-n", "5000", "-c", "4", "-m", "100", &url]).await?;
        ensure!(told.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{told}");
        Ok(())
    });
}

#[test]
fn grpc_calls_of_every_kind_pass_and_its_health_is_asked() {
    prove!(Light, secs(90), async |stage| {
        if !runs("python3", &["-c", "import grpc"]).await {
            skip("grpcio is not installed (pip install grpcio)");
            return Ok(());
        }
        let script = peer();
        let script = script.to_str().context("a path that is text")?;
        let address = format!("{}:8081", stage.net.backend(1));
        let mut command = std::process::Command::new("python3");
        command.args([script, "serve", &address]);
        let mut server = Process::spawn("grpc", command, &stage.folder().join("grpc.log"))?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::new().http_listener().service("peer", "peer = 1", "").and(format!(
            "[pool.peer]\nprotocol = \"http2\"\n\
             health.grpc = {{ service = \"peer.Peer\", interval = \"200ms\" }}\n\
             backend = [{{ address = \"{address}\", region = \"eu\" }}]"
        ));
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http().to_string();
        said("python3", &[script, "ask", &target]).await?;
        server.must_run()?;
        Ok(())
    });
}
