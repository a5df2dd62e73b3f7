//! The users: a browser with a cookie jar, and one who talks TCP.

mod browser;
mod talk;

pub use browser::{Browser, Reply, Trouble};
pub use talk::TcpTalk;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects from a chosen address of loopback, or from whichever the kernel takes.
pub async fn connect(source: Option<Ipv4Addr>, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(source) = source {
        // The port is chosen at connect, from all that this destination leaves free.
        socket.set_reuseaddr(true)?;
        socket.bind((source, 0).into())?;
    }
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
