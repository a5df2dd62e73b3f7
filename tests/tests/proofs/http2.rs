//! HTTP/2 and gRPC with other people's programs: curl, nghttp, h2load, grpcio.

use anyhow::{Result, ensure};
use tests::backend::http_backends;
use tests::cluster::Cluster;
use tests::peer::{self, said};
use tests::process::Process;
use tests::prove;
use tests::services::{Entry, HTTP_CHECK, Services};
use tests::stage::Stage;
use tests::tls::Authority;
use tests::wait::secs;

#[test]
fn curl_nghttp_and_h2load_speak_http2_by_prior_knowledge() {
    let Some(_) = peer::all(["curl", "nghttp", "h2load"]) else { return };
    prove!(Light, secs(90), async |stage| {
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
        if !peer::has_python_module("grpc", "grpcio").await {
            return Ok(());
        }
        let address = format!("{}:8081", stage.net.backend(1));
        let mut server = grpc_server(stage, &[&address])?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services = Services::new().http_listener().service("peer", "peer = 1", "").and(format!(
            "[pool.peer]\nprotocol = \"http2\"\n\
             health.grpc = {{ service = \"peer.Peer\", interval = \"200ms\" }}\n\
             backend = [{{ address = \"{address}\", region = \"eu\" }}]"
        ));
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http().to_string();
        said("python3", &[&peer::script("grpc_peer.py"), "ask", &target]).await?;
        server.must_run()?;
        Ok(())
    });
}

fn grpc_server(stage: &Stage, arguments: &[&str]) -> Result<Process> {
    let mut command = std::process::Command::new("python3");
    command.arg(peer::script("grpc_peer.py")).arg("serve").args(arguments);
    Process::spawn("grpc", command, &stage.folder().join("grpc.log"))
}

#[test]
fn backends_speak_http2_over_tls() {
    let Some([nginx]) = peer::all(["nginx"]) else { return };
    prove!(Light, secs(90), async |stage| {
        if !peer::has_python_module("grpc", "grpcio").await {
            return Ok(());
        }
        let authority = Authority::new()?;
        authority.sign(&["peer.internal"])?.write(stage.folder(), "peer")?;
        let file = |name: &str| stage.folder().join(name).display().to_string();
        let (ca, cert, key) = (file("ca.pem"), file("peer.pem"), file("peer.key"));
        authority.write(&stage.folder().join("ca.pem"))?;
        let (calls, pages) = (stage.net.backend(1), stage.net.backend(2));
        let mut server = grpc_server(stage, &[&format!("{calls}:8443"), &cert, &key])?;
        let site = format!(
            "server {{ listen {pages}:8443 ssl http2; ssl_certificate {cert}; ssl_certificate_key {key}; \
             location / {{ return 200 \"$server_protocol $scheme $ssl_server_name\"; }} }}"
        );
        let mut ng = peer::nginx(stage, &nginx, &site, "")?;

        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let tls = format!("protocol = \"http2\"\ntls = true\nca = \"{ca}\"\nserver_name = \"peer.internal\"");
        let entry = |address| [Entry { address: (address, 8443).into(), region: "eu".into(), weight: 100 }];
        let asked = "health.grpc = { service = \"peer.Peer\", interval = \"200ms\" }";
        let services = Services::new()
            .http_listener()
            .service("calls", "calls = 1", "paths = [\"/peer.Peer\"]")
            .service("pages", "pages = 1", "")
            .pool("calls", &format!("{tls}\n{asked}"), entry(calls))
            .pool("pages", &format!("{tls}\n{HTTP_CHECK}"), entry(pages));
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http().to_string();
        said("python3", &[&peer::script("grpc_peer.py"), "ask", &target]).await?;
        let page = said("curl", &["-sS", "--max-time", "20", &format!("http://{target}/")]).await?;
        ensure!(page == "HTTP/2.0 https peer.internal", "{page}");
        server.must_run()?;
        ng.must_run()
    });
}
