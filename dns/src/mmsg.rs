//! Many datagrams a system call: recvmmsg(2) and sendmmsg(2), and the address each was sent to.
//!
//! The only file with `unsafe`: no safe interface has both calls together with the control message that tells which of
//! a wildcard socket's addresses was asked (PKTINFO), which the answer must leave from. Every pointer given to the
//! kernel is to memory that a [`Batch`] owns and that lives through the call.

#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and their control messages")]

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of, zeroed};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uint, c_void};

/// Datagrams a system call. More gain nothing measurable, and each waits for those before it.
pub(crate) const BATCH: usize = 32;
/// Datagrams that there is always room for, however few came last.
const BATCH_LEAST: usize = 4;
/// The longest query that is read; a longer one is cut and so a form error. Not a whole number of pages: the buffers stand behind each
/// other, and the first lines of all of them would share one set of the cache.
const QUERY_BYTES: usize = 4096 + 192;
/// Room for the longest answer, so that it never grows.
const REPLY_BYTES: usize = 1280;

/// Room for the larger of the two PKTINFO messages, aligned as the kernel wants it.
type Control = [u64; 6];

/// Datagrams that came together, and the answers to them.
pub(crate) struct Batch {
    queries: Box<[[u8; QUERY_BYTES]; BATCH]>,
    slots: Box<[Slot; BATCH]>,
    replies: Box<[Vec<u8>; BATCH]>,
    /// How many slots hold a query.
    count: usize,
    /// How many datagrams the next call may bring: twice what the last one did, for each slot costs its making.
    room: usize,
}

/// What to do while no datagram is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Return at once.
    None,
    /// Sleep until one comes, at most for the [time](prepare) the socket was given. Those behind it are not waited for.
    ForOne,
}

/// What belongs to one datagram.
#[derive(Clone, Copy)]
struct Slot {
    /// The sender, as the kernel wrote it and reads it again.
    peer: libc::sockaddr_storage,
    peer_bytes: libc::socklen_t,
    control: Control,
    control_bytes: usize,
    query_bytes: usize,
}

/// One query of a batch.
pub(crate) struct Datagram<'b> {
    pub(crate) query: &'b [u8],
    pub(crate) from: SocketAddr,
    /// The answer; left empty there is none.
    pub(crate) reply: &'b mut Vec<u8>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: all zeroes are a valid sockaddr_storage (of no family), and numbers otherwise.
        let slot: Slot = unsafe { zeroed() };
        Self {
            queries: Box::new([[0; QUERY_BYTES]; BATCH]),
            slots: Box::new([slot; BATCH]),
            replies: Box::new(std::array::from_fn(|_| Vec::with_capacity(REPLY_BYTES))),
            count: 0,
            room: BATCH,
        }
    }

    /// Reads what has come. Returns how many datagrams there are; an error tells of none (`WouldBlock`) or of the
    /// socket.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, patience: Patience) -> io::Result<usize> {
        self.count = 0;
        let flags = match patience {
            Patience::None => libc::MSG_DONTWAIT,
            Patience::ForOne => libc::MSG_WAITFORONE,
        };
        let mut vectors: [MaybeUninit<libc::iovec>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let mut headers: [MaybeUninit<libc::mmsghdr>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let places = self.queries.iter_mut().zip(self.slots.iter_mut()).take(self.room);
        let mut offered = 0;
        for ((query, slot), (vector, header)) in places.zip(vectors.iter_mut().zip(&mut headers)) {
            let vector =
                vector.write(libc::iovec { iov_base: query.as_mut_ptr().cast(), iov_len: QUERY_BYTES });
            slot.peer_bytes = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            slot.control_bytes = size_of::<Control>();
            header.write(message(vector, slot));
            offered += 1;
        }
        // SAFETY: the first `offered` headers were written above and point to vectors, buffers and slots that outlive the
        // call, with their lengths.
        let received = unsafe {
            let headers = headers.as_mut_ptr().cast::<libc::mmsghdr>();
            libc::recvmmsg(socket.as_raw_fd(), headers, offered as c_uint, flags, ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (header, slot) in headers.iter().zip(self.slots.iter_mut()).take(received) {
            // SAFETY: written above; the kernel only changed its numbers.
            let header = unsafe { header.assume_init_ref() };
            slot.query_bytes = (header.msg_len as usize).min(QUERY_BYTES);
            slot.peer_bytes = header.msg_hdr.msg_namelen;
            slot.control_bytes = leave_from(&header.msg_hdr);
        }
        self.count = received;
        self.room = (2 * received).clamp(BATCH_LEAST, BATCH);
        Ok(received)
    }

    /// The datagrams read last. Those whose sender cannot be read or reached are left out.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let places = self.queries.iter().zip(self.slots.iter()).zip(self.replies.iter_mut()).take(self.count);
        places.filter_map(|((query, slot), reply)| {
            reply.clear();
            let from = slot.address().filter(|from| from.port() != 0)?;
            Some(Datagram { query: query.get(..slot.query_bytes)?, from, reply })
        })
    }

    /// Sends all answers that are not empty, without waiting. Returns how many could not be sent: the network might have
    /// lost them too, and who asked will ask again.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> usize {
        let mut vectors: [MaybeUninit<libc::iovec>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let mut headers: [MaybeUninit<libc::mmsghdr>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        let answered = self.replies.iter_mut().zip(self.slots.iter_mut()).take(self.count);
        let answered = answered.filter(|(reply, _)| !reply.is_empty());
        let mut count = 0;
        for ((reply, slot), (vector, header)) in answered.zip(vectors.iter_mut().zip(&mut headers)) {
            let vector =
                vector.write(libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() });
            header.write(message(vector, slot));
            count += 1;
        }
        let (mut sent, mut lost) = (0, 0);
        while sent + lost < count {
            let from = sent + lost;
            // SAFETY: the first `count` headers were written above and point to vectors, answers and slots that outlive
            // the call; the kernel reads them only, but for the lengths it notes in the headers.
            let now = unsafe {
                let first = headers.as_mut_ptr().cast::<libc::mmsghdr>().add(from);
                libc::sendmmsg(socket.as_raw_fd(), first, (count - from) as c_uint, libc::MSG_DONTWAIT)
            };
            match usize::try_from(now) {
                Ok(now) if now > 0 => sent += now,
                // It tells of the first one only; the others may go.
                _ => lost += 1,
            }
        }
        lost
    }
}

fn message(vector: &mut libc::iovec, slot: &mut Slot) -> libc::mmsghdr {
    // SAFETY: all zeroes are a valid mmsghdr: null pointers of length zero.
    let mut header: libc::mmsghdr = unsafe { zeroed() };
    header.msg_hdr.msg_name = ptr::from_mut(&mut slot.peer).cast();
    header.msg_hdr.msg_namelen = slot.peer_bytes;
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    if slot.control_bytes > 0 {
        header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = slot.control_bytes as _;
    }
    header
}

/// Turns "was sent to" into "leaves from", in place, and returns how long the message is; zero when there is none.
fn leave_from(header: &libc::msghdr) -> usize {
    // SAFETY: the kernel filled the control buffer of `header`, which the slot still owns, and CMSG_FIRSTHDR checks
    // that a whole header is in it. The data of each kind lies within the length that is checked before.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(header);
        let Some(found) = first.as_ref() else { return 0 };
        let data: *mut c_void = libc::CMSG_DATA(first).cast();
        let (index, bytes) = match (found.cmsg_level, found.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                (offset_of!(libc::in_pktinfo, ipi_ifindex), size_of::<libc::in_pktinfo>())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                (offset_of!(libc::in6_pktinfo, ipi6_ifindex), size_of::<libc::in6_pktinfo>())
            }
            _ => return 0,
        };
        if found.cmsg_len < libc::CMSG_LEN(bytes as c_uint) as _ {
            return 0;
        }
        // Which interface it leaves by is the routes' choice, not that of where it came in.
        data.byte_add(index).cast::<c_int>().write_unaligned(0);
        libc::CMSG_SPACE(bytes as c_uint) as usize
    }
}

impl Slot {
    fn address(&self) -> Option<SocketAddr> {
        let peer = ptr::from_ref(&self.peer);
        match c_int::from(self.peer.ss_family) {
            libc::AF_INET if self.peer_bytes as usize >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: the storage is as large and aligned as any address, and its family says which it holds.
                let peer = unsafe { &*peer.cast::<libc::sockaddr_in>() };
                let address = u32::from_be(peer.sin_addr.s_addr);
                Some(SocketAddrV4::new(address.into(), u16::from_be(peer.sin_port)).into())
            }
            libc::AF_INET6 if self.peer_bytes as usize >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let peer = unsafe { &*peer.cast::<libc::sockaddr_in6>() };
                let (address, port) = (peer.sin6_addr.s6_addr.into(), u16::from_be(peer.sin6_port));
                Some(SocketAddrV6::new(address, port, peer.sin6_flowinfo, peer.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Prepares a socket: who waits for one datagram waits so long; each datagram tells the address it was sent to, when the socket is bound to a wildcard; and
/// answers go as large as the interface takes, whatever strangers say of the path's limit.
pub(crate) fn prepare(socket: &UdpSocket, patience: Duration) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(patience))?;
    let local = socket.local_addr()?;
    let (level, info, discover, omit) = match local {
        SocketAddr::V4(_) => {
            (libc::IPPROTO_IP, libc::IP_PKTINFO, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
        }
        SocketAddr::V6(_) => {
            let discover = libc::IPV6_MTU_DISCOVER;
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, discover, libc::IPV6_PMTUDISC_OMIT)
        }
    };
    if let Err(error) = set(socket, level, discover, omit) {
        tracing::debug!(%error, "answers follow the path's limit, as strangers tell it");
    }
    if local.ip().is_unspecified() { set(socket, level, info, 1) } else { Ok(()) }
}

fn set(socket: &UdpSocket, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let bytes = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the value is an int that outlives the call, and its length is given.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&value).cast(), bytes) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
