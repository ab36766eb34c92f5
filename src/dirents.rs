//! Names of a directory as the kernel lists them.

use crate::error::Errno;
use crate::provider::posix::Posix;
use crate::ring::Handle;

/// Bytes of one getdents buffer.
const BUFFER_BYTES: usize = 64 << 10;
/// Offset of the name in a `linux_dirent64`.
const NAME_AT: usize = 19;

/// Reads the names of a directory with their inode numbers, from its beginning.
pub(crate) fn each_name(
    posix: Posix<'_>,
    dir: &Handle,
    mut take: impl FnMut(&[u8], u64) -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    // A handle of its own has an offset of its own.
    let handle = posix.open_dir(dir, &c".".to_owned())?;
    let mut buffer = vec![0; BUFFER_BYTES];
    // Ends: the directory does.
    loop {
        let filled = posix.read_dir(&handle, &mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        records(&buffer[..filled]).try_for_each(|(name, ino, _)| take(name, ino))?;
    }
}

/// The names in a buffer of `linux_dirent64` records (inode 8 bytes, offset 8, length of the record 2, type 1, name
/// with its NUL), with inode and type; `.` and `..` left out.
pub(crate) fn records(filled: &[u8]) -> impl Iterator<Item = (&[u8], u64, u8)> {
    let mut rest = filled;
    std::iter::from_fn(move || {
        if rest.len() <= NAME_AT {
            return None;
        }
        let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        assert!(len > NAME_AT && len <= rest.len(), "the kernel's directory records are whole");
        let (record, after) = rest.split_at(len);
        rest = after;
        let name = record[NAME_AT..].split(|&b| b == 0).next().unwrap_or_default();
        let ino = u64::from_ne_bytes(record[..8].try_into().unwrap_or_default());
        Some((name, ino, record[18]))
    })
    .filter(|(name, ..)| !matches!(*name, b"." | b".." | b""))
}
