//! What of a root is the same after a remount, and what is not.
//!
//! A user-space daemon makes up inode numbers as names are looked up, and counts anew when it is mounted again: they
//! tell neither one root from another nor one file from another over two mounts. What is mounted does, and the number
//! that the kernel gives each mount and never gives again.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, StatxFlags};

use super::Root;
use super::mounts::MountTable;
use crate::catalog::KnownBy;
use crate::digest::crc64;
use crate::filesystem::{FileSystem, Inodes};
use crate::ring::Time;

/// STATX_MNT_ID_UNIQUE, Linux 6.8: the number of a mount, given once.
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

impl Root {
    /// Inode number and birth time, which tell a recorded root from another in its place. Where inode numbers do not
    /// last, what is mounted stands for both.
    pub fn identity(&self) -> (u64, Time) {
        let mounted = || MountTable::read().ok()?.origin(self.stat.mount_id, &self.path);
        match self.inodes {
            Inodes::Lasting => (self.stat.ino, self.birth),
            Inodes::OfMount(_) => mounted().map_or((0, Time::default()), |origin| (crc64(&origin), Time::default())),
        }
    }

    /// How an end of this root and name is found among the recorded ones: a device that tells itself from all others by
    /// that, whatever it is called now.
    pub fn known_by<'a>(&self, name: &'a [u8]) -> KnownBy<'a> {
        match self.device.as_ref().filter(|device| device.is_lasting()) {
            Some(device) => KnownBy::Ino(device.identities()),
            None => KnownBy::Path(name),
        }
    }
}

/// How long inode numbers last on the file system of an open directory.
pub(super) fn inodes(dir: &OwnedFd, file_system: FileSystem) -> Inodes {
    match file_system.keeps_inodes() {
        true => Inodes::Lasting,
        false => Inodes::OfMount(mount(dir)),
    }
}

/// A number that no other mount has, of this boot or another; on older kernels one of this process alone.
fn mount(dir: &OwnedFd) -> u64 {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let statx = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, MOUNT_ID_UNIQUE);
    let number = statx.ok().filter(|statx| statx.stx_mask & MOUNT_ID_UNIQUE.bits() != 0).map(|statx| statx.stx_mnt_id);
    let alone = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        [u64::from(std::process::id()), now.tv_sec as u64, now.tv_nsec as u64].map(u64::to_le_bytes).concat()
    };
    let number = number.map_or_else(alone, |number| number.to_le_bytes().to_vec());
    crc64(&[boot, number].concat())
}
