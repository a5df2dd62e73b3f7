//! The keeper of files: one task that reads what the services name, looks every two seconds whether it changed, and
//! publishes what follows. It owns all that was read; aborting it leaves the last table in force.
//!
//! Reading happens on a blocking thread: a file system that hangs holds up new certificates and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gossip::clock::{Clock, Wall};
use gossip::id::{ListenerName, PoolName};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{Upstream, upstream};
use super::files::{self, Identity, Roots, Tracked};
use super::server::{self, Parts};
use super::tickets::TicketKeys;
use super::{Table, Tls};
use crate::config::model::{BackendTls, CertificateFiles, Listener, ListenerProtocol, Services};

/// How often the files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// What the keeper needs.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// What tickets are sealed with.
    pub tickets: TicketKeys,
    /// The clock.
    pub clock: Clock,
}

/// Reads all that the present services name, then goes on by itself. `services` finds them in what `changes` carries.
/// Must be called in a tokio runtime. The task ends when the sender of the changes is gone.
pub fn start<T, F>(config: &TlsConfig, changes: watch::Receiver<T>, services: F) -> (Tls, JoinHandle<()>)
where
    T: Send + Sync + 'static,
    F: Fn(&T) -> Arc<Services> + Send + 'static,
{
    let mut keeper = Keeper::new(config.tickets.clone());
    let present = services(&changes.borrow());
    let table = Arc::new(ArcSwap::from_pointee(keeper.look(&present, config.clock.wall())));
    let (sender, changed) = watch::channel(());
    let task = follow(keeper, changes, services, table.clone(), sender, config.clock.clone());
    (Tls { table, changed }, tokio::spawn(task))
}

async fn follow<T, F>(
    mut keeper: Keeper,
    mut changes: watch::Receiver<T>,
    services: F,
    table: Arc<ArcSwap<Table>>,
    changed: watch::Sender<()>,
    clock: Clock,
) where
    T: Send + Sync + 'static,
    F: Fn(&T) -> Arc<Services> + Send + 'static,
{
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
        let present = services(&changes.borrow_and_update());
        if keeper.has_nothing_to_do(&present) {
            continue;
        }
        let now = clock.wall();
        let looked = tokio::task::spawn_blocking(move || {
            let next = keeper.look(&present, now);
            (keeper, next)
        });
        let Ok(looked) = looked.await else {
            return tracing::error!("certificates are no longer looked after; those in force stay");
        };
        keeper = looked.0;
        table.store(Arc::new(looked.1));
        changed.send_replace(());
    }
}

struct BuiltListener {
    parts: Parts,
    config: Option<Arc<ServerConfig>>,
}

struct BuiltPool {
    tls: BackendTls,
    roots: Option<Arc<Roots>>,
    upstream: Arc<Upstream>,
}

/// All that was read, and what was made of it.
struct Keeper {
    tickets: TicketKeys,
    provider: Arc<CryptoProvider>,
    identities: BTreeMap<CertificateFiles, Tracked<Identity>>,
    roots: BTreeMap<PathBuf, Tracked<Roots>>,
    listeners: BTreeMap<ListenerName, BuiltListener>,
    pools: BTreeMap<PoolName, BuiltPool>,
    problems: BTreeSet<String>,
}

impl Keeper {
    fn new(tickets: TicketKeys) -> Self {
        Self {
            tickets,
            provider: Arc::new(aws_lc_rs::default_provider()),
            identities: BTreeMap::new(),
            roots: BTreeMap::new(),
            listeners: BTreeMap::new(),
            pools: BTreeMap::new(),
            problems: BTreeSet::new(),
        }
    }

    fn has_nothing_to_do(&self, services: &Services) -> bool {
        self.listeners.is_empty()
            && self.pools.is_empty()
            && https(services).next().is_none()
            && services.pools.values().all(|pool| pool.tls.is_none())
    }

    /// Looks at every file that the services name and says what is in force from now on.
    fn look(&mut self, services: &Services, now: Wall) -> Table {
        let mut problems = BTreeSet::new();
        self.read(services);
        let mut table = Table::default();
        let mut before = std::mem::take(&mut self.listeners);
        for listener in https(services) {
            let built = self.listener(listener, before.remove(&listener.name), now, &mut problems);
            table.listeners.insert(listener.name.clone(), built.config.clone());
            self.listeners.insert(listener.name.clone(), built);
        }
        let mut before = std::mem::take(&mut self.pools);
        for (name, pool) in &services.pools {
            let Some(tls) = &pool.tls else { continue };
            let built = self.pool(name, tls, before.remove(name), &mut problems);
            table.pools.insert(name.clone(), built.as_ref().map(|built| built.upstream.clone()));
            self.pools.extend(built.map(|built| (name.clone(), built)));
        }
        for problem in problems.difference(&self.problems) {
            tracing::error!("{problem}");
        }
        for problem in self.problems.difference(&problems) {
            tracing::info!("no longer: {problem}");
        }
        table.problems = problems.iter().cloned().collect();
        self.problems = problems;
        table
    }

    /// Reads what changed, forgets what nobody names any more.
    fn read(&mut self, services: &Services) {
        let wanted: BTreeSet<_> = https(services).flat_map(|listener| &listener.certificates).collect();
        self.identities.retain(|files, _| wanted.contains(files));
        for files in wanted {
            let paths: [&Path; 2] = [&files.cert, &files.key];
            let tracked = self.identities.entry(files.clone()).or_default();
            let first = tracked.value().is_none();
            if tracked.look(&paths, || files::identity(files, &self.provider)) && !first {
                tracing::info!(certificate = %files.cert.display(), "the certificate changed and is in use");
            }
        }
        let clients = https(services).filter_map(|listener| listener.client_ca.as_ref());
        let backends = services.pools.values().filter_map(|pool| pool.tls.as_ref()?.ca.as_ref());
        let wanted: BTreeSet<_> = clients.chain(backends).collect();
        self.roots.retain(|path, _| wanted.contains(path));
        for path in wanted {
            let tracked = self.roots.entry(path.clone()).or_default();
            let first = tracked.value().is_none();
            if tracked.look(&[path], || files::roots(path)) && !first {
                tracing::info!(authorities = %path.display(), "the authorities changed and are in use");
            }
        }
    }

    fn listener(
        &self,
        listener: &Listener,
        before: Option<BuiltListener>,
        now: Wall,
        problems: &mut BTreeSet<String>,
    ) -> BuiltListener {
        let name = &listener.name;
        let kept = before.as_ref().map(|before| &before.parts);
        let mut identities = Vec::new();
        for (place, files) in listener.certificates.iter().enumerate() {
            let tracked = self.identities.get(files);
            // A new revision that names a file which this node lacks takes nothing away.
            let old = || kept.and_then(|kept| kept.identities.get(place)?.clone());
            let identity = tracked.and_then(|tracked| tracked.value().cloned()).or_else(old);
            if let Some(error) = tracked.and_then(Tracked::error) {
                let instead = match identity {
                    Some(_) => "the certificate read before stays in use",
                    None => "handshakes that need it are refused",
                };
                problems.insert(format!("listener {name}: {error}; {instead}"));
            } else if identity.as_ref().is_some_and(|identity| identity.is_expired(now)) {
                problems.insert(format!(
                    "listener {name}: the certificate in {} has expired",
                    files.cert.display()
                ));
            }
            identities.push(identity);
        }
        let mut clients = None;
        if let Some(path) = &listener.client_ca {
            let tracked = self.roots.get(path);
            let old = || kept.and_then(|kept| kept.clients.clone());
            clients = tracked.and_then(|tracked| tracked.value().cloned()).or_else(old);
            if let Some(error) = tracked.and_then(Tracked::error) {
                let instead = match clients {
                    Some(_) => "the authorities read before stay in use",
                    None => "all handshakes are refused",
                };
                problems.insert(format!("listener {name}: client_ca: {error}; {instead}"));
            }
        }
        let shut = listener.client_ca.is_some() && clients.is_none();
        let parts = Parts { identities, clients };
        if let Some(before) =
            before.filter(|before| !shut && before.config.is_some() && before.parts.are(&parts))
        {
            return before;
        }
        if shut {
            return BuiltListener { parts, config: None };
        }
        match server::config(name.as_str(), &parts, super::ALPN, &self.tickets, &self.provider) {
            Ok(config) => BuiltListener { parts, config: Some(Arc::new(config)) },
            Err(error) => {
                problems.insert(format!("listener {name}: {error}; all handshakes are refused"));
                BuiltListener { parts, config: None }
            }
        }
    }

    fn pool(
        &self,
        name: &PoolName,
        tls: &BackendTls,
        before: Option<BuiltPool>,
        problems: &mut BTreeSet<String>,
    ) -> Option<BuiltPool> {
        let mut roots = None;
        if let Some(path) = &tls.ca {
            let tracked = self.roots.get(path);
            let old = || before.as_ref().and_then(|before| before.roots.clone());
            roots = tracked.and_then(|tracked| tracked.value().cloned()).or_else(old);
            if let Some(error) = tracked.and_then(Tracked::error) {
                let instead = match roots {
                    Some(_) => "the authorities read before stay in use",
                    None => "its backends cannot be verified and are not used",
                };
                problems.insert(format!("pool {name}: ca: {error}; {instead}"));
            }
            // Never unverified where the file wants verification.
            roots.as_ref()?;
        }
        let same = |before: &BuiltPool| {
            before.tls == *tls
                && match (&before.roots, &roots) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (None, None) => true,
                    _ => false,
                }
        };
        if let Some(before) = before.filter(same) {
            return Some(before);
        }
        match upstream(tls, roots.as_deref(), &self.provider) {
            Ok(upstream) => Some(BuiltPool { tls: tls.clone(), roots, upstream: Arc::new(upstream) }),
            Err(error) => {
                problems.insert(format!("pool {name}: {error}; its backends are not used"));
                None
            }
        }
    }
}

fn https(services: &Services) -> impl Iterator<Item = &Arc<Listener>> {
    services.listeners.values().filter(|listener| listener.protocol == ListenerProtocol::Https)
}

#[cfg(test)]
mod tests;
