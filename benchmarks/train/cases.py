"""Write cases of random letters: rendered with a prompt and a byte-level tokenizer, each is exactly
so many tokens long.

    # every sequence full
    python benchmarks/train/cases.py --tokens 2048 --cases 50 --out /tmp/full.jsonl
    python benchmarks/train/cases.py --lengths benchmarks/train/lengths.json --prompt r1_reasoning \
        --cases 50 --out /tmp/real.jsonl

The second's are as long as real ones; for those, prompt=clinical is too long in bytes.
"""

import argparse
import json
import random
import string
from pathlib import Path

from hydra import compose, initialize_config_dir

from medexp.config.registration import register_with_hydra
from medexp.config.schema import Prompt
from medexp.config.shipped import find_conf_dir
from medexp.data.cases import Case
from medexp.data.prompts import render_case

ENDS = 2  # BOS and EOS


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument(
        "--lengths",
        type=Path,
        help="a JSON list of tokens a case to draw from, in place of --tokens",
    )
    parser.add_argument(
        "--prompt", default="clinical", help="the prompt that they will be rendered with"
    )
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    register_with_hydra()
    with initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        prompt = Prompt(**compose("train", [f"prompt={args.prompt}"]).prompt)
    chance = random.Random(0)
    lengths = json.loads(args.lengths.read_text())["tokens"] if args.lengths else [args.tokens]
    rows = [case_of(prompt, number, chance.choice(lengths), chance) for number in range(args.cases)]
    args.out.write_text("\n".join(map(json.dumps, rows)) + "\n")


def case_of(prompt: Prompt, number: int, tokens: int, chance: random.Random) -> dict[str, str]:
    """A record of random letters whose rendered text has `tokens` - 2 bytes."""

    def letters(count: int) -> str:
        return "".join(chance.choices(string.ascii_letters, k=count))

    question, answer = (
        f"{number:05d}" + letters(min(200, tokens // 20)),
        letters(min(400, tokens // 10)),
    )
    text = render_case(prompt, Case(question, "", answer))
    missing = tokens - ENDS - len(text.prompt.encode()) - len(text.completion.encode())
    if missing < 1:
        raise SystemExit(
            f"the prompt leaves no room for reasoning in {tokens} tokens; choose a shorter --prompt"
        )
    return {"Question": question, "Complex_CoT": letters(missing), "Response": answer}


if __name__ == "__main__":
    main()
