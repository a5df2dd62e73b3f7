//! The keys of signed zones: what the operator of a zone's parent is told, and which of several keys is used.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dns::SigningKey;
use dns::name::Name;
use http::StatusCode;
use serde::Deserialize;
use storage::intents::{Aspect, Order, Target};
use storage::zone_keys::ZoneKey;

use super::Context;
use super::api::{DsEntry, Problem, ZoneDs};
use super::orders::rfc3339;
use super::problem::{Refusal, problem};
use super::targets::there_are;
use crate::signing::{self, Role};

/// Bytes of a DNSKEY record's data before the public key.
const KEY_AT: usize = 4;

/// The least digits of a DS record's digest that name a key.
const DIGEST_DIGITS: usize = 8;

/// The DS records that the parent of a signed zone needs.
#[utoipa::path(get, path = "/v1/dns/zones/{zone}/ds", tag = "dns", params(("zone" = String, Path)), responses((status = 200, body = ZoneDs)))]
pub(super) async fn ds(
    State(context): State<Arc<Context>>,
    Path(zone): Path<String>,
) -> Result<Json<ZoneDs>, Refusal> {
    let signed = Signed::find(&context, &zone)?;
    Ok(Json(signed.told(|role| role.stays())))
}

/// All keys of a signed zone, the oldest first, and what each is for.
#[utoipa::path(get, path = "/v1/dns/zones/{zone}/keys", tag = "dns", params(("zone" = String, Path)), responses((status = 200, body = ZoneDs)))]
pub(super) async fn keys(
    State(context): State<Arc<Context>>,
    Path(zone): Path<String>,
) -> Result<Json<ZoneDs>, Refusal> {
    let signed = Signed::find(&context, &zone)?;
    Ok(Json(signed.told(|_| true)))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Assurance {
    /// The parent was asked, and its DS records do not name the key.
    #[serde(default)]
    #[param(required = false)]
    unnamed: bool,
    /// Whatever the parent names, and whatever resolvers know.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

/// Retires one of several keys of a zone: it signs nothing more but the keys, and leaves in three days.
#[utoipa::path(put, path = "/v1/dns/zones/{zone}/keys/{key}/retirement", tag = "dns",
    params(("zone" = String, Path), ("key" = String, Path, description = "its tag, or digits that its digest begins with"), Assurance),
    responses((status = 200, body = ZoneDs), (status = 409, description = "it is the only key, or the parent may name it", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn retire(
    State(context): State<Arc<Context>>,
    Path((zone, key)): Path<(String, String)>,
    Query(assurance): Query<Assurance>,
) -> Result<Json<ZoneDs>, Refusal> {
    let signed = Signed::find(&context, &zone)?;
    let at = signed.position(&key)?;
    let (entry, found, role) = &signed.keys[at];
    if role.stays() {
        if let Some(objection) = signed.objection(entry, *role, &assurance) {
            return Err(problem(StatusCode::CONFLICT, objection));
        }
        context.intents.set(signed.target(entry, found), Order::RetireZoneKey).await?;
        let text = format!("an operator retires key {}", entry.key_tag);
        context.events.tell("order", format!("zone {}", signed.zone), text, &context.clock);
    }
    Ok(Json(Signed::find(&context, &zone)?.told(|_| true)))
}

/// Takes the retirement of a key back, as long as it has not left.
#[utoipa::path(delete, path = "/v1/dns/zones/{zone}/keys/{key}/retirement", tag = "dns",
    params(("zone" = String, Path), ("key" = String, Path)),
    responses((status = 200, body = ZoneDs), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn restore(
    State(context): State<Arc<Context>>,
    Path((zone, key)): Path<(String, String)>,
) -> Result<Json<ZoneDs>, Refusal> {
    let signed = Signed::find(&context, &zone)?;
    let at = signed.position(&key)?;
    let (entry, found, role) = &signed.keys[at];
    if *role == Role::Retired {
        let detail = format!(
            "key {} has left zone {}: resolvers do not know it any more, so it does not sign again",
            entry.key_tag, signed.zone
        );
        return Err(problem(StatusCode::CONFLICT, detail));
    }
    if !context.intents.clear(signed.target(entry, found), Aspect::ZoneKey).await? {
        let detail = format!("key {} of zone {} is not retired", entry.key_tag, signed.zone);
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    let text = format!("an operator takes key {} back", entry.key_tag);
    context.events.tell("order", format!("zone {}", signed.zone), text, &context.clock);
    Ok(Json(Signed::find(&context, &zone)?.told(|_| true)))
}

/// A signed zone and its keys, the oldest first.
struct Signed {
    /// As it is configured.
    zone: String,
    name: Name,
    settling: bool,
    keys: Vec<(DsEntry, Arc<ZoneKey>, Role)>,
}

impl Signed {
    fn find(context: &Context, zone: &str) -> Result<Self, Refusal> {
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
        let (known, now) = (context.zone_keys.known(), context.clock.mesh_wall());
        let (retired, _) = signing::retired(&context.intents.list(), now);
        let keys = signing::roles(&wanted, &known, &retired).into_iter();
        let keys = keys.filter_map(|(key, role)| Some((entry(&name, &key, role)?, key, role)));
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() {
            let detail = format!(
                "this node has no key of zone {wanted} yet: one is made, or comes from another node, within seconds"
            );
            return Err(problem(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
        let settling = known.is_settling(&wanted);
        Ok(Self { zone: wanted, name, settling, keys })
    }

    /// Those of some roles, the active one first.
    fn told(&self, wanted: impl Fn(Role) -> bool) -> ZoneDs {
        let mut keys: Vec<DsEntry> =
            self.keys.iter().filter(|(.., role)| wanted(*role)).map(|(entry, ..)| entry.clone()).collect();
        keys.sort_by_key(|key| !key.active);
        ZoneDs { zone: self.name.to_string(), keys }
    }

    /// The key that an operator means: by its tag, or by the first digits of its digest where two have the same tag.
    fn position(&self, wanted: &str) -> Result<usize, Refusal> {
        let digits = wanted.to_ascii_uppercase();
        let is_meant = |entry: &DsEntry| {
            entry.key_tag.to_string() == wanted
                || digits.len() >= DIGEST_DIGITS && entry.digest.starts_with(&digits)
        };
        let places = (0..).zip(&self.keys).filter(|(_, (entry, ..))| is_meant(entry)).map(|(at, _)| at);
        let tags = || self.keys.iter().map(|(entry, ..)| entry.key_tag.to_string()).collect::<Vec<_>>();
        match places.collect::<Vec<usize>>()[..] {
            [at] => Ok(at),
            [] => {
                let detail =
                    format!("zone {} has no key {wanted}; there is {}", self.zone, tags().join(", "));
                Err(problem(StatusCode::NOT_FOUND, detail))
            }
            _ => {
                let detail = format!(
                    "several keys of zone {} have the tag {wanted}; name one by the first {DIGEST_DIGITS} digits of its digest",
                    self.zone
                );
                Err(problem(StatusCode::CONFLICT, detail))
            }
        }
    }

    /// Why a key that is in use should not be retired.
    fn objection(&self, entry: &DsEntry, role: Role, assurance: &Assurance) -> Option<String> {
        let (zone, tag) = (&self.zone, entry.key_tag);
        if self.keys.iter().filter(|(.., role)| role.stays()).count() < 2 {
            return Some(format!(
                "{tag} is the only key that zone {zone} is signed with; a zone is signed no more by taking its DS record \
                 back at the parent, waiting for its TTL, and removing dnssec"
            ));
        }
        if !assurance.force && !assurance.unnamed {
            return Some(format!(
                "the DS record at the parent of {zone} may name key {tag}; let it be asked with --parent ADDRESS, or say \
                 force when you know that it names another one"
            ));
        }
        // Those who know the active key alone would take what the next one signs for forged.
        (role == Role::Active && self.settling && !assurance.force).then(|| {
            format!(
                "key {tag} signs zone {zone}, and resolvers may not know the others yet: a key turned up, or this node was \
                 started, in the last ten minutes; try again later"
            )
        })
    }

    fn target(&self, entry: &DsEntry, key: &ZoneKey) -> Target {
        Target::ZoneKey { zone: self.zone.clone(), tag: entry.key_tag, id: key.id() }
    }
}

fn entry(zone: &Name, key: &ZoneKey, role: Role) -> Option<DsEntry> {
    let signing = SigningKey::from_pkcs8(&key.secret).ok()?;
    let data = signing.ds(zone);
    let ([_, _, algorithm, digest_type], digest) = data.split_first_chunk::<4>()?;
    let digest: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    Some(DsEntry {
        active: role == Role::Active,
        role: role.name().into(),
        leaves: match role {
            Role::Retiring(until) => Some(rfc3339(until)),
            _ => None,
        },
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
        let entry = entry(&zone, &key, Role::Active).unwrap();
        let DsEntry { key_tag, digest, .. } = &entry;
        assert_eq!(entry.record, format!("lb.example.com. IN DS {key_tag} 13 2 {digest}"));
        assert_eq!((digest.len(), STANDARD.decode(&entry.public_key).unwrap().len()), (64, 64));
        // PKCS #8 holds the private key from its 36th byte on.
        let told = serde_json::to_string(&entry).unwrap();
        assert!(!told.contains(&STANDARD.encode(&secret[36..66])) && !format!("{key:?}").contains("secret"));
        let nonsense = ZoneKey { secret: vec![1], ..key };
        assert!(super::entry(&zone, &nonsense, Role::Active).is_none());
    }

    fn of(roles: &[Role], settling: bool) -> Signed {
        let name = Name::parse_absolute("lb.example.com").unwrap();
        let key = |role: &Role| {
            let secret = SigningKey::generate().unwrap();
            let key = Arc::new(ZoneKey { zone: "lb.example.com".into(), made: Wall(0), secret });
            (entry(&name, &key, *role).unwrap(), key, *role)
        };
        let keys = roles.iter().map(key).collect();
        Signed { zone: "lb.example.com".into(), name: name.clone(), settling, keys }
    }

    #[test]
    fn a_key_that_somebody_may_need_is_not_retired() {
        let objection = |signed: &Signed, at: usize, unnamed, force| {
            let (entry, _, role) = &signed.keys[at];
            signed.objection(entry, *role, &Assurance { unnamed, force })
        };
        let two = of(&[Role::Active, Role::Extra], false);
        for at in [0, 1] {
            assert!(objection(&two, at, false, false).unwrap().contains("--parent"));
            assert_eq!(objection(&two, at, true, false), None);
            assert_eq!(objection(&two, at, false, true), None);
        }
        let settling = of(&[Role::Active, Role::Extra], true);
        assert!(objection(&settling, 0, true, false).unwrap().contains("ten minutes"));
        assert_eq!(objection(&settling, 0, true, true), None);
        assert_eq!(objection(&settling, 1, true, false), None);
        for roles in [vec![Role::Active], vec![Role::Active, Role::Retiring(Wall(9)), Role::Retired]] {
            assert!(objection(&of(&roles, false), 0, true, true).unwrap().contains("only key"));
        }
    }

    #[test]
    fn keys_are_named_by_tag_or_digest() {
        let signed = of(&[Role::Active, Role::Extra], false);
        for (at, (entry, ..)) in signed.keys.iter().enumerate() {
            for name in [entry.key_tag.to_string(), entry.digest.clone(), entry.digest[..8].to_lowercase()] {
                assert_eq!(signed.position(&name).ok(), Some(at), "{name}");
            }
            assert!(signed.position(&entry.digest[..7]).is_err());
        }
        assert!(signed.position("").is_err());
        let mut twins = of(&[Role::Active, Role::Extra], false);
        twins.keys[1].0.key_tag = twins.keys[0].0.key_tag;
        assert!(twins.position(&twins.keys[0].0.key_tag.to_string()).is_err());
        assert_eq!(twins.position(&twins.keys[1].0.digest[..8]).ok(), Some(1));
    }

    #[test]
    fn the_parent_is_told_of_keys_that_stay_alone() {
        let signed = of(&[Role::Retiring(Wall(9)), Role::Active, Role::Extra, Role::Retired], false);
        let roles = |told: ZoneDs| told.keys.into_iter().map(|key| key.role).collect::<Vec<_>>();
        assert_eq!(roles(signed.told(|role| role.stays())), ["active", "extra"]);
        assert_eq!(roles(signed.told(|_| true)), ["active", "retiring", "extra", "retired"]);
    }
}
