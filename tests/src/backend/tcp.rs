//! A TCP backend: says hello, echoes, and after the client's end of data tells how much that was.
//!
//! ```text
//!   client                    backend
//!     [PROXY TCP4 ...\r\n] ──▶              when the pool sends it
//!                          ◀── hello eu/1 PROXY TCP4 ...\n
//!     any bytes            ──▶
//!                          ◀── the same bytes
//!     FIN                  ──▶
//!                          ◀── bye 1234\n, FIN
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::PORT;
use super::door::Door;
use crate::net::Net;

/// The longest PROXY v1 line with its end.
const PROXY_MAX_BYTES: u64 = 107;

#[derive(Debug)]
struct State {
    id: String,
    takes_proxy: bool,
    sessions: AtomicU64,
}

/// One TCP backend.
pub struct TcpBackend {
    region: String,
    state: Arc<State>,
    door: Door,
}

impl TcpBackend {
    /// Starts one; `takes_proxy` when connections begin with a PROXY line.
    pub async fn start(id: &str, region: &str, address: SocketAddr, takes_proxy: bool) -> Result<Self> {
        let state = Arc::new(State { id: id.to_owned(), takes_proxy, sessions: AtomicU64::new(0) });
        let served = state.clone();
        let door = Door::open(address, move |stream, _| {
            let state = served.clone();
            async move {
                // A client that goes away is its own business.
                let _ = serve(stream, &state).await;
            }
        });
        Ok(Self { region: region.to_owned(), state, door: door.await? })
    }

    /// What it calls itself.
    pub fn id(&self) -> &str {
        &self.state.id
    }

    /// Where it stands.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Connections over which a client ever said something.
    pub fn sessions(&self) -> u64 {
        self.state.sessions.load(Ordering::Relaxed)
    }

    /// Connections are refused, those that stand are cut.
    pub async fn refuse(&mut self) {
        self.door.close().await;
    }

    /// Accepts again.
    pub async fn reopen(&mut self) -> Result<()> {
        self.door.reopen().await
    }
}

/// Some in each region, called `eu/1` and so on, on the addresses of the net from `first` on.
pub async fn tcp_backends(
    net: &Net,
    first: usize,
    regions: &[(&str, usize)],
    takes_proxy: bool,
) -> Result<Vec<TcpBackend>> {
    let mut backends = Vec::<TcpBackend>::new();
    for (region, count) in regions {
        for _ in 0..*count {
            let number = backends.iter().filter(|each| each.region == *region).count() + 1;
            let address = SocketAddr::from((net.backend(first + backends.len()), PORT));
            let id = format!("{region}/{number}");
            backends.push(TcpBackend::start(&id, region, address, takes_proxy).await?);
        }
    }
    Ok(backends)
}

async fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    let mut proxy = String::new();
    if state.takes_proxy {
        (&mut input).take(PROXY_MAX_BYTES).read_line(&mut proxy).await?;
    }
    let shown = if proxy.is_empty() { "-" } else { proxy.trim_end() };
    output.write_all(format!("hello {} {shown}\n", state.id).as_bytes()).await?;
    let mut bytes = 0_u64;
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let read = input.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        if bytes == 0 {
            state.sessions.fetch_add(1, Ordering::Relaxed);
        }
        bytes += read as u64;
        output.write_all(&chunk[..read]).await?;
    }
    output.write_all(format!("bye {bytes}\n").as_bytes()).await?;
    output.shutdown().await
}
