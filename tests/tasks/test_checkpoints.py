"""What is damaged is never loaded, what is intact is never lost, and a full disk is said in words."""

import logging
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tasks import checkpoints
from tasks.checkpoints import COMPLETE
from tasks.errors import StoreError
from tests import resumable
from tests.resumable import Case

CASE = Case(steps=12)
WHOLE = {"model.safetensors": b"w" * 5000, "optimizer.pt": b"o" * 9000, "parts/rng_state.pth": b"r" * 100}


def _checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"checkpoint-{step}"
    for name, content in WHOLE.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    checkpoints.seal(made)
    return made


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def _halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "flipped bit": ("optimizer.pt is not what was written", lambda folder: _flip(folder / "optimizer.pt")),
    "truncated": ("has 4,500 bytes and was written with 9,000", lambda folder: _halve(folder / "optimizer.pt")),
    "longer": ("optimizer.pt has 9,001 bytes", _written("optimizer.pt", b"o" * 9001)),
    "empty": ("model.safetensors has 0 bytes", _written("model.safetensors", b"")),
    "zeros": ("model.safetensors is not what was written", _written("model.safetensors", bytes(5000))),
    "missing": ("rng_state.pth is missing", lambda folder: (folder / "parts" / "rng_state.pth").unlink()),
    "no seal": ("it has no complete.json", lambda folder: (folder / COMPLETE).unlink()),
    "seal not renamed": (
        "it has no complete.json",
        lambda folder: (folder / COMPLETE).rename(folder / f"{COMPLETE}.tmp"),
    ),
    "half a seal": ("complete.json is garbled", lambda folder: _halve(folder / COMPLETE)),
    "empty seal": ("complete.json is garbled", _written(COMPLETE, b"")),
    "zeros for a seal": ("complete.json is garbled", _written(COMPLETE, bytes(300))),
    "seal of nothing": ("complete.json is garbled", _written(COMPLETE, b'{"files": {}}')),
    "seal without digests": ("complete.json is garbled", _written(COMPLETE, b'{"optimizer.pt": 9000}')),
    "folder for a seal": (
        "it cannot be read",
        lambda folder: ((folder / COMPLETE).unlink(), (folder / COMPLETE).mkdir()),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    why, harm = DAMAGES[name]
    intact, damaged = _checkpoint(tmp_path, 9), _checkpoint(tmp_path, 10)
    assert checkpoints.newest(tmp_path) == damaged and not caplog.records
    harm(damaged)
    with caplog.at_level(logging.WARNING, "evergreen"):
        assert checkpoints.newest(tmp_path) == intact
    assert not damaged.exists() and intact.exists()
    (record,) = caplog.records
    assert str(damaged) in record.getMessage() and why in record.getMessage()


def test_names_that_are_no_checkpoints_are_left_alone(tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-20.old", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-30").write_text("a file")
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.newest(tmp_path / "nowhere") is None
    assert len(list(tmp_path.iterdir())) == 4


def test_rotation_counts_sealed_ones_by_step_and_never_removes_what_was_sealed_now(tmp_path: Path) -> None:
    made = {step: _checkpoint(tmp_path, step) for step in (4, 8, 12, 16)}
    (made[8] / COMPLETE).unlink()
    checkpoints.rotate(made[12])
    assert checkpoints.numbered(tmp_path) == [made[12], made[4]]


class _Watch(TrainerCallback):
    """What lies there after the Trainer saved and rotated, before the new checkpoint is sealed; then rots the last."""

    def __init__(self) -> None:
        self.intact: list[list[int]] = []

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        new, *before = checkpoints.numbered(Path(args.output_dir))
        assert checkpoints.damage(new)
        self.intact.append([checkpoints.step_of(each) for each in before if not checkpoints.damage(each)])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        last = Path(args.output_dir) / "checkpoint-8" / "optimizer.pt"
        if state.global_step == 9:
            _flip(last)


def test_a_kill_between_rotation_and_seal_leaves_an_intact_checkpoint_even_beside_a_rotten_one(
    one_thread: None, tmp_path: Path
) -> None:
    watch = _Watch()
    resumable.finish(tmp_path, CASE, [watch])
    assert watch.intact == [[], [4], [4]]


class _Cap(TrainerCallback):
    """No file may grow beyond a number of bytes from a step on: the error EFBIG, for any user."""

    def __init__(self, largest: int, step: int) -> None:
        self.largest, self.step = largest, step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class _Fill(TrainerCallback):
    """Fills the disk when the Trainer has saved and the seal is still to be written."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 8:
            with pytest.raises(OSError, match="No space"), (Path(args.output_dir) / "ballast").open("wb") as file:
                file.write(bytes(64 << 20))


@pytest.fixture
def no_cap_afterwards() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(("part", "remedy"), [("model.safetensors", "ulimit -f"), ("optimizer.pt", "the disk is full")])
def test_a_checkpoint_that_the_disk_refuses_is_removed_and_the_run_goes_on_from_the_one_before(
    part: str, remedy: str, one_thread: None, no_cap_afterwards: None, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = resumable.finish(tmp_path / "whole", CASE)
    largest = (tmp_path / "whole" / "checkpoints" / "checkpoint-12" / part).stat().st_size - 1
    saved = tmp_path / "run" / "checkpoints"
    with pytest.raises(StoreError, match=remedy) as refused:
        resumable.finish(tmp_path / "run", CASE, [_Cap(largest, step=8)])
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{saved}/checkpoint-8" in str(refused.value)
    assert f"goes on from step 4 ({saved}/checkpoint-4)" in str(refused.value)
    assert [path.name for path in saved.iterdir()] == ["checkpoint-4"]
    resumed = resumable.finish(tmp_path / "run", CASE)
    assert resumed.resumed_from == 4
    assert resumed.bits == whole.bits


def test_a_disk_that_fills_before_the_seal_is_named_and_the_run_ends_alike(
    small_disk: Path, one_thread: None, tmp_path: Path
) -> None:
    whole = resumable.finish(tmp_path / "whole", CASE)
    with pytest.raises(StoreError, match=r"the disk is full: .* training goes on from step 4"):
        resumable.finish(small_disk, CASE, [_Fill()])
    assert not (small_disk / "checkpoints" / "checkpoint-8").exists()
    (small_disk / "checkpoints" / "ballast").unlink()
    assert resumable.finish(small_disk, CASE).bits == whole.bits


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    half, sealed = tmp_path / "checkpoint-8", _checkpoint(tmp_path, 4)
    half.mkdir()
    with pytest.raises(RuntimeError, match="shapes"), checkpoints.guarded(tmp_path):
        raise RuntimeError("shapes differ")
    assert checkpoints.numbered(tmp_path) == [sealed]
    with pytest.raises(OSError, match="elsewhere"), checkpoints.guarded(tmp_path):
        raise OSError(28, "no space elsewhere")
    shutil.rmtree(sealed)
    half.mkdir()
    with pytest.raises(StoreError, match="starts again"), checkpoints.guarded(tmp_path):
        raise OSError(28, "No space left on device")
