//! What the demo consists of: names, addresses and files. Pure.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// The HTTP port of every node and backend.
pub(super) const HTTP_PORT: u16 = 8080;
/// The TCP echo service's port on every node, and its backends' port.
pub(super) const ECHO_PORT: u16 = 9000;
/// The DNS port of every node: no root is needed for it.
pub(super) const DNS_PORT: u16 = 5300;
const MESH_PORT: u16 = 7946;
const ADMIN_PORT: u16 = 7900;
/// Where the demo itself takes orders.
const CONTROL_PORT: u16 = 7999;
/// The name users ask for.
pub(super) const HOST: &str = "www.lb.example.com";

/// The regions a demo can have, with the coordinates of a city in each.
const REGIONS: [(&str, f64, f64); 6] = [
    ("eu", 50.11, 8.68),
    ("us", 39.04, -77.49),
    ("ap", 1.35, 103.82),
    ("sa", -23.55, -46.63),
    ("af", -33.92, 18.42),
    ("oc", -33.87, 151.21),
];

/// The most regions a demo can have.
pub(super) const MAX_REGIONS: usize = REGIONS.len();
/// The most nodes a region of it can have.
pub(super) const MAX_NODES: usize = 9;
const BACKENDS: u8 = 2;

/// A whole demo.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    network: u8,
    pub(super) regions: Vec<Region>,
}

/// One region of it.
#[derive(Debug, Clone)]
pub(super) struct Region {
    pub(super) name: &'static str,
    number: u8,
    latitude: f64,
    longitude: f64,
    pub(super) nodes: Vec<Node>,
    pub(super) backends: Vec<Ipv4Addr>,
}

/// One node of it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) region: &'static str,
    pub(super) ip: Ipv4Addr,
}

impl Node {
    pub(super) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ip), port)
    }

    pub(super) fn admin(&self) -> String {
        self.at(ADMIN_PORT).to_string()
    }
}

impl Region {
    /// The prefix its users come from.
    pub(super) fn users(&self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::new(10, self.number, 0, 0), 24)
    }

    /// The backend addresses, in words.
    pub(super) fn backend_list(&self) -> String {
        self.backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

impl Plan {
    /// `regions` regions of `nodes` nodes on the loopback network 127.`network`.0.0/16.
    pub(super) fn new(network: u8, regions: usize, nodes: usize) -> Self {
        let regions = REGIONS.iter().take(regions).enumerate().map(|(at, &(name, latitude, longitude))| {
            let number = at as u8 + 1;
            let nodes = (1..=nodes as u8).map(|n| Node {
                name: format!("{name}-{n}"),
                region: name,
                ip: Ipv4Addr::new(127, network, number, n),
            });
            let backends = (1..=BACKENDS).map(|n| Ipv4Addr::new(127, network, number, 100 + n));
            Region { name, number, latitude, longitude, nodes: nodes.collect(), backends: backends.collect() }
        });
        Self { network, regions: regions.collect() }
    }

    /// Where the demo takes orders.
    pub(super) fn control_addr(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(127, self.network, 0, 1).into(), CONTROL_PORT)
    }

    /// Every address that something of the demo listens on, but the control port.
    pub(super) fn sockets(&self) -> impl Iterator<Item = SocketAddr> {
        let ports = [HTTP_PORT, ECHO_PORT, DNS_PORT, MESH_PORT, MESH_PORT + 1, ADMIN_PORT];
        let of_nodes = self.nodes().flat_map(move |node| ports.map(|port| node.at(port)));
        let backends = self.regions.iter().flat_map(|region| &region.backends);
        let of_backends =
            backends.flat_map(|ip| [HTTP_PORT, ECHO_PORT].map(|port| SocketAddr::new((*ip).into(), port)));
        of_nodes.chain(of_backends)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.regions.iter().flat_map(|region| &region.nodes)
    }

    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes().find(|node| node.name == name)
    }

    pub(super) fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// The node.toml of a node. Every node but the first knows just the first: a seed list is all it needs.
    pub(super) fn node_toml(&self, node: &Node, folder: &Path, key: &Path) -> String {
        let first = &self.regions[0].nodes[0];
        let seeds = match node.name == first.name {
            true => String::new(),
            false => format!("\"{}\"", first.at(MESH_PORT)),
        };
        format!(
            "[node]\nname = \"{name}\"\nregion = \"{region}\"\ndata = {data:?}\npublic = [\"{ip}\"]\n\n\
             [mesh]\nlisten = \"{mesh}\"\nseeds = [{seeds}]\nkey_file = {key:?}\n\n\
             [proxy]\nlisten = [\"{ip}\"]\nworkers = 1\n\n\
             [dns]\nlisten = [\"{dns}\"]\n\n\
             [admin]\nlisten = \"{admin}\"\n\n\
             [log]\nlevel = \"info\"\naccess = \"off\"\n",
            name = node.name,
            region = node.region,
            ip = node.ip,
            mesh = node.at(MESH_PORT),
            dns = node.at(DNS_PORT),
            admin = node.admin(),
            data = folder.display().to_string(),
            key = key.display().to_string(),
        )
    }

    /// The services.toml of the whole mesh.
    pub(super) fn services_toml(&self) -> String {
        let mut text = String::new();
        for region in &self.regions {
            let (users, bits) = (Ipv4Addr::new(10, region.number, 0, 0), 16);
            let _ = writeln!(
                text,
                "[region.{}]\nlatitude = {}\nlongitude = {}\nprefixes = [\"{users}/{bits}\"]\n",
                region.name, region.latitude, region.longitude
            );
        }
        text.push_str("[dns.zone.\"lb.example.com\"]\nnameserver = { ");
        let servers = self
            .regions
            .iter()
            .enumerate()
            .map(|(at, region)| format!("ns{} = [\"{}\"]", at + 1, region.nodes[0].ip));
        text.push_str(&servers.collect::<Vec<_>>().join(", "));
        text.push_str(" }\ncontact = \"hostmaster@example.com\"\nttl = \"10s\"\n\n");
        text.push_str("[dns.zone.\"lb.example.com\".steer.www]\nservice = \"shop\"\nanswers = 2\n\n");
        let _ = writeln!(text, "[listener.http]\nport = {HTTP_PORT}\nprotocol = \"http\"\n");
        let _ =
            writeln!(text, "[listener.echo]\nport = {ECHO_PORT}\nprotocol = \"tcp\"\nservice = \"echo\"\n");
        text.push_str(
            "[service.shop]\nsplit = { shop = 1 }\nsticky.cookie = { name = \"meridian\", ttl = \"8h\" }\n\n",
        );
        text.push_str("[service.echo]\nsplit = { echo = 1 }\nsticky.source_ip = { ttl = \"30m\" }\n\n");
        text.push_str(
            "[pool.shop]\nhealth.http = { path = \"/healthz\", interval = \"500ms\", timeout = \"500ms\" }\n",
        );
        self.push_backends(&mut text, HTTP_PORT);
        text.push_str("\n[pool.echo]\nhealth.tcp = { interval = \"500ms\", timeout = \"500ms\" }\n");
        self.push_backends(&mut text, ECHO_PORT);
        text
    }

    fn push_backends(&self, text: &mut String, port: u16) {
        text.push_str("backend = [\n");
        for region in &self.regions {
            for ip in &region.backends {
                let _ = writeln!(text, "  {{ address = \"{ip}:{port}\", region = \"{}\" }},", region.name);
            }
        }
        text.push_str("]\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::node_file::{Machine, NodeOverrides, parse as parse_node};

    #[test]
    fn its_files_are_valid() {
        let plan = Plan::new(77, MAX_REGIONS, MAX_NODES);
        let services = crate::config::services::parse("services.toml", &plan.services_toml());
        assert!(services.is_ok_and(|valid| valid.warnings.is_empty()));
        let machine = Machine { host_name: "x".into(), data: "/tmp/x".into() };
        for node in plan.nodes() {
            let text = plan.node_toml(node, Path::new("/tmp/demo"), Path::new("/tmp/mesh.key"));
            let parsed = parse_node("node.toml", &text, &NodeOverrides::default(), &machine);
            assert_eq!(parsed.unwrap().node.name.as_str(), node.name);
        }
    }
}
