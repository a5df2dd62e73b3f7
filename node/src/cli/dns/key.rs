//! `meridian dns key list|retire|restore ZONE`: which of a zone's keys are used.
//!
//! Whether the parent names a key is asked from here, as in `dns check`: no node can see it.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use dns::name::Name;
use dns::zone::Kind;
use dns::{Rcode, Transport, names_key};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::check::{ask, inquiry, server_address};
use crate::admin::api::{DsEntry, ZoneDs};
use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{hint, json, or_dash, table};
use crate::cli::{Format, Global};

/// Flags and protocol of a DNSKEY record of ours; its algorithm and its public key follow (RFC 4034 §2.1).
const DNSKEY_HEAD: [u8; 3] = [1, 1, 3];

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ZoneKeyCommand {
    /// List the keys of a signed zone: tag, age, what each is for, and its DS record.
    List(ListArgs),
    /// Retire one of several keys: it signs nothing more but the keys, and leaves in three days.
    Retire(RetireArgs),
    /// Take a retirement back, as long as the key has not left.
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// The zone, as in the configuration.
    zone: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RetireArgs {
    /// The zone, as in the configuration.
    zone: String,
    /// The key's tag, or the first 8 digits or more of its digest.
    key: String,
    /// A name server of the parent zone, IP or IP:PORT: it is asked whether its DS records name the key.
    #[arg(long, value_name = "ADDRESS", value_parser = server_address)]
    parent: Option<SocketAddr>,
    /// Do it though the parent may name the key, or resolvers may not know the others yet.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// The zone, as in the configuration.
    zone: String,
    /// The key's tag, or the first 8 digits or more of its digest.
    key: String,
}

pub(super) async fn run(global: &Global, command: ZoneKeyCommand) -> Result<(), CliError> {
    match command {
        ZoneKeyCommand::List(ListArgs { zone }) => show(global, &listed(global, &zone).await?),
        ZoneKeyCommand::Retire(args) => retire(global, args).await,
        ZoneKeyCommand::Restore(RestoreArgs { zone, key }) => {
            let path = format!("{}/{}/retirement", path(&zone), safe(&key));
            show(global, &global.client()?.json(Method::DELETE, &path).await?)
        }
    }
}

async fn retire(global: &Global, args: RetireArgs) -> Result<(), CliError> {
    let RetireArgs { zone, key, parent, force } = args;
    if let Some(parent) = parent {
        let told = listed(global, &zone).await?;
        let objection = objection_of(parent, &told, &key).await?;
        if let Some(error) = objection.filter(|_| !force) {
            return Err(error);
        }
    }
    let path =
        format!("{}/{}/retirement?unnamed={}&force={force}", path(&zone), safe(&key), parent.is_some());
    let told: ZoneDs = global.client()?.json(Method::PUT, &path).await?;
    show(global, &told)?;
    hint(format_args!(
        "`meridian dns key restore {zone} {key}` takes it back until it has left; a retired key stays in zone.keys"
    ));
    Ok(())
}

/// What the parent says against it.
async fn objection_of(parent: SocketAddr, told: &ZoneDs, key: &str) -> Result<Option<CliError>, CliError> {
    let zone = Name::parse_absolute(&told.zone)
        .map_err(|error| CliError::new(Exit::Failure, format!("{} {error}", told.zone)))?;
    let silent = |what: String| {
        CliError::new(Exit::Failure, format!("{parent} does not say which DS records {zone} has: {what}"))
            .hint("name a server that answers for the parent zone")
    };
    let seen = ask(parent, Transport::Tcp, inquiry(&zone, Kind::DS)).await.map_err(silent)?;
    if !seen.authoritative || seen.rcode != Rcode::NOERROR {
        let answer = if seen.authoritative { seen.rcode.to_string() } else { "it has no authority".into() };
        return Err(silent(answer));
    }
    let ds = seen.data_of(&zone, Kind::DS);
    Ok(objection(&zone, &ds, &told.keys, key).map(|text| {
        CliError::new(Exit::Conflict, text)
            .hint("at the parent, put the DS record of another key beside it, wait for its TTL, and take this one away")
    }))
}

/// Why a key should not be retired where the parent has these DS records.
fn objection(zone: &Name, ds: &[Vec<u8>], keys: &[DsEntry], wanted: &str) -> Option<String> {
    let names = |key: &DsEntry| {
        let Ok(public) = STANDARD.decode(&key.public_key) else { return false };
        let dnskey = [&DNSKEY_HEAD[..], &[key.algorithm], &public].concat();
        ds.iter().any(|ds| names_key(zone, ds, &dnskey))
    };
    let is_meant = |key: &&DsEntry| {
        key.key_tag.to_string() == wanted || key.digest.starts_with(&wanted.to_ascii_uppercase())
    };
    if let Some(named) = keys.iter().filter(is_meant).find(|key| names(key)) {
        return Some(format!("the parent's DS record names key {}", named.key_tag));
    }
    let others = keys.iter().filter(|key| matches!(key.role.as_str(), "active" | "extra"));
    let good = ds.is_empty() || others.into_iter().any(names);
    (!good).then(|| {
        format!("the parent's DS records name no key of {zone}, so resolvers that validate refuse it already")
    })
}

async fn listed(global: &Global, zone: &str) -> Result<ZoneDs, CliError> {
    global.client()?.json(Method::GET, &path(zone)).await
}

fn path(zone: &str) -> String {
    format!("/v1/dns/zones/{}/keys", safe(zone))
}

fn safe(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn show(global: &Global, told: &ZoneDs) -> Result<(), CliError> {
    if global.output == Format::Json {
        return json(told);
    }
    let row = |key: &DsEntry| {
        let DsEntry { key_tag, role, made, leaves, record, .. } = key;
        let ds = record.split(" DS ").nth(1).unwrap_or_default();
        vec![key_tag.to_string(), role.clone(), made.clone(), or_dash(leaves.as_deref()), ds.to_owned()]
    };
    table(&["tag", "role", "made", "leaves", "ds"], told.keys.iter().map(row));
    Ok(())
}

#[cfg(test)]
mod tests {
    use dns::SigningKey;

    use super::*;

    fn key(role: &str) -> (SigningKey, DsEntry) {
        let signing = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
        let ds = signing.ds(&zone());
        let entry = DsEntry {
            active: role == "active",
            role: role.into(),
            leaves: None,
            made: String::new(),
            key_tag: signing.tag(),
            algorithm: 13,
            digest_type: 2,
            digest: ds[4..].iter().map(|byte| format!("{byte:02X}")).collect(),
            public_key: STANDARD.encode(&signing.dnskey()[4..]),
            record: String::new(),
        };
        (signing, entry)
    }

    fn zone() -> Name {
        Name::parse_absolute("lb.example.com").unwrap()
    }

    #[test]
    fn what_the_parent_names_is_not_retired() {
        let ((active, first), (extra, second)) = (key("active"), key("extra"));
        let (leaving, third) = key("retiring");
        let keys = [first, second.clone(), third];
        let told = |ds: &[&SigningKey], wanted: &str| {
            let ds: Vec<_> = ds.iter().map(|key| key.ds(&zone())).collect();
            objection(&zone(), &ds, &keys, wanted)
        };
        let tag = second.key_tag.to_string();
        assert_eq!(told(&[&active], &tag), None);
        assert_eq!(told(&[], &tag), None, "nobody validates yet");
        for ds in [&[&extra][..], &[&active, &extra]] {
            assert!(told(ds, &tag).unwrap().contains("names key"));
            assert!(told(ds, &second.digest[..8].to_lowercase()).unwrap().contains("names key"));
        }
        assert!(told(&[&leaving], &tag).unwrap().contains("no key of lb.example.com."));
    }
}
