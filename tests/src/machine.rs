//! Machines of their own on one wire, for proofs that type what the documents say, word by word: with the same ports, paths and
//! addresses as in the documents, whatever they are.
//!
//! ```text
//!   Wire ── a bridge ──┬── Machine: host name, addresses, all ports, /var/lib and processes of its own
//!                      └── Machine …
//! ```
//! A machine is a set of Linux namespaces below one `unshare`; when that ends, the kernel ends all that runs there. Needs root.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cli::{Ran, text};
use crate::process::Process;
use crate::stage::{Stage, skip};
use crate::wait::{eventually, secs};

/// What makes a machine of an `unshare`: $1 its name, then its addresses.
const SETTLE: &str = "\
hostname \"$1\" && shift && mount -t tmpfs none /var/lib && mkdir /var/lib/meridian && ip link set lo up && \
for address; do ip addr add \"$address/24\" dev eth0 || exit 1; done && \
ip link set eth0 up && ip route add default dev eth0";

/// A bridge that machines are connected to.
pub struct Wire<'s> {
    stage: &'s Stage,
    bridge: Namespaces,
    machines: Cell<usize>,
}

/// A machine; switched off when dropped.
pub struct Machine<'s> {
    stage: &'s Stage,
    /// Its host name.
    pub name: String,
    folder: PathBuf,
    inside: Namespaces,
}

impl<'s> Wire<'s> {
    /// Lays it, with the program under test as `meridian` on every machine's PATH; `None`, with the reason printed, for others than root.
    pub async fn lay(stage: &'s Stage) -> Result<Option<Self>> {
        if !rustix::process::getuid().is_root() {
            skip("machines of their own need root");
            return Ok(None);
        }
        let bridge = Namespaces::make(stage, "wire", &["--net"]).await?;
        for arguments in [&["link", "add", "wire", "type", "bridge"][..], &["link", "set", "wire", "up"]] {
            bridge.ip(stage, arguments).await?;
        }
        fs::create_dir(programs(stage))?;
        let wire = Self { stage, bridge, machines: Cell::new(0) };
        wire.install()?;
        Ok(Some(wire))
    }

    /// Puts the program where the old one lies, as `install` does: who runs the old one keeps it.
    pub fn install(&self) -> Result<()> {
        let (new, place) = (programs(self.stage).join("new"), programs(self.stage).join("meridian"));
        fs::copy(self.stage.program(), &new).context("copying the program")?;
        Ok(fs::rename(new, place)?)
    }

    /// Connects a machine with these IPv4 addresses; all of them reach each other.
    pub async fn machine(&self, name: &str, addresses: &[&str]) -> Result<Machine<'s>> {
        let kinds = ["--net", "--uts", "--mount", "--pid", "--mount-proc"];
        let inside = Namespaces::make(self.stage, name, &kinds).await?;
        let number = self.machines.replace(self.machines.get() + 1);
        let (port, bridge) = (format!("port{number}"), self.bridge.init.to_string());
        inside
            .ip(self.stage, &["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &bridge])
            .await?;
        self.bridge.ip(self.stage, &["link", "set", &port, "master", "wire", "up"]).await?;
        let folder = self.stage.folder().join(format!("{name}.home"));
        fs::create_dir(&folder)?;
        let machine = Machine { stage: self.stage, name: name.to_owned(), folder, inside };
        let mut settle = machine.inside.command("--all");
        settle.args(["sh", "-c", SETTLE, "settle", name]).args(addresses);
        let ran = self.stage.cli().finish(settle).await?;
        ensure!(ran.code == 0, "{name} does not settle: {}", ran.said());
        Ok(machine)
    }
}

impl Machine<'_> {
    /// A line of a document, typed there in its home.
    pub fn command(&self, line: &str) -> Result<Command> {
        let mut command = self.inside.command("--all");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MERIDIAN_")) {
            command.env_remove(name);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs(self.stage).display()));
        command.env("NO_COLOR", "1").env("HOME", &self.folder).env("TMPDIR", &self.folder);
        command.args(["sh", "-c", "cd \"$0\" && eval \"$1\"", text(&self.folder)?, line]);
        Ok(command)
    }

    /// Types a line and waits for its end.
    pub async fn run(&self, line: &str) -> Result<Ran> {
        let ran = self.stage.cli().finish(self.command(line)?).await;
        ran.with_context(|| format!("`{line}` on {}", self.name))
    }

    /// Types a line, which must end with this exit code.
    pub async fn expect(&self, code: i32, line: &str) -> Result<Ran> {
        let ran = self.run(line).await?;
        ensure!(
            ran.code == code,
            "`{line}` on {} exits with {}, not {code}:\n{}",
            self.name,
            ran.code,
            ran.said()
        );
        Ok(ran)
    }

    /// Types a line that goes on by itself.
    pub fn begin(&self, what: &str, line: &str) -> Result<Process> {
        let log = self.stage.folder().join(format!("{}-{what}.log", self.name));
        Process::spawn(&format!("{what} on {}", self.name), self.command(line)?, &log)
    }

    /// Its home, where lines are typed.
    pub fn home(&self) -> &Path {
        &self.folder
    }

    /// A file of this machine, seen from outside.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.inside.init))
    }
}

fn programs(stage: &Stage) -> PathBuf {
    stage.folder().join("programs")
}

/// A process that holds some namespaces.
struct Namespaces {
    /// The first process in them.
    init: u32,
    _unshare: Process,
}

impl Namespaces {
    async fn make(stage: &Stage, name: &str, kinds: &[&str]) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(kinds).args(["--fork", "--kill-child", "sleep", "infinity"]);
        let log = stage.folder().join(format!("{name}-unshare.log"));
        let mut unshare = Process::spawn(name, command, &log)?;
        let id = unshare.id();
        let init = eventually(&format!("{name} is there"), secs(10), async || {
            unshare.must_run()?;
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
            let child: u32 = children.trim().parse().context("no child yet")?;
            // It has entered everything once it is the program.
            let program = fs::read_to_string(format!("/proc/{child}/comm"))?;
            ensure!(program.trim() == "sleep", "still {program:?}");
            Ok(child)
        })
        .await?;
        Ok(Self { init, _unshare: unshare })
    }

    fn command(&self, which: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), which, "--"]);
        command
    }

    /// Runs `ip` in the network alone.
    async fn ip(&self, stage: &Stage, arguments: &[&str]) -> Result<()> {
        let mut command = self.command("--net");
        command.arg("ip").args(arguments);
        let ran = stage.cli().finish(command).await?;
        ensure!(ran.code == 0, "ip {}: {}", arguments.join(" "), ran.said());
        Ok(())
    }
}
