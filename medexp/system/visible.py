"""Text by others on a terminal: what would steer it is shown, not sent."""

import re

# C0 but tab and line feed, DEL and C1 (the 8-bit forms of ESC [ and ESC ]) move the cursor,
# recolour, retitle, write to the clipboard; bidi embeddings, overrides and isolates show letters in
# another order (CVE-2021-42574); lone surrogates are no text.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return `text` with every character that steers a terminal spelt out, as \u001b.

    JSON stays the same JSON.
    """
    return _STEERS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
