//! The fields that this node adds to a request: who the client is, and the request's id (pure).
//!
//! A head that is written to a backend right away gets them as they are written; one that goes another way, as fields of
//! its own. Most go the first way, and putting six fields into a map only to read them out again costs more than the rest of
//! what is done with it.
use std::rc::Rc;

use http::header::{HeaderMap, HeaderValue};

use super::fields::Fields;
use super::forwarded::{self, Introduction};
use super::http1::write_field;
use super::trace::Trace;

/// Fields that are still to be added to a head, which has none of their names.
#[derive(Debug, Default)]
pub(super) struct Added {
    pub(super) introduction: Option<Rc<Introduction>>,
    pub(super) trace: Option<Trace>,
}

impl Added {
    /// What a request's head needs; what the peer said of the same is removed, or extended where the peer is trusted.
    pub(super) fn to(
        headers: &mut HeaderMap,
        fields: Fields,
        introduction: &Rc<Introduction>,
        trace: &Trace,
        trusted: bool,
    ) -> Self {
        forwarded::remove_lookalikes(headers, fields);
        let introduction = match trusted {
            true => {
                introduction.extend(headers);
                None
            }
            false => {
                forwarded::remove_forged(headers, fields);
                Some(introduction.clone())
            }
        };
        trace.replace(headers, fields);
        Self { introduction, trace: Some(trace.clone()) }
    }

    /// Writes them as HTTP/1.1 does.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if let Some(introduction) = &self.introduction {
            out.extend_from_slice(introduction.lines());
        }
        if let Some(trace) = &self.trace {
            trace.fields().for_each(|(name, value)| write_field(out, &name, value));
        }
    }

    /// Adds them as fields of the head.
    pub(super) fn put_into(self, headers: &mut HeaderMap) {
        if let Some(introduction) = &self.introduction {
            headers.extend(introduction.fields().map(|(name, value)| (name, value.clone())));
        }
        if let Some(trace) = &self.trace {
            let value = |value| HeaderValue::from_bytes(value).ok();
            headers.extend(trace.fields().filter_map(|(name, text)| Some((name, value(text)?))));
        }
    }
}
