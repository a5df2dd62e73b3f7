//! What `balance = "hash"` hashes of a request: the client's address, a header or a cookie, as 64 bits that are the same on
//! every node of the mesh and that no client can foresee.
use std::net::IpAddr;

use gossip::id::PoolName;
use http::HeaderMap;
use http::header::COOKIE;

use super::plan::Plan;
use super::source::SourceKeys;
use crate::backend::PoolView;
use crate::config::model::{BalancePolicy, HashOn, Pool, Service};

/// The keys of a request for the pools of its service that hash. Empty, and made without an allocation, when none does.
#[derive(Debug, Default)]
pub(super) struct Keys<'a>(Vec<(&'a Pool, u64)>);

impl<'a> Keys<'a> {
    /// The keys of a request. `headers` are `None` for TCP and at the far end of a tunnel.
    pub(super) fn new(
        plan: &'a Plan,
        service: &Service,
        secrets: &SourceKeys,
        client: IpAddr,
        headers: Option<&HeaderMap>,
    ) -> Self {
        if !plan.hashes {
            return Self::default();
        }
        let secret = &secrets.in_use();
        let forced = service.force.iter().map(|rule| &rule.pool);
        let names: Vec<&PoolName> = service.split.iter().map(|(name, _)| name).chain(forced).collect();
        let key = |name: &PoolName| {
            let pool: &'a Pool = &plan.pool(name)?.config;
            let BalancePolicy::Hash(on) = &pool.balance else { return None };
            Some((pool, key(on, secret, client, headers)?))
        };
        Self(names.into_iter().filter_map(key).collect())
    }

    /// The key for a pool; `None` when the request has none.
    pub(super) fn of(&self, pool: &PoolView) -> Option<u64> {
        self.0.iter().find(|(known, _)| std::ptr::eq(*known, &raw const *pool.config)).map(|(_, key)| *key)
    }
}

fn key(on: &HashOn, secret: &[u8; 32], client: IpAddr, headers: Option<&HeaderMap>) -> Option<u64> {
    match on {
        HashOn::SourceIp => Some(match client {
            IpAddr::V4(client) => hash(secret, &client.octets()),
            IpAddr::V6(client) => hash(secret, &client.octets()),
        }),
        HashOn::Header(name) => Some(hash(secret, headers?.get(name)?.as_bytes())),
        HashOn::Cookie(name) => {
            let lines = headers?.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
            let mut pairs =
                lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
            let (_, value) = pairs.find(|(known, _)| known == name)?;
            Some(hash(secret, value.as_bytes()))
        }
    }
}

fn hash(secret: &[u8; 32], bytes: &[u8]) -> u64 {
    let hash = blake3::keyed_hash(secret, bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn what_is_hashed() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("ann"));
        headers.append(COOKIE, HeaderValue::from_static("a=1; user=bob"));
        headers.append(COOKIE, HeaderValue::from_static("user=eve"));
        let of = |on: &HashOn, last: u8| key(on, &SECRET, client(last), Some(&headers));
        assert_eq!(of(&HashOn::SourceIp, 1), of(&HashOn::SourceIp, 1));
        assert_ne!(of(&HashOn::SourceIp, 1), of(&HashOn::SourceIp, 2));
        let header = HashOn::Header(HeaderName::from_static("x-user"));
        assert_eq!(of(&header, 1), Some(hash(&SECRET, b"ann")));
        assert_eq!(of(&HashOn::Cookie("user".into()), 1), Some(hash(&SECRET, b"bob")));
        assert_eq!(of(&HashOn::Cookie("other".into()), 1), None);
        assert_eq!(of(&HashOn::Header(HeaderName::from_static("x-other")), 1), None);
        assert_eq!(key(&header, &SECRET, client(1), None), None);
    }
}
