//! `meridian drain|undrain node|backend|region|pool NAME`

use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::exit::CliError;
use super::output::{hint, json, line};
use super::{Format, Global};
use crate::admin::api::IntentStatus;

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// What.
    #[arg(value_enum)]
    kind: Kind,
    /// Its name; a backend is named by its address, or POOL/ADDRESS when several pools have that address.
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct DeadlineArgs {
    #[command(flatten)]
    what: DrainArgs,
    /// Move the sessions that are left after this time. Default: they stay as long as they last.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Node,
    Backend,
    Region,
    Pool,
}

/// `meridian drain`
pub(super) async fn drain(global: &Global, args: DeadlineArgs) -> Result<(), CliError> {
    let mut path = args.what.path();
    if let Some(deadline) = args.deadline {
        path.push_str(&format!("?deadline_ms={}", deadline.as_millis()));
    }
    let intents: Vec<IntentStatus> = global.client()?.json(Method::PUT, &path).await?;
    if global.output == Format::Json {
        return json(&intents);
    }
    let (kind, name) = (args.what.kind(), &args.what.name);
    match args.deadline {
        None => line(format_args!("{kind} {name} is draining: its sessions stay, new ones go elsewhere")),
        Some(deadline) => line(format_args!(
            "{kind} {name} is draining: new sessions go elsewhere, those left after {} are moved",
            humantime::format_duration(deadline)
        )),
    }
    hint(format_args!("meridian undrain {kind} {name}  takes it back"));
    Ok(())
}

/// `meridian undrain`
pub(super) async fn undrain(global: &Global, args: DrainArgs) -> Result<(), CliError> {
    let intents: Vec<IntentStatus> = global.client()?.json(Method::DELETE, &args.path()).await?;
    if global.output == Format::Json {
        return json(&intents);
    }
    line(format_args!("{} {} takes new sessions again", args.kind(), args.name));
    Ok(())
}

impl DrainArgs {
    fn kind(&self) -> String {
        self.kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn path(&self) -> String {
        format!("/v1/drains/{}/{}", self.kind(), utf8_percent_encode(&self.name, NON_ALPHANUMERIC))
    }
}
