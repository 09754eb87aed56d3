"""Pieces of HTML that several sections of the page are made of."""

from uniformer_bench.report.text import escape


def section(anchor: str, heading: str, body: str) -> str:
    """A section of the page; `heading` and `body` are HTML."""
    return f'<section id="{anchor}" aria-labelledby="{anchor}-h"><h2 id="{anchor}-h">{heading}</h2>\n{body}\n</section>'


def copyable(name: str, text: str, is_open: bool = False) -> str:
    """A block of text with a copy button."""
    return (
        f'<details class="code"{" open" if is_open else ""}><summary>{name}</summary>'
        f'<button type="button" data-copy>Copy</button><pre tabindex="0">{escape(text)}</pre></details>'
    )


def bar(share: float, words: str) -> str:
    """Two cells of a table: words, and a bar of that share of its column."""
    return f'<td>{escape(words)}</td><td class="track"><span style="width:{100 * share:.1f}%"></span></td>'
