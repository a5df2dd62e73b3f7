//! What came of acts, and who hears of it. Pure.

use std::time::Instant;

use gossip::id::PoolName;

use super::{Core, Effect, End, Look};
use crate::config::model::ScaleVia;
use crate::scale::act::Failure;
use crate::scale::coming::{News, Started};
use crate::scale::nursery::YOUNG;
use crate::scale::target::Step;
use crate::scale::wire::Message;

/// What concerns no decision's count.
const NO_DECISION: u64 = 0;

impl Core {
    /// An act is over. That nothing came of it is everybody's business: another node takes the turn, at once if nothing was
    /// begun, else once what may have been begun was waited for.
    pub(in crate::scale) fn ended(&mut self, pool: &PoolName, number: u64, end: &End, now: Instant) {
        let step = self.busy.remove(pool);
        let tracker = self.trackers.get_mut(pool);
        let (text, unbegun) = match end {
            End::Done if matches!(step, Some(Step::Remove(_))) => {
                self.turns.succeeded(pool);
                return self.note(pool, format!("decision {number} is done"));
            }
            // It is done when they have appeared.
            End::Done => return tracker.into_iter().for_each(|tracker| tracker.acted(number, now)),
            End::Recalled => (format!("decision {number} is recalled: its backends are needed again"), true),
            End::Failed(Failure { why, unbegun }) => (self.fails(pool, number, why, now), *unbegun),
        };
        if let Some(tracker) = self.trackers.get_mut(pool) {
            match unbegun {
                true => tracker.undone(&(number, None)),
                false => tracker.failed(&(number, None), now),
            }
        }
        self.tell_failure(pool, number, text, unbegun);
    }

    /// What was started has appeared, or should have.
    pub(super) fn appeared(&mut self, look: &Look, number: u64, news: News, started: Started, now: Instant) {
        let pool = &look.pool.config.name;
        let missed = format!("{started}: {}", self.where_to_look(look));
        match news {
            News::Come => {
                self.turns.succeeded(pool);
                self.note(pool, format!("decision {number} is done: {started}"));
            }
            News::Late => self.note(pool, format!("decision {number}: {missed}")),
            News::GivenUp => {
                let text = self.fails(pool, number, &missed, now);
                self.tell_failure(pool, number, text, false);
            }
            News::Fallen => {
                let why = gone_at_once(started, &self.where_to_look(look));
                let text = self.fails(pool, number, &why, now);
                // The others see it themselves, and count on the rest of the decision as before.
                self.tell_failure(pool, NO_DECISION, text, true);
            }
        }
    }

    fn fails(&mut self, pool: &PoolName, number: u64, why: &str, now: Instant) -> String {
        let rest = self.turns.failed(pool, why.to_owned(), now).as_secs();
        format!("decision {number} failed at {}, which rests for {rest} s: {why}", self.me)
    }

    fn tell_failure(&mut self, pool: &PoolName, number: u64, text: String, unbegun: bool) {
        let told = format!("pool {pool}: {text}");
        self.effects.push(Effect::Tell(Message::Failed(pool.clone(), number, told, unbegun)));
        self.note(pool, text);
    }

    /// Where an operator finds out why backends do not come.
    pub(super) fn where_to_look(&self, look: &Look) -> String {
        match &look.scale.via {
            ScaleVia::Exec(words) => {
                format!("see what {} logs", words.first().map_or("the program", String::as_str))
            }
            ScaleVia::Webhook(_) => "see the log behind the webhook".to_owned(),
            ScaleVia::Docker(_) => format!("see docker ps -a and docker logs on {}", self.me),
        }
    }
}

fn gone_at_once(started: Started, where_to_look: &str) -> String {
    let (count, within) = (started.count, YOUNG.as_secs());
    format!("{count} of those it started were gone within {within} s of appearing: {where_to_look}")
}
