#!/usr/bin/env python3
"""For scripts/soak mounts: attributes on a tree, and what a copy of it has lost.

    soakmounts.py set TREE               user attributes and an ACL on 1,000 files, capabilities on 10
    soakmounts.py lost SOURCE COPY FILE  is FILE (gfast report -losses -format ndjson) what differs, and nothing else?

Both sides are looked at object by object; nothing of gfast's is used but the lines of its report.
"""

import json
import os
import stat
import subprocess
import sys


def files(tree):
    for folder, _, names in os.walk(tree):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def set_attributes(tree):
    chosen = sorted(files(tree))[:: max(1, sum(1 for _ in files(tree)) // 1000)][:1000]
    assert len(chosen) == 1000, f"only {len(chosen)} files"
    for number, path in enumerate(chosen):
        os.setxattr(path, b"user.soak", b"value %d" % number)
    subprocess.run(["setfacl", "-m", "u:12345:r", "--", *chosen], check=True)
    # cap_net_raw=ep, revision 2.
    capability = bytes([1, 0, 0, 2, 0, 0x20]) + bytes(14)
    for path in chosen[:: len(chosen) // 10][:10]:
        os.setxattr(path, b"security.capability", capability)
    print(f"    attributes on {len(chosen)} files, capabilities on 10")


def kind_of(key):
    if key.startswith("system.posix_acl_"):
        return "acl"
    return "capabilities" if key == "security.capability" else "xattrs"


def attributes(path):
    try:
        keys = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    wanted = [key for key in keys if not key.startswith("security.") or key == "security.capability"]
    return {key: os.getxattr(path, key, follow_symlinks=False) for key in wanted}


def object_lost(source, copy):
    """What one object has lost, as the report's keys."""
    before = os.lstat(source)
    try:
        after = os.lstat(copy)
    except FileNotFoundError:
        kinds = [(stat.S_ISLNK, "symlink"), (stat.S_ISFIFO, "fifo_or_socket"), (stat.S_ISSOCK, "fifo_or_socket")]
        return {next((name for is_it, name in kinds if is_it(before.st_mode)), "device_node")}
    lost = set()
    if (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid):
        lost.add("owner")
    if not stat.S_ISLNK(before.st_mode):
        differing = before.st_mode ^ after.st_mode
        lost |= {name for bits, name in [(0o1777, "mode"), (0o6000, "set_ids")] if differing & bits}
    if before.st_mtime_ns != after.st_mtime_ns:
        is_second = before.st_mtime_ns // 10**9 == after.st_mtime_ns // 10**9
        lost.add("time_precision" if is_second else "times")
    theirs = attributes(copy)
    return lost | {kind_of(key) for key, value in attributes(source).items() if theirs.get(key) != value}


def check(source, copy, report):
    expected = {}
    for folder, folders, names in os.walk(source):
        for name in [""] * (folder == source) + folders + names:
            path = os.path.join(folder, name) if name else folder
            below = os.path.relpath(path, source)
            lost = object_lost(path, os.path.join(copy, below))
            if lost:
                expected[below] = lost
    told = {}
    with open(report, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if "path" in line:
                told[line["path"].replace("\\\\", "\\")] = set(line["losses"])
    wrong = [path for path in expected.keys() | told.keys() if expected.get(path) != told.get(path)]
    for path in sorted(wrong)[:20]:
        print(f"    {path}: lost {expected.get(path)}, told {told.get(path)}")
    counts = {}
    for lost in expected.values():
        for name in lost:
            counts[name] = counts.get(name, 0) + 1
    print(f"    losses: {counts}")
    return not wrong and bool(expected)


def main():
    match sys.argv[1:]:
        case ["set", tree]:
            set_attributes(tree)
        case ["lost", source, copy, report]:
            sys.exit(0 if check(source, copy, report) else 1)
        case _:
            sys.exit(__doc__)


main()
