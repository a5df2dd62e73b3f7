//! Bytes that make no sense, on every port: nobody falls over.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, MessageType};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tests::backend::{http_backends, tcp_backends};
use tests::client::{Browser, TcpTalk};
use tests::cluster::Cluster;
use tests::dns::{Question, resolve};
use tests::net::{ADMIN, DNS, HTTP, MESH, TCP};
use tests::prove;
use tests::services::{NAME, STICKY_COOKIE, Services, users_of};
use tests::wait::secs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Printed when a proof fails, so that it can be played again.
fn seeded() -> StdRng {
    let seed = rand::random();
    eprintln!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

fn noise(rng: &mut StdRng, longest: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..=longest)];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Sends and looks what comes back, which may be nothing, an error or an end.
async fn throw_at(target: SocketAddr, bytes: &[u8], hang_up: bool) -> Result<()> {
    let mut stream = timeout(secs(5), TcpStream::connect(target)).await?.context("it no longer accepts")?;
    let _ = stream.write_all(bytes).await;
    if hang_up {
        return Ok(());
    }
    let _ = stream.shutdown().await;
    let _ = timeout(Duration::from_millis(100), stream.read(&mut [0; 4096])).await;
    Ok(())
}

#[test]
fn noise_on_every_port_leaves_the_node_as_it_was() {
    prove!(Light, secs(120), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let chat = tcp_backends(&stage.net, 50, &[("eu", 1)], false).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 2)]).await?;
        let services = Services::shop(&stage.net, &backends)
            .tcp_listener("chat")
            .service("chat", "chat = 1", "")
            .pool("chat", "", &chat);
        ensure!(services.text().contains(STICKY_COOKIE), "with sessions");
        mesh.apply("eu-1", &services).await?;
        mesh.healthy().await?;
        let address = mesh.node("eu-1").address;
        let rng = &mut seeded();

        let socket = UdpSocket::bind((stage.net.user(0), 0)).await?;
        for port in [MESH, MESH + 1, DNS] {
            for _ in 0..300 {
                let mut bytes = noise(rng, 1400);
                // A QUIC long header of version 1, so that it gets further than the first byte.
                if port != DNS && rng.random_bool(0.5) && bytes.len() > 5 {
                    bytes[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
                }
                let _ = socket.send_to(&bytes, (address, port)).await;
            }
        }
        for port in [HTTP, TCP, DNS, ADMIN] {
            let target = SocketAddr::from((address, port));
            for round in 0..60 {
                let bytes = match round % 4 {
                    0 => noise(rng, 8000),
                    1 => [b"GET / HTTP/1.1\r\nHost: ".as_slice(), &noise(rng, 300), b"\r\n\r\n"].concat(),
                    2 => [&[0xff, 0xff], noise(rng, 600).as_slice()].concat(),
                    _ => b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
                };
                throw_at(target, &bytes, round % 3 == 0).await.with_context(|| format!("at {target}"))?;
            }
            let endless = [b"GET /".as_slice(), &vec![b'a'; 200_000]].concat();
            throw_at(target, &endless, false).await?;
        }

        mesh.node_mut("eu-1").process()?.must_run()?;
        mesh.agree().await?;
        Browser::new().visit(mesh.node("eu-1").http()).await?;
        TcpTalk::open(stage.net.user(1), mesh.node("eu-1").tcp()).await?.echo(b"hello").await?;
        resolve(mesh.node("eu-1").dns(), NAME, users_of("eu")).await?.only(&mesh.addresses("eu"))?;
        let log = mesh.node("eu-1").log();
        ensure!(!log.contains("panicked"), "something panicked:\n{log}");
        Ok(())
    });
}

#[test]
fn a_name_server_survives_questions_that_are_none() {
    prove!(Light, secs(90), async |stage| {
        let backends = http_backends(&stage.net, &[("eu", 1)]).await?;
        let mut mesh = Cluster::of(stage, &[("eu", 1)]).await?;
        mesh.apply("eu-1", &Services::shop(&stage.net, &backends)).await?;
        let server = mesh.node("eu-1").dns();
        let rng = &mut seeded();
        let good = Question::addresses(NAME)?.for_users("10.1.2.0/24")?;

        let socket = UdpSocket::bind((stage.net.user(0), 0)).await?;
        socket.connect(server).await?;
        let mut answer = vec![0; 4096];
        for _ in 0..2000 {
            // A question with some bytes changed, cut off or added gets far into the server.
            let mut bytes = good.bytes()?;
            for _ in 0..rng.random_range(0..6) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            match rng.random_range(0..4) {
                0 => bytes.truncate(rng.random_range(0..=bytes.len())),
                1 => bytes.extend(noise(rng, 100)),
                _ => {}
            }
            socket.send(&bytes).await?;
            while let Ok(length) = socket.try_recv(&mut answer) {
                well_formed(&answer[..length])?;
            }
        }
        for _ in 0..50 {
            let bytes = noise(rng, 300);
            let framed = [&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat();
            throw_at(server, &framed, false).await?;
        }
        good.ask(server).await?.only(&mesh.addresses("eu"))?;
        good.over_tcp().ask(server).await?.only(&mesh.addresses("eu"))?;
        mesh.node_mut("eu-1").process()?.must_run()
    });
}

/// Whatever was asked, an answer is an answer.
fn well_formed(bytes: &[u8]) -> Result<()> {
    let header = bytes.get(..12).context("an answer shorter than a header")?;
    ensure!(header[2] & 0x80 != 0, "an answer without QR");
    if let Ok(message) = Message::from_vec(bytes) {
        ensure!(message.metadata.message_type == MessageType::Response, "no response");
    }
    Ok(())
}
