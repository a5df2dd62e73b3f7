//! Pipes through which bytes go from socket to socket inside the kernel (splice(2)).
//!
//! Only large pipes are worth it: through one of 1 MiB a GiB takes about half the CPU of copying, through the usual 64 KiB
//! it takes as much. The system lets a user without privileges have a few of them; without one, bytes are copied.
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe holds, which is the system's usual limit for users without privileges.
const BYTES: usize = 1 << 20;
/// Pipes of one worker at once, in use or not: what waits in them counts as this worker's buffers.
const MOST: usize = 32;

/// A pipe of this thread. It is empty, or its bytes are known to whoever holds it.
#[derive(Debug)]
pub(super) struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
}

/// The pipes of one thread.
#[derive(Default)]
struct Pipes {
    idle: Vec<Pipe>,
    /// Those in use.
    lent: usize,
    /// The system gives no more.
    refused: bool,
}

thread_local! {
    static PIPES: RefCell<Pipes> = RefCell::default();
}

/// A pipe for a while; the thread gets it back when it is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    pipe: Option<Pipe>,
    /// Bytes in it.
    holds: usize,
}

impl Lent {
    /// An empty pipe, if this thread may have one more.
    pub(super) fn take() -> Option<Self> {
        PIPES.with_borrow_mut(|pipes| {
            let pipe = match pipes.idle.pop() {
                Some(pipe) => pipe,
                None if pipes.lent >= MOST || pipes.refused => return None,
                None => match Pipe::open() {
                    Ok(pipe) => pipe,
                    Err(error) => {
                        // Some were opened before: they come back. Without any there is no point in asking each time.
                        pipes.refused = pipes.lent == 0;
                        tracing::debug!(%error, "no large pipe; bytes are copied");
                        return None;
                    }
                },
            };
            pipes.lent += 1;
            Some(Self { pipe: Some(pipe), holds: 0 })
        })
    }

    /// How many bytes wait in it.
    pub(super) fn holds(&self) -> usize {
        self.holds
    }

    /// Moves bytes from a socket into the pipe, which must be empty; 0 at the socket's end.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let moved = splice(from, None, &pipe.input, None, BYTES, FLAGS)?;
        self.holds += moved;
        Ok(moved)
    }

    /// Moves what waits on into a socket.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let moved = splice(&pipe.output, None, to, None, self.holds, FLAGS)?;
        self.holds -= moved;
        Ok(moved)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Drop for Lent {
    fn drop(&mut self) {
        let pipe = self.pipe.take().filter(|_| self.holds == 0);
        // A thread that ends has no pipes any more.
        let _ = PIPES.try_with(|pipes| {
            let mut pipes = pipes.borrow_mut();
            pipes.lent -= 1;
            // One with bytes of a broken connection in it is nobody's any more.
            pipes.idle.extend(pipe);
        });
    }
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&input, BYTES)?;
        Ok(Self { output, input })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn bytes_go_from_socket_to_socket_and_a_used_pipe_is_lent_again() {
        let Some(mut pipe) = Lent::take() else { return };
        let ((mut client, front), (back, mut server)) = (sockets(), sockets());
        client.write_all(b"hello").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        front.peek(&mut [0]).unwrap();
        assert_eq!(pipe.fill(&front).unwrap(), 5);
        assert_eq!((pipe.drain(&back).unwrap(), pipe.holds()), (5, 0));
        let mut heard = [0; 5];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        while !matches!(pipe.fill(&front), Ok(0)) {}
        drop(pipe);
        PIPES.with_borrow(|pipes| assert_eq!((pipes.lent, pipes.idle.len()), (0, 1)));
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_lent_again_and_they_are_bounded() {
        let Some(mut pipe) = Lent::take() else { return };
        let (mut client, front) = sockets();
        client.write_all(b"left").unwrap();
        front.peek(&mut [0]).unwrap();
        pipe.fill(&front).unwrap();
        drop(pipe);
        PIPES.with_borrow(|pipes| assert_eq!((pipes.lent, pipes.idle.len()), (0, 0)));
        let lent: Vec<Lent> = std::iter::from_fn(Lent::take).collect();
        assert!(lent.len() <= MOST);
    }
}
