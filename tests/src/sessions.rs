//! What `meridian sessions` says, and the end of sessions.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::{Cli, code};
use crate::wait::{eventually, secs};

/// `meridian sessions -o json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Sessions {
    /// How many stay on which backend.
    pub backends: Vec<OnBackend>,
    /// Some of them.
    pub sessions: Vec<Listed>,
    /// Nodes that did not answer.
    pub silent: Vec<String>,
}

/// The sessions of one backend.
#[derive(Debug, Clone, Deserialize)]
pub struct OnBackend {
    /// `POOL/ADDRESS`.
    pub backend: String,
    /// How many.
    pub sessions: u64,
}

/// One session.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    /// 32 hexadecimal digits.
    pub id: String,
    /// `POOL/ADDRESS`, or `ended`.
    pub backend: String,
}

/// `meridian sessions end ... -o json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Ended {
    /// How many sessions stood.
    pub sessions: u64,
    /// Nodes that do not know of it yet.
    pub silent: Vec<String>,
}

/// `meridian consistency -o json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Consistency {
    /// All answered, nothing differs.
    pub agree: bool,
    /// Records in all replicas together.
    pub records: u64,
    /// The buckets that differ.
    pub differ: Vec<serde_json::Value>,
}

impl Sessions {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.backends.iter().map(|on| on.sessions).sum()
    }

    /// How many stay on the backend at an address, whatever its pool.
    pub fn on(&self, address: SocketAddr) -> u64 {
        let address = format!("/{address}");
        self.backends.iter().filter(|on| on.backend.ends_with(&address)).map(|on| on.sessions).sum()
    }

    /// How many stay where.
    pub fn by_backend(&self) -> BTreeMap<&str, u64> {
        self.backends.iter().map(|on| (on.backend.as_str(), on.sessions)).collect()
    }
}

impl Cli {
    /// All sessions of the mesh.
    pub async fn sessions(&self) -> Result<Sessions> {
        read(self, &["sessions", "--limit", "10000", "-o", "json"]).await
    }

    /// Waits until the mesh has so many sessions.
    pub async fn has_sessions(&self, wanted: u64) -> Result<Sessions> {
        eventually(&format!("{wanted} sessions stand"), secs(15), async || {
            let sessions = self.sessions().await?;
            ensure!(sessions.count() == wanted, "there are {:?}", sessions.by_backend());
            Ok(sessions)
        })
        .await
    }

    /// Ends sessions: an id, or a flag and a name.
    pub async fn end_sessions(&self, whose: &[&str]) -> Result<Ended> {
        read(self, &[&["sessions", "end"], whose, &["-o", "json"]].concat()).await
    }

    /// Whether all replicas agree.
    pub async fn consistency(&self) -> Result<Consistency> {
        let ran = self.run(&["consistency", "-o", "json"]).await?;
        serde_json::from_str(&ran.stdout).with_context(|| format!("reading the consistency:\n{}", ran.said()))
    }
}

async fn read<T: DeserializeOwned>(cli: &Cli, args: &[&str]) -> Result<T> {
    let ran = cli.expect(code::OK, args).await?;
    serde_json::from_str(&ran.stdout).with_context(|| format!("reading what {args:?} says:\n{}", ran.stdout))
}
