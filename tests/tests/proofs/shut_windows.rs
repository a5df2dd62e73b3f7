//! Users who ask for much over HTTP/2 and take nothing of it: what they hold at the node stays small, and others do not notice.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tests::client;
use tests::cluster::Cluster;
use tests::peer::{self, said};
use tests::prove;
use tests::services::{Entry, Services, TCP_CHECK};
use tests::siege::{PREFACE, frame};
use tests::wait::{eventually, secs};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const FILE_BYTES: u64 = 256 << 20;
const CONNECTIONS: u32 = 3;
const STREAMS: u32 = 120;
/// What an answer may hold that nobody takes. The file is a thousand times as large, and a window would be four times that.
const BYTES_EACH: u64 = 64 << 10;

/// Settings that shut the windows of all streams.
const SHUT: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// Asks for the file as often as one connection may, and takes nothing of it.
async fn asks_for_much(target: SocketAddr) -> Result<TcpStream> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &SHUT));
    for at in 0..STREAMS {
        // GET http /large for www.example.com; nothing is indexed.
        let block = b"\x82\x86\x04\x06/large\x01\x0fwww.example.com";
        bytes.extend(frame(1, 5, 2 * at + 1, block));
    }
    let mut stream = client::connect(None, target).await?;
    stream.write_all(&bytes).await?;
    Ok(stream)
}

fn peak_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[test]
fn who_takes_nothing_holds_little_and_harms_nobody() {
    let Some([_, nginx]) = peer::all(["curl", "nginx"]) else { return };
    prove!(Light, secs(120), async |stage| {
        std::fs::File::create(stage.folder().join("large"))?.set_len(FILE_BYTES)?;
        let (folder, address) = (stage.folder().display(), stage.net.backend(1));
        let site = format!(
            "server {{ listen {address}:8083; root {folder}; location = /said {{ return 200 \"fine\"; }} }}"
        );
        let mut origin = peer::nginx(stage, &nginx, &site, "")?;
        let entry = Entry { address: (address, 8083).into(), region: "eu".into(), weight: 100 };
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        let services =
            Services::new().http_listener().service("web", "web = 1", "").pool("web", TCP_CHECK, [entry]);
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let target = mesh.node("eu-1").http();
        let pid = mesh.node_mut("eu-1").process()?.id();
        let url = format!("http://{target}/said");
        let ask = ["-sS", "--max-time", "20", url.as_str()];
        ensure!(said("curl", &ask).await? == "fine");

        let before = peak_bytes(pid)?;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(asks_for_much(target).await?);
        }
        let asked = u64::from(CONNECTIONS * STREAMS);
        let cli = mesh.node("eu-1").cli();
        eventually("all of them are at the backend", secs(30), async || {
            let status = cli.status().await?;
            let in_flight = status.backend(entry_of(address))?.in_flight;
            ensure!(in_flight == asked, "{in_flight}");
            Ok(())
        })
        .await?;
        for _ in 0..20 {
            ensure!(said("curl", &ask).await? == "fine");
        }
        let grown = peak_bytes(pid)? - before;
        eprintln!("{} KiB an answer that nobody takes", grown / asked / 1024);
        ensure!(grown <= asked * BYTES_EACH, "{} KiB more", grown >> 10);
        drop(held);
        eventually("nothing of them is left", secs(30), async || {
            let in_flight = cli.status().await?.backend(entry_of(address))?.in_flight;
            ensure!(in_flight == 0, "{in_flight}");
            Ok(())
        })
        .await?;
        origin.must_run()
    });
}

fn entry_of(address: std::net::Ipv4Addr) -> SocketAddr {
    (address, 8083).into()
}
