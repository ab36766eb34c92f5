//! What kind of file system an open file lives on, and what that kind can be trusted with.
//!
//! Told by the `statfs` magic number (linux/magic.h and the file systems' own headers). Everything that depends on the
//! kind of a file system asks here.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags};

use crate::error::{Error, Result};

/// What a file system that keeps whole seconds tells times apart by, in nanoseconds.
const SECOND: u32 = 1_000_000_000;

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3, ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// tmpfs and ramfs.
    Tmpfs,
    /// overlayfs.
    Overlay,
    /// NFS.
    Nfs,
    /// SMB and CIFS.
    Smb,
    /// Anything behind FUSE: sshfs, rclone mount, GlusterFS.
    Fuse,
    /// Other shared file systems: Ceph, Lustre, GPFS, BeeGFS, OrangeFS, 9p, AFS, OCFS2, GFS2, folders of a machine's
    /// host.
    Cluster,
    /// procfs, sysfs and their like: no data to copy.
    Kernel,
    /// Anything else.
    Other,
}

/// How far away the answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This machine's kernel: microseconds, or a disk's latency.
    Local,
    /// Another machine, or a user-space daemon: milliseconds for every operation.
    Remote,
}

/// How long inode numbers last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inodes {
    /// As long as the inode.
    Lasting,
    /// At most as long as the mount, which this number tells from any other: a user-space daemon makes them up when a
    /// name is looked up (libfuse without `use_ino`, as sshfs and smbnetfs have it).
    OfMount(u64),
}

impl Inodes {
    /// Whether they are the same after a remount.
    pub fn is_lasting(self) -> bool {
        self == Inodes::Lasting
    }

    /// A number of this mount as one that no other mount has; as it is where numbers last.
    pub fn salted(self, number: u64) -> u64 {
        match self {
            Inodes::Lasting => number,
            // The finisher of splitmix64: one number to one, and none that a bucket's groups have (links.rs).
            Inodes::OfMount(mount) => {
                let mut z = number ^ mount;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) >> 1 | 1
            }
        }
    }
}

impl FileSystem {
    /// The kind of file system that `file` lives on.
    pub fn of(file: impl AsFd) -> Result<FileSystem> {
        let statfs = rustix::fs::fstatfs(file).map_err(|errno| Error::os("statfs", "file system", errno))?;
        Ok(FileSystem::from_magic(statfs.f_type as u32))
    }

    fn from_magic(magic: u32) -> FileSystem {
        match magic {
            0xef53 => FileSystem::Ext,
            0x5846_5342 => FileSystem::Xfs,
            0x9123_683e => FileSystem::Btrfs,
            0x0102_1994 | 0x8584_58f6 => FileSystem::Tmpfs,
            0x794c_7630 => FileSystem::Overlay,
            0x6969 => FileSystem::Nfs,
            0x517b | 0xff53_4d42 | 0xfe53_4d42 => FileSystem::Smb,
            0x6573_5546 => FileSystem::Fuse,
            0x00c3_6400 | 0x0bd0_0bd0 | 0x4750_4653 | 0x0102_1997 | 0x5346_414f | 0x7461_636f | 0x0116_1970 => {
                FileSystem::Cluster
            }
            // kAFS, Coda, NCP, BeeGFS, OrangeFS, PanFS, ACFS, StorNext.
            0x6b41_4653 | 0x7375_7245 | 0x564c | 0x1983_0326 | 0x2003_0528 | 0xaad7_aaea | 0x6163_6673
            | 0xbeef_dead => FileSystem::Cluster,
            // Folders of the host of VirtualBox, VMware and Parallels.
            0x786f_4256 | 0xbacb_acbc | 0x7c7c_6673 => FileSystem::Cluster,
            0x9fa0 | 0x6265_6572 | 0x6462_6720 | 0x7472_6163 | 0x0027_e0eb | 0x6367_7270 | 0xcafe_4a11 => {
                FileSystem::Kernel
            }
            _ => FileSystem::Other,
        }
    }

    /// Whether it is reached over a network or a user-space daemon: slow metadata, and no place for LMDB.
    pub fn is_remote(self) -> bool {
        matches!(self, FileSystem::Nfs | FileSystem::Smb | FileSystem::Fuse | FileSystem::Cluster)
    }

    /// Whether what is set there is set if it says so. The kernel's vfat and exFAT take any mode and keep none; of what
    /// is not known nothing is taken for granted.
    pub fn does_as_it_says(self) -> bool {
        self.tells_names_apart() || self == FileSystem::Overlay
    }

    /// How far away the clock is that its times are of: a user-space daemon's is this machine's, or the fraction that
    /// it leaves off tells.
    pub fn clock_reach(self) -> Reach {
        let is_remote = matches!(self, FileSystem::Nfs | FileSystem::Smb | FileSystem::Cluster);
        if is_remote { Reach::Remote } else { Reach::Local }
    }

    /// Whether an inode keeps its number when the file system is mounted anew.
    pub fn keeps_inodes(self) -> bool {
        self != FileSystem::Fuse
    }

    /// Nanoseconds that times are told apart by at worst on the file system of `dir`, as far as it tells without a try:
    /// what local file systems keep exactly, others by the second. An ext4 whose inodes have 128 bytes has no room for
    /// more than seconds, and none for the time of creation, by which it is known.
    pub fn granularity_nanos(self, dir: impl AsFd) -> u32 {
        match self {
            FileSystem::Fuse | FileSystem::Other | FileSystem::Cluster => SECOND,
            FileSystem::Ext | FileSystem::Overlay if !has_birth(&dir) => SECOND,
            FileSystem::Smb => 100,
            _ => 1,
        }
    }

    /// Whether syncfs reports every write error since the fd was opened (I1): that of data since Linux 5.8, before
    /// which it hardly reported any, that of what a file system does itself, its journal above all, since 5.17, before
    /// which the kernel dropped what `sync_fs` returned. What a distribution has ported back to an older version cannot
    /// be known.
    pub fn trusts_syncfs(self, kernel: KernelVersion) -> bool {
        match self {
            // Nothing is written anywhere.
            FileSystem::Tmpfs => true,
            FileSystem::Ext | FileSystem::Xfs | FileSystem::Btrfs => kernel >= KernelVersion::SYNCFS_REPORTS,
            _ => false,
        }
    }

    /// Whether names of other bytes are other names there, unless a directory folds case.
    pub fn tells_names_apart(self) -> bool {
        matches!(self, FileSystem::Ext | FileSystem::Xfs | FileSystem::Btrfs | FileSystem::Tmpfs)
    }
}

/// Whether an open file has a time of creation.
fn has_birth(file: impl AsFd) -> bool {
    let statx = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME);
    statx.is_ok_and(|statx| statx.stx_mask & StatxFlags::BTIME.bits() != 0)
}

/// A version of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second one.
    pub minor: u32,
}

impl KernelVersion {
    /// The first whose syncfs reports all errors.
    const SYNCFS_REPORTS: KernelVersion = KernelVersion { major: 5, minor: 17 };

    /// The version that runs.
    pub fn running() -> KernelVersion {
        KernelVersion::parse(&rustix::system::uname().release().to_string_lossy())
    }

    /// Of a release as uname has it, such as `5.14.0-427.el9.x86_64`. What cannot be read is as old as can be.
    fn parse(release: &str) -> KernelVersion {
        let mut numbers = release.trim().split('.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part[..digits].parse().unwrap_or(0)
        });
        KernelVersion { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_whatever_distributions_append() {
        let parsed = |release| {
            let KernelVersion { major, minor } = KernelVersion::parse(release);
            (major, minor)
        };
        assert_eq!(parsed("5.14.0-427.el9.x86_64"), (5, 14));
        assert_eq!(parsed("6.18.5"), (6, 18));
        assert_eq!(parsed("6.1-rc3+"), (6, 1));
        assert_eq!(parsed("5.17+deb"), (5, 17));
        assert_eq!(parsed("7"), (7, 0));
        assert_eq!(
            [parsed(""), parsed("linux"), parsed("99999999999.1"), parsed("v6.2")],
            [(0, 0), (0, 0), (0, 1), (0, 2)]
        );
    }

    #[test]
    fn only_known_local_file_systems_are_believed() {
        let told = |magic| {
            let file_system = FileSystem::from_magic(magic);
            (file_system.is_remote(), file_system.does_as_it_says())
        };
        // ext4, xfs, btrfs, tmpfs, overlayfs; vfat, exFAT, f2fs.
        assert!(
            [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630].map(told).iter().all(|t| *t == (false, true))
        );
        assert!([0x4d44, 0x2011_bab0, 0xf2f5_2010].map(told).iter().all(|told| *told == (false, false)));
        // NFS, SMB, FUSE, BeeGFS, OrangeFS, GPFS, Lustre, 9p, both AFS, VirtualBox's folders.
        let remote =
            [0x6969, 0xff53_4d42, 0x6573_5546, 0x1983_0326, 0x2003_0528, 0x4750_4653, 0x0bd0_0bd0, 0x0102_1997];
        assert!(remote.map(told).iter().all(|told| *told == (true, false)));
        assert!([0x5346_414f, 0x6b41_4653, 0x786f_4256].map(told).iter().all(|told| *told == (true, false)));
    }

    #[test]
    fn syncfs_is_trusted_where_it_reports_all_errors() {
        let trusts = |release, file_system: FileSystem| file_system.trusts_syncfs(KernelVersion::parse(release));
        for file_system in [FileSystem::Ext, FileSystem::Xfs, FileSystem::Btrfs] {
            for release in ["5.17.0", "5.17-rc1", "5.100.3", "6.0.0-1-amd64", "10.1"] {
                assert!(trusts(release, file_system), "{file_system:?} on {release}");
            }
            for release in ["5.16.20", "5.14.0-427.el9.x86_64", "4.18.0-553.el8_10.x86_64", "3.10.0", "", "unknown"] {
                assert!(!trusts(release, file_system), "{file_system:?} on {release}");
            }
        }
        assert!(!trusts("6.18.5", FileSystem::Nfs) && !trusts("6.18.5", FileSystem::Other));
        assert!(trusts("4.4.0", FileSystem::Tmpfs), "nothing is written anywhere");
    }
}
