"""The template's ids belong to no text, and clashes are refused."""

import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tiny_samples import tiny_text

from golf.data.shards import write_shard
from golf.data.vocabulary import Vocabulary
from golf.finetune.examples import (
    ChatTemplate,
    TemplateError,
    require_free,
    stored_template,
    template_of,
)


@given(text=st.text())
def test_no_text_produces_a_mark(vocabulary, template, text):
    assert not template.ids & set(vocabulary.encode_text(text))


def test_marks_are_byte_pieces_that_utf8_never_uses(vocabulary, template):
    pieces = {vocabulary.piece(token) for token in template.ids}
    assert pieces == {"<0xC0>", "<0xC1>", "<0xF5>", "<0xF6>"}
    with pytest.raises(TemplateError, match="role is 'tool'"):
        template.opening("tool")


def test_a_tokenizer_without_byte_pieces_has_no_room():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny_text(seed) for seed in range(200)),
        model_writer=model,
        model_type="bpe",
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(TemplateError, match=r"plain: has no piece <0xC0> for the template's system mark"):
        template_of(Vocabulary(model.getvalue(), "plain"), "plain")


def test_shards_that_use_an_id_of_the_template_clash(template, tmp_path):
    write_shard(tmp_path / "a.bin", np.array([1, 20, 30], dtype=np.uint16))
    require_free(template, [tmp_path / "a.bin"])
    write_shard(tmp_path / "b.bin", np.array([1, 20, template.user, 30], dtype=np.uint16))
    with pytest.raises(TemplateError, match=r"b\.bin: token 2 is .* the two clash"):
        require_free(template, [tmp_path / "a.bin", tmp_path / "b.bin"])


def test_a_model_says_which_template_it_learned(template):
    assert stored_template({}) is None
    marks = {"system": 1, "user": 2, "assistant": 3, "end": 4}
    assert stored_template({"chat": marks}) == ChatTemplate(1, 2, 3, 4)
