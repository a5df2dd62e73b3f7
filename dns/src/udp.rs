//! DNS over UDP: one plain thread a socket, many sockets a port.
//!
//! A worker owns its socket. It reads what has come (up to [`BATCH`](crate::mmsg::BATCH) datagrams a system call),
//! answers each in turn and sends all answers with one more call. While queries come it sleeps in the reading call itself, so
//! that a pause between two of them costs no call more; after a longer one in `poll`, on its socket and the server's stop
//! descriptor. It queues nothing: when it is too slow the kernel's receive buffer fills and drops, and resolvers ask again.
//! Nothing is allocated and no lock taken between two batches.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::mmsg::{self, Batch, Patience};
use crate::moment::{Clock, Watch};
use crate::responder::{Clerk, Transport, Verdict};

/// The longest pause that is slept through in the reading call, which does not see the stop descriptor; and the time between two
/// looks at that while no pause is longer.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Worker {
    socket: UdpSocket,
    clerk: Clerk,
    watch: Watch,
    stop: Arc<OwnedFd>,
}

impl Worker {
    pub(crate) fn new(socket: UdpSocket, clerk: Clerk, clock: Clock, stop: Arc<OwnedFd>) -> io::Result<Self> {
        mmsg::prepare(&socket, PAUSE)?;
        Ok(Self { socket, clerk, watch: Watch::new(clock), stop })
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
        let mut patience = Patience::None;
        // When the stop descriptor was looked at last; `None`: it is time to.
        let mut looked = None;
        loop {
            let is_quiet = patience == Patience::None;
            if (is_quiet || looked.is_none()) && !self.wait(!is_quiet) {
                return;
            }
            let received = batch.receive(&self.socket, patience);
            patience = if received.is_ok() { Patience::ForOne } else { Patience::None };
            if let Err(error) = received {
                // What is told of the socket (an earlier answer could not be delivered) and interruptions end here too.
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(%error, "cannot receive DNS queries");
                }
                continue;
            }
            let now = self.watch.now();
            let since = *looked.get_or_insert(now.monotonic);
            if now.monotonic.saturating_duration_since(since) >= PAUSE {
                looked = None;
            }
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
