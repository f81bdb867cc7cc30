"""The peak memory of a training step that does not run: its operations on tensors without content, storages counted."""

import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.model_counts import EIGHT_BIT, Counts, counts, weight_bytes
from models.training_step import QUANTISED, Step, assembled, forward_backward, optimizer_of

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "other")
SHARDED = {  # Rajbhandari et al. 2020, 1910.02054: what each device holds an N-th of
    "none": (), "zero1": ("optimizer",), "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights", "other"), "fsdp": ("optimizer", "gradients", "weights", "other"),
}  # fmt: skip
WARM = 2  # steps before the one that counts: the states exist then, and what a first step leaves behind


class Storage:
    """One storage of the step: its bytes, what it holds, and the ticks between which it was alive."""

    __slots__ = ("born", "bytes", "died", "part", "shape")

    def __init__(self, size: int, born: int, part: str, shape: tuple[int, ...]) -> None:
        self.bytes, self.born, self.part, self.shape = size, born, part, shape
        self.died: int | None = None


class Ledger(TorchDispatchMode):
    """Writes down when each storage that an operation returns comes and goes."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: list[Storage] = []
        self.part = "activations"
        self._tick = 0
        self._alive: dict[int, tuple[Any, Storage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self.note(leaf)
        return found

    def note(self, tensor: torch.Tensor, part: str = "") -> None:
        """Adds the storage of a tensor, or says what a known one holds."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._alive:
            self._tick += 1
            new = Storage(storage.nbytes(), self._tick, part or self.part, tuple(tensor.shape))
            self.storages.append(new)
            self._alive[key] = (weakref.ref(storage, lambda _: self._end(key)), new)
        elif part:
            self._alive[key][1].part = part

    def restart(self) -> None:
        """Forgets what is over: the step that counts begins."""
        self.storages = [each for each in self.storages if each.died is None]

    def _end(self, key: int) -> None:
        self._tick += 1
        self._alive.pop(key)[1].died = self._tick


class Peak(NamedTuple):
    """The most bytes at once, and what they were by part."""

    total: int
    parts: dict[str, int]


def timeline(config: Any, step: Step, kind: Any = None) -> list[Storage]:
    """Every storage of one warm step, in the order of their births.

    `kind` is the model's class, by default the family's causal language model. Raises ValueError for a model that
    decides by the content of tensors, as mixtures of experts do, and for a recurrent one.
    """
    with torch.device("meta"):
        model = assembled(config, step, kind)
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        raise ValueError(
            f"the kernels of a {config.model_type}'s recurrent layers work in memory that cannot be foreseen"
        )
    with FakeTensorMode(), _as_if_real(step), Ledger() as ledger:
        _filled(model)
        optimizer = optimizer_of(model, step)
        for tensor in [*model.parameters(), *model.buffers()]:
            ledger.note(tensor, "weights")
        found = counts(model, config)
        ids = torch.empty((step.batch, step.sequence), dtype=torch.int64)
        try:
            for _ in range(WARM):
                _step(model, optimizer, ids, step, ledger)
            ledger.restart()
            _step(model, optimizer, ids, step, ledger)
        except Exception as error:  # whatever the code of a family raises when it decides by content
            raise ValueError(
                f"a {config.model_type} cannot take a step on tensors without content ({str(error)[:200]}): measure a "
                "real step of it"
            ) from error
        return _adjusted(_sorted_out(ledger.storages, config, model, step), found, step)


def peak_of(storages: list[Storage]) -> Peak:
    """The highest point of a timeline."""
    moves = sorted([(each.born, each.bytes) for each in storages] +
                   [(each.died, -each.bytes) for each in storages if each.died is not None])  # fmt: skip
    held = highest = at = 0
    for tick, size in moves:
        held += size
        if held > highest:
            highest, at = held, tick
    parts = dict.fromkeys(PARTS, 0)
    for each in storages:
        if each.born <= at and (each.died is None or each.died > at):
            parts[each.part] += each.bytes
    return Peak(highest, parts)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor, step: Step, ledger: Ledger) -> None:
    ledger.part = "activations"
    for _ in range(2 if step.accumulated else 1):
        forward_backward(model, ids, step)
        for parameter in model.parameters():
            if parameter.grad is not None:
                ledger.note(parameter.grad, "gradients")
    ledger.part = "other"
    optimizer.step()
    for part in getattr(optimizer, "parts", [optimizer]):
        for tensor in tree_leaves([list(state.values()) for state in part.state.values()]):
            if isinstance(tensor, torch.Tensor):
                ledger.note(tensor, "optimizer")
    optimizer.zero_grad()


def _sorted_out(storages: list[Storage], config: Any, model: nn.Module, step: Step) -> list[Storage]:
    """Logits apart from other activations, and copies of weights, as autocast makes them, put to `other`."""
    autocast = step.precision == "bf16-autocast"
    weights = {tuple(p.shape) for p in model.parameters()} if autocast else set()
    vocabulary = config.get_text_config().vocab_size
    for each in storages:
        if each.part == "activations" and each.shape in weights:
            each.part = "other"
        elif each.part == "activations" and each.shape[-1:] == (vocabulary,):
            each.part = "logits"
    return storages


def _adjusted(storages: list[Storage], found: Counts, step: Step) -> list[Storage]:
    """The bytes of one device: divided by sharding, and of formats that a step without content cannot hold.

    Weights in int8 and int4 and states in 8 bits are computed in bf16 and fp32 here and counted as small as they are.
    """
    factors = dict.fromkeys(PARTS, 1.0)
    for part in SHARDED[step.sharding]:
        factors[part] /= step.devices
    if step.precision in QUANTISED:
        factors["weights"] *= weight_bytes(found, step.precision) / weight_bytes(found, "bf16")
    if step.optimizer == "adamw-8bit":
        factors["optimizer"] *= EIGHT_BIT / 8
    for each in storages:
        each.bytes = round(each.bytes * factors[each.part])
    return [*storages, Storage(gathered(step, found.layer), 0, "weights", ())]


def gathered(step: Step, layer: int) -> int:
    """Bytes of the two layers, of so many weights, that stand whole where weights are divided: present and next."""
    size = 4 if step.precision in ("fp32", "bf16-autocast") else 2
    return 2 * size * layer if "weights" in SHARDED[step.sharding] and step.devices > 1 else 0


def _filled(model: nn.Module) -> None:
    """Replaces every tensor on meta by an empty one of the mode, ties kept: `.to()` fails inside it."""
    made: dict[int, Any] = {}

    def like(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            trained = tensor.requires_grad
            made[id(tensor)] = nn.Parameter(empty, trained) if isinstance(tensor, nn.Parameter) else empty
        return made[id(tensor)]

    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = None if parameter is None else like(parameter)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else like(buffer)


def _documents(position_ids: torch.Tensor) -> torch.Tensor:
    """The number of the document that each position belongs to, as transformers computes it."""
    before = position_ids[:, :1] - 1
    return (torch.diff(position_ids, prepend=before, dim=-1) != 1).cumsum(-1)


@contextmanager
def _as_if_real(step: Step) -> Iterator[None]:
    """transformers cannot see in positions without content whether sequences are packed, and would build a mask.

    torch logs a traceback of what fails on such tensors beside the error that it raises.
    """
    from transformers import masking_utils

    log = logging.getLogger("torch._subclasses.fake_tensor")
    real, level = masking_utils.find_packed_sequence_indices, log.level
    masking_utils.find_packed_sequence_indices = _documents if step.documents else lambda position_ids: None
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = real
        log.setLevel(level)
