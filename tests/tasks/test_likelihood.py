"""Grades of continuations against one forward pass each."""

import pytest
import torch

from golf.system.log import RunLog
from golf.tasks.files import TaskDataError
from golf.tasks.likelihood import Request, encode_request, fit_request, likelihoods, text_nats

REQUESTS = [
    Request([1, 20, 30], [40, 50]),
    Request([1], [7]),
    Request([1, 9, 9, 9, 9, 9, 9, 9], [60]),
    Request([1, 5], [6, 7, 8, 9, 10, 11]),
]


def by_hand(opened, request: Request) -> tuple[float, bool]:
    text = request.context + request.continuation
    with torch.no_grad():
        logs = opened.model(torch.tensor([text[:-1]])).log_softmax(-1)[0, len(request.context) - 1 :]
    nats = -sum(float(row[token]) for row, token in zip(logs, request.continuation, strict=True))
    return nats, logs.argmax(-1).tolist() == request.continuation


def test_grades_are_those_of_one_forward_pass_each(opened):
    grades = likelihoods(opened, REQUESTS, RunLog(quiet=True), "test")
    for grade, request in zip(grades, REQUESTS, strict=True):
        nats, greedy = by_hand(opened, request)
        assert grade.nats == pytest.approx(nats, rel=1e-5)
        assert (grade.greedy, grade.num_tokens) == (greedy, len(request.continuation))


def test_the_likeliest_continuation_is_called_so(opened):
    with torch.no_grad():
        best = int(opened.model(torch.tensor([[1, 20]]))[0, -1].argmax())
    (grade,) = likelihoods(opened, [Request([1, 20], [best])], RunLog(quiet=True), "test")
    assert grade.greedy


def test_a_request_is_the_tokens_of_the_whole_text(opened):
    for context, continuation in (("the naïve", " 你好"), ("of and ", "to"), ("", "the of")):
        request = encode_request(opened.vocabulary, context, continuation)
        whole = [opened.vocabulary.bos_id, *opened.vocabulary.encode_text(context + continuation)]
        assert request.context + request.continuation == whole
        assert request.continuation


def test_a_long_request_is_refused_cut_or_left_out():
    request = Request([1, 2, 3, 4], [5, 6])
    assert fit_request(request, 5, "error", "here") == request
    with pytest.raises(TaskDataError, match="file, line 3: 5 tokens; the model reads 4"):
        fit_request(request, 4, "error", "file, line 3")
    assert fit_request(request, 4, "truncate", "here") == Request([2, 3, 4], [5, 6])
    assert fit_request(request, 4, "skip", "here") is None
    # As in lm-eval, tokens[-(context + 1):], of which one is context at least.
    assert fit_request(request, 2, "truncate", "here") == Request([4], [5, 6])
    assert fit_request(request, 1, "truncate", "here") == Request([5], [6])


def test_windows_that_overlap_see_more_than_disjoint_ones(opened):
    text = "the of and to a in is that it was " * 30
    disjoint, num_tokens = text_nats(opened, text, None)
    sliding, same = text_nats(opened, text, 8)
    assert num_tokens == same == len(opened.vocabulary.encode_text(text))
    assert disjoint != sliding
    short, _ = text_nats(opened, "the of and", None)
    request = encode_request(opened.vocabulary, "", "the of and")
    assert short == pytest.approx(by_hand(opened, request)[0], rel=1e-5)
