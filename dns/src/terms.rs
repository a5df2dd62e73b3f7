//! On which terms strangers are served: what this server tells of itself, whom it trusts, what it bears.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::limit::ResponseRate;

/// The terms of one server. The default tells nothing, trusts nobody and limits nothing.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// What NSID answers (RFC 5001), at most [`MAX_NSID_BYTES`] of it; empty: the option is not answered.
    pub nsid: Vec<u8>,
    /// The secrets of server cookies (RFC 9018), equal on all servers of a zone: the first makes them, all are believed.
    /// Empty: no cookies.
    pub cookie_secrets: Vec<CookieSecret>,
    /// Who may transfer zones (RFC 5936), by address.
    pub transfer: Vec<IpNet>,
    /// How many answers over UDP one network gets; `None`: as many as it asks for.
    pub response_rate: Option<ResponseRate>,
}

/// The longest NSID that is told; a node's name is shorter.
pub const MAX_NSID_BYTES: usize = 128;

/// A secret of server cookies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CookieSecret(pub [u8; 16]);

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecret(..)")
    }
}

impl Terms {
    /// The NSID as it is told.
    pub(crate) fn nsid(&self) -> &[u8] {
        &self.nsid[..self.nsid.len().min(MAX_NSID_BYTES)]
    }

    /// True when an address may have whole zones.
    pub(crate) fn may_transfer(&self, address: IpAddr) -> bool {
        self.transfer.iter().any(|net| net.contains(&address.to_canonical()))
    }
}
