"""Device to device, for scripts/bench: gfast against fio and dd.

    device   2 GiB from one loop device to another, both in memory; gfast, fio reading and writing at once (1 MiB, direct,
             depth 16), dd with and without direct I/O, interleaved; after every run both devices are compared
"""

import json
import os
import shutil
import statistics
import subprocess
import time
from types import SimpleNamespace

MIB = 1 << 20
SIZE = 2048 * MIB


class Device:
    """A loop device over an image that is written once up front, as scripts/bench does for its file systems."""

    def __init__(self, bench, name, fill):
        self.image = bench.scratch / f"{name}.image"
        with open(self.image, "wb") as image:
            for _ in range(SIZE // MIB):
                image.write(fill(MIB))
        self.path = subprocess.run(["losetup", "-f", "--show", str(self.image)], check=True,
                                   stdout=subprocess.PIPE, text=True).stdout.strip()
        bench.stack.callback(subprocess.run, ["losetup", "-d", self.path], check=False)

    def forget(self):
        """Nothing of it stays in the page cache."""
        subprocess.run(["blockdev", "--flushbufs", self.path], check=True)


def timed(bench, argv):
    """A run of a copy; its time includes making it durable."""
    start = time.monotonic()
    with open(bench.scratch / "err", "wb") as err:
        child = subprocess.Popen(list(map(str, argv)), stdout=subprocess.DEVNULL, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        text = (bench.scratch / "err").read_text(errors="replace")[-2000:]
        raise bench.failed(f"{' '.join(map(str, argv))}: exit {child.returncode}\n{text}")
    return SimpleNamespace(seconds=time.monotonic() - start, cpu=usage.ru_utime + usage.ru_stime)


def fio(source, dest):
    argv = ["fio", "--ioengine=io_uring", "--direct=1", "--bs=1M", "--iodepth=16", f"--size={SIZE}",
            "--group_reporting=0", "--output-format=json", "--name=rd", "--rw=read", f"--filename={source.path}",
            "--name=wr", "--rw=write", f"--filename={dest.path}", "--end_fsync=1"]
    jobs = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)["jobs"]
    seconds = max(job[side]["runtime"] for job, side in zip(jobs, ("read", "write"))) / 1000
    cpu = sum((job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000 for job in jobs)
    return SimpleNamespace(seconds=seconds, cpu=cpu)


def device(bench):
    source, dest = Device(bench, "source", os.urandom), Device(bench, "dest", bytes)
    state = bench.scratch / "state"
    gfast = [bench.gfast, "--source", source.path, "--dest", dest.path, "--state-dir", state, "--json",
             "--overwrite-device"]
    dd = ["dd", f"if={source.path}", f"of={dest.path}", "bs=1M", "status=none"]
    contenders = {"gfast": lambda: timed(bench, gfast),
                  "fio, reading and writing at once": lambda: fio(source, dest),
                  "dd, direct": lambda: timed(bench, [*dd, "iflag=direct", "oflag=direct", "conv=fsync"]),
                  "dd": lambda: timed(bench, [*dd, "conv=fsync"])}
    found = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(-1, bench.runs):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            shutil.rmtree(state, ignore_errors=True)
            # What is there must not pass for a copy.
            subprocess.run(["dd", "if=/dev/zero", f"of={dest.path}", "bs=1M", "count=64", "oflag=direct", "status=none"],
                           check=True)
            source.forget()
            dest.forget()
            run = contenders[name]()
            if turn >= 0:
                found[name].append(run)
            dest.forget()
            if not name.startswith("fio") and subprocess.run(["cmp", source.path, dest.path], check=False).returncode:
                raise bench.failed(f"{name}: the devices differ")
    bench.table("a device of 2 GiB", found, lambda seconds: f"{SIZE / MIB / seconds:,.0f} MiB/s")
    medians = {name: statistics.median(run.seconds for run in runs) for name, runs in found.items()}
    bench.target("speed against fio", medians["fio, reading and writing at once"] / medians["gfast"], 0.95)
    bench.target("speed against dd, direct", medians["dd, direct"] / medians["gfast"], 1.6)
    bench.target("speed against dd", medians["dd"] / medians["gfast"], 1)


BENCHES = {"device": device}
