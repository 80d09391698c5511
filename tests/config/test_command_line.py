"""What a user types and Hydra's grammar dislikes is read where it can only mean one thing; else the
sentence says what to type, and that is read."""

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from medexp.config.command_line import make_readable, quote
from medexp.config.command_options import CompareConfig, PlanConfig, TrainConfig
from medexp.errors import ConfigError

HOME = str(Path.home())
TEXTS = [  # values of a key that takes text, unquoted
    "病例.csv", "Fälle.csv", "~/x.csv", "a=b.csv", "a,b.csv", "Smith, J/cases (1).csv", "it's.csv",
    'say "x".csv', "a#b.csv", "a&b;c!.csv", r"C:\Users\Jürgen\x.csv", "[old] cases.csv",
    "{old}.csv", "r=16, lr=2e-4", "first run (old)", "1e5", "007", "1_0", "100%.csv", "x(y).csv",
    "choice.csv", "«x».csv", "a\tb.csv", "-x.csv", "a:b", "日本 語", "`x`", "^x$", "<x>", "x)",
]  # fmt: skip
READ = [
    ("lora.target_modules=q_proj,v_proj", "lora.target_modules", ["q_proj", "v_proj"]),
    ("lora.target_modules=q_proj", "lora.target_modules", ["q_proj"]),
    ("lora.target_modules='q_proj'", "lora.target_modules", ["q_proj"]),
    ("lora.target_modules=[q_proj, v_proj]", "lora.target_modules", ["q_proj", "v_proj"]),
    ("evaluation.benchmarks=médqa", "evaluation.benchmarks", ["médqa"]),
    ("evaluation.benchmarks=[médqa,~x,a=b]", "evaluation.benchmarks", ["médqa", "~x", "a=b"]),
    (
        "tracking.tags={owner: Jürgen, at: 10:30}",
        "tracking.tags",
        {"owner": "Jürgen", "at": "10:30"},
    ),
    ("tracking.tags={a:1}", "tracking.tags", {"a": "1"}),
    ("tracking.tags.owner=Jürgen Groß", "tracking.tags", {"owner": "Jürgen Groß"}),
    ("+tracking.tags.owner=me", "tracking.tags", {"owner": "me"}),
    ("++lora.r=8", "lora.r", 8),
    ("dataset.path=null", "dataset.path", None),
    ("dataset.path='a b'", "dataset.path", "a b"),
    ("tracking.run_name=${model.name}", "tracking.run_name", "smollm2_135m"),
]
SAID = [  # words, the sentence, what it tells to type
    (["dataset.path=my", "cases.csv"],
     "'cases.csv' is no key=value; if it belongs to what is before it, write {}",
     "dataset.path=my cases.csv"),
    (["lora.target_modules=q_proj", "v_proj"],
     "'v_proj' is no key=value; if it belongs to what is before it, write {}",
     "lora.target_modules=[q_proj,v_proj]"),
    (["lora.target_modules=[q_proj,", "v_proj]", "lora.r=8"],
     "lora.target_modules=[q_proj, is a part of a value that the shell has cut at a space;"
     " write {}",
     "lora.target_modules=[q_proj, v_proj]"),
    (["tracking.tags={owner:", "Jürgen}"],
     "tracking.tags={{owner: is a part of a value that the shell has cut at a space; write {}",
     "tracking.tags={owner: Jürgen}"),
    (["tracking.run_name=r=16,", "lr=2e-4"],
     "lr does not exist; write training.learning_rate=2e-4,"
     " or {} if it belongs to what is before it",
     "tracking.run_name=r=16, lr=2e-4"),
    (["lora.r:", "8"], "'lora.r:' is no key=value; write {}", "lora.r=8"),
    (["lora.r", "=", "8"], "'lora.r' is no key=value; write {}, without spaces around the =",
     "lora.r=8"),
    (["lora.r=", "8"], "'8' is no key=value; if it belongs to what is before it, write {}",
     "lora.r=8"),
    (["+lora.r=8"], "+lora.r=8: lora.r is there already; write {}, without the +", "lora.r=8"),
    (["--lora.r", "8"],
     "--lora.r is no option; settings are written key=value, without dashes: write {}", "lora.r=8"),
    (["--learning_rate=2e-4"],
     "--learning_rate=2e-4 is no option; settings are written key=value, without dashes: write {}",
     "training.learning_rate=2e-4"),
    (["training.learning_rate=0,0002"],
     "training.learning_rate=0,0002: training.learning_rate takes one value;"
     " a decimal point is a point: {}; "
     "to try each in a sweep: -m training.learning_rate=0,0002", "training.learning_rate=0.0002"),
    (["dataset.max_cases=1,000"],
     "dataset.max_cases=1,000: dataset.max_cases takes one value; thousands are not parted: {}; "
     "to try each in a sweep: -m dataset.max_cases=1,000", "dataset.max_cases=1000"),
    (["lora.r=4,8"], "lora.r=4,8: lora.r takes one value; to try each in a sweep: {}",
     "-m lora.r=4,8"),
    (["hardware=cpu,auto"],
     "hardware=cpu,auto: hardware takes one value; to try each in a sweep: {}",
     "-m hardware=cpu,auto"),
    (["lora.r=choice(4,8)"],
     "lora.r=choice(4,8): lora.r takes one value; to try each in a sweep: -m {}",
     "lora.r=choice(4,8)"),
    (["-m", "lora.target_modules=q_proj,v_proj"],
     "lora.target_modules=q_proj,v_proj: with -m a comma parts trials; write {} for one list, "
     "'lora.target_modules=[q_proj],[v_proj]' for several", "lora.target_modules=[q_proj,v_proj]"),
    (["lora.target_modules=[q_proj"],
     "lora.target_modules=[q_proj cannot be read: a list is written {}, a dictionary "
     "'lora.target_modules={{A: 1, B: 2}}', "
     "text 'lora.target_modules='\"'\"'[q_proj'\"'\"''", "lora.target_modules=[A,B]"),
]  # fmt: skip


KEYS = [
    "dataset.path",
    "lora.r",
    "lora.target_modules",
    "tracking.tags",
    "hardware",
    "nope",
    "hydra.run.dir",
    "",
]


def parse(word):
    return OverridesParser.create().parse_override(word)


def composed(compose, *words):
    return compose(*make_readable(words, TrainConfig))


def test_text_needs_no_quotes(compose):
    for first, second in zip(TEXTS, reversed(TEXTS), strict=True):
        read = make_readable([f"dataset.path={first}", f"tracking.run_name={second}"], TrainConfig)
        assert [parse(word).value() for word in read] == [first, second]
    cfg = composed(compose, "dataset.path=Smith, J/Fälle (1).csv", "tracking.run_name=1e5")
    assert (cfg.dataset.path, cfg.tracking.run_name) == ("Smith, J/Fälle (1).csv", "1e5")


@pytest.mark.parametrize(("word", "key", "value"), READ, ids=[word for word, *_ in READ])
def test_what_can_only_mean_one_thing_is_read(compose, word, key, value):
    found = OmegaConf.select(composed(compose, word), key)
    assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == value


@pytest.mark.parametrize(
    ("words", "sentence", "told"), SAID, ids=[" ".join(words) for words, *_ in SAID]
)
def test_what_cannot_be_read_is_said_with_what_to_type(compose, words, sentence, told):
    with pytest.raises(ConfigError) as refused:
        make_readable(words, TrainConfig)
    is_sweep, word = told.startswith("-m "), told.removeprefix("-m ")
    assert refused.value.problems == (
        sentence.format(("-m " if is_sweep else "") + shlex.quote(word)),
    )
    read = make_readable([*["-m"] * (is_sweep or "-m " in sentence), word], TrainConfig)
    assert read[-1] == word or compose(read[-1]) is not None


def test_options_may_stand_anywhere():
    words = ["lora.r=4", "-m", "lora.alpha=8", "--config-dir", "x", "seed/a=1", "--cfg=job"]
    read = make_readable(["a.b=1", *words], TrainConfig)
    assert read == [
        "-m",
        "--config-dir",
        "x",
        "--cfg=job",
        "a.b=1",
        "lora.r=4",
        "lora.alpha=8",
        "seed/a=1",
    ]
    assert make_readable(read, TrainConfig) == read


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cfg", "nope"], "argument --cfg/-c: invalid choice: 'nope'"),
        (["--config-dir"], "argument --config-dir/-cd: expected one argument"),
        (
            ["--resume"],
            (
                "--resume is no option; settings are written key=value, without dashes: --help"
                " lists them"
            ),
        ),
        (["lora.r"], "'lora.r' has no value; write lora.r=VALUE"),
        (
            ["dataset.path=F\udce4lle.csv"],
            "'dataset.path=F\\udce4lle.csv' holds bytes that are not UTF-8 text",
        ),
        (["~/x.csv"], "'~/x.csv' is no key=value"),
        (["läufe=3"], "läufe does not exist; the run has model"),
    ],
)
def test_other_words_that_are_none(words, said):
    with pytest.raises(ConfigError) as refused:
        make_readable(words, TrainConfig)
    (problem,) = refused.value.problems
    assert problem.startswith(said)


def test_every_wrong_word_is_said_at_once():
    with pytest.raises(ConfigError) as refused:
        make_readable(["lora.r=4,8", "lora_alpha=3", "batch_size=2"], TrainConfig)
    assert len(refused.value.problems) == 3


def test_a_home_is_found_where_hydra_would_make_a_folder_called_tilde():
    assert make_readable(["hydra.run.dir=~/x", "--config-dir=~/y"], TrainConfig) == [
        f"--config-dir={HOME}/y",
        f"hydra.run.dir={HOME}/x",
    ]


def test_the_home_of_nobody_is_a_name(resolved):
    words = make_readable(
        ["hydra.run.dir=~nobody9/x", "dataset=local", "dataset.path=~nobody9/x"], TrainConfig
    )
    assert words[0] == "hydra.run.dir='~nobody9/x'"
    assert (resolved(*words).dataset.path or "").endswith("/~nobody9/x")


def test_runs_to_compare_need_no_brackets():
    assert make_readable(["run=last,abc"], CompareConfig) == ["run=[last,abc]"]


def test_a_command_without_sweeps_offers_none():
    with pytest.raises(ConfigError) as refused:
        make_readable(["lora.r=4,8"], PlanConfig)
    assert refused.value.problems == ("lora.r=4,8: lora.r takes one value; give one",)


def test_a_sweep_is_left_to_hydra():
    words = [
        "-m",
        "training.learning_rate=tag(log,interval(1e-5,1e-3))",
        "lora.r=choice(8,16)",
        "lora=all_linear,attention_only",
    ]
    assert make_readable(words, TrainConfig) == words
    assert make_readable(["-m", "dataset.path=~/a.csv,Fälle.csv"], TrainConfig) == [
        "-m",
        "dataset.path='~/a.csv','Fälle.csv'",
    ]
    assert make_readable(["-m", "dataset.path=choice(~/a.csv,b.csv)"], TrainConfig) == [
        "-m",
        "dataset.path=choice('~/a.csv',b.csv)",
    ]


CHARACTERS = st.characters(exclude_categories=["Cs"])


@given(st.text(CHARACTERS))
def test_quoted_text_is_read_letter_by_letter(text):
    assert OmegaConf.create({"x": parse(f"x={quote(text)}").value()}).x == text


WORDS = st.one_of(
    st.text(CHARACTERS, max_size=20),
    st.builds(
        "{}={}".format,
        st.sampled_from(KEYS),
        st.text(st.one_of(CHARACTERS, st.sampled_from("[]{}(),='\"~:\\ $")), max_size=20),
    ),
)


@given(st.lists(WORDS, max_size=3), st.booleans())
def test_whatever_is_typed_is_refused_in_a_sentence_or_read_by_hydra(words, is_sweep):
    words = ["-m"] * is_sweep + words
    try:
        read = make_readable(words, TrainConfig)
    except ConfigError:
        return
    for word in read[is_sweep:]:
        parse(word)
    assert make_readable(read, TrainConfig) == read


@given(st.text(CHARACTERS, min_size=1))
def test_a_path_of_any_letters_is_that_path(text):
    """Unless it is written in Hydra's own grammar: quotes, escapes, references."""
    text = text.strip()
    if not text or text.lower() == "null" or re.search(r"['\"\\$]", text):
        return
    (word,) = make_readable([f"dataset.path={text}"], TrainConfig)
    assert str(parse(word).value()) == text
