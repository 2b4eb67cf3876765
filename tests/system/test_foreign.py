"""The bounded reader: what it refuses, and that it reads what numpy and this project write."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hostile_folders import ARRAYS, NESTED, odd_file, replace

from golf.system.foreign import ForeignError, decode_text, read_arrays, read_bytes, read_object, read_text


@pytest.mark.parametrize("kind", ["pipe", "zero", "loop", "folder", "sparse"])
@pytest.mark.parametrize("reader", [lambda path: read_bytes(path, 100), read_object, read_arrays])
def test_what_is_no_file_is_one_error_that_names_it(tmp_path: Path, reader, kind: str):
    odd_file("file", kind)(tmp_path)
    with pytest.raises(ForeignError, match=rf"^{tmp_path}/file: ") as caught:
        reader(tmp_path / "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in ARRAYS if kind not in ("NaN", "lengths")])
def test_arrays_that_numpy_would_not_save_for_us_are_refused(tmp_path: Path, kind: str):
    replace("a.npz", ARRAYS[kind])(tmp_path)
    with pytest.raises(ForeignError, match=r"a\.npz: "):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_they_were_saved(tmp_path: Path, save):
    arrays = {
        "nats": np.linspace(0, 1, 9),
        "bytes": np.arange(9),
        "is_long": np.arange(9) > 3,
        "none": np.ones(0),
    }
    file = io.BytesIO()
    save(file, **arrays)
    (tmp_path / "a.npz").write_bytes(file.getvalue())
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


@pytest.mark.parametrize("text", [*NESTED.values(), "[]", "{} {}", '{"a": NaN}', '{"a": 1, "a": 1}', "3"])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ForeignError, match=r"a\.json: "):
        read_object(tmp_path / "a.json")


def test_an_object_and_any_text_are_read(tmp_path: Path):
    path = tmp_path / "a"
    value = {"a": [1, 2.5, {"b": None}], "c": "é"}
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert read_object(path) == value
    path.write_bytes("val_bpb: 1.0".encode("utf-16"))
    assert read_text(path, 100) == "val_bpb: 1.0"
    assert decode_text(b"\xff1.0") == "\ufffd1.0"
