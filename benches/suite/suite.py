"""scripts/bench suite: IOPS, latency and processor time of a running target, over devices, workloads, depths and connections.

Every device × transport × read/write/mixed × 4k/16k/128k × depth × connections × digests, one run each: a target on one
core, `pollux perf` on another, loopback. Each run is a line of JSON in OUT/runs.jsonl, with its command, the revision, the
machine and the date; OUT/report.html shows them. What cannot be run here is a line too, with the reason.

A run is called DEVICE-TRANSPORT-WORKLOAD-SIZE-dDEPTH-cCONNECTIONS[-dgst]; --only takes a regular expression for that.
Depth is per connection. "store" is a thin volume of a store on a memory device, "file" a file with io_uring, O_DIRECT, "replicated" a volume of three
replicas on memory devices of the target itself, so that no network between nodes is in it.
"""
import argparse
import collections
import itertools
import json
import os
import pathlib
import re
import subprocess

import common
import report

DEVICE_MIB = 256
BLOCK = 4096
# The store's own blocks, its log and its map, and room to write elsewhere before the old block is free.
STORE_MIB = 2 * DEVICE_MIB
# A replica's metadata lies beside its data.
REPLICA_MIB = DEVICE_MIB + 64
REPLICAS = 3
VOLUME = "2b8f6a52-3c1d-4d0e-9a57-6f0e6c5b4a31"
WORKLOADS = {"read": "randread", "write": "randwrite", "mixed": "randrw"}
SIZES = {"4k": 4 << 10, "16k": 16 << 10, "128k": 128 << 10}
DEPTHS = (1, 4, 16, 32, 64, 128, 256)
CONNECTIONS = (1, 2, 4, 8)
# A receive of 128 KiB per command and connection: what all pools together hold.
BYTES_IN_FLIGHT_MAX = 64 << 20
TRANSPORTS = ("tcp", "rdma")

Run = collections.namedtuple("Run", "device transport workload size depth connections digests")


def name_of(run):
    digests = "-dgst" if run.digests else ""
    return f"{run.device}-{run.transport}-{run.workload}-{run.size}-d{run.depth}-c{run.connections}{digests}"


def blocks(mib):
    return mib * 1048576 // BLOCK


def null_device(target, _folder):
    target.call("bdev_null_create", name="d0", num_blocks=blocks(DEVICE_MIB), block_size=BLOCK)
    return "d0"


def memory_device(target, _folder, mib=DEVICE_MIB):
    target.call("bdev_malloc_create", name="d0", num_blocks=blocks(mib), block_size=BLOCK)
    return "d0"


def file_device(target, folder):
    path = folder / "device"
    with open(path, "wb") as file:
        file.truncate(DEVICE_MIB << 20)
    target.call("bdev_uring_create", name="d0", filename=str(path), block_size=BLOCK)
    return "d0"


def store_device(target, folder):
    memory_device(target, folder, STORE_MIB)
    target.call("bdev_lvol_create_lvstore", bdev_name="d0", lvs_name="s0")
    target.call("bdev_lvol_create", lvs_name="s0", lvol_name="v0", size_in_mib=DEVICE_MIB, thin_provision=True)
    return "s0/v0"


def replicated_device(target, _folder):
    """Three replicas on memory devices of the same target, all in sync: the protocol of replication without a network."""
    replicas = [f"r{copy}" for copy in range(REPLICAS)]
    for copy, replica in enumerate(replicas):
        device = f"d{copy}"
        target.call("bdev_malloc_create", name=device, num_blocks=blocks(REPLICA_MIB), block_size=BLOCK)
        target.call("replica_create", name=replica, bdev_name=device, volume=VOLUME, size_bytes=DEVICE_MIB << 20, zeroed=True)
    target.call("volume_create", name="v0", uuid=VOLUME, replicas=replicas)
    target.call("volume_activate", name="v0", epoch=1, in_sync=replicas)
    return "v0"


DEVICES = {"null": null_device, "memory": memory_device, "file": file_device, "store": store_device,
           "replicated": replicated_device}


def matrix():
    """Everything, sorted so that a device is made once."""
    axes = itertools.product(DEVICES, TRANSPORTS, WORKLOADS, SIZES, DEPTHS, CONNECTIONS, (False, True))
    runs = [Run(*point) for point in axes]
    return [run for run in runs if SIZES[run.size] * run.depth * run.connections <= BYTES_IN_FLIGHT_MAX]


def is_quick(run):
    """A cross through the middle of the matrix: every axis once, the others at their middle."""
    plain = run.size == "4k" and not run.digests
    if run.connections == 1 and plain and run.depth in (1, 32) and run.workload != "mixed":
        return True
    if run.device != "memory":
        return False
    one = run.connections == 1
    return (plain and one and run.workload != "mixed"
            or plain and run.depth == 32 and run.workload != "mixed"
            or plain and one and run.depth == 32
            or one and not run.digests and run.depth == 16 and run.size != "4k"
            or one and run.size == "4k" and run.depth == 32 and run.workload != "mixed")


def transport_missing(transport, arguments):
    """Why this transport cannot be measured here; None when it can."""
    if transport == "tcp":
        return None
    known = common.output_of(common.program("pollux"), "perf", "--help")
    if not re.search(rf"^\s+- {transport}:", known, re.MULTILINE):
        return f"pollux perf does not speak {transport}"
    links = pathlib.Path("/sys/class/infiniband")
    if not links.is_dir() or not any(links.iterdir()):
        return "this machine has no RDMA device"
    return None if arguments.rdma_address else "no --rdma-address was given"


def address_of(transport, arguments):
    return arguments.rdma_address if transport == "rdma" else common.ADDRESS


def command_of(run, target, arguments):
    options = ["--workload", WORKLOADS[run.workload], "--size", SIZES[run.size], "--depth", run.depth,
               "--queues", run.connections, "--time", arguments.seconds]
    if run.digests:
        options += ["--header-digest", "--data-digest"]
    return common.perf(target.port, *options, cores=arguments.client_cores, transport=run.transport,
                       address=address_of(run.transport, arguments))


def measure(run, target, arguments):
    command = command_of(run, target, arguments)
    before = common.cpu_seconds(target.pid)
    result = json.loads(common.output_of(*command))
    target_seconds = common.cpu_seconds(target.pid) - before
    ios = result["read"]["operations"] + result["write"]["operations"]
    if ios == 0:
        raise common.Failed("no I/O ended")
    command[0] = "pollux"
    return {
        "command": " ".join(command),
        **{key: result[key] for key in ("seconds", "iops", "bytes_per_second", "latency_us", "read", "write", "errors")},
        "cpu_us_per_io": {
            "target": round(target_seconds * 1e6 / ios, 3),
            "client": round(result["host_cpu"] * result["seconds"] * 1e6 / ios, 3),
        },
    }


class Journal:
    """The file of runs, and what every line of it has."""

    def __init__(self, path, resume=False):
        self.path = path
        self.common = common.circumstances()
        self.records = []
        lines = path.read_text(encoding="utf-8").splitlines() if resume and path.exists() else []
        path.write_text("", encoding="utf-8")
        for record in map(json.loads, lines):
            if record["revision"] == self.common["revision"] and "skipped" not in record:
                self.keep(record)

    def add(self, run, **found):
        self.keep({"name": name_of(run), **run._asdict(), **self.common, "date": common.today(), **found})

    def keep(self, record):
        self.records.append(record)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def lacks(self, run):
        return all(record["name"] != name_of(run) for record in self.records)


def skip(journal, runs, reason):
    common.say(f"{runs[0].device} over {runs[0].transport}: not measured: {reason}")
    for run in runs:
        journal.add(run, skipped=reason)


def measure_device(journal, device, transport, runs, arguments, folder):
    """All runs of one device over one transport, on a target of its own."""
    where = {"transport": transport, "address": address_of(transport, arguments)}
    with common.Target(folder, arguments.target_cores) as target:
        try:
            name = DEVICES[device](target, folder)
        except common.RpcError as error:
            if not error.is_unknown_method:
                raise
            skip(journal, runs, f"not there: {error}")
            return
        target.serve(name, **where)
        common.fill(target.port, DEVICE_MIB, cores=arguments.client_cores, **where)
        for number, run in enumerate(runs, 1):
            common.say(f"[{number}/{len(runs)}] {name_of(run)}")
            journal.add(run, **measure(run, target, arguments))


def chosen(arguments):
    wanted = re.compile(arguments.only)
    return [run for run in matrix() if wanted.search(name_of(run)) and (is_quick(run) or not arguments.quick)]


def measure_all(journal, runs, arguments):
    folder = pathlib.Path(arguments.out) / "scratch"
    folder.mkdir(exist_ok=True)
    try:
        for (device, transport), group in itertools.groupby(runs, key=lambda run: (run.device, run.transport)):
            group = list(group)
            missing = transport_missing(transport, arguments)
            if missing:
                skip(journal, group, missing)
            else:
                measure_device(journal, device, transport, group, arguments, folder)
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=False)


def summary(records):
    rows = [["run", "kIOPS", "MiB/s", "p50 us", "p99 us", "target us/IO", "client us/IO"]]
    for record in records:
        if "skipped" not in record:
            rows.append([record["name"], f"{record['iops'] / 1000:.1f}", f"{record['bytes_per_second'] / 2**20:.0f}",
                         f"{record['latency_us']['p50']:.0f}", f"{record['latency_us']['p99']:.0f}",
                         f"{record['cpu_us_per_io']['target']:.2f}", f"{record['cpu_us_per_io']['client']:.2f}"])
    return common.table(rows)


def parse():
    parser = argparse.ArgumentParser(prog="scripts/bench suite", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every axis once instead of all combinations: two minutes")
    parser.add_argument("--out", metavar="DIR", default=str(common.BUILD / "bench"), help="default: build/bench")
    parser.add_argument("--only", metavar="REGEX", default="", help="only runs whose name matches")
    parser.add_argument("--seconds", type=float, default=1, metavar="N", help="length of a run (default 1)")
    parser.add_argument("--resume", action="store_true", help="keep the runs of this revision that OUT/runs.jsonl holds, measure the others")
    parser.add_argument("--target-cores", default=os.environ.get("TARGET_CORE", "0"), metavar="LIST", help="default 0")
    parser.add_argument("--client-cores", default=os.environ.get("CLIENT_CORE", "1"), metavar="LIST", help="default 1")
    parser.add_argument("--rdma-address", metavar="ADDRESS", help="an address of an RDMA device of this machine")
    parser.add_argument("--list", action="store_true", help="print the names of the runs")
    return parser, parser.parse_args()


def main():
    parser, arguments = parse()
    runs = chosen(arguments)
    if not runs:
        parser.error(f"no run matches {arguments.only}")
    if arguments.list:
        print("\n".join(map(name_of, runs)))
        return 0
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out / "runs.jsonl", arguments.resume)
    runs = list(filter(journal.lacks, runs))
    common.say(f"{len(runs)} runs of {arguments.seconds:g} s, into {out}")
    measure_all(journal, runs, arguments)
    (out / "report.html").write_text(report.render(journal.records), encoding="utf-8")
    print(summary(journal.records))
    print(f"{out}/report.html")
    return 1 if any(record.get("errors") for record in journal.records) else 0


if __name__ == "__main__":
    common.run(main)
