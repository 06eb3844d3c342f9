"""Every claim of docs/threat-model.md names a test that there is."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
_SECTION = TEXT.partition("## Claims")[2].partition("## What is not")[0]
_ROWS = [line for line in _SECTION.splitlines() if line.startswith("| ") and not line.startswith("| claim")]
CLAIMS = [row.strip("| ").split(" | ") for row in _ROWS]


@cache
def functions_of(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_there_are_claims():
    assert len(CLAIMS) > 30


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[0][:50])
def test_a_claim_names_tests_that_there_are(claim):
    assert len(claim) == 2
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", claim[1])
    assert named
    assert len(named) == claim[1].count("`") // 2
    assert [name for path, name in named if name not in functions_of(path)] == []
