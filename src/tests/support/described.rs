//! Objects and times as FUSE has them.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

/// What FUSE is told of an object.
pub fn attributes(stat: &Metadata) -> FileAttr {
    let kind = stat.file_type();
    let kinds = [
        (kind.is_dir(), FileType::Directory),
        (kind.is_symlink(), FileType::Symlink),
        (kind.is_fifo(), FileType::NamedPipe),
        (kind.is_socket(), FileType::Socket),
        (kind.is_block_device(), FileType::BlockDevice),
        (kind.is_char_device(), FileType::CharDevice),
    ];
    FileAttr {
        ino: INodeNo(stat.ino()),
        size: stat.size(),
        blocks: stat.blocks(),
        atime: time(stat.atime(), stat.atime_nsec()),
        mtime: time(stat.mtime(), stat.mtime_nsec()),
        ctime: time(stat.ctime(), stat.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: kinds.iter().find(|(is, _)| *is).map_or(FileType::RegularFile, |(_, kind)| *kind),
        perm: (stat.mode() & 0o7777) as u16,
        nlink: stat.nlink() as u32,
        uid: stat.uid(),
        gid: stat.gid(),
        rdev: stat.rdev() as u32,
        blksize: 4096,
        flags: 0,
    }
}

fn time(secs: i64, nanos: i64) -> SystemTime {
    let nanos = Duration::from_nanos(nanos as u64);
    match u64::try_from(secs) {
        Ok(secs) => UNIX_EPOCH + Duration::from_secs(secs) + nanos,
        Err(_) => UNIX_EPOCH - Duration::from_secs(secs.unsigned_abs()) + nanos,
    }
}

/// A time to be set, as the kernel has it.
pub fn timespec(time: Option<TimeOrNow>) -> rustix::fs::Timespec {
    match time {
        None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(TimeOrNow::Now) => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => {
            let (secs, nanos) = match time.duration_since(UNIX_EPOCH) {
                Ok(since) => (since.as_secs() as i64, i64::from(since.subsec_nanos())),
                // fuser counts the nanoseconds of a time before 1970 backwards too; the kernel meant them forwards.
                Err(error) => {
                    let before = error.duration();
                    (-(before.as_secs() as i64), i64::from(before.subsec_nanos()))
                }
            };
            rustix::fs::Timespec { tv_sec: secs, tv_nsec: nanos }
        }
    }
}
