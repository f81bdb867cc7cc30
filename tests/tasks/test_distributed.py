"""Several devices, here two processes on a CPU: they train as one does, fail as one does, and none is left behind."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError
from safetensors.torch import load_file

from tasks import distributed, parallel, pretrain, training, workers
from tasks.artifacts import Tokenizer
from tasks.errors import TrainingDivergedError, TrainingInterruptedError, UsageError
from tasks.settings import ROOT, Execution
from tests import ranks

pytestmark = pytest.mark.timeout(600)
TOLERANCE = {"fp32": 2e-3, "bf16": 1e-2}  # Muon computes in bf16 in either


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return ranks.tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def alone(source: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The trainings of one process: their folder, and the figures of each precision."""
    import torch
    from transformers import AutoTokenizer

    from models.architectures import fresh_model

    folder, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    figures = {p: ranks.train(source.path, folder / p, ranks.ONE, bf16=p == "bf16") for p in ranks.PRECISIONS}
    torch.set_num_threads(threads)
    fresh_model(1, AutoTokenizer.from_pretrained(source.path / "tokenizer"), seed=1).save_pretrained(folder / "start")
    return folder, figures


@pytest.fixture(scope="module")
def together(source: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What two processes did, started once for all of it: their folder and what they say."""
    folder = tmp_path_factory.mktemp("together")
    return folder, distributed.launch(2, "cpu", 2, ranks.everything, source.path, folder)


def _losses(history: list[dict[str, Any]], name: str) -> list[float]:
    return [entry[name] for entry in history if name in entry]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ranks.PRECISIONS)
def test_two_processes_train_as_one_does(
    precision: str, alone: tuple[Path, dict[str, Any]], together: tuple[Path, dict[str, Any]]
) -> None:
    one, two = alone[0] / precision, together[0] / f"ddp-{precision}"
    histories = training.history(one), training.history(two)
    assert [entry["step"] for entry in histories[1]] == [entry["step"] for entry in histories[0]]
    for name, count in (("loss", 24), ("grad_norm", 24), ("eval_loss", 3)):
        expected, got = (_losses(history, name) for history in histories)
        assert len(expected) == count
        assert got == pytest.approx(expected, rel=TOLERANCE[precision]), name
    (before, *_), (first, *_, last) = (_losses(history, "loss") for history in histories)
    assert first == pytest.approx(before, rel=1e-6 if precision == "fp32" else 1e-4), "other windows"
    assert last < first - 1, "nothing was learned, so nothing was compared"
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (one, two)]
    start = load_file(alone[0] / "start" / "model.safetensors")
    assert ranks.distance(*weights) < 10 * TOLERANCE[precision] * ranks.distance(weights[0], start)


@pytest.mark.slow
def test_the_figures_say_how_it_was_executed(
    alone: tuple[Path, dict[str, Any]], together: tuple[Path, dict[str, Any]]
) -> None:
    of_one, of_two = alone[1]["fp32"], together[1]["ddp-fp32"]
    shown = ("devices", "wrapper", "threads", "bf16")
    assert [of_one["execution"][name] for name in shown] == [1, "", 1, False]
    assert [of_two["execution"][name] for name in shown] == [2, "DistributedDataParallel", 1, False]
    assert of_two["loss"] == pytest.approx(of_one["loss"], rel=TOLERANCE["fp32"])
    assert of_two["gain_over_bigram"]["mean"] == pytest.approx(of_one["gain_over_bigram"]["mean"], abs=0.02)
    assert of_two["tokens"] == of_one["tokens"]


@pytest.mark.slow
def test_every_held_out_window_counts_once(together: tuple[Path, dict[str, Any]]) -> None:
    figures = together[1]["ddp-fp32"]
    by_window = figures["unigram"] - figures["gain_over_unigram"]["mean"]
    assert figures["loss"] == pytest.approx(by_window, rel=1e-5)


@pytest.mark.slow
def test_the_processes_listen_on_the_loopback_address_alone(together: tuple[Path, dict[str, Any]]) -> None:
    addresses = together[1]["addresses"]
    assert len(addresses) >= 2
    assert set(addresses) == {"127.0.0.1"}


@pytest.mark.slow
def test_fsdp_that_became_ddp_is_refused(together: tuple[Path, dict[str, Any]]) -> None:
    said, steps = together[1]["silent"]
    assert steps == 0
    assert said.startswith("UsageError: FSDPModule over 2 processes was asked for (execution.sharding fsdp)")
    assert "became DistributedDataParallel" in said
    assert "set execution.sharding to none on a CPU" in said


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 1e-4), ("muon", 2e-3)])
def test_a_sharded_model_learns_as_the_whole_one(
    optimizer: str, tolerance: float, together: tuple[Path, dict[str, Any]]
) -> None:
    found = together[1][optimizer]
    assert len(found["alone"]) == 6
    for expected, got in zip(found["alone"], found["together"], strict=True):
        assert got == pytest.approx(expected, rel=tolerance)
    assert found["apart"] < 20 * tolerance, "of the way that the weights went"
    assert found["local"] == (16, 32), "a process holds more than its half of a matrix of 32 rows"
    assert found["states"] == 29, "the state of a weight is missing in the checkpoint"


@pytest.mark.slow
def test_the_trainer_under_fsdp_trains_saves_and_goes_on(together: tuple[Path, dict[str, Any]]) -> None:
    """accelerate is told that a CPU is a device it may shard on: everything else is what runs on GPUs."""
    folder, found = together[0] / "fsdp", together[1]["trainer"]
    assert found["execution"]["wrapper"] == "FSDPModule"
    assert found["local"] == (16, 32)
    expected = _losses(found["ddp"], "loss")
    assert len(expected) == 4
    assert _losses(found["whole"], "loss") == pytest.approx(expected, rel=TOLERANCE["bf16"])
    assert _losses(found["whole"], "loss") != pytest.approx(expected, rel=1e-12), "it was not another computation"
    assert found["from"] == 2
    assert _losses(found["resumed"], "loss") == _losses(found["whole"], "loss")
    saved = load_file(folder / "fsdp" / "model" / "model.safetensors")
    assert "lm_head.weight" not in saved
    assert saved["model.layers.0.self_attn.q_proj.weight"].shape == (32, 32)


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_training_goes_on(
    source: Tokenizer, together: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    whole = training.history(together[0] / "ddp-bf16")
    if not training._has_bf16(True):
        whole = training.history(together[0] / "ddp-fp32")
    killer = threading.Thread(target=_kill_a_rank, args=(tmp_path / "run" / "checkpoints",))
    (tmp_path / "run").mkdir()
    killer.start()
    with pytest.raises(TrainingInterruptedError, match=r"process [01] of 2 on several devices was killed"):
        _pretrain(source, tmp_path / "run", ranks.TWO)
    killer.join()
    assert _children_of_this_process() == []
    shutil.copytree(tmp_path / "run", tmp_path / "fewer")
    resumed = _pretrain(source, tmp_path / "run", ranks.TWO)
    assert resumed["execution"]["resumed_from"] > 0
    for name in ("loss", "eval_loss"):
        assert _losses(training.history(tmp_path / "run"), name) == _losses(whole, name), "not as if nothing had been"
    fewer = ranks.train(source.path, tmp_path / "fewer", ranks.ONE, bf16=training._has_bf16(True))
    assert fewer["execution"]["resumed_from"] == resumed["execution"]["resumed_from"]
    expected, got = _losses(whole, "loss"), _losses(training.history(tmp_path / "fewer"), "loss")
    assert got == pytest.approx(expected, rel=TOLERANCE["bf16"])


def _pretrain(source: Tokenizer, folder: Path, execution: Execution) -> dict[str, Any]:
    this = pretrain.step(ranks.RECIPE, source.key, "")
    try:
        return pretrain.train(this, source, folder, ranks.RECIPE, execution)
    finally:
        workers.stop()


def _kill_a_rank(checkpoints: Path) -> None:
    _until(lambda: any(checkpoints.glob("*/complete.json")))
    _children_of_this_process()[-1].kill()


def _children_of_this_process() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "tasks.distributed" in _command(child)]


def _command(process: psutil.Process) -> list[str]:
    """Empty for one that has ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_asked_for_it(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.waiting", str(tmp_path)]
    main = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    _until(lambda: len(list(tmp_path.glob("waiting-*"))) == 2 or main.poll() is not None)
    assert main.poll() is None
    below = psutil.Process(main.pid).children(recursive=True)
    assert sum("tasks.distributed" in process.cmdline() for process in below) == 2
    main.send_signal(number)
    main.wait(30)
    _, alive = psutil.wait_procs(below, timeout=30)
    assert alive == []


@pytest.mark.slow
def test_what_one_process_raises_is_raised() -> None:
    with pytest.raises(TrainingDivergedError, match="loss is nan at step 3"):
        distributed.launch(2, "cpu", 1, ranks.diverge_in_the_second)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the agent left its handler"


def test_all_gpus_of_a_machine_without_any_are_one_process() -> None:
    import torch

    assert distributed.launch(0, "cpu", torch.get_num_threads(), os.getpid) == os.getpid()


def _until(happened: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within two minutes")


def _reported(folder: Path, **raised: Exception) -> None:
    for order, (rank, error) in enumerate(raised.items()):
        path = folder / f"rank-{rank.removeprefix('rank')}.pkl"
        path.write_bytes(distributed._portable(error, order))
        os.utime(path, (order, order))


def test_the_reason_is_told_and_not_what_followed_from_it(tmp_path: Path) -> None:
    _reported(tmp_path, rank1=ValueError("the reason"), rank0=RuntimeError("connection reset by peer"))
    error = distributed._error(tmp_path, {0: 1, 1: 1}, 2)
    assert isinstance(error, ValueError)
    assert "raised in process 0 of the devices" in error.__notes__[0]
    assert isinstance(distributed._error(tmp_path, {0: 1, 1: -signal.SIGKILL}, 2), TrainingInterruptedError)
    _reported(tmp_path, rank0=RuntimeError("connection reset by peer"), rank1=UsageError("batch"))
    assert isinstance(distributed._error(tmp_path, {0: -signal.SIGTERM, 1: 1}, 2), UsageError)


def test_a_process_that_could_not_tell_why_it_ended_is_named(tmp_path: Path) -> None:
    assert str(distributed._error(tmp_path, {1: 3}, 2)).startswith(
        "process 1 of 2 on several devices ended with code 3"
    )
    terminated = distributed._error(tmp_path, {0: -signal.SIGTERM, 1: -signal.SIGTERM}, 2)
    assert isinstance(terminated, TrainingInterruptedError)


def test_an_exception_that_cannot_be_pickled_is_told_in_words() -> None:
    error = ValueError(threading.Lock())
    told = pickle.loads(distributed._portable(error, 1))
    assert isinstance(told, RuntimeError)
    assert "process 1" in str(told)
    assert "ValueError" in str(told)


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers() -> None:
    assert parallel.share(8, 2) == 4
    with pytest.raises(UsageError, match=r"pretrain\.batch is 8 and execution\.devices 3: .* execution\.devices to 2,"):
        parallel.share(8, 3)


@pytest.mark.parametrize("refused", [{"devices": 2, "device": "cpu"}, {"devices": 1}])
def test_fsdp_needs_gpus(refused: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"FSDP needs two GPUs or more\. Set sharding to none"):
        Execution(sharding="fsdp", **refused)


def test_fsdp_where_there_is_no_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match=r"execution\.sharding is fsdp and this training runs on the CPU"):
        parallel.arguments(Execution(sharding="fsdp", devices=2))


def test_a_checkpoint_of_another_sharding_is_refused(tmp_path: Path) -> None:
    trainer = ranks._trainer(ranks._model(), tmp_path)
    (tmp_path / "checkpoint-2").mkdir()
    parallel._require_same_sharding(trainer, tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / parallel.FULL_WEIGHTS).touch()
    with pytest.raises(UsageError, match=r"saved with execution\.sharding fsdp and cannot go on with none"):
        parallel._require_same_sharding(trainer, tmp_path / "checkpoint-2")


def test_one_process_trains_on_one_of_several_gpus_with_the_batch_asked_for(tmp_path: Path) -> None:
    trainer = ranks._trainer(ranks._model(), tmp_path)
    trainer.args._n_gpu, trainer._train_batch_size = 2, 4  # as on a machine with a second GPU
    parallel.prepare(trainer, None)
    assert trainer.args.n_gpu == 1
    assert len(next(iter(trainer.get_train_dataloader()))["input_ids"]) == 2


@pytest.mark.gpu
def test_fsdp_on_gpus_trains_as_one_gpu_does(source: Tokenizer, tmp_path: Path) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, and torch sees {torch.cuda.device_count()}")
    figures, histories = {}, {}
    for name, more in (("one", {}), ("fsdp", {"devices": 2, "sharding": "fsdp"})):
        (tmp_path / name).mkdir()
        execution = Execution(threads=2, processes=1, device="cuda", **more)
        figures[name] = _pretrain(source, tmp_path / name, execution)
        histories[name] = training.history(tmp_path / name)
    assert figures["fsdp"]["execution"]["wrapper"] == "FSDPModule"
    assert figures["fsdp"]["execution"]["devices"] == 2
    for measure in ("loss", "eval_loss"):
        one, fsdp = (_losses(histories[name], measure) for name in ("one", "fsdp"))
        assert fsdp == pytest.approx(one, rel=2e-2)
    assert (
        load_file(tmp_path / "fsdp" / "model" / "model.safetensors").keys()
        == load_file(tmp_path / "one" / "model" / "model.safetensors").keys()
    )
