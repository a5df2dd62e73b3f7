//! The task that marks the records of ended sessions. A mark changes no answer, since the data plane looks at the ends
//! themselves; it keeps counts honest, and the session from coming back once the end has lapsed.
//!
//! One walk over what lies here for each change, off the runtime's threads. What arrives afterwards comes from a node that
//! walks too. It owns nothing, and may be stopped at any point: the next life walks again.

use std::collections::BTreeMap;
use std::sync::Arc;

use gossip::clock::Hlc;
use tokio::sync::watch;

use super::Standing;
use crate::intent::{Aspect, IntentMap, Order, Target};
use crate::sessions::Shared;
use crate::table::{Merged, Record};

type Done = BTreeMap<(Target, Aspect), Hlc>;

/// Until `stop` changes or its sender is gone.
pub(crate) async fn follow(
    shared: Arc<Shared>,
    mut orders: watch::Receiver<Arc<IntentMap>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut done = Done::new();
    loop {
        let present = orders.borrow_and_update().clone();
        let news = news(&mut done, &present);
        if !news.is_empty() {
            let shared = shared.clone();
            let walk = tokio::task::spawn_blocking(move || walk(&shared, &Standing::of(&news)));
            if let Ok(marked @ 1..) = walk.await {
                tracing::info!(records = marked, "sessions that an operator ended are marked");
            }
        }
        tokio::select! {
            _ = stop.changed() => return,
            changed = orders.changed() => if changed.is_err() { return },
        }
    }
}

/// The ends that were not walked for yet.
fn news(done: &mut Done, present: &IntentMap) -> IntentMap {
    done.retain(|key, _| present.contains_key(key));
    let ends = present.iter().filter(|(_, intent)| matches!(intent.order, Order::End { .. }));
    let news = ends.filter(|(key, intent)| done.get(*key).is_none_or(|at| *at < intent.at));
    let news: IntentMap = news.map(|(key, intent)| (key.clone(), intent.clone())).collect();
    done.extend(news.iter().map(|(key, intent)| (key.clone(), intent.at)));
    news
}

/// How many records were marked.
fn walk(shared: &Shared, standing: &Standing) -> usize {
    let Shared { table, clock, writer, .. } = shared;
    let now = clock.mesh_wall();
    let mark = |record: &Record| {
        let Some(pin) = standing.marked(&record.pin) else { return false };
        let merged = table.merge(Record { pin, ..*record }, now);
        let changed = matches!(merged, Merged::Changed(_));
        if changed {
            writer.save(record.home, pin.id);
        }
        changed
    };
    let mut marked: usize = 0;
    for id in standing.sessions.keys() {
        marked += table.find_all(id, now).iter().filter(|record| mark(record)).count();
    }
    if standing.backends.is_empty() && standing.pools.is_empty() {
        return marked;
    }
    for (home, bucket) in table.buckets() {
        let pins = table.pins(home, bucket, now).into_iter();
        marked += pins.filter(|pin| mark(&Record { home, pin: *pin })).count();
    }
    marked
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;
    use gossip::id::{NodeName, SessionId};

    use super::*;
    use crate::intent::Intent;

    #[test]
    fn each_end_is_walked_for_once_and_again_when_it_is_given_again() {
        let order = |at: u64, order: Order| Intent {
            order,
            at: Hlc::from_millis(at),
            by: NodeName::new("a").unwrap(),
        };
        let end = Order::End { until: Wall(9) };
        let key = (Target::Session(SessionId([1; 16])), Aspect::End);
        let other = (Target::Node(NodeName::new("a").unwrap()), Aspect::State);
        let mut done = Done::new();
        let present: IntentMap =
            [(key.clone(), order(1, end.clone())), (other, order(1, Order::Maintenance))].into();
        assert_eq!(news(&mut done, &present).into_keys().collect::<Vec<_>>(), std::slice::from_ref(&key));
        assert!(news(&mut done, &present).is_empty());
        assert_eq!(news(&mut done, &[(key, order(2, end))].into()).len(), 1);
        assert!(news(&mut done, &IntentMap::new()).is_empty() && done.is_empty());
    }
}
