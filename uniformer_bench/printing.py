"""Text that a person could have named, as a terminal, a table or a page may show it."""

import json
import re

# control characters but for the line's end and the tab; what turns writing round, joins or hides; line separators
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """`text` with what moves a cursor, turns text round or hides it spelt out as JSON would: the text of JSON stays
    JSON of the same value."""
    return UNSEEN.sub(_spelt, text)


def _spelt(found: "re.Match[str]") -> str:
    character = found[0]
    return f"\\u{ord(character):04x}" if ord(character) < 1 << 16 else json.dumps(character)[1:-1]
