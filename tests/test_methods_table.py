"""The table of all methods, from reports made by hand; ``python benchmarks/methods.py`` prints it."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from idpersona.errors import BadInput

FILE = Path(__file__).parent.parent / "benchmarks" / "methods.py"
KEYS = ("own", "reference", "others", "own_minus_others", "rank1", "detection")


@pytest.fixture(scope="module")
def methods() -> Any:
    spec = importlib.util.spec_from_file_location("idpersona_methods", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(gain: float) -> dict[str, Any]:
    """Two people, one judge; at scale 1 both have gained ``gain`` over the floor."""

    def row(name: str, own: float) -> dict[str, Any]:
        value = {"mean": own, "low": own, "high": own, "n": 2}
        return {"judge": "j", "row": name, **dict.fromkeys(KEYS, value)}

    def person(name: str, floor: float) -> dict[str, Any]:
        def scores(own: float) -> dict[str, float]:
            return {"own": own, "others": 0.01}

        return {
            "identity": name,
            "j": {"base without identity": scores(floor), "scale 1": scores(floor + gain)},
        }

    return {
        "settings": {
            "protocol": {"name": "p", "scales": [1.0], "gallery": 32, "seed": 0},
            "split_sha256": "s",
        },
        "rows": [row("base without identity", 0.0), row("scale 1", gain)],
        "people": [person("a", 0.1), person("b", -0.1)],
    }


def test_the_margin_is_paired_and_kept_is_a_share_of_the_first(methods: Any) -> None:
    reports = {"instantid": report(0.2), "wplus": report(0.1)}
    methods.check_alike(reports, "scale 1")
    margin = methods.margin(reports["wplus"], "j", "scale 1")
    assert (margin.mean, margin.low, margin.high) == pytest.approx((0.1, 0.1, 0.1))
    table = methods.identity_table(reports, "scale 1").splitlines()
    assert "rank-1 of 2" in table[0] and "base without identity" in table[2]
    assert "instantid" in table[3] and "100 %" in table[3]
    assert "wplus" in table[4] and "50 %" in table[4] and "0.100 [0.100, 0.100]" in table[4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["people"].reverse(), "instantid and wplus differ in their people"),
        (lambda r: r["settings"]["protocol"].update(seed=1), "differ in their protocol"),
        (lambda r: r["settings"].update(split_sha256="t"), "differ in their protocol"),
        (lambda r: r["rows"].pop(), "report of wplus has no row 'scale 1' by j"),
        (
            lambda r: r["rows"].extend(copy.deepcopy([row | {"judge": "k"} for row in r["rows"]])),
            "differ in their judges",
        ),
    ],
)
def test_reports_that_do_not_go_together_are_refused(methods: Any, change: Any, message: str) -> None:
    reports = {"instantid": report(0.2), "wplus": report(0.1)}
    change(reports["wplus"])
    with pytest.raises(BadInput, match=message):
        methods.check_alike(reports, "scale 1")


def test_scales_and_names_of_protocols_may_differ(methods: Any) -> None:
    other = report(0.1)
    other["settings"]["protocol"].update(name="q", scales=[0.5, 1.0])
    methods.check_alike({"instantid": report(0.2), "wplus": other}, "scale 1")


def test_a_missing_report_names_the_command(methods: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="eval prompt --protocol methods"):
        methods.read(tmp_path, "prompt")
