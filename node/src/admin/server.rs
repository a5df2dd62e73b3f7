//! The admin sockets.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::access::{Guard, Tokens, check};
use super::doorkeeper::{Doors, Seat, seat};
use super::{Context, routes};

/// How often it is looked whether all is answered.
const LOOK: Duration = Duration::from_millis(20);

/// Why the admin API cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// The TCP port.
    #[error("admin: cannot listen on {addr}: {source}")]
    Tcp { addr: SocketAddr, source: io::Error },
    /// The Unix socket.
    #[error("admin: cannot listen on {}: {source}", path.display())]
    Socket { path: PathBuf, source: io::Error },
}

/// The bound sockets, not yet serving.
#[derive(Debug)]
pub(crate) struct Admin {
    tcp: std::net::TcpListener,
    unix: std::os::unix::net::UnixListener,
    token: Tokens,
    doors: Doors,
    path: PathBuf,
}

impl Admin {
    /// Binds both. The data folder is locked by this process, so a socket file that lies there is a leftover.
    pub(crate) async fn bind(listen: SocketAddr, token: Tokens, data: &Path) -> Result<Self, AdminError> {
        let refused = |source| AdminError::Tcp { addr: listen, source };
        let tcp = TcpListener::bind(listen).await.and_then(TcpListener::into_std).map_err(refused)?;
        let path = data.join("admin.sock");
        let failed = |source| AdminError::Socket { path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let unix = UnixListener::bind(&path).and_then(UnixListener::into_std).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { tcp, unix, token, doors: Doors::new(), path })
    }

    /// The sockets of the process before this one.
    pub(crate) fn adopt(
        tcp: std::net::TcpListener,
        unix: std::os::unix::net::UnixListener,
        token: Tokens,
        data: &Path,
    ) -> Self {
        Self { tcp, unix, token, doors: Doors::new(), path: data.join("admin.sock") }
    }

    /// How full the sockets are.
    pub(crate) fn doors(&self) -> Doors {
        self.doors.clone()
    }

    /// Serves on the tokio runtime this is called in, until the set is dropped or shut down.
    pub(crate) fn serve(self, context: Arc<Context>) -> io::Result<Serving> {
        let under_way = UnderWay::default();
        let router = routes::router(context).layer(from_fn_with_state(under_way.clone(), count));
        let kept = (self.tcp.try_clone()?, self.unix.try_clone()?);
        let (tcp, unix) = (TcpListener::from_std(self.tcp)?, UnixListener::from_std(self.unix)?);
        let guard = Arc::new(Guard { listen: tcp.local_addr()?, token: self.token.clone() });
        let router = router.layer(from_fn(seat));
        let guarded = router.clone().layer(from_fn_with_state(guard, check));
        let mut tasks = JoinSet::new();
        let (tcp, unix) = (self.doors.tcp(tcp, self.token), self.doors.unix(unix));
        tasks.spawn(async move {
            // It ends only when it is aborted.
            let _ = axum::serve(tcp, guarded.into_make_service_with_connect_info::<Seat>()).await;
        });
        let local = router.layer(Extension(Local));
        tasks.spawn(async move {
            let _ = axum::serve(unix, local.into_make_service_with_connect_info::<Seat>()).await;
        });
        Ok(Serving { tasks, kept, path: Some(self.path), under_way })
    }
}

/// How many requests are not answered yet. A stream of events is, once it has begun.
#[derive(Debug, Clone, Default)]
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    async fn falls_to(&self, left: usize) {
        while self.0.load(Ordering::Relaxed) > left {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// One of them.
struct Unanswered(UnderWay);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn count(State(under_way): State<UnderWay>, request: Request, next: Next) -> Response {
    under_way.0.fetch_add(1, Ordering::Relaxed);
    let _unanswered = Unanswered(under_way);
    next.run(request).await
}

/// Marks what came by the Unix socket, from somebody on this machine who may use the data folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local;

/// The running API; dropping it stops it and removes the Unix socket.
#[derive(Debug)]
pub(crate) struct Serving {
    tasks: JoinSet<()>,
    kept: (std::net::TcpListener, std::os::unix::net::UnixListener),
    path: Option<PathBuf>,
    under_way: UnderWay,
}

impl Serving {
    /// Waits until no more than `left` requests are not answered yet, for `patience` at most.
    pub(crate) async fn answered(&self, left: usize, patience: Duration) {
        // Who takes longer is cut.
        let _ = tokio::time::timeout(patience, self.under_way.falls_to(left)).await;
    }

    /// Accepts nothing more and gives the sockets to the next process; who is connected is answered.
    pub(crate) fn hand_over(
        &mut self,
    ) -> io::Result<(std::net::TcpListener, std::os::unix::net::UnixListener)> {
        self.tasks.abort_all();
        self.path = None;
        Ok((self.kept.0.try_clone()?, self.kept.1.try_clone()?))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // The next start removes it if this does not.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn an_order_is_under_way_until_it_is_answered() {
        let (may_end, under_way) = (Arc::new(Notify::new()), UnderWay::default());
        let waits = may_end.clone();
        let slow = move || async move {
            waits.notified().await;
            "done"
        };
        let router = Router::new().route("/", get(slow)).layer(from_fn_with_state(under_way.clone(), count));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        under_way.falls_to(0).await;
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        while under_way.0.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(tokio::time::timeout(LOOK * 3, under_way.falls_to(0)).await.is_err());
        under_way.falls_to(1).await;
        may_end.notify_one();
        under_way.falls_to(0).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("done"), "{answer}");
    }
}
