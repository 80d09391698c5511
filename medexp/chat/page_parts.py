"""What the page that asks a model is made of: the conversation so far, the run's held-out cases,
the controls, and a column for each model's answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medexp.chat.held_out_cases import Example
from medexp.chat.reply import Reply, make_turns
from medexp.chat.responder import Responder
from medexp.config.schema import Prompt
from medexp.data.cases import Turn
from medexp.data.prompts import ChatPrompt
from medexp.evaluation.generation import Sampling

EXAMPLES_A_PAGE = 6


@dataclass(frozen=True)
class Asked:
    """A question, what was said before it, and how it is answered."""

    question: str
    before: tuple[Turn, ...]
    prompt: Prompt
    sampling: Sampling


class ConversationBox:
    """What was said so far, where the run was trained on conversations, and the box that shows
    it.
    """

    def __init__(self, gradio: Any, responder: Responder):
        self.is_held = responder.converses
        self.before = gradio.State([])
        name = responder.config.prompt.name
        gradio.Markdown(
            "A further question is the next turn: both models are asked with what was said before,"
            " in which the answers are the tuned model's."
            if self.is_held
            else f"Each question is asked by itself: prompt={name} knows no turns, prompt=chat"
            " does.",
            elem_classes="status",
        )
        with gradio.Accordion("The conversation so far", open=True, visible=False) as self._box:
            self._text = gradio.Markdown("", elem_classes=["conversation"])
        self._gradio = gradio

    @property
    def outputs(self) -> list[Any]:
        """The components that `show` and `go_on` give new values."""
        return [self.before, self._box, self._text]

    def show(self, turns: Sequence[Turn]) -> list[Any]:
        """Return the values of `outputs` where `turns` were said."""
        return [list(turns), self._gradio.update(visible=bool(turns)), _format_turns(turns)]

    def go_on(self, asked: Asked, tuned: Reply | None) -> list[Any]:
        """Return the values of `outputs` once `tuned` has answered what was `asked`."""
        if tuned is None or not self.is_held or not isinstance(asked.prompt, ChatPrompt):
            return [self._gradio.skip()] * len(self.outputs)
        return self.show((*asked.before, *make_turns(tuned)))


def _format_turns(turns: Sequence[Turn]) -> str:
    """Return `turns` as Markdown, each with who has said it."""
    return "\n\n".join(f"**{turn.role.capitalize()}**\n\n{turn.text}" for turn in turns)


def add_reference_box(gradio: Any) -> list[Any]:
    """Add the folded reference of a held-out case, unseen until one is chosen."""
    title = "What the case's author answers (unfold after reading)"
    with gradio.Accordion(title, open=False, visible=False) as box:
        text = gradio.Markdown("", elem_classes=["reference"])
    return [box, text]


def add_examples(
    gradio: Any,
    examples: Sequence[Example],
    question: Any,
    conversation: ConversationBox,
    reference: Sequence[Any],
    columns: Sequence[Any],
) -> None:
    """Add the held-out cases, of which a click puts one into the question box."""
    choices = gradio.Dataset(
        components=[gradio.Textbox(visible=False)],
        samples=[[example.title] for example in examples],
        label="Held-out cases of this run: no one of them was trained on; click one to ask it",
        type="index",
        samples_per_page=EXAMPLES_A_PAGE,
    )

    def choose(index: int) -> list[Any]:
        example = examples[index]
        is_turn = conversation.is_held
        return [
            example.last if is_turn else example.question,
            *conversation.show(example.before if is_turn else ()),
            gradio.update(visible=True, open=False),
            example.reference,
            *make_empty_column(""),
            *make_empty_column(""),
        ]

    choices.click(
        choose,
        choices,
        [question, *conversation.outputs, *reference, *columns],
        api_visibility="private",
    )


def add_option_inputs(gradio: Any, sampling: Sampling, prompts: list[str]) -> list[Any]:
    """Add the controls of prompt and sampling, in the order of `Asked`'s making."""
    with gradio.Row():
        prompt = gradio.Dropdown(prompts, value=prompts[0], label="Prompt", min_width=260)
        max_new_tokens = gradio.Number(
            sampling.max_new_tokens, label="Most new tokens", precision=0, minimum=1
        )
    with gradio.Row():
        temperature = gradio.Slider(
            0, 2, sampling.temperature, step=0.05, label="Temperature (0: the likeliest token)"
        )
        top_p = gradio.Slider(
            0.01, 1, sampling.top_p, step=0.01, label="Top p (of what is drawn from)"
        )
        seed = gradio.Number(
            sampling.seed,
            label="Seed (of what is drawn)",
            precision=0,
            minimum=0,
            maximum=2**32 - 1,
        )
    return [prompt, temperature, top_p, max_new_tokens, seed]


def add_answer_column(gradio: Any, title: str) -> list[Any]:
    """Add a column for a model's answer: the box of its reasoning, that, the answer, its status."""
    with gradio.Column(min_width=300, elem_classes=f"{title.lower()}-column"):
        gradio.Markdown(f"### {title}")
        status = gradio.Markdown("", elem_classes=["status", f"{title.lower()}-status"])
        with gradio.Accordion("Reasoning", open=False, visible=False) as reasoning_box:
            reasoning = gradio.Markdown(
                "", elem_classes=["reasoning", f"{title.lower()}-reasoning"]
            )
        answer = gradio.Markdown("", elem_classes=["answer", f"{title.lower()}-answer"])
    return [reasoning_box, reasoning, answer, status]


def make_empty_column(status: str) -> list[Any]:
    """Return the values of a column that has nothing but a status."""
    return [update_reasoning_box(""), "", "", status]


def update_reasoning_box(reasoning: str) -> Any:
    """Show the box of the reasoning where there is any, and hide it elsewhere."""
    import gradio

    return gradio.update(visible=bool(reasoning))
