//! `meridian rtt`: the round trips between all nodes; `status` shows those between regions.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;

use super::exit::CliError;
use super::output::{json, line, or_dash, table};
use super::{Format, Global};
use crate::admin::api::{RttMatrix, Status};

/// `meridian rtt`
pub(super) async fn run(global: &Global) -> Result<(), CliError> {
    let status: Status = global.client()?.json(Method::GET, "/v1/status").await?;
    match global.output {
        Format::Json => json(&status.rtt_ms),
        Format::Table => {
            let nodes = status.rtt_ms.keys().map(String::as_str).collect();
            print(&status.rtt_ms, &nodes);
            Ok(())
        }
    }
}

/// The shortest round trip between any nodes of two regions, where there are several.
pub(super) fn print_regions(status: &Status) {
    let region: BTreeMap<&str, &str> =
        status.members.iter().map(|member| (member.name.as_str(), member.region.as_str())).collect();
    let regions: BTreeSet<&str> =
        status.rtt_ms.keys().filter_map(|node| region.get(node.as_str()).copied()).collect();
    if regions.len() < 2 {
        return;
    }
    let mut shortest = RttMatrix::new();
    for (from, to, rtt) in cells(&status.rtt_ms) {
        let (Some(from), Some(to)) = (region.get(from), region.get(to)) else { continue };
        if from != to {
            let cell = shortest.entry((*from).to_owned()).or_default().entry((*to).to_owned()).or_insert(rtt);
            *cell = rtt.min(*cell);
        }
    }
    line("");
    print(&shortest, &regions);
}

fn cells(matrix: &RttMatrix) -> impl Iterator<Item = (&str, &str, f64)> {
    let rows = matrix.iter();
    rows.flat_map(|(from, row)| row.iter().map(move |(to, rtt)| (from.as_str(), to.as_str(), *rtt)))
}

fn print(matrix: &RttMatrix, names: &BTreeSet<&str>) {
    let heading: Vec<&str> = std::iter::once("rtt in ms").chain(names.iter().copied()).collect();
    let cell = |from: &str, to: &str| {
        let rtt = matrix.get(from).and_then(|row| row.get(to));
        or_dash(rtt.map(|rtt| format!("{rtt:.1}")).as_deref())
    };
    let row = |from: &&str| {
        std::iter::once((*from).to_owned()).chain(names.iter().map(|to| cell(from, to))).collect::<Vec<_>>()
    };
    table(&heading, names.iter().map(row));
}
