"""The part of scripts/bench about repeat passes and proofs: gfast against rsync, fio and a bare walk.

    unchanged           a pass over 100,000 files of which none has changed, warm               (about 1 minute)
    unchanged-cold      the same with the caches of both sides dropped before each run          (about 1 minute)
    checksum            what --checksum costs on devices of 500 MiB/s: 2 files of 1 GiB with and without it
    verify              both sides compared: 2 files of 1 GiB at 500 MiB/s and unthrottled
    verify-small        40,000 files of 4 KiB compared, warm: rsync reads the page cache then, gfast the destination's
                        device                                                                  (under 1 minute)
    verify-small-cold   the same cold, where both read both devices                             (about 1 minute)
    forecast            100,000 files of which 0, 1 and 5 % change before each pass: the summary's forecast against what
                        the next pass takes                                                     (about 2 minutes)

A throttled device is a loop device in a blkio control group (version 1) of 500 MiB/s in each direction.
"""

import contextlib
import json
import os
import random
import statistics
import subprocess
import time
from pathlib import Path

RATE = 500 << 20


class Timed:
    """One timed run of a program that changes nothing."""

    def __init__(self, bench, argv, group=None, codes=(0,)):
        join = (lambda: Path(group, "cgroup.procs").write_text(str(os.getpid()))) if group else None
        with open(bench.scratch / "out", "wb") as out, open(bench.scratch / "err", "wb") as err:
            start = time.monotonic()
            child = subprocess.Popen(list(map(str, argv)), stdout=out, stderr=err, preexec_fn=join)
            _, status, usage = os.wait4(child.pid, 0)
            self.seconds = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = usage.ru_utime + usage.ru_stime
        self.out = (bench.scratch / "out").read_text(errors="replace")
        if child.returncode not in codes:
            text = self.out[-1000:] + (bench.scratch / "err").read_text(errors="replace")[-2000:]
            raise bench.failed(f"{' '.join(map(str, argv))}: exit {child.returncode}\n{text}")


def interleaved(bench, contenders, cold, checks):
    """Runs every contender in turns, one turn first that does not count; name -> list of Timed."""
    found = {name: [] for name in contenders}
    for turn in range(-1, bench.runs):
        for name, argv in contenders.items():
            os.sync()
            if cold:
                Path("/proc/sys/vm/drop_caches").write_text("3")
                subprocess.run([argv[0], "--version"], capture_output=True, check=False)
            run = Timed(bench, argv)
            checks.get(name, lambda _: None)(run)
            if turn >= 0:
                found[name].append(run)
    return found


def medians(found):
    return {name: statistics.median(run.seconds for run in runs) for name, runs in found.items()}


def unchanged(bench, cold):
    bench.disks(1200, 1600, ["-N", "130000"])
    bench.make(1000, 100, 1024)
    bench.copy().mkdir()
    Timed(bench, bench.command())

    def idle(run):
        summary = json.loads(run.out)
        if summary["copied"] or summary["entries_walked"] != 101_001:
            raise bench.failed(f"a pass over an unchanged tree: {run.out}")

    def silent(run):
        if run.out:
            raise bench.failed(f"rsync found differences:\n{run.out[:2000]}")

    def counted(run):
        if int(run.out) != 101_000:
            raise bench.failed(f"the walk found {run.out}")
    contenders = {"gfast": bench.command(), "walk (2 threads, lstat)": [bench.lstat, bench.tree, 2],
                  "rsync -a": ["rsync", "-ai", f"{bench.tree}/", f"{bench.copy()}/"]}
    checks = {"gfast": idle, "rsync -a": silent, "walk (2 threads, lstat)": counted}
    found = interleaved(bench, contenders, cold, checks)
    bench.table(f"an unchanged pass over 100,000 files, {'cold' if cold else 'warm'}", found,
                lambda seconds: f"{1e5 / seconds:,.0f} files/s")
    median = medians(found)
    walk = median["walk (2 threads, lstat)"]
    if not cold:
        bench.target("seconds over 1.5 bare walks", median["gfast"] - 1.5 * walk, 0.1, at_most=True)
    bench.target("speed against rsync -a", median["rsync -a"] / median["gfast"], 4 if cold else 2.5)


@contextlib.contextmanager
def throttled(bench):
    """A control group in which both devices give RATE bytes a second each way."""
    group = Path("/sys/fs/cgroup/blkio") / f"gfast-bench-{os.getpid()}"
    group.mkdir()
    try:
        for disk in (bench.source, bench.dest):
            dev = os.stat(disk.mount).st_dev
            for way in ("read", "write"):
                limit = f"{os.major(dev)}:{os.minor(dev)} {RATE}"
                (group / f"blkio.throttle.{way}_bps_device").write_text(limit)
        yield group
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                return
            time.sleep(0.1)


def checksum(bench):
    bench.disks(2500, 2700, ["-N", "1000"])
    bench.make(1, 2, 1 << 30)
    with throttled(bench) as group:
        contenders = {"gfast": bench.timed(bench.command(), group),
                      "gfast --checksum": bench.timed(bench.command("--checksum"), group)}
        found = bench.interleaved(contenders, cold=True)
    bench.table("2 files of 1 GiB, both devices at 500 MiB/s", found, lambda seconds: f"{2048 / seconds:,.0f} MiB/s")
    with_crc, without = found["gfast --checksum"], found["gfast"]
    cpu = statistics.median(run.cpu for run in with_crc) - statistics.median(run.cpu for run in without)
    bench.target("CPU seconds a GiB that --checksum costs", cpu / 2, 0.2, at_most=True)
    median = medians(found)
    bench.target("time with --checksum against without", median["gfast --checksum"] / median["gfast"], 1.05, at_most=True)


def fio_both(bench):
    """The rate of fio reading both sides at once, direct."""
    def names(root):
        return ":".join(map(str, sorted(root.rglob("file-*"))))
    return ["fio", "--ioengine=io_uring", "--direct=1", "--bs=1M", "--iodepth=16", "--rw=read", "--nrfiles=2", "--size=2G",
            "--file_service_type=sequential", "--readonly",
            "--name=source", f"--filename={names(bench.tree)}", "--name=dest", f"--filename={names(bench.copy())}"]


def verify(bench):
    bench.disks(2500, 2700, ["-N", "1000"])
    bench.make(1, 2, 1 << 30)
    bench.copy().mkdir()
    Timed(bench, bench.command())
    ours = [bench.gfast, "verify", "-source", bench.tree, "-dest", bench.copy(), "-json"]
    for is_throttled, goal in ((True, 0.9), (False, 0.6)):
        found = {"gfast verify": [], "fio reading both sides": []}
        with throttled(bench) if is_throttled else contextlib.nullcontext() as group:
            for turn in range(-1, bench.runs):
                for name, argv in (("gfast verify", ours), ("fio reading both sides", fio_both(bench))):
                    os.sync()
                    Path("/proc/sys/vm/drop_caches").write_text("3")
                    run = Timed(bench, argv, group)
                    if turn >= 0:
                        found[name].append(run)
        title = "2 x 1 GiB compared, both devices at 500 MiB/s" if is_throttled else "2 x 1 GiB compared"
        bench.table(title, found, lambda seconds: f"{2048 / seconds:,.0f} MiB/s a side")
        median = medians(found)
        bench.target("speed against fio", median["fio reading both sides"] / median["gfast verify"], goal)


def verify_small(bench, cold):
    bench.disks(768, 1024, ["-N", "60000"])
    bench.make(400, 100, 4096)
    bench.copy().mkdir()
    Timed(bench, bench.command())

    def all_same(run):
        summary = json.loads(run.out.splitlines()[-1])["summary"]
        if summary["different"] or summary["objects"] < 40_000:
            raise bench.failed(f"verify of what is the same: {run.out[-2000:]}")

    def silent(run):
        if run.out:
            raise bench.failed(f"rsync found differences:\n{run.out[:2000]}")
    contenders = {"gfast verify": [bench.gfast, "verify", "-source", bench.tree, "-dest", bench.copy(), "-json"],
                  "rsync -nac": ["rsync", "-naci", f"{bench.tree}/", f"{bench.copy()}/"]}
    found = interleaved(bench, contenders, cold, {"gfast verify": all_same, "rsync -nac": silent})
    bench.table(f"40,000 files of 4 KiB compared, {'cold' if cold else 'warm'}", found,
                lambda seconds: f"{4e4 / seconds:,.0f} files/s")
    median = medians(found)
    bench.target("speed against rsync -nac", median["rsync -nac"] / median["gfast verify"], 4)


def change(tree, share, turn):
    """Gives a share of the files new content of the same size; which ones and what, `turn` decides."""
    files = sorted(tree.rglob("file-*"))
    drawn = random.Random(turn)
    changed = drawn.sample(files, round(len(files) * share))
    for path in changed:
        path.write_bytes(drawn.randbytes(path.stat().st_size))
    os.sync()
    return len(changed)


def forecast(bench):
    """A pass at each rate of change comes first, whose summary tells of the next."""
    bench.disks(1200, 1600, ["-N", "130000"])
    bench.make(bench.of(1000, 100), 100, 1024)
    bench.copy().mkdir()
    Timed(bench, bench.command())
    ratios, turn = {share: [] for share in (0, 0.01, 0.05)}, 0
    for _ in range(bench.runs):
        for share, found in ratios.items():
            told = None
            for _ in range(2):
                turn += 1
                changed = change(bench.tree, share, turn)
                summary = json.loads(Timed(bench, bench.command()).out)
                bench.verify()
                if summary["copied"] != changed:
                    raise bench.failed(f"{summary['copied']} files copied, {changed} had changed")
                if told is not None:
                    found.append(told / summary["elapsed_s"])
                    bench.note(f"{share:.0%} changed", summary["elapsed_s"], f"after a forecast of {told:.2f} s")
                told = summary["forecast"]["elapsed_s"]
    bench.tools.heading("The forecast of a summary against the time of the next pass")
    for share, found in ratios.items():
        spread = f"{min(found):.2f} - {max(found):.2f}"
        off = statistics.median(abs(ratio - 1) for ratio in found)
        what = f"off by this share, {share:.0%} of the files changed, forecast / pass {spread}"
        bench.target(what, off, 0.25, at_most=True)


BENCHES = {"unchanged": lambda bench: unchanged(bench, False), "unchanged-cold": lambda bench: unchanged(bench, True),
           "checksum": checksum, "verify": verify, "verify-small": lambda bench: verify_small(bench, False),
           "verify-small-cold": lambda bench: verify_small(bench, True), "forecast": forecast}
