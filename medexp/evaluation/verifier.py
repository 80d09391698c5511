"""Does the evidence support an answer? Four verifiers of one interface: rules, a causal model on
disk, a classifier on disk, an endpoint.

A verifier gives every item a number, larger where the evidence supports the answer more. 0 parts
yes from no for `JudgeVerifier`, `ClassifierVerifier` and `EndpointVerifier`; `RulesVerifier` and
`LikelihoodVerifier` only rank answers.

- RulesVerifier: minus the strength of what is asserted beyond the evidence
  (measures/assertion_strength.py), minus the share of contradicted and fabricated statements
  (measures/claims.py). Needs nothing, takes milliseconds.
- JudgeVerifier: any causal model is asked JUDGE_QUESTION; the logits of yes and no are compared.
- LikelihoodVerifier: how much likelier any causal model finds the answer's tokens after its own
  evidence than after another item's evidence, in nats a token. What makes a text likely by its
  manner is in both and cancels; its length does, too.
- ClassifierVerifier: a sequence-classification checkpoint; its label of support against the rest.
- EndpointVerifier: an OpenAI-compatible server is asked JUDGE_QUESTION.
"""

import json
import re
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Protocol

from medexp.errors import ModelError, first_line
from medexp.evaluation.measures.assertion_strength import measure_assertion_strength
from medexp.evaluation.measures.claim_evidence import gather_evidence
from medexp.evaluation.measures.claims import check_claims
from medexp.evaluation.measures.clinical_terms import Lexicon
from medexp.evaluation.measures.words import extract_answer

JUDGE_QUESTION = "Is every statement of the answer supported by the evidence? Reply Yes or No."
JUDGE_PROMPT = """### Evidence:
{evidence}

### Question:
{question}

### Answer:
{answer}

### Task:
{task}

### Verdict:
"""
MAX_TOKENS, ENDPOINT_PATIENCE_S = 2048, 60
_YES = ("Yes", " Yes", "yes", " yes", "YES")
_NO = ("No", " No", "no", " no", "NO")
_SUPPORT_LABELS = re.compile(r"entail|support|consistent|faithful|^true|^yes", re.IGNORECASE)
_REFUSAL_LABELS = re.compile(
    r"contradict|not[_ ]|un|halluc|inconsistent|neutral|false|^no", re.IGNORECASE
)


@dataclass(frozen=True)
class Item:
    """An answer to a question and the evidence that it is held against."""

    question: str
    evidence: str
    answer: str


class Verifier(Protocol):
    """What every verifier is."""

    name: str

    def support(self, items: Sequence[Item]) -> list[float]:
        """Return how much the evidence supports the answer of every item, in their order."""
        ...


class RulesVerifier:
    """Rules over the texts; ships with the package."""

    name = "rules"

    def __init__(self, lexicon: Lexicon):
        self._lexicon = lexicon

    def support(self, items: Sequence[Item]) -> list[float]:
        """Return minus the marks, contradicted and fabricated statements a statement, at most
        about 1 and seldom below -5.
        """
        return [self._support(item) for item in items]

    def _support(self, item: Item) -> float:
        answer = extract_answer(item.answer)
        known = gather_evidence([item.question, item.evidence], self._lexicon)
        checked = check_claims(answer, known)
        errors = sum(claim.is_error for claim in checked) / len(checked) if checked else 0.0
        return -measure_assertion_strength(answer, f"{item.question}\n{item.evidence}") - errors


class JudgeVerifier:
    """A causal model asked for yes or no; `uses_chat_template` puts the question into the
    tokenizer's own chat template, where it has one.
    """

    def __init__(
        self, name: str, network: Any, tokenizer: Any, batch_size: int, uses_chat_template: bool
    ):
        self.name = f"{name}, judge"
        self._network, self._tokenizer, self._batch_size = network, tokenizer, batch_size
        self._uses_chat_template = uses_chat_template and bool(tokenizer.chat_template)
        yes, no = ({_encode(tokenizer, text)[0] for text in texts} for texts in (_YES, _NO))
        # A space alone may be a token of both, and tells nothing.
        self._yes, self._no = sorted(yes - no), sorted(no - yes)

    def support(self, items: Sequence[Item]) -> list[float]:
        """Return the log-odds of yes against no."""
        import torch

        prompts = [self._prompt_ids(item) for item in items]
        odds: dict[int, float] = {}
        for batch in _batches([len(ids) for ids in prompts], self._batch_size):
            rows = [prompts[index] for index in batch]
            logits = _forward(self._network, rows, self._tokenizer, 1)[:, -1].float()
            yes, no = (torch.logsumexp(logits[:, ids], dim=-1) for ids in (self._yes, self._no))
            odds |= dict(zip(batch, (yes - no).tolist(), strict=True))
        return [odds[index] for index in range(len(items))]

    def _prompt_ids(self, item: Item) -> list[int]:
        text = judge_prompt(item)
        if self._uses_chat_template:
            messages = [{"role": "user", "content": judge_request(item)}]
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        return _encode(self._tokenizer, text)[-MAX_TOKENS:]


class LikelihoodVerifier:
    """A causal model's likelihood of the answer after its own evidence, less that after another
    item's evidence.
    """

    def __init__(self, name: str, network: Any, tokenizer: Any, batch_size: int):
        self.name = f"{name}, likelihood"
        self._network, self._tokenizer, self._batch_size = network, tokenizer, batch_size

    def support(self, items: Sequence[Item]) -> list[float]:
        """Return the gain in nats a token of the answer; 0 for an empty answer."""
        others = [_pick_other_evidence(items, index) for index in range(len(items))]
        own = self._per_token([(item, item.evidence) for item in items])
        other = self._per_token(list(zip(items, others, strict=True)))
        return [mine - theirs for mine, theirs in zip(own, other, strict=True)]

    def _per_token(self, pairs: Sequence[tuple[Item, str]]) -> list[float]:
        texts = [extract_answer(item.answer).strip() for item, _ in pairs]
        answers = [_encode(self._tokenizer, f" {text}") if text else [] for text in texts]
        prompts = [
            _encode(self._tokenizer, f"{evidence}\n\nQuestion: {item.question}\nAnswer:")
            for item, evidence in pairs
        ]
        rows = [
            [*prompt[-MAX_TOKENS:], *answer]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        means: dict[int, float] = {}
        for batch in _batches([len(row) for row in rows], self._batch_size):
            lengths = [len(answers[index]) for index in batch]
            logits = _forward(
                self._network, [rows[index] for index in batch], self._tokenizer, max(lengths) + 1
            )
            for place, index in enumerate(batch):
                means[index] = _measure_mean_log_probability(logits[place], answers[index])
        return [means[index] for index in range(len(pairs))]


class ClassifierVerifier:
    """A sequence-classification checkpoint over (evidence, answer), as models of natural language
    inference are.
    """

    def __init__(self, name: str, network: Any, tokenizer: Any, batch_size: int):
        self.name = f"{name}, classifier"
        self._network, self._tokenizer, self._batch_size = network, tokenizer, batch_size
        self._support_label = find_support_label(network.config.id2label)

    def support(self, items: Sequence[Item]) -> list[float]:
        """Return the log-odds of the label of support against all others."""
        import torch

        odds: list[float] = []
        limit = min(getattr(self._network.config, "max_position_embeddings", 512), MAX_TOKENS)
        for start in range(0, len(items), self._batch_size):
            batch = items[start : start + self._batch_size]
            tokens = self._tokenizer(
                [item.evidence for item in batch],
                [f"{item.question} {extract_answer(item.answer)}" for item in batch],
                truncation="only_first", max_length=limit, padding=True, return_tensors="pt",
            ).to(self._network.device)  # fmt: skip
            with torch.inference_mode():
                logits = self._network(**tokens).logits.float()
            rest = [label for label in range(logits.shape[-1]) if label != self._support_label]
            against = torch.logsumexp(logits[:, rest], dim=-1)
            odds += (logits[:, self._support_label] - against).tolist()
        return odds


class EndpointVerifier:
    """A chat model at an OpenAI-compatible endpoint; questions, evidence and answers are sent
    there.
    """

    def __init__(self, model: str, url: str, post: Callable[[str, bytes], bytes] | None = None):
        self.name = f"{model}, endpoint"
        self._model, self._url, self._post = model, url, post or _post

    def support(self, items: Sequence[Item]) -> list[float]:
        """Return 1 for yes, -1 for no, and 0 where the answer is neither; log-odds where the server
        gives log-probabilities.

        Raises: ModelError if the endpoint does not answer.
        """
        return [self._ask(judge_prompt(item)) for item in items]

    def _ask(self, prompt: str) -> float:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": 10,
        }
        try:
            choice = json.loads(self._post(self._url, json.dumps(body).encode()))["choices"][0]
            reply = str(choice["message"]["content"])
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ModelError(
                f"the verifier at {self._url} did not give a chat completion"
                f" ({first_line(error)[:200]}). Start the server, or use another verifier"
            ) from error
        odds = _compute_odds(choice.get("logprobs"))
        return odds if odds is not None else _find_sign(reply)


def judge_request(item: Item) -> str:
    """Return what a judge is asked about `item`, for a chat template to put its marks around."""
    return judge_prompt(item).rpartition("\n\n### Verdict:")[0]


def judge_prompt(item: Item) -> str:
    """Return what a judge is asked about `item`, in plain text."""
    return JUDGE_PROMPT.format(
        evidence=item.evidence.strip(),
        question=item.question.strip(),
        answer=extract_answer(item.answer).strip(),
        task=JUDGE_QUESTION,
    )


def load_from_folder(
    folder: Path,
    libraries: Any,
    batch_size: int,
    uses_chat_template: bool = True,
    base: Path | None = None,
    device: str | None = None,
) -> list[Verifier]:
    """Return the verifiers that a checkpoint makes: a classifier one, a causal model (or an adapter
    on one) a judge and a likelihood.

    `libraries` has the imported `transformers` and, for an adapter, `peft`; `base` is the folder of
    the model that an adapter was trained on, where its own config does not name it; without
    `device` a card is used where one is.

    Raises: ModelError if the folder holds no checkpoint, or the base of an adapter is not there.
    """
    import torch

    is_adapter = (folder / "adapter_config.json").is_file()
    if not is_adapter and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds no checkpoint: neither config.json nor adapter_config.json is in it."
            " Name the folder of a causal model, of an adapter, or of a sequence classifier"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    whole = _find_base(folder, base) if is_adapter else folder
    tokenizer = libraries.transformers.AutoTokenizer.from_pretrained(str(whole))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not is_adapter and _is_classifier(folder):
        classifier = libraries.transformers.AutoModelForSequenceClassification
        network = classifier.from_pretrained(str(folder)).eval().to(device)
        return [ClassifierVerifier(folder.name, network, tokenizer, batch_size)]
    network = libraries.transformers.AutoModelForCausalLM.from_pretrained(
        str(whole), dtype=torch.bfloat16
    )
    if is_adapter:
        network = libraries.peft.PeftModel.from_pretrained(network, str(folder))
    network = network.eval().to(device)
    return [
        JudgeVerifier(folder.name, network, tokenizer, batch_size, uses_chat_template),
        LikelihoodVerifier(folder.name, network, tokenizer, batch_size),
    ]


def find_support_label(labels: Any) -> int:
    """Return the index of the label that means support.

    Raises: ModelError if no label, or more than one, says so.
    """
    fitting = [
        int(index)
        for index, label in labels.items()
        if _SUPPORT_LABELS.search(str(label)) and not _REFUSAL_LABELS.search(str(label))
    ]
    if len(fitting) == 1:
        return fitting[0]
    raise ModelError(
        f"the labels of the classifier ({', '.join(map(str, labels.values()))}) do not say which"
        " one means support. Name it entailment or supported in id2label of its config.json"
    )


def _find_base(adapter: Path, base: Path | None) -> Path:
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    folder = base or Path(str(config.get("base_model_name_or_path")))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{adapter} is an adapter, and its base model is not at {folder}."
            " Name the folder of the base as well"
        )
    return folder


def _is_classifier(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any("SequenceClassification" in name for name in config.get("architectures") or ())


def _pick_other_evidence(items: Sequence[Item], index: int) -> str:
    """Return the evidence of the next item that has another one; nothing where none has."""
    own = items[index].evidence
    following = (items[(index + step) % len(items)].evidence for step in range(1, len(items)))
    return next((evidence for evidence in following if evidence != own), "")


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _forward(network: Any, rows: Sequence[Sequence[int]], tokenizer: Any, keep: int) -> Any:
    """Return the logits of the last `keep` places of every row, rows padded on the left."""
    import torch

    longest = max(len(row) for row in rows)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    device = network.device
    with torch.inference_mode():
        return network(
            input_ids=ids.to(device), attention_mask=mask.to(device),
            position_ids=positions.to(device), use_cache=False, logits_to_keep=keep,
        ).logits  # fmt: skip


def _measure_mean_log_probability(logits: Any, answer: Sequence[int]) -> float:
    """Return the mean log-probability of the tokens `answer`, which end the row of `logits`."""
    import torch

    if not answer:
        return 0.0
    told = logits[-len(answer) - 1 : -1].float().log_softmax(dim=-1)
    chosen = told.gather(-1, torch.tensor(answer, device=told.device)[:, None])
    return float(chosen.mean())


def _compute_odds(log_probabilities: Any) -> float | None:
    try:
        top = log_probabilities["content"][0]["top_logprobs"]
        chances = {
            str(choice["token"]): 2.718281828459045 ** float(choice["logprob"]) for choice in top
        }
    except (TypeError, KeyError, IndexError, ValueError):
        return None
    yes, no = (sum(chances.get(text, 0.0) for text in texts) for texts in (_YES, _NO))
    return log((yes + 1e-9) / (no + 1e-9)) if yes or no else None


def _find_sign(reply: str) -> float:
    word = reply.strip().casefold()
    return 1.0 if word.startswith("yes") else -1.0 if word.startswith("no") else 0.0


def _post(url: str, body: bytes) -> bytes:
    import os

    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}",
    }
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=ENDPOINT_PATIENCE_S) as reply:
        content: bytes = reply.read()
    return content
