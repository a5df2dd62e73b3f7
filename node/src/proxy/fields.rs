//! Which of the fields that matter to a proxy a head has (pure), found in one look over its names.
//!
//! Most heads have few of them. Looking for each, or removing it unseen, costs a hash apiece; a proxy knows some thirty.
use http::header::HeaderMap;

/// A set of field names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fields(u32);

macro_rules! sets {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        $($(#[$doc])* pub(super) const $name: Self = Self(1 << $bit);)*
    };
}

impl Fields {
    sets! {
        CONNECTION = 0;
        /// Keep-Alive, Proxy-Connection.
        KEEP_ALIVE = 1;
        TRANSFER_ENCODING = 2;
        UPGRADE = 3;
        TE = 4;
        /// Proxy, Proxy-Authorization, Expect: a request's, for this hop alone.
        ASKED_OF_US = 5;
        PROXY_AUTHENTICATE = 6;
        COOKIE = 7;
        SET_COOKIE = 8;
        X_REQUEST_ID = 9;
        TRACEPARENT = 10;
        /// Forwarded and X-Forwarded-For, which are lists.
        FORWARDED = 11;
        /// X-Forwarded-Host, -Port and X-Real-IP.
        FORWARDED_ONE = 12;
        X_FORWARDED_PROTO = 13;
        /// A spelling with `_` of what tells who the client is.
        LOOKALIKE = 14;
        /// Location, Content-Location.
        LOCATION = 15;
        CONTENT_TYPE = 16;
        /// What only nodes say to each other.
        INSIDE = 17;
        SERVER = 18;
        /// Via, X-Powered-By and their like: what tells of the software behind.
        TELLTALE = 19;
        CDN_LOOP = 20;
    }

    /// What belongs to one hop (RFC 9110 §7.6.1).
    pub(super) const HOP_BY_HOP: Self = Self(
        Self::CONNECTION.0 | Self::KEEP_ALIVE.0 | Self::TRANSFER_ENCODING.0 | Self::UPGRADE.0 | Self::TE.0,
    );

    /// What tells who the client is.
    pub(super) const TELL_WHO: Self =
        Self(Self::FORWARDED.0 | Self::FORWARDED_ONE.0 | Self::X_FORWARDED_PROTO.0);

    /// The fields of a head.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |all, name| all | Self::named(name.as_str()).0))
    }

    /// Whether the head has any of these.
    pub(super) fn any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

    /// What a name stands for. Its length goes first, so that a name is compared with three others at most.
    fn named(name: &str) -> Self {
        match name.len() {
            2 if name == "te" => Self::TE,
            3 if name == "via" => Self::TELLTALE,
            5 if name == "proxy" => Self::ASKED_OF_US,
            6 => match name {
                "cookie" => Self::COOKIE,
                "server" => Self::SERVER,
                "expect" => Self::ASKED_OF_US,
                _ => Self(0),
            },
            7 if name == "upgrade" => Self::UPGRADE,
            8 => match name {
                "location" => Self::LOCATION,
                "cdn-loop" => Self::CDN_LOOP,
                _ => Self(0),
            },
            9 => match name {
                "forwarded" => Self::FORWARDED,
                "x-real-ip" => Self::FORWARDED_ONE,
                _ => lookalike(name),
            },
            10 => match name {
                "connection" => Self::CONNECTION,
                "keep-alive" => Self::KEEP_ALIVE,
                "set-cookie" => Self::SET_COOKIE,
                _ => Self(0),
            },
            11 if name == "traceparent" => Self::TRACEPARENT,
            12 => match name {
                "content-type" => Self::CONTENT_TYPE,
                "x-request-id" => Self::X_REQUEST_ID,
                "x-powered-by" => Self::TELLTALE,
                _ => Self(0),
            },
            15 if name == "x-forwarded-for" => Self::FORWARDED,
            15 => lookalike(name),
            16 => match name {
                "x-forwarded-host" | "x-forwarded-port" => Self::FORWARDED_ONE,
                "content-location" => Self::LOCATION,
                "proxy-connection" => Self::KEEP_ALIVE,
                "x-aspnet-version" => Self::TELLTALE,
                _ => lookalike(name),
            },
            17 => match name {
                "transfer-encoding" => Self::TRANSFER_ENCODING,
                "x-forwarded-proto" => Self::X_FORWARDED_PROTO,
                _ => lookalike(name),
            },
            18 if name == "proxy-authenticate" => Self::PROXY_AUTHENTICATE,
            19 => match name {
                "proxy-authorization" => Self::ASKED_OF_US,
                "meridian-tunnel-end" => Self::INSIDE,
                "x-aspnetmvc-version" => Self::TELLTALE,
                _ => Self(0),
            },
            23 if name == "meridian-tunnel-backend" => Self::INSIDE,
            _ => Self(0),
        }
    }
}

/// Whether a name with `_` would be one of those that tell who the client is, if it were spelled with `-`.
fn lookalike(name: &str) -> Fields {
    const TELL: [&str; 6] = [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
    ];
    let same = |(own, told): (u8, u8)| own == told || (own == b'_' && told == b'-');
    let is_like = |told: &str| told.len() == name.len() && name.bytes().zip(told.bytes()).all(same);
    if name.contains('_') && TELL.iter().any(|told| is_like(told)) { Fields::LOOKALIKE } else { Fields(0) }
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::config::model::Telltale;
    use crate::proxy::tunnel::near;

    fn of(name: &str) -> Fields {
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("x"));
        headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("x"));
        Fields::of(&headers)
    }

    #[test]
    fn every_name_is_found_in_any_case_and_no_other() {
        for (name, fields) in [
            ("Connection", Fields::CONNECTION),
            ("Keep-Alive", Fields::KEEP_ALIVE),
            ("Proxy-Connection", Fields::KEEP_ALIVE),
            ("Transfer-Encoding", Fields::TRANSFER_ENCODING),
            ("Upgrade", Fields::UPGRADE),
            ("TE", Fields::TE),
            ("Proxy", Fields::ASKED_OF_US),
            ("Proxy-Authorization", Fields::ASKED_OF_US),
            ("Expect", Fields::ASKED_OF_US),
            ("Proxy-Authenticate", Fields::PROXY_AUTHENTICATE),
            ("Cookie", Fields::COOKIE),
            ("Set-Cookie", Fields::SET_COOKIE),
            ("X-Request-Id", Fields::X_REQUEST_ID),
            ("Traceparent", Fields::TRACEPARENT),
            ("Forwarded", Fields::FORWARDED),
            ("X-Forwarded-For", Fields::FORWARDED),
            ("X-Forwarded-Host", Fields::FORWARDED_ONE),
            ("X-Forwarded-Port", Fields::FORWARDED_ONE),
            ("X-Real-IP", Fields::FORWARDED_ONE),
            ("X-Forwarded-Proto", Fields::X_FORWARDED_PROTO),
            ("X_Forwarded_For", Fields::LOOKALIKE),
            ("X-Forwarded_Host", Fields::LOOKALIKE),
            ("X_Forwarded-Proto", Fields::LOOKALIKE),
            ("x_real_ip", Fields::LOOKALIKE),
            ("Location", Fields::LOCATION),
            ("Content-Location", Fields::LOCATION),
            ("Content-Type", Fields::CONTENT_TYPE),
            ("Server", Fields::SERVER),
            ("CDN-Loop", Fields::CDN_LOOP),
            ("X-Forwarded-Foo", Fields(0)),
            ("X_Forwarded_Foo", Fields(0)),
            ("Content-Length", Fields(0)),
        ] {
            assert_eq!(of(name), fields, "{name}");
        }
        assert!(of(near::BACKEND.as_str()).any(Fields::INSIDE) && of(near::END.as_str()).any(Fields::INSIDE));
    }

    #[test]
    fn every_telltale_is_found() {
        for telltale in Telltale::ALL {
            let fields = of(telltale.name());
            assert!(fields.any(Fields::SERVER) || fields.any(Fields::TELLTALE), "{}", telltale.name());
        }
    }
}
