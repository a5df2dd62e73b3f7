//! One node in its namespace.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::de::DeserializeOwned;
use tests::process::Process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::ground::{Ground, REGIONS};

/// The port of the mesh.
const MESH: u16 = 7946;

/// A node: where it is, and its process while it runs.
#[derive(Debug)]
pub struct Host {
    /// `eu-1`.
    pub name: String,
    /// The number of its region.
    pub region: usize,
    /// Where it is.
    pub address: Ipv4Addr,
    space: String,
    folder: PathBuf,
    program: PathBuf,
    process: Option<Process>,
}

impl Host {
    /// A place; nothing runs there yet. `seed` is whom it meets first.
    pub fn place(
        ground: &Ground,
        (region, node): (usize, usize),
        program: &Path,
        folder: &Path,
        key: &Path,
        seed: Option<Ipv4Addr>,
    ) -> Result<Self> {
        let name = format!("{}-{}", REGIONS[region], node + 1);
        let address = ground.node(region, node);
        let folder = folder.join(&name);
        std::fs::create_dir_all(&folder)?;
        let seeds = seed.map(|seed| format!("\"{seed}:{MESH}\"")).unwrap_or_default();
        let (data, key) = (folder.join("data"), key.display());
        let toml = format!(
            "[node]\nname = \"{name}\"\nregion = \"{}\"\ndata = \"{}\"\n\
             [mesh]\nlisten = \"{address}:{MESH}\"\nseeds = [{seeds}]\nkey_file = \"{key}\"\n\
             [proxy]\nlisten = [\"{address}\"]\nworkers = 1\n[dns]\nlisten = [\"{address}:53\"]\n[log]\naccess = \"off\"\n",
            REGIONS[region],
            data.display(),
        );
        std::fs::write(folder.join("node.toml"), toml)?;
        let space = ground.space(region, node).to_owned();
        Ok(Self { name, region, address, space, folder, program: program.to_owned(), process: None })
    }

    /// Starts the process.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]).arg(&self.program).arg("start").arg("-c");
        command.arg(self.folder.join("node.toml"));
        self.process = Some(Process::spawn(&self.name, command, &self.log())?);
        Ok(())
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().with_context(|| format!("{} does not run", self.name))?;
        process.kill().await
    }

    /// A signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().with_context(|| format!("{} does not run", self.name))?.signal(signal)
    }

    /// Whether it was started and not killed.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Its name server.
    pub fn dns(&self) -> SocketAddr {
        (self.address, 53).into()
    }

    /// Its admin socket, which the file system shows in every namespace.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("data/admin.sock")
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// Asks a node's admin API over its socket.
pub async fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    serde_json::from_str(body).with_context(|| format!("reading {body:?}"))
}
