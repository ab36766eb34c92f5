//! What a loop device lies on, as the kernel knows it. The path in /sys tells less: it may lead nowhere (the file was
//! removed, or lies in another mount namespace), or to another file by now.

#![expect(unsafe_code, reason = "no crate wraps LOOP_GET_STATUS64")]

use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::Errno;

/// `LOOP_GET_STATUS64` of linux/loop.h.
const GET_STATUS: libc::Ioctl = 0x4c05;
/// 64-bit words of a `struct loop_info64`: device, inode, device number if it is one, offset, size limit, and 24 that
/// are not looked at (numbers, flags, names, a key).
const STATUS_WORDS: usize = 29;

/// What a loop device lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Device and inode numbers of the file.
    pub file: (u64, u64),
    /// Its own device number, if it is a block device.
    pub device: Option<u64>,
    /// Where in it the loop device begins, in bytes.
    pub offset: u64,
}

/// What an open loop device lies on; ENXIO if nothing is behind it, ENOTTY if it is no loop device.
pub fn backing(device: &OwnedFd) -> Result<Backing, Errno> {
    let mut status = [0u64; STATUS_WORDS];
    // SAFETY: the kernel writes one `struct loop_info64`, of 232 bytes, before the call returns; `status` is as large
    // and outlives it.
    match unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS, status.as_mut_ptr()) } {
        0 => {
            let [device, inode, own, offset, ..] = status;
            let number = Some(decode(own)).filter(|number| *number != 0);
            Ok(Backing { file: (decode(device), inode), device: number, offset })
        }
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// A device number as the kernel passes it in 32 bits (`new_encode_dev` of linux/kdev_t.h): 12 bits of major number
/// between the 8 low and 12 high bits of the minor one.
fn decode(number: u64) -> u64 {
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    rustix::fs::makedev(major as u32, minor as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_those_that_stat_tells() {
        assert_eq!(decode(0x0801), rustix::fs::makedev(8, 1));
        assert_eq!(decode(0x123_fe45), rustix::fs::makedev(0x3fe, 0x1245));
        assert_eq!(decode(0), 0);
    }

    #[test]
    fn what_is_no_loop_device_has_nothing_behind_it() {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(backing(&null), Err(Errno::NOTTY));
    }
}
