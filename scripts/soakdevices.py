#!/usr/bin/env python3
"""For scripts/soak devices: an ext4 made of /usr/share from device to device, to an image, to S3 and back, then killed.

    soakdevices.py chain WORK GFAST S3SERVER      each copy is compared by cmp and gfast verify, and fsck -fn finds nothing
    soakdevices.py kills WORK GFAST KILLS         one copy killed so often, of which at most what was under way is copied again

Loop devices over images in WORK; all is taken away in the end. Exits 1 on a difference.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

MIB = 1 << 20
TREE = "/usr/share"


def run(*words, code=0, **options):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, **options)
    if done.returncode != code:
        sys.exit(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


class Scene:
    def __init__(self, work, gfast):
        self.work, self.gfast, self.stack, self.env = Path(work), gfast, contextlib.ExitStack(), os.environ.copy()
        mib = int(run("du", "-sm", TREE).split()[0])
        # Room for what a file of a few bytes takes, and for the inodes.
        self.bytes = (mib * 3 // 2 + 256) * MIB

    def image(self, name):
        path = self.work / name
        path.touch()
        self.stack.callback(path.unlink, missing_ok=True)
        return path

    def device(self, name):
        image = self.image(name)
        os.truncate(image, self.bytes)
        device = run("losetup", "-f", "--show", image).strip()
        self.stack.callback(run, "losetup", "-d", device)
        return device

    def populated(self):
        device = self.device("source")
        run("mkfs.ext4", "-q", "-F", "-d", TREE, device)
        run("fsck.ext4", "-fn", device)
        return device

    def words(self, source, dest, state, *more):
        return [self.gfast, "-source", source, "-dest", dest, "-state-dir", self.work / state, "-quiet", *more]

    def copy(self, source, dest, state, *more):
        started = time.monotonic()
        run(*self.words(source, dest, state, *more), env=self.env)
        took = time.monotonic() - started
        run(self.gfast, "verify", "-source", source, "-dest", dest, env=self.env)
        run(self.gfast, "verify", "-dest", dest, "-state-dir", self.work / state, env=self.env)
        print(f"    {source} -> {dest}: {took:.1f} s, verified by its source and by its record")


def chain(work, gfast, s3server):
    scene = Scene(work, gfast)
    with scene.stack:
        source, dest, back = scene.populated(), scene.device("dest"), scene.device("back")
        image = scene.image("image")
        image.unlink()
        (scene.work / "server").mkdir()
        server = subprocess.Popen([s3server, scene.work / "server"], stdout=subprocess.PIPE, text=True)
        scene.stack.callback(server.wait)
        scene.stack.callback(server.kill)
        endpoint, access, secret = server.stdout.readline().split()
        scene.env |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret,
                      "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
        (scene.work / "server" / "bucket").mkdir()
        object_name = "s3://bucket/disk.img"
        scene.copy(source, dest, "a", "-checksum")
        scene.copy(dest, image, "b", "-checksum")
        scene.copy(image, object_name, "c", "-checksum")
        scene.copy(object_name, back, "d", "-checksum")
        run(gfast, "verify", "-source", source, "-dest", object_name, env=scene.env)
        for copy in (dest, image, back):
            run("cmp", source, copy)
            run("fsck.ext4", "-fn", copy)
        taken = image.stat().st_blocks * 512
        print(f"    {scene.bytes // MIB} MiB each, cmp and fsck -fn find nothing; the image takes {taken // MIB} MiB")


RATE, INTERVAL = 96 * MIB, 0.2
# A range is recorded when all of it is written: two shards, each with a chunk or two of 4 MiB under way.
CHUNKS = 4 * 4 * MIB


def written(pid):
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def kills(work, gfast, wanted):
    scene, chance = Scene(work, gfast), random.Random(os.environ.get("GFAST_SEED", "7"))
    with scene.stack:
        source, dest = scene.populated(), scene.device("dest")
        slow = ["-bwlimit", f"{RATE // MIB}M", "-checkpoint-interval", INTERVAL, "-checksum"]
        total, hit = 0, 0
        for _ in range(3 * wanted):
            if hit == wanted:
                break
            child = subprocess.Popen(list(map(str, scene.words(source, dest, "killed", *slow))))
            time.sleep(chance.uniform(0.2, 0.9))
            if child.poll() is not None:
                sys.exit(f"it ended with {child.returncode} after {hit} kills: too fast to be killed {wanted} times")
            total += written(child.pid)
            child.kill()
            child.wait()
            hit += 1
        child = subprocess.Popen(list(map(str, scene.words(source, dest, "killed", "-checksum"))))
        last = 0
        while child.poll() is None:
            with contextlib.suppress(OSError):
                last = written(child.pid)
            time.sleep(0.005)
        if child.returncode != 0:
            sys.exit(f"the last run: exit {child.returncode}")
        run("cmp", source, dest)
        run("fsck.ext4", "-fn", dest)
        run(gfast, "verify", "-dest", dest, "-state-dir", scene.work / "killed")
        again = total + last - scene.bytes
        # What was written since the checkpoint before the last: two intervals, and as long as a commit takes.
        most = hit * (int(RATE * (2 * INTERVAL + 0.1)) + CHUNKS)
        print(f"    {hit} kills: {again / MIB / hit:.0f} MiB a kill copied again, at most {most / MIB / hit:.0f} were under way")
        if again > most:
            sys.exit(1)


def main():
    what, *rest = sys.argv[1:]
    if what == "chain":
        chain(*rest)
    else:
        kills(rest[0], rest[1], int(rest[2]))


if __name__ == "__main__":
    main()
