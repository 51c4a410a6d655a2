"""A chart as SVG and PNG files, and as SVG inside a page. No browser and no network: vl-convert renders."""

import re
from html import escape
from typing import Any

from predict.charts import BLUE, FAINT, INK, RED, printed

DOTS_PER_INCH = 300
PAGE_COLOURS = {INK: "currentColor", FAINT: "var(--faint)", BLUE: "var(--blue)", RED: "var(--red)"}
"""What a page in dark mode draws lighter."""
SMALLEST = 0.72
"""A drawing shrinks to this and no further on a narrow screen, where it scrolls: its smallest text stays readable."""


def svg(chart: Any) -> str:
    """The chart in the look of the report, as it is printed: on white."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(printed(chart).to_dict()))


def png(drawn: str) -> bytes:
    """A drawn SVG at 300 dots an inch, 72 of its units to the inch."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(drawn, ppi=DOTS_PER_INCH))


def inline(drawn: str, name: str, alt: str) -> str:
    """The SVG for a page: no ground, its ink the page's, its ids its own, one image with `alt` to a screen reader.

    Vega numbers clip paths from 0 in every drawing; two drawings of a page would share them.
    """
    body = drawn.replace('fill="white"', 'fill="none"', 1)
    for colour, of_page in PAGE_COLOURS.items():
        body = body.replace(f'"{colour}"', f'"{of_page}"')
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r' (aria-[a-z]+|role)="[^"]*"', "", body)  # of single marks: hundreds of them say less than the sentence
    width = float(re.findall(r'width="([\d.]+)"', drawn)[0])
    attributes = f'role="img" aria-label="{escape(alt, quote=True)}" style="min-width:{SMALLEST * width:.0f}px"'
    return body.replace("<svg ", f"<svg {attributes} ", 1)
