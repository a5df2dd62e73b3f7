//! `meridian rtt`: the round trips between all nodes; `status` shows those between regions.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::Serialize;

use super::exit::CliError;
use super::output::{item, json, line, span, table};
use super::{Format, Global};
use crate::admin::api::{MemberStatus, RttMatrix, Status};

/// What is printed as JSON.
#[derive(Serialize)]
struct RoundTrips<'a> {
    /// From, to; null where nobody knows.
    rtt_ms: &'a RttMatrix,
    /// Who is not heard: of them nothing is known.
    silent: BTreeMap<&'a str, Silence<'a>>,
}

/// How somebody is silent.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Silence<'a> {
    state: &'a str,
    seconds: u64,
}

/// `meridian rtt`
pub(super) async fn run(global: &Global) -> Result<(), CliError> {
    let status: Status = global.client()?.json(Method::GET, "/v1/status").await?;
    let silent = silent(&status.members);
    if global.output == Format::Json {
        return json(&RoundTrips { rtt_ms: &status.rtt_ms, silent });
    }
    let names = status.rtt_ms.keys().map(String::as_str).chain(silent.keys().copied()).collect();
    print(&status.rtt_ms, &names);
    if !silent.is_empty() {
        line("");
    }
    for (node, Silence { state, seconds }) in silent {
        item("?", &format!("{node} is {state}: not heard for {}", span(seconds)));
    }
    Ok(())
}

/// Those who have not left and are not heard.
fn silent(members: &[MemberStatus]) -> BTreeMap<&str, Silence<'_>> {
    let silence = |member: &MemberStatus| member.stale_seconds.filter(|_| member.state != "left");
    let silent = members.iter().filter_map(|member| {
        Some((member.name.as_str(), Silence { state: &member.state, seconds: silence(member)? }))
    });
    silent.collect()
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
            let cell = shortest.entry((*from).to_owned()).or_default().entry((*to).to_owned()).or_default();
            *cell = Some(cell.map_or(rtt, |shortest| rtt.min(shortest)));
        }
    }
    line("");
    print(&shortest, &regions);
}

/// All that is known.
fn cells(matrix: &RttMatrix) -> impl Iterator<Item = (&str, &str, f64)> {
    let rows = matrix.iter();
    rows.flat_map(|(from, row)| {
        row.iter().filter_map(move |(to, rtt)| Some((from.as_str(), to.as_str(), (*rtt)?)))
    })
}

fn print(matrix: &RttMatrix, names: &BTreeSet<&str>) {
    let heading: Vec<&str> = std::iter::once("rtt in ms").chain(names.iter().copied()).collect();
    table(&heading, rows(matrix, names));
}

/// A row each; a question mark where nobody knows.
fn rows(matrix: &RttMatrix, names: &BTreeSet<&str>) -> Vec<Vec<String>> {
    let cell = |from: &str, to: &str| match matrix.get(from).and_then(|row| *row.get(to)?) {
        _ if from == to => "-".to_owned(),
        Some(rtt) => format!("{rtt:.1}"),
        None => "?".to_owned(),
    };
    let row = |from: &&str| {
        std::iter::once((*from).to_owned()).chain(names.iter().map(|to| cell(from, to))).collect::<Vec<_>>()
    };
    names.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_keeps_a_row_and_a_column() {
        let row =
            |cells: &[(&str, Option<f64>)]| cells.iter().map(|(to, rtt)| ((*to).to_owned(), *rtt)).collect();
        let matrix: RttMatrix = [
            ("eu-1".to_owned(), row(&[("us-1", None), ("us-2", Some(80.12))])),
            ("us-1".to_owned(), row(&[("eu-1", None), ("us-2", None)])),
            ("us-2".to_owned(), row(&[("eu-1", Some(80.12)), ("us-1", None)])),
        ]
        .into();
        let names = BTreeSet::from(["ap-1", "eu-1", "us-1", "us-2"]);
        let told: Vec<String> = rows(&matrix, &names).iter().map(|row| row.join(" ")).collect();
        assert_eq!(told, ["ap-1 - ? ? ?", "eu-1 ? - ? 80.1", "us-1 ? ? - ?", "us-2 ? 80.1 ? -"]);
    }
}
