from dataclasses import replace

from medexp.config.schema import LossOn, Overlong
from medexp.data.case_counts import CaseCounts, SideCounts, count_cases
from medexp.data.cases import Case, ReadingReport
from medexp.data.encoding import EncodedCase, EncodedCases, encode_cases
from medexp.data.split import Split

CASE = Case("q", "r", "a")


def side(*lengths: int, dropped: int = 0, trimmed: int = 0) -> EncodedCases:
    """Cases of these token lengths, the last two tokens of each learnt."""
    encoded = tuple(
        EncodedCase([5] * length, [-100] * (length - 2) + [5, 2], length - 2) for length in lengths
    )
    return EncodedCases((CASE,) * len(lengths), encoded, dropped, trimmed)


def test_every_record_is_accounted_for():
    split = Split(train=(CASE,) * 6, held_out=(CASE,) * 3, records=11, duplicates=2)
    done = count_cases(split, side(7, 3, 9, 4, dropped=2, trimmed=1), side(5, 8, dropped=1))
    assert done == CaseCounts(
        records=11,
        duplicate_questions=2,
        train=SideCounts(
            kept=4,
            dropped_overlong=2,
            trimmed_reasoning=1,
            tokens_median=7,
            tokens_longest=9,
            label_tokens=8,
        ),
        held_out=SideCounts(
            kept=2,
            dropped_overlong=1,
            trimmed_reasoning=0,
            tokens_median=8,
            tokens_longest=8,
            label_tokens=4,
        ),
    )
    assert (
        done.sentence()
        == "11 records, 4 to train on, 2 held out, 2 duplicates removed, 3 over-long dropped, 1"
        " reasonings trimmed"
    )


def test_what_was_met_in_the_files_is_counted_and_said():
    met = ReadingReport(faulty=3, blank=4, told_apart=5, notes=("a.csv is UTF-16",))
    marked = replace(side(3), plain=1)
    done = count_cases(
        Split((CASE,), (CASE,), records=2, duplicates=0, reading=met), marked, marked
    )
    assert (done.records, done.faulty, done.blank, done.told_apart, done.plain_control) == (
        5,
        3,
        4,
        5,
        2,
    )
    assert (
        done.sentence()
        == "5 records, 1 to train on, 1 held out, 3 faulty left out, 4 blank rows passed over, 5"
        " reasonings told apart from the answer at <think> marks, 2 with control tokens as plain"
        " text; a.csv is UTF-16"
    )


def test_what_did_not_happen_is_not_mentioned():
    done = count_cases(Split((CASE,), (CASE,), records=2, duplicates=0), side(3), side(3))
    assert done.sentence() == "2 records, 1 to train on, 1 held out"


def test_the_audit_is_plain_values():
    done = count_cases(Split((CASE,), (CASE,), records=2, duplicates=0), side(3), side(4)).as_dict()
    assert done["records"] == 2
    assert done["held_out"] == {
        "kept": 1, "dropped_overlong": 0, "trimmed_reasoning": 0, "tokens_median": 4,
        "tokens_longest": 4, "label_tokens": 2,
    }  # fmt: skip


def test_label_tokens_are_those_that_are_learnt(prompt, characters):
    encoded = encode_cases(prompt, [CASE], characters, 100, Overlong.drop, LossOn.completion)
    done = count_cases(Split((CASE,), (CASE,), records=1, duplicates=0), encoded, encoded)
    assert done.train.label_tokens == len("r\n</think>\n\na") + 1
