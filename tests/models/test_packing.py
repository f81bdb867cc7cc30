from pathlib import Path

import numpy as np
import pytest

from models.packing import PackedWindows, mixture_windows, read_stream, write_stream


def test_a_stream_survives_the_disk(tmp_path: Path) -> None:
    assert write_stream(tmp_path / "a.bin", [0, 7, 65_535]) == 3
    assert read_stream(tmp_path / "a.bin").tolist() == [0, 7, 65_535]
    assert write_stream(tmp_path / "b.bin", []) == 0
    assert read_stream(tmp_path / "b.bin").size == 0


def test_an_id_beyond_16_bits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="65536 does not fit"):
        write_stream(tmp_path / "a.bin", [65_536])


def test_a_mixture_keeps_its_shares_all_the_way() -> None:
    windows = mixture_windows({"a": 1000, "b": 1000}, {"a": 3, "b": 1}, context=10, tokens=400)
    assert len(windows) == 40
    for upto in (4, 8, 20, 40):
        assert [name for name, _ in windows[:upto]].count("b") == upto // 4


def test_a_smaller_mixture_is_the_start_of_a_larger_one() -> None:
    lengths, weights = {"a": 500, "b": 300}, {"a": 0.8, "b": 0.2}
    small, large = (mixture_windows(lengths, weights, context=10, tokens=n) for n in (200, 400))
    assert large[: len(small)] == small


def test_a_short_domain_is_read_again_from_its_start() -> None:
    windows = mixture_windows({"a": 25}, {"a": 1}, context=10, tokens=50)
    assert windows == [("a", 0), ("a", 10), ("a", 0), ("a", 10), ("a", 0)]


def test_weights_that_name_no_domain_of_the_data_give_way_to_the_lengths() -> None:
    windows = mixture_windows({"code": 300, "text": 100}, {"encyclopaedia": 1}, context=10, tokens=80)
    assert [name for name, _ in windows].count("code") == 6


def test_a_mixture_without_text_is_refused() -> None:
    with pytest.raises(ValueError, match="holds a window of 10"):
        mixture_windows({"a": 9}, {"a": 1, "b": 1}, context=10, tokens=50)


def test_windows_are_the_stream_cut_up(tmp_path: Path) -> None:
    write_stream(tmp_path / "a.bin", list(range(100)))
    windows = PackedWindows(tmp_path, {"a": 1.0, "missing": 1.0}, context=8, tokens=64)
    assert np.array_equal(windows.all_ids(), np.arange(64).reshape(8, 8))
    assert windows.ids(3).tolist() == list(range(24, 32))
    assert isinstance(windows.streams["a"], np.memmap) and windows.ids(3).base is not None  # nothing was copied
