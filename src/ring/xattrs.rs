//! Extended attributes of an open file or of a name, by the system calls there are; an ACL is one of the `system.`
//! family.
//!
//! An empty name stands for the open file itself. By name there are listxattrat(2) and its kin since Linux 6.13. Before
//! them, or where a sandbox knows nothing of them, the held directory is named through procfs; either way a symlink is
//! not followed (I8).

#![expect(unsafe_code, reason = "no crate wraps listxattrat(2) and its kin yet")]

use std::ffi::{CStr, c_int, c_long, c_void};
use std::os::fd::AsRawFd;

use rustix::fs::XattrFlags;

use super::syscalls::last_errno;
use super::{Handle, Name};
use crate::error::Errno;

/// Most bytes of one value, and of all names of one object together (linux/limits.h).
const BYTES_MAX: usize = 65_536;
/// What is enough for nearly all of them.
const BYTES_USUAL: usize = 512;

/// Numbers of the system calls, the same on all but one of Linux's architectures (arch/*/kernel/syscalls).
const SET: c_long = 463;
const GET: c_long = 464;
const LIST: c_long = 465;
const REMOVE: c_long = 466;

/// `struct xattr_args` (linux/xattr.h).
#[repr(C, align(8))]
struct Args {
    /// Address of the value.
    value: u64,
    /// Its bytes.
    size: u32,
    /// Whether it is to be new or to replace one: either.
    flags: u32,
}

/// The names of all attributes, a NUL behind each.
pub(super) fn list(at: &Handle, name: &Name) -> Result<Vec<u8>, Errno> {
    grown(|bytes| match name.is_empty() {
        true => rustix::fs::flistxattr(at, bytes),
        false => match list_at(at, name, bytes) {
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::llistxattr(path(at, name), bytes),
            listed => listed,
        },
    })
}

/// The value of an attribute.
pub(super) fn get(at: &Handle, name: &Name, key: &Name) -> Result<Vec<u8>, Errno> {
    grown(|bytes| match name.is_empty() {
        true => rustix::fs::fgetxattr(at, &**key, bytes),
        false => match get_at(at, name, key, bytes) {
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::lgetxattr(path(at, name), &**key, bytes),
            got => got,
        },
    })
}

/// Gives an attribute a value, whether it is there or not.
pub(super) fn set(at: &Handle, name: &Name, key: &Name, value: &[u8]) -> Result<(), Errno> {
    match name.is_empty() {
        true => rustix::fs::fsetxattr(at, &**key, value, XattrFlags::empty()),
        false => match set_at(at, name, key, value) {
            Err(Errno::NOSYS | Errno::PERM) => {
                rustix::fs::lsetxattr(path(at, name), &**key, value, XattrFlags::empty())
            }
            set => set,
        },
    }
}

/// Removes an attribute.
pub(super) fn remove(at: &Handle, name: &Name, key: &Name) -> Result<(), Errno> {
    match name.is_empty() {
        true => rustix::fs::fremovexattr(at, &**key),
        false => match remove_at(at, name, key) {
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::lremovexattr(path(at, name), &**key),
            removed => removed,
        },
    }
}

/// Asks with a buffer that is mostly large enough, then with one that always is.
fn grown(ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    for capacity in [BYTES_USUAL, BYTES_MAX] {
        let mut bytes = vec![0; capacity];
        match ask(&mut bytes) {
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
            Ok(len) => {
                bytes.truncate(len);
                return Ok(bytes);
            }
        }
    }
    Err(Errno::TOOBIG)
}

fn path(at: &Handle, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", at.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}

fn list_at(at: &Handle, name: &CStr, bytes: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: both names end in a NUL and outlive the call; the kernel writes at most `bytes.len()` bytes into `bytes`,
    // which is borrowed exclusively.
    let count = unsafe {
        let (name, buffer) = (name.as_ptr(), bytes.as_mut_ptr());
        libc::syscall(LIST, at.as_raw_fd(), name, libc::AT_SYMLINK_NOFOLLOW, buffer, bytes.len())
    };
    usize::try_from(count).map_err(|_| last_errno())
}

fn get_at(at: &Handle, name: &CStr, key: &CStr, bytes: &mut [u8]) -> Result<usize, Errno> {
    let mut args = Args { value: bytes.as_mut_ptr() as u64, size: bytes.len() as u32, flags: 0 };
    // SAFETY: as in `call`; the kernel writes at most `size` bytes at `value`, which is `bytes`, borrowed exclusively.
    let count = unsafe { call(GET, at, name, key, &raw mut args) };
    usize::try_from(count).map_err(|_| last_errno())
}

fn set_at(at: &Handle, name: &CStr, key: &CStr, value: &[u8]) -> Result<(), Errno> {
    let size = u32::try_from(value.len()).map_err(|_| Errno::TOOBIG)?;
    let mut args = Args { value: value.as_ptr() as u64, size, flags: 0 };
    // SAFETY: as in `call`; the kernel reads `size` bytes at `value` and writes none.
    match unsafe { call(SET, at, name, key, &raw mut args) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

fn remove_at(at: &Handle, name: &CStr, key: &CStr) -> Result<(), Errno> {
    // SAFETY: both names end in a NUL and outlive the call.
    let removed =
        unsafe { libc::syscall(REMOVE, at.as_raw_fd(), name.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, key.as_ptr()) };
    match removed {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// getxattrat(2) or setxattrat(2), with their common arguments.
///
/// # Safety
/// What `args` points to, and the memory it describes, must be valid for as long as the call lasts.
unsafe fn call(number: c_long, at: &Handle, name: &CStr, key: &CStr, args: *mut Args) -> c_long {
    let (name, key, flags) = (name.as_ptr(), key.as_ptr(), libc::AT_SYMLINK_NOFOLLOW as c_int);
    // SAFETY: both names end in a NUL and outlive the call; `args` is valid by this function's own condition.
    unsafe { libc::syscall(number, at.as_raw_fd(), name, flags, key, args.cast::<c_void>(), size_of::<Args>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags};
    use std::sync::Arc;

    /// The system calls of Linux 6.13 and the way through procfs see one and the same, a symlink's own included.
    #[test]
    fn both_ways_of_asking_by_name_answer_alike() {
        let dir = std::env::temp_dir().join(format!("gfast-xattrs-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("file"), "").unwrap();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        let at: Handle = Arc::new(rustix::fs::openat(CWD, &dir, OFlags::DIRECTORY, Mode::empty()).unwrap());
        let (file, link, key) = (c"file".to_owned(), c"link".to_owned(), c"user.key".to_owned());
        let value = vec![7; 2 * BYTES_USUAL];
        let is_there = match set(&at, &file, &key, &value) {
            Err(Errno::OPNOTSUPP) => false,
            set => set.map(|()| true).unwrap(),
        };
        if is_there {
            assert_eq!(get(&at, &file, &key).as_ref(), Ok(&value));
            let by_path = grown(|bytes| rustix::fs::lgetxattr(path(&at, &file), &*key, bytes));
            assert_eq!(by_path.as_ref(), Ok(&value));
            assert_eq!(list(&at, &file), grown(|bytes| rustix::fs::llistxattr(path(&at, &file), bytes)));
            assert_eq!(get(&at, &link, &key), Err(Errno::NODATA), "a symlink is not followed");
            let held: Handle = Arc::new(rustix::fs::openat(&at, c"file", OFlags::RDONLY, Mode::empty()).unwrap());
            assert_eq!(get(&held, &Name::default(), &key).as_ref(), Ok(&value));
            assert_eq!((remove(&at, &file, &key), remove(&at, &file, &key)), (Ok(()), Err(Errno::NODATA)));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
