"""Does a server that serve.sh started answer as base + adapter do? Greedy tokens of three
questions, one after the other.

    # in a shell of its own
    sed 's/--dtype bfloat16/--dtype float32/' EXPORT/serve.sh > EXPORT/serve32.sh; sh \
        EXPORT/serve32.sh
    python benchmarks/export/served.py EXPORT --base ~/.cache/medexp/smollm2_135m-0.1.2

EXPORT is an adapter (`medexp.export to=vllm`) and what is served is its base with it, all in
float32: in bfloat16 each rounds.
"""

import argparse
import json
import urllib.request

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = (
    (
        "A 3-year-old boy woke with a barking cough and noisy breathing in. What is the diagnosis"
        " and what should be done?"
    ),
    "A 54-year-old man has crushing chest pain and sweating for one hour. What is it?",
    "A woman of 30, 34 weeks pregnant, has a headache and blood pressure of 170/110. What now?",
)
NEW_TOKENS = 300


def ask_server(url: str, messages: list[dict]) -> list[int]:
    """The tokens that the server at `url` answers `messages` with."""
    models = json.load(urllib.request.urlopen(f"{url}/v1/models"))["data"]
    body = {
        "model": models[-1]["id"],
        "temperature": 0,
        "max_tokens": NEW_TOKENS,
        "messages": messages,
        "return_token_ids": True,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request, timeout=600))["choices"][0]["token_ids"]


def main() -> None:
    """Ask both and print where they part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export")
    parser.add_argument("--base", required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.export)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32), args.export
    )
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        asked, end = text["input_ids"], tokenizer.eos_token_id
        made = model.generate(
            asked, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=end, pad_token_id=end
        )
        here, there = made[0, asked.shape[1] :].tolist(), ask_server(args.url, messages)
        same = next(
            (at for at, (a, b) in enumerate(zip(here, there, strict=False)) if a != b),
            min(len(here), len(there)),
        )
        print(f"{same} of {len(here)} tokens the same, {len(there)} served: {question[:50]}")


if __name__ == "__main__":
    main()
