//! `meridian members`

use http::Method;

use super::exit::CliError;
use super::output::{json, or_dash, span, table};
use super::{Format, Global};
use crate::admin::api::MemberStatus;

pub(super) async fn run(global: &Global) -> Result<(), CliError> {
    let members: Vec<MemberStatus> = global.client()?.json(Method::GET, "/v1/members").await?;
    match global.output {
        Format::Json => json(&members),
        Format::Table => {
            print(&members);
            Ok(())
        }
    }
}

/// Who is not heard is shown with how long.
fn state(member: &MemberStatus) -> String {
    match (member.state.as_str(), member.stale_seconds) {
        // This node hears nobody, and so believes what it last knew.
        ("alive" | "draining", Some(seconds)) => format!("{}, heard {} ago", member.state, span(seconds)),
        (state, Some(seconds)) => format!("{state} {}", span(seconds)),
        (state, None) => state.to_owned(),
    }
}

/// The table that `status` shows too.
pub(super) fn print(members: &[MemberStatus]) {
    table(
        &["node", "region", "zone", "state", "version", "rtt", "mesh address"],
        members.iter().map(|member| {
            vec![
                member.name.clone(),
                member.region.clone(),
                or_dash(member.zone.as_deref()),
                state(member),
                member.version.clone(),
                member.rtt_ms.map_or_else(|| "-".into(), |rtt| format!("{rtt:.1} ms")),
                member.address.clone(),
            ]
        }),
    );
}
