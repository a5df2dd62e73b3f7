//! A listener that can be closed and opened again.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;
type Serve = Arc<dyn Fn(TcpStream, SocketAddr) -> Serving + Send + Sync>;

pub(super) struct Door {
    address: SocketAddr,
    serve: Serve,
    open: Option<Open>,
}

/// The task that accepts, which ends when `close` is dropped.
struct Open {
    close: oneshot::Sender<()>,
    task: JoinHandle<()>,
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
        if let Some(Open { close, task }) = self.open.take() {
            drop(close);
            let _ = task.await;
        }
    }

    pub(super) async fn reopen(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let listener =
            TcpListener::bind(self.address).await.with_context(|| format!("binding {}", self.address))?;
        let serve = self.serve.clone();
        let (close, mut closed) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((stream, peer)) = listener.accept() => {
                        let _ = stream.set_nodelay(true);
                        connections.spawn(serve(stream, peer));
                    }
                    Some(_) = connections.join_next() => {}
                    _ = &mut closed => break,
                }
            }
            drop(listener);
            // To abort a task only asks for its end: its connection is cut when it has ended.
            connections.shutdown().await;
        });
        self.open = Some(Open { close, task });
        Ok(())
    }
}
