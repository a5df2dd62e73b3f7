//! What the API says of EndpointSlices (`discovery.k8s.io/v1`), as far as it matters here. Lists are as long as they may be.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{ENDPOINTS_MAX, SLICES_MAX};

/// The API allows so many addresses of one endpoint, and so many ports of one slice.
const PARTS_MAX: usize = 100;

#[derive(Debug, Deserialize)]
pub(super) struct List {
    pub(super) metadata: ListMetadata,
    #[serde(deserialize_with = "first::<{ SLICES_MAX + 1 }, _, _>")]
    pub(super) items: Vec<Slice>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMetadata {
    pub(super) resource_version: String,
    /// Where the next chunk begins.
    #[serde(rename = "continue")]
    pub(super) more: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Change {
    #[serde(rename = "type")]
    pub(super) kind: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ChangeOf<T> {
    pub(super) object: T,
}

/// Any object, as far as its version.
#[derive(Debug, Deserialize)]
pub(super) struct Marked {
    pub(super) metadata: Mark,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mark {
    pub(super) resource_version: Option<String>,
}

/// `discovery.k8s.io/v1` EndpointSlice, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slice {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) address_type: String,
    #[serde(default, deserialize_with = "first::<{ ENDPOINTS_MAX + 1 }, _, _>")]
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "first::<PARTS_MAX, _, _>")]
    pub(super) ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    #[serde(default, deserialize_with = "first::<PARTS_MAX, _, _>")]
    pub(super) addresses: Vec<String>,
    pub(super) conditions: Option<Conditions>,
    pub(super) zone: Option<String>,
    pub(super) hints: Option<Hints>,
    pub(super) target_ref: Option<TargetRef>,
}

/// The object behind an endpoint.
#[derive(Debug, Deserialize)]
pub(super) struct TargetRef {
    pub(super) uid: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Conditions {
    pub(super) ready: Option<bool>,
    pub(super) serving: Option<bool>,
    pub(super) terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hints {
    #[serde(default, deserialize_with = "first::<PARTS_MAX, _, _>")]
    pub(super) for_zones: Vec<ForZone>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ForZone {
    pub(super) name: String,
}

/// The first so many of a list; the API writes an empty one as null. Three bytes of an answer may be an endpoint: without
/// a bound its memory would be fifty times its length.
fn first<'de, const MAX: usize, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    from.deserialize_option(First::<MAX, T>(PhantomData))
}

struct First<const MAX: usize, T>(PhantomData<T>);

impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for First<MAX, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_none<E>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Vec<T>, D::Error> {
        from.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < MAX {
            match list.next_element()? {
                Some(next) => kept.push(next),
                None => return Ok(kept),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept)
    }
}
