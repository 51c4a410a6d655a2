"""What several test files share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Public data and published numbers: $FORERUN_TEST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("FORERUN_TEST_DATA") or ROOT.parent / "shared/data")
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}: set FORERUN_TEST_DATA to its folder")
    return folder
