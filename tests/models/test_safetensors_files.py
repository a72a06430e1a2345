"""Safetensors read by us against the format's own library, and damaged files."""

import json
import pathlib
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from rljax.models import safetensors_files as files


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    save_file(
        {
            "b.weight": rng.standard_normal((3, 4)).astype(np.float32),
            "a": np.arange(5, dtype=np.int64),
            "half": rng.standard_normal((2, 2)).astype(ml_dtypes.bfloat16),
            "none": np.zeros((0, 7), np.float16),
            "scalar": np.array(2.5, np.float32),
        },
        tmp_path / files.SINGLE,
        metadata={"format": "pt"},
    )
    return tmp_path / files.SINGLE


def test_reads_what_the_library_wrote(path):
    from safetensors.numpy import load_file

    expected = load_file(path)
    found = dict(files.tensors(path))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    assert files.files_of(path.parent) == [path]


def rewrite(path, header=None, length=None, cut=0) -> None:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    text = json.dumps(header).encode() if header is not None else data[8 : 8 + size]
    length = len(text) if length is None else length
    whole = struct.pack("<Q", length) + text + data[8 + size :]
    path.write_bytes(whole[: len(whole) - cut])


def header_of(path) -> dict:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size])


def test_a_file_cut_off_is_told(path):
    rewrite(path, cut=1)
    with pytest.raises(ValueError, match=r"is cut off: .* ends at byte"):
        list(files.tensors(path))
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match="has 3 bytes: no safetensors file"):
        list(files.tensors(path))


def test_a_damaged_header_is_told(path):
    rewrite(path, length=10**9)
    with pytest.raises(ValueError, match="header should have 1,000,000,000 bytes"):
        list(files.tensors(path))
    rewrite(path, header=[1, 2])
    with pytest.raises(ValueError, match="a header that cannot be read"):
        list(files.tensors(path))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("dtype", "F4", "b.weight is of type F4; there are F64, F32"),
        (
            "shape",
            [3, 5],
            r"shape \(3, 5\) and type F32 takes 60 bytes, .* 48",
        ),
    ],
)
def test_an_entry_that_cannot_be_is_told(path, field, value, message):
    header = header_of(path)
    header["b.weight"][field] = value
    rewrite(path, header=header)
    with pytest.raises(ValueError, match=message):
        list(files.tensors(path))


def test_every_byte_must_be_some_tensors(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b"12")
    with pytest.raises(ValueError, match="its tensors end at byte .* the file has"):
        list(files.tensors(path))
    path.write_bytes(whole)
    header = header_of(path)
    header = {n: e for n, e in header.items() if n != "half"}
    rewrite(path, header=header)
    with pytest.raises(ValueError, match=r"is damaged: .* begins at byte .*, expected"):
        list(files.tensors(path))


def test_a_name_that_comes_twice_is_told(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    text = data[8 : 8 + size].replace(b'"half"', b'"a"   ')
    path.write_bytes(data[:8] + text + data[8 + size :])
    with pytest.raises(ValueError, match="cannot be read: a comes twice"):
        list(files.tensors(path))


def test_shards_are_found_by_their_index(path):
    folder = path.parent
    path.rename(folder / "model-00001-of-00002.safetensors")
    save_file({"c": np.ones(2)}, folder / "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors"}
    names["c"] = "model-00002-of-00002.safetensors"
    index = folder / files.INDEX
    index.write_text(json.dumps({"weight_map": names}))
    assert [p.name for p in files.files_of(folder)] == sorted(names.values())
    for bad in ("../model.safetensors", "/etc/passwd", "sub/x.safetensors", 3):
        index.write_text(json.dumps({"weight_map": {"a": bad}}))
        with pytest.raises(ValueError, match="is not a file beside it"):
            files.files_of(folder)
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    with pytest.raises(ValueError, match="names x.safetensors, which is not in"):
        files.files_of(folder)
    index.write_text("[]")
    with pytest.raises(ValueError, match="is not an index"):
        files.files_of(folder)


def test_a_folder_without_weights_is_told(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"but \['pytorch_model.bin'\]"):
        files.files_of(tmp_path)


@pytest.mark.parametrize(
    "start, expected",
    [
        (b"PK\x03\x04", True),
        (b"\x80\x02\x8a\n", True),  # PyTorch's magic number begins so
        (b"\x80\x02", True),
        # Widths 640 and 19280 of a llama2.c file, which are four bytes.
        (struct.pack("<7i", 640, 1728, 8, 8, 8, 32_000, 1024), False),
        (struct.pack("<7i", 19_280, 1728, 8, 8, 8, 32_000, 1024), False),
        (b"", False),
    ],
)
def test_a_pickle_is_known_by_its_start(start, expected, tmp_path):
    (tmp_path / "model.bin").write_bytes(start)
    assert files.is_pickle(tmp_path / "model.bin") == expected
    assert files.is_pickle(tmp_path / "model.pt")
