"""scripts/bench fio: what fio with our engine delivers, beside `pollux perf` and beside the kernel's initiator.

First fio and `pollux perf` take turns at the same target on loopback: both are our host, so what fio itself costs is the
difference. Then, in the lab's guest, fio with our engine and fio with io_uring on the kernel's nvme-tcp take turns at one
target outside: the same protocol, network and fio, and two initiators. The guest is User-mode Linux, where system calls and
interrupts are expensive and there is one processor: the engine's polling takes what the kernel's softirq needs.
"""
import argparse
import json
import pathlib
import statistics
import tempfile

import common
import compare
import peers

WORKLOADS = {
    "randread 4k d1": ("rand", "read", 4096, 1),
    "randread 4k d32": ("rand", "read", 4096, 32),
    "randread 4k d128": ("rand", "read", 4096, 128),
    "randwrite 4k d32": ("rand", "write", 4096, 32),
    "read 128k d8": ("", "read", 131072, 8),
}
CLIENTS = ("perf", "fio")
LAB_LOG = common.BUILD / "lab" / "kept" / "fio-engine" / "console.log"


def take_turns(rounds, seconds, under):
    """{(client, workload): [result, …]}"""
    results = {}
    with tempfile.TemporaryDirectory(prefix="pollux-fio.") as folder, \
            common.Target(pathlib.Path(folder), peers.TARGET_CORE, under=under) as target:
        port = peers.serve_memory(target)
        measures = {"perf": peers.perf_client(port, under), "fio": peers.engine_client(port, under)}
        for _ in range(rounds):
            for workload in WORKLOADS:
                for client in CLIENTS:
                    result = measures[client](WORKLOADS[workload], seconds)
                    common.say(f"{client}, {workload}: {result['iops']:.0f} IOPS")
                    results.setdefault((client, workload), []).append(result)
    return results


def show(results):
    iops = {key: [result["iops"] for result in found] for key, found in results.items()}
    rows = [["workload", "perf kIOPS", "fio kIOPS", "fio/perf", "noise"]]
    for workload in WORKLOADS:
        perf, fio = (statistics.median(iops[client, workload]) for client in CLIENTS)
        noise = max(compare.spread(iops[client, workload]) for client in CLIENTS)
        rows.append([workload, f"{perf / 1000:.1f}", f"{fio / 1000:.1f}", f"{fio / perf:.3f}", f"{noise:.1%}"])
    print(common.table(rows))


def guest():
    """What the lab's scenario measured, one object a run."""
    common.output_of(common.ROOT / "scripts" / "lab" / "test", "--keep", "fio-engine")
    log = LAB_LOG.read_text(encoding="utf-8", errors="replace")
    mark = "MEASURED: "
    return [json.loads(line.split(mark, 1)[1]) for line in log.splitlines() if mark in line]


def show_guest(runs):
    rows = [["in the guest", "kernel kIOPS", "engine kIOPS", "engine/kernel", "kernel p99 us", "engine p99 us"]]
    for kernel, engine in zip(runs[::2], runs[1::2]):
        assert (kernel["who"], engine["who"]) == ("kernel", "engine")
        rows.append([f"{kernel['workload']} 4k d{kernel['depth']}", f"{kernel['iops'] / 1000:.1f}", f"{engine['iops'] / 1000:.1f}",
                     f"{engine['iops'] / kernel['iops']:.2f}", f"{kernel['p99_us']:.0f}", f"{engine['p99_us']:.0f}"])
    print("\n" + common.table(rows))


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench fio", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="medians of as many (default 5)")
    parser.add_argument("--seconds", type=int, default=3, metavar="N", help="length of one run (default 3)")
    parser.add_argument("--no-guest", action="store_true", help="leave out the kernel's initiator, which needs root")
    parser.add_argument("--realtime", action="store_true", help="target and clients with real-time priority, for a machine that others use too")
    parser.add_argument("--json", metavar="FILE", help="write every run there")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = arguments.seconds = 1
    common.packages_ensure("fio")
    results = take_turns(arguments.rounds, arguments.seconds, common.REALTIME * arguments.realtime)
    show(results)
    runs = [] if arguments.no_guest else guest()
    if runs:
        show_guest(runs)
    host = [{"client": client, "workload": workload, **result} for (client, workload), found in results.items() for result in found]
    common.save(arguments.json, host=host, guest=runs)
    return 0


if __name__ == "__main__":
    common.run(main)
