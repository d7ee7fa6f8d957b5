"""scripts/bench scaling: what a target delivers on one core, on two, and so on.

A target and a host in lockstep in one thread on each core, over loopback, all targets serving one memory device: nothing polls in vain and no
core is needed for the hosts, so that a machine of two cores shows what doubling gives. Absolute figures are those of both
ends on one core. Sets of cores take turns; medians of the rounds are compared with one core.
"""
import argparse
import json
import os
import statistics

import common
import compare

# 256 MiB: more than caches hold.
BLOCKS = 1 << 16
WORKLOADS = {
    "read 4k d1": ("read", 1, 100_000),
    "read 4k d32": ("read", 32, 600_000),
    "write 4k d32": ("write", 32, 600_000),
    "read 4k d127": ("read", 127, 600_000),
}


def measure(cores):
    """{workload: IOPS} of so many cores together."""
    found = {}
    for name, (kind, depth, count) in WORKLOADS.items():
        words = [common.program("examples/lockstep"), kind, depth, count, "--blocks", BLOCKS, "--cores", cores]
        found[name] = json.loads(common.output_of(*words))["iops"]
    return found


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
    parser.add_argument("--json", metavar="FILE", help="write every run there")
    arguments = parser.parse_args()
    if not 2 <= arguments.cores <= available:
        parser.error(f"--cores must lie between 2 and {available}, which this machine has")
    results = {cores: [] for cores in range(1, arguments.cores + 1)}
    for _ in range(arguments.rounds):
        for cores, found in results.items():
            found.append(measure(cores))
            common.say(f"{cores} cores: " + ", ".join(f"{name} {iops:.0f}" for name, iops in found[-1].items()))
    show(results, arguments.cores)
    common.save(arguments.json, cores=results)
    return 0


if __name__ == "__main__":
    common.run(main)
