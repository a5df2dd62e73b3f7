//! The one seam: something that says, again and again, which backends there are.
//!
//! ```text
//!   Source::follow ──▶ Reporter ──▶ bounded queue ──▶ discovery's task
//!     file: looks at the file        Ok: the whole list, every time
//!     dns: asks as the TTLs say      Err: why not, in words; the last list stays
//! ```

mod dns;
mod docker;
mod file;
mod kubernetes;

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;

use gossip::clock::Clock;
use gossip::id::{PoolName, RegionName, ZoneName};
use tokio::sync::mpsc;

use super::found::Found;
use crate::config::model::SourceSpec;

pub(crate) use self::docker::address as docker_address;

/// The decoders of what sources are told.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    pub(crate) use super::docker::survives as containers;
    pub(crate) use super::file::{golden as list_golden, survives as list};
    pub(crate) use super::kubernetes::{golden as endpoints_golden, survives as endpoints};
    pub(crate) use crate::docker::golden as containers_golden;
}

/// What a source says: all backends there are, or why it cannot say.
pub(crate) type Said = Result<Vec<Found>, String>;

/// What one source of one pool says.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) pool: PoolName,
    pub(crate) spec: SourceSpec,
    pub(crate) said: Said,
}

/// Where a source says it. A full queue makes it wait: its next answer is as good as this one.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    pub(crate) pool: PoolName,
    pub(crate) spec: SourceSpec,
    pub(crate) to: mpsc::Sender<Report>,
}

impl Reporter {
    /// Says it.
    pub(crate) async fn say(&self, said: Said) {
        let report = Report { pool: self.pool.clone(), spec: self.spec.clone(), said };
        // Nobody listens any more: the task is about to be aborted.
        let _ = self.to.send(report).await;
    }
}

/// What is followed until the task is aborted, which is safe at any moment: a source owns nothing that outlives it.
pub(crate) type Following = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something that says which backends there are.
pub(crate) trait Source {
    /// Says it at once, and again whenever it may have changed.
    fn follow(self, reporter: Reporter) -> Following;
}

/// What sources need to know of the node they run on.
#[derive(Debug, Clone)]
pub(crate) struct Here {
    pub(crate) region: RegionName,
    pub(crate) zone: Option<ZoneName>,
    /// Where its peers reach it.
    pub(crate) address: IpAddr,
    /// The socket of its Docker Engine, whether there is one or not.
    pub(crate) engine: PathBuf,
    pub(crate) clock: Clock,
}

/// Follows what the configuration names.
pub(crate) fn follow(here: &Here, reporter: Reporter) -> Following {
    match reporter.spec.clone() {
        SourceSpec::File(spec) => file::File::new(spec).follow(reporter),
        SourceSpec::Dns(spec) => dns::Dns::new(spec).follow(reporter),
        SourceSpec::Docker(spec) => docker::Docker::new(here.clone(), spec).follow(reporter),
        SourceSpec::Kubernetes(spec) => kubernetes::Kubernetes::new(spec).follow(reporter),
    }
}
