//! DNS over UDP: one plain thread a socket, many sockets a port.
//!
//! A worker owns its socket. It reads what has come (up to [`BATCH`] datagrams a system call), answers each in turn,
//! and sleeps in `poll` on its socket and the server's stop descriptor. It queues nothing: when it is too slow the
//! kernel's receive buffer fills and drops, and resolvers ask again.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, poll};

use crate::responder::{Responder, Transport, Verdict};
use crate::server::MonotonicClock;

/// Buffers a read. Each may hold several datagrams that the kernel joined (GRO), up to 64 KiB.
const BATCH: usize = 8;
const BUFFER_BYTES: usize = 64 * 1024;

pub(crate) struct Worker {
    socket: UdpSocket,
    io: UdpSocketState,
    /// True when the socket is bound to a wildcard, so that answers must be told which address to leave from.
    wildcard: bool,
    responder: Arc<Responder>,
    clock: MonotonicClock,
    stop: Arc<OwnedFd>,
}

impl Worker {
    pub(crate) fn new(
        socket: UdpSocket,
        responder: Arc<Responder>,
        clock: MonotonicClock,
        stop: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        let io = UdpSocketState::new((&socket).into())?;
        let wildcard = socket.local_addr()?.ip().is_unspecified();
        Ok(Self { socket, io, wildcard, responder, clock, stop })
    }

    /// Answers until the stop descriptor is readable. A panic, which is a bug, costs one batch and not the thread.
    pub(crate) fn run(self) {
        while std::panic::catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            tracing::error!("a DNS thread panicked and goes on");
        }
    }

    fn serve(&self) {
        let mut memory = vec![0u8; BATCH * BUFFER_BYTES];
        let mut metas = [RecvMeta::default(); BATCH];
        let mut out = Vec::with_capacity(1500);
        while self.wait() {
            // One batch between two looks at the stop descriptor, so that a flood cannot hold the thread.
            let mut slices = memory.chunks_mut(BUFFER_BYTES).map(IoSliceMut::new).collect::<Vec<_>>();
            let received = self.io.recv((&self.socket).into(), &mut slices, &mut metas);
            drop(slices);
            let received = match received {
                Ok(received) => received,
                Err(error) => {
                    // Errors of earlier answers (port unreachable) and interruptions end here too.
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!(%error, "cannot receive DNS queries");
                    }
                    continue;
                }
            };
            for (buffer, meta) in memory.chunks(BUFFER_BYTES).zip(&metas[..received]) {
                let datagrams = buffer.get(..meta.len).unwrap_or_default();
                for query in datagrams.chunks(meta.stride.max(1)) {
                    self.answer(query, meta.addr, meta.dst_ip, &mut out);
                }
            }
        }
    }

    /// Sleeps until there is something to read; false when the server stops.
    fn wait(&self) -> bool {
        let mut descriptors =
            [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&*self.stop, PollFlags::IN)];
        match poll(&mut descriptors, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => descriptors[1].revents().is_empty(),
            Err(error) => {
                tracing::error!(%error, "cannot wait for DNS queries; the thread ends");
                false
            }
        }
    }

    fn answer(&self, query: &[u8], from: SocketAddr, asked: Option<IpAddr>, out: &mut Vec<u8>) {
        // Nobody can be reached there; the sender is forged.
        if from.port() == 0 {
            return;
        }
        match self.responder.respond(query, from, Transport::Udp, (self.clock)(), out) {
            Verdict::Drop => {}
            Verdict::Reply(_) => {
                let transmit = Transmit {
                    destination: from,
                    ecn: None,
                    contents: out,
                    segment_size: None,
                    src_ip: asked.filter(|_| self.wildcard),
                };
                // A full send buffer loses the answer, as the network might; the resolver asks again.
                if let Err(error) = self.io.try_send((&self.socket).into(), &transmit) {
                    tracing::debug!(client.addr = %from, %error, "cannot send a DNS answer");
                }
            }
        }
    }
}
