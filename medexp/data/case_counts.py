"""What became of every record on its way to the model: counts and lengths, for the screen and the
run's artifacts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from medexp.data.encoding import IGNORED, EncodedCases
from medexp.data.split import Split


@dataclass(frozen=True)
class SideCounts:
    """One side of the split: cases kept, dropped and trimmed, and token lengths (whole text; labels
    only).
    """

    kept: int
    dropped_overlong: int
    trimmed_reasoning: int
    tokens_median: int
    tokens_longest: int
    label_tokens: int


@dataclass(frozen=True)
class SourceCounts:
    """A part of the training cases: how many it has, and how many draws of the whole run it
    gives."""

    name: str
    weight: float
    kept: int
    drawn: int


@dataclass(frozen=True)
class CaseCounts:
    """The whole way: records read, duplicates removed, cases withheld because they or their group
    are held out from another part, both sides of the split, the parts of a mixture, and how many
    held-out cases were asked for (0: not known).

    Of the rows read, `faulty` were left out (dataset.faulty=drop), `blank` ones, not among the
    records, hold nothing, and of `told_apart` the reasoning was found in the answer, at its marks;
    `plain_control` cases hold the spelling of a control token, encoded as plain text;
    `joined_turns` answers are learnt within the text of a later turn; `notes` say
    how files were read that are not what their ending says; `reserved` cases are of the test and
    validation sides and were not asked for."""

    records: int
    duplicate_questions: int
    train: SideCounts
    held_out: SideCounts
    withheld: int = 0
    parts: tuple[SourceCounts, ...] = ()
    held_out_wanted: int = 0
    faulty: int = 0
    blank: int = 0
    told_apart: int = 0
    plain_control: int = 0
    notes: tuple[str, ...] = ()
    validation: int = 0
    reserved: int = 0
    joined_turns: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """Return the counts as one line for the screen."""
        parts = [
            f"{self.records} records",
            f"{self.train.kept} to train on",
            f"{self.held_out.kept} held out",
            *([f"{self.validation} for validation"] if self.validation else []),
            *([f"{self.reserved} of these sides not asked for"] if self.reserved else []),
        ]
        gone = {
            "faulty left out": self.faulty,
            "blank rows passed over": self.blank,
            "duplicates removed": self.duplicate_questions,
            "withheld (held out from another part)": self.withheld,
            "over-long dropped": self.train.dropped_overlong + self.held_out.dropped_overlong,
            "reasonings trimmed": self.train.trimmed_reasoning + self.held_out.trimmed_reasoning,
            "reasonings told apart from the answer at <think> marks": self.told_apart,
            "with control tokens as plain text": self.plain_control,
            "answers learnt in the text of a later turn": self.joined_turns,
        }
        said = (
            ", ".join(parts + [f"{count} {what}" for what, count in gone.items() if count])
            + self._mixture()
        )
        return "; ".join([said, *self.notes])

    def _mixture(self) -> str:
        """Return how many draws each part gives and how often its cases come round; nothing for one
        part."""
        if len(self.parts) < 2:
            return ""
        draws = sum(part.drawn for part in self.parts)
        return "; " + ", ".join(
            f"{part.name} {part.drawn}/{draws} draws of {part.kept} cases"
            f" ({part.drawn / part.kept:.1f} x)"
            for part in self.parts
        )


def count_cases(
    split: Split,
    train: EncodedCases,
    held_out: EncodedCases,
    parts: Sequence[SourceCounts] = (),
    validation: int = 0,
) -> CaseCounts:
    """Return the counts of a split and of its two encoded sides (neither may be empty), drawn from
    in `parts`."""
    reading = split.reading
    return CaseCounts(
        records=split.records + reading.faulty,
        duplicate_questions=split.duplicates,
        train=_count_side(train),
        held_out=_count_side(held_out),
        withheld=split.withheld,
        parts=tuple(parts),
        held_out_wanted=split.wanted,
        faulty=reading.faulty,
        blank=reading.blank,
        told_apart=reading.told_apart,
        plain_control=train.plain + held_out.plain,
        notes=reading.notes,
        validation=validation,
        reserved=split.reserved,
        joined_turns=train.joined,
    )


def _count_side(side: EncodedCases) -> SideCounts:
    lengths: Sequence[int] = sorted(len(encoded.input_ids) for encoded in side.encoded)
    label_tokens = sum(label != IGNORED for encoded in side.encoded for label in encoded.labels)
    return SideCounts(
        len(lengths),
        side.dropped,
        side.trimmed,
        lengths[len(lengths) // 2],
        lengths[-1],
        label_tokens,
    )
