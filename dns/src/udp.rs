//! DNS over UDP: one plain thread a socket, many sockets a port.
//!
//! A worker owns its socket. It reads what has come (up to [`BATCH`](crate::mmsg::BATCH) datagrams a system call),
//! answers each in turn, sends all answers with one more call, and sleeps in `poll` on its socket and the server's stop
//! descriptor when nothing is left. It queues nothing: when it is too slow the kernel's receive buffer fills and drops,
//! and resolvers ask again. Nothing is allocated and no lock taken between two batches.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::mmsg::{self, Batch};
use crate::moment::Clock;
use crate::responder::{Clerk, Transport, Verdict};

/// Batches between two looks at the stop descriptor while a flood leaves no pause.
const BATCHES_A_LOOK: u32 = 64;

pub(crate) struct Worker {
    socket: UdpSocket,
    clerk: Clerk,
    clock: Clock,
    stop: Arc<OwnedFd>,
}

impl Worker {
    pub(crate) fn new(socket: UdpSocket, clerk: Clerk, clock: Clock, stop: Arc<OwnedFd>) -> io::Result<Self> {
        mmsg::prepare(&socket)?;
        Ok(Self { socket, clerk, clock, stop })
    }

    /// Answers until the stop descriptor is readable. A panic, which is a bug, costs one batch and not the thread; of
    /// many the log hears of the first, second, fourth and so on.
    pub(crate) fn run(mut self) {
        while std::panic::catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            let panics = self.clerk.tally().panic();
            if panics.is_power_of_two() {
                tracing::error!(panics, "a DNS thread panicked and goes on; this is a bug, please report it");
            }
        }
    }

    fn serve(&mut self) {
        let mut batch = Batch::new();
        let mut unseen = 0;
        let mut busy = false;
        loop {
            // While there is more than one at a time, the next ones are likely to be there already.
            let look = !busy || unseen >= BATCHES_A_LOOK;
            if look && !self.wait(busy) {
                return;
            }
            unseen = if look { 0 } else { unseen + 1 };
            busy = match batch.receive(&self.socket) {
                Ok(received) => received > 1,
                Err(error) => {
                    // Errors of earlier answers (port unreachable) and interruptions end here too.
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!(%error, "cannot receive DNS queries");
                    }
                    busy = false;
                    continue;
                }
            };
            let now = (self.clock)();
            for datagram in batch.datagrams() {
                let verdict =
                    self.clerk.respond(datagram.query, datagram.from, Transport::Udp, now, datagram.reply);
                debug_assert_eq!(verdict == Verdict::Drop, datagram.reply.is_empty());
            }
            let lost = batch.send(&self.socket);
            if lost > 0 {
                tracing::debug!(lost, "cannot send DNS answers");
            }
        }
    }

    /// Sleeps until there is something to read, or only looks; false when the server stops.
    fn wait(&self, only_look: bool) -> bool {
        let mut descriptors =
            [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&*self.stop, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut descriptors, only_look.then_some(&at_once)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => descriptors[1].revents().is_empty(),
            Err(error) => {
                tracing::error!(%error, "cannot wait for DNS queries; the thread ends");
                false
            }
        }
    }
}
