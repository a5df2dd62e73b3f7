//! A TCP user who talks with a [`TcpBackend`](crate::backend::TcpBackend).

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{PATIENCE, connect};

/// A connection over which the backend has said hello.
#[derive(Debug)]
pub struct TcpTalk {
    stream: BufReader<TcpStream>,
    local: SocketAddr,
    /// The backend's name.
    pub backend: String,
    /// The PROXY line it got, or `-`.
    pub proxy: String,
}

impl TcpTalk {
    /// Connects from `source` and waits for the hello.
    pub async fn open(source: Ipv4Addr, target: SocketAddr) -> Result<Self> {
        let opening = async {
            let stream =
                connect(Some(source), target).await.with_context(|| format!("connecting to {target}"))?;
            let local = stream.local_addr()?;
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.context("waiting for the hello")?;
            let mut words = line.trim_end().splitn(3, ' ');
            let hello = words.next().unwrap_or_default();
            ensure!(hello == "hello", "{target} says {line:?} to {source} instead of hello");
            let backend = words.next().unwrap_or_default().to_owned();
            let proxy = words.next().unwrap_or_default().to_owned();
            Ok(Self { stream, local, backend, proxy })
        };
        timeout(PATIENCE, opening)
            .await
            .with_context(|| format!("no hello from {target} within {PATIENCE:?}"))?
    }

    /// Its own end of the connection.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends and expects the same back.
    pub async fn echo(&mut self, data: &[u8]) -> Result<()> {
        let back = async {
            self.stream.write_all(data).await?;
            let mut echo = vec![0; data.len()];
            self.stream.read_exact(&mut echo).await?;
            anyhow::Ok(echo)
        };
        let echo =
            timeout(PATIENCE, back).await.context("no echo in time")?.context("waiting for the echo")?;
        ensure!(echo == data, "the echo differs");
        Ok(())
    }

    /// Sends, ends its own direction, and reads the other to its end.
    pub async fn finish(mut self, data: &[u8]) -> Result<Vec<u8>> {
        let rest = async {
            self.stream.write_all(data).await?;
            self.stream.shutdown().await?;
            let mut rest = Vec::new();
            self.stream.read_to_end(&mut rest).await?;
            anyhow::Ok(rest)
        };
        timeout(PATIENCE, rest).await.context("the other direction does not end")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::tcp_backends;
    use crate::net::Net;

    #[tokio::test]
    async fn a_talk_has_a_hello_an_echo_and_a_farewell_after_half_close() {
        let net = Net::claim().unwrap();
        let backends = tcp_backends(&net, 0, &[("eu", 1)], false).await.unwrap();
        let mut talk = TcpTalk::open(net.user(7), backends[0].address()).await.unwrap();
        assert_eq!((talk.backend.as_str(), talk.proxy.as_str()), ("eu/1", "-"));
        assert_eq!(talk.local().ip(), net.user(7));
        talk.echo(b"shoes").await.unwrap();
        assert_eq!(talk.finish(b"pay").await.unwrap(), b"paybye 8\n");
        assert_eq!(backends[0].sessions(), 1);
    }

    #[tokio::test]
    async fn a_backend_that_takes_proxy_repeats_the_line() {
        let net = Net::claim().unwrap();
        let backends = tcp_backends(&net, 0, &[("eu", 1)], true).await.unwrap();
        let mut stream = connect(None, backends[0].address()).await.unwrap();
        stream.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n").await.unwrap();
        let mut hello = String::new();
        BufReader::new(stream).read_line(&mut hello).await.unwrap();
        assert_eq!(hello, "hello eu/1 PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n");
    }
}
