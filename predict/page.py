"""The report's page: sections of figures with their sentence and table, self-contained, for light, dark, narrow and paper."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

STYLE = """
:root{color-scheme:light dark;--ink:#1b1b1b;--paper:#fff;--faint:#d9d9d9;--quiet:#595959;--link:#0072B2;--box:#f5f5f5;--blue:#0072B2;--red:#D55E00}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#16181a;--faint:#44474a;--quiet:#a8a8a8;--link:#56B4E9;--box:#222528;--blue:#3E9BDC;--red:#F0803C}}
@media print{:root{color-scheme:light;--ink:#000;--paper:#fff;--faint:#ccc;--quiet:#444;--link:#000;--box:#fff;--blue:#0072B2;--red:#D55E00}nav,.files{display:none}}
*{box-sizing:border-box}body{font:16px/1.55 system-ui,sans-serif;max-width:1040px;margin:0 auto;padding:1.5rem 1rem 4rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.25rem;margin:2.6rem 0 .6rem;border-top:1px solid var(--faint);padding-top:1.2rem}a{color:var(--link)}
.facts,.files,.note{color:var(--quiet)}nav{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:1rem 0}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:1.6rem 2rem;align-items:start}
.drawing{overflow-x:auto}.figures+.wide{margin-top:1.2rem}figure{margin:0;min-width:0;break-inside:avoid}figure svg{display:block;max-width:100%;height:auto}figcaption{margin:.5rem 0 .2rem;max-width:65ch}
.files{font-size:.85rem}.files a{margin-right:.7rem}details{margin:.3rem 0}summary{cursor:pointer;color:var(--quiet);font-size:.9rem}
.wide{overflow-x:auto;max-height:26rem;overflow-y:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--faint);white-space:nowrap}th{position:sticky;top:0;background:var(--paper)}
th:first-child,td:first-child{text-align:left}td:first-child{max-width:24em;white-space:normal;overflow-wrap:break-word}
.missing{background:var(--box);border-left:4px solid #E69F00;padding:.6rem .9rem;margin:.6rem 0}
"""


@dataclass(frozen=True)
class Figure:
    """A chart with what a person needs to read it."""

    name: str
    """Of its files."""
    chart: Any
    shows: str
    """What is drawn, for who cannot see it; the alt text is this and the sentence."""
    sentence: str
    table: pl.DataFrame

    @property
    def alt(self) -> str:
        """Alt text."""
        return f"{self.shows} {self.sentence}"


@dataclass(frozen=True)
class Section:
    """Figures on one question, or the reason why there are none."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    table: pl.DataFrame | None = None
    """Shown open, before the figures."""
    notes: list[str] = field(default_factory=list)


def page(title: str, facts: str, sections: Sequence[Section], drawings: dict[str, str], made_by: str) -> str:
    """The whole page.

    Args:
        drawings: inline SVG of each figure by its name.
    """
    links = "".join(f'<a href="#{s.name}">{html.escape(s.title)}</a>' for s in sections)
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            f'<h1>{html.escape(title)}</h1><p class="facts">{html.escape(facts)}</p><nav aria-label="Sections">{links}</nav><main>',
            *(_section(section, drawings) for section in sections),
            f'</main><p class="note">Made by <code>{html.escape(made_by)}</code>. Intervals are 90 % unless said otherwise.</p></body></html>',
        ]
    )


def _section(section: Section, drawings: dict[str, str]) -> str:
    figures = "".join(_figure(figure, drawings[figure.name]) for figure in section.figures)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in section.notes)
    return "\n".join(
        [
            f'<section id="{section.name}"><h2>{html.escape(section.title)}</h2>',
            *(f'<p class="missing">Missing: {html.escape(text)}</p>' for text in section.missing),
            f'<div class="figures">{figures}</div>' if figures else "",
            table_html(section.table) if section.table is not None else "",
            f'<ul class="note">{notes}</ul>' if notes else "",
            "</section>",
        ]
    )


def _figure(figure: Figure, drawing: str) -> str:
    files = "".join(f'<a href="figures/{figure.name}.{kind}">{kind.upper()}</a>' for kind in ("svg", "png", "csv"))
    return (
        f'<figure id="figure-{figure.name}"><div class="drawing">{drawing}</div><figcaption>{html.escape(figure.sentence)}</figcaption>'
        f'<details><summary>Data: {len(figure.table)} rows</summary>{table_html(figure.table)}</details><div class="files">{files}</div></figure>'
    )


def table_html(frame: pl.DataFrame) -> str:
    """All rows as an HTML table that scrolls by itself."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in frame.columns)
    rows = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in frame.iter_rows())
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return html.escape(str(value)).replace(",", ",<wbr>")  # a long list of columns may wrap after its commas
