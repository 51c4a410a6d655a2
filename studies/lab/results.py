"""The figures of docs/results.md, computed from the packed runs.

    python studies/lab/results.py            every section
    python studies/lab/results.py primary which-k

Each section prints its tables in Markdown. A section whose runs are not there yet says so.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import effects
import polars as pl
import predictors
import prospective
import runs_of_study

from predict.printing import print_rows

Section = Callable[[], Iterator[tuple[str, pl.DataFrame]]]
SECTIONS: dict[str, Section] = {
    "runs": runs_of_study.overview,
    "primary": predictors.primary,
    "predictors": predictors.scored,
    "which-k": predictors.which_k,
    "rollouts": predictors.rollouts,
    "regret": predictors.regret,
    "mediators": predictors.mediators,
    "shifted": predictors.shifted,
    "controls": effects.controls,
    "behaviors": effects.behaviors,
    "influence": effects.influence,
    "convergence": effects.convergence,
    "rates": effects.rates,
    "claims": effects.claims,
    "prospective": prospective.scored,
}


def main() -> None:
    """Print the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*", choices=[*SECTIONS, []], help="default: all")
    for name in parser.parse_args().section or SECTIONS:
        print(f"## {name}\n")
        tables = list(SECTIONS[name]())
        for title, frame in tables:
            print(f"{title}\n")
            print_rows(frame.with_columns(pl.col(pl.Float64).round(12).round_sig_figs(3)), "md")
            print()
        if not tables:
            print("The runs of this section are not there yet.\n")


if __name__ == "__main__":
    sys.exit(main())
