//! The ground: namespaces, devices and addresses, made by `ip` and gone with this process.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::relay::Relay;
use crate::tun::Tun;

/// Regions by number.
pub const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// Nodes in each.
pub const NODES: usize = 2;
/// Backends in each.
pub const BACKENDS: usize = 2;
/// Users in each.
pub const USERS: usize = 4;

/// All hosts and the wires between them.
#[derive(Debug)]
pub struct Ground {
    second: u8,
    spaces: Vec<String>,
    /// The wires.
    pub relay: Relay,
}

/// Why there can be no ground here; `None`: there can.
pub fn unfit() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("chaos needs root for network namespaces".into());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("chaos needs /dev/net/tun".into());
    }
    ip(&["netns", "list"]).err().map(|error| format!("chaos needs the program `ip` (iproute2): {error:#}"))
}

impl Ground {
    /// Makes all of it.
    pub fn make() -> Result<Self> {
        let pid = std::process::id();
        let second = 64 + (pid % 128) as u8;
        let mut spaces = Vec::new();
        let mut hosts = Vec::new();
        for region in 0..REGIONS.len() {
            for node in 0..NODES {
                let address = node_address(second, region, node);
                let (space, device) = (
                    format!("chaos-{pid}-{}-{}", REGIONS[region], node + 1),
                    format!("mc{region}{node}x{pid}"),
                );
                let tun = Tun::make(&device)?;
                ip(&["netns", "add", &space])?;
                spaces.push(space.clone());
                ip(&["link", "set", &device, "netns", &space])?;
                let inside = |args: &[&str]| ip(&[&["-n", space.as_str()], args].concat());
                inside(&["link", "set", "lo", "up"])?;
                inside(&["addr", "add", &format!("{address}/32"), "dev", &device])?;
                inside(&["link", "set", &device, "up"])?;
                inside(&["route", "add", "default", "dev", &device])?;
                hosts.push((address, tun));
            }
        }
        let others = Tun::make(&format!("mcx{pid}"))?;
        let device = others.name().to_owned();
        for region in 0..REGIONS.len() {
            let backends = (0..BACKENDS).map(|index| backend_address(second, region, index));
            let users = (0..USERS).map(|index| user_address(second, region, index));
            for address in backends.chain(users) {
                ip(&["addr", "add", &format!("{address}/32"), "dev", &device])?;
            }
        }
        ip(&["link", "set", &device, "up"])?;
        ip(&["route", "add", &format!("10.{second}.0.0/16"), "dev", &device])?;
        let relay = Relay::start(hosts, others)?;
        Ok(Self { second, spaces, relay })
    }

    /// The namespace of a node.
    pub fn space(&self, region: usize, node: usize) -> &str {
        &self.spaces[region * NODES + node]
    }

    /// The address of a node.
    pub fn node(&self, region: usize, node: usize) -> Ipv4Addr {
        node_address(self.second, region, node)
    }

    /// The address of a backend.
    pub fn backend(&self, region: usize, index: usize) -> Ipv4Addr {
        backend_address(self.second, region, index)
    }

    /// The address of a user.
    pub fn user(&self, region: usize, index: usize) -> Ipv4Addr {
        user_address(self.second, region, index)
    }

    /// All of a region.
    pub fn network(&self, region: usize) -> String {
        format!("10.{}.{}.0/24", self.second, region + 1)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = ip(&["netns", "del", space]);
        }
    }
}

fn node_address(second: u8, region: usize, node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, second, region as u8 + 1, 11 + node as u8)
}

fn backend_address(second: u8, region: usize, index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, second, region as u8 + 1, 101 + index as u8)
}

fn user_address(second: u8, region: usize, index: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, second, region as u8 + 1, 201 + index as u8)
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("running ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), said.trim());
    Ok(())
}
