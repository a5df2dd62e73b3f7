//! The driver's part in the fast lane: its own datagrams, and those of its region.

use std::time::Instant;

use super::Driver;
use crate::fastlane;
use crate::liveness::Event;
use crate::membership::Known;
use crate::mesh::Inbound;

impl Driver {
    /// Sends this node's datagrams to its region.
    pub(super) fn beat(&mut self, now: Instant) {
        let region = self.parts.wishes.own().record.region;
        let here = |node: &&Known| {
            node.state.as_ref().is_some_and(|state| state.record.region == region && !state.left)
        };
        let peers = self.roster.iter().filter(here).map(|node| &node.name).collect::<Vec<_>>();
        let parts = self.lane.beat(&self.parts.wishes.loads(), &self.liveness.silent(now), peers.len());
        for name in peers {
            for part in &parts {
                // Lost like any datagram; the next comes in 100 ms.
                let _ = self.parts.mesh.datagram(name, fastlane::CHANNEL, part.clone());
            }
        }
    }

    pub(super) async fn lane(&mut self, inbound: Inbound) {
        let Inbound::Datagram { from, bytes } = inbound else { return };
        if self.roster.get(&from.name).is_none() {
            return;
        }
        let now = self.parts.clock.now();
        let Some(heard) = self.lanes.datagram(&from.name, &bytes, now) else { return };
        if let Some(report) = heard.report {
            let _ = self.parts.reports.try_send(report);
        }
        self.believe(Event::Silent { by: &from.name, about: &heard.silent }, now).await;
        self.word(&from.name).await;
    }
}
