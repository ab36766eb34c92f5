//! The codecs: what is written is what is read, and no bytes make a decoder panic.

use gfast::catalog::*;
use gfast::report::{LossSet, PASSES_MAX, Pass};
use gfast::ring::{Name, Time};
use proptest::option;
use proptest::prelude::*;

fn time() -> impl Strategy<Value = Time> {
    let secs = prop_oneof![any::<i64>(), 1_500_000_000i64..2_000_000_000, -10i64..10];
    let nanos = prop_oneof![Just(0u32), 0u32..1_000_000_000];
    (secs, nanos).prop_map(|(secs, nanos)| Time { secs, nanos })
}

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec(1u8..=255, 0..300).prop_map(|bytes| Name::new(bytes).unwrap())
}

fn stamp() -> impl Strategy<Value = Stamp> {
    let stamps = (any::<u64>(), time(), time(), any::<u64>(), any::<bool>());
    stamps.prop_map(|(size, mtime, ctime, ino, is_same)| Stamp {
        size,
        mtime,
        ctime: if is_same { mtime } else { ctime },
        ino,
    })
}

fn status() -> impl Strategy<Value = Status> {
    let all = [Status::Pending, Status::InProgress, Status::Written, Status::Done, Status::Failed];
    prop::sample::select(all.to_vec())
}

fn failure() -> impl Strategy<Value = Failure> {
    (any::<u16>(), "[a-z ]{0,48}", "[a-zäöü ]{0,100}", any::<u32>())
        .prop_map(|(errno, verb, cause, attempts)| Failure { errno, verb, cause, attempts })
}

fn record() -> impl Strategy<Value = Record> {
    let ids = (0u64..3, any::<u64>()).prop_map(|(kind, id)| if kind == 0 { 0 } else { id });
    let proofs = prop::sample::select(vec![Proof::Length, Proof::Written, Proof::Server, Proof::ReadBack]);
    let checksum = (any::<u64>(), proofs).prop_map(|(crc64, proof)| Checksum { crc64, proof });
    let id = || prop_oneof![Just(0u32), Just(1000u32), any::<u32>()];
    let owner = (id(), id()).prop_map(|(uid, gid)| Owner { uid, gid });
    let kept = (any::<u16>(), option::of(owner));
    let file = (status(), any::<u64>(), stamp(), ids.clone(), ids, option::of(failure()), option::of(checksum), kept);
    prop_oneof![
        any::<u64>().prop_map(|id| Record::Dir(DirId(id))),
        file.prop_map(|(status, batch, stamp, dest_ino, large_id, failure, checksum, (losses, owner))| {
            let losses = LossSet::from_bits(losses);
            Record::File(FileRecord { status, batch, stamp, dest_ino, large_id, failure, checksum, losses, owner })
        }),
    ]
}

fn dir_stamp() -> impl Strategy<Value = DirStamp> {
    let ids = (0..1_u32 << 16, any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<bool>());
    (ids, time(), time(), time()).prop_map(|((mode, uid, gid, ino, dev, is_mount), atime, mtime, ctime)| DirStamp {
        mode,
        uid,
        gid,
        atime,
        mtime,
        ctime,
        ino,
        dev,
        is_mount,
    })
}

fn passes() -> impl Strategy<Value = Vec<Pass>> {
    let pass = any::<[u64; 4]>().prop_map(|[elapsed_ms, entries, changes, bytes]| Pass {
        elapsed_ms,
        entries,
        changes,
        bytes,
    });
    prop::collection::vec(pass, 0..=PASSES_MAX)
}

fn header() -> impl Strategy<Value = StoredHeader> {
    (any::<[u64; 8]>(), any::<u32>(), any::<bool>(), any::<[u8; 16]>(), any::<u64>(), passes()).prop_map(
        |(numbers, pass, is_running, boot_id, transaction, passes)| StoredHeader {
            header: Header {
                job_id: numbers[0],
                pass,
                status: if is_running { JobStatus::Running } else { JobStatus::Finished },
                pass_start_batch: numbers[1],
                durable_batch: numbers[2],
                completed_batch: numbers[3],
                next_id: numbers[4],
                boot_id,
                boot_batch: numbers[7],
                has_unsynced: numbers[7].is_multiple_of(2),
                totals: Totals { entries: numbers[5], bytes: numbers[6] },
                passes,
            },
            transaction,
            reseal_count: numbers[7],
        },
    )
}

proptest! {
    #[test]
    fn records_come_back(record in record()) {
        let mut body = Vec::new();
        encode_record(&record, &mut body);
        prop_assert_eq!(decode_record(&body), Ok(record));
        for len in 0..body.len() {
            prop_assert!(decode_record(&body[..len]).is_err(), "cut to {} bytes", len);
        }
    }

    #[test]
    fn directories_come_back(
        parent in any::<u64>(), name in name(), stamp in option::of(dir_stamp()), listed_batch in any::<u64>(),
        losses in any::<u16>(), told in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let losses = LossSet::from_bits(losses);
        let dir = DirRecord { parent: DirId(parent), name, stamp, listed_batch, losses, told };
        let mut body = Vec::new();
        encode_dir(&dir, &mut body);
        prop_assert_eq!(decode_dir(&body), Ok(dir));
    }

    #[test]
    fn ranges_and_links_come_back(
        offset in any::<u64>(),
        len in any::<u64>(),
        (crc64, etag) in (option::of(any::<u64>()), option::of(any::<u64>())),
        (name, id, key) in (name(), "\\PC{0,80}", "\\PC{0,80}"),
    ) {
        let (range, mut body) = (Range { offset, len, crc64, etag }, Vec::new());
        encode_range(&range, &mut body);
        prop_assert_eq!(decode_range(offset, &body), Ok(range));
        let (upload, mut body) = (Upload { id, part_bytes: len, key, begun_secs: offset }, Vec::new());
        encode_upload(&upload, &mut body);
        prop_assert_eq!(decode_upload(&body), Ok(upload));
        let (first, mut body) = (LinkFirst { dir: DirId(offset), name, batch: len }, Vec::new());
        encode_link(&first, &mut body);
        prop_assert_eq!(decode_link(&body), Ok(first));
    }

    #[test]
    fn headers_come_back(header in header()) {
        let mut body = Vec::new();
        encode_header(&header, &mut body);
        prop_assert_eq!(decode_header(&body), Ok(header));
    }

    #[test]
    fn any_bytes_are_a_record_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..80), first in 0x10u8..0x30) {
        // With a version and kind that exist in front, so that the parts behind are reached.
        let mut body = bytes;
        body.insert(0, first);
        if let Ok(record) = decode_record(&body) {
            let mut again = Vec::new();
            encode_record(&record, &mut again);
            prop_assert_eq!(decode_record(&again), Ok(record));
        }
        if let Ok(header) = decode_header(&body) {
            let mut again = Vec::new();
            encode_header(&header, &mut again);
            prop_assert_eq!(decode_header(&again), Ok(header));
        }
        let _ = (decode_dir(&body), decode_link(&body), decode_range(0, &body), decode_upload(&body));
        let _ = decode_piece(&body, &mut Vec::new());
    }
}

#[test]
fn a_long_cause_is_cut_between_characters() {
    let failure = Failure { errno: 0, verb: "v".repeat(100), cause: "ä".repeat(200), attempts: 1 };
    let record = FileRecord {
        status: Status::Failed,
        batch: 1,
        stamp: Stamp::default(),
        dest_ino: 0,
        large_id: 0,
        failure: Some(failure),
        checksum: None,
        losses: LossSet::default(),
        owner: Some(Owner { uid: 1, gid: 0 }),
    };
    let mut body = Vec::new();
    encode_record(&Record::File(record.clone()), &mut body);
    let cut = Failure { errno: 0, verb: "v".repeat(48), cause: "ä".repeat(120), attempts: 1 };
    assert_eq!(decode_record(&body), Ok(Record::File(FileRecord { failure: Some(cut), ..record })));
}

fn bytes_of(record: FileRecord) -> Vec<u8> {
    let mut body = Vec::new();
    encode_record(&Record::File(record), &mut body);
    body
}

/// A record as it was written before owners were kept: without one, and of the version of then.
#[test]
fn a_record_of_before_owners_were_kept_is_read() {
    let old = [0x1b, 0x8a, 0x05, 0x80, 0x20, 0x02, 0x04, 0x07, 0x2a, 0x11, 0x22];
    let Ok(Record::File(record)) = decode_record(&old) else { panic!("{:?}", decode_record(&old)) };
    let losses = LossSet::from_bits(0x2211);
    assert_eq!((record.status, record.batch, record.stamp.size, record.losses), (Status::Done, 5, 4096, losses));
    assert_eq!((record.stamp.ino, record.dest_ino, record.owner), (7, 0x2a, None));
    assert_eq!(bytes_of(record)[0] >> 4, 1);
}

#[test]
fn an_owner_takes_few_bytes() {
    let losses = LossSet::default();
    let len = |owner| {
        let stamp = Stamp { size: 4096, ..Stamp::default() };
        let (status, failure, checksum) = (Status::Done, None, None);
        bytes_of(FileRecord { status, batch: 1, stamp, dest_ino: 1, large_id: 0, failure, checksum, losses, owner })
            .len()
    };
    let more = |uid, gid| len(Some(Owner { uid, gid })) - len(None);
    assert_eq!([more(0, 0), more(1000, 1000), more(1000, 100), more(u32::MAX, 0)], [0, 3, 4, 10]);
}
