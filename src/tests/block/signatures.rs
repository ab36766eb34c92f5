//! What a device may carry, whose overwriting is refused. Some of it is made by the tools that make it in earnest, the
//! rest is its magic number and what blkid(8) looks at besides; blkid's own word is asked for (wipefs(8) tells it).

use std::fs;
use std::path::Path;
use std::process::Command;

use super::noisy;
use super::refusals::refused;
use super::support::block::Loop;
use super::support::fixture::{can_mount, has, must, skip};
use super::support::{Engine, Job, Scratch};

/// Bytes of the devices: the smallest that OCFS and a log of XFS are looked for on.
const BYTES: u64 = 16 << 20;

/// What blkid says that a device carries.
fn known_as(device: &Path) -> String {
    must(Command::new("wipefs").args(["--no-act", "--noheadings", "--output", "TYPE"]).arg(device))
}

/// Refused as carrying this, before and after which it is known for that.
#[track_caller]
fn assert_refused(dest: &Path, type_name: &str, name: &str) {
    let said = known_as(dest);
    assert!(said.lines().any(|line| line.trim() == type_name), "{name} is no {type_name}: {said}");
    let source = noisy(1, 61);
    refused(source.path(), dest, &[], &format!("carries {name}"));
}

#[test]
fn what_tools_have_made_is_not_overwritten() {
    let test = "what_tools_have_made_is_not_overwritten";
    if !can_mount(test) {
        return;
    }
    let made: [(&str, &[&str], &str, &str); 9] = [
        ("mkswap", &["--pagesize", "4096"], "swap", "swap space"),
        ("mkswap", &["--pagesize", "8192"], "swap", "swap space"),
        ("mkswap", &["--pagesize", "16384"], "swap", "swap space"),
        ("mkswap", &["--pagesize", "32768"], "swap", "swap space"),
        ("mkswap", &["--pagesize", "65536"], "swap", "swap space"),
        ("mkfs.minix", &["-1"], "minix", "a Minix file system"),
        ("mkfs.minix", &["-2"], "minix", "a Minix file system"),
        ("mkfs.minix", &["-3"], "minix", "a Minix file system"),
        ("mkfs.bfs", &[], "bfs", "a BFS file system"),
    ];
    for (tool, words, type_name, name) in made {
        if has(tool) || skip(test, tool) {
            let dest = Loop::new(BYTES);
            must(Command::new(tool).args(words).arg(dest.path()));
            assert_refused(dest.path(), type_name, name);
        }
    }
    if has("mkfs.xfs") || skip(test, "mkfs.xfs") {
        let (dest, data) = (Loop::new(64 << 20), Loop::new(512 << 20));
        let log = format!("logdev={},size=64m", dest.path().display());
        must(Command::new("mkfs.xfs").args(["-q", "-f", "-l", &log]).arg(data.path()));
        assert_refused(dest.path(), "xfs_external_log", "a log of an XFS file system");
    }
}

/// Bytes of an image, where they lie; before its end where that is negative.
type Part = (i64, &'static [u8]);

/// A device of zeros but for these.
fn holding(parts: &[Part]) -> Loop {
    let device = Loop::new(BYTES);
    for (at, bytes) in parts {
        device.write(if *at < 0 { BYTES - at.unsigned_abs() } else { *at as u64 }, bytes);
    }
    device
}

#[test]
fn what_blkid_knows_is_not_overwritten() {
    if !can_mount("what_blkid_knows_is_not_overwritten") {
        return;
    }
    let cases: [(&str, &str, &[Part]); 38] = [
        ("VMFS_volume_member", "a volume of VMFS", &[(1 << 20, &[0x0d, 0xd0, 0x01, 0xc0])]),
        ("VMFS", "a VMFS file system", &[(2 << 20, &[0x5e, 0xf1, 0xab, 0x2f])]),
        ("ReFS", "a ReFS file system", &[(0, b"\0\0\0ReFS\0")]),
        ("drbd", "a DRBD device", &[(-4036, &[0x83, 0x74, 0x02, 0x6b])]),
        ("drbd", "a DRBD device", &[(-4036, &[0x83, 0x74, 0x02, 0x6d])]),
        ("DM_integrity", "a dm-integrity device", &[(0, b"integrt\0\x01")]),
        ("DM_verity_hash", "a dm-verity hash device", &[(0, b"verity\0\0\x01\0\0\0")]),
        ("DM_snapshot_cow", "the changes of a snapshot", &[(0, b"SnAp")]),
        ("LVM1_member", "an LVM physical volume", &[(0, b"HM\x01\0")]),
        ("mac", "an Apple partition map", &[(0, b"ER\x02\0"), (512, b"PM\0\0\0\0\0\x01")]),
        ("sun", "a Sun disk label", &[(0, &[1, 2]), (508, &[0xda, 0xbe, 0xdb, 0xbc])]),
        ("sgi", "an SGI disk label", &[(0, &[0x0b, 0xe5, 0xa9, 0x41]), (504, &[0xf4, 0x1a, 0x56, 0xbf])]),
        ("ultrix", "an ULTRIX disk label", &[(16_312, &[0x57, 0x29, 3, 0, 1])]),
        ("aix", "a disk of AIX", &[(0, &[0xc9, 0xc2, 0xd4, 0xc1])]),
        ("hfs", "an HFS file system", &[(1024, b"BD"), (1038, &[0, 3]), (1044, &[0, 0, 2, 0])]),
        ("hpfs", "an HPFS file system", &[(8192, &[0x49, 0xe8, 0x95, 0xf9]), (8704, &[0x49, 0x18, 0x91, 0xf9])]),
        ("ufs", "a UFS file system", &[(9564, &[0x54, 0x19, 0x01, 0])]),
        ("ufs", "a UFS file system", &[(1372, &[0, 0x01, 0x19, 0x54])]),
        ("ufs", "a UFS file system", &[(263_516, &[0x19, 0x01, 0x54, 0x19])]),
        ("sysv", "a SysV file system", &[(1016, &[0x20, 0x7e, 0x18, 0xfd])]),
        ("xenix", "a Xenix file system", &[(2048, b"+UD")]),
        ("vxfs", "a VxFS file system", &[(1024, &[0xf5, 0xfc, 0x01, 0xa5])]),
        ("nss", "an NSS file system", &[(4096, b"SPB5")]),
        ("reiser4", "a Reiser4 file system", &[(65_536, b"ReIsEr4")]),
        ("ocfs", "an OCFS file system", &[(8192, b"OracleCFS")]),
        ("ocfs2", "an OCFS2 file system", &[(2048, b"OCFSV2")]),
        ("romfs", "a romfs file system", &[(0, b"-rom1fs-")]),
        ("swsuspend", "swap of a suspended system", &[(8182, b"LINHIB0001")]),
        ("crypto_LUKS", "a LUKS volume", &[(0x20_0000, b"SKUL\xba\xbe\0\x02"), (0x20_0100, &[0, 0, 0, 0, 0, 0x20])]),
        ("lsi_mega_raid_member", "a member of an LSI RAID", &[(-512, b"$XIDE$")]),
        ("nvidia_raid_member", "a member of an NVIDIA RAID", &[(-1024, b"NVIDIA")]),
        ("hpt45x_raid_member", "a member of a HighPoint RAID", &[(-5632, &[0xf3, 0x16, 0x78, 0x5a])]),
        ("hpt37x_raid_member", "a member of a HighPoint RAID", &[(4640, &[0xf0, 0x16, 0x78, 0x5a])]),
        ("adaptec_raid_member", "a member of an Adaptec RAID", &[(-512, &[0x37, 0xfc, 0x4d, 0x1e]), (-256, b"DPTM")]),
        ("promise_fasttrack_raid_member", "a member of a Promise RAID", &[(-1_580_544, b"Promise Technology, Inc.")]),
        ("silicon_medley_raid_member", "a member of a Silicon", &[(-416, &[0, 0, 0, 0x2f]), (-194, &[0, 0xd1])]),
        ("via_raid_member", "a member of a VIA RAID", &[(-512, &[0x55, 0xaa, 1, 7]), (-462, &[0x07])]),
        ("ddf_raid_member", "a member of a DDF RAID", &[(-131_584, &[0x11, 0xde, 0x11, 0xde])]),
    ];
    for (type_name, name, parts) in cases {
        assert_refused(holding(parts).path(), type_name, name);
    }
}

/// What has no signature, or one that is not whole, may be written to.
#[test]
fn what_only_looks_like_something_is_overwritten() {
    if !can_mount("what_only_looks_like_something_is_overwritten") {
        return;
    }
    let cases: [&[Part]; 4] = [
        &[(508, &[0xda, 0xbe])],
        &[(1024, b"BD")],
        &[(1034, b"text"), (1040, &[0x7f, 0x13])],
        &[(-512, &[0x55, 0xaa])],
    ];
    for parts in cases {
        let (source, dest, scratch) = (noisy(1, 62), holding(parts), Scratch::new());
        let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Auto);
        job.run().expect(0);
        assert!(fs::read(dest.path()).unwrap().starts_with(&source.content()));
    }
}
