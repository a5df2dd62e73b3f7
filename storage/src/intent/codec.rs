//! Entries as bytes: mirror types whose order and fields are the format.

use std::net::{IpAddr, SocketAddr};

use bincode::Options;
use gossip::clock::{Hlc, Wall};
use gossip::id::{NodeName, PoolName, RegionName, ServiceName, SessionId};
use serde::{Deserialize, Serialize};

use super::{Aspect, ENTRY_MAX_BYTES, Entry, NotAnIntent, Order, SPLIT_MAX, Target};

pub(super) const VERSION: u8 = 1;

fn codec() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(ENTRY_MAX_BYTES)
}

impl Entry {
    /// In bytes; more than a few kilobytes are refused by whoever reads them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let wire = bincode::DefaultOptions::new().with_fixint_encoding().serialize(&EntryV1::from(self));
        bytes.extend(wire.expect("plain data in memory can be serialized"));
        bytes
    }

    /// Reads what [`Entry::encode`] wrote.
    ///
    /// # Errors
    /// On anything else, on splits beyond the limit, and when order and aspect do not fit.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAnIntent> {
        let bytes = bytes.strip_prefix(&[VERSION]).ok_or(NotAnIntent)?;
        let wire: EntryV1 = codec().deserialize(bytes).map_err(|_| NotAnIntent)?;
        let entry = Self::from(wire);
        let fits = match &entry.order {
            Some(Order::Split(pools)) => {
                (1..=SPLIT_MAX).contains(&pools.len()) && entry.aspect == Aspect::Split
            }
            Some(order) => order.aspect() == entry.aspect,
            None => true,
        };
        if fits { Ok(entry) } else { Err(NotAnIntent) }
    }
}

// The mirror types: their order and their fields are the format.

#[derive(Serialize, Deserialize)]
struct EntryV1 {
    target: TargetV1,
    aspect: AspectV1,
    order: Option<OrderV1>,
    at: u64,
    by: NodeName,
}

#[derive(Serialize, Deserialize)]
enum TargetV1 {
    Node(NodeName),
    Region(RegionName),
    Pool(PoolName),
    Backend(PoolName, SocketAddr),
    Service(ServiceName),
    Session(SessionId),
    Key(u32),
    Mesh,
    Network(IpAddr, u8),
    ZoneKey(String, u16, [u8; 16]),
}

#[derive(Serialize, Deserialize)]
enum AspectV1 {
    State,
    Weight,
    Split,
    End,
    Key,
    KeyInUse,
    Deny,
    ZoneKey,
}

#[derive(Serialize, Deserialize)]
enum OrderV1 {
    Drain(Option<u64>),
    Maintenance,
    Weight(u32),
    Split(Vec<(PoolName, u32)>),
    End(u64),
    InstallKey,
    RemoveKey,
    UseKey(u32),
    Deny(Option<u64>),
    RetireZoneKey,
}

impl From<&Entry> for EntryV1 {
    fn from(entry: &Entry) -> Self {
        let target = match entry.target.clone() {
            Target::Node(name) => TargetV1::Node(name),
            Target::Region(name) => TargetV1::Region(name),
            Target::Pool(name) => TargetV1::Pool(name),
            Target::Backend(pool, address) => TargetV1::Backend(pool, address),
            Target::Service(name) => TargetV1::Service(name),
            Target::Session(id) => TargetV1::Session(id),
            Target::Key(id) => TargetV1::Key(id),
            Target::Mesh => TargetV1::Mesh,
            Target::Network(address, bits) => TargetV1::Network(address, bits),
            Target::ZoneKey { zone, tag, id } => TargetV1::ZoneKey(zone, tag, id),
        };
        let aspect = match entry.aspect {
            Aspect::State => AspectV1::State,
            Aspect::Weight => AspectV1::Weight,
            Aspect::Split => AspectV1::Split,
            Aspect::End => AspectV1::End,
            Aspect::Key => AspectV1::Key,
            Aspect::KeyInUse => AspectV1::KeyInUse,
            Aspect::Deny => AspectV1::Deny,
            Aspect::ZoneKey => AspectV1::ZoneKey,
        };
        let order = entry.order.clone().map(|order| match order {
            Order::Drain { deadline } => OrderV1::Drain(deadline.map(|deadline| deadline.0)),
            Order::Maintenance => OrderV1::Maintenance,
            Order::Weight(weight) => OrderV1::Weight(weight),
            Order::Split(pools) => OrderV1::Split(pools),
            Order::End { until } => OrderV1::End(until.0),
            Order::InstallKey => OrderV1::InstallKey,
            Order::RemoveKey => OrderV1::RemoveKey,
            Order::UseKey(id) => OrderV1::UseKey(id),
            Order::Deny { until } => OrderV1::Deny(until.map(|until| until.0)),
            Order::RetireZoneKey => OrderV1::RetireZoneKey,
        });
        Self { target, aspect, order, at: entry.at.0, by: entry.by.clone() }
    }
}

impl From<EntryV1> for Entry {
    fn from(wire: EntryV1) -> Self {
        let target = match wire.target {
            TargetV1::Node(name) => Target::Node(name),
            TargetV1::Region(name) => Target::Region(name),
            TargetV1::Pool(name) => Target::Pool(name),
            TargetV1::Backend(pool, address) => Target::Backend(pool, address),
            TargetV1::Service(name) => Target::Service(name),
            TargetV1::Session(id) => Target::Session(id),
            TargetV1::Key(id) => Target::Key(id),
            TargetV1::Mesh => Target::Mesh,
            TargetV1::Network(address, bits) => Target::Network(address, bits),
            TargetV1::ZoneKey(zone, tag, id) => Target::ZoneKey { zone, tag, id },
        };
        let aspect = match wire.aspect {
            AspectV1::State => Aspect::State,
            AspectV1::Weight => Aspect::Weight,
            AspectV1::Split => Aspect::Split,
            AspectV1::End => Aspect::End,
            AspectV1::Key => Aspect::Key,
            AspectV1::KeyInUse => Aspect::KeyInUse,
            AspectV1::Deny => Aspect::Deny,
            AspectV1::ZoneKey => Aspect::ZoneKey,
        };
        let order = wire.order.map(|order| match order {
            OrderV1::Drain(deadline) => Order::Drain { deadline: deadline.map(Wall) },
            OrderV1::Maintenance => Order::Maintenance,
            OrderV1::Weight(weight) => Order::Weight(weight),
            OrderV1::Split(pools) => Order::Split(pools),
            OrderV1::End(until) => Order::End { until: Wall(until) },
            OrderV1::InstallKey => Order::InstallKey,
            OrderV1::RemoveKey => Order::RemoveKey,
            OrderV1::UseKey(id) => Order::UseKey(id),
            OrderV1::Deny(until) => Order::Deny { until: until.map(Wall) },
            OrderV1::RetireZoneKey => Order::RetireZoneKey,
        });
        Self { target, aspect, order, at: Hlc(wire.at), by: wire.by }
    }
}
