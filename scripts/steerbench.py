"""The part of scripts/bench about jobs that are steered, or that steer themselves, on file systems in memory.

    auto-memory         --streams auto against 8, 32 and 128: 200,000 small files, 4 files of 1 GiB  (about 5 minutes)
    tune-sweep          gfast tune, then jobs with the settings it chose among, in two stages        (about 6 minutes)
    xbw                 --bwlimit over 10 s, changed while running, local and to S3; runs once       (about 2 minutes)
    hundred             100 changes of streams by signal, ctl and key (tmux); runs once              (about 2 minutes)

A running job is asked through its control socket, every 50 ms or so.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import time

import s3bench

TICK = 0.05
MIB = 1 << 20


class Steered:
    """A job under way, and every status it gave, with the time of it; killed if it is left running."""

    def __init__(self, bench, argv, state, env=None):
        self.bench, self.state, self.seen, self.connection, self.rest = bench, state, [], None, b""
        self.out, self.err = bench.scratch / "steered-out", bench.scratch / "steered-err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.child = subprocess.Popen(list(map(str, argv)), stdout=out, stderr=err, env=env)

    def __enter__(self):
        deadline = time.monotonic() + 20
        while self.connection is None:
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise self.bench.failed("the job cannot be reached: " + self.err.read_text(errors="replace")[-2000:])
            self.connect()
            time.sleep(0.01)
        self.start = time.monotonic()
        return self

    def __exit__(self, *_):
        if self.connection:
            self.connection.close()
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()

    def connect(self):
        """By an open folder: a socket's path holds 108 bytes."""
        for path in self.state.glob("*/control"):
            folder = os.open(path.parent, os.O_RDONLY)
            wanted = socket.socket(socket.AF_UNIX)
            wanted.settimeout(10)
            try:
                wanted.connect(f"/proc/self/fd/{folder}/control")
                self.connection = wanted
            except OSError:
                wanted.close()
            finally:
                os.close(folder)

    def ask(self, line):
        self.connection.sendall(line.encode() + b"\n")
        while b"\n" not in self.rest:
            more = self.connection.recv(1 << 20)
            if not more:
                raise ConnectionError("the job has ended")
            self.rest += more
        answer, self.rest = self.rest.split(b"\n", 1)
        return json.loads(answer)

    def tell(self, command):
        answer = self.ask(command)
        if not answer["ok"]:
            raise self.bench.failed(f"{command}: {answer['line']}")

    def look(self):
        """The status now; none once the job has ended."""
        try:
            status = self.ask("status")
        except OSError:
            return None
        self.seen.append((time.monotonic() - self.start, status))
        return status

    def watch_until(self, seconds):
        """Looks until so many seconds of the job's life; the job must last that long."""
        while time.monotonic() - self.start < seconds:
            if self.look() is None:
                said = self.err.read_text(errors="replace")[-2000:]
                raise self.bench.failed(f"the job ended before {seconds} s:\n{said}")
            time.sleep(TICK)

    def rate(self, key, first, last):
        """What a total grew by in a second, between the looks next to two moments."""
        ends = [min(self.seen, key=lambda look: abs(look[0] - moment)) for moment in (first, last)]
        (start, before), (end, after) = ends
        return (after["totals"][key] - before["totals"][key]) / (end - start)

    def end(self, code=0):
        found = self.child.wait(timeout=300)
        if found != code:
            raise self.bench.failed(f"exit {found} instead of {code}\n" + self.err.read_text(errors="replace")[-2000:])


def auto_memory(bench):
    for title, shape, disks in (("200,000 files of 4 KiB", bench.of((2000, 100, 4096), (50, 20, 4096)), (1500, 2300)),
                                ("4 files of 1 GiB", bench.of((1, 4, 1 << 30), (1, 2, 20 * MIB)), (4500, 4700))):
        memory_pair(bench, title, shape, disks)


def memory_pair(bench, title, shape, disks):
    """Each pair of disks goes before the next one is made."""
    outer, bench.stack = bench.stack, contextlib.ExitStack()
    try:
        bench.disks(*bench.of(disks, (200, 400)), *bench.of((["-N", "220000"],), ()))
        bench.make(*shape)
        choices = ("auto", 8, 32, 128)
        contenders = {f"--streams {count}": bench.timed(bench.command("--streams", count)) for count in choices}
        found = bench.interleaved(contenders)
    finally:
        bench.stack.close()
        for image in bench.scratch.glob("*.image"):
            image.unlink()
        for point in ("ext4", "xfs"):
            with contextlib.suppress(FileNotFoundError):
                (bench.scratch / point).rmdir()
        bench.stack = outer
    bench.table(title, found, lambda seconds: f"{shape[0] * shape[1] * shape[2] / seconds / MIB:,.0f} MiB/s")
    medians = {name: statistics.median(run.seconds for run in runs) for name, runs in found.items()}
    best = min(seconds for name, seconds in medians.items() if name != "--streams auto")
    bench.target(f"time of auto against the best fixed, {title}", medians["--streams auto"] / best, 1.05, at_most=True)


# A job's settings as they are swept. Depth and buffers have no option: a profile chooses them.
KEYS = ("streams", "engine", "buffer_size", "direct", "depth", "buffers")
USUAL = (32, "auto", MIB, "auto", 16, "registered")


def setting_words(setting):
    streams, engine, block, direct = setting[:4]
    return ["--streams", streams, "--engine", engine, "--buffer-size", block, "--direct", direct]


def tune_sweep(bench):
    """One run of every setting of the four options finds the best few of them; one of every depth and kind of buffers
    with each of these, the best of those; these, the recommendation and the defaults are then run in turns. Which of
    them is the best is told by every other run, and how much faster it is by the rest, and the other way round: the
    least of several noisy medians is lower than any of them is in truth.
    """
    bench.disks(*bench.of((1300, 2700), (300, 900)), ["-N", "20000"])
    bench.make(*bench.of((100, 100, 4096), (10, 20, 4096)))
    large = bench.tree / "large"
    large.mkdir()
    subprocess.run([bench.floor, large, "1", "3", str(bench.of(256 * MIB, 12 * MIB))], check=True)
    asked = bench.of(30, 5)
    argv = [bench.gfast, "tune", "-source", bench.tree, "-dest", bench.copy(), "-state-dir", bench.dest.mount / "state",
            "-seconds", asked, "-json", "-quiet"]
    bench.copy().mkdir()
    found = json.loads(subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.PIPE).stdout)
    places, told = (found["source_place"], found["dest_place"]), found["recommended"]
    bench.note("tune", found["elapsed_s"], f"{told} {found['notes']}")
    chosen = tuple(told.get(key, default) for key, default in zip(KEYS, USUAL))
    seconds = sweep(bench, places, [chosen, USUAL])
    finals = dict.fromkeys([chosen, USUAL, *sorted(seconds, key=seconds.get)[:4]])
    times = {setting: [] for setting in finals}
    for _ in range(2 * bench.runs):
        for setting, own in times.items():
            own.append(one_job(bench, places, setting))
    print("\n| setting | median | in the sweep |\n|---|---|---|")
    for setting, own in times.items():
        mark = " (recommended)" if setting == chosen else ""
        words = " ".join(map(str, [*setting_words(setting), *zip(KEYS[4:], setting[4:])]))
        print(f"| {words}{mark} | {statistics.median(own):.2f} s | {seconds.get(setting, 0):.2f} s |")
    bench.tools.heading(f"gfast tune against {len(seconds)} settings")
    bench.target("time as recommended against the best", held_out(times, chosen), 1.05, at_most=True)
    bench.target(f"seconds that tune took, asked for {asked}", found["elapsed_s"], 1.15 * asked, at_most=True)


def held_out(times, chosen):
    """The time of `chosen` against that of the best: the best by one half of the runs, the times by the other half."""
    ratios = []
    for half in (0, 1):
        best = min(times, key=lambda setting: statistics.median(times[setting][half::2]))
        ratios.append(statistics.median(times[chosen][1 - half::2]) / statistics.median(times[best][1 - half::2]))
    return statistics.mean(ratios)


def sweep(bench, places, extra):
    """Setting -> seconds of one run: all of the options, then depths and buffers of the best of them and of `extra`."""
    options = itertools.product(bench.of((1, 4, 8, 16, 32, 64, 128), (4, 32)), ("auto", "sync"),
                                (256 << 10, MIB, 4 * MIB), ("auto", "never"))
    seconds = {setting: one_job(bench, places, setting) for setting in (each + USUAL[4:] for each in options)}
    best = [*extra, *sorted(seconds, key=seconds.get)[:4]]
    # System calls have neither.
    rings = dict.fromkeys(setting[:4] for setting in best if setting[1] != "sync")
    for setting in (each + more for each in rings for more in itertools.product((4, 16, 48), ("registered", "plain"))):
        if setting not in seconds:
            seconds[setting] = one_job(bench, places, setting)
    return seconds


def one_job(bench, places, setting):
    bench.dest.remake()
    bench.copy().mkdir()
    state = bench.dest.mount / "state"
    state.mkdir(mode=0o700)
    profile = {"source": places[0], "dest": places[1], "measured": "2026-01-01", **dict(zip(KEYS[4:], setting[4:]))}
    (state / "profiles").write_text(json.dumps({"schema": 1, "profiles": [profile]}))
    (state / "profiles").chmod(0o600)
    run = bench.timed(bench.command(*setting_words(setting)))(True)
    bench.verify()
    if setting[1] != "sync":
        had = run.summary["file_depth"], run.summary["registered_buffer_bytes"] > 0
        if had != (setting[4], setting[5] == "registered"):
            raise bench.failed(f"the profile was not taken: {setting}, {had}")
    bench.note(" ".join(map(str, setting)), run.seconds)
    return run.seconds


def limits(bench):
    rates, window = bench.of(((40, 80, 20), 10), ((10, 20), 3))
    worst = {}
    bench.disks(*bench.of((2400, 2600), (200, 400)), ["-N", "1000"])
    bench.make(1, 2, bench.of(1 << 30, 64 * MIB))
    bench.copy().mkdir()
    argv = bench.command("--bwlimit", f"{rates[0]}M")
    worst["local"] = limited(bench, argv, bench.dest.mount / "state", None, rates, window)
    bench.verify()
    s3 = s3bench.S3Bench(bench.tools, bench.runs, bench.is_tiny)
    bench.stack.callback(s3.stack.close)
    s3.make(1, bench.of(32, 4), 64 * MIB if not bench.is_tiny else 32 * MIB)
    s3.real_server()
    s3.empty(True)
    argv = s3.gfast_command(s3.tree, "s3://bucket/p", "--streams", "8", "--bwlimit", f"{rates[0]}M")
    worst["up to S3"] = limited(bench, argv, s3.scratch / f"state-{s3.serial}", s3.env(), rates, window)
    s3bench.same_content(s3, s3.server / "bucket/p")
    bench.tools.heading(f"--bwlimit {rates[0]}M, then by ctl {', '.join(map(str, rates[1:]))} M, {window} s each")
    for where, off in worst.items():
        bench.target(f"largest error of the rate, {where}", off, 0.03, at_most=True)


def limited(bench, argv, state, env, rates, window):
    """The largest error of the rate at each of the limits; the job then ends without one."""
    worst = 0
    with Steered(bench, argv, state, env) as job:
        for index, rate in enumerate(rates):
            if index:
                job.tell(f"bwlimit={rate}M")
            # A second until the change has come everywhere.
            first = time.monotonic() - job.start + 1
            job.watch_until(first + window)
            found = job.rate("bytes_copied", first, first + window) / MIB
            bench.note(f"limit {rate} MiB/s", window, f"{found:.2f} MiB/s")
            worst = max(worst, abs(found / rate - 1))
        job.tell("bwlimit=off")
        job.end()
    return worst


def hundred(bench):
    """Slowed, so that it lasts. What counts is in flight: no more objects at work than allowed, within a second."""
    changes, seed = bench.of(100, 12), int(os.environ.get("GFAST_SEED", time.time()))
    print(f"GFAST_SEED={seed}")
    drawn = random.Random(seed)
    bench.disks(*bench.of((2500, 2900), (400, 600)), ["-N", "30000"])
    bench.make(*bench.of((200, 100, 4096), (10, 20, 4096)))
    for part in range(bench.of(4, 1)):
        large = bench.tree / f"large-{part}"
        large.mkdir()
        subprocess.run([bench.floor, large, "1", str(bench.of(500, 150)), str(MIB)], check=True)
    bench.copy().mkdir()
    argv = bench.command("--bwlimit", bench.of("24M", "6M"))
    slowest = {}
    with Steered(bench, argv, bench.dest.mount / "state") as job, terminal(bench) as key:
        job.look()
        for number in range(changes):
            way = ("signal", "ctl", "key")[number % 3]
            before = job.look()["streams"]["limit"]
            started = time.monotonic()
            reached = turn(bench, job, key, way, before, drawn)
            while not reached(job.look()["streams"]):
                if time.monotonic() - started > 5:
                    raise bench.failed(f"change {number} by {way}, from {before}: {job.seen[-1][1]['streams']}")
                time.sleep(0.02)
            took = time.monotonic() - started
            slowest[way] = max(slowest.get(way, 0), took)
            job.watch_until(time.monotonic() - job.start + drawn.uniform(0, bench.of(0.5, 0.1)))
        stall = longest_stall(job)
        job.tell("bwlimit=off")
        job.end()
    bench.verify()
    bench.tools.heading(f"{changes} changes of streams between 1 and 256 in {job.seen[-1][0]:.0f} s")
    for way, took in slowest.items():
        bench.target(f"seconds until the slowest change by {way}", took, 1, at_most=True)
    bench.target("seconds nothing moved", stall, 2, at_most=True)


def turn(bench, job, key, way, before, drawn):
    """Changes the streams in one of three ways; returns what a status says once it is done."""
    is_up = before == 1 or (drawn.random() < 0.5 and before + before // 4 < 256)
    quarter = max(before // 4, 1)
    if way == "ctl":
        wanted = drawn.choice([count for count in range(1, 257) if count != before])
        subprocess.run([bench.gfast, "ctl", "-state-dir", bench.dest.mount / "state", f"streams={wanted}"], check=True,
                       stdout=subprocess.DEVNULL)
    elif way == "signal":
        wanted = before + quarter if is_up else max(before - quarter, 1)
        job.child.send_signal(signal.SIGUSR1 if is_up else signal.SIGUSR2)
    else:
        # How far it goes is a quarter of what the screen shows, which may be a moment old.
        key("+" if is_up else "-")
        return lambda now: (now["limit"] > before if is_up else now["limit"] < before) and now["active"] <= now["limit"]
    return lambda now: now["limit"] == wanted and now["active"] <= wanted


@contextlib.contextmanager
def terminal(bench):
    """The view of the job in a terminal of its own; yields what presses a key."""
    tmux = ["tmux", "-L", f"gfast-bench-{os.getpid()}", "-f", "/dev/null"]
    view = f"{bench.gfast} tui -state-dir {bench.dest.mount / 'state'}"
    subprocess.run([*tmux, "new-session", "-d", "-x", "100", "-y", "30", view], check=True)
    try:
        time.sleep(2)
        yield lambda name: subprocess.run([*tmux, "send-keys", name], check=True)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, stderr=subprocess.DEVNULL)


def longest_stall(job):
    """The longest time in which neither bytes nor entries nor any open object moved."""
    last, since, longest = None, 0, 0
    for moment, status in job.seen:
        totals = status["totals"]
        moved = (totals["bytes_copied"], totals["entries_done"], sum(one["done"] for one in status["objects"]))
        if moved != last:
            last, since = moved, moment
        longest = max(longest, moment - since)
    return longest


BENCHES = {"auto-memory": auto_memory, "tune-sweep": tune_sweep, "xbw": limits, "hundred": hundred}
