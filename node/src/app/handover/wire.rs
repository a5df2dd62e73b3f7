//! Words and descriptors over a pair of Unix sockets that keep the borders of messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Descriptors in one message; the kernel takes at most 253.
pub(super) const DESCRIPTORS_MAX: usize = 64;
/// The longest word.
const WORD_MAX_BYTES: usize = 4096;

/// One end.
#[derive(Debug)]
pub(crate) struct Line(OwnedFd);

/// Why nothing was heard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the other process has ended")]
    Ended,
    #[error("it says nothing in time")]
    Silent,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Line {
    /// Two ends, both closed on exec.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// The end that is this process's standard input.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn of_stdin() -> io::Result<Self> {
        let line = Self(io::stdin().as_fd().try_clone_to_owned()?);
        rustix::net::getpeername(&line.0)?;
        Ok(line)
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Says a word, with descriptors.
    pub(crate) fn say(&self, word: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let word = word.get(..WORD_MAX_BYTES).unwrap_or(word);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        sendmsg(&self.0, &[IoSlice::new(word.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a word, and the descriptors that come with it.
    pub(crate) fn hear(&self, patience: Duration) -> Result<(String, Vec<OwnedFd>), WireError> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(patience)).map_err(io::Error::from)?;
        let mut word = [0; WORD_MAX_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut word)];
        let received = match recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN) => return Err(WireError::Silent),
            Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Ended),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        if received.bytes == 0 {
            return Err(WireError::Ended);
        }
        let rights = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let descriptors = rights.flatten().collect();
        Ok((String::from_utf8_lossy(&word[..received.bytes]).into_owned(), descriptors))
    }
}

impl From<Line> for OwnedFd {
    fn from(line: Line) -> Self {
        line.0
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn words_and_descriptors_arrive_together() {
        let (one, other) = Line::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        one.say("a pipe", &[writer.as_fd()]).unwrap();
        one.say("nothing", &[]).unwrap();
        drop(writer);
        let (word, mut descriptors) = other.hear(Duration::from_secs(5)).unwrap();
        assert_eq!((word.as_str(), descriptors.len()), ("a pipe", 1));
        let mut writer = std::fs::File::from(descriptors.remove(0));
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(other.hear(Duration::from_secs(5)).unwrap().0, "nothing");
    }

    #[test]
    fn silence_and_death_are_told_apart() {
        let (one, other) = Line::pair().unwrap();
        assert!(matches!(other.hear(Duration::from_millis(20)), Err(WireError::Silent)));
        drop(one);
        assert!(matches!(other.hear(Duration::from_secs(5)), Err(WireError::Ended)));
    }
}
