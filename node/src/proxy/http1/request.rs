//! The head of a request as HTTP/1.1 writes it (RFC 9112 §3, §6.2; pure).
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderName, Method};

use crate::proxy::added::Added;

/// Appends the head of a request whose body has so many bytes: its target in origin form, its fields and the added ones, and
/// the one length.
/// What the head itself says of the body's length is not passed on, so that nobody can be made to read it otherwise.
pub(super) fn encode(head: &Parts, added: &Added, body_bytes: usize, out: &mut Vec<u8>) {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut tells_length = body_bytes > 0 || expects_content(&head.method);
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            tells_length = true;
        } else if *name != TRANSFER_ENCODING {
            write_field(out, name, value.as_bytes());
        }
    }
    added.write(out);
    if tells_length {
        write_field(out, &CONTENT_LENGTH, body_bytes.to_string().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends one field.
pub(in crate::proxy) fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Whether a request without content says so (RFC 9110 §8.6).
fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn encoded(request: http::request::Builder, body_bytes: usize) -> String {
        let mut out = Vec::new();
        encode(&request.body(()).unwrap().into_parts().0, &Added::default(), body_bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_head_in_origin_form() {
        let get = Request::get("/cart?item=7")
            .header("host", "a.example")
            .header("x-two", "1")
            .header("x-two", "2");
        assert_eq!(
            encoded(get, 0),
            "GET /cart?item=7 HTTP/1.1\r\nhost: a.example\r\nx-two: 1\r\nx-two: 2\r\n\r\n"
        );
        assert_eq!(encoded(Request::options("*"), 0), "OPTIONS * HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn the_length_is_told_once_and_is_the_bodys() {
        let lies = || Request::get("/").header("content-length", "7").header("content-length", "8");
        assert_eq!(encoded(lies(), 0), "GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(encoded(lies(), 12), "GET / HTTP/1.1\r\ncontent-length: 12\r\n\r\n");
        let chunked = Request::get("/").header("transfer-encoding", "chunked");
        assert_eq!(encoded(chunked, 0), "GET / HTTP/1.1\r\n\r\n");
        assert_eq!(encoded(Request::post("/"), 0), "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
    }

    proptest! {
        #[test]
        fn a_strict_reader_understands_it(
            fields in prop::collection::vec(("[a-z][a-z0-9-]{0,12}", "[!-~]{1,20}"), 0..20),
            body_bytes in 0usize..100_000,
        ) {
            let mut request = Request::put("/a/b?c");
            for (name, value) in &fields {
                request = request.header(name, value);
            }
            let text = encoded(request, body_bytes);
            let mut lines = [httparse::EMPTY_HEADER; 32];
            let mut read = httparse::Request::new(&mut lines);
            prop_assert_eq!(read.parse(text.as_bytes()), Ok(httparse::Status::Complete(text.len())));
            let lengths = read.headers.iter().filter(|line| line.name == "content-length");
            let lengths: Vec<_> = lengths.map(|line| line.value).collect();
            let told = body_bytes.to_string();
            prop_assert_eq!(lengths, vec![told.as_bytes()]);
        }
    }
}
