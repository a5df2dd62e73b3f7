//! A MaxMind database of a few networks, written: what tests of GeoIP need without anybody's data.
//!
//! Format: <https://maxmind.github.io/MaxMind-DB/>, version 2.0, records of 32 bits. The tests of dns include this file too.

use std::net::IpAddr;

/// Where a record leads.
#[derive(Clone, Copy)]
enum Branch {
    Nothing,
    Node(u32),
    Data(u32),
}

/// The bytes of a database that knows these networks and their places in degrees north and east. A later network overrules
/// what it covers of an earlier one.
pub fn database(built: u64, places: &[(&str, f64, f64)]) -> Vec<u8> {
    let mut nodes = vec![[Branch::Nothing; 2]];
    let mut data = Vec::new();
    for &(network, latitude, longitude) in places {
        let place = data.len() as u32;
        map(&mut data, 1);
        text(&mut data, "location");
        map(&mut data, 2);
        for (key, degrees) in [("latitude", latitude), ("longitude", longitude)] {
            text(&mut data, key);
            data.push(3 << 5 | 8);
            data.extend_from_slice(&degrees.to_be_bytes());
        }
        insert(&mut nodes, &bits(network), place);
    }
    let count = nodes.len() as u32;
    let mut bytes = Vec::new();
    for branch in nodes.iter().flatten() {
        let record = match branch {
            Branch::Nothing => count,
            Branch::Node(node) => *node,
            Branch::Data(place) => count + 16 + place,
        };
        bytes.extend_from_slice(&record.to_be_bytes());
    }
    bytes.extend_from_slice(&[0; 16]);
    bytes.extend_from_slice(&data);
    bytes.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    metadata(&mut bytes, count, built);
    bytes
}

/// The bits of a network, in the tree of IPv6, where IPv4 has `::/96`.
fn bits(network: &str) -> Vec<bool> {
    let (address, length) = network.split_once('/').expect("ADDRESS/LENGTH");
    let length: usize = length.parse().expect("a prefix length");
    let (number, length) = match address.parse().expect("an address") {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 96 + length),
        IpAddr::V6(address) => (address.to_bits(), length),
    };
    (0..length).map(|bit| number << bit >> 127 == 1).collect()
}

fn insert(nodes: &mut Vec<[Branch; 2]>, bits: &[bool], place: u32) {
    let (last, path) = bits.split_last().expect("a network of at least one bit");
    let mut at = 0;
    for bit in path {
        let branch = nodes[at][usize::from(*bit)];
        at = match branch {
            Branch::Node(node) => node as usize,
            // What was known of the whole is known of its halves.
            above => {
                nodes.push([above; 2]);
                let made = nodes.len() - 1;
                nodes[at][usize::from(*bit)] = Branch::Node(made as u32);
                made
            }
        };
    }
    nodes[at][usize::from(*last)] = Branch::Data(place);
}

fn metadata(bytes: &mut Vec<u8>, count: u32, built: u64) {
    map(bytes, 9);
    for (key, number) in [
        ("binary_format_major_version", 2u16),
        ("binary_format_minor_version", 0),
        ("ip_version", 6),
        ("record_size", 32),
    ] {
        text(bytes, key);
        bytes.push(5 << 5 | 2);
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    text(bytes, "node_count");
    bytes.push(6 << 5 | 4);
    bytes.extend_from_slice(&count.to_be_bytes());
    text(bytes, "build_epoch");
    // Types above 7 stand in a byte of their own, less 7.
    bytes.extend_from_slice(&[8, 9 - 7]);
    bytes.extend_from_slice(&built.to_be_bytes());
    text(bytes, "database_type");
    text(bytes, "Test-City");
    text(bytes, "description");
    map(bytes, 1);
    text(bytes, "en");
    text(bytes, "made by a test");
    text(bytes, "languages");
    bytes.extend_from_slice(&[0, 11 - 7]);
}

fn map(bytes: &mut Vec<u8>, entries: u8) {
    bytes.push(7 << 5 | entries);
}

/// A text of less than 29 bytes.
fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(2 << 5 | text.len() as u8);
    bytes.extend_from_slice(text.as_bytes());
}
