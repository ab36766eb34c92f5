"""The part of scripts/bench about slow mounts: a FUSE file system that takes 5 ms for every operation, many at a time.

    fuse-streams        12,800 files in 128 directories at 64 streams; 500 of them at 1 stream   (about 2 minutes)
    fuse-auto           jobs that would last minutes: --streams auto against 16, 64 and 256      (about 2 minutes a run)
    fuse-small          2,048 files in 64 directories, as source and as destination, against fpsync -n 16 and cp -a, which
                        runs once: it sleeps all the time               (about 11 minutes with 3 runs)

The folder behind the file system (benches/slowfs.rs) lies on /dev/shm, the other side is xfs in memory or /dev/shm.
Needs FUSE as root, and for fuse-small fpsync (Debian: fpart).
"""

import statistics
import subprocess
import time
import types

import steerbench

DELAY_US = 5000
# More than the streams of any contender: the file system must not be what queues.
THREADS = 320


class SlowFolder:
    """A folder, and the slow view of it."""

    def __init__(self, bench, name):
        self.bench = bench
        self.folder, self.point = bench.scratch / f"{name}-folder", bench.scratch / name
        self.folder.mkdir()
        self.point.mkdir()
        argv = [bench.examples / "slowfs", self.folder, self.point, str(DELAY_US), str(THREADS)]
        # A session of its own: ^C ends the benchmark, which then ends this.
        self.child = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        bench.stack.callback(self.end)
        if not self.child.stdout.readline():
            raise bench.failed("slowfs did not start")

    def end(self):
        self.child.terminate()
        try:
            self.child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        subprocess.run(["umount", "--lazy", "--quiet", self.point], check=False, stderr=subprocess.DEVNULL)

    def make(self, name, dirs, files, size):
        (self.folder / name).mkdir()
        subprocess.run([self.bench.floor, self.folder / name, str(dirs), str(files), str(size)], check=True)
        return self.point / name


def streams(bench):
    dirs, few, files = bench.of((128, 5, 100), (8, 1, 20))
    slow = SlowFolder(bench, "slow")
    bench.new_dest(1024)
    slow.make("tree", dirs, files, 4096)
    slow.make("sample", few, files, 4096)
    contenders = {"gfast, 64 streams": ("tree", dirs, 64), "gfast, 1 stream, a sample": ("sample", few, 1)}
    found = {name: [] for name in contenders}
    for _ in range(bench.runs):
        for name, (tree, _, count) in contenders.items():
            bench.dest.remake()
            bench.copy().mkdir()
            bench.tree = slow.point / tree
            run = bench.timed(bench.command("--streams", count))(False)
            bench.verify(slow.folder / tree)
            bench.note(name, run.seconds)
            found[name].append(run)
    rate = {name: contenders[name][1] * files / median(runs) for name, runs in found.items()}
    bench.table(f"files of 4 KiB, {DELAY_US / 1000:g} ms an operation at the source", found,
                lambda seconds: f"{next(rate[name] for name in rate if median(found[name]) == seconds):,.0f} files/s")
    many, one = rate.values()
    bench.target("rate at 64 streams against 1", many / one, 40)


def auto(bench):
    """What counts is the rate after the first 20 s (`--streams auto`) and after as long as a fixed number needs to start.
    No job ends: each is stopped, and what it had copied by then is compared."""
    dirs, files = bench.of((4000, 100), (300, 100))
    fixed_from, fixed_to, auto_from, auto_to = bench.of((6, 26, 20, 60), (1, 3, 2, 6))
    slow = SlowFolder(bench, "slow")
    bench.new_dest(bench.of(3500, 400))
    bench.tree = slow.make("tree", dirs, files, 4096)
    contenders = {"auto": (auto_from, auto_to)} | {str(count): (fixed_from, fixed_to) for count in (16, 64, 256)}
    rates = {name: [] for name in contenders}
    paths = []
    for _ in range(bench.runs):
        for name, (first, last) in contenders.items():
            bench.dest.remake()
            bench.copy().mkdir()
            with steerbench.Steered(bench, bench.command("--streams", name), bench.dest.mount / "state") as job:
                job.watch_until(last)
                rates[name].append(job.rate("files_copied", first, last))
                if name == "auto":
                    paths.append([status["streams"]["limit"] for _, status in job.seen[::20]])
                job.tell("stop")
                job.end(20)
            same_as_far_as_copied(bench, slow.folder / "tree")
            bench.note(f"--streams {name}", last, f"{rates[name][-1]:,.0f} files/s")
    bench.rates(f"files of 4 KiB, {DELAY_US / 1000:g} ms an operation at the source", rates, "files/s")
    best = max(statistics.median(found) for name, found in rates.items() if name != "auto")
    bench.target("rate of --streams auto after 20 s against the best fixed", statistics.median(rates["auto"]) / best, 0.85)
    print(f"\nStreams of the last run with auto, every two seconds: {', '.join(map(str, paths[-1]))}.")


def same_as_far_as_copied(bench, source):
    """Every file that is there has its source's content; those that are not are another run's business."""
    argv = ["rsync", "-rn", "--checksum", "--existing", "--out-format=%n", f"{source}/", f"{bench.copy()}/"]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    wrong = [name for name in found.stdout.splitlines() if not name.endswith("/")]
    if found.returncode or wrong:
        raise bench.failed(f"{len(wrong)} files differ: {wrong[:20]}\n{found.stderr}")


def small(bench):
    dirs, files = bench.of((64, 32), (8, 8))
    slow = SlowFolder(bench, "slow")
    bench.new_dest(512)
    xfs, tree = bench.dest, slow.make("tree", dirs, files, 4096)
    for side in ("source", "destination"):
        found = {"gfast, 64 streams": [], "fpsync -n 16": [], "cp -a": []}
        for turn in range(bench.runs):
            for name in [name for name in found if name != "cp -a" or turn == 0]:
                source, copy = tree, bench.copy()
                if side == "source":
                    xfs.remake()
                else:
                    # As many names as runs: what the file system knows of one must not serve the next.
                    source, copy = slow.folder / "tree", slow.point / f"copy-{turn}-{name.split()[0]}"
                    bench.dest = types.SimpleNamespace(mount=slow.point)
                copy.mkdir()
                run = bench.timed(small_command(bench, name, source, copy, dirs * files))(False)
                seen = copy if side == "source" else slow.folder / copy.name
                if name == "fpsync -n 16":
                    # It gives directories times of its own.
                    subprocess.run(["diff", "-r", "-q", slow.folder / "tree", seen], check=True)
                else:
                    bench.verify(slow.folder / "tree", seen)
                bench.note(f"{side}, {name}", run.seconds)
                found[name].append(run)
        bench.dest = xfs
        bench.table(f"{dirs * files:,} files of 4 KiB, {DELAY_US / 1000:g} ms an operation at the {side}", found,
                    lambda seconds: f"{dirs * files / seconds:,.0f} files/s")
        for rival, goal in (("cp -a", 15), ("fpsync -n 16", 3)):
            bench.target(f"speed against {rival}, {side}", median(found[rival]) / median(found["gfast, 64 streams"]), goal)


def small_command(bench, name, source, copy, files):
    if name == "cp -a":
        return ["cp", "-a", f"{source}/.", f"{copy}/"]
    if name.startswith("fpsync"):
        # As many parts as it may work on at a time: by default all of it would be one.
        return ["fpsync", "-n", "16", "-f", str(max(1, files // 16)), "-t", bench.scratch / "fpsync", f"{source}/",
                f"{copy}/"]
    state = bench.scratch / f"state-{time.monotonic_ns()}"
    return [bench.gfast, "--source", source, "--dest", copy, "--state-dir", state, "--streams", "64", "--json"]


def median(runs):
    return statistics.median(run.seconds for run in runs)


BENCHES = {"fuse-streams": streams, "fuse-auto": auto, "fuse-small": small}
