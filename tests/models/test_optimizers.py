import copy

import pytest
import torch
from torch import nn

from models.optimizers import MuonAdamW


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.embed_tokens(ids))))


def _loss(net: Net, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    ids, target = torch.randint(11, (16,), generator=draw), torch.randint(3, (16,), generator=draw)
    return nn.functional.cross_entropy(net(ids), target)


def _train(net: Net, optimizer: MuonAdamW, seeds: range) -> None:
    for seed in seeds:
        _loss(net, seed).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    net = Net()
    muon, adamw = MuonAdamW(net, lr=0.02, embedding_lr=0.01).parts
    assert {id(p) for g in muon.param_groups for p in g["params"]} == {id(net.hidden.weight), id(net.head.weight)}
    others = {id(net.embed_tokens.weight), id(net.hidden.bias), id(net.head.bias)}
    assert {id(p) for g in adamw.param_groups for p in g["params"]} == others


def test_a_scheduler_reaches_both_parts() -> None:
    optimizer = MuonAdamW(Net(), lr=0.02, embedding_lr=0.01)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.01, 0.005]


def test_it_resumes_bit_for_bit_from_its_state() -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = MuonAdamW(net, lr=0.02, embedding_lr=0.01)
    _train(net, optimizer, range(5))
    other = copy.deepcopy(net)
    resumed = MuonAdamW(other, lr=0.5, embedding_lr=0.5)
    state = optimizer.state_dict()
    assert len(state["state"]) == len(list(net.parameters())), "what gathers the state of shards reads it by weight"
    resumed.load_state_dict(copy.deepcopy(state))
    _train(net, optimizer, range(5, 10))
    _train(other, resumed, range(5, 10))
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.param_groups[0] is resumed.parts[0].param_groups[0]


def test_the_loss_falls() -> None:
    torch.manual_seed(0)
    net = Net()
    before = _loss(net, 1).item()
    _train(net, MuonAdamW(net, lr=0.05, embedding_lr=0.05), range(1, 2))
    optimizer = MuonAdamW(net, lr=0.05, embedding_lr=0.05)
    for _ in range(40):
        _train(net, optimizer, range(1, 2))
    assert _loss(net, 1).item() < 0.7 * before


def test_a_model_without_matrices_of_its_own_is_told_apart() -> None:
    net = Net()
    for name, parameter in net.named_parameters():
        parameter.requires_grad = "weight" in name and "embed" not in name
    assert len(MuonAdamW(net, lr=0.02, embedding_lr=0.01).parts) == 1
    assert pytest.approx(0.02) == MuonAdamW(net, lr=0.02, embedding_lr=0.01).param_groups[0]["lr"]
