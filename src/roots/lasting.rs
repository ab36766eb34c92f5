//! What of a root is the same after a remount, and what is not.
//!
//! A user-space daemon makes up inode numbers as names are looked up, and counts anew when it is mounted again: they
//! tell neither one root from another nor one file from another over two mounts. What is mounted does, and the number
//! that the kernel gives each mount and never gives again. An SMB client that does not take the server's numbers counts
//! likewise.
//!
//! A server may make up a time of birth of its other times (Samba without a store for it), which change, and a newer
//! client may tell one that an older one did not.

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
            Inodes::Lasting if self.file_system.is_remote() => (self.stat.ino, Time::default()),
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

/// How long inode numbers last on the file system of an open directory, which has this path and mount.
pub(super) fn inodes(dir: &OwnedFd, file_system: FileSystem, (mount_id, path): (u64, &[u8])) -> Inodes {
    let are_servers = || MountTable::read().ok()?.has_option(mount_id, path, b"serverino");
    let are_lasting = match file_system {
        FileSystem::Smb => are_servers() != Some(false),
        _ => file_system.keeps_inodes(),
    };
    if are_lasting { Inodes::Lasting } else { Inodes::OfMount(mount(dir)) }
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

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};

    use super::*;

    #[test]
    fn what_a_server_tells_of_a_birth_identifies_no_root() {
        let dir = std::env::temp_dir();
        let fd = rustix::fs::open(&dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let root = Root::describe(fd, dir.into_os_string().into_encoded_bytes()).unwrap();
        let (birth, inodes) = (Time { secs: 1_500_000_000, nanos: 5 }, Inodes::Lasting);
        let mut root = Root { birth, inodes, ..root };
        for (file_system, told) in [
            (FileSystem::Ext, birth),
            (FileSystem::Other, birth),
            (FileSystem::Nfs, Time::default()),
            (FileSystem::Smb, Time::default()),
            (FileSystem::Cluster, Time::default()),
        ] {
            root.file_system = file_system;
            assert_eq!(root.identity(), (root.stat.ino, told), "{file_system:?}");
        }
    }
}
