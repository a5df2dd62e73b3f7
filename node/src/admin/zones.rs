//! What the operator of a zone's parent is told.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dns::SigningKey;
use dns::name::Name;
use http::StatusCode;
use storage::zone_keys::ZoneKey;

use super::Context;
use super::api::{DsEntry, ZoneDs};
use super::orders::rfc3339;
use super::problem::{Refusal, problem};
use super::targets::there_are;

/// Bytes of a DNSKEY record's data before the public key.
const KEY_AT: usize = 4;

/// The DS records that the parent of a signed zone needs.
#[utoipa::path(get, path = "/v1/dns/zones/{zone}/ds", tag = "dns", params(("zone" = String, Path)), responses((status = 200, body = ZoneDs)))]
pub(super) async fn ds(
    State(context): State<Arc<Context>>,
    Path(zone): Path<String>,
) -> Result<Json<ZoneDs>, Refusal> {
    let wanted = zone.trim_end_matches('.').to_ascii_lowercase();
    let services = context.snapshot.borrow().services.clone();
    let Some(zone) = services.zones.iter().find(|zone| zone.name == wanted) else {
        let known = services.zones.iter().map(|zone| zone.name.as_str()).collect();
        let detail = format!("there is no zone {wanted:?}{}", there_are(&wanted, known));
        return Err(problem(StatusCode::NOT_FOUND, detail));
    };
    if !zone.dnssec {
        let detail = format!(
            "zone {wanted} is not signed; set dnssec = true in [dns.zone.\"{wanted}\"] and apply it first"
        );
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    // The validator read the name as one.
    let name = Name::parse_absolute(&wanted)
        .map_err(|error| problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let known = context.zone_keys.known();
    let keys: Vec<DsEntry> = known.of(&wanted).filter_map(|key| entry(&name, key)).collect();
    if keys.is_empty() {
        let detail = format!(
            "this node has no key of zone {wanted} yet: one is made, or comes from another node, within seconds"
        );
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    let keys = keys.into_iter().enumerate();
    let keys = keys.map(|(at, key)| DsEntry { active: at == 0, ..key }).collect();
    Ok(Json(ZoneDs { zone: name.to_string(), keys }))
}

fn entry(zone: &Name, key: &ZoneKey) -> Option<DsEntry> {
    let signing = SigningKey::from_pkcs8(&key.secret).ok()?;
    let data = signing.ds(zone);
    let ([_, _, algorithm, digest_type], digest) = data.split_first_chunk::<4>()?;
    let digest: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    Some(DsEntry {
        active: false,
        made: rfc3339(key.made),
        key_tag: signing.tag(),
        algorithm: *algorithm,
        digest_type: *digest_type,
        public_key: STANDARD.encode(signing.dnskey().get(KEY_AT..)?),
        record: format!("{zone} IN DS {} {algorithm} {digest_type} {digest}", signing.tag()),
        digest,
    })
}

#[cfg(test)]
mod tests {
    use gossip::clock::Wall;

    use super::*;

    #[test]
    fn a_parent_is_told_all_that_it_may_ask_for_and_no_secret() {
        let zone = Name::parse_absolute("lb.example.com").unwrap();
        let secret = SigningKey::generate().unwrap();
        let key = ZoneKey { zone: "lb.example.com".into(), made: Wall(0), secret: secret.clone() };
        let entry = entry(&zone, &key).unwrap();
        let DsEntry { key_tag, digest, .. } = &entry;
        assert_eq!(entry.record, format!("lb.example.com. IN DS {key_tag} 13 2 {digest}"));
        assert_eq!((digest.len(), STANDARD.decode(&entry.public_key).unwrap().len()), (64, 64));
        // PKCS #8 holds the private key from its 36th byte on.
        let told = serde_json::to_string(&entry).unwrap();
        assert!(!told.contains(&STANDARD.encode(&secret[36..66])) && !format!("{key:?}").contains("secret"));
        let nonsense = ZoneKey { secret: vec![1], ..key };
        assert!(super::entry(&zone, &nonsense).is_none());
    }
}
