//! What one node tells of its traffic, and the bytes it tells it in.

use bincode::Options;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::CHANNEL;
use super::pulse::{KEPT, Second};
use crate::proxy::{Asked, BUCKETS, End, Network, ProxyHandle};

pub(super) const VERSION: u8 = 1;
/// Networks told by one node. The answer names 50 over all nodes: with four times as many from each, none is missed
/// that matters.
const NETWORKS_MAX: usize = 200;
/// Services told by one node.
const SERVICES_MAX: usize = 1000;
const NAME_MAX_CHARS: usize = 64;

/// What one node counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Account {
    pub(super) node: String,
    pub(super) region: String,
    /// The newest first.
    pub(super) seconds: Vec<Second>,
    pub(super) services: Vec<ServiceAccount>,
    /// Who asked most, sorted.
    pub(super) networks: Vec<(Network, Asked)>,
    pub(super) tunnels_out: u64,
    pub(super) tunnels_in: u64,
}

/// What one node did for one service, since it started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ServiceAccount {
    pub(super) name: String,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
    pub(super) sent_bytes: u64,
}

impl Account {
    pub(super) fn of(node: String, region: String, proxy: &ProxyHandle, seconds: Vec<Second>) -> Self {
        let services = proxy.services().into_iter().map(|(name, counts)| {
            let refused = End::ALL.iter().filter(|end| end.is_refusal());
            ServiceAccount {
                name: name.to_string(),
                requests: counts.requests(),
                failed: counts.failed,
                refused: refused.map(|end| counts.ends[*end as usize]).sum(),
                sent_bytes: counts.sent_bytes,
            }
        });
        let mut networks = proxy.networks();
        networks.sort_unstable_by_key(|(network, asked)| (std::cmp::Reverse(asked.requests), *network));
        networks.truncate(NETWORKS_MAX);
        let counted = proxy.counters();
        let read = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
        Self {
            node,
            region,
            seconds,
            services: services.take(SERVICES_MAX).collect(),
            networks,
            tunnels_out: read(&counted.tunnels_out),
            tunnels_in: read(&counted.tunnels_in),
        }
    }
}

// The mirror types: their order and their fields are the format.

#[derive(Serialize, Deserialize)]
struct WireV1 {
    node: String,
    region: String,
    seconds: Vec<(u32, u32, u32, Vec<u32>)>,
    services: Vec<(String, u64, u64, u64, u64)>,
    networks: Vec<(u64, u64, u64, u64, u64)>,
    tunnels_out: u64,
    tunnels_in: u64,
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(CHANNEL.max_bytes as u64 - 1)
}

pub(crate) fn encode(account: &Account) -> Bytes {
    let seconds = account.seconds.iter().map(|of| (of.requests, of.failed, of.queries, of.took.clone()));
    let services = account
        .services
        .iter()
        .map(|of| (of.name.clone(), of.requests, of.failed, of.refused, of.sent_bytes));
    let networks = account
        .networks
        .iter()
        .map(|(network, of)| (network.to_bits(), of.requests, of.errors, of.bytes, of.doubt));
    let wire = WireV1 {
        node: account.node.clone(),
        region: account.region.clone(),
        seconds: seconds.collect(),
        services: services.collect(),
        networks: networks.collect(),
        tunnels_out: account.tunnels_out,
        tunnels_in: account.tunnels_in,
    };
    let mut bytes = vec![VERSION];
    // What does not fit is no answer: the asker names this node among the silent.
    bytes.extend(options().serialize(&wire).unwrap_or_default());
    bytes.into()
}

/// Reads what a peer tells; names are made fit for a terminal, lists are cut to what an honest peer sends.
pub(crate) fn decode(bytes: &[u8]) -> Option<Account> {
    let (&version, body) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    let wire: WireV1 = options().deserialize(body).ok()?;
    let readable = |text: String| -> String {
        text.chars().filter(|char| !char.is_control()).take(NAME_MAX_CHARS).collect()
    };
    let seconds = wire.seconds.into_iter().take(KEPT).map(|(requests, failed, queries, mut took)| {
        took.truncate(BUCKETS);
        Second { requests, failed, queries, took }
    });
    let services =
        wire.services.into_iter().take(SERVICES_MAX).map(|(name, requests, failed, refused, sent_bytes)| {
            ServiceAccount { name: readable(name), requests, failed, refused, sent_bytes }
        });
    let networks =
        wire.networks.into_iter().take(NETWORKS_MAX).filter_map(|(bits, requests, errors, bytes, doubt)| {
            Some((Network::from_bits(bits)?, Asked { requests, errors, bytes, doubt }))
        });
    Some(Account {
        node: readable(wire.node),
        region: readable(wire.region),
        seconds: seconds.collect(),
        services: services.collect(),
        networks: networks.collect(),
        tunnels_out: wire.tunnels_out,
        tunnels_in: wire.tunnels_in,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account() -> Account {
        Account {
            node: "n".into(),
            region: "eu".into(),
            seconds: vec![Second { requests: 3, failed: 1, queries: 300, took: vec![0, 2] }],
            services: vec![ServiceAccount {
                name: "web".into(),
                requests: 9,
                failed: 1,
                refused: 2,
                sent_bytes: 70_000,
            }],
            networks: vec![(
                Network::of([192, 0, 2, 1].into()),
                Asked { requests: 5, errors: 1, bytes: 10, doubt: 0 },
            )],
            tunnels_out: 4,
            tunnels_in: 0,
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(&account());
        let golden = [
            &[1, 1, b'n', 2, b'e', b'u'][..],
            &[1, 3, 1, 251, 44, 1, 2, 0, 2],
            &[1, 3, b'w', b'e', b'b', 9, 1, 2, 252, 112, 17, 1, 0],
            &[1, 253, 2, 0, 192, 0, 0, 0, 0, 64, 5, 1, 10, 0],
            &[4, 0],
        ];
        assert_eq!(&bytes[..], golden.concat());
        assert_eq!(decode(&bytes), Some(account()));
    }

    #[test]
    fn a_peer_can_neither_flood_nor_play_with_a_terminal() {
        let wire = WireV1 {
            node: "\x1b[2Jx".repeat(50),
            region: String::new(),
            seconds: vec![(1, 1, 1, vec![1; 100]); 500],
            services: vec![(String::new(), 1, 1, 1, 1); 2000],
            networks: vec![(u64::MAX, 1, 1, 1, 1); 500],
            tunnels_out: 0,
            tunnels_in: 0,
        };
        let bytes = [vec![VERSION], options().serialize(&wire).unwrap()].concat();
        let account = decode(&bytes).unwrap();
        assert!(!account.node.contains('\x1b') && account.node.len() <= NAME_MAX_CHARS);
        assert_eq!(
            (account.seconds.len(), account.services.len(), account.networks.len()),
            (KEPT, SERVICES_MAX, 0)
        );
        assert_eq!(account.seconds[0].took.len(), BUCKETS);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
