//! The driver's part in the fast lane: when it beats, its own datagrams, and those of its region.

use std::time::{Duration, Instant};

use super::Driver;
use crate::clock::Wall;
use crate::fastlane;
use crate::id::Tag;
use crate::liveness::{Event, TICK};
use crate::membership::Known;
use crate::mesh::Inbound;

/// With more peers than this nodes beat each at a time of its own.
const TOGETHER: usize = 32;

impl Driver {
    /// When the next tick is due, and so the next beat: nodes whose clocks agree beat together, so that what all have to say wakes each of
    /// them once. With too many peers all at once would be more than a socket holds, and each has a moment of its own.
    pub(super) fn next_tick(&self) -> Instant {
        let phase = match self.roster.names().count() {
            0..=TOGETHER => 0,
            _ => Tag::of(self.parts.life.name.as_str()).0.into(),
        };
        let clock = &self.parts.clock;
        clock.now() + until_next(clock.mesh_wall(), phase)
    }

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

    /// Says whose load nobody has told for too long. Without room that waits: an empty report is told only once.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.parts.reports.capacity() > self.roster.names().count() {
            for report in self.lanes.expire(now) {
                let _ = self.parts.reports.try_send(report);
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

/// How long until the mesh's time is a multiple of [`TICK`], and so many milliseconds more. Never less than half of it nor more than one and
/// a half, however the clock steps.
fn until_next(wall: Wall, phase_millis: u64) -> Duration {
    let tick = TICK.as_millis() as u64;
    let left = tick - (wall.0 + tick - phase_millis % tick) % tick;
    Duration::from_millis(if left < tick / 2 { left + tick } else { left })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nodes_whose_clocks_agree_tick_together(at in 0..1_u64 << 44, apart in 0..50_u64, phase: u32) {
            let phase = phase.into();
            let ticks_at = |wall: u64| wall + until_next(Wall(wall), phase).as_millis() as u64;
            let (one, other) = (ticks_at(at), ticks_at(at + apart));
            prop_assert_eq!((one + 100 - phase % 100) % 100, 0);
            prop_assert!((50..=150).contains(&(one - at)));
            // Who has just ticked a little late waits for the same next one, or for the one after it.
            prop_assert!(other == one || other == one + 100, "{one} and {other}");
        }
    }
}
