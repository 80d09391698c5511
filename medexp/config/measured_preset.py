"""What was measured of a card as a hardware preset: a small file that means the same on any
machine.

It names the card, its rates, what training steps took on it, versions and dates; neither a user nor
a path. Put into
conf/hardware of a project, or of medexp, it is chosen like the shipped ones, which have the same
form.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace

from medexp.config.resolve import CONTEXT_AND_DESKTOP_GIB
from medexp.system.machine import Calibration, Gpu, Machine, find_nearest_preset
from medexp.system.units import gib


def build_measured_preset(
    card: Gpu,
    found: Calibration,
    dtype: str,
    layers_of: str,
    date: str,
    versions: Mapping[str, str],
) -> tuple[str, str]:
    """Return the name and the YAML of a preset of `card` with the rates `found` on `date`, products
    in `dtype` of the layers of model `layers_of`; its workload is that of the nearest shipped one.
    """
    card = replace(card, calibration=found)
    # YAML reads JSON.
    steps = "".join(f"\n    - {json.dumps(step)}" for step in card.measured_steps)
    name = re.sub(r"\W+", "_", card.name.lower()).strip("_")
    beside_gib = max(CONTEXT_AND_DESKTOP_GIB, gib(card.total_bytes - found.free_bytes))
    installed = ", ".join(f"{library} {version}" for library, version in versions.items())
    return (
        name,
        f"""# @package _global_
# Measured by medexp.calibrate on {date}: {card.name}, products in {dtype} of the layers of
# {layers_of}; {installed}.
# As conf/hardware/{name}.yaml of a project it is hardware={name} there.
defaults:
  - {find_nearest_preset(Machine(1, "", (card,)))}
  - _self_

hardware:
  name: {name}
  dtype: {dtype}
  card_vram_gib: {gib(card.total_bytes):.2f}
  vram_ceiling_gib: {gib(card.total_bytes) - beside_gib:.2f}
  matmul_tflops: {found.matmul_tflops:g}
  memory_gb_per_s: {found.memory_gb_per_s:g}
  host_link_gb_per_s: {found.host_link_gb_per_s:g}
  measured_steps:{steps or " []"}
""",
    )
