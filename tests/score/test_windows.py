import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.score.windows import ResolvedWindows, WindowConfig, group_chunks, plan_windows


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, int, int]:
    context = draw(st.integers(1, 40))
    return draw(st.integers(context, 300)), context, draw(st.integers(1, context))


@given(plans())
@settings(max_examples=200, deadline=None)
def test_every_target_is_graded_once_and_in_order(plan: tuple[int, int, int]) -> None:
    num_targets, context, stride = plan
    graded = [np.arange(w.end - w.num_graded, w.end) for w in plan_windows(num_targets, context, stride)]
    assert np.array_equal(np.concatenate(graded), np.arange(num_targets))


@given(plans())
@settings(max_examples=200, deadline=None)
def test_every_window_is_full_and_gives_its_targets_enough_context(plan: tuple[int, int, int]) -> None:
    num_targets, context, stride = plan
    for window in plan_windows(num_targets, context, stride):
        assert window.end - window.start == context
        assert 0 <= window.start and window.end <= num_targets
        first_graded = window.end - window.num_graded
        assert window.start == 0 or first_graded - window.start >= context - stride


def test_windows_are_disjoint_when_the_stride_is_the_context() -> None:
    windows = plan_windows(64, 16, 16)
    assert [(w.start, w.end) for w in windows] == [(0, 16), (16, 32), (32, 48), (48, 64)]


def test_the_last_window_grades_only_what_is_left() -> None:
    assert plan_windows(23, 16, 4)[-1] == (7, 23, 3)


def test_a_stream_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="15 tokens to score are fewer than one window of 16"):
        plan_windows(15, 16, 4)


@pytest.mark.parametrize("stride", [0, -1, 17])
def test_a_stride_that_skips_or_stands_still_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride is {stride}; expected 1 to the context, 16"):
        WindowConfig(16, stride).resolve(512, "cpu")


def test_a_batch_holds_a_window() -> None:
    with pytest.raises(ValueError, match="batch_tokens is 15; expected at least the context, 16"):
        WindowConfig(16, 4, batch_tokens=15).resolve(512, "cpu")


def test_what_is_left_open_comes_from_the_model_and_the_device() -> None:
    assert WindowConfig().resolve(512, "cpu") == ResolvedWindows(512, 64, 4_096)
    assert WindowConfig(1024, 8).resolve(512, "cuda") == ResolvedWindows(1024, 8, 131_072)
    assert WindowConfig().resolve(20_000, "cpu") == ResolvedWindows(20_000, 64, 20_000)


@given(plans(), st.integers(1, 100))
@settings(max_examples=100, deadline=None)
def test_chunks_hold_all_windows_in_order(plan: tuple[int, int, int], chunk_tokens: int) -> None:
    windows = plan_windows(*plan)
    chunks = group_chunks(windows, chunk_tokens)
    assert [window for chunk in chunks for window in chunk] == windows
    assert all(chunks)


def test_chunks_of_aligned_windows_have_the_asked_size() -> None:
    chunks = group_chunks(plan_windows(200, 16, 4), 64)
    assert [sum(window.num_graded for window in chunk) for chunk in chunks] == [64, 64, 64, 8]
