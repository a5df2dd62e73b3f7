//! Why a client gets the answer it gets, for people.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::answer::Outcome;
use crate::geo::Location;
use crate::name::Name;
use crate::steer::{Skip, Source, Step};
use crate::wire::{CLASS_IN, Question, kind_from_text, kind_to_text};

/// A question that cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {reason}")]
pub struct ExplainError {
    /// The name or the type.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a client would be told, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The name asked for.
    pub name: String,
    /// The type asked for.
    pub kind: String,
    /// The zone that answers; `None`: no zone here holds the name.
    pub zone: Option<String>,
    /// The response code.
    pub rcode: String,
    /// The types and owners of the records answered, in order.
    pub answers: Vec<String>,
    /// The shortest TTL of the answer, in seconds.
    pub ttl: Option<u32>,
    /// How the region was chosen, when the name is steered.
    pub steering: Option<Steering>,
}

/// How a region was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Steering {
    /// The client's prefix.
    pub client: IpNet,
    /// How its place was found.
    pub source: Source,
    /// Its place, as far as known.
    pub location: Option<Location>,
    /// The prefix length for which the same holds.
    pub scope: u8,
    /// The regions in the order of the policy.
    pub order: Vec<String>,
    /// Those passed over, and why.
    pub skipped: Vec<(String, Skip)>,
    /// How far down it had to go.
    pub step: Step,
    /// The region that answers.
    pub region: Option<String>,
    /// Nodes and their addresses; drawn anew for every query.
    pub chosen: Vec<(String, IpAddr)>,
}

impl Explanation {
    pub(crate) fn question(name: &str, kind: &str) -> Result<Question, ExplainError> {
        let wrong = |text: &str, reason: String| ExplainError { text: text.to_owned(), reason };
        Ok(Question {
            name: Name::parse_absolute(name).map_err(|error| wrong(name, error.to_string()))?,
            kind: kind_from_text(kind)
                .ok_or_else(|| wrong(kind, "is no record type, such as A or AAAA".to_owned()))?,
            class: CLASS_IN,
        })
    }

    pub(crate) fn of(question: &Question, outcome: &Outcome<'_>) -> Self {
        let sets = &outcome.reply.answers;
        Self {
            name: question.name.to_string(),
            kind: kind_to_text(question.kind),
            zone: outcome.zone.map(|zone| zone.origin.to_string()),
            rcode: outcome.reply.rcode.to_string(),
            answers: sets.iter().map(|set| format!("{} {}", set.owner, kind_to_text(set.kind))).collect(),
            ttl: sets.iter().map(|set| set.ttl).min(),
            steering: outcome.decision.as_ref().map(|decision| Steering {
                client: decision.client,
                source: decision.source,
                location: decision.location,
                scope: decision.scope,
                order: decision.order.iter().map(ToString::to_string).collect(),
                skipped: decision.skipped.iter().map(|(region, skip)| (region.to_string(), *skip)).collect(),
                step: decision.step,
                region: decision.region.map(str::to_owned),
                chosen: decision.chosen.iter().map(|(node, address)| (node.to_string(), *address)).collect(),
            }),
        }
    }
}
