"""The prompt presets there are: those shipped, and those of the project a command is started in."""

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from medexp.config.former_values import fill_former_values
from medexp.config.schema import Prompt


def load_prompt_presets() -> dict[str, Prompt]:
    """Return every option of conf/prompt by name, as an object; one without {question} is left out.

    Hydra must be set up as in a command.
    """
    found = {}
    for name in GlobalHydra.instance().config_loader().get_group_options("prompt"):
        # A file of the project may be older than a key.
        composed = fill_former_values(compose(config_name=f"prompt/{name}")).prompt
        prompt = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Prompt), composed))
        assert isinstance(prompt, Prompt)
        if prompt.question.count("{question}") == 1:
            found[name] = prompt
    return found
