//! The admin sockets.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
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
    tcp: TcpListener,
    unix: UnixListener,
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
        let tcp =
            TcpListener::bind(listen).await.map_err(|source| AdminError::Tcp { addr: listen, source })?;
        let path = data.join("admin.sock");
        let failed = |source| AdminError::Socket { path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let unix = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { tcp, unix, token, path })
    }

    /// Serves on the tokio runtime this is called in, until the set is dropped or shut down.
    pub(crate) fn serve(self, context: Arc<Context>) -> io::Result<JoinSet<()>> {
        let router = routes::router(context);
        let guard = Arc::new(Guard { listen: self.tcp.local_addr()?, token: self.token });
        let guarded = router.clone().layer(from_fn_with_state(guard, check));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends only when it is aborted.
            let _ = axum::serve(Doorkeeper::new(self.tcp), guarded).await;
        });
        let _leftover = RemoveOnDrop(self.path);
        tasks.spawn(async move {
            let _leftover = _leftover;
            let _ = axum::serve(Doorkeeper::new(self.unix), router).await;
        });
        Ok(tasks)
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // The next start removes it if this does not.
        let _ = std::fs::remove_file(&self.0);
    }
}
