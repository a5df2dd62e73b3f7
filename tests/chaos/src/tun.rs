//! A TUN device: packets of a network namespace as bytes. The only file with `unsafe`: attaching to the device is an ioctl
//! that no safe interface has.
#![allow(unsafe_code, reason = "the ioctl that attaches to a TUN device")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};

/// Whole IP packets, without a header before them.
const FLAGS: i16 = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;

/// As the kernel's `struct ifreq`.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

/// A device; it goes when this is dropped, in whichever namespace it is by then.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
}

impl Tun {
    /// Makes one of this name, at most 15 bytes. Needs root.
    pub fn make(name: &str) -> Result<Self> {
        ensure!(name.len() < libc::IFNAMSIZ, "{name} is too long for a device");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        let file = file.context("opening /dev/net/tun")?;
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags: FLAGS, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the file is open, and the kernel reads and writes one `ifreq`, which is 40 bytes as `Request` is.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        ensure!(done == 0, "making {name}: {}", std::io::Error::last_os_error());
        Ok(Self { file, name: name.to_owned() })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next packet, when one waits.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        (&self.file).read(buffer).ok().filter(|length| *length > 0)
    }

    /// Gives a packet to the namespace; one that it has no room for is lost, as on any wire.
    pub fn send(&self, packet: &[u8]) {
        let _ = (&self.file).write(packet);
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
