#!/usr/bin/env python3
"""For scripts/soak mounts: attributes on a tree, and what a copy of it has lost.

    soakmounts.py set TREE               user attributes and an ACL on 1,000 files, capabilities on 10
    soakmounts.py odd TREE               hard links, symlinks, a FIFO, a late time, and names that Windows has not
    soakmounts.py lost SOURCE COPY FILE  is FILE (gfast report -losses -format ndjson) what differs, and nothing else?
                  [unlinked]             ... where the destination holds no hard links
    soakmounts.py verified FILE SAID     is every object that verify (-json) says differs one that FILE tells a loss of?

Both sides are looked at object by object; nothing of gfast's is used but the lines of its report.
"""

import functools
import json
import os
import re
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


NAMES = [b"a:b", b"what?", b"trailing.", b"blank ", b"new\nline", b"not\xffutf8", b"x" * 255, b"Case", b"case", b"CASE", b"con"]


def set_odd(tree):
    odd = os.path.join(os.fsencode(tree), b"odd")
    os.mkdir(odd)
    for name in NAMES:
        with open(os.path.join(odd, name), "wb") as file:
            file.write(name)
    os.mkdir(os.path.join(odd, b"dir:with"))
    with open(os.path.join(odd, b"dir:with", b"below"), "wb") as file:
        file.write(b"below")
    for number in range(20):
        first = os.path.join(odd, b"first-%d" % number)
        with open(first, "wb") as file:
            file.write(b"of two names" * number)
        os.link(first, os.path.join(odd, b"second-%d" % number))
        os.symlink(b"first-%d" % number, os.path.join(odd, b"link-%d" % number))
    os.mkfifo(os.path.join(odd, b"fifo"))
    with open(os.path.join(odd, b"sparse"), "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"island")
    os.utime(os.path.join(odd, b"con"), ns=(2208988800 * 10**9 + 123456789,) * 2)
    os.chmod(os.path.join(odd, b"first-1"), 0o600)
    os.chown(os.path.join(odd, b"first-2"), 12, 34)


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
    # Listed, not looked up: another name may answer where case is folded.
    if source != copy and os.path.basename(copy) not in listed(os.path.dirname(copy)):
        kinds = [(stat.S_ISLNK, "symlink"), (stat.S_ISFIFO, "fifo_or_socket"), (stat.S_ISSOCK, "fifo_or_socket")]
        kinds += [(stat.S_ISREG, "names"), (stat.S_ISDIR, "names")]
        return {next((name for is_it, name in kinds if is_it(before.st_mode)), "device_node")}
    after = os.lstat(copy)
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


@functools.lru_cache(maxsize=64)
def listed(folder):
    return frozenset(os.listdir(folder))


def unescaped(path):
    """A path as the report has it, as the system has it."""
    byte = lambda match: b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)])
    return os.fsdecode(re.sub(rb"\\(\\|x[0-9a-f]{2})", byte, path.encode()))


def told_by(report):
    with open(report, encoding="utf-8") as lines:
        return {unescaped(line["path"]): set(line["losses"]) for line in map(json.loads, lines) if "path" in line}


def settle_links(source, expected, told):
    """Of the names of a file one is copied and the others are lost; which one is chance."""
    groups = {}
    for path in files(source):
        if os.lstat(path).st_nlink > 1:
            groups.setdefault(os.lstat(path).st_ino, []).append(os.path.relpath(path, source))
    wrong = []
    for names in groups.values():
        lost = [name for name in names if "hard_link" in told.get(name, ())]
        if len(lost) != len(names) - 1:
            wrong.append(names)
        for name in lost:
            expected.setdefault(name, set()).add("hard_link")
    return wrong


def check(source, copy, report, has_links):
    expected = {}
    for folder, folders, names in os.walk(source):
        for name in [""] * (folder == source) + folders + names:
            path = os.path.join(folder, name) if name else folder
            below = os.path.relpath(path, source)
            lost = object_lost(path, os.path.join(copy, below) if name else copy)
            if lost:
                expected[below] = lost
            if "names" in lost and name in folders:
                folders.remove(name)  # What lies below it is not looked at.
    told = told_by(report)
    unsettled = [] if has_links else settle_links(source, expected, told)
    for names in unsettled:
        print(f"    {names}: not all but one are told as lost links")
    wrong = [path for path in expected.keys() | told.keys() if expected.get(path) != told.get(path)]
    for path in sorted(wrong)[:20]:
        print(f"    {path!r}: lost {expected.get(path)}, told {told.get(path)}")
    counts = {}
    for lost in expected.values():
        for name in lost:
            counts[name] = counts.get(name, 0) + 1
    print(f"    losses: {counts}")
    return not wrong and not unsettled and bool(expected)


# What verify calls the losses of the report; a file of two names differs in them under each.
ASPECTS = {
    "owner": "owner", "mode": "mode", "set_ids": "mode", "times": "mtime", "device_node": "missing",
    "fifo_or_socket": "missing", "symlink": "missing", "names": "missing", "xattrs": "xattrs", "acl": "acls",
    "capabilities": "xattrs", "hard_link": "links",
}  # fmt: skip


def check_verified(report, said):
    told = told_by(report)
    lost = {path: {ASPECTS[kind] for kind in kinds if kind in ASPECTS} for path, kinds in told.items()}
    wrong = []
    with open(said, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if "path" in line:
                path = unescaped(line["path"])
                # Under a name that it cannot hold another object may answer, where case is folded.
                is_free = "names" in told.get(path, ())
                more = set() if is_free else set(line["differs"]) - lost.get(path, set()) - {"links"}
                wrong += [(line["path"], more)] if more else []
    for path, more in wrong[:20]:
        print(f"    {path!r}: verify says {more}, which is no loss that was told")
    return not wrong


def main():
    match sys.argv[1:]:
        case ["set", tree]:
            set_attributes(tree)
        case ["odd", tree]:
            set_odd(tree)
        case ["lost", source, copy, report, *more] if more in ([], ["unlinked"]):
            sys.exit(0 if check(source, copy, report, not more) else 1)
        case ["verified", report, said]:
            sys.exit(0 if check_verified(report, said) else 1)
        case _:
            sys.exit(__doc__)


main()
