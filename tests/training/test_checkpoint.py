from __future__ import annotations

import math
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stabsearch.spec import TrainerSpec
from stabsearch.training import checkpoint
from stabsearch.training.optimizers import OPTIMIZERS, make_optimizer


def through_file(state, tmp_path):
    checkpoint.save(tmp_path / "trial.safetensors", state)
    return checkpoint.load(tmp_path / "trial.safetensors")


def bytes_of(tensor):
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8).tolist()


def same(first, second):
    """Equal in value, type, dtype and shape; NaN equals NaN, and -0.0 is not 0.0."""
    if isinstance(first, torch.Tensor):
        return (first.dtype, first.shape) == (second.dtype, second.shape) and bytes_of(
            first
        ) == bytes_of(second)
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return repr(first) == repr(second)


TENSORS = {
    "rng state": torch.get_rng_state(),
    "scalar": torch.tensor(3.5),
    "long": torch.tensor([2**62, -1]),
    "bool": torch.tensor([True, False]),
    "bf16": torch.tensor([1.0, 1e-3, math.inf], dtype=torch.bfloat16),
    "half": torch.tensor([[65504.0, 1e-7]], dtype=torch.float16),
    "double": torch.tensor([math.pi, math.nan], dtype=torch.float64),
    "empty": torch.empty(0, dtype=torch.long),
    "empty matrix": torch.empty(0, 3),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "expanded": torch.tensor([1.0]).expand(4),
    "slice": torch.arange(10)[3:7],
    "parameter": nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_exactly(name, tmp_path):
    restored = through_file({name: TENSORS[name]}, tmp_path)[name]

    assert same(TENSORS[name], restored)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        1,
        -(2**70),
        0.1,
        1.0,
        -0.0,
        5e-324,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "text with / and 'quotes' and äöü",
        "NaN",
        [],
        (),
        {},
        [1, [2.5, None], (True, "x")],
        (0.9, 0.999),
        {0: "a", 1: "b"},
        {"0": "text", 0: "number"},
        {"tensor": "x", "float": "nan", "dict": [], "tuple": {}},
        {"tensor": "only one key"},
    ],
    ids=repr,
)
def test_a_value_comes_back_with_its_type(value, tmp_path):
    assert same(through_file(value, tmp_path), value)


def test_keys_that_read_alike_keep_their_own_tensors(tmp_path):
    state = {
        "a": {"b": torch.tensor(1), 0: torch.tensor(2), "0": torch.tensor(3)},
        "a/b": torch.tensor(4),
        "a/0": torch.tensor(5),
    }

    assert same(through_file(state, tmp_path), state)


def test_a_bare_tensor_is_a_state_too(tmp_path):
    assert same(through_file(torch.tensor(1.5), tmp_path), torch.tensor(1.5))


def test_tied_weights_are_saved_and_come_back_apart(tmp_path):
    weight = torch.randn(3, 3)
    restored = through_file({"one": weight, "other": weight, "row": weight[1]}, tmp_path)
    restored["one"].zero_()

    assert torch.equal(restored["other"], weight)
    assert torch.equal(restored["row"], weight[1])


def test_an_ordered_dict_comes_back_as_a_dict_in_its_order(tmp_path):
    state = OrderedDict(nn.Linear(2, 2).state_dict())

    assert same(through_file(state, tmp_path), dict(state))


def train(model, optimizer, seeds):
    for seed in seeds:
        gradients = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=gradients)
        optimizer.step()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_an_optimizer_goes_on_bit_for_bit(name, tmp_path):
    """Integer keys, tuples of betas, 0-d step counts and moments in one nested state."""

    def fresh(seed):
        torch.manual_seed(seed)
        model = nn.Linear(4, 3)
        return model, make_optimizer(TrainerSpec(optimizer=name), list(model.parameters()))

    model, optimizer = fresh(0)
    train(model, optimizer, range(5))
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    restored = through_file(state, tmp_path)
    other, other_optimizer = fresh(1)
    other.load_state_dict(restored["model"])
    other_optimizer.load_state_dict(restored["optimizer"])
    train(model, optimizer, range(5, 9))
    train(other, other_optimizer, range(5, 9))

    assert same(dict(other.state_dict()), dict(model.state_dict()))


def test_a_generator_goes_on_bit_for_bit(tmp_path):
    generator = torch.Generator().manual_seed(4)
    torch.randn(7, generator=generator)
    restored = through_file({"noise": generator.get_state()}, tmp_path)
    other = torch.Generator()
    other.set_state(restored["noise"])

    assert torch.equal(torch.randn(9, generator=other), torch.randn(9, generator=generator))


def test_loaded_tensors_do_not_hang_on_the_file(tmp_path):
    path = tmp_path / "trial.safetensors"
    checkpoint.save(path, {"weight": torch.ones(1000)})
    state = checkpoint.load(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    state["weight"] += 1

    assert torch.equal(state["weight"], torch.full((1000,), 2.0))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": [1, {"b": np.ones(2)}]}, "a/1/b is a ndarray"),
        ({"a": {1, 2}}, "a is a set"),
        (object(), "state is a object"),
        ({"a": {(1, 2): 3}}, r"a has the key \(1, 2\)"),
        ({True: 1}, "state has the key True"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_refused_with_its_place(state, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        checkpoint.save(tmp_path / "trial.safetensors", state)
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path):
    through_file({"step": 1}, tmp_path)

    assert through_file({"step": 2}, tmp_path) == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["trial.safetensors"]


@pytest.mark.parametrize("fails", ["save_file", "_flush"])
def test_a_save_that_fails_leaves_the_last_checkpoint(fails, tmp_path, monkeypatch):
    """As a full disk does."""
    through_file({"step": 1}, tmp_path)

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, fails, full_disk)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path / "trial.safetensors", {"step": 2})

    assert checkpoint.load(tmp_path / "trial.safetensors") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["trial.safetensors"]


def test_a_checkpoint_is_complete_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("replace"), replace(*a))[1])
    through_file({"step": 1}, tmp_path)

    assert calls == ["fsync", "replace", "fsync"]


def whole_file(tmp_path):
    path = tmp_path / "whole.safetensors"
    checkpoint.save(path, {"weight": torch.arange(100.0), "step": 7})
    return path.read_bytes()


DAMAGES = {
    "empty": lambda data: b"",
    "cut in the header": lambda data: data[:40],
    "cut in the tensors": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "zeros": lambda data: b"\0" * len(data),
    "pickle": lambda data: pickle.dumps({"step": 7}),
    "text": lambda data: b"step: 7\n" * 20,
    "broken structure": lambda data: data.replace(b"[[", b"[("),
    "unknown kind": lambda data: data.replace(b'\\"tensor\\"', b'\\"tensxr\\"'),
    "unknown tensor": lambda data: data.replace(
        b'{\\"tensor\\": \\"weight\\"', b'{\\"tensor\\": \\"weighs\\"'
    ),
    "structure of another shape": lambda data: data.replace(
        b'{\\"dict\\": [[', b'{\\"dict\\": [[1'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_with_its_path(damage, tmp_path):
    whole = whole_file(tmp_path)
    path = tmp_path / "trial.safetensors"
    path.write_bytes(DAMAGES[damage](whole))

    assert path.read_bytes() != whole
    with pytest.raises(ValueError, match=r"trial\.safetensors is damaged or no checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_of_another_program_are_refused(metadata, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata=metadata)

    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or no checkpoint"):
        checkpoint.load(path)


def test_a_missing_file_is_missing_not_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "trial.safetensors")
