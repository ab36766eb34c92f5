//! What a device carries, told by magic numbers: partition tables, file systems, volumes, swap.
//!
//! The places and numbers are those that blkid(8) and file(1) look for. A device that shows none of them may be
//! overwritten without asking; one that shows any may not.

use crate::error::Errno;

/// Bytes at the head that hold all magic numbers there.
const HEAD_BYTES: u64 = 132 << 10;
/// Bytes at the end that do.
const TAIL_BYTES: u64 = 132 << 10;

/// What a device is said to carry, where, and by which bytes.
const HEAD: [(&str, usize, &[u8]); 48] = [
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("an ext2, ext3 or ext4 file system", 1080, &[0x53, 0xef]),
    ("an XFS file system", 0, b"XFSB"),
    ("a Btrfs file system", 65_600, b"_BHRfS_M"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("swap space", 4086, b"SWAP-SPACE"),
    ("swap space", 65_526, b"SWAPSPACE2"),
    ("swap of a suspended system", 4086, b"S1SUSPEND"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 1024, b"LABELONE"),
    ("an LVM physical volume", 1536, b"LABELONE"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("a LUKS volume", 16_384, b"SKUL\xba\xbe"),
    ("a member of a RAID", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a member of a RAID", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a bcache device", 4120, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
    ("a bcachefs file system", 4120, &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9]),
    ("a ZFS pool", 131_072, &[0x0c, 0xb1, 0xba, 0x00]),
    ("a ZFS pool", 131_072, &[0x00, 0x00, 0x00, 0x00, 0x00, 0xba, 0xb1, 0x0c]),
    ("a ZFS pool", 16_344, &[0x11, 0x7a, 0x0c, 0xb1, 0x7a, 0xda, 0x10, 0x02]),
    ("an F2FS file system", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    ("an EROFS file system", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("an HFS file system", 1024, b"H+\0\x04"),
    ("an HFS file system", 1024, b"HX\0\x05"),
    ("a NILFS2 file system", 1030, &[0x34, 0x34]),
    ("a SquashFS file system", 0, b"hsqs"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a BitLocker volume", 3, b"-FVE-FS-"),
    ("a FAT file system", 54, b"FAT12   "),
    ("a FAT file system", 54, b"FAT16   "),
    ("a FAT file system", 82, b"FAT32   "),
    ("an APFS container", 32, b"NXSB"),
    ("an ISO 9660 file system", 32_769, b"CD001"),
    ("a UDF file system", 32_769, b"BEA01"),
    ("a JFS file system", 32_768, b"JFS1"),
    ("a ReiserFS file system", 65_588, b"ReIsEr"),
    ("a GFS2 file system", 65_536, &[0x01, 0x16, 0x19, 0x70]),
    ("an OCFS2 file system", 8192, b"OCFSV2"),
    ("a Ceph BlueStore device", 0, b"bluestore block device"),
    ("a disk of Oracle ASM", 32, b"ORCLDISK"),
    ("a Stratis pool", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("a Stratis pool", 4612, b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("a VDO volume", 0, b"dmvdo001"),
    ("a UFS file system", 9564, &[0x54, 0x19, 0x01, 0x00]),
    ("a UFS file system", 66_908, &[0x19, 0x01, 0x54, 0x19]),
];

/// What a device carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it is called.
    pub name: &'static str,
    /// Where its magic number lies, in bytes.
    pub offset: u64,
}

/// All that is found on a device of `size` bytes; `read` answers exactly the bytes asked for.
pub(super) fn find(size: u64, read: impl Fn(u64, usize) -> Result<Vec<u8>, Errno>) -> Result<Vec<Signature>, Errno> {
    let head = read(0, HEAD_BYTES.min(size) as usize)?;
    let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    let boot: (&str, usize, &[u8]) = ("an MBR partition table or a boot sector", 510, &[0x55, 0xaa]);
    let there = HEAD.into_iter().chain([boot]).filter(|(_, at, magic)| has(*at, magic));
    let mut found: Vec<_> = there.map(|(name, at, _)| Signature { name, offset: at as u64 }).collect();
    let start = size.saturating_sub(TAIL_BYTES);
    let tail = read(start, (size - start) as usize)?;
    let ends_with = |at: u64, magic: &[u8]| {
        let at = at.checked_sub(start).map(|at| at as usize);
        at.is_some_and(|at| tail.get(at..at + magic.len()) == Some(magic))
    };
    let raid = [0xfc, 0x4e, 0x2b, 0xa9];
    let places: [(&str, u64, &[u8]); 6] = [
        ("a GPT partition table", size.saturating_sub(512), b"EFI PART"),
        ("a GPT partition table", size.saturating_sub(4096), b"EFI PART"),
        // mdadm's metadata 0.90 lies in the last whole 64 KiB but one, 1.0 in the last 8 KiB to 12 KiB.
        ("a member of a RAID", (size & !0xffff).saturating_sub(65_536), &raid),
        ("a member of a RAID", size.saturating_sub(8192) & !4095, &raid),
        ("a member of a DDF RAID", size.saturating_sub(512), &[0xde, 0x11, 0xde, 0x11]),
        ("a member of an Intel RAID", size.saturating_sub(1024), b"Intel Raid ISM Cfg Sig. "),
    ];
    let there = places.into_iter().filter(|(_, at, magic)| ends_with(*at, magic));
    found.extend(there.map(|(name, offset, _)| Signature { name, offset }));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(image: &[u8]) -> Option<&'static str> {
        let read = |at: u64, len| Ok(image[at as usize..at as usize + len].to_vec());
        find(image.len() as u64, read).unwrap().first().map(|signature| signature.name)
    }

    #[test]
    fn each_magic_number_is_found_in_its_place_and_zeros_carry_nothing() {
        const SIZE: usize = 1 << 20;
        assert_eq!(found(&vec![0; SIZE]), None);
        assert_eq!(found(&vec![0; 512]), None);
        for (name, at, magic) in HEAD {
            let mut image = vec![0; SIZE];
            image[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(found(&image), Some(name), "at {at}");
        }
        for at in [SIZE - 512, SIZE - 4096] {
            let mut image = vec![0; SIZE];
            image[at..at + 8].copy_from_slice(b"EFI PART");
            assert_eq!(found(&image), Some("a GPT partition table"), "at {at}");
        }
        let ends: [(&str, usize, &[u8]); 2] =
            [("a DDF RAID", 512, &[0xde, 0x11, 0xde, 0x11]), ("an Intel RAID", 1024, b"Intel Raid ISM Cfg Sig. ")];
        for (name, before_end, magic) in ends {
            let mut image = vec![0; SIZE];
            image[SIZE - before_end..][..magic.len()].copy_from_slice(magic);
            assert!(found(&image).is_some_and(|found| found.ends_with(name)), "{name}");
        }
        let mut image = vec![0; SIZE];
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(found(&image).is_some_and(|name| name.contains("MBR")));
    }
}
