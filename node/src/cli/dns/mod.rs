//! `meridian dns`: what users are told and why, and what others must know of the zones served here.

mod check;
mod ds;
mod explain;
mod key;

use clap::Subcommand;

use super::Global;
use super::exit::CliError;

#[derive(Debug, Subcommand)]
pub(super) enum DnsCommand {
    /// Say where DNS sends a user, and why.
    Explain(explain::ExplainArgs),
    /// Print the DS record that the parent of a signed zone needs.
    Ds(ds::DsArgs),
    /// Ask every name server of a zone what a registrar would ask, and say what it will complain about.
    Check(check::CheckArgs),
    /// List the keys of a signed zone, and retire one that is not needed any more.
    #[command(subcommand)]
    Key(key::ZoneKeyCommand),
}

pub(super) async fn run(global: &Global, command: DnsCommand) -> Result<(), CliError> {
    match command {
        DnsCommand::Explain(args) => explain::run(global, args).await,
        DnsCommand::Ds(args) => ds::run(global, args).await,
        DnsCommand::Check(args) => check::run(global, args).await,
        DnsCommand::Key(command) => key::run(global, command).await,
    }
}
