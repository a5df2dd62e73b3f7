//! Hundreds of strangers at the admin port take nothing from those who have its token.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tests::client::{Browser, Reply};
use tests::cluster::Cluster;
use tests::prove;
use tests::wait::{eventually, secs};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

const TOKEN: &str = "a token of the proof's own";
/// More than an admin port has places, from addresses of which none may hold so many.
const STRANGERS: usize = 640;
const ADDRESSES: usize = 32;

async fn order(admin: SocketAddr, method: &str, path: &str) -> Result<Reply> {
    let mut operator =
        Browser::new().host(&admin.to_string()).header("authorization", &format!("Bearer {TOKEN}"));
    Ok(operator.request(method.parse()?, admin, path, Default::default()).await?)
}

/// A stream of events, once it has begun.
async fn follow(admin: SocketAddr) -> Result<BufReader<TcpStream>> {
    let mut stream = BufReader::new(TcpStream::connect(admin).await?);
    let head = format!(
        "GET /v1/events HTTP/1.1\r\nhost: {admin}\r\naccept: text/event-stream\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.get_mut().write_all(head.as_bytes()).await?;
    hear(&mut stream, "id:").await?;
    Ok(stream)
}

/// Reads on until a line has these words.
async fn hear(stream: &mut BufReader<TcpStream>, words: &str) -> Result<()> {
    let reading = async {
        loop {
            let mut line = String::new();
            ensure!(stream.read_line(&mut line).await? > 0, "the stream was cut");
            if line.contains(words) {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(secs(20), reading).await.with_context(|| format!("nobody says {words:?}"))?
}

/// Somebody without the token, who asks and stays, or begins to ask and does not go on.
async fn stranger(from: Ipv4Addr, admin: SocketAddr, asks: bool) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let mut stream = socket.connect(admin).await?;
    // Who has been sent away already cannot write any more.
    if asks {
        let head = format!("GET /v1/status HTTP/1.1\r\nhost: {admin}\r\nauthorization: Bearer no\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).await.is_ok() {
            ensure!(answer.ends_with(b"401"), "{}", String::from_utf8_lossy(&answer));
        }
    } else {
        let _ = stream.write_all(b"GET /v1/sta").await;
    }
    Ok(stream)
}

#[test]
fn hundreds_of_strangers_cut_no_operator() {
    prove!(Light, secs(120), async |stage| {
        let mut mesh = Cluster::empty(stage).await?;
        let node = mesh.place("eu");
        let file = stage.write("token", TOKEN)?;
        let mut command = node.command()?;
        command.arg("--admin-token-file").arg(file);
        node.launch_as(command)?;
        let admin = node.admin();
        eventually("the admin port answers", secs(20), async || {
            let reply = order(admin, "GET", "/v1/status").await?;
            ensure!(reply.status.as_u16() == 200, "{}", reply.everything());
            Ok(())
        })
        .await?;
        let mut stream = follow(admin).await?;
        let mut strangers = Vec::new();
        for at in 0..STRANGERS {
            let from = stage.net.user(at % ADDRESSES);
            strangers.push(stranger(from, admin, at % 2 == 0).await?);
        }
        // The token still opens a door that is full, and who followed hears of it.
        let denied = order(admin, "PUT", "/v1/denies/203.0.113.0%2F24").await?;
        ensure!(denied.status.is_success(), "{}", denied.everything());
        hear(&mut stream, "203.0.113.0/24").await?;
        let page = order(admin, "GET", "/metrics").await?.text();
        let taken =
            page.lines().find_map(|line| line.strip_prefix("meridian_admin_connections{socket=\"tcp\"} "));
        let taken: f64 = taken.context("no such metric")?.parse()?;
        ensure!(taken <= 256.0, "{taken} connections");
        drop(strangers);
        Ok(())
    });
}
