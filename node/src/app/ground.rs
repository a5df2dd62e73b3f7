//! What a node must have before anybody hears of it: its folder, its key, its token, its ports.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gossip::clock::Clock;
use gossip::keyring::Keyring;

use super::machine::{self, DataFolder};
use super::{StartError, keyring};
use crate::admin::{Admin, Token};
use crate::config::model::NodeConfig;
use crate::config::services;
use crate::proxy;
use crate::watchdog::Watchdog;

/// The data folder's lock and the admin API's sockets of the process before this one.
pub(super) type Inheritance = (std::fs::File, std::net::TcpListener, UnixListener);

/// All of it.
pub(super) struct Ground {
    pub(super) folder: DataFolder,
    /// How many files may be open, where that is known.
    pub(super) files: Option<u64>,
    pub(super) watchdog: Watchdog,
    pub(super) keyring: Keyring,
    pub(super) made: keyring::Made,
    pub(super) token: Arc<ArcSwapOption<Token>>,
    pub(super) admin: Admin,
}

impl Ground {
    /// Takes it, or says what is in the way. `services` is what will be applied: a node that cannot serve it must not give it to
    /// the mesh.
    pub(super) async fn take(
        config: &NodeConfig,
        services: Option<&str>,
        inheritance: Option<Inheritance>,
        clock: &Clock,
    ) -> Result<Self, StartError> {
        let (folder, sockets) = match inheritance {
            Some((lock, tcp, unix)) => (DataFolder::adopt(lock), Some((tcp, unix))),
            None => (DataFolder::lock(&config.data)?, None),
        };
        let files = machine::raise_file_limit();
        let watchdog = Watchdog::start(clock.clone())?;
        let (keyring, made) = keyring::load(config)?;
        let token = Arc::new(ArcSwapOption::from(match &config.admin.token_file {
            None => None,
            Some(path) => {
                let failed = |source| StartError::Token { path: path.clone(), source };
                Some(Arc::new(Token::load(path).map_err(failed)?))
            }
        }));
        if let Some(body) = services {
            let ports = services::parse("services.toml", body).ok();
            let checked = ports.map(|valid| proxy::check_ports(&config.proxy_listen, &valid.services));
            checked.transpose().map_err(proxy::StartError::Bind)?;
        }
        let admin = match sockets {
            Some((tcp, unix)) => Admin::adopt(tcp, unix, token.clone(), &config.data),
            None => Admin::bind(config.admin.listen, token.clone(), &config.data).await?,
        };
        Ok(Self { folder, files, watchdog, keyring, made, token, admin })
    }
}
