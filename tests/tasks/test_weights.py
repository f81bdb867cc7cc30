import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from models.architectures import Dimensions, build
from tasks import weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    special = {"bos": 0, "eos": 1, "pad": 2}
    shape = Dimensions(hidden=32, layers=2, heads=1, intermediate=32)
    build(shape, vocabulary=300, context=32, special=special, seed=1).save_pretrained(path)
    return path


def test_parameters_are_those_that_torch_counts_a_tied_embedding_once(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert weights.parameters(folder) == sum(each.numel() for each in model.parameters()) > 300 * 32


def test_the_digest_does_not_see_how_tensors_are_spread_over_files(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert weights.digest(tmp_path) == weights.digest(folder)
    assert weights.parameters(tmp_path) == weights.parameters(folder)


def test_one_other_bit_or_name_is_another_digest(tmp_path):
    digests = []
    for number, tensors in enumerate(
        ({"a": torch.zeros(3)}, {"a": torch.tensor([0.0, -0.0, 0.0])}, {"b": torch.zeros(3)})
    ):
        (tmp_path / str(number)).mkdir()
        save_file(tensors, tmp_path / str(number) / "model.safetensors")
        digests.append(weights.digest(tmp_path / str(number)))
    assert len(set(digests)) == 3


def test_a_folder_without_weights_has_none(tmp_path):
    assert (weights.parameters(tmp_path), weights.digest(tmp_path)) == (0, "")
