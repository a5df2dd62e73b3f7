//! A TUN device: packets as the kernel routes them, read and written as a file. The one file here with `unsafe`, for the
//! system call that attaches to a device (`TUNSETIFF`), which no library of this project has.

use std::fs::File;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::ioctl::{Setter, ioctl, opcode};

/// The size of `struct ifreq`.
const IFREQ_BYTES: usize = 40;
const IFNAMSIZ: usize = 16;
const TUN: u16 = 0x0001;
/// No header before each packet.
const NO_PI: u16 = 0x1000;

/// `struct ifreq`, as far as `TUNSETIFF` reads it.
#[repr(C)]
struct Request {
    name: [u8; IFNAMSIZ],
    flags: u16,
    rest: [u8; IFREQ_BYTES - IFNAMSIZ - 2],
}

/// Attaches to the TUN device of this name in the calling thread's network namespace, where it was made before.
///
/// # Errors
/// When there is no such device, or the caller may not have it.
pub(crate) fn attach(name: &str) -> Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun").context("opening /dev/net/tun")?;
    let mut request =
        Request { name: [0; IFNAMSIZ], flags: TUN | NO_PI, rest: [0; IFREQ_BYTES - IFNAMSIZ - 2] };
    for (to, from) in request.name.iter_mut().take(IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from;
    }
    const SET: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
    // SAFETY: the opcode is TUNSETIFF, which reads a whole `struct ifreq`: `Request` has its size and, in its fields, its
    // layout, and lives until the call returns.
    #[allow(unsafe_code, reason = "the system call that this file is for")]
    unsafe {
        ioctl(file.as_fd(), Setter::<SET, Request>::new(request)).context("TUNSETIFF")?;
    }
    Ok(file)
}
