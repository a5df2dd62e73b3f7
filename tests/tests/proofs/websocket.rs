//! WebSocket with other people's programs on both ends: sessions hold, frames of every kind pass, close codes arrive.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Result, ensure};
use tests::cluster::Cluster;
use tests::peer::{self, said};
use tests::process::Process;
use tests::prove;
use tests::services::{Entry, HTTP_CHECK, STICKY_COOKIE, Services};
use tests::stage::Stage;
use tests::wait::secs;

const PORT: u16 = 8082;

/// So many servers, called a, b, c; each with its place in the pool.
fn servers(stage: &Stage, region: &str, count: u8) -> Result<(Vec<Process>, Vec<Entry>)> {
    let mut processes = Vec::new();
    let mut entries = Vec::new();
    for index in 0..count {
        let (name, address) = (char::from(b'a' + index).to_string(), stage.net.backend(index.into()));
        processes.push(server(stage, address, &name)?);
        entries.push(Entry { address: (address, PORT).into(), region: region.to_owned(), weight: 100 });
    }
    Ok((processes, entries))
}

fn server(stage: &Stage, address: Ipv4Addr, name: &str) -> Result<Process> {
    let mut command = Command::new("python3");
    command.arg(peer::script("websocket_peer.py")).arg("serve").arg(format!("{address}:{PORT}")).arg(name);
    Process::spawn(
        &format!("websocket-{name}"),
        command,
        &stage.folder().join(format!("websocket-{name}.log")),
    )
}

fn shop(entries: Vec<Entry>) -> Services {
    Services::new()
        .http_listener()
        .service("chat", "chat = 1", STICKY_COOKIE)
        .pool("chat", HTTP_CHECK, entries)
}

/// Users of `node` talk; sessions are made until each of the backends has had one.
async fn talk(mesh: &Cluster<'_>, node: &str, backends: usize) -> Result<()> {
    let target = mesh.node(node).http().to_string();
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..8 * backends {
        met.insert(said("python3", &[&peer::script("websocket_peer.py"), "ask", &target]).await?);
        if met.len() == backends {
            return Ok(());
        }
    }
    ensure!(met.len() == backends, "only {met:?} were met");
    Ok(())
}

#[test]
fn a_chat_stays_on_its_backend_and_every_frame_passes() {
    prove!(Light, secs(120), async |stage| {
        if !peer::has_python_module("websockets", "websockets").await {
            return Ok(());
        }
        let (mut processes, entries) = servers(stage, "eu", 2)?;
        let mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &shop(entries)).await?;
        mesh.healthy().await?;
        talk(&mesh, "eu-1", 2).await?;
        processes.iter_mut().try_for_each(Process::must_run)
    });
}

#[test]
fn a_chat_passes_to_a_backend_that_speaks_http2() {
    let Some([haproxy]) = peer::all(["haproxy"]) else { return };
    prove!(Heavy, secs(150), async |stage| {
        if !peer::has_python_module("websockets", "websockets").await {
            return Ok(());
        }
        // HAProxy takes extended CONNECTs and makes upgrades of them, which is all that the servers behind it know.
        let (mut processes, entries) = servers(stage, "us", 1)?;
        let (front, behind) = (stage.net.backend(9), entries[0].address);
        let sections = format!(
            "frontend chat\n  mode http\n  bind {front}:{PORT} proto h2\n  default_backend servers\n\
             backend servers\n  mode http\n  server a {behind}\n"
        );
        processes.push(peer::haproxy(stage, &haproxy, &sections)?);
        let entry = Entry { address: (front, PORT).into(), region: "us".to_owned(), weight: 100 };
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        let services = Services::new().http_listener().service("chat", "chat = 1", STICKY_COOKIE).pool(
            "chat",
            &format!("protocol = \"http2\"\n{HTTP_CHECK}"),
            [entry],
        );
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        talk(&mesh, "us-1", 1).await?;
        talk(&mesh, "eu-1", 1).await?;
        processes.iter_mut().try_for_each(Process::must_run)
    });
}

#[test]
fn a_chat_passes_through_another_region() {
    prove!(Heavy, secs(150), async |stage| {
        if !peer::has_python_module("websockets", "websockets").await {
            return Ok(());
        }
        let (mut processes, entries) = servers(stage, "us", 2)?;
        let mesh = Cluster::of(stage, &[("eu", 1), ("us", 1)]).await?;
        mesh.apply("eu-1", &shop(entries)).await?;
        mesh.healthy().await?;
        talk(&mesh, "eu-1", 2).await?;
        processes.iter_mut().try_for_each(Process::must_run)
    });
}
