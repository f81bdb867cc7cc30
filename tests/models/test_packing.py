from pathlib import Path

import numpy as np
import pytest

from models.packing import PackedWindows, mixture_windows, read_stream, read_streams, write_stream


def test_a_stream_survives_the_disk(tmp_path: Path) -> None:
    assert write_stream(tmp_path / "a.bin", [0, 7, 65_535]) == 3
    assert read_stream(tmp_path / "a.bin").tolist() == [0, 7, 65_535]
    assert write_stream(tmp_path / "b.bin", []) == 0
    assert read_stream(tmp_path / "b.bin").size == 0


@pytest.mark.parametrize(("vocabulary", "name", "width"), [(65_536, "a.bin", 2), (65_537, "a.bin32", 4)])
def test_a_vocabulary_is_written_in_as_many_bits_as_it_needs(
    vocabulary: int, name: str, width: int, tmp_path: Path
) -> None:
    ids = [0, 7, vocabulary - 1]
    write_stream(tmp_path / "a.bin", ids, vocabulary=vocabulary)
    (file,) = tmp_path.iterdir()
    assert (file.name, file.stat().st_size) == (name, 3 * width)
    stream = read_stream(file)
    assert isinstance(stream, np.memmap) and stream.tolist() == ids


def test_a_domain_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    write_stream(tmp_path / "v1.2.bin", [1, 2], vocabulary=100_000)
    write_stream(tmp_path / "v1.bin", [3])
    assert {name: stream.tolist() for name, stream in read_streams(tmp_path).items()} == {"v1": [3], "v1.2": [1, 2]}


@pytest.mark.parametrize("wrong", [-1, 65_536])
def test_an_id_outside_the_vocabulary_is_refused(wrong: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"from {min(0, wrong)} to {max(0, wrong)}; the vocabulary has 65,536"):
        write_stream(tmp_path / "a.bin", [0, wrong])


def test_a_file_of_another_kind_is_no_stream(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.bin or \.bin32"):
        read_stream(tmp_path / "a.npy")


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
    wide = tmp_path / "wide"
    wide.mkdir()
    write_stream(wide / "a.bin", list(range(100)), vocabulary=100_000)
    assert np.array_equal(PackedWindows(wide, {"a": 1.0}, context=8, tokens=64).all_ids(), windows.all_ids())
