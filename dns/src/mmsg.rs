//! Many datagrams a system call: recvmmsg(2) and sendmmsg(2), and the address each was sent to.
//!
//! The only file with `unsafe`: no safe interface has both calls together with the control message that tells which of
//! a wildcard socket's addresses was asked (PKTINFO), which the answer must leave from. Every pointer given to the
//! kernel is to memory that a [`Batch`] owns and that lives through the call.

#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and their control messages")]

use std::io;
use std::mem::{offset_of, size_of};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::time::Duration;

use libc::{c_int, c_uint, c_void, iovec, mmsghdr};

/// Datagrams a system call. More gain nothing measurable, and each waits for those before it.
pub(crate) const BATCH: usize = 32;
/// The longest query that is read; a longer one is cut and so a form error. Not a whole number of pages: the buffers stand behind each
/// other, and the first lines of all of them would share one set of the cache.
const QUERY_BYTES: usize = 4096 + 192;
/// Room for the longest answer, so that it never grows.
const REPLY_BYTES: usize = 1280;

/// Room for the larger of the two PKTINFO messages, aligned as the kernel wants it.
type Control = [u64; 6];

/// Datagrams that came together, and the answers to them.
pub(crate) struct Batch {
    /// Reached by this pointer alone, for its headers point into it.
    places: NonNull<Places>,
    replies: Box<[Vec<u8>; BATCH]>,
    /// How many places hold a query.
    count: usize,
}

/// What to do while no datagram is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Return at once.
    None,
    /// Sleep until one comes, at most for the [time](prepare) the socket was given. Those behind it are not waited for.
    ForOne,
}

/// One query of a batch.
pub(crate) struct Datagram<'b> {
    pub(crate) query: &'b [u8],
    pub(crate) from: SocketAddr,
    /// The answer; left empty there is none.
    pub(crate) reply: &'b mut Vec<u8>,
}

/// What the kernel reads and writes, one place a datagram. Made ready once: a call costs what it brings, not what it might
/// have brought.
#[repr(C, align(64))]
struct Places {
    /// Each points to its vector, sender and control message. Of the header the kernel changes the lengths of the last two, its flags
    /// and how long the datagram is.
    incoming: [mmsghdr; BATCH],
    /// The first ones stand for the answers that go, and point to the senders and control messages of their queries.
    outgoing: [mmsghdr; BATCH],
    /// Each points to its query.
    reads: [iovec; BATCH],
    writes: [iovec; BATCH],
    peers: [Peer; BATCH],
    controls: [Control; BATCH],
    queries: [[u8; QUERY_BYTES]; BATCH],
}

/// A sender as the kernel writes it, and reads it again.
#[repr(C)]
union Peer {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Batch {
    pub(crate) fn new() -> Self {
        // SAFETY: all zeroes are valid: null pointers, numbers, and an address of no family.
        let places = unsafe { Box::<Places>::new_zeroed().assume_init() };
        let places = NonNull::from(Box::leak(places));
        let at = places.as_ptr();
        for place in 0..BATCH {
            // SAFETY: the places live as long as the batch, and nothing else points to them yet.
            unsafe {
                let read = &raw mut (*at).reads[place];
                (*read).iov_base = (&raw mut (*at).queries[place]).cast();
                (*read).iov_len = QUERY_BYTES;
                let header = &raw mut (*at).incoming[place].msg_hdr;
                (*header).msg_name = (&raw mut (*at).peers[place]).cast();
                (*header).msg_control = (&raw mut (*at).controls[place]).cast();
                (*header).msg_iov = read;
                (*header).msg_iovlen = 1;
                let header = &raw mut (*at).outgoing[place].msg_hdr;
                (*header).msg_iov = &raw mut (*at).writes[place];
                (*header).msg_iovlen = 1;
            }
        }
        let replies = Box::new(std::array::from_fn(|_| Vec::with_capacity(REPLY_BYTES)));
        // All of them are to be offered.
        let mut batch = Self { places, replies, count: BATCH };
        batch.offer();
        batch
    }

    /// Empties the places of the last call.
    fn offer(&mut self) {
        let at = self.places.as_ptr();
        for place in 0..self.count {
            // SAFETY: the places are this batch's own, and no datagram of them is borrowed.
            let header = unsafe { &mut (*at).incoming[place].msg_hdr };
            header.msg_namelen = size_of::<Peer>() as libc::socklen_t;
            header.msg_controllen = size_of::<Control>() as _;
        }
        self.count = 0;
    }

    /// Reads what has come. Returns how many datagrams there are; an error tells of none (`WouldBlock`) or of the
    /// socket.
    pub(crate) fn receive(&mut self, socket: &UdpSocket, patience: Patience) -> io::Result<usize> {
        self.offer();
        let flags = match patience {
            Patience::None => libc::MSG_DONTWAIT,
            Patience::ForOne => libc::MSG_WAITFORONE,
        };
        // SAFETY: each header points to a vector, a query, a sender and a control message of these places, with their
        // lengths; they outlive the call.
        let received = unsafe {
            let headers = (&raw mut (*self.places.as_ptr()).incoming).cast();
            libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as c_uint, flags, ptr::null_mut())
        };
        self.count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?.min(BATCH);
        Ok(self.count)
    }

    /// The datagrams read last. Those whose sender cannot be read or reached are left out.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let places = self.places.as_ptr();
        let replies = self.replies.iter_mut().take(self.count).enumerate();
        replies.filter_map(move |(place, reply)| {
            reply.clear();
            // SAFETY: the kernel is done with the places, and `self` is borrowed for as long as the datagrams are.
            let (header, peer, query) =
                unsafe { (&(*places).incoming[place], &(*places).peers[place], &(*places).queries[place]) };
            let from = peer.address(header.msg_hdr.msg_namelen).filter(|from| from.port() != 0)?;
            let query = query.get(..header.msg_len as usize)?;
            Some(Datagram { query, from, reply })
        })
    }

    /// Sends all answers that are not empty, without waiting. Returns how many could not be sent: the network might have
    /// lost them too, and who asked will ask again.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> usize {
        let places = self.places.as_ptr();
        let answered = self.replies.iter_mut().take(self.count).enumerate();
        let mut count = 0;
        for (place, reply) in answered.filter(|(_, reply)| !reply.is_empty()) {
            // SAFETY: the places are this batch's own, and no datagram of them is borrowed; `incoming`, `outgoing` and
            // `writes` lie apart.
            let (asked, header, write) = unsafe {
                let Places { incoming, outgoing, writes, .. } = &mut *places;
                (&incoming[place].msg_hdr, &mut outgoing[count].msg_hdr, &mut writes[count])
            };
            *write = iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
            header.msg_name = asked.msg_name;
            header.msg_namelen = asked.msg_namelen;
            header.msg_control = asked.msg_control;
            header.msg_controllen = leave_from(asked) as _;
            count += 1;
        }
        let (mut sent, mut lost) = (0, 0);
        while sent + lost < count {
            let from = sent + lost;
            // SAFETY: the first `count` headers were written above and point to vectors, answers, addresses and control messages
            // that outlive the call; the kernel reads them only, but for the lengths it notes in the headers.
            let now = unsafe {
                let first = (&raw mut (*places).outgoing).cast::<mmsghdr>().add(from);
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

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: they come from a box, and nothing points to them any more.
        drop(unsafe { Box::from_raw(self.places.as_ptr()) });
    }
}

/// Turns "was sent to" into "leaves from", in place, and returns how long the message is; zero when there is none.
fn leave_from(header: &libc::msghdr) -> usize {
    // SAFETY: the kernel filled the control buffer of `header`, which its batch still owns, and CMSG_FIRSTHDR checks
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

impl Peer {
    /// The address, of which so many bytes were written.
    fn address(&self, bytes: libc::socklen_t) -> Option<SocketAddr> {
        // SAFETY: any address begins with its family, which says which of them it is; the others' bytes are numbers too.
        unsafe {
            match c_int::from(self.family) {
                libc::AF_INET if bytes as usize >= size_of::<libc::sockaddr_in>() => {
                    let address = u32::from_be(self.v4.sin_addr.s_addr);
                    Some(SocketAddrV4::new(address.into(), u16::from_be(self.v4.sin_port)).into())
                }
                libc::AF_INET6 if bytes as usize >= size_of::<libc::sockaddr_in6>() => {
                    let libc::sockaddr_in6 { sin6_addr, sin6_port, sin6_flowinfo, sin6_scope_id, .. } =
                        self.v6;
                    let (address, port) = (sin6_addr.s6_addr.into(), u16::from_be(sin6_port));
                    Some(SocketAddrV6::new(address, port, sin6_flowinfo, sin6_scope_id).into())
                }
                _ => None,
            }
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
