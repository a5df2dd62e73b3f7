//! A request's id and its place in a trace (pure): X-Request-Id, and traceparent (W3C Trace Context, §3.2).
//!
//! What a trusted peer says passes. For all others both are made here from one random number, so that a request's id is its
//! trace's id. A trace that begins here is not sampled, which is the default of whoever begins one and records nothing
//! itself (§3.2.2.5).
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::fields::Fields;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const ID_MAX_BYTES: usize = 128;
/// Version, trace, parent and flags of version 00; later versions may be longer.
const TRACEPARENT_BYTES: usize = 55;
const TRACEPARENT_MAX_BYTES: usize = 256;

/// The id of a request, and the trace it begins unless it goes on with its peer's.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    /// A trusted peer's.
    given: Option<HeaderValue>,
    begins: bool,
    /// A traceparent; its trace is the id where none is given.
    made: [u8; TRACEPARENT_BYTES],
}

impl Trace {
    /// A request's, made of `random` (trace) and `span` where the peer says nothing or is not believed.
    pub(super) fn of(headers: &HeaderMap, fields: Fields, trusted: bool, random: u128, span: u64) -> Self {
        let given = |field: Fields, name: &HeaderName| {
            if trusted && fields.any(field) { headers.get(name) } else { None }
        };
        let id = given(Fields::X_REQUEST_ID, &X_REQUEST_ID).filter(|id| is_id(id.as_bytes()));
        let goes_on =
            given(Fields::TRACEPARENT, &TRACEPARENT).is_some_and(|parent| is_traceparent(parent.as_bytes()));
        let mut made = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut made[3..35], &random.to_be_bytes());
        // An id of zeroes is invalid.
        write_hex(&mut made[36..52], &(span | 1).to_be_bytes());
        Self { given: id.cloned(), begins: !goes_on, made }
    }

    /// The request's id.
    pub(super) fn id(&self) -> &[u8] {
        self.given.as_ref().map_or(&self.made[3..35], HeaderValue::as_bytes)
    }

    /// The request's id as a field has it.
    pub(super) fn to_value(&self) -> HeaderValue {
        self.given.clone().unwrap_or_else(|| value(self.id()))
    }

    /// Removes from a request what is not to be told to a backend as it came.
    pub(super) fn replace(&self, headers: &mut HeaderMap, fields: Fields) {
        if fields.any(Fields::X_REQUEST_ID) {
            headers.remove(X_REQUEST_ID);
        }
        if self.begins && fields.any(Fields::TRACEPARENT) {
            headers.remove(TRACEPARENT);
        }
    }

    /// The fields that a backend is told by.
    pub(super) fn fields(&self) -> impl Iterator<Item = (HeaderName, &[u8])> {
        let begun = self.begins.then_some((TRACEPARENT, &self.made[..]));
        [(X_REQUEST_ID, self.id())].into_iter().chain(begun)
    }
}

fn value(bytes: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(bytes).unwrap_or(HeaderValue::from_static("0"))
}

/// Every byte in two digits.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut all = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        all[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    all
};

fn write_hex(text: &mut [u8], bytes: &[u8]) {
    let (pairs, _) = text.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = HEX[usize::from(*byte)];
    }
}

/// A short visible string.
fn is_id(id: &[u8]) -> bool {
    (1..=ID_MAX_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn is_traceparent(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let known = text.get(..TRACEPARENT_BYTES).is_some_and(|text| {
        let (version, trace, parent, flags) = (&text[..2], &text[3..35], &text[36..52], &text[53..]);
        let dashes = [2, 35, 52].iter().all(|at| text[*at] == b'-');
        let zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
        dashes
            && [version, trace, parent, flags].into_iter().all(hex)
            && version != b"ff"
            && !zero(trace)
            && !zero(parent)
    });
    let rest = text.get(TRACEPARENT_BYTES..).unwrap_or_default();
    known
        && (rest.is_empty()
            || (!text.starts_with(b"00") && rest[0] == b'-' && text.len() <= TRACEPARENT_MAX_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::added::Added;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn told(lines: &[(&'static str, &str)], trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let fields = Fields::of(&headers);
        let trace = Trace::of(&headers, fields, trusted, 0xab, 0xcd);
        trace.replace(&mut headers, fields);
        Added { trace: Some(trace), ..Added::default() }.put_into(&mut headers);
        headers
    }

    #[test]
    fn both_are_made_and_belong_together() {
        let headers = told(&[], false);
        assert_eq!(headers[X_REQUEST_ID], "000000000000000000000000000000ab");
        assert_eq!(headers[TRACEPARENT], "00-000000000000000000000000000000ab-00000000000000cd-00");
        assert!(is_traceparent(headers[TRACEPARENT].as_bytes()));
    }

    #[test]
    fn a_trusted_peers_pass_and_a_strangers_do_not() {
        let given = [("x-request-id", "abc"), ("traceparent", PARENT)];
        let headers = told(&given, true);
        assert_eq!(headers[X_REQUEST_ID], "abc");
        assert_eq!(headers[TRACEPARENT], PARENT);
        let headers = told(&given, false);
        assert_ne!(headers[X_REQUEST_ID], "abc");
        assert_ne!(headers[TRACEPARENT], PARENT);
        let twice = [("traceparent", "00-x"), ("traceparent", PARENT)];
        assert_eq!(told(&twice, true).get_all(TRACEPARENT).iter().count(), 1);
    }

    #[test]
    fn what_is_no_id_and_what_is_no_traceparent() {
        for id in ["", "a b", &"x".repeat(129)] {
            assert_ne!(told(&[("x-request-id", id)], true)[X_REQUEST_ID], id);
        }
        let later = PARENT.replacen("00", "01", 1);
        for good in [PARENT, &later, &format!("{later}-more")] {
            assert!(is_traceparent(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-more"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.to_uppercase(),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace('-', "_"),
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }
}
