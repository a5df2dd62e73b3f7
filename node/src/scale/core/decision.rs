//! A decision: what a step comes to, with its places, its backends and its numbers. Pure.

use std::collections::BTreeSet;

use gossip::id::NodeName;

use super::{Core, Look};
use crate::backend::BackendView;
use crate::config::model::ScaleTarget;
use crate::scale::act::{Decision, Target, Why};
use crate::scale::place::{self, Spot};
use crate::scale::pulse::stays;
use crate::scale::target::{Step, Verdict};

impl Core {
    pub(super) fn decision(&self, look: &Look, number: u64, verdict: Verdict) -> Decision {
        let (view, scale) = (&look.pool, &look.scale);
        let staying: Vec<&BackendView> = view.backends.iter().filter(|backend| stays(backend)).collect();
        let own = look.holdings.as_ref().map(|holdings| holdings.get(&self.me).cloned().unwrap_or_default());
        // An engine cannot start what stands elsewhere, nor stop it.
        let within_reach =
            |backend: &&&BackendView| own.as_ref().is_none_or(|own| own.contains(&backend.config.address));
        let near: Vec<&BackendView> = staying.iter().filter(within_reach).copied().collect();
        let total = staying.len() as u32;
        let (action, place, leaving) = match verdict.step {
            Step::Remove(count) => ("remove", Vec::new(), place::remove(&near, count)),
            Step::Add(count) => ("add", place::add(&near, self.home.clone(), count), Vec::new()),
            Step::Stay => ("add", Vec::new(), Vec::new()),
        };
        let count = (place.len() + leaving.len()) as u32;
        let backends = leaving
            .iter()
            .map(|backend| Target { address: backend.config.address.to_string(), spot: Spot::of(backend) });
        let each = match scale.target {
            ScaleTarget::InFlight(each) | ScaleTarget::Requests(each) => each,
            ScaleTarget::P99(each) => each.as_secs_f64(),
        };
        let ready = view.backends.iter().filter(|backend| backend.takes_new()).count() as u32;
        Decision {
            pool: view.config.name.clone(),
            number,
            action,
            count,
            from: total,
            to: if action == "add" { total + count } else { total - count },
            place,
            backends: backends.collect(),
            why: Why { target: scale.target.as_str(), each, measured: verdict.measured, ready },
            by: self.me.clone(),
        }
    }
}

/// How well a node suits a step. Of Docker Engines the one with the fewest of the pool's containers starts new ones, and the
/// one with the most stops some.
pub(super) fn suits(look: &Look, step: Step, node: &NodeName) -> i64 {
    let Some(holdings) = &look.holdings else { return 0 };
    let held = holdings.get(node).map_or(0, BTreeSet::len) as i64;
    match step {
        Step::Remove(_) => held,
        Step::Add(_) | Step::Stay => -held,
    }
}

/// A decision with its numbers, in words.
pub(super) fn describe(decision: &Decision, dry_run: bool) -> String {
    let Decision { pool, number, action, count, from, to, why, by, .. } = decision;
    let Why { target, each, measured, ready } = why;
    let what = match (dry_run, *action) {
        (true, action) => format!("would {action}"),
        (false, "add") => "adds".to_owned(),
        (false, _) => "removes".to_owned(),
    };
    format!(
        "pool {pool}: {by} {what} {count}, {from} to {to}: {target} is {measured:.2} each over {ready} ready, \
         {each} is wanted; decision {number}"
    )
}
