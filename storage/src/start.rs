//! Starting and stopping the whole of it: the only wiring.
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gossip::clock::Clock;
use gossip::id::{NodeName, RegionName, Tag};
use gossip::keyring::Keyring;
use gossip::mesh::Mesh;
use gossip::state::ClusterView;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::cookie::Cookies;
use crate::disk::{self, DiskError, Shelves};
use crate::ends::{self, Ends};
use crate::intents::Intents;
use crate::placement::Placement;
use crate::replica::Counters;
use crate::revisions::{self, RevisionTask, RevisionTaskConfig, Revisions, Trial};
use crate::sessions::{Sessions, Shared};
use crate::survey::Survey;
use crate::table::Table;
use crate::task::{self, COMMANDS_MAX, Driver};
use crate::transport::Network;
use crate::writer::{STORE_MAX_BYTES, Writer, WriterConfig};
use crate::zone_keys::{MakeSecret, ZoneKeys, ZoneKeysConfig};

/// How long a shutdown waits for the disk.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

/// Says whether a body of `services.toml` is valid; the error is for people, with lines.
pub type Validate = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the store needs to know.
#[derive(Clone)]
pub struct StorageConfig {
    /// The data folder; must exist and be this node's alone.
    pub data: PathBuf,
    /// This node.
    pub me: NodeName,
    /// Its region: the home of the sessions made here.
    pub region: RegionName,
    /// The mesh, already started.
    pub mesh: Mesh,
    /// Who is there.
    pub view: watch::Receiver<Arc<ClusterView>>,
    /// For the cookies' keys, and to seal the keys of zones.
    pub keyring: Keyring,
    /// The node's clock.
    pub clock: Clock,
    /// Checks a configuration body before it is stored.
    pub validate: Validate,
    /// Makes the secret of a zone's key.
    pub make_zone_key: MakeSecret,
}

/// Why the store does not start. A corrupt or oversized store is no reason: it is set aside (I11). Nor is a full disk.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has the store open.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The data folder cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The running store. Dropping it stops its tasks; [`Storage::shutdown`] also writes what is not yet on disk.
pub struct Storage {
    sessions: Sessions,
    survey: Survey,
    cookies: Cookies,
    revisions: Revisions,
    intents: Intents,
    zone_keys: ZoneKeys,
    writer: Arc<Writer>,
    trial: Arc<Trial>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Storage {
    /// Opens the store (setting a broken one aside), loads it and starts the tasks on the current tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(config: StorageConfig) -> Result<Self, StartError> {
        let network = Arc::new(config.mesh.clone());
        let cookies = Cookies::new(&config.keyring);
        let parts = Parts {
            data: config.data,
            me: config.me,
            region: config.region,
            network,
            view: config.view,
            clock: config.clock,
            validate: config.validate,
            keyring: config.keyring,
            make_zone_key: config.make_zone_key,
        };
        Self::start_on(parts, cookies).await
    }

    async fn start_on(parts: Parts, cookies: Cookies) -> Result<Self, StartError> {
        let Parts { data, me, region, network, view, clock, validate, keyring, make_zone_key } = parts;
        let table = Arc::new(Table::default());
        let (writer, shelves) = open(&data, &table, &clock).await?;
        let writer = Arc::new(writer);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();

        let zone_keys = ZoneKeys::load(ZoneKeysConfig {
            data: data.clone(),
            me: me.clone(),
            clock: clock.clone(),
            network: network.clone(),
            view: view.clone(),
            keyring,
            make: make_zone_key,
        });
        tasks.spawn(zone_keys.clone().run(stopped.clone()));

        let trial = Arc::new(Trial::load(&data, clock.clone()));
        let died_of = trial.left_out().map(|(id, _)| id);
        let (history, left_out) = revisions::load(&data, &shelves.revisions, &validate, died_of);
        // A trial that was interrupted goes on, and so does that of a revision that nothing can be run instead of. One that was
        // written, but not put in force before the end, is put in force now.
        if let Some(current) = history.current()
            && (trial.interrupted() == Some(current.id) || died_of.is_some_and(|id| id <= current.id))
            && let Err(error) = trial.begin(current.id)
        {
            tracing::warn!(%error, "it cannot be written down that the current revision is on trial");
        }
        let (revision_task, revisions) = RevisionTask::new(
            RevisionTaskConfig {
                data: data.clone(),
                me: me.clone(),
                clock: clock.clone(),
                network: network.clone(),
                view: view.clone(),
                writer: writer.clone(),
                validate,
                trial: trial.clone(),
                left_out,
            },
            history,
        );
        tasks.spawn(revision_task.run(stopped.clone()));

        let intents = Intents::new(
            me.clone(),
            clock.clone(),
            network.clone(),
            view.clone(),
            writer.clone(),
            &shelves.intents,
            data,
        );
        tasks.spawn(intents.clone().run(stopped.clone()));

        let mates = task::mates(&view.borrow(), &me, &region, &Placement::default());
        let shared = Arc::new(Shared {
            table,
            mates: ArcSwap::from_pointee(mates),
            counters: Arc::new(Counters::default()),
            clock,
            writer: writer.clone(),
            home: Tag::of(region.as_str()),
        });
        tasks.spawn(ends::follow(shared.clone(), intents.watch(), stopped.clone()));
        let (orders_tx, orders) = mpsc::channel(COMMANDS_MAX);
        let sessions = Sessions::new(shared.clone(), orders_tx);
        let survey = Survey::new(shared.clone(), network.clone());
        tasks.spawn(survey.clone().answer_others(stopped.clone()));
        tasks.spawn(Driver { region, shared, network, view, orders }.run(stopped));

        Ok(Self { sessions, survey, cookies, revisions, intents, zone_keys, writer, trial, tasks, stop })
    }

    /// The sessions.
    pub fn sessions(&self) -> Sessions {
        self.sessions.clone()
    }

    /// What operators ask about the sessions of the mesh.
    pub fn survey(&self) -> Survey {
        self.survey.clone()
    }

    /// The cookies.
    pub fn cookies(&self) -> Cookies {
        self.cookies.clone()
    }

    /// The configuration's revisions.
    pub fn revisions(&self) -> Revisions {
        self.revisions.clone()
    }

    /// The operators' runtime orders.
    pub fn intents(&self) -> Intents {
        self.intents.clone()
    }

    /// The keys that zones are signed with.
    pub fn zone_keys(&self) -> ZoneKeys {
        self.zone_keys.clone()
    }

    /// Which sessions operators have ended.
    pub fn ends(&self) -> Ends {
        self.intents.ends()
    }

    /// Returns when all that changed before is on disk; waits as long as the disk is full or broken.
    pub async fn flush(&self) {
        self.writer.flush().await;
    }

    /// The node cannot go on: should a revision be on trial, this end counts as a death of it. Before [`Storage::shutdown`].
    pub fn blame_trial(&self) {
        self.trial.blame();
    }

    /// Stops the tasks and returns when all is on disk, at the latest after 5 s.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let writer = self.writer.clone();
        let stopped = tokio::task::spawn_blocking(move || writer.stop());
        if tokio::time::timeout(FLUSH_WAIT, stopped).await.is_err() {
            tracing::error!("the store could not be written before the end");
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // Who stops in good order, or finds out later in its start that it cannot go on, has not died of a revision.
        if !std::thread::panicking() {
            self.trial.stopped();
        }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

/// A [`StorageConfig`] with any network.
struct Parts {
    data: PathBuf,
    me: NodeName,
    region: RegionName,
    network: Network,
    view: watch::Receiver<Arc<ClusterView>>,
    clock: Clock,
    validate: Validate,
    keyring: Keyring,
    make_zone_key: MakeSecret,
}

/// Opens and loads off the runtime's threads, and starts the writer.
async fn open(data: &Path, table: &Arc<Table>, clock: &Clock) -> Result<(Writer, Shelves), StartError> {
    let io_error = |source| StartError::Io { path: data.into(), source };
    if !data.is_dir() {
        return Err(io_error(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    let (folder, records, now) = (data.to_path_buf(), table.clone(), clock.mesh_wall());
    let opened = tokio::task::spawn_blocking(move || disk::open(&folder, &records, now));
    let opened = opened.await.map_err(|error| io_error(io::Error::other(error)))?;
    let (store, shelves, aside) = match opened {
        Ok(opened) => {
            if let Some((aside, why)) = &opened.set_aside {
                tracing::error!(aside = %aside.display(), why, "the store is damaged and was set aside; peers refill it");
            }
            (Some(opened.store), opened.shelves, opened.set_aside.map(|(aside, _)| aside))
        }
        Err(DiskError::InUse) => return Err(StartError::InUse(data.join("store"))),
        Err(DiskError::Io(source)) => return Err(io_error(source)),
        Err(error @ (DiskError::Full | DiskError::Damaged(_))) => {
            tracing::error!(%error, "starting without a store; peers know the sessions, will try again");
            (None, Shelves::default(), None)
        }
    };
    let config = WriterConfig {
        data: data.into(),
        table: table.clone(),
        clock: clock.clone(),
        max_bytes: STORE_MAX_BYTES,
    };
    let writer = Writer::start(config, store, aside.is_some()).map_err(io_error)?;
    if let Some(aside) = aside {
        writer.note_aside(aside);
    }
    Ok((writer, shelves))
}

#[cfg(test)]
mod tests;
