//! `meridian backend add|remove POOL ADDRESS`

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::exit::CliError;
use super::lease::{Lease, Place, asked_to_end, usage};
use super::output::{aside, hint, json, line};
use super::{Format, Global};
use crate::admin::api::backends::Registration;

#[derive(Debug, Subcommand)]
pub(super) enum BackendCommand {
    /// Add a backend to a pool, until it is removed; or, with --lease, for as long as this command runs.
    Add(AddArgs),
    /// Take a backend out that was added or has a lease. It drains first.
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The pool.
    pool: String,
    /// IP:PORT.
    address: SocketAddr,
    #[command(flatten)]
    place: Place,
    /// Hold a lease: renew it until this command is ended, then take the backend out. The pool has to grant leases.
    #[arg(long)]
    lease: bool,
    /// How long the lease lasts when this command ends without a word. Default: what the pool says.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, requires = "lease")]
    ttl: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The pool.
    pool: String,
    /// IP:PORT.
    address: SocketAddr,
    /// It has ended already: take it out at once instead of draining it.
    #[arg(long)]
    gone: bool,
}

pub(super) async fn run(global: &Global, command: BackendCommand) -> Result<(), CliError> {
    match command {
        BackendCommand::Add(args) => add(global, args).await,
        BackendCommand::Remove(args) => remove(global, args).await,
    }
}

async fn add(global: &Global, args: AddArgs) -> Result<(), CliError> {
    let client = global.client()?;
    let AddArgs { pool, address, place, lease: leased, ttl } = args;
    let ttl = ttl.map(|ttl| humantime::format_duration(ttl).to_string());
    let asked = Registration { ttl, permanent: !leased, ..place.registration() };
    let lease = Lease { client: &client, pool, address, asked };
    let registered = lease.put().await?;
    if global.output == Format::Json {
        json(&registered)?;
    }
    let pool = &lease.pool;
    if !leased {
        if global.output == Format::Table {
            line(format_args!("{address} is in pool {pool}, until it is removed"));
            hint(format_args!("meridian backend remove {pool} {address}  takes it out"));
        }
        return Ok(());
    }
    aside(format_args!("{address} is in pool {pool} for as long as this command runs"));
    tokio::select! {
        ended = asked_to_end() => ended?,
        _ = lease.keep(registered) => {}
    }
    lease.remove(false).await?;
    aside(format_args!("{address} leaves pool {pool}: it drains"));
    Ok(())
}

async fn remove(global: &Global, args: RemoveArgs) -> Result<(), CliError> {
    let client = global.client()?;
    let RemoveArgs { pool, address, gone } = args;
    if pool.is_empty() {
        return Err(usage("the pool has no name"));
    }
    let lease = Lease { client: &client, pool, address, asked: Registration::default() };
    lease.remove(gone).await?;
    let others = lease.other_sources().await?;
    match (global.output, gone) {
        (Format::Json, _) => {}
        _ if !others.is_empty() => {
            let what = if others == ["static"] {
                "the file names".to_owned()
            } else {
                format!("{} names", others.join(", "))
            };
            line(format_args!(
                "{address} is no longer added to pool {}, and stays in it: {what} it still",
                lease.pool
            ));
        }
        (_, true) => line(format_args!("{address} is out of pool {}", lease.pool)),
        (_, false) => {
            line(format_args!("{address} leaves pool {}: it keeps its sessions while it drains", lease.pool))
        }
    }
    Ok(())
}
