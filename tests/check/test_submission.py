"""Reading of submission.json: aliases of its keys, units, numbers in any dress, and files that are none."""

import json

import pytest

from golf.check.findings import Quote
from golf.check.submission import Submission, SubmissionError, read_submission, to_figure

AT = Quote("submission.json", 1)


def read(**raw: object) -> Submission:
    return read_submission("submission.json", json.dumps(raw, indent=2))


@pytest.mark.parametrize("key", ["val_bpb", "mean_val_bpb", "val_bpb_mean", "final_val_bpb", "bpb"])
def test_the_score_is_found_under_its_public_names(key: str) -> None:
    submission = read(**{key: 1.0810})
    assert submission.value("val_bpb") == 1.081
    assert submission.figures["val_bpb"].key == key


def test_the_first_name_counts_where_several_stand() -> None:
    assert read(artifact_bytes_mean=3_000_000, bytes_total=2_000_000).value("bytes_total") == 2_000_000


def test_a_score_given_as_an_object_is_its_mean() -> None:
    assert read(val_bpb={"mean": 1.08, "std": 0.1}).value("val_bpb") == 1.08


@pytest.mark.parametrize(
    ("key", "value", "expected", "assumed"),
    [
        ("bytes_total", 15_900_123, 15_900_123, ""),
        ("bytes_total", "15,900,123", 15_900_123, ""),
        ("bytes_total", "15.9 MB", 15_900_000, ""),
        ("bytes_total", "15.43 MiB", 16_179_527.68, ""),
        ("bytes_total", 15.9, 15_900_000, "decimal MB"),
        ("artifact_mb", 15.9, 15_900_000, "decimal"),
        ("artifact_size_mib", 15.0, 15_728_640, ""),
        ("training_time_ms", 600_038, 600.038, ""),
        ("training_time_seconds", 600, 600, ""),
        ("training_time_minutes", 10, 600, ""),
        ("training_time_hours", 1.5, 5400, ""),
        ("wallclock_seconds", 600_038, 600.038, "milliseconds"),
        ("eval_time_s_mean", 397.23, 397.23, ""),
        ("val_bpb", "~1.081", 1.081, ""),
    ],
)
def test_units_are_told_apart(key: str, value: object, expected: float, assumed: str) -> None:
    figure = to_figure(key, value, AT)  # type: ignore[arg-type]
    assert figure and figure.value == pytest.approx(expected)
    assert figure.assumed == assumed


@pytest.mark.parametrize("value", [None, True, float("nan"), float("inf"), [1.0], {}, "soon", "", "9" * 60])
def test_what_is_no_number_gives_none(value: object) -> None:
    assert to_figure("val_bpb", value, AT) is None  # type: ignore[arg-type]


def test_a_key_without_a_number_is_remembered() -> None:
    assert read(val_bpb=None, val_loss="pending").odd == {
        "val_bpb": "val_bpb: null",
        "val_loss": 'val_loss: "pending"',
    }


def test_trailing_zeros_count_as_digits() -> None:
    submission = read_submission("submission.json", '{"val_bpb": 1.08100, "val_bpb_std": 0.0004}')
    assert submission.figures["val_bpb"].half_step == pytest.approx(5e-6)
    assert submission.figures["val_bpb_std"].half_step == pytest.approx(5e-5)


def test_one_digit_does_not_excuse_any_score() -> None:
    assert read(val_bpb=1).figures["val_bpb"].half_step <= 0.002


def test_evidence_names_the_line_of_a_key() -> None:
    evidence = read(name="x", val_bpb=1.0).quote("val_bpb")
    assert (evidence.line, evidence.text) == (3, '"val_bpb": 1.0')


@pytest.mark.parametrize(
    ("raw", "seeds"),
    [
        ({"seeds": [42, 0, 1234]}, (42, 0, 1234)),
        ({"seeds": {"42": 1.1, "7": 1.2}}, (42, 7)),
        ({"seed": 1337}, (1337,)),
        ({"seed_results": {"seed_42": {"val_bpb": 1.1}, "7": 1.2}}, (42, 7)),
        ({"seed_results": [{"seed": 3, "val_bpb": 1.1}]}, (3,)),
        ({"seeds": [None, "x", True, -1]}, ()),
    ],
)
def test_seeds_are_found_however_they_are_listed(raw: dict[str, object], seeds: tuple[int, ...]) -> None:
    assert tuple(seed for seed in read(**raw).seeds if seed is not True) == seeds


def test_results_by_seed_are_read_by_meaning() -> None:
    results = read(
        seed_results={"42": {"val_bpb": 1.1, "artifact_bytes": 15_000_000, "steps": 9}}
    ).seed_results
    assert {meaning: figure.value for meaning, figure in results[42].items()} == {
        "val_bpb": 1.1,
        "bytes_total": 15_000_000,
        "steps": 9,
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1"),
        ("{", "line 1"),
        ('{\n"a": 1,\n}', "line 3"),
        ("[]", "list"),
        ("1", "int"),
        ("\ufeff{}", "byte order mark"),
        ("[" * 100_000, "RecursionError"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
    ],
)
def test_what_is_no_json_object_is_named(text: str, reason: str) -> None:
    with pytest.raises(SubmissionError, match=reason):
        read_submission("submission.json", text)
