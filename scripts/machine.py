"""The machine that a script measures on: its processor, and whether it was quiet meanwhile.

    print(machine.caption("torch", threads=2))
    load = machine.Load()
    ...
    print(load)
"""

import importlib.metadata
import os
import pathlib
import platform
import resource
import subprocess
import threading

# Others that take this share of the machine lengthen a step by about as much; the rounds of a quiet machine differ
# by more.
QUIET = 0.02
VECTORS = {"avx512f": "avx512", "avx2": "avx2", "avx": "avx", "sve": "sve", "asimd": "neon"}


def processor():
    """Name, cores and widest vectors of the processor, as "AMD EPYC, 2 cores, avx512"."""
    facts = {}
    info = pathlib.Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        key, _, value = line.partition(":")
        facts.setdefault(key.strip().lower(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    flags = (facts.get("flags") or facts.get("features", "")).split()
    widest = next((name for flag, name in VECTORS.items() if flag in flags), None)
    return ", ".join(filter(None, [name, f"{os.cpu_count()} cores", widest]))


def caption(*packages, threads=None):
    """The line above a table: the processor, the versions of packages, the threads where they are the same."""
    parts = [f"Processor: {processor()}"]
    parts += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join(parts + ([f"{threads} threads"] if threads else []))


def peak_memory():
    """The peak memory of this process in MiB."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        # ru_maxrss of Linux is no smaller than the memory of the process that started this one.
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    unit = 1 << 20 if platform.system() == "Darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class GpuMemory:
    """Watches how much more memory of a GPU is in use, in MiB, than at first; None where nvidia-smi does not say."""

    def __init__(self, device):
        index = int(device.partition(":")[2] or 0)
        # CUDA counts the GPUs that this variable shows, by number or name; nvidia-smi counts all.
        shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        self.index = shown[index] if shown else str(index)
        self.peak = 0

    def used(self):
        """MiB in use."""
        command = ["nvidia-smi", f"--id={self.index}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def watch(self, before):
        while self.peak is not None and not self.ended.wait(0.05):
            try:
                self.peak = max(self.peak, self.used() - before)
            except (subprocess.CalledProcessError, ValueError):
                self.peak = None  # Not known.

    def __enter__(self):
        self.ended = threading.Event()
        try:
            self.thread = threading.Thread(target=self.watch, args=(self.used(),))
        except (OSError, subprocess.CalledProcessError, ValueError):
            self.peak, self.thread = None, threading.Thread()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def seconds():
    """CPU seconds so far: all of the machine, busy, taken by its host; those of this process and its children."""
    user, nice, system, idle, waiting, irq, softirq, steal = (
        int(ticks) / os.sysconf("SC_CLK_TCK")
        for ticks in pathlib.Path("/proc/stat").read_text().split()[1:9]
    )
    busy = user + nice + system + irq + softirq
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return busy + idle + waiting + steal, busy, steal, own


class Load:
    """What others than this process and its children have used of the processor since this was made."""

    def __init__(self):
        self.known = os.path.exists("/proc/stat")
        self.start = seconds() if self.known else None

    def shares(self):
        """The share of the machine's CPU time that others used, and that part of it that its host took."""
        total, busy, steal, own = (now - then for now, then in zip(seconds(), self.start))
        return max(0.0, busy + steal - own) / total, steal / total

    def __str__(self):
        if not self.known:
            return "Quiet: not known, there is no /proc/stat"
        others, steal = self.shares()
        used = f"other programs used {100 * others:.1f} % of the machine"
        if steal >= 0.001:
            used += f", {100 * steal:.1f} % taken by the host of this virtual machine"
        return f"Quiet: {used}" if others <= QUIET else f"NOT QUIET: {used}; measure again"
