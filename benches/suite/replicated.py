"""scripts/versus-spdk --replicated: a volume of three copies beside one remote write, on three processes over loopback.

The head is one process, on core TARGET_CORE, where its reactor polls as ever; the client has CLIENT_CORE. The other two replicas
are processes of their own on the head's core: with real-time priority and without polling they run when something has come for
them, at once, and no longer. So nothing on the machine waits for its turn, but the replicas' work comes one after the other,
and after the head's, where nodes of their own would do it at the same time.

What is compared, in turns:
- device: the head's own memory device, which is also what its replica lies on
- remote: a device of the second process, which the head reaches as a host (bdev_nvme): one remote write
- volume: three copies, of which the head has one
- spdk: SPDK's nvmf_tgt in the head's place, with its bdev_nvme to the same device of the same second process. SPDK polls for
  ever, so that two of it cannot share a core; it has no mirror (20.07), so that it is compared in one remote write

Processor time is that of the head per I/O, at a depth at which it never rests. Latency "apart" is that of the volume less what
the third process takes for a write: an estimate of what it is when the two replicas run beside each other.
"""
import argparse
import contextlib
import json
import re
import signal
import statistics

import common
import peers

MIB = 256
BLOCK = 4096
# A replica's metadata lies beside its data.
REPLICA_MIB = MIB + 64
VOLUME = "2b8f6a52-3c1d-4d0e-9a57-6f0e6c5b4a31"
REPLICAS = 3
# For the replicas: above the head, whatever that has.
AT_ONCE = ["chrt", "-f", "20"]
# A replica sleeps at once when it has nothing to do, and wakes by interrupt: it shares the head's core.
WITHOUT_POLLING = "[reactors]\nidle_after_us = 0\n"

# name: random or sequential, read or write, bytes, depth
WORKLOADS = {
    "randwrite 4k d1": ("rand", "write", 4096, 1),
    "randwrite 4k d32": ("rand", "write", 4096, 32),
    "randwrite 4k d128": ("rand", "write", 4096, 127),
    "randread 4k d1": ("rand", "read", 4096, 1),
    "randread 4k d32": ("rand", "read", 4096, 32),
    "write 128k d8": ("", "write", 131072, 8),
    "read 128k d8": ("", "read", 131072, 8),
}
PLACES = ("device", "remote", "volume", "spdk")


def nqn(name):
    return f"{common.NQN}:{name}"


def blocks(mib):
    return mib * 1048576 // BLOCK


def started(folder, is_head, realtime):
    """One of our processes."""
    folder.mkdir()
    if is_head:
        return listening(common.Target(folder, peers.TARGET_CORE, under=common.REALTIME * realtime))
    config = folder / "config"
    config.write_text(WITHOUT_POLLING, encoding="utf-8")
    return listening(common.Target(folder, peers.TARGET_CORE, ["--config", config], AT_ONCE))


def listening(target):
    target.port = common.free_port()
    target.call("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192, max_queue_depth=256)
    return target


def replica(target):
    """A replica on a memory device of this node: `own`."""
    target.call("bdev_malloc_create", name="under", num_blocks=blocks(REPLICA_MIB), block_size=BLOCK)
    target.call("replica_create", name="own", bdev_name="under", volume=VOLUME, size_bytes=MIB << 20, zeroed=True)
    return "own"


def export(target, name, device, **more):
    target.call("nvmf_create_subsystem", nqn=nqn(name), allow_any_host=True, serial_number="REPLICATED", **more)
    target.call("nvmf_subsystem_add_ns", nqn=nqn(name), namespace={"bdev_name": device})
    target.call("nvmf_subsystem_add_listener", nqn=nqn(name), listen_address={
        "trtype": "TCP", "adrfam": "IPv4", "traddr": common.ADDRESS, "trsvcid": str(target.port)})


def attach(target, name, node):
    """What another node exports under this name, as a device here."""
    target.call("bdev_nvme_attach_controller", name=name, trtype="TCP", adrfam="IPv4", traddr=common.ADDRESS,
                trsvcid=str(node.port), subnqn=nqn(name), hostnqn=nqn("head"))
    return f"{name}n1"


def memory_device(target, name):
    target.call("bdev_malloc_create", name=name, num_blocks=blocks(MIB), block_size=BLOCK)
    return name


@contextlib.contextmanager
def cluster(folder, realtime):
    """Our three processes with everything on them; the head comes first."""
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(started(folder / f"node{number}", number == 0, realtime)) for number in range(REPLICAS)]
        head, second, _ = nodes
        export(head, "device", memory_device(head, "memory"))
        export(second, "far", memory_device(second, "memory"))
        export(head, "remote", attach(head, "far", second))
        names = [replica(head)]
        for number, node in enumerate(nodes[1:], 1):
            export(node, f"replica{number}", replica(node), hidden=True)
            names.append(attach(head, f"replica{number}", node))
        head.call("volume_create", name="v", uuid=VOLUME, replicas=names)
        head.call("volume_activate", name="v", epoch=1, in_sync=names)
        export(head, "volume", "v")
        yield nodes


@contextlib.contextmanager
def spdk_head(folder, second, realtime):
    """SPDK in the head's place."""
    folder.mkdir()
    with peers.hugepages() as huge, peers.Spdk(folder, huge, common.REALTIME * realtime) as spdk:
        export(listening(spdk), "spdk", attach(spdk, "far", second))
        yield spdk


def client(port, name, shape, *limits, realtime=False):
    random, direction, size, depth = shape
    words = common.perf(port, "--workload", random + direction, "--size", size, "--depth", depth, *limits, cores=peers.CLIENT_CORE)
    words[words.index("--subnqn") + 1] = nqn(name)
    return json.loads(common.output_of(*common.REALTIME * realtime, *words))


@contextlib.contextmanager
def awake(target):
    """SPDK polls whenever it runs: it runs only while it is measured."""
    if isinstance(target, peers.Spdk):
        target.process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        if isinstance(target, peers.Spdk):
            target.process.send_signal(signal.SIGSTOP)


def measure(processes, name, shape, arguments):
    """One run at the first of the processes; what each of them takes for an I/O, in microseconds."""
    before = [common.cpu_seconds(one.pid) for one in processes]
    with awake(processes[0]):
        found = client(processes[0].port, name, shape, "--time", arguments.seconds, realtime=arguments.realtime)
    ios = found["read"]["operations"] + found["write"]["operations"]
    if ios == 0 or found["errors"]:
        raise common.Failed(f"{name}: {ios} I/Os, {found['errors']} errors")
    used = [(common.cpu_seconds(one.pid) - start) * 1e6 / ios for one, start in zip(processes, before)]
    return {"iops": found["iops"], "cpu_us": used, **{f"{name}_us": found["latency_us"][name] for name in ("mean", "p50", "p99")}}


def take_turns(folder, arguments):
    """{(place, workload): [result, …]}"""
    results = {}
    with cluster(folder, arguments.realtime) as (head, second, third), contextlib.ExitStack() as stack:
        places = {"device": [head], "remote": [head, second], "volume": [head, second, third]}
        if not arguments.alone:
            places["spdk"] = [stack.enter_context(spdk_head(folder / "spdk", second, arguments.realtime)), second]
        for place, processes in places.items():
            with awake(processes[0]):
                client(processes[0].port, place, ("", "write", 131072, 8), "--io-count", MIB * 8, "--time", 600)
        for round_ in range(arguments.rounds):
            for workload in (name for name in WORKLOADS if re.search(arguments.only, name)):
                for place, processes in places.items():
                    found = measure(processes, place, WORKLOADS[workload], arguments)
                    common.say(f"round {round_ + 1}, {workload}, {place}: {found['iops']:.0f} IOPS")
                    results.setdefault((place, workload), []).append(found)
    return results


def middle(results, place, workload, name):
    found = results.get((place, workload))
    return statistics.median(result[name] for result in found) if found else None


def head_cpu(results, place, workload, process=0):
    return statistics.median(result["cpu_us"][process] for result in results[place, workload])


def show(results):
    rows = [["kIOPS (mean us)", *PLACES, "volume/remote", "volume/device", "remote/spdk"]]
    for workload in dict.fromkeys(workload for _, workload in results):
        iops = {place: middle(results, place, workload, "iops") for place in PLACES}
        mean = {place: middle(results, place, workload, "mean_us") for place in PLACES}
        ratio = lambda a, b, iops=iops: f"{iops[a] / iops[b]:.2f}" if iops[b] else "-"
        rows.append([workload, *(f"{iops[place] / 1000:.1f} ({mean[place]:.1f})" if iops[place] else "-" for place in PLACES),
                     ratio("volume", "remote"), ratio("volume", "device"), ratio("remote", "spdk")])
    print(common.table(rows))


def aims(results):
    """[what, found, aim, whether it is reached]"""
    workloads = {workload for _, workload in results}
    found = []
    for workload in [name for name in ("randwrite 4k d32", "randwrite 4k d128") if name in workloads]:
        ratio = head_cpu(results, "volume", workload) / head_cpu(results, "remote", workload)
        found.append([f"processor time at the head, {workload}, of one remote write's", ratio, "<= 3", ratio <= 3])
    if "randwrite 4k d1" in workloads:
        volume, remote = (middle(results, place, "randwrite 4k d1", "mean_us") for place in ("volume", "remote"))
        found.append(["latency, randwrite 4k d1, of one remote write's", volume / remote, "", None])
        apart = (volume - head_cpu(results, "volume", "randwrite 4k d1", 2)) / remote
        found.append(["the same, replicas apart (estimate)", apart, "<= 1.3", apart <= 1.3])
    for workload in [name for name in WORKLOADS if "read" in name and name in workloads]:
        ratio = middle(results, "volume", workload, "iops") / middle(results, "device", workload, "iops")
        found.append([f"IOPS, {workload}, of the bare device's", ratio, ">= 0.95", ratio >= 0.95])
    return found


def main():
    parser = argparse.ArgumentParser(prog="scripts/versus-spdk --replicated", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="medians of as many (default 5)")
    parser.add_argument("--seconds", type=int, default=2, metavar="N", help="length of one run (default 2)")
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--only", default="", metavar="REGEX", help="only the workloads whose name matches")
    parser.add_argument("--alone", action="store_true", help="leave SPDK out")
    parser.add_argument("--realtime", action="store_true", help="head and client with real-time priority, for a machine that others use too")
    parser.add_argument("--json", metavar="FILE", help="write every run there")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = arguments.seconds = 1
    if not any(re.search(arguments.only, name) for name in WORKLOADS):
        parser.error(f"no workload matches {arguments.only}")
    results = take_turns(common.scratch(), arguments)
    show(results)
    reached = {True: "yes", False: "NO", None: "-"}
    print("\n" + common.table([["ratio", "found", "aim", "reached"],
                               *([what, f"{ratio:.2f}", aim, reached[ok]] for what, ratio, aim, ok in aims(results))]))
    common.save(arguments.json, runs=[{"place": place, "workload": workload, **result}
                                      for (place, workload), found in results.items() for result in found])
    return 0


if __name__ == "__main__":
    common.run(main)
