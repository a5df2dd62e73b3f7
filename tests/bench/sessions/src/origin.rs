//! A backend that takes its time: HTTP/1.1, keep-alive, heads alone.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

pub(crate) fn run(listen: SocketAddr, think_micros: u64) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream, Duration::from_micros(think_micros)));
        }
    })
}

/// Ends with the connection; what goes wrong with it concerns nobody else.
async fn serve(stream: TcpStream, think: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line == b"\r\n" {
            if !think.is_zero() {
                tokio::time::sleep(think).await;
            }
            stream.get_mut().write_all(ANSWER).await?;
        }
    }
}
