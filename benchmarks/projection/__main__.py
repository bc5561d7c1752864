"""The projection operator, right and beside its peers, on whatever devices are here.

    python benchmarks/projection [--repetitions 15] [--case standard] [--detections FILE]

First equality with the slow reference, then times: all forms take turns, in a new order each time, so that each meets the
same machine. What is found goes to results/<machine>.json beside this file, and from all such files into kernels/README.md;
with --out to that file alone. --detections adds cases of those that a trained model gave, recorded by
benchmarks/detections.py.
On a GPU ours is also captured as CUDA graphs and replayed, which leaves the host's time out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from imp_kernels.reference import project_masks_backward_reference, project_masks_reference
from peers import PEERS, Instances, Shape
from safetensors.torch import load_file
from torch import Tensor

from imptool.files import whole_file, write_json
from imptool.projection import project_masks

HERE = Path(__file__).parent
ROOT = HERE.parents[1]  # the checkout
OURS = "project_masks"
PASSES = {"forward": False, "forward + backward": True}


class Case(NamedTuple):
    """What is projected: boxes of log-normal sides around `side` pixels, clipped to the canvas, or those of a file."""

    batch: int = 2
    detections: int = 100
    num_layers: int = 25
    size: tuple[int, int] = (200, 334)
    mask_side: int = 28
    side: float = 33
    one_class: bool = False
    recorded: Path | None = None

    @property
    def shape(self) -> Shape:
        return (self.batch, self.num_layers, *self.size)


CASES = {
    "standard": Case(),
    "small boxes": Case(side=5),
    "large boxes": Case(side=150),
    "one detection": Case(detections=1),
    "one class": Case(one_class=True),
    "within a pixel, one class": Case(side=0.3, one_class=True),  # as an untrained detector gives them
    "133 classes": Case(num_layers=133),
    "batch 16": Case(batch=16, size=(256, 512)),
    "masks 14x14": Case(mask_side=14),
    "masks 56x56": Case(mask_side=56),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15, help="of each form in each case (batch 16: a third)")
    parser.add_argument("--case", choices=CASES, nargs="+", help="only these; without --out nothing is written")
    parser.add_argument("--device", choices=["cpu", "cuda"], nargs="+", help="all that are here, when none is named")
    parser.add_argument("--detections", type=Path, metavar="FILE", help="recorded by benchmarks/detections.py")
    parser.add_argument("--out", type=Path, help="write the figures as JSON there, after each case")
    arguments = parser.parse_args()
    devices = arguments.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    cases = {name: CASES[name] for name in arguments.case or CASES} | recorded_cases(arguments.detections)
    results: dict[str, Any] = {"machine": describe_machine(), "devices": {}}
    for device in devices:
        print(f"{device}: {check(device)} random cases equal the reference bit for bit", flush=True)
        found = results["devices"][device] = {"cases": {}, "floors": measure_rates(device)}
        for name, case in cases.items():
            repetitions = max(arguments.repetitions // (3 if case.batch > 2 else 1), 3)
            found["cases"][name] = compare(name, case, device, repetitions)
            if arguments.out:
                write_json(arguments.out, results, indent=1)
        found["floors"] |= measure_against_floor(device, found["floors"]["copy GB/s"])
        found["host us"] = measure_host_time(device)
        if device == "cuda":
            found["graphs ms"] = {name: measure_graphs(name, case) for name, case in cases.items()}
    if arguments.out:
        write_json(arguments.out, results, indent=1)
    elif not (arguments.case or arguments.device or arguments.detections):
        write_results(results)


def recorded_cases(path: Path | None) -> dict[str, Case]:
    """Upright images of 800x1333 with the detections of a file, beside "standard"."""
    if path is None:
        return {}
    return {f"trained, batch {batch}": Case(batch=batch, size=(336, 200), recorded=path) for batch in (1, 2, 16)}


# --------------------------------------------------------------------------------------------------------- correctness


def check(device: str, count: int = 60) -> int:
    """Canvas, winners and gradients of `count` random cases; an AssertionError where they are not the reference's."""
    operator = torch.ops.imptool.project_masks.default
    for seed in range(count):
        arrays, shape, bilinear = random_case(seed)
        batch, num_layers, height, width = shape
        canvas, winners = project_masks_reference(
            **arrays, num_layers=num_layers, size=(height, width), batch=batch, bilinear=bilinear
        )
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        grad = np.random.default_rng(seed).standard_normal(shape).astype(canvas.dtype)
        scores, masks = tensors["scores"].requires_grad_(), tensors["masks"].requires_grad_()
        numbers = {"num_layers": num_layers, "size": (height, width), "batch": batch}
        with torch.no_grad():
            alone = project_masks(*tensors.values(), **numbers, sampling="bilinear" if bilinear else "cells")
        np.testing.assert_array_equal(alone.cpu().numpy(), canvas, strict=True)
        found, found_winners = operator(*tensors.values(), num_layers, height, width, batch, bilinear, True, False)
        found.backward(torch.from_numpy(grad).to(device))
        expected = project_masks_backward_reference(
            arrays["boxes"], arrays["scores"], arrays["masks"], winners, grad, bilinear=bilinear
        )
        for mine, true in zip((found, found_winners, scores.grad, masks.grad), (canvas, winners, *expected), strict=True):
            np.testing.assert_array_equal(mine.detach().cpu().numpy(), true, strict=True)
    return count


def random_case(seed: int) -> tuple[dict[str, np.ndarray], Shape, bool]:
    """Boxes small and large, partly outside or broken; values that often tie, with zeros, negative ones and NaN."""
    rng = np.random.default_rng(seed)
    count, height, width = (int(rng.integers(low, high)) for low, high in ((0, 40), (1, 90), (1, 90)))
    center = rng.uniform(-0.1, 1.1, (count, 2)) * (width, height)
    half = rng.choice([0, 0.01, 0.1, 0.5, 1], (count, 1)) * rng.uniform(0, 1, (count, 2)) * (width, height)
    boxes = np.concatenate([center - half, center + half], axis=1)
    boxes = np.where(rng.random((count, 1)) < 0.5, np.round(boxes * 2) / 2, boxes)
    boxes[rng.random((count, 4)) < 0.02] = np.nan
    dtype = rng.choice([np.float32, np.float64])
    side = rng.integers(1, 29, 2)
    arrays = {
        "boxes": boxes.astype(rng.choice([np.float32, np.float64])),
        "layers": rng.integers(0, 3, count),
        "scores": rng.choice([np.nan, 0, 0.3, 0.5, 1], count).astype(dtype),
        "masks": rng.choice([np.nan, -1, 0, 0.25, 0.5, 0.7, 1], (count, *side)).astype(dtype),
        "image_index": rng.integers(0, 2, count),
    }
    return arrays, (2, 3, height, width), bool(rng.random() < 0.4)


# --------------------------------------------------------------------------------------------------------------- times


def instances_of(case: Case, device: str) -> Instances:
    return recorded_instances(case, device) if case.recorded else random_instances(case, device)


def recorded_instances(case: Case, device: str) -> Instances:
    """The detections of the first images of a file, which begins again where it has fewer."""
    assert case.recorded
    found = load_file(case.recorded)
    counts = found.pop("counts").tolist()
    images = [[value.split(counts)[place % len(counts)] for place in range(case.batch)] for value in found.values()]
    joined = dict(zip(found, map(torch.cat, images), strict=True))
    size = torch.tensor([case.size[1], case.size[0]] * 2)
    taken = torch.tensor([counts[place % len(counts)] for place in range(case.batch)])
    instances = Instances(
        joined["boxes"] * size,
        (joined["labels"] - 1) % case.num_layers,
        joined["scores"],
        joined["masks"][:, 0].float(),
        torch.arange(case.batch).repeat_interleave(taken),
    )
    return Instances(*(tensor.to(device) for tensor in instances))


def random_instances(case: Case, device: str) -> Instances:
    generator = torch.Generator().manual_seed(0)
    count, size = case.batch * case.detections, torch.tensor([case.size[1], case.size[0]])
    center = torch.rand(count, 2, generator=generator) * size
    half = torch.exp(torch.randn(count, 2, generator=generator) * 0.8 + np.log(case.side)) / 2
    instances = Instances(
        torch.cat([(center - half).clamp(min=0), torch.minimum(center + half, size)], dim=1),
        torch.randint(1 if case.one_class else case.num_layers, (count,), generator=generator),
        torch.rand(count, generator=generator),
        torch.rand(count, case.mask_side, case.mask_side, generator=generator),
        torch.arange(count) // case.detections,
    )
    return Instances(*(tensor.to(device) for tensor in instances))


def ours(instances: Instances, shape: Shape) -> Tensor:
    return project_masks(*instances, num_layers=shape[1], size=shape[2:], batch=shape[0])


def ours_bilinear(instances: Instances, shape: Shape) -> Tensor:
    return project_masks(*instances, num_layers=shape[1], size=shape[2:], batch=shape[0], sampling="bilinear")


def compare(name: str, case: Case, device: str, repetitions: int) -> dict[str, Any]:
    """Times of all forms in a case, in ms, with the median of the ratios to ours of the same turn."""
    instances = instances_of(case, device)
    grad_canvas = torch.rand(case.shape, device=device)
    found: dict[str, Any] = {}
    for title, gradient in PASSES.items():
        forms = {OURS: ours, f"{OURS}, bilinear": ours_bilinear, **PEERS}
        if gradient and grad_canvas.numel() * len(instances.boxes) > 5e9:
            del forms["interpolate + maximum in place"]  # autograd copies the canvas once for each detection: minutes
        times: dict[str, list[float]] = {form: [] for form in forms}
        for repetition in range(repetitions + 1):
            for form in random.Random(repetition).sample(list(forms), len(forms)):
                elapsed = milliseconds(forms[form], instances, case.shape, grad_canvas if gradient else None)
                if repetition:  # the first one warms up and compiles
                    times[form].append(elapsed)
        found[title] = {form: summary(values, times[OURS]) for form, values in times.items()}
        print(f"\n{device}, {name}, {title}: ms (quartiles), times ours")
        for form, row in found[title].items():
            print(
                f"  {form:32} {row['median']:9.3f} ({row['quartiles'][0]:.3f} to {row['quartiles'][1]:.3f}) {row['ratio']:8.2f}"
            )
    return found


def summary(values: list[float], base: list[float]) -> dict[str, Any]:
    quartiles = statistics.quantiles(values, n=4)
    ratios = [value / ours for value, ours in zip(values, base, strict=True)]
    return {"median": statistics.median(values), "quartiles": [quartiles[0], quartiles[2]], "ratio": statistics.median(ratios)}


def milliseconds(
    form: Callable[[Instances, Shape], Tensor], instances: Instances, shape: Shape, grad_canvas: Tensor | None
) -> float:
    """One forward, or one forward and backward where a canvas gradient is given; on a GPU the time that it worked."""
    if grad_canvas is not None:
        instances = instances._replace(
            scores=instances.scores.clone().requires_grad_(), masks=instances.masks.clone().requires_grad_()
        )

    def work() -> None:
        canvas = form(instances, shape)
        if grad_canvas is not None:
            canvas.backward(grad_canvas)

    if not instances.masks.is_cuda:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1000
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start_event.record()
    work()
    end_event.record()
    torch.cuda.synchronize()
    return start_event.elapsed_time(end_event)


def measure_graphs(name: str, case: Case) -> dict[str, float]:
    """Milliseconds of ours by pass, captured as a CUDA graph: the mean of 100 replays."""
    instances, found = instances_of(case, "cuda"), {}
    grad_canvas = torch.rand(case.shape, device="cuda")
    for title, gradient in PASSES.items():
        if gradient:
            instances = instances._replace(scores=instances.scores.requires_grad_(), masks=instances.masks.requires_grad_())
        graph = capture(instances, case.shape, grad_canvas if gradient else None)
        times = [milliseconds(lambda *_, graph=graph: replay(graph), instances, case.shape, None) for _ in range(5)]
        found[title] = statistics.median(times) / 100
    print(f"cuda, {name}, replayed graphs: " + ", ".join(f"{title} {ms:.3f} ms" for title, ms in found.items()), flush=True)
    return found


def capture(instances: Instances, shape: Shape, grad_canvas: Tensor | None) -> torch.cuda.CUDAGraph:
    def work() -> None:
        canvas = ours(instances, shape)
        if grad_canvas is not None:
            torch.autograd.grad(canvas, (instances.scores, instances.masks), grad_canvas)

    aside = torch.cuda.Stream()  # autograd must have run outside the stream that captures
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def replay(graph: torch.cuda.CUDAGraph) -> None:
    for _ in range(100):
        graph.replay()


def measure_rates(device: str) -> dict[str, float]:
    """How fast memory that is there already is filled and copied."""
    case = CASES["batch 16"]
    canvas = torch.empty(case.shape, device=device)
    instances = random_instances(Case(detections=1), device)
    times = [milliseconds(lambda *_: canvas.zero_(), instances, case.shape, None) for _ in range(8)]
    source = torch.empty_like(canvas)
    copies = [milliseconds(lambda *_: canvas.copy_(source), instances, case.shape, None) for _ in range(8)]
    size = canvas.numel() * canvas.element_size()
    rates = {
        "fill GB/s": size / statistics.median(times[2:]) / 1e6,
        "copy GB/s": 2 * size / statistics.median(copies[2:]) / 1e6,  # read and written
    }
    print(f"{device}: " + ", ".join(f"{name} {value:.1f}" for name, value in rates.items()))
    return rates


def measure_against_floor(device: str, copy_rate: float) -> dict[str, float]:
    """The forward with winners in the case "batch 16", beside writing canvas and winners once at the rate of a copy."""
    case = CASES["batch 16"]
    instances = random_instances(case, device)
    instances.masks.requires_grad_()
    times = [milliseconds(ours, instances, case.shape, None) for _ in range(8)]
    one = Case(batch=1)
    alone = [milliseconds(ours, random_instances(one, device), one.shape, None) for _ in range(8)]
    floor = math.prod(case.shape) * (4 + 4) / copy_rate / 1e6
    found = {
        "forward with winners / floor": statistics.median(times[2:]) / floor,
        "ms for an image of 800x1333": statistics.median(alone[2:]),
    }
    print(f"{device}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
    return found


def measure_host_time(device: str) -> dict[str, float]:
    """Microseconds of a call on tiny arrays: what checks, dispatch and launch cost. On a GPU nothing is waited for."""
    case = Case(batch=1, detections=1, num_layers=1, size=(4, 4), mask_side=2, side=2)
    instances = random_instances(case, device)
    with_gradient = instances._replace(masks=instances.masks.clone().requires_grad_())
    found = {}
    for title, inputs in (("without autograd", instances), ("with autograd", with_gradient)):
        rounds = []
        for _ in range(30):
            start = time.perf_counter()
            for _ in range(100):
                ours(inputs, case.shape)
            rounds.append((time.perf_counter() - start) * 1e4)
            if device == "cuda":
                torch.cuda.synchronize()
        found[title] = statistics.median(rounds[5:])
    print(f"\n{device}: host time of a forward call, us: " + ", ".join(f"{name} {us:.1f}" for name, us in found.items()))
    return found


# ------------------------------------------------------------------------------------------------------------- results


def describe_machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text() + "\nmodel name: " + cpu)[1]  # type: ignore[index]
    machine = {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "commit": _output("git", "-C", str(HERE), "describe", "--always", "--dirty"),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "numba", "torch", "torchvision")},
    }
    if torch.cuda.is_available():
        from imp_kernels.cuda import launch_path

        machine["gpu"] = torch.cuda.get_device_name()
        machine["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()[0]
        machine["launch path"] = launch_path(torch.cuda.current_device())
        machine["versions"] |= {"cuda": torch.version.cuda, "numba-cuda": version("numba-cuda")}
    return machine


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_results(results: dict[str, Any]) -> None:
    machine = results["machine"]
    name = re.sub(r"\W+", "-", f"{machine.get('gpu', machine['cpu'])} {machine['threads']} threads".lower()).strip("-")
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as file:
        file.write_text(json.dumps(results, indent=1) + os.linesep)
    readme = ROOT / "kernels/README.md"
    tables = "\n".join(table(json.loads(file.read_text())) for file in sorted(path.parent.glob("*.json")))
    text = re.sub(
        r"(<!-- results -->\n).*?(<!-- end of results -->)",
        lambda found: found[1] + tables + found[2],
        readme.read_text(),
        flags=re.S,
    )
    with whole_file(readme) as file:
        file.write_text(text)
    print(f"\n{path.relative_to(ROOT)} and the table in kernels/README.md are written")


def table(results: dict[str, Any]) -> str:
    """One machine's results in Markdown: ours in ms, the peers as multiples of it."""
    machine = results["machine"]
    lines = []
    for device, found in results["devices"].items():
        where = (
            f"{machine['gpu']}, driver {machine['driver']}"
            if device == "cuda"
            else f"{machine['cpu']}, {machine['threads']} threads"
        )
        lines.append(f"**{where}** (torch {machine['versions']['torch']}, commit {machine['commit']}, {machine['date']})\n")
        for title in PASSES:
            lines.append(f"| {title} | ours, ms | bilinear | {' | '.join(PEERS)} |")
            lines.append("|---" * (3 + len(PEERS)) + "|")
            for case, passes in found["cases"].items():
                rows = passes[title]
                ratios = [f"{rows[form]['ratio']:.1f}" if form in rows else "-" for form in (f"{OURS}, bilinear", *PEERS)]
                lines.append(f"| {case} | {rows[OURS]['median']:.2f} | {' | '.join(ratios)} |")
            lines.append("")
        floors = ", ".join(f"{name} {value:.2f}" for name, value in found["floors"].items())
        host = ", ".join(f"{name} {value:.1f} us" for name, value in found["host us"].items())
        lines.append(f"Rates and floors (batch 16): {floors}. Host time of a forward call on tiny arrays: {host}.\n")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
