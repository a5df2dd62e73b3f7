//! A host: a network namespace with a TUN device of its own, and a thread that lives in it.

use std::fs::File;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::tun;

const DEVICE: &str = "mesh0";
/// What IPv6's least link can carry, and QUIC more than its least datagram.
const MTU: &str = "1500";

type Work = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A host; its namespace goes with it.
#[derive(Debug)]
pub(crate) struct Host {
    namespace: String,
    /// Its addresses, in 10.0.0.0/8.
    pub addresses: Vec<Ipv4Addr>,
    work: mpsc::UnboundedSender<Work>,
}

impl Host {
    /// Makes it; the file carries its packets.
    pub(crate) fn make(name: &str, addresses: Vec<Ipv4Addr>) -> Result<(Self, File)> {
        let namespace = format!("chaos-{}-{name}", std::process::id());
        ip(&["netns", "add", &namespace])?;
        let (work, works) = mpsc::unbounded_channel();
        // From here on it is taken away when something fails.
        let host = Self { namespace, addresses, work };
        let within = |arguments: &[&str]| ip(&[&["-n", &host.namespace], arguments].concat());
        within(&["link", "set", "lo", "up"])?;
        within(&["tuntap", "add", "dev", DEVICE, "mode", "tun"])?;
        within(&["link", "set", DEVICE, "mtu", MTU])?;
        for address in &host.addresses {
            within(&["addr", "add", &format!("{address}/8"), "dev", DEVICE])?;
        }
        within(&["link", "set", DEVICE, "up"])?;
        let file = File::open(format!("/run/netns/{}", host.namespace)).context("the namespace")?;
        let (tell, told) = std::sync::mpsc::channel();
        thread::Builder::new().name(name.into()).spawn(move || {
            let begun = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering the namespace")
                .and_then(|()| tun::attach(DEVICE));
            let entered = begun.is_ok();
            if tell.send(begun).is_ok() && entered {
                live(works);
            }
        })?;
        let device = told.recv().context("the host's thread")??;
        Ok((host, device))
    }

    /// Runs `work` on the host's thread, and all that it spawns.
    pub(crate) async fn run<W, F, T>(&self, work: W) -> Result<T>
    where
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.start(move || async move {
            let _ = tell.send(work().await);
        })?;
        told.await.context("the host's thread ended")
    }

    /// The same without waiting for its end.
    pub(crate) fn start<W, F>(&self, work: W) -> Result<()>
    where
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let work: Work = Box::new(move || Box::pin(work()));
        ensure!(self.work.send(work).is_ok(), "the host's thread ended");
        Ok(())
    }

    /// The command that runs `command` there.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.namespace]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => there.env(name, value),
                None => there.env_remove(name),
            };
        }
        there
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

fn live(mut works: mpsc::UnboundedReceiver<Work>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    LocalSet::new().block_on(&runtime, async {
        while let Some(work) = works.recv().await {
            tokio::task::spawn_local(work());
        }
    });
}

/// Runs `ip`, of Debian's iproute2.
pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    let ran = Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("running ip")?;
    ensure!(
        ran.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&ran.stderr).trim()
    );
    Ok(())
}
