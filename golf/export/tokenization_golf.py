"""The tokenizer of an exported model, as a class of transformers."""

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer  # pyright: ignore[reportMissingImports]

from golf.export.vocabulary_golf import decode, encode, read_pieces, read_vocabulary

VOCABULARY_FILE = "tokenizer.model"


class GolfTokenizer(PreTrainedTokenizer):
    """Tokens as the project's datasets have them; a text begins with BOS, or not without `add_bos_token`.

    No text gives a special token: "<s>" in it is three characters. The vocabulary is fixed.
    """

    vocab_files_names = {"vocab_file": VOCABULARY_FILE}  # noqa: RUF012  (an attribute of transformers' own)
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file: str, add_bos_token: bool = True, **kwargs: Any):
        self.vocab_file, self.vocabulary = vocab_file, read_vocabulary(vocab_file)
        self.add_bos_token = add_bos_token
        self.pieces = read_pieces(self.vocabulary)
        self.ids = {piece: token for token, piece in enumerate(self.pieces)}
        super().__init__(add_bos_token=add_bos_token, **kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return len(self.pieces)

    def get_vocab(self) -> dict[str, int]:
        """Ids by piece."""
        return dict(self.ids)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """The pieces of a text."""
        return [self.pieces[token] for token in encode(self.vocabulary, text)]

    def _convert_token_to_id(self, token: str) -> int:
        if token not in self.ids:
            raise ValueError(f"{token!r} is no piece of the vocabulary, which is fixed")
        return self.ids[token]

    def _convert_id_to_token(self, index: int) -> str:
        return self.pieces[index]

    def _add_tokens(self, new_tokens: list[Any], special_tokens: bool = False) -> int:
        for token in new_tokens:
            self._convert_token_to_id(str(token))
        return super()._add_tokens(new_tokens, special_tokens)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces."""
        return decode(self.vocabulary, [self._convert_token_to_id(token) for token in tokens])

    def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **kwargs: Any) -> str:
        tokens = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        special = set(self.all_special_ids)
        if skip_special_tokens:
            return decode(self.vocabulary, [token for token in tokens if token not in special])
        text, run = "", []
        for token in tokens:
            if token in special:
                text, run = text + decode(self.vocabulary, run) + self.pieces[token], []
            else:
                run.append(token)
        return text + decode(self.vocabulary, run)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """BOS before each text, if `add_bos_token`."""
        bos = [self.vocabulary.bos_id] * self.add_bos_token
        return bos + token_ids_0 + ([] if token_ids_1 is None else bos + token_ids_1)

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special token, 0 for others."""
        if not already_has_special_tokens:
            token_ids_0 = self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        special = set(self.all_special_ids)
        return [int(token in special) for token in token_ids_0]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Copies the vocabulary's file; its path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{prefix}{VOCABULARY_FILE}"
        if path.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, path)
        return (str(path),)
