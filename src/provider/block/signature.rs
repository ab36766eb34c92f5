//! What a device carries, told by magic numbers: partition tables, file systems, volumes, swap.
//!
//! The places and numbers are those that libblkid looks for (util-linux, libblkid/src: superblocks/ and partitions/).
//! Where it goes on to judge what lies around a magic number of four bytes or more, nothing is judged here: a damaged
//! file system is somebody's as well. Of some shorter ones, which any data may hold, what lies beside them counts, too.
//! Not looked for is what has no magic number at all: Atari's partition table, the file system of Coherent. A device
//! that shows none of these may be overwritten without asking; one that shows any may not.

use crate::error::Errno;

/// Where bytes lie, and which.
type Place = (u64, &'static [u8]);

/// Bytes at the head that hold all magic numbers there: the last is of VMFS, at 2 MiB.
const HEAD_BYTES: u64 = (2 << 20) + (4 << 10);
/// Bytes at the end that do: Promise's RAIDs have theirs up to 3,087 sectors before it.
const TAIL_BYTES: u64 = 2 << 20;

/// Where swap space has its magic number, by the size of its pages.
const PAGES: &[u64] = &[4086, 8182, 16_374, 32_758, 65_526];
/// Where LUKS2 has its second header, by the size of the first.
const SECOND_HEADERS: &[u64] = &[0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000];
/// What a zpool's labels end their boot blocks with, in either order of bytes; counted from where a label begins.
const ZFS: [Place; 2] = [
    (16_344, &[0x11, 0x7a, 0x0c, 0xb1, 0x7a, 0xda, 0x10, 0x02]),
    (16_344, &[0x02, 0x10, 0xda, 0x7a, 0xb1, 0x0c, 0x7a, 0x11]),
];
/// Bytes of a zpool's label: two at the head, two at the end.
const ZFS_LABEL_BYTES: u64 = 256 << 10;
/// Where UFS may have its magic number, and which.
const UFS: [u64; 4] = [1372, 9564, 66_908, 263_516];
const UFS_MAGICS: [u32; 6] = [0x0001_1954, 0x1954_0119, 0x0019_5612, 0x0009_5014, 0x0061_2195, 0x0523_1994];
/// How many sectors before the end Promise's RAIDs may have their signature.
const PROMISE: [u64; 13] = [63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087];
/// Bytes at the head in which a log of XFS has its first record.
const LOG_BYTES: u64 = 256 << 10;

/// What a device is said to carry, where, and by which bytes.
const HEAD: [(&str, &[u64], &[u8]); 102] = [
    ("a GPT partition table", &[512, 4096], b"EFI PART"),
    ("an SGI disk label", &[0], &[0x0b, 0xe5, 0xa9, 0x41]),
    ("a BSD disk label", &[64, 128, 512], &[0x57, 0x45, 0x56, 0x82]),
    ("an Apple partition map", &[0], b"ER\x02\0"),
    ("an Apple partition map", &[0], b"ER\x04\0"),
    ("an Apple partition map", &[0], b"ER\x08\0"),
    ("an Apple partition map", &[0], b"ER\x10\0"),
    ("an Apple partition map", &[512], b"PM\0\0"),
    ("a Solaris disk label", &[524], &[0xee, 0xde, 0x0d, 0x60]),
    ("a UnixWare disk label", &[14_852], &[0x0d, 0x60, 0xe5, 0xca]),
    ("an ULTRIX disk label", &[16_312], &[0x57, 0x29, 0x03, 0x00, 0x01, 0x00, 0x00, 0x00]),
    ("a disk of AIX", &[0], &[0xc9, 0xc2, 0xd4, 0xc1]),
    ("a label of a DASD", &[8196], &[0xe5, 0xd6, 0xd3, 0xf1]),
    ("a label of a DASD", &[8192], &[0xd3, 0xd5, 0xe7, 0xf1]),
    ("a label of a DASD", &[8192], &[0xc3, 0xd4, 0xe2, 0xf1]),
    ("an ext2, ext3 or ext4 file system", &[1080], &[0x53, 0xef]),
    ("an XFS file system", &[0], b"XFSB"),
    ("an EXFS file system", &[0], b"EXFS"),
    ("a Btrfs file system", &[65_600], b"_BHRfS_M"),
    ("swap space", PAGES, b"SWAPSPACE2"),
    ("swap space", PAGES, b"SWAP-SPACE"),
    ("swap of a suspended system", PAGES, b"S1SUSPEND"),
    ("swap of a suspended system", PAGES, b"S2SUSPEND"),
    ("swap of a suspended system", PAGES, b"ULSUSPEND"),
    ("swap of a suspended system", PAGES, b"LINHIB0001"),
    ("swap of a suspended system", &[0], &[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c]),
    ("an LVM physical volume", &[0, 512, 1024, 1536], b"LABELONE"),
    ("an LVM physical volume", &[0], b"HM\x01\0"),
    ("an LVM physical volume", &[0], b"HM\x02\0"),
    ("the changes of a snapshot", &[0], b"SnAp"),
    ("a dm-verity hash device", &[0], b"verity\0\0"),
    ("a dm-integrity device", &[0], b"integrt\0"),
    ("a LUKS volume", &[0], b"LUKS\xba\xbe"),
    ("a LUKS volume", SECOND_HEADERS, b"SKUL\xba\xbe"),
    ("a member of a RAID", &[0, 4096], &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a member of a HighPoint RAID", &[4640], &[0xf0, 0x16, 0x78, 0x5a]),
    ("a member of a HighPoint RAID", &[4640], &[0xfd, 0x16, 0x78, 0x5a]),
    ("a bcache device", &[4120], &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
    ("a bcachefs file system", &[4120, (2 << 20) + 24], &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9]),
    ("a ZFS pool", &[131_072], &[0x0c, 0xb1, 0xba, 0x00]),
    ("a ZFS pool", &[131_072], &[0x00, 0x00, 0x00, 0x00, 0x00, 0xba, 0xb1, 0x0c]),
    ("a volume of VMFS", &[1 << 20], &[0x0d, 0xd0, 0x01, 0xc0]),
    ("a VMFS file system", &[2 << 20], &[0x5e, 0xf1, 0xab, 0x2f]),
    ("a UBI volume", &[0], b"UBI#"),
    ("a UBIFS file system", &[0], &[0x31, 0x18, 0x10, 0x06]),
    ("an F2FS file system", &[1024], &[0x10, 0x20, 0xf5, 0xf2]),
    ("an EROFS file system", &[1024], &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("an HFS file system", &[1024], b"H+\0\x04"),
    ("an HFS file system", &[1024], b"HX\0\x05"),
    ("a NILFS2 file system", &[1030], b"44"),
    ("a SquashFS file system", &[0], b"hsqs"),
    ("a SquashFS file system", &[0], b"sqsh"),
    ("an NTFS file system", &[3], b"NTFS    "),
    ("a ReFS file system", &[0], b"\0\0\0ReFS\0"),
    ("an exFAT file system", &[3], b"EXFAT   "),
    ("a BitLocker volume", &[3], b"-FVE-FS-"),
    ("a FAT file system", &[54], b"FAT12   "),
    ("a FAT file system", &[54], b"FAT16   "),
    ("a FAT file system", &[54], b"FAT     "),
    ("a FAT file system", &[54], b"MSDOS"),
    ("a FAT file system", &[82], b"FAT32   "),
    ("a FAT file system", &[82], b"MSWIN"),
    ("a FAT file system", &[3], b"MSWIN4.1"),
    ("an HPFS file system", &[8192], &[0x49, 0xe8, 0x95, 0xf9]),
    ("an APFS container", &[32], b"NXSB"),
    ("an ISO 9660 file system", &[32_769], b"CD001"),
    ("an ISO 9660 file system", &[32_777], b"CDROM"),
    ("a UDF file system", &[32_769], b"BEA01"),
    ("a UDF file system", &[32_769], b"BOOT2"),
    ("a UDF file system", &[32_769], b"CDW02"),
    ("a UDF file system", &[32_769], b"NSR02"),
    ("a UDF file system", &[32_769], b"NSR03"),
    ("a UDF file system", &[32_769], b"TEA01"),
    ("a JFS file system", &[32_768], b"JFS1"),
    ("a ReiserFS file system", &[65_588], b"ReIsEr"),
    ("a ReiserFS file system", &[8212, 8244], b"ReIsErFs"),
    ("a Reiser4 file system", &[65_536], b"ReIsEr4"),
    ("a GFS2 file system", &[65_536], &[0x01, 0x16, 0x19, 0x70]),
    ("an OCFS2 file system", &[1024, 2048, 4096, 8192], b"OCFSV2"),
    ("an OCFS file system", &[8192], b"OracleCFS"),
    ("a VxFS file system", &[1024], &[0xf5, 0xfc, 0x01, 0xa5]),
    ("a VxFS file system", &[8192], &[0xa5, 0x01, 0xfc, 0xf5]),
    ("an NSS file system", &[4096], b"SPB5"),
    ("a Ceph BlueStore device", &[0], b"bluestore block device"),
    ("a disk of Oracle ASM", &[32], b"ORCLDISK"),
    ("a Stratis pool", &[516, 4612], b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("a VDO volume", &[0], b"dmvdo001"),
    ("an mpool device", &[0], b"mpoolDev"),
    ("a control volume of DRBD", &[0], b"$DRBDmgr=q"),
    ("a log of DRBD's proxy", &[0], b"DRBDdlh*"),
    ("a heartbeat of OpenSVC", &[4], &[0x3d, 0xc1, 0x3c, 0x87, 0xc0, 0x5b, 0xe3, 0xb6]),
    ("a SysV file system", &[1016, 10_232, 16_376, 19_448], &[0x20, 0x7e, 0x18, 0xfd]),
    ("a SysV file system", &[1016, 10_232, 16_376, 19_448], &[0xfd, 0x18, 0x7e, 0x20]),
    ("a Xenix file system", &[2048], b"+UD"),
    ("a Xenix file system", &[2048], b"DU+"),
    ("a CramFS file system", &[0], &[0x45, 0x3d, 0xcd, 0x28]),
    ("a CramFS file system", &[0], &[0x28, 0xcd, 0x3d, 0x45]),
    ("a romfs file system", &[0], b"-rom1fs-"),
    ("a zonefs file system", &[0], b"SFOZ"),
    ("a BFS file system", &[0], &[0xce, 0xfa, 0xad, 0x1b]),
    ("a BeOS file system", &[32, 544], b"BFS1"),
    ("a BeOS file system", &[32, 544], b"1SFB"),
];

/// The same for magic numbers of two bytes: those count only where other bytes lie as they always do beside them.
const WEAK: [(&str, Place, Place); 12] = [
    // Its bitmap begins in the fourth sector (Inside Macintosh: Files, "Master Directory Blocks").
    ("an HFS file system", (1024, b"BD"), (1038, &[0, 3])),
    // A zone is a block (minix_fs.h: s_log_zone_size).
    ("a Minix file system", (1040, &[0x7f, 0x13]), (1034, &[0, 0])),
    ("a Minix file system", (1040, &[0x8f, 0x13]), (1034, &[0, 0])),
    ("a Minix file system", (1040, &[0x13, 0x7f]), (1034, &[0, 0])),
    ("a Minix file system", (1040, &[0x13, 0x8f]), (1034, &[0, 0])),
    ("a Minix file system", (1040, &[0x68, 0x24]), (1034, &[0, 0])),
    ("a Minix file system", (1040, &[0x78, 0x24]), (1034, &[0, 0])),
    ("a Minix file system", (1040, &[0x24, 0x68]), (1034, &[0, 0])),
    ("a Minix file system", (1040, &[0x24, 0x78]), (1034, &[0, 0])),
    ("a Minix file system", (1048, &[0x5a, 0x4d]), (1036, &[0, 0])),
    ("a Minix file system", (1048, &[0x4d, 0x5a]), (1036, &[0, 0])),
    // The kind of block that FileVault 2 makes.
    ("a FileVault volume", (88, b"CS"), (10, &[0x10, 0])),
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
    let tail_start = size.saturating_sub(TAIL_BYTES);
    let head = read(0, HEAD_BYTES.min(size) as usize)?;
    let tail = read(tail_start, (size - tail_start) as usize)?;
    let ends = Ends { size, head, tail, tail_start };
    let at_head = HEAD.into_iter().flat_map(|(name, offsets, magic)| offsets.iter().map(move |at| (name, *at, magic)));
    let boot: (&str, u64, &[u8]) = ("an MBR partition table or a boot sector", 510, &[0x55, 0xaa]);
    let places = at_head.chain([boot]).chain(at_end(size)).filter(|(_, at, magic)| ends.has(*at, magic));
    let mut found: Vec<_> = places.map(|(name, offset, _)| Signature { name, offset }).collect();
    let weak =
        WEAK.into_iter().filter(|(_, (at, magic), (beside, bytes))| ends.has(*at, magic) && ends.has(*beside, bytes));
    found.extend(weak.map(|(name, (offset, _), _)| Signature { name, offset }));
    found.extend(ends.judged());
    Ok(found)
}

/// What lies at places that the end of a device tells.
fn at_end(size: u64) -> Vec<(&'static str, u64, &'static [u8])> {
    let sector = |count: u64| (size / 512).saturating_sub(count) * 512;
    let raid = [[0xfc, 0x4e, 0x2b, 0xa9].as_slice(), &[0xa9, 0x2b, 0x4e, 0xfc]];
    // mdadm's metadata 0.90 lies in the last whole 64 KiB but one, 1.0 in the last 8 KiB to 12 KiB.
    let (raid_0, raid_1) = ((size & !0xffff).saturating_sub(65_536), size.saturating_sub(8192) & !4095);
    let drbd = ((size & !4095).saturating_sub(4096)).saturating_add(60);
    let mut places: Vec<(&str, u64, &[u8])> = vec![
        ("a GPT partition table", size.saturating_sub(512), b"EFI PART"),
        ("a GPT partition table", size.saturating_sub(4096), b"EFI PART"),
        ("a member of a RAID", raid_0, raid[0]),
        ("a member of a RAID", raid_0, raid[1]),
        ("a member of a RAID", raid_1, raid[0]),
        ("a member of a DDF RAID", sector(1), &[0xde, 0x11, 0xde, 0x11]),
        ("a member of a DDF RAID", sector(1), &[0x11, 0xde, 0x11, 0xde]),
        ("a member of a DDF RAID", sector(257), &[0xde, 0x11, 0xde, 0x11]),
        ("a member of a DDF RAID", sector(257), &[0x11, 0xde, 0x11, 0xde]),
        ("a member of an Intel RAID", sector(2), b"Intel Raid ISM Cfg Sig. "),
        ("a member of an Intel RAID", size.saturating_sub(8192), b"Intel Raid ISM Cfg Sig. "),
        ("a member of an LSI RAID", sector(1), b"$XIDE$"),
        ("a member of an NVIDIA RAID", sector(2), b"NVIDIA"),
        ("a member of a HighPoint RAID", sector(11), &[0xf3, 0x16, 0x78, 0x5a]),
        ("a member of a HighPoint RAID", sector(11), &[0xfd, 0x16, 0x78, 0x5a]),
        ("a member of an Adaptec RAID", sector(1), &[0x37, 0xfc, 0x4d, 0x1e]),
        ("a member of a JMicron RAID", sector(1), b"JM"),
        ("a DRBD device", drbd, &[0x83, 0x74, 0x02, 0x6b]),
        ("a DRBD device", drbd, &[0x83, 0x74, 0x02, 0x6c]),
        ("a DRBD device", drbd, &[0x83, 0x74, 0x02, 0x6d]),
        ("a NILFS2 file system", sector(8), &[2, 0, 0, 0, 0, 0, 0x34, 0x34]),
    ];
    places.extend(PROMISE.map(|count| ("a member of a Promise RAID", sector(count), &b"Promise Technology, Inc."[..])));
    let labels_end = size / ZFS_LABEL_BYTES * ZFS_LABEL_BYTES;
    let labels = [0, ZFS_LABEL_BYTES].into_iter().chain([2, 1].map(|n| labels_end.saturating_sub(n * ZFS_LABEL_BYTES)));
    places.extend(labels.flat_map(|label| ZFS.map(|(at, magic)| ("a ZFS pool", label + at, magic))));
    places
}

/// What was read of a device.
struct Ends {
    /// Bytes of the device.
    size: u64,
    /// Its first bytes.
    head: Vec<u8>,
    /// Its last bytes.
    tail: Vec<u8>,
    /// Where those begin.
    tail_start: u64,
}

impl Ends {
    fn has(&self, at: u64, magic: &[u8]) -> bool {
        self.bytes(at, magic.len()) == Some(magic)
    }

    fn bytes(&self, at: u64, len: usize) -> Option<&[u8]> {
        let of_head = self.head.get(at as usize..at as usize + len);
        of_head.or_else(|| {
            let at = at.checked_sub(self.tail_start)? as usize;
            self.tail.get(at..at + len)
        })
    }

    /// What is known by more than bytes in their places.
    fn judged(&self) -> Vec<Signature> {
        let mut found = Vec::new();
        let sector = |at: u64| self.bytes(at, 512);
        let last = (self.size / 512).saturating_sub(1) * 512;
        if sector(0).is_some_and(is_sun_label) {
            found.push(Signature { name: "a Sun disk label", offset: 508 });
        }
        if sector(last).is_some_and(is_via) {
            found.push(Signature { name: "a member of a VIA RAID", offset: last });
        }
        if sector(last).is_some_and(is_silicon) {
            found.push(Signature { name: "a member of a Silicon Image RAID", offset: last + 0x60 });
        }
        let is_ufs =
            |at: &u64| UFS_MAGICS.iter().any(|n| self.has(*at, &n.to_le_bytes()) || self.has(*at, &n.to_be_bytes()));
        found.extend(UFS.into_iter().filter(is_ufs).map(|offset| Signature { name: "a UFS file system", offset }));
        let mut sectors = (0..LOG_BYTES).step_by(512);
        let log = sectors.find(|at| self.bytes(*at, 512).is_some_and(is_log_record));
        found.extend(log.map(|offset| Signature { name: "a log of an XFS file system", offset }));
        found
    }
}

/// A label whose 16-bit words, its checksum among them, cancel each other out.
fn is_sun_label(sector: &[u8]) -> bool {
    sector[508..510] == [0xda, 0xbe] && words(sector).fold(0, |sum, word| sum ^ word) == 0
}

/// A sector whose first 50 bytes add up to the next.
fn is_via(sector: &[u8]) -> bool {
    let sum = sector[..50].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    sector.starts_with(&[0x55, 0xaa]) && sector[2] <= 2 && sum == sector[50]
}

/// A sector whose words up to 0x13e, and that one, add up to zero.
fn is_silicon(sector: &[u8]) -> bool {
    let sum = words(&sector[..0x140]).fold(0u16, |sum, word| sum.wrapping_add(word.swap_bytes()));
    sector[0x60..0x64] == [0, 0, 0, 0x2f] && sum == 0
}

/// The header of a log record, of a version that there is (1 and 2, as bits).
fn is_log_record(sector: &[u8]) -> bool {
    sector.starts_with(&[0xfe, 0xed, 0xba, 0xbe]) && matches!(sector[8..12], [0, 0, 0, 1..=3])
}

/// The 16-bit words, big end first.
fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 5 << 20;

    /// What an image carries that is zeros but for these bytes.
    fn carried(parts: &[(u64, &[u8])]) -> Vec<&'static str> {
        let mut image = vec![0; SIZE];
        parts.iter().for_each(|(at, bytes)| image[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes));
        let read = |at: u64, len| Ok(image[at as usize..at as usize + len].to_vec());
        let found = find(image.len() as u64, read).unwrap();
        found.into_iter().map(|signature| signature.name).collect()
    }

    #[test]
    fn each_magic_number_is_found_in_its_place() {
        for (name, offsets, magic) in HEAD {
            for at in offsets {
                assert!(carried(&[(*at, magic)]).contains(&name), "{name} at {at}");
            }
        }
        for (name, at, magic) in at_end(SIZE as u64) {
            assert!(carried(&[(at, magic)]).contains(&name), "{name} at {at}");
        }
        for (name, magic, beside) in WEAK {
            assert_eq!(carried(&[magic, beside]), [name]);
        }
        for (at, magic) in UFS.into_iter().zip(UFS_MAGICS) {
            assert_eq!(carried(&[(at, &magic.to_be_bytes())]), ["a UFS file system"]);
            assert_eq!(carried(&[(at, &magic.to_le_bytes())]), ["a UFS file system"]);
        }
        assert!(carried(&[(510, &[0x55, 0xaa])])[0].contains("MBR"));
        assert_eq!(carried(&[(2048, b"\xfe\xed\xba\xbe\0\0\0\x01\0\0\0\x02")]), ["a log of an XFS file system"]);
    }

    #[test]
    fn what_carries_nothing_is_not_taken_for_anything() {
        assert_eq!(carried(&[]), [""; 0]);
        for size in [0u64, 512, 4096, 40_960] {
            assert_eq!(find(size, |_, len| Ok(vec![0; len])), Ok(Vec::new()), "{size}");
            assert_eq!(find(size, |_, len| Ok(vec![0xff; len])), Ok(Vec::new()), "{size}");
        }
        // Two bytes alone are any data's.
        for (_, magic, (beside, bytes)) in WEAK {
            assert_eq!(carried(&[magic, (beside, &vec![0x77; bytes.len()])]), [""; 0]);
        }
        assert_eq!(carried(&[(508, &[0xda, 0xbe])]), [""; 0], "the checksum of a Sun disk label is wrong");
        assert_eq!(carried(&[(SIZE as u64 - 512, &[0x55, 0xaa])]), [""; 0], "the sum of a VIA RAID is wrong");
    }

    #[test]
    fn sectors_with_checksums_are_believed_by_them() {
        let sector = |from: &[(usize, &[u8])]| {
            let mut sector = [0; 512];
            from.iter().for_each(|(at, bytes)| sector[*at..*at + bytes.len()].copy_from_slice(bytes));
            sector
        };
        let label = |sum: [u8; 2]| sector(&[(0, &[1, 2]), (508, &[0xda, 0xbe]), (510, &sum)]);
        assert!(is_sun_label(&label([0xdb, 0xbc])) && !is_sun_label(&label([0xdb, 0xbd])));
        assert!(is_via(&sector(&[(0, &[0x55, 0xaa, 1, 7]), (50, &[0x55u8.wrapping_add(0xaa).wrapping_add(8)])])));
        assert!(is_silicon(&sector(&[(0x60, &[0, 0, 0, 0x2f]), (0x13e, &[0, 0xd1])])));
    }
}
