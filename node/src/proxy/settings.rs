//! What an HTTP/2 backend announces in its first frame: whether it takes an extended CONNECT (RFC 8441 §3).
//!
//! hyper knows it too, but wakes nobody when it learns it. A server's first frame is its settings (RFC 9113 §3.4), so they are read on
//! their way to hyper, which judges them: what is no such frame announces nothing here.
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::io::InspectReader;

const FRAME_HEAD_BYTES: usize = 9;
const SETTING_BYTES: usize = 6;
const SETTINGS: u8 = 4;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// A backend's stream for hyper, and whether the backend takes an extended CONNECT; `None` until it has said so.
pub(super) fn announced(
    io: impl AsyncRead + AsyncWrite + Unpin,
) -> (impl AsyncRead + AsyncWrite + Unpin, watch::Receiver<Option<bool>>) {
    let (tell, told) = watch::channel(None);
    let mut first = Some(First::default());
    let io = InspectReader::new(io, move |bytes: &[u8]| {
        if let Some(connects) = first.as_mut().and_then(|first| first.read(bytes)) {
            tell.send_replace(Some(connects));
            first = None;
        }
    });
    (io, told)
}

/// Reads the first frame, however the reads cut it (pure).
#[derive(Debug, Default)]
struct First {
    held: [u8; FRAME_HEAD_BYTES],
    filled: usize,
    /// Bytes of the frame that are still to come; `None` until its head is complete.
    left: Option<usize>,
    connects: bool,
}

impl First {
    /// Reads on. Once the frame is complete: whether an extended CONNECT is taken.
    fn read(&mut self, bytes: &[u8]) -> Option<bool> {
        for byte in bytes {
            self.held[self.filled] = *byte;
            self.filled += 1;
            match self.left {
                None if self.filled == FRAME_HEAD_BYTES => {
                    let [a, b, c, kind, flags, ..] = self.held;
                    let length = u32::from_be_bytes([0, a, b, c]) as usize;
                    if kind != SETTINGS || flags != 0 || !length.is_multiple_of(SETTING_BYTES) {
                        return Some(false);
                    }
                    (self.left, self.filled) = (Some(length), 0);
                }
                Some(left) if self.filled == SETTING_BYTES => {
                    let [name @ .., a, b, c, d] = self.held.first_chunk::<SETTING_BYTES>()?;
                    if u16::from_be_bytes(*name) == ENABLE_CONNECT_PROTOCOL {
                        self.connects = u32::from_be_bytes([*a, *b, *c, *d]) == 1;
                    }
                    (self.left, self.filled) = (Some(left - SETTING_BYTES), 0);
                }
                _ => {}
            }
            if self.left == Some(0) {
                return Some(self.connects);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(of: &[(u16, u32)]) -> Vec<u8> {
        let mut frame = vec![0, 0, (of.len() * SETTING_BYTES) as u8, SETTINGS, 0, 0, 0, 0, 0];
        for (name, value) in of {
            frame.extend(name.to_be_bytes());
            frame.extend(value.to_be_bytes());
        }
        frame
    }

    #[test]
    fn a_backend_says_so_or_does_not() {
        let said = |of| First::default().read(&settings(of));
        assert_eq!(said(&[(8, 1)]), Some(true));
        assert_eq!(said(&[(3, 100), (8, 1), (4, 65535)]), Some(true));
        assert_eq!(said(&[(3, 100), (8, 0)]), Some(false));
        assert_eq!(said(&[(3, 1)]), Some(false));
        assert_eq!(said(&[]), Some(false));
    }

    #[test]
    fn what_is_no_first_frame_says_nothing() {
        assert_eq!(First::default().read(b"HTTP/1.1 400 Bad Request\r\n"), Some(false));
        let acknowledged = [0, 0, 0, SETTINGS, 1, 0, 0, 0, 0];
        assert_eq!(First::default().read(&acknowledged), Some(false));
        assert_eq!(First::default().read(&settings(&[(8, 1)])[..14]), None);
    }

    proptest! {
        #[test]
        fn however_the_reads_cut_it(cuts in prop::collection::vec(1usize..9, 0..40)) {
            let frame = settings(&[(1, 0), (8, 1), (3, 7)]);
            let (mut first, mut rest, mut said) = (First::default(), frame.as_slice(), None);
            for cut in cuts.into_iter().chain([frame.len()]) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                said = said.or(first.read(now));
                rest = later;
            }
            prop_assert_eq!(said, Some(true));
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = First::default().read(&bytes);
        }
    }
}
