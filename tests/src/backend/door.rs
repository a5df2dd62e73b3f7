//! A listener that can be closed and opened again.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;
type Serve = Arc<dyn Fn(TcpStream, SocketAddr) -> Serving + Send + Sync>;

pub(super) struct Door {
    address: SocketAddr,
    serve: Serve,
    open: Option<JoinHandle<()>>,
}

impl Door {
    /// Binds and serves every connection with `serve`.
    pub(super) async fn open<S, F>(address: SocketAddr, serve: S) -> Result<Self>
    where
        S: Fn(TcpStream, SocketAddr) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let serve: Serve = Arc::new(move |stream, peer| Box::pin(serve(stream, peer)));
        let mut door = Self { address, serve, open: None };
        door.reopen().await?;
        Ok(door)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nobody listens any more and every connection is cut. Returns when that is so.
    pub(super) async fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            let _ = open.await;
        }
    }

    pub(super) async fn reopen(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let listener =
            TcpListener::bind(self.address).await.with_context(|| format!("binding {}", self.address))?;
        let serve = self.serve.clone();
        self.open = Some(tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((stream, peer)) = listener.accept() => {
                        let _ = stream.set_nodelay(true);
                        connections.spawn(serve(stream, peer));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        }));
        Ok(())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.abort();
        }
    }
}
