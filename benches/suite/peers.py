"""scripts/bench peers: other targets on this machine beside ours, with the same media and one core each.

Each serves a memory-backed device on one core while a client on another measures it; targets take turns, and a target that is
not measured does not run. Peers are installed from Debian when they are absent; one that cannot be had is left out with
the reason. What differs and cannot be made equal stands under the table: protocols, clients, and kernels in between.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile

import common

MIB = 256
BLOCK = 4096
# 2 MiB each, for the pools of nvmf_tgt and its device.
SPDK_HUGEPAGES = 512
TARGET_CORE = os.environ.get("TARGET_CORE", "0")
CLIENT_CORE = os.environ.get("CLIENT_CORE", "1")
MEMORY = pathlib.Path("/dev/shm")
IQN = "iqn.2025-01.org.pollux:bench"
# What fio does beside the I/O, and `pollux perf` does not: two clocks more for each I/O, new bytes in each write, and one I/O at a
# time to the engine.
FIO_WITHOUT_EXTRAS = ["--disable_slat=1", "--disable_lat=1", "--scramble_buffers=0", "--iodepth_batch_submit=16",
                      "--iodepth_batch_complete_max=32"]

# name: random or sequential, read or write, bytes, depth
WORKLOADS = {
    "randread 4k d1": ("rand", "read", 4096, 1),
    "randread 4k d32": ("rand", "read", 4096, 32),
    "randwrite 4k d32": ("rand", "write", 4096, 32),
    "read 128k d8": ("", "read", 131072, 8),
}

NOTES = {
    "pollux": "NVMe/TCP, `pollux perf`.",
    "pollux, fio": "The same target; the client is fio with our engine, as it is for nobody else, and as fio is for NBD.",
    "spdk": "NVMe/TCP, SPDK 20.07, `pollux perf`: the same client, protocol and work as ours. SPDK polls when it is idle.",
    "tgt": "iSCSI; a file in /dev/shm through the kernel's file calls; the client is iscsi-perf, which only reads and gives no "
           "latencies.",
    "nbdkit": "NBD, its memory plugin; fio's nbd engine, which has one connection. Threads share the core.",
    "qemu-storage-daemon": "NBD; a file in /dev/shm through a thread pool; fio's nbd engine.",
    "nvmet, in UML": "NVMe/TCP of Linux on a RAM disk in a User-mode Linux guest with one processor, `pollux perf` outside: "
                     "every system call and interrupt of such a guest is expensive. Compare it with the next line only.",
    "pollux, in UML": "Our daemon in the same guest, over the same virtual network.",
}


def pinned(core, *words):
    return ["taskset", "-c", core, *map(str, words)]


def background(folder, words):
    """A program that runs until the stack it is given to ends."""
    with open(folder / "log", "ab") as log:
        return subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@contextlib.contextmanager
def running(folder, words, is_ready):
    process = background(folder, words)
    try:
        def settled():
            if process.poll() is not None:
                log = (folder / "log").read_text(encoding="utf-8", errors="replace")
                raise common.Failed(f"{words[0]} ended: {' '.join(log.splitlines()[-3:])}")
            return is_ready()
        common.wait_until(common.START_SECONDS, f"{words[0]} was ready", settled)
        yield process
    finally:
        common.stop(process)


def listens(port):
    def is_open():
        return f":{port:04X} 00000000:0000 0A" in pathlib.Path("/proc/net/tcp").read_text(encoding="ascii")
    return is_open


@contextlib.contextmanager
def memory_file():
    with tempfile.NamedTemporaryFile(dir=MEMORY, prefix="pollux-bench.") as file:
        file.write(os.urandom(1 << 20) * MIB)
        file.flush()
        yield file.name


# --- clients: a function of the shape of the work and of seconds that returns {"command", "iops", "p50_us", "p99_us"}

def perf_client(port, under=()):
    def measure(shape, seconds):
        random, direction, size, depth = shape
        words = common.perf(port, "--workload", random + direction, "--size", size, "--depth", depth, "--time", seconds,
                            cores=CLIENT_CORE)
        found = json.loads(common.output_of(*under, *words))
        return {"command": " ".join(words[1:]), "iops": found["iops"], "p50_us": found["latency_us"]["p50"],
                "p99_us": found["latency_us"]["p99"]}
    return measure


def fio_client(*engine, under=()):
    def measure(shape, seconds):
        random, direction, size, depth = shape
        words = pinned(CLIENT_CORE, "fio", "--name=peer", *engine, f"--rw={random}{direction}", f"--bs={size}",
                       f"--iodepth={depth}", f"--size={MIB}M", "--time_based", f"--runtime={seconds}", "--thread=1",
                       "--norandommap=1", "--output-format=json", "--output=result")
        with tempfile.TemporaryDirectory() as folder:
            common.output_of(*under, *words, cwd=folder)
            result = (pathlib.Path(folder) / "result").read_text(encoding="utf-8")
        # Engines may say something before the object.
        found = json.loads(result[result.index("{"):])["jobs"][0][direction]
        percentile = found["clat_ns"]["percentile"]
        return {"command": " ".join(words[3:]), "iops": found["iops"], "p50_us": percentile["50.000000"] / 1000,
                "p99_us": percentile["99.000000"] / 1000}
    return measure


def iscsi_client(url):
    def measure(shape, seconds):
        random, direction, size, depth = shape
        if direction != "read":
            return None
        words = pinned(CLIENT_CORE, "iscsi-perf", "-m", depth, "-b", size // 512, "-t", seconds, *(["-r"] * bool(random)), url)
        averages = re.findall(r"iops average (\d+)", common.output_of(*words))
        if not averages:
            raise common.Failed("iscsi-perf gave no average")
        return {"command": " ".join(words[3:]), "iops": float(averages[-1]), "p50_us": None, "p99_us": None}
    return measure


# --- peers: context managers that yield a client

def serve_memory(target):
    """A memory device of any target that answers our calls, every block of it written; the port."""
    target.call("bdev_malloc_create", name="d0", num_blocks=MIB * 256, block_size=BLOCK)
    target.serve("d0")
    common.fill(target.port, MIB, cores=CLIENT_CORE)
    return target.port


@contextlib.contextmanager
def pollux(folder):
    with common.Target(folder, TARGET_CORE) as target:
        yield perf_client(serve_memory(target))


def our_engine():
    path = common.program("libpollux_fio.so")
    if " ioengine" not in common.output_of("nm", "-D", path):
        raise common.Failed(f"{path} was built without fio's headers (scripts/fio-headers)")
    return path


def engine_client(port, under=()):
    return fio_client(f"--ioengine=external:{our_engine()}", f"--traddr={common.ADDRESS}", f"--trsvcid={port}",
                      f"--subnqn={common.NQN}", *FIO_WITHOUT_EXTRAS, under=under)


@contextlib.contextmanager
def pollux_fio(folder):
    common.packages_ensure("fio")
    with common.Target(folder, TARGET_CORE) as target:
        yield engine_client(serve_memory(target))


@contextlib.contextmanager
def hugepages():
    """A hugetlbfs with room for SPDK; what was there before comes back."""
    setting = pathlib.Path("/proc/sys/vm/nr_hugepages")
    before = int(setting.read_text(encoding="ascii"))
    if os.geteuid() != 0:
        raise common.Failed("SPDK needs root, for hugepages")
    if before < SPDK_HUGEPAGES:
        setting.write_text(str(SPDK_HUGEPAGES), encoding="ascii")
    with tempfile.TemporaryDirectory(prefix="pollux-huge.") as folder:
        common.output_of("mount", "-t", "hugetlbfs", "none", folder)
        try:
            yield folder
        finally:
            common.output_of("umount", folder)
            setting.write_text(str(before), encoding="ascii")


class Spdk(common.Target):
    """nvmf_tgt, which answers the same calls."""

    def __init__(self, folder, huge, under=()):
        self.socket, self.log, self.port = str(folder / "rpc"), folder / "log", 0
        home = os.environ.get("SPDK_DIR") or common.output_of(common.ROOT / "scripts" / "spdk-peer").strip()
        self.process = background(folder, [*under, f"{home}/build/bin/nvmf_tgt", "-r", self.socket, "-m", f"[{TARGET_CORE}]",
                                           "-s", SPDK_HUGEPAGES * 2, "-u", "--huge-dir", huge])
        common.wait_until(common.START_SECONDS, "nvmf_tgt answered", self.has_started)

    def __exit__(self, *_):
        common.stop(self.process)


@contextlib.contextmanager
def spdk(folder):
    with hugepages() as huge, Spdk(folder, huge) as target:
        yield perf_client(serve_memory(target))


@contextlib.contextmanager
def tgt(folder):
    common.packages_ensure("tgt", "libiscsi-bin")
    port, control = common.free_port(), str(os.getpid() % 30000 + 1)
    admin = lambda *words: common.output_of("tgtadm", "-C", control, "--lld", "iscsi", *words)
    words = pinned(TARGET_CORE, "tgtd", "-f", "-C", control, "--iscsi", f"portal={common.ADDRESS}:{port}")
    with memory_file() as path, running(folder, words, listens(port)):
        admin("--op", "new", "--mode", "target", "--tid", "1", "-T", IQN)
        admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", path)
        admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
        try:
            yield iscsi_client(f"iscsi://{common.ADDRESS}:{port}/{IQN}/1")
        finally:
            # tgtd does not end on SIGTERM while it has targets.
            admin("--op", "delete", "--force", "--mode", "target", "--tid", "1")
            common.output_of("tgtadm", "-C", control, "--op", "delete", "--mode", "system")


def nbd_client(port):
    common.packages_ensure("fio")
    # Every block once: memory that was never written is not read.
    client = fio_client("--ioengine=nbd", f"--uri=nbd://{common.ADDRESS}:{port}/")
    common.output_of("fio", "--name=fill", "--ioengine=nbd", f"--uri=nbd://{common.ADDRESS}:{port}/", "--rw=write", "--bs=1M",
                     f"--size={MIB}M", "--iodepth=4", "--thread=1", "--verify_state_save=0")
    return client


@contextlib.contextmanager
def nbdkit(folder):
    common.packages_ensure("nbdkit", "fio")
    port = common.free_port()
    words = pinned(TARGET_CORE, "nbdkit", "-f", "-i", common.ADDRESS, "-p", port, "memory", f"{MIB}M")
    with running(folder, words, listens(port)):
        yield nbd_client(port)


@contextlib.contextmanager
def storage_daemon(folder):
    common.packages_ensure("qemu-system-common", "fio")
    port = common.free_port()
    with memory_file() as path:
        words = pinned(TARGET_CORE, "qemu-storage-daemon", "--blockdev", f"driver=file,node-name=d0,filename={path}",
                       "--nbd-server", f"addr.type=inet,addr.host={common.ADDRESS},addr.port={port}",
                       "--export", "type=nbd,id=e0,node-name=d0,name=,writable=on")
        with running(folder, words, listens(port)):
            yield nbd_client(port)


PEERS = {"pollux": pollux, "pollux, fio": pollux_fio, "spdk": spdk, "tgt": tgt, "nbdkit": nbdkit,
         "qemu-storage-daemon": storage_daemon}


def measure_peer(name, arguments, results):
    """All workloads of one peer once."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pollux-peer."))
    try:
        with PEERS[name](folder) as client:
            for workload in arguments.workloads:
                found = client(WORKLOADS[workload], arguments.seconds)
                if found:
                    common.say(f"{name}, {workload}: {found['iops']:.0f} IOPS")
                    results.append({"peer": name, "workload": workload, **found})
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def measure_guest(arguments, results):
    """nvmet and our daemon in one guest, by the lab."""
    words = [common.ROOT / "scripts" / "lab" / "nvmet", "--seconds", arguments.seconds]
    for workload in arguments.workloads:
        random, direction, size, depth = WORKLOADS[workload]
        words += ["--workload", f"{workload}:{random}{direction}:{size}:{depth}"]
    for line in common.output_of(*words).splitlines():
        found = json.loads(line)
        result = found["result"]
        common.say(f"{found['peer']}, in UML, {found['workload']}: {result['iops']:.0f} IOPS")
        results.append({"peer": f"{found['peer']}, in UML", "workload": found["workload"], "command": found["command"],
                        "iops": result["iops"], "p50_us": result["latency_us"]["p50"], "p99_us": result["latency_us"]["p99"]})


def attempt(name, skipped, measure, *words):
    try:
        measure(*words)
    except (common.Failed, OSError) as failure:
        common.say(f"{name}: left out: {failure}")
        skipped[name] = str(failure)


def medians(results):
    """{(peer, workload): {iops, p50_us, p99_us}}"""
    found = {}
    for key in dict.fromkeys((result["peer"], result["workload"]) for result in results):
        mine = [result for result in results if (result["peer"], result["workload"]) == key]
        middle = lambda name, mine=mine: statistics.median(result[name] for result in mine) if mine[0][name] else None
        found[key] = {name: middle(name) for name in ("iops", "p50_us", "p99_us")}
    return found


def show(found, skipped, workloads):
    peers = dict.fromkeys(peer for peer, _ in found)
    rows = [["kIOPS (p50/p99 us)", *workloads]]
    for peer in peers:
        cells = []
        for workload in workloads:
            one = found.get((peer, workload))
            latency = f" ({one['p50_us']:.0f}/{one['p99_us']:.0f})" if one and one["p50_us"] else ""
            cells.append(f"{one['iops'] / 1000:.1f}{latency}" if one else "-")
        rows.append([peer, *cells])
    print(common.table(rows))
    print("\nWhat differs:")
    for peer in peers:
        print(f"- {peer}: {NOTES[peer]}")
    for name, reason in skipped.items():
        print(f"- {name}: left out: {reason}")


def main():
    everyone = [*PEERS, "uml"]
    parser = argparse.ArgumentParser(prog="scripts/bench peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="medians of as many (default 3)")
    parser.add_argument("--seconds", type=int, default=3, metavar="N", help="length of one run (default 3)")
    parser.add_argument("--only", default="", metavar="REGEX", help=f"only these of: {'; '.join(everyone)}")
    parser.add_argument("--json", metavar="FILE", help="write every run there")
    arguments = parser.parse_args()
    arguments.workloads = list(WORKLOADS)
    if arguments.quick:
        arguments.rounds = arguments.seconds = 1
    wanted = [name for name in everyone if re.search(arguments.only, name)]
    if not wanted:
        parser.error(f"nobody is called {arguments.only}")
    results, skipped = [], {}
    for _ in range(arguments.rounds):
        for name in wanted:
            if name in skipped:
                continue
            if name == "uml":
                attempt(name, skipped, measure_guest, arguments, results)
            else:
                attempt(name, skipped, measure_peer, name, arguments, results)
    show(medians(results), skipped, arguments.workloads)
    circumstances = common.circumstances()
    print(f"\nRevision {circumstances['revision']}, {circumstances['machine']['processor']}, "
          f"{circumstances['machine']['cores']} cores, Linux {circumstances['machine']['kernel']}, {circumstances['date']}")
    common.save(arguments.json, runs=results, left_out=skipped)
    return 0 if results else 1


if __name__ == "__main__":
    common.run(main)
