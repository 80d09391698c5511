"""Ray is connected to once, before threads would all do so; `ray` stands in for the library, which
an extra brings (tests/sweep/workers/test_third_party_launchers.py has the real one)."""

import sys
from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf

from medexp.errors import MachineError
from medexp.sweep.workers.ray_cluster import connect_first


class FakeRay(ModuleType):
    def __init__(self) -> None:
        super().__init__("ray")
        self.inits: list[dict[str, Any]] = []

    def is_initialized(self) -> bool:
        return bool(self.inits)

    def init(self, **settings: Any) -> None:
        self.inits.append(settings)


class RayLauncher:
    """As hydra-ray-launcher 1.2.2 has it."""

    def __init__(self, address: str | None) -> None:
        self.ray_cfg = OmegaConf.create({"init": {"address": address}, "remote": {}})


class RayAWSLauncher(RayLauncher):
    """Connects from the cluster's head."""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", made)
    return made


def test_ray_is_connected_to_once_and_asked_for_no_memory(ray):
    connect_first(RayLauncher("10.0.0.1:6379"))
    connect_first(RayLauncher("10.0.0.1:6379"))
    assert ray.inits == [{"address": "10.0.0.1:6379"}]


@pytest.mark.parametrize(
    "launcher", [RayAWSLauncher("10.0.0.1:6379"), object()], ids=["AWS", "another"]
)
def test_other_launchers_are_left_alone(ray, launcher):
    connect_first(launcher)
    assert ray.inits == []


def test_a_ray_that_is_not_there_is_said_in_a_sentence(ray, monkeypatch):
    def fail(**_: Any) -> None:
        raise ConnectionError("deadline exceeded\nand more")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(MachineError, match=r"reached \(10\.0\.0\.1:6379\): deadline exceeded; set"):
        connect_first(RayLauncher("10.0.0.1:6379"))
