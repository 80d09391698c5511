"""The audit as one self-contained HTML page: figures, histograms, findings, and three cases with
what is learnt in colour.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape

from medexp.config.schema import RunConfig
from medexp.data.audit.inspection import EXAMPLES, Inspection, Leak, Lengths, Repeat
from medexp.data.token_roles import Role, TokenSpan

COLOURS = {  # of a role where it is learnt; what is not learnt is grey
    Role.instructions: "#f3c6d3",
    Role.question: "#e9d8f4",
    Role.reasoning: "#cfe5f7",
    Role.answer: "#cdeccf",
    Role.marks: "#fbe8a6",
    Role.eos: "#f7b267",
}
_FIGURE = re.compile(r"([\d.,]+( %)?)?")
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;
color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse}
td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto;
background:linear-gradient(to left,#fff 30%,transparent) right/2.5em 100% no-repeat local,
linear-gradient(to left,#aaa,transparent) right/.8em 100% no-repeat scroll}
.ok{color:#1b7a2f}.bad{color:#a3231f;font-weight:600}
.charts{display:flex;flex-wrap:wrap;gap:1.5em}
.case{white-space:pre-wrap;border:1px solid #ccc;border-radius:6px;padding:1em;margin:1em 0;
font:13px/1.55 ui-monospace,monospace}
.case span{border-radius:3px}.off{color:#888}.key span{display:inline-block;
padding:.1em .5em;margin:0 .6em .3em 0;border-radius:3px}
.case{overflow-wrap:anywhere}
svg{background:#fafafa;max-width:100%;height:auto}@media(max-width:760px){body{margin:1em auto}}
.small{color:#666;font-size:.9em}"""


def render_audit_page(config: RunConfig, inspection: Inspection) -> str:
    """Return the page about `inspection`, the cases of `config`."""
    title = f"Cases of {config.dataset.name} for {config.model.name}, prompt {config.prompt.name}"
    body = [
        f"<h1>{escape(title)}</h1><p>{escape(inspection.audit.sentence())}</p>",
        _render_findings(inspection),
        "<h2>What became of the records</h2>"
        + _render_table(("records", "training", "held out", "why"), list(_funnel_rows(inspection))),
        *_render_roles(inspection),
        "<h2>Tokens per case (training)</h2>",
        "<p class='small'>The model's own tokenizer; the limit is"
        f" {inspection.max_tokens:,} tokens.</p>",
        "<div class='charts'>"
        + "".join(_draw_histogram(name, lengths) for name, lengths in inspection.lengths.items())
        + "</div>",
        "<h2>What the loss is taken on</h2>" + _render_shares(inspection),
        "<h2>Three cases: the shortest, the middle, the longest</h2>" + _render_key(inspection),
        *map(_render_case, inspection.previews),
        *_render_repeats("Training questions that nearly repeat another one", inspection.repeats),
        *_render_repeats(
            "Training questions that nearly repeat a held-out one", inspection.near_held_out
        ),
        *_render_leaks(inspection.leaks),
        "<h2>Reasoning and language</h2>"
        + _render_table(
            ("finding", "training cases"),
            [*_reasoning_rows(inspection), *_language_rows(inspection)],
        ),
    ]
    view = "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    head = f"<meta charset='utf-8'>{view}<title>{escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>"


def _render_findings(inspection: Inspection) -> str:
    if not inspection.broken:
        return (
            "<p class='ok'>All checks passed. Looked for overlap with:"
            f" {escape(', '.join(inspection.measured))}.</p>"
        )
    return (
        "<ul>"
        + "".join(f"<li class='bad'>{escape(rule)}</li>" for rule in inspection.broken)
        + "</ul>"
    )


def _funnel_rows(inspection: Inspection) -> Iterator[tuple[str, str, str, str]]:
    whole, train, held_out = inspection.audit, inspection.audit.train, inspection.audit.held_out
    yield f"{whole.records:,} read", "", "", ""
    for note in whole.notes:
        yield "", "", "", note
    if whole.blank:
        yield f"{whole.blank:,} more", "", "", "passed over: nothing stands in the row"
    if whole.faulty:
        yield f"{whole.faulty:,} left out", "", "", "cannot be read as cases (dataset.faulty=drop)"
    if whole.told_apart:
        why = "the answer began with its reasoning, in <think> marks"
        yield f"{whole.told_apart:,} told apart", "", "", why
    if whole.plain_control:
        why = "spell a control token of the tokenizer, which is encoded as plain text"
        yield f"{whole.plain_control:,} with marks", "", "", why
    if whole.joined_turns:
        why = "earlier answers of a conversation, learnt in the text of a later one"
        yield f"{whole.joined_turns:,} joined", "", "", why
    if whole.duplicate_questions:
        why = "the same question, whatever its case and spaces, stands there before"
        yield f"{whole.duplicate_questions:,} removed", "", "", why
    if whole.withheld:
        why = "the question or its group is held out from another part"
        yield f"{whole.withheld:,} withheld", f"{whole.withheld:,}", "", why
    if whole.reserved:
        why = "of the test and validation sides by the name of their group, not asked for"
        yield f"{whole.reserved:,} reserved", "", f"{whole.reserved:,}", why
    limit = f"longer than the limit ({inspection.max_tokens:,} tokens in training), "
    if dropped := train.dropped_overlong + held_out.dropped_overlong:
        sides = f"{train.dropped_overlong:,}", f"{held_out.dropped_overlong:,}"
        yield f"{dropped:,} dropped", *sides, f"{limit}whole or even trimmed"
    yield f"{train.kept + held_out.kept:,} kept", f"{train.kept:,}", f"{held_out.kept:,}", ""
    if trimmed := train.trimmed_reasoning + held_out.trimmed_reasoning:
        sides = f"{train.trimmed_reasoning:,}", f"{held_out.trimmed_reasoning:,}"
        why = f"{limit}so the reasoning ends at an earlier sentence; answer and EOS are whole"
        yield f"{trimmed:,} of them trimmed", *sides, why
    for part in whole.parts if len(whole.parts) > 1 else ():
        draws = f"{part.drawn:,} draws, each case {part.drawn / part.kept:.1f} times"
        yield f"part {part.name}", f"{part.kept:,}", "", f"weight {part.weight:g}: {draws}"


def _draw_histogram(name: str, lengths: Lengths) -> str:
    """Return bars as SVG, each with its range and count as a tooltip."""
    tallest, count, width, height = max(lengths.bins), len(lengths.bins), 320, 120
    step = width / count
    bars = "".join(
        f"<rect x='{place * step:.1f}' y='{height - height * cases / tallest:.1f}'"
        f" width='{step * 0.9:.1f}' height='{height * cases / tallest:.1f}'"
        f" fill='#2a78b5'><title>{place * lengths.width} to {(place + 1) * lengths.width - 1}"
        f" tokens: {cases} cases</title></rect>"
        for place, cases in enumerate(lengths.bins)
    )
    ticks = (
        f"<text x='0' y='{height + 15}' font-size='11'>0</text>"
        + f"<text x='{width}' y='{height + 15}' font-size='11'"
        f" text-anchor='end'>{count * lengths.width:,}</text>"
    )
    figures = f"median {lengths.median:g}, p95 {lengths.p95:,}, longest {lengths.longest:,}"
    label = f"{escape(name)}: {figures}"
    return (
        f"<figure style='margin:0'><figcaption><b>{escape(name)}</b> <span"
        f" class='small'>{figures}</span></figcaption><svg viewBox='0 0 {width} {height + 20}'"
        f" width='{width}' height='{height + 20}' role='img'"
        f" aria-label='{label}'>{bars}{ticks}</svg></figure>"
    )


def _render_shares(inspection: Inspection) -> str:
    total = sum(inspection.label_tokens.values())
    bars = "".join(
        f"<div title='{escape(name)}'"
        f" style='width:{100 * count / total:.2f}%;background:{COLOURS[Role(name)]};"
        "height:1.6em'></div>"
        for name, count in inspection.label_tokens.items()
    )
    rows = [
        (name, f"{count:,}", f"{100 * count / total:.1f} %")
        for name, count in inspection.label_tokens.items()
    ]
    return f"<div style='display:flex;margin-bottom:.8em'>{bars}</div>" + _render_table(
        ("labels that are", "tokens", "share"), rows
    )


def _render_key(inspection: Inspection) -> str:
    learnt = {
        role: colour for role, colour in COLOURS.items() if role.value in inspection.label_tokens
    }
    names = "".join(
        f"<span style='background:{colour}'>{role.value}</span>" for role, colour in learnt.items()
    )
    return (
        f"<p class='key'>In the loss: {names} <span class='off'>grey: read, not in the"
        " loss</span></p>"
    )


def _render_case(pieces: Sequence[TokenSpan]) -> str:
    tokens = sum(piece.tokens for piece in pieces)
    return f"<div class='case'><b>{tokens} tokens</b>\n{''.join(map(_render_span, pieces))}</div>"


def _render_span(piece: TokenSpan) -> str:
    text = "⟨EOS⟩" if piece.role is Role.eos else piece.text
    look = f" style='background:{COLOURS[piece.role]}'" if piece.learnt else " class='off'"
    return f"<span{look} title='{piece.role.value}, {piece.tokens} tokens'>{escape(text)}</span>"


def _render_repeats(title: str, repeats: Sequence[Repeat]) -> Iterator[str]:
    if repeats:
        rows = [
            (repeat.question, repeat.repeats, f"{repeat.similarity:.2f}")
            for repeat in repeats[:EXAMPLES]
        ]
        yield f"<h2>{escape(title)}: {_count_shown(repeats)}</h2>" + _render_table(
            ("question", "repeats", "similarity"), rows
        )


def _count_shown(findings: Sequence[object]) -> str:
    return (
        f"{len(findings)}, here the first {EXAMPLES}"
        if len(findings) > EXAMPLES
        else str(len(findings))
    )


def _render_leaks(leaks: Sequence[Leak]) -> Iterator[str]:
    if leaks:
        rows = [
            (leak.question, leak.measured, "whole question" if leak.same_question else leak.shared)
            for leak in leaks[:EXAMPLES]
        ]
        title = "Training cases that share text with what is measured on"
        yield f"<h2>{title}: {_count_shown(leaks)}</h2>"
        yield _render_table(("question", "measured on", "shared"), rows)


def _render_roles(inspection: Inspection) -> Iterator[str]:
    """Yield who speaks, where cases were read from conversations."""
    if (talk := inspection.conversations) is None:
        return
    rows = [
        ("conversations", f"{talk.count:,}"),
        ("with several questions", f"{talk.several_turns:,}"),
        ("with a system text", f"{talk.with_system:,}"),
        *((f"turns of {role}", f"{count:,}") for role, count in talk.turns.items()),
    ]
    yield "<h2>Who speaks (training and held-out cases)</h2>" + _render_table(
        ("conversations and turns", "count"), rows
    )


def _reasoning_rows(inspection: Inspection) -> Iterator[tuple[str, str]]:
    faults = inspection.reasoning
    yield "no reasoning", str(len(faults.empty))
    yield "another case's reasoning", str(len(faults.of_another_case))
    yield "reasoning that is the answer", str(len(faults.same_as_answer))
    yield "repetitive reasoning", str(len(faults.in_circles))
    yield (
        "a word for a missing value as answer or reasoning, held-out cases too",
        str(len(inspection.missing_values)),
    )
    for name, cases in inspection.missing_columns.items():
        yield f"no {name}, which other cases have", str(len(cases))


def _language_rows(inspection: Inspection) -> Iterator[tuple[str, str]]:
    for language, count in inspection.languages[:6]:
        yield f"language {language}", str(count)


def _render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in a box that scrolls; a column of figures alone is set to the right."""
    figures = [
        any(row[place] for row in rows) and all(_FIGURE.fullmatch(row[place]) for row in rows)
        for place in range(len(columns))
    ]
    looks = [" class='n'" if is_figure else "" for is_figure in figures]
    head = "".join(
        f"<th{look}>{escape(column)}</th>" for look, column in zip(looks, columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{look}>{escape(cell)}</td>" for look, cell in zip(looks, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<div class='wide' tabindex='0'><table><tr>{head}</tr>{body}</table></div>"
