//! `meridian dns ds ZONE`

use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::admin::api::ZoneDs;
use crate::cli::exit::CliError;
use crate::cli::output::{aside, hint, json, line};
use crate::cli::{Format, Global};

#[derive(Debug, Args)]
pub(crate) struct DsArgs {
    /// The zone, as in the configuration.
    zone: String,
}

pub(super) async fn run(global: &Global, args: DsArgs) -> Result<(), CliError> {
    let path = format!("/v1/dns/zones/{}/ds", utf8_percent_encode(&args.zone, NON_ALPHANUMERIC));
    let told: ZoneDs = global.client()?.json(Method::GET, &path).await?;
    if global.output == Format::Json {
        return json(&told);
    }
    let (active, others): (Vec<_>, Vec<_>) = told.keys.iter().partition(|key| key.active);
    active.iter().for_each(|key| line(&key.record));
    if !others.is_empty() {
        let others: Vec<String> =
            others.iter().map(|key| format!("{} of {}", key.key_tag, key.made)).collect();
        aside(format_args!(
            "{} more made while the mesh was cut (key tag {}): published too, and good where the parent names one already",
            others.len(),
            others.join(", ")
        ));
    }
    hint(format_args!(
        "give it to the registrar or the operator of the parent zone; `dig {} DS` shows it when it is there, and \
         `delv {} SOA` whether all validates. Take it back there before dnssec is turned off here",
        told.zone, told.zone
    ));
    Ok(())
}
