#!/usr/bin/env python3
"""The changes and the damage of scripts/soak day, repeatable by a seed.

    soakday.py change TREE SEED                  a day's changes of a tree: edits, deletions, other types, modes, links
    soakday.py flip DEVICE TREE SEED COUNT LIST  flips a bit of so many files' extents; their paths below TREE go to LIST
    soakday.py named LIST FORM FILE              whether verify named exactly these: FORM json or zero

Flipping again with the same seed and count brings everything back, as long as the tree is the same.
"""

import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path


def objects(tree):
    """All names below a tree by type, in one order; names are bytes."""
    found = {"file": [], "dir": [], "link": []}
    for path, dirs, files in os.walk(os.fsencode(tree)):
        dirs.sort()
        for name in sorted(dirs + files):
            full = os.path.join(path, name)
            mode = os.lstat(full).st_mode
            kind = "link" if stat.S_ISLNK(mode) else "dir" if stat.S_ISDIR(mode) else "file"
            found[kind].append(full)
    return found


def edit(path, drawn, is_hidden):
    """Other bytes in a file; a hidden edit keeps size and mtime, so that only the ctime tells."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        at = drawn.randrange(before.st_size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << drawn.randrange(8)]))
        if not is_hidden:
            file.seek(0, os.SEEK_END)
            file.write(drawn.randbytes(drawn.randrange(1, 9000)))
    if is_hidden:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change(tree, seed):
    drawn = random.Random(seed)
    found = objects(tree)
    files = [path for path in found["file"] if os.lstat(path).st_size]
    picked = drawn.sample(files, len(files) // 100 + 700)
    edits, others = picked[:-700], iter(picked[-700:])
    for number, path in enumerate(edits):
        edit(path, drawn, is_hidden=number % 2 == 0)

    def take(count):
        """Files that nothing has changed yet, and that still are there."""
        for _ in range(count):
            path = next(others)
            if os.path.lexists(path):
                yield path
    for path in take(100):
        os.chmod(path, drawn.choice([0o600, 0o640, 0o755, 0o444]))
    for path in take(50):
        os.chown(path, drawn.choice([0, 1000, 70_000]), drawn.choice([0, 1000, 70_000]))
    for number, path in enumerate(take(100)):
        os.link(path, path + b".link%d" % number)
    for path in take(100):
        os.remove(path)
    for path in take(50):
        os.remove(path)
        os.mkdir(path)
        Path(os.fsdecode(path), "inside").write_bytes(drawn.randbytes(100))
    for path in take(50):
        os.remove(path)
        os.symlink(b"elsewhere", path)
    for path in take(50):
        target = os.path.dirname(path) + b"/renamed-%d" % drawn.randrange(1 << 40)
        os.rename(path, target)
    for path in take(50):
        with open(path + b".new", "wb") as file:
            file.write(drawn.randbytes(drawn.randrange(200_000)))
    leaves = [path for path in found["dir"] if len(list(os.scandir(path))) in range(1, 20) and not any(
        entry.is_dir(follow_symlinks=False) for entry in os.scandir(path))]
    leaves = drawn.sample(leaves, min(60, len(leaves)))
    for path in leaves[:20]:
        shutil.rmtree(path)
    for path in leaves[20:40]:
        shutil.rmtree(path)
        with open(path, "wb") as file:
            file.write(b"was a directory")
    for path in leaves[40:]:
        os.chmod(path, 0o750)
    links = [path for path in found["link"] if os.path.islink(path)]
    for path in drawn.sample(links, min(100, len(links))):
        os.remove(path)
        os.symlink(b"now/another/target", path)
    again = [path for path in objects(tree)["file"] if os.lstat(path).st_nlink > 1]
    for path in drawn.sample(again, min(30, len(again))):
        with open(path, "rb") as file:
            content = file.read()
        os.remove(path)
        with open(path, "wb") as file:
            file.write(content)
    print(f"    {len(edits)} edits ({(len(edits) + 1) // 2} of them hidden), and about 700 other changes")


def extents(path):
    """The extents of a file that hold data: offset in the file, offset on the device, length, in bytes."""
    text = subprocess.run(["filefrag", "-v", "-b1", path], check=True, capture_output=True).stdout.decode(errors="replace")
    for line in text.splitlines():
        row = re.match(r"\s*\d+:\s*(\d+)\.\.\s*(\d+):\s*(\d+)\.\.\s*\d+:\s*(\d+):(.*)", line)
        if row and not re.search("unwritten|inline|delalloc|unknown", row[5]):
            first, last, physical, length = map(int, row.groups()[:4])
            yield first, physical, length


def flip(device, tree, seed, count, listed):
    drawn = random.Random(seed)
    alone = [path for path in objects(tree)["file"] if os.lstat(path).st_size and os.lstat(path).st_nlink == 1]
    drawn.shuffle(alone)
    flipped = []
    with open(device, "r+b", buffering=0) as disk:
        for path in alone:
            if len(flipped) == count:
                break
            size = os.lstat(path).st_size
            spans = [(physical, min(length, size - first)) for first, physical, length in extents(path) if first < size]
            if not spans:
                continue
            physical, length = drawn.choice(spans)
            at, bit = physical + drawn.randrange(length), 1 << drawn.randrange(8)
            (byte,) = os.pread(disk.fileno(), 1, at)
            os.pwrite(disk.fileno(), bytes([byte ^ bit]), at)
            flipped.append(os.path.relpath(path, os.fsencode(tree)))
        os.fsync(disk.fileno())
    Path(listed).write_bytes(b"".join(path + b"\0" for path in flipped))
    if len(flipped) != count:
        sys.exit(f"only {len(flipped)} files have an extent")


def unescaped(text):
    """The bytes that a report's text stands for."""
    parts = re.split(r"(\\x[0-9a-f]{2}|\\\\)", text)
    plain = (b"\\" if part == "\\\\" else bytes.fromhex(part[2:]) if part.startswith("\\x") else part.encode() for part in parts)
    return b"".join(plain)


def named(listed, form, file):
    expected = Path(listed).read_bytes().split(b"\0")[:-1]
    said = Path(file).read_bytes()
    if form == "zero":
        found = said.split(b"\0")[:-1]
    else:
        lines = [json.loads(line) for line in said.splitlines()]
        wrong = [line for line in lines if "path" in line and line["differs"] != ["content"]]
        if wrong:
            sys.exit(f"{file}: {wrong[:5]}")
        found = [unescaped(line["path"]) for line in lines if "path" in line]
    if sorted(found) != sorted(expected):
        missing, extra = set(expected) - set(found), set(found) - set(expected)
        sys.exit(f"{file}: {len(found)} named of {len(expected)}; not named {list(missing)[:5]}, too many {list(extra)[:5]}")


def main():
    match sys.argv[1:]:
        case ["change", tree, seed]:
            change(tree, seed)
        case ["flip", device, tree, seed, count, listed]:
            flip(device, tree, seed, int(count), listed)
        case ["named", listed, form, file]:
            named(listed, form, file)
        case _:
            sys.exit(__doc__)


main()
