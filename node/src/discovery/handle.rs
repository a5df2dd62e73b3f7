//! How the rest of the node speaks with discovery.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gossip::id::{NodeName, PoolName};
use tokio::sync::{mpsc, oneshot, watch};

use super::claims::Room;
use super::core::{OrderError, SourceState};
use super::found::Found;

/// A handle to discovery. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Discovery {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) problems: watch::Receiver<Arc<Vec<String>>>,
    pub(super) engines: watch::Receiver<Arc<Engines>>,
    pub(super) room: watch::Receiver<Room>,
}

/// The living nodes whose Docker Engine answers, and a pool's containers that it has.
pub(crate) type Holdings = BTreeMap<NodeName, BTreeSet<SocketAddr>>;

/// The same, by pool.
pub(super) type Engines = BTreeMap<PoolName, Holdings>;

/// What is asked of the task.
#[derive(Debug)]
pub(super) enum Order {
    Put(PoolName, Found, Option<Duration>, oneshot::Sender<Result<(), OrderError>>),
    Remove(PoolName, SocketAddr, bool, oneshot::Sender<Result<(), OrderError>>),
    Retire(PoolName, SocketAddr, bool, oneshot::Sender<Result<(), OrderError>>),
    Sources(oneshot::Sender<Vec<SourceState>>),
}

impl Discovery {
    /// How much of what is bounded is in use.
    pub(crate) fn room(&self) -> Room {
        *self.room.borrow()
    }

    /// A backend asks for a lease of `ttl`, or renews it; without one an operator adds it until it is removed.
    ///
    /// # Errors
    /// See [`OrderError`]; nothing has changed then.
    pub(crate) async fn put(
        &self,
        pool: PoolName,
        found: Found,
        ttl: Option<Duration>,
    ) -> Result<(), OrderError> {
        self.ask(|answer| Order::Put(pool, found, ttl, answer)).await?
    }

    /// Takes back a lease or an added backend; with `gone` it has ended already and there is nothing to drain.
    ///
    /// # Errors
    /// See [`OrderError`]; nothing has changed then.
    pub(crate) async fn remove(
        &self,
        pool: PoolName,
        address: SocketAddr,
        gone: bool,
    ) -> Result<(), OrderError> {
        self.ask(|answer| Order::Remove(pool, address, gone, answer)).await?
    }

    /// Scaling is about to stop a backend, which gets no new sessions then, or does not any more.
    ///
    /// # Errors
    /// See [`OrderError`]; nothing has changed then.
    pub(crate) async fn retire(
        &self,
        pool: PoolName,
        address: SocketAddr,
        on: bool,
    ) -> Result<(), OrderError> {
        self.ask(|answer| Order::Retire(pool, address, on, answer)).await?
    }

    /// The living nodes whose Docker Engine answers, with what each has of a pool that scales by Docker.
    pub(crate) fn engines(&self, pool: &PoolName) -> Holdings {
        self.engines.borrow().get(pool).cloned().unwrap_or_default()
    }

    /// Every source that the configuration names, over the mesh.
    ///
    /// # Errors
    /// When the node shuts down.
    pub(crate) async fn sources(&self) -> Result<Vec<SourceState>, OrderError> {
        self.ask(Order::Sources).await
    }

    /// What troubles this node's own sources.
    pub(crate) fn problems(&self) -> Arc<Vec<String>> {
        self.problems.borrow().clone()
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, OrderError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| OrderError::Stopped)?;
        answered.await.map_err(|_| OrderError::Stopped)
    }
}
