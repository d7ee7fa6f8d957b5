"""scripts/bench scaling: what a target delivers on one core, on two, and so on.

A reactor and a client on every core: on one core both share it, on two cores there are two reactors and two clients, each bound to
a core, with one connection for each. So a machine of two cores shows what doubling gives; absolute figures are lower than where
clients have cores of their own. Sets of cores take turns, and medians of the rounds are compared with one core.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import common
import compare
import suite

WORKLOADS = {
    "randread 4k d32": ("randread", 4096, 32),
    "randread 4k d128": ("randread", 4096, 128),
    "randwrite 4k d32": ("randwrite", 4096, 32),
}


def clients(port, cores, shape, seconds):
    """IOPS of one client on each core together."""
    workload, size, depth = shape
    words = [common.perf(port, "--workload", workload, "--size", size, "--depth", depth, "--time", seconds, cores=str(core))
             for core in range(cores)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in words]
    total = 0
    for process in running:
        out, complaint = process.communicate()
        if process.returncode:
            raise common.Failed(f"pollux perf ended with {process.returncode}: {complaint.strip()}")
        total += json.loads(out)["iops"]
    return total


def measure(cores, arguments):
    """{workload: IOPS} of a target on the first `cores` cores."""
    listed = ",".join(map(str, range(cores)))
    with tempfile.TemporaryDirectory(prefix="pollux-scaling.") as folder, \
            common.Target(pathlib.Path(folder), listed) as target:
        target.serve(suite.memory_device(target, folder))
        common.fill(target.port, suite.DEVICE_MIB, cores="0")
        return {name: clients(target.port, cores, shape, arguments.seconds) for name, shape in WORKLOADS.items()}


def show(results, most):
    rows = [["workload", "1 core kIOPS", *(f"{cores} cores" for cores in range(2, most + 1)), "ratios", "noise"]]
    for workload in WORKLOADS:
        series = [[found[workload] for found in results[cores]] for cores in range(1, most + 1)]
        medians = [statistics.median(values) for values in series]
        ratios = " ".join(f"{median / medians[0]:.2f}" for median in medians[1:])
        noise = max(compare.spread(values) for values in series)
        rows.append([workload, *(f"{median / 1000:.1f}" for median in medians), ratios, f"{noise:.1%}"])
    print(common.table(rows))


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench scaling", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    available = len(os.sched_getaffinity(0))
    parser.add_argument("--cores", type=int, default=available, metavar="N", help="most cores (default: all there are)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="medians of as many (default 5)")
    parser.add_argument("--seconds", type=int, default=2, metavar="N", help="length of one run (default 2)")
    parser.add_argument("--json", metavar="FILE", help="write every run there")
    arguments = parser.parse_args()
    if not 2 <= arguments.cores <= available:
        parser.error(f"--cores must lie between 2 and {available}, which this machine has")
    results = {cores: [] for cores in range(1, arguments.cores + 1)}
    for _ in range(arguments.rounds):
        for cores, found in results.items():
            found.append(measure(cores, arguments))
            common.say(f"{cores} cores: " + ", ".join(f"{name} {iops:.0f}" for name, iops in found[-1].items()))
    show(results, arguments.cores)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({**common.circumstances(), "cores": results}, file, indent=1)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except common.Failed as failure:
        common.die(failure)
