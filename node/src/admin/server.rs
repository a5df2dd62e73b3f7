//! The admin sockets.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::Extension;
use axum::middleware::from_fn_with_state;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::access::{Guard, Token, check};
use super::doorkeeper::Doorkeeper;
use super::{Context, routes};

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
    token: Arc<ArcSwapOption<Token>>,
    path: PathBuf,
}

impl Admin {
    /// Binds both. The data folder is locked by this process, so a socket file that lies there is a leftover.
    pub(crate) async fn bind(
        listen: SocketAddr,
        token: Arc<ArcSwapOption<Token>>,
        data: &Path,
    ) -> Result<Self, AdminError> {
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
        Ok(Self { tcp, unix, token, path })
    }

    /// The sockets of the process before this one.
    pub(crate) fn adopt(
        tcp: std::net::TcpListener,
        unix: std::os::unix::net::UnixListener,
        token: Arc<ArcSwapOption<Token>>,
        data: &Path,
    ) -> Self {
        Self { tcp, unix, token, path: data.join("admin.sock") }
    }

    /// Serves on the tokio runtime this is called in, until the set is dropped or shut down.
    pub(crate) fn serve(self, context: Arc<Context>) -> io::Result<Serving> {
        let router = routes::router(context);
        let kept = (self.tcp.try_clone()?, self.unix.try_clone()?);
        let (tcp, unix) = (TcpListener::from_std(self.tcp)?, UnixListener::from_std(self.unix)?);
        let guard = Arc::new(Guard { listen: tcp.local_addr()?, token: self.token });
        let guarded = router.clone().layer(from_fn_with_state(guard, check));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends only when it is aborted.
            let _ = axum::serve(Doorkeeper::new(tcp), guarded).await;
        });
        let local = router.layer(Extension(Local));
        tasks.spawn(async move {
            let _ = axum::serve(Doorkeeper::new(unix), local).await;
        });
        Ok(Serving { tasks, kept, path: Some(self.path) })
    }
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
}

impl Serving {
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
