"""report.json: written, read again, and refused where it is not one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from helpers.reports import absent, measured, peer, report
from jobonnx import JobonnxError
from jobonnx.strict_json import json_text
from jobonnx_bench.render.folder import complete
from jobonnx_bench.report import Details, LimitsPass, Reading, Report, read_report

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def written(path: Path, content: Any) -> Path:
    path.write_text(json_text(content), encoding="utf-8")
    return path


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    made = complete(report(measured("fp32"), absent("int8", "cuda"), peer("a peer")))
    assert made.limits is not None
    made = replace(made, limits=replace(made.limits, passes=(LimitsPass((), (Reading(10, 0.5, "numpy"),)),)))
    assert read_report(written(tmp_path / "report.json", asdict(made))) == made


def test_the_committed_reports_are_read() -> None:
    """Those of this format: 2026-11-24's lack two figures of parity, which says what to do."""
    paths = sorted(RESULTS.glob("report-2026-11-27*/report.json"))
    assert len(paths) >= 2
    for path in paths:
        found = read_report(path)
        assert complete(found) == found, path  # its figures follow from its measurements
    with pytest.raises(JobonnxError, match=r"missing required field p5_centred; .*measure again"):
        read_report(RESULTS / "report-2026-11-24" / "report.json")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    content = asdict(report(measured("fp32"))) | {"schema": "jobonnx.bench/2"}
    with pytest.raises(JobonnxError, match=r"report\.json: schema: invalid enum value .*measure again"):
        read_report(written(tmp_path / "report.json", content))
    with pytest.raises(JobonnxError, match=r"report\.json: .*measure again"):
        read_report(written(tmp_path / "report.json", []))


def _set(*keys: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_set("systems", 0, "rounds", 0, "bulk", value=0), "bulk has to be times above 0"),
        (_set("systems", 0, "rounds", 0, "bulk", value="fast"), "bulk: expected float, got str"),
        (_set("systems", 0, "rounds", 0, "one", value=[]), "one has to be times above 0, and at least one of them"),
        (_set("systems", 0, "rounds", 0, "thirty_two", value=[1.0]), "thirty_two_equal has to be as many times as in thirty_two"),
        (_set("systems", 0, "loads", value=[]), "loads has to be times above 0"),
        (_set("systems", 0, "parity", "mean_centred", value="high"), "mean_centred: expected"),
        (_set("systems", 0, "status", value="great"), "status: invalid enum value"),
        (_set("systems", 0, "surprise", value=1), "surprise is unknown"),
        (_set("systems", 0, "peak_bytes", value=1.5), "peak_bytes: expected int"),
        (_set("systems", 1, "name", value="jobonnx-fp32-cpu"), "systems has to be of distinct names"),
        (_set("workload", "titles", value=0), "titles has to be at least 1"),
        (_set("shape", "hidden", value=-1), "hidden has to be at least 1"),
        (_set("limits", "rates", 0, "operations_per_second", value=0), "operations_per_second has to be above 0"),
    ],
)
def test_a_field_that_cannot_be_is_named(change: Callable[[dict[str, Any]], None], field: str, tmp_path: Path) -> None:
    content = json.loads(json_text(asdict(report(measured("fp32"), measured("int8")))))
    change(content)
    with pytest.raises(JobonnxError) as refused:
        read_report(written(tmp_path / "report.json", content))
    assert field in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "report.json"))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"schema": ' + "9" * 5000 + "}", '{"schema": NaN}', '{"schema": "\\ud800"}', '{"a": 1, "a": 2}', "", "\x00"],
)
def test_hostile_json_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(JobonnxError) as refused:
        read_report(path)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_whatever_an_adapter_says_has_a_place() -> None:
    found = Details.of({"dtype": "int8", "threads": 2, "backend": "onnx", "streams": 1, "odd": [1, 2]})
    assert found == Details("int8", threads=2, notes={"backend": "onnx", "streams": 1, "odd": "[1, 2]"})
    assert Details.of({}) == Details()


def test_names_of_a_peer_and_of_ours() -> None:
    assert (measured("int8", "cuda").variant, measured("int8", "cuda").provider) == ("int8", "cuda")
    assert (peer("a peer").variant, peer("a peer").provider) == ("a peer", "")
    assert isinstance(report(peer("a peer")), Report)
