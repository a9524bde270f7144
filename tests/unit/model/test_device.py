"""Devices by name: those there are, and what is said of those there are not."""

import pytest
import torch

from shared.errors import Invalid
from shared.model import load_bundle
from shared.model.device import find_device
from tests.support.reference import bundles


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:x", "meta"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name: str) -> None:
    with pytest.raises(Invalid) as refused:
        find_device(name)
    assert refused.value.message.startswith(f"there is no device {name!r} here; there is: cpu")
    assert refused.value.field == "device"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_on_a_machine_without_it_keeps_a_bundle_from_loading() -> None:
    with pytest.raises(Invalid, match="there is no device 'cuda' here"):
        load_bundle(bundles().edge, device="cuda")


def test_the_device_asked_for_is_the_one_found() -> None:
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")
