"""Checks and measures a CUDA build on the GPU of this machine, from the packed programs alone, without Rust.

    mkdir gpu && tar -C gpu -xJf gpu.tar.xz && python3 gpu/gpu_check.py [--out gpu_check.json] [--quick]

scripts/cuda_build.sh makes gpu.tar.xz. Checked are layers and models on the GPU against the CPU (values and
gradients), the preset `smoke` of every table (its first loss against that of the CPU), steps of Muon, and a run that is
killed and goes on. Measured are training steps of large models, against PyTorch where it is installed with timm and transformers, and
what conditioned tokens cost there. Prints one table and writes the same as JSON; ends with an error if a check failed.
With --device cpu and --programs FOLDER it tries itself on a machine without a GPU: the tests of layers and models, which
need one, are left out and named.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TABLES = ["table1-imagenet", "table2-coco", "table3-lra", "table4-glue", "table5-tinystories"]
# The first loss has seen one forward pass: f32 on two devices, with other orders of sums.
FIRST_LOSS = 1e-3
# Sizes that fill a large card.
CASES = ["vit_base_patch16_224:64", "gpt2:8"]
CONDITIONED = {"vit_base_patch16_224": ["per-sequence", "pooled"], "gpt2": ["pooled"]}
# Seconds. torch.compile takes minutes for a large model.
LONGEST, LONGEST_COMPILE = 300, 1200
# Steps after which two runs of a GPU that adds in another order each time are compared no more.
ALIKE = 60


class Failed(Exception):
    """A check that did not pass."""


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--programs", default=HERE / "bin", type=pathlib.Path)
    parser.add_argument("--out", default="gpu_check.json", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="checks alone, no measurements")
    return parser.parse_args()


def run(command, seconds=LONGEST):
    """The output of a command; Failed with the last line of its errors where it fails."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([str(part) for part in command], stdout=pipe, stderr=pipe, text=True,
                               start_new_session=True)  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        raise Failed(f"no end after {seconds} s") from None
    if process.returncode != 0:
        said = (stderr.strip() or stdout.strip() or "nothing was said").splitlines()
        errors = [line for line in said if "error" in line or "panicked" in line or "differs" in line]
        raise Failed((errors or said)[-1][:300])
    return stdout


def kill(process):
    """Ends a process and those that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tests(options, program):
    """The tests of a suite that need a GPU."""
    text = run([options.programs / program, "gpu_", "--test-threads", "1"])
    passed = next(line for line in text.splitlines() if line.startswith("test result: ok."))
    count = int(passed.split()[3])
    if count == 0:
        raise Failed("no test ran")
    return f"{count} tests"


def losses(folder):
    """Every training loss of the runs below a folder, by run and step; runs at equal time are as long as a clock says."""
    found = {}
    for path in sorted(folder.rglob("metrics.jsonl")):
        if "-equal-time" in str(path):
            continue
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "step":
                found[str(path.parent.relative_to(folder)), event["step"]] = event["loss"]
    if not found:
        raise Failed("no training loss was recorded")
    return found


def from_scratch(folder):
    """The runs below a folder that do not go on from weights of an earlier stage, which was trained on the device too."""
    runs = [(path.parent, json.loads(path.read_text())) for path in folder.rglob("run.json")]
    return {str(path.relative_to(folder)) for path, run in runs if run["job"]["init"] is None}


def smoke(options, table):
    """The smallest preset of a table; its first losses are those of the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        command = [options.programs / table, "--preset", "smoke", "--seeds", "1"]
        run([*command, "--device", options.device, "--out", folder / "device"])
        run([*command, "--out", folder / "cpu"])
        ours, cpu = losses(folder / "device"), losses(folder / "cpu")
        begun = from_scratch(folder / "cpu")
    if ours.keys() != cpu.keys():
        raise Failed("other steps were recorded than on the CPU")
    first = [key for key in ours if key[1] == 1 and key[0] in begun]
    worst = max(abs(ours[key] - cpu[key]) / abs(cpu[key]) for key in first)
    if not worst <= FIRST_LOSS:
        raise Failed(f"a first loss differs from the CPU's by {worst:.1e} of it")
    last = max(abs(ours[key] - cpu[key]) / abs(cpu[key]) for key in ours)
    return f"{len(ours)} steps; first losses agree to {worst:.0e}, all to {last:.0e}"


def resume(options):
    """A run that is killed after its first checkpoint goes on to the losses of one that is not."""
    command = [options.programs / "table5-tinystories", "--preset", "smoke", "--seeds", "1", "--arms", "pooled",
               "--device", options.device, "--set", "steps=600", "--set", "evaluations=15"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run([*command, "--out", folder / "whole"])
        killed = folder / "killed"
        process = subprocess.Popen([*map(str, command), "--out", str(killed)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        checkpoints = lambda: list(killed.rglob("checkpoints/step-*.safetensors"))
        start = time.time()
        while not checkpoints() and process.poll() is None and time.time() - start < LONGEST:
            time.sleep(0.01)
        if process.poll() is not None:
            raise Failed("the run ended before it could be killed")
        kill(process)
        if not checkpoints():
            raise Failed("the killed run left no checkpoint")
        run([*command, "--out", killed])
        whole, again = losses(folder / "whole"), losses(killed)
    if whole.keys() != again.keys():
        raise Failed("the resumed run recorded other steps")
    if whole == again:
        return "the same bits"
    worst = max(abs(again[key] - whole[key]) / abs(whole[key]) for key in whole if key[1] <= ALIKE)
    if not worst <= FIRST_LOSS:
        raise Failed(f"a loss of the resumed run differs by {worst:.1e} of it")
    return f"the losses of the first {ALIKE} steps agree to {worst:.0e}"


def muon(options):
    """The losses of some steps of Muon, whose directions are found there, are those of the CPU."""
    command = [options.programs / "train-step", "--model", "vit-32", "--batch", "16", "--steps", "6", "--muon"]
    on = lambda device: [json.loads(line)["loss"] for line in run([*command, "--device", device]).splitlines()[:-1]]
    worst = max(abs(ours - cpu) / cpu for ours, cpu in zip(on(options.device), on("cpu"), strict=True))
    if not worst <= FIRST_LOSS:
        raise Failed(f"a loss differs from the CPU's by {worst:.1e} of it")
    return f"6 steps; losses agree to {worst:.0e}"


def steps(options, case, precision):
    """Milliseconds a training step of ours takes, and what conditioned tokens take alone."""
    name, _, batch = case.rpartition(":")
    step = [options.programs / "train-step", "--model", name, "--batch", batch, "--device", options.device,
            "--precision", precision]  # fmt: skip

    def measured(arm):
        lines = [json.loads(line) for line in run([*step, "--steps", "12", "--conditioning", arm]).splitlines()]
        # Kernels are compiled by the driver at first use.
        times = sorted(line["total_ms"] for line in lines[3:-1])
        return times[len(times) // 2], lines[-1]

    plain, end = measured("none")
    flops = end["flops"] / plain * 1e-9
    parts = [f"{plain:.1f} ms, {1e3 * int(batch) / plain:.0f} samples a second, {flops:.1f} TFLOP/s"]
    for arm in CONDITIONED[name]:
        alone = measured(arm)[1]["conditioning_ms"]
        parts.append(f"{arm} alone {alone:.1f} ms ({100 * alone / plain:.1f} %)")
    return "; ".join(parts)


def against_pytorch(options, case, precision, *more, seconds=LONGEST):
    """The same steps in PyTorch."""
    command = [sys.executable, HERE / "compare_pytorch.py", "--device", options.device, "--cases", case,
               "--precision", precision]  # fmt: skip
    text = run([*command, *more, "--rounds", "2", "--binary", options.programs / "train-step"], seconds)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {case}")]
    return "; ".join(f"{row[1]} {row[2]} ms" + (f" ({row[3]} of ours)" if row[3].strip() else "") for row in rows)


def gpu_name():
    if not shutil.which("nvidia-smi"):
        return "no nvidia-smi on this machine"
    try:
        return run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]).strip()
    except Failed as error:
        return f"a GPU that nvidia-smi does not name ({error})"


def main():
    options = arguments()
    on_gpu = options.device != "cpu"
    checks = [("layers equal those of the CPU", lambda: tests(options, "suite-nn")),
              ("models equal those of the CPU", lambda: tests(options, "suite-models"))]  # fmt: skip
    if not on_gpu:
        print("NOT CHECKED: layers and models, whose tests need a GPU", file=sys.stderr)
        checks = []
    checks += [(f"{table}: smoke", lambda table=table: smoke(options, table)) for table in TABLES]
    checks.append(("steps of Muon", lambda: muon(options)))
    checks.append(("killed and resumed", lambda: resume(options)))
    if not options.quick:
        measured = [(case, precision) for case in CASES for precision in ("f32", "bf16")]
        checks += [(f"step of {case} in {of}", lambda case=case, of=of: steps(options, case, of)) for case, of in measured]
        try:
            import timm  # noqa: F401
            import torch  # noqa: F401
            import transformers  # noqa: F401

            for case, of in measured:
                eager = lambda case=case, of=of: against_pytorch(options, case, of)
                compiled = lambda case=case, of=of: against_pytorch(options, case, of, "--compile", seconds=LONGEST_COMPILE)
                checks += [(f"{case} in {of} in PyTorch", eager), (f"{case} in {of} by torch.compile", compiled)]
        except ImportError as error:
            print(f"NOT MEASURED: PyTorch ({error})", file=sys.stderr)
    gpu = gpu_name() if on_gpu else "the CPU"
    print(f"On {gpu}\n\n| check | passed | seconds | what came out |\n| --- | --- | --- | --- |")
    rows = []
    for name, check in checks:
        start = time.time()
        try:
            passed, detail = True, check()
        except Exception as error:  # Whatever is wrong with one check, the others are worth having.
            passed, detail = False, str(error) if isinstance(error, Failed) else repr(error)
        rows.append({"check": name, "passed": passed, "seconds": round(time.time() - start, 1), "result": detail})
        print(f"| {name} | {'yes' if passed else 'NO'} | {rows[-1]['seconds']} | {detail} |", flush=True)
        options.out.write_text(json.dumps({"device": gpu, "checks": rows}, indent=2) + "\n")
    failed = [row["check"] for row in rows if not row["passed"]]
    if failed:
        sys.exit(f"error: {len(failed)} of {len(rows)} checks failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
