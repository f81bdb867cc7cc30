"""Tokens per second of the pre-training path beside a plain PyTorch loop and, if one is given, any other program.

python benchmarks/throughput.py --sizes 1,5,20 --steps 20 --repeats 3
python benchmarks/throughput.py --sizes 5 --command "python train.py ..." --pattern "time (?P<ms>[0-9.]+)ms"

All take the same batches of the same memory-mapped file of random tokens, with the same model, optimizer, precision
and kernel, in turn, each in a process of its own. `cpu` is tokens per second of processor time, which other programs on
the machine do not take away; `wall` is what passes. Savings and evaluations are left out, the first steps too.
--command runs in the environment of the caller; its processor time is its share of all that it took.
"""

import argparse
import json
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

VOCABULARY = 4096
WARM = 4  # steps
SIZES = {  # non-embedding parameters in millions: hidden, layers, heads, intermediate
    1: (128, 5, 4, 344), 5: (256, 6, 4, 688), 20: (512, 6, 8, 1376), 100: (768, 14, 12, 2048),
    300: (1024, 24, 16, 2816), 1000: (2048, 20, 16, 5632),
}  # fmt: skip


class Clock:
    """Processor and wall time of steps, by the moments at which they end."""

    def __init__(self, device: str) -> None:
        self.device, self.moments = device, list[tuple[float, float]]()

    def tick(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.moments.append((time.process_time(), time.perf_counter()))

    def rates(self, tokens: int) -> dict[str, float]:
        first, last = self.moments[WARM - 1], self.moments[-1]
        steps = len(self.moments) - WARM
        return {name: steps * tokens / (last[at] - first[at]) for at, name in enumerate(("cpu", "wall"))}


def measured(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run in this process."""
    import torch

    from models.optimizers import MuonAdamW
    from models.packing import PackedWindows, write_stream
    from tasks import speed
    from tasks.settings import Execution

    torch.set_num_threads(options.threads)
    execution = Execution(threads=options.threads, processes=1, device=options.device, compile=options.compile)
    tokens = options.batch * options.context
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tokens").mkdir()
        count = tokens * (options.steps + WARM)
        write_stream(folder / "tokens" / "random.bin", np.random.default_rng(0).integers(0, VOCABULARY, count))
        windows = PackedWindows(folder / "tokens", {"random": 1.0}, context=options.context, tokens=count)
        model = model_of(options.size, options.context)
        settings = speed.choose(
            model, speed.facts_of(execution), execution, precision=options.precision, batch=options.batch,
            context=options.context, tokens=count,
        )  # fmt: skip
        model = settings.prepare(model).to(settings.device)
        muon = options.optimizer == "muon"
        optimizer: torch.optim.Optimizer = (
            MuonAdamW(model, lr=1e-3, embedding_lr=1e-3) if muon
            else torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        )  # fmt: skip
        clock = Clock(settings.device)
        run = ours if way == "ours" else plain
        run(model, optimizer, windows, settings, folder, clock)
    peak = peak_flops(settings)
    used = {name: flops_per_token(model, options.context) * rate for name, rate in clock.rates(tokens).items()}
    return {**clock.rates(tokens), "mfu": used["cpu" if settings.device == "cpu" else "wall"] / peak,
            "settings": f"{settings} ({options.optimizer})"}  # fmt: skip


def model_of(size: int, context: int) -> Any:
    from models.architectures import Dimensions, build

    hidden, layers, heads, intermediate = SIZES[size]
    shape = Dimensions(hidden=hidden, layers=layers, heads=heads, intermediate=intermediate)
    special = {"bos": 0, "eos": 1, "pad": 2}
    return build(shape, vocabulary=VOCABULARY, context=context, special=special, seed=0)


def ours(model: Any, optimizer: Any, windows: Any, settings: Any, folder: Path, clock: Clock) -> None:
    """The Trainer as tasks/pretrain_worker.py drives it, with the callbacks of every training."""
    from transformers import TrainerCallback, TrainingArguments

    from models import objectives
    from tasks import speed, training

    class Ticks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick()

    arguments = training.arguments(
        folder, seed=1, device=settings.device, steps=len(windows) // settings.batch, batch=settings.batch,
        learning_rate=1e-3,
    ) | settings.arguments() | {"save_strategy": "no"}  # fmt: skip
    objective = objectives.Causal(begin=1, apart=False)
    trainer = speed.trainer_class(settings)(
        model, TrainingArguments(**arguments), optimizers=(optimizer, None), data_collator=objective.batch,
        train_dataset=objectives.Examples(windows, objective),
        compute_loss_func=partial(objectives.loss, shifted=True),
    )  # fmt: skip
    trainer.add_callback(Ticks())
    training.run(trainer, folder, tokens_per_step=settings.batch * windows.context)


def plain(model: Any, optimizer: Any, windows: Any, settings: Any, folder: Path, clock: Clock) -> None:
    """What one would write by hand: the same steps, and nothing around them."""
    import torch

    order = np.random.default_rng(0).permutation(len(windows))
    run = torch.compile(model.train()) if settings.compiled else model.train()
    model.config.use_cache = False
    autocast = settings.precision == "bf16-autocast"
    for start in range(0, len(order) - settings.batch + 1, settings.batch):
        for at in range(start, start + settings.batch, settings.micro_batch):
            ids = np.stack([windows.ids(i) for i in order[at : at + settings.micro_batch]]).astype(np.int64)
            batch = torch.from_numpy(ids).to(settings.device)
            with torch.autocast(settings.device, torch.bfloat16, enabled=autocast):
                loss = run(input_ids=batch, labels=batch).loss
            (loss * settings.micro_batch / settings.batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


def peak_flops(settings: Any) -> float:
    """The best FLOP/s of a square product with these threads, of processor time on a CPU."""
    import torch

    size = 1536 if settings.device == "cpu" else 8192
    dtype = torch.float32 if settings.precision == "fp32" else torch.bfloat16
    matrix = torch.ones(size, size, dtype=dtype, device=settings.device)
    found = []
    for _ in range(12):
        clock = Clock(settings.device)
        clock.tick()
        matrix @ matrix
        clock.tick()
        (cpu, wall), (cpu_end, wall_end) = clock.moments
        found.append(cpu_end - cpu if settings.device == "cpu" else wall_end - wall)
    return 2 * size**3 / min(found)


def flops_per_token(model: Any, context: int) -> float:
    from models.model_counts import counts, training_flops
    from models.training_step import Step

    return training_flops(model.config, counts(model, model.config), Step(sequence=context))


def in_a_process(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """In the environment of a worker process, the plain loop too."""
    from tasks.settings import worker_environment

    kept = {name: value for name, value in vars(options).items() if name in SHARED}
    given = [word for name, value in kept.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, __file__, "--way", way, "--sizes", str(options.size), *given]
    with worker_environment():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def other(options: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    """The command's own report; the first tenth of what it prints is left out."""
    before, started = _children(), time.perf_counter()
    done = subprocess.run(
        shlex.split(options.command), capture_output=True, text=True, check=False,
        env={**environment, "OMP_NUM_THREADS": str(options.threads)},
    )  # fmt: skip
    share = (_children() - before) / (time.perf_counter() - started)
    found = list(re.finditer(options.pattern, done.stdout + done.stderr))
    if done.returncode or not found:
        raise SystemExit(f"--command failed, or --pattern found nothing in it:\n{(done.stdout + done.stderr)[-2000:]}")
    wall = statistics.median(_rate(match, options) for match in found[1 + len(found) // 10 :] or found)
    return {"wall": wall, "cpu": wall / share}


def _rate(match: re.Match[str], options: argparse.Namespace) -> float:
    named = match.groupdict()
    tokens = options.tokens_per_iteration or options.batch * options.context
    if "rate" in named:
        return float(named["rate"])
    return tokens / (float(named["ms"]) / 1000 if "ms" in named else float(named["s"]))


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compared(options: argparse.Namespace, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every size: the runs of each way, taken in turn, and the ratios of each turn."""
    ways: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "ours": lambda o: in_a_process("ours", o), "plain": lambda o: in_a_process("plain", o),
    }  # fmt: skip
    if options.command:
        ways["other"] = lambda o: other(o, environment)
    found = []
    for size in options.sizes:
        options.size = size
        turns = []
        for number in range(options.repeats):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            turns.append({way: ways[way](options) for way in order})
        found.append({"size": size, "turns": turns})
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Medians over the turns, the lowest and the highest behind them."""
    lines = []
    for each in found:
        turns = each["turns"]
        lines.append(f"{each['size']} M parameters: {turns[0]['ours']['settings']}")
        for way in turns[0]:
            rates = ", ".join(f"{kind} {_spread([t[way][kind] for t in turns], ',.0f')}" for kind in ("cpu", "wall"))
            mfu = [t[way]["mfu"] for t in turns if "mfu" in t[way]]
            lines.append(f"  {way:<6} tok/s {rates}" + (f", MFU {_spread(mfu, '.1%')}" if mfu else ""))
        for way in sorted(turns[0].keys() - {"ours"}):
            ratios = ", ".join(
                f"{kind} {_spread([t['ours'][kind] / t[way][kind] for t in turns], '.3f')}" for kind in ("cpu", "wall")
            )
            lines.append(f"  ours / {way:<6} {ratios}")
    return "\n".join(lines)


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


SHARED = ("steps", "batch", "context", "threads", "device", "precision", "compile", "optimizer")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,5,20", help=f"millions of parameters, of {', '.join(map(str, SIZES))}")
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="turns of all ways")
    parser.add_argument("--batch", type=int, default=8, help="windows of a step")
    parser.add_argument("--context", type=int, default=256, help="tokens of a window")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "bf16-autocast"))
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--optimizer", default="muon", choices=("muon", "adamw"), help="muon: as pre-training takes it")
    parser.add_argument("--command", help="another program that trains as large a model on as many tokens a step")
    parser.add_argument("--pattern", default="(?P<ms>[0-9.]+)ms", help="a regular expression for its report, with a "
                        "group called ms or s (of an iteration) or rate (tokens per second)")  # fmt: skip
    parser.add_argument("--tokens-per-iteration", type=int, default=0, help="of the command; 0: batch times context")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--way", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sizes = [int(size) for size in options.sizes.split(",")]
    return options


def main() -> None:
    from tasks.settings import apply_environment

    options, environment = parsed(), dict(os.environ)
    apply_environment()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if options.way:
        options.size = options.sizes[0]
        sys.stdout.write(json.dumps(measured(options.way, options)) + "\n")
        return
    found = compared(options, environment)
    sys.stdout.write((json.dumps(found, indent=1) if options.json else table(found)) + "\n")


if __name__ == "__main__":
    main()
