//! A body in chunks (RFC 9112 §7.1; pure). Extensions mean nothing here and are dropped, within a bound.
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::piece;

/// Bytes of the line that begins a chunk, at most.
const LINE_MAX_BYTES: usize = 4096;
/// Bytes of extensions in one body, at most.
const EXTENSIONS_MAX_BYTES: usize = 16 * 1024;
/// Bytes and fields of trailers, at most.
const TRAILERS_MAX_BYTES: usize = 16 * 1024;
const TRAILERS_MAX: usize = 64;

/// Reads chunks.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    at: At,
    extensions_bytes: usize,
}

/// What comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The size of a chunk.
    #[default]
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The end of a chunk's last line.
    DataEnd,
    /// The trailers and the end.
    Trailers,
    Over,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Some of the body.
    Data(Bytes),
    /// The end, with the fields that came after the body.
    End(Option<HeaderMap>),
    /// More bytes are needed.
    More,
}

/// The chunks are not well formed or beyond the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the body are malformed")]
pub(super) struct Malformed;

impl Chunked {
    /// The next of what the buffer holds, which is taken off it.
    pub(super) fn next(&mut self, buf: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self.at {
                At::Size => {
                    let Some(end) = memchr::memchr(b'\n', buf) else {
                        return if buf.len() < LINE_MAX_BYTES { Ok(Step::More) } else { Err(Malformed) };
                    };
                    let size = self.size(&buf[..end])?;
                    buf.advance(end + 1);
                    self.at = if size == 0 { At::Trailers } else { At::Data(size) };
                }
                At::Data(_) if buf.is_empty() => return Ok(Step::More),
                At::Data(left) => {
                    let data = piece(buf, left);
                    let left = left - data.len() as u64;
                    self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                    return Ok(Step::Data(data));
                }
                At::DataEnd if buf.len() < 2 => return Ok(Step::More),
                At::DataEnd => {
                    if !buf.starts_with(b"\r\n") {
                        return Err(Malformed);
                    }
                    buf.advance(2);
                    self.at = At::Size;
                }
                At::Trailers => {
                    let Some(trailers) = trailers(buf)? else { return Ok(Step::More) };
                    self.at = At::Over;
                    return Ok(Step::End((!trailers.is_empty()).then_some(trailers)));
                }
                At::Over => return Ok(Step::End(None)),
            }
        }
    }

    /// Reads `size [ext] CR`. Some servers pad the size with spaces.
    fn size(&mut self, line: &[u8]) -> Result<u64, Malformed> {
        let line = line.strip_suffix(b"\r").filter(|line| line.len() < LINE_MAX_BYTES).ok_or(Malformed)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, rest) = line.split_at(digits);
        let extension = rest.trim_ascii_start();
        if !extension.is_empty() {
            self.extensions_bytes += extension.len();
            let clean = extension.starts_with(b";") && !extension.contains(&b'\r');
            if !clean || self.extensions_bytes > EXTENSIONS_MAX_BYTES {
                return Err(Malformed);
            }
        }
        let digits = str::from_utf8(digits).map_err(|_| Malformed)?;
        u64::from_str_radix(digits, 16).map_err(|_| Malformed)
    }
}

fn trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let mut lines = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let (bytes, lines) = match httparse::parse_headers(buf, &mut lines) {
        Ok(httparse::Status::Complete(read)) => read,
        Ok(httparse::Status::Partial) if buf.len() < TRAILERS_MAX_BYTES => return Ok(None),
        Ok(_) | Err(_) => return Err(Malformed),
    };
    let mut trailers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| Malformed)?;
        trailers.append(name, HeaderValue::from_bytes(line.value).map_err(|_| Malformed)?);
    }
    buf.advance(bytes);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All of a body, given in pieces of so many bytes: its data, its trailers, and what is left over.
    fn read(text: &[u8], step: usize) -> Result<Option<(Vec<u8>, Option<HeaderMap>, Vec<u8>)>, Malformed> {
        let (mut chunked, mut buf, mut data) = (Chunked::default(), BytesMut::new(), Vec::new());
        let mut pieces = text.chunks(step.max(1));
        loop {
            match chunked.next(&mut buf)? {
                Step::Data(piece) => data.extend_from_slice(&piece),
                Step::End(trailers) => {
                    let left = buf.iter().copied().chain(pieces.flatten().copied()).collect();
                    return Ok(Some((data, trailers, left)));
                }
                Step::More => match pieces.next() {
                    Some(piece) => buf.extend_from_slice(piece),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn a_body_with_extensions_and_trailers() {
        let text = b"5;a=b\r\nhello\r\n1  \r\n!\r\n000\r\nGrpc-Status: 0\r\n\r\nHTTP";
        let (data, trailers, left) = read(text, 3).unwrap().unwrap();
        assert_eq!((&data[..], &left[..]), (&b"hello!"[..], &b"HTTP"[..]));
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    }

    #[test]
    fn what_is_refused() {
        let cases: [&[u8]; 9] = [
            b"\r\n",
            b"-1\r\n",
            b"0x5\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\r\nhelloX\r\n",
            b"11111111111111111\r\n",
            b"5 hello\r\n",
            b"5;a\rb\r\nhello\r\n",
            b"0\r\nbad trailer\r\n\r\n",
        ];
        for text in cases {
            assert_eq!(read(text, 1), Err(Malformed), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_means_nothing_has_bounds() {
        let endless = [b"5;", &[b'a'; LINE_MAX_BYTES][..]].concat();
        assert_eq!(read(&endless, 1000), Err(Malformed));
        let many = format!("1;{}\r\nx\r\n", "a".repeat(1000)).repeat(20);
        assert_eq!(read(many.as_bytes(), 1000), Err(Malformed));
        let trailers = format!("0\r\na: {}", "b".repeat(TRAILERS_MAX_BYTES));
        assert_eq!(read(trailers.as_bytes(), 1000), Err(Malformed));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(TRAILERS_MAX + 1));
        assert_eq!(read(trailers.as_bytes(), 1000), Err(Malformed));
    }

    proptest! {
        #[test]
        fn all_bytes_in_order(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 0..6),
            step in 1usize..5000,
        ) {
            let mut text = Vec::new();
            for piece in &pieces {
                text.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                text.extend_from_slice(piece);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let (data, trailers, left) = read(&text, step).unwrap().unwrap();
            prop_assert_eq!(data, pieces.concat());
            prop_assert!(trailers.is_none() && left.is_empty());
        }

        #[test]
        fn no_bytes_are_too_strange(text in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..20) {
            let _ = read(&text, step);
        }
    }
}
