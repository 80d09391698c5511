"""What became of every record on its way to the model: counts and lengths, for the screen and the run's artifacts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from medexp.data.encoding import IGNORED, Encoding
from medexp.data.split import Split


@dataclass(frozen=True)
class SideAudit:
    """One side of the split: cases kept, dropped and trimmed, and token lengths (whole text; labels only)."""

    kept: int
    dropped_overlong: int
    trimmed_reasoning: int
    tokens_median: int
    tokens_longest: int
    label_tokens: int


@dataclass(frozen=True)
class PartAudit:
    """A part of the training cases: how many it has, and how many draws of the whole run it gives."""

    name: str
    weight: float
    kept: int
    drawn: int


@dataclass(frozen=True)
class CaseAudit:
    """The whole way: records read, duplicates removed, cases withheld because they or their group are held out from another part,
    both sides of the split, the parts of a mixture, and how many held-out cases were asked for (0: not known)."""

    records: int
    duplicate_questions: int
    train: SideAudit
    held_out: SideAudit
    withheld: int = 0
    parts: tuple[PartAudit, ...] = ()
    held_out_wanted: int = 0

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """The counts as one line for the screen."""
        parts = [f"{self.records} records", f"{self.train.kept} to train on", f"{self.held_out.kept} held out"]
        gone = {
            "duplicates removed": self.duplicate_questions,
            "withheld (held out from another part)": self.withheld,
            "over-long dropped": self.train.dropped_overlong + self.held_out.dropped_overlong,
            "reasonings trimmed": self.train.trimmed_reasoning + self.held_out.trimmed_reasoning,
        }
        return ", ".join(parts + [f"{count} {what}" for what, count in gone.items() if count]) + self._mixture()

    def _mixture(self) -> str:
        """Each part's draws and how often its cases come round, where there are several parts."""
        if len(self.parts) < 2:
            return ""
        draws = sum(part.drawn for part in self.parts)
        return "; " + ", ".join(
            f"{part.name} {part.drawn}/{draws} draws of {part.kept} cases ({part.drawn / part.kept:.1f} x)" for part in self.parts
        )


def audit(split: Split, train: Encoding, held_out: Encoding, parts: Sequence[PartAudit] = ()) -> CaseAudit:
    """The audit of a split and its two encoded sides (neither may be empty), drawn from in `parts`."""
    return CaseAudit(split.records, split.duplicates, _side(train), _side(held_out), split.withheld, tuple(parts), split.wanted)


def _side(side: Encoding) -> SideAudit:
    lengths: Sequence[int] = sorted(len(each.input_ids) for each in side.encoded)
    label_tokens = sum(label != IGNORED for each in side.encoded for label in each.labels)
    return SideAudit(len(lengths), side.dropped, side.trimmed, lengths[len(lengths) // 2], lengths[-1], label_tokens)
