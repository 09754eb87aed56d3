"""Pieces of HTML that several sections of the page are made of."""

from collections.abc import Iterable, Sequence

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


def plot(name: str, heading: str, alternative: str) -> str:
    """The place of a plot that the page's script draws, with its text alternative, HTML that anyone can read."""
    words = escape(heading)
    place = f'<div id="{name}" class="plot" role="img" aria-label="{words}"></div>'
    return f'<figure><h3 class="minor">{words}</h3>{place}{alternative}</figure>'


def as_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A plot's numbers as a folded table; cells are text, the first of a row its heading."""
    table = scroll_table(heads, "".join(table_row(row) for row in rows))
    return f'<details class="as-table"><summary>As a table</summary>{table}</details>'


def scroll_table(heads: Sequence[str], body: str, *, caption: str = "", kind: str = "plain") -> str:
    """A table that scrolls where it is wider than the page; `heads` and `caption` are text, `body` is rows of HTML."""
    columns = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    titled = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}">{titled}<thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def table_row(cells: Sequence[str]) -> str:
    """A row of text, the first cell its heading."""
    first, *rest = (escape(cell) for cell in cells)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
