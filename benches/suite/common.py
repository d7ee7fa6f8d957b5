"""What the commands of scripts/bench share: where things are, what machine this is, a target that runs for a while."""
import atexit
import datetime
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
RELEASE = pathlib.Path(os.environ.get("POLLUX_BIN", ROOT / "target" / "release"))
NQN = "nqn.2025-01.org.pollux:bench"
ADDRESS = "127.0.0.1"
START_SECONDS = 30
# What a program is started by that other programs are not to take time from. Round robin: threads of one may share a core.
REALTIME = ["chrt", "-r", "10"]
STOP_SECONDS = 15


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def die(*words):
    say(f"{pathlib.Path(sys.argv[0]).stem}:", *words)
    sys.exit(1)


def output_of(*command, **options):
    """Standard output of a command that must succeed; what it complained about otherwise."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        tail = "\n".join((done.stderr + done.stdout).strip().splitlines()[-5:])
        raise Failed(f"{command[0]} ended with {done.returncode}: {tail}")
    return done.stdout


class Failed(Exception):
    """A program did not do what it was asked for."""


def run(main):
    """Ends the program with what its main function gives; a failure is said, not traced, a reader that left is not one."""
    try:
        status = main()
        sys.stdout.flush()
    except Failed as failure:
        die(failure)
    except BrokenPipeError:
        # Nothing is left that the end of the program could try to write there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def save(path, **found):
    """Writes what --json asks for, with the circumstances; nothing when it was not given."""
    if path:
        text = json.dumps({**circumstances(), **found}, indent=1)
        pathlib.Path(path).write_text(text, encoding="utf-8")


def packages_ensure(*packages):
    """Installs Debian packages that are missing. Raises Failed when that is not possible."""
    query = ["dpkg-query", "-W", "-f=${db:Status-Status}"]
    missing = [name for name in packages
               if subprocess.run(query + [name], capture_output=True, text=True, check=False).stdout != "installed"]
    if not missing:
        return
    if os.geteuid() != 0:
        raise Failed(f"missing Debian packages: {' '.join(missing)} (run as root, or install them)")
    say("installing:", *missing)
    output_of("apt-get", "update", "-qq")
    # A service that a package starts by itself would take ports and processor time.
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    output_of("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=environment)


def program(name):
    """The path of one of our own release binaries."""
    path = RELEASE / name
    if not path.exists():
        die(f"{path} is not there; build it first: cargo build --release --workspace")
    return path


def revision():
    described = output_of("git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").strip()
    return described


def machine():
    """What a figure depends on."""
    model = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
    }


def today():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")


def circumstances():
    """The part of every record that says where it comes from."""
    return {"revision": revision(), "machine": machine(), "date": today()}


def free_port():
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    """Processor time of all threads of a process so far."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text(encoding="utf-8").split()[0])
    return total / 1e9


def wait_until(seconds, what, condition):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"gave up waiting until {what}")
        time.sleep(0.05)  # bounded by the deadline above


def stop(process):
    """SIGTERM, then SIGKILL. Whether it went by itself, with status 0."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    return process.returncode == 0


def scratch():
    """A folder that is gone when this program is."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pollux-bench."))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class RpcError(Failed):
    """The target's answer to a call was an error."""

    def __init__(self, method, error):
        super().__init__(f"{method}: {error.get('message')}")
        self.is_unknown_method = error.get("code") == -32601


class Target:
    """A pollux-dataplane on its own, with what is asked of it over JSON-RPC; use it in `with`.

    `words` are further arguments, `under` a command that it is started by.
    """

    def __init__(self, folder, cores="0", words=(), under=()):
        self.socket = str(folder / "rpc")
        self.log = folder / "target.log"
        self.port = 0
        with open(self.log, "ab") as log:
            command = [*under, program("pollux-dataplane"), "--rpc-socket", self.socket, "--cores", cores, *words]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        atexit.register(self.process.kill)
        wait_until(START_SECONDS, "the target answered", self.has_started)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        ended_well = stop(self.process)
        atexit.unregister(self.process.kill)
        if not ended_well:
            raise Failed(f"the target did not end well: {self.last_words()}")

    def last_words(self):
        return " ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])

    def has_started(self):
        if self.process.poll() is not None:
            raise Failed(f"the target did not start: {self.last_words()}")
        try:
            return bool(self.call("rpc_get_methods"))
        except OSError:
            return False

    @property
    def pid(self):
        return self.process.pid

    def call(self, method, **parameters):
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        if parameters:
            request["params"] = parameters
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS)
            connection.connect(self.socket)
            connection.sendall(json.dumps(request).encode())
            answer = read_object(connection)
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]

    def serve(self, device, transport="tcp", address=ADDRESS):
        """A subsystem with this device as namespace 1, and a listener on a free port."""
        self.call("nvmf_create_transport", trtype=transport.upper(), in_capsule_data_size=8192, max_queue_depth=512)
        self.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="BENCH")
        self.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": device})
        self.port = free_port()
        self.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address={
            "trtype": transport.upper(), "adrfam": "IPv4", "traddr": address, "trsvcid": str(self.port)})


def read_object(connection):
    """One JSON object; it ends where the first complete one does."""
    received = b""
    while True:
        chunk = connection.recv(65536)
        if not chunk:
            raise Failed("the target closed the connection without an answer")
        received += chunk
        try:
            return json.JSONDecoder().raw_decode(received.decode().lstrip())[0]
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue


def perf(port, *arguments, cores="1", address=ADDRESS, transport="tcp"):
    """The words of a `pollux perf` that measures this target."""
    return [str(word) for word in (program("pollux"), "perf", "--transport", transport, "--traddr", address, "--trsvcid", port,
                                   "--subnqn", NQN, "--cores", cores, "--seed", 7, "--quiet", "--json", *arguments)]


def fill(port, mib, **where):
    """Writes every block: one that was never written is read from no memory, which measures nothing."""
    output_of(*perf(port, "--workload", "write", "--size", 131072, "--depth", 8, "--io-count", mib * 8, "--time", 600, **where))


def table(rows):
    """Rows of words in columns."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
