//! The GeoIP file: opened at the start, looked at every two seconds, opened anew when it was replaced.
//!
//! ```text
//!   GeoFile ── look() ─▶ Some(database) when another one is there ─▶ Responder
//!      └ error ─▶ Geo::problem: status and explanations
//! ```
//!
//! A file that is missing or damaged takes nothing away: the one in use stays, without one users are placed by `prefixes` and by the
//! asked node's region. Each fault is logged once. A file that is written in place is taken when it has been still for one look.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dns::{GeoError, GeoIp, Responder};

use crate::stamp::Stamp;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What is known of the GeoIP file, for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GeoStatus {
    /// The file.
    pub(crate) path: PathBuf,
    /// The kind of the database in use and when it was built, in seconds from 1970.
    pub(crate) database: Option<(String, u64)>,
    /// Why the file is of no use as it is now.
    pub(crate) problem: Option<String>,
}

/// Shared by whoever asks what became of the file. Empty where no file is configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Geo(Arc<Mutex<Option<GeoStatus>>>);

impl Geo {
    /// What is known now. `None`: this node has no GeoIP file.
    pub(crate) fn status(&self) -> Option<GeoStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is wrong, in words for operators.
    pub(crate) fn problem(&self) -> Option<String> {
        let GeoStatus { database, problem, .. } = self.status()?;
        let instead = match database {
            Some((kind, _)) => format!("{kind} as it was read before stays in use"),
            None => "users are placed by prefix and by the asked node's region".into(),
        };
        problem.map(|problem| format!("{problem}; {instead}"))
    }

    fn tell(&self, status: GeoStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }
}

/// The file and what was last seen of it.
struct GeoFile {
    /// Where copies are mapped.
    scratch: PathBuf,
    status: GeoStatus,
    /// At the last look.
    seen: Option<Stamp>,
    /// When it was last opened, well or not.
    opened: Option<Stamp>,
    /// Nobody opened it yet, or it could not be read for a reason that lies outside of it.
    again: bool,
}

impl GeoFile {
    fn new(path: &Path, scratch: &Path) -> Self {
        let status = GeoStatus { path: path.to_owned(), ..GeoStatus::default() };
        Self { scratch: scratch.to_owned(), seen: Stamp::of(path), status, opened: None, again: true }
    }

    /// Opens the file if it is another one than was opened last, and has been still since the last look.
    fn look(&mut self) -> Option<GeoIp> {
        let stamp = Stamp::of(&self.status.path);
        let still = self.seen == stamp;
        self.seen = stamp;
        if !still || (self.opened == stamp && !self.again) {
            return None;
        }
        self.opened = stamp;
        self.again = false;
        match GeoIp::load(&self.status.path, &self.scratch) {
            Ok(database) => {
                self.status.database = Some((database.kind().to_owned(), database.built()));
                self.status.problem = None;
                Some(database)
            }
            Err(error) => {
                self.again = matches!(error, GeoError::Unreadable { .. });
                self.status.problem = Some(error.to_string());
                None
            }
        }
    }
}

/// Opens the file before the first query, then goes on by itself; the task runs until it is aborted. Must be called in a
/// tokio runtime.
pub(crate) fn start(
    path: &Path,
    scratch: &Path,
    responder: Arc<Responder>,
) -> (Geo, impl Future<Output = ()> + Send + use<>) {
    let geo = Geo::default();
    let mut file = GeoFile::new(path, scratch);
    let first = file.look();
    told(&geo, &file.status, first, &responder);
    let follower = follow(file, geo.clone(), responder);
    (geo, follower)
}

async fn follow(mut file: GeoFile, geo: Geo, responder: Arc<Responder>) {
    loop {
        tokio::time::sleep(LOOK).await;
        // A large file, or a file system that hangs, holds up nothing else.
        let looked = tokio::task::spawn_blocking(move || {
            let database = file.look();
            (file, database)
        });
        let Ok(looked) = looked.await else {
            return tracing::error!("the GeoIP file is no longer looked after; the one in use stays");
        };
        file = looked.0;
        told(&geo, &file.status, looked.1, &responder);
    }
}

/// Puts a database to use and says what changed, once.
fn told(geo: &Geo, status: &GeoStatus, database: Option<GeoIp>, responder: &Responder) {
    let before = geo.status();
    if let Some(database) = database {
        let path = status.path.display();
        tracing::info!(%path, kind = database.kind(), built = database.built(), mapped = database.is_mapped(), "GeoIP database in use");
        responder.set_geo(Some(Arc::new(database)));
    }
    if before.as_ref() == Some(status) {
        return;
    }
    geo.tell(status.clone());
    if let Some(problem) = geo.problem()
        && before.and_then(|before| before.problem) != status.problem
    {
        tracing::warn!(
            "{problem}; put a city database (MaxMind or DB-IP, .mmdb) there: it is read within seconds"
        );
    }
}

#[cfg(test)]
mod tests;
