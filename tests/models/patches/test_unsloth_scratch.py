"""What an evaluation leaves on the card is let go of, and nothing else is touched."""

import weakref
from types import SimpleNamespace

import torch
from torch import nn

from medexp.models.patches.unsloth_scratch import release_scratch
from medexp.system.private_names import NF4_PLAN


def quantised(place: torch.Tensor) -> nn.Module:
    """A layer as bitsandbytes and Unsloth leave it once its weight was dequantised into `place`."""
    layer = nn.Linear(2, 2)
    layer.weight.quant_state = SimpleNamespace(
        **{NF4_PLAN.last: ["address", place, place.view(2, 2)]}
    )
    return layer


def test_nothing_holds_the_place_any_more():
    place = torch.empty(4, dtype=torch.bfloat16)
    network, kernels = (
        nn.Sequential(quantised(place), nn.Linear(2, 2)),
        SimpleNamespace(_SCRATCH={("weight", 0): place}),
    )
    gone = weakref.ref(place)
    del place
    assert release_scratch(network, kernels) == 8
    assert (gone(), kernels._SCRATCH) == (None, {})
    assert release_scratch(network, kernels) == 0


def test_other_versions_are_left_alone():
    place = torch.empty(4)
    network = quantised(place)
    assert release_scratch(network, SimpleNamespace()) == 0
    assert release_scratch(network, SimpleNamespace(_SCRATCH=[place])) == 0
    assert getattr(network.weight.quant_state, NF4_PLAN.last) is not None
