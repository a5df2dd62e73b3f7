//! A lease on a place in a pool, as a command keeps it: renewed until it is given back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::client::Client;
use super::exit::{CliError, Exit};
use super::output::aside;
use crate::admin::api::PoolStatus;
use crate::admin::api::backends::{Registered, Registration};
use crate::app::machine;

/// How soon a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a backend stands, as commands take it.
#[derive(Debug, Clone, Args)]
pub(super) struct Place {
    /// The region where the backend stands. Default: that of the node which is asked.
    #[arg(long)]
    region: Option<String>,
    /// The zone there.
    #[arg(long)]
    zone: Option<String>,
    /// The rack in that.
    #[arg(long)]
    rack: Option<String>,
    /// Its share, 100 when not given.
    #[arg(long)]
    weight: Option<u16>,
}

impl Place {
    pub(super) fn registration(&self) -> Registration {
        let Self { region, zone, rack, weight } = self.clone();
        Registration { region, zone, rack, weight, ..Registration::default() }
    }
}

/// One backend's lease.
pub(super) struct Lease<'a> {
    pub(super) client: &'a Client,
    pub(super) pool: String,
    pub(super) address: SocketAddr,
    pub(super) asked: Registration,
}

impl Lease<'_> {
    /// Fails when a node says that there is no such pool. One that does not answer yet is asked again when the lease is taken.
    pub(super) async fn known_pool(&self) -> Result<(), CliError> {
        let path = format!("/v1/pools/{}", utf8_percent_encode(&self.pool, NON_ALPHANUMERIC));
        match self.client.send(Method::GET, &path, None, &[]).await {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => answer.success().map(drop),
            _ => Ok(()),
        }
    }

    /// Takes or renews it.
    pub(super) async fn put(&self) -> Result<Registered, CliError> {
        let body = serde_json::to_vec(&self.asked).map_err(anyhow::Error::from)?;
        let body = Some(("application/json", Bytes::from(body)));
        self.client.send(Method::PUT, &self.path(), body, &[]).await?.success()?.parse()
    }

    /// Renews it as often as the node asks for, for ever. A node that does not answer is asked again: the lease may
    /// outlive its restart.
    pub(super) async fn keep(&self, first: Registered) -> ! {
        let (mut next, mut lost) = (wait(&first), false);
        loop {
            tokio::time::sleep(next).await;
            next = match self.put().await {
                Ok(registered) => {
                    if std::mem::take(&mut lost) {
                        aside(format_args!("{} is in pool {} again", self.address, self.pool));
                    }
                    wait(&registered)
                }
                Err(error) => {
                    if !std::mem::replace(&mut lost, true) {
                        aside(format_args!("the lease was not renewed, trying again: {error}"));
                    }
                    AGAIN
                }
            };
        }
    }

    /// Gives it back; with `gone` the backend has ended already.
    pub(super) async fn remove(&self, gone: bool) -> Result<(), CliError> {
        let path = if gone { format!("{}?gone=true", self.path()) } else { self.path() };
        self.client.send(Method::DELETE, &path, None, &[]).await?.success().map(drop)
    }

    /// Requests in flight there, over the mesh; `None` when the pool no longer has it.
    pub(super) async fn in_flight(&self) -> Result<Option<u32>, CliError> {
        let pools: Vec<PoolStatus> = self.client.json(Method::GET, "/v1/pools").await?;
        let address = self.address.to_string();
        let mut backends = pools.iter().filter(|pool| pool.name == self.pool).flat_map(|pool| &pool.backends);
        Ok(backends.find(|backend| backend.address == address).map(|backend| backend.in_flight))
    }

    /// Who names the backend besides leases and those who add backends.
    pub(super) async fn other_sources(&self) -> Result<Vec<String>, CliError> {
        let pools: Vec<PoolStatus> = self.client.json(Method::GET, "/v1/pools").await?;
        let address = self.address.to_string();
        let backends = pools.iter().filter(|pool| pool.name == self.pool).flat_map(|pool| &pool.backends);
        let sources =
            backends.filter(|backend| backend.address == address).flat_map(|one| one.source.split(','));
        Ok(sources.filter(|of| !["added", "lease"].contains(of)).map(str::to_owned).collect())
    }

    fn path(&self) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        format!("/v1/pools/{}/backends/{}", encoded(&self.pool), encoded(&self.address.to_string()))
    }
}

fn wait(registered: &Registered) -> Duration {
    registered.renew_in_ms.map_or(AGAIN, Duration::from_millis)
}

/// The address under which this machine is reached, unless the user names one.
pub(super) fn own_address(named: Option<IpAddr>, port: u16) -> SocketAddr {
    let ip = named.or_else(|| machine::default_route_address(false));
    SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), port)
}

/// Resolves when the user or the system asks this process to end.
pub(super) async fn asked_to_end() -> Result<(), CliError> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// An error of usage.
pub(super) fn usage(message: impl Into<String>) -> CliError {
    CliError::new(Exit::Usage, message)
}
