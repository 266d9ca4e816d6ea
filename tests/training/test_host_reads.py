from __future__ import annotations

import pytest
import torch

from tests.training.host_reads import NoHostReads


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: tensor.sum().item(),
        lambda tensor: bool(tensor[0] > 0),
        lambda tensor: float(tensor[0]),
        lambda tensor: tensor[tensor > 0],
        lambda tensor: tensor.index_put_((tensor > 0,), torch.zeros(())),
        lambda tensor: tensor[torch.tensor(1)],
        lambda tensor: tensor.nonzero(),
        lambda tensor: torch.equal(tensor, tensor),
    ],
)
def test_a_host_read_is_found(read):
    with pytest.raises(AssertionError, match="waits for the device"), NoHostReads():
        read(torch.rand(3))


def test_work_on_the_device_is_allowed():
    tensor = torch.rand(3)
    with NoHostReads():
        total = torch.where(tensor > 0, tensor[torch.tensor([0, 1, 2])], 0).sum()

    assert total == tensor.sum()
