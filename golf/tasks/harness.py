"""The project's models in lm-eval (github.com/EleutherAI/lm-evaluation-harness), as its model `golf`.

    python -m golf.tasks.harness --model golf --model_args path=ARTIFACT --tasks hellaswag

runs lm-eval's own command with that model registered. It needs lm-eval: pip install '.[tasks]'.
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from golf.system.cli import run_program
from golf.system.log import RunLog
from golf.tasks.files import LongTexts
from golf.tasks.generate import GREEDY, Generator, SamplingConfig
from golf.tasks.likelihood import encode_request, fit_request, likelihoods, text_nats
from golf.tasks.models import open_model

MAX_NEW_TOKENS = 256
INSTALL = "pip install 'lm-eval>=0.4.9' (the extra `tasks`)"


class HarnessModel:
    """An opened model with the methods of lm-eval's LM; a request's `args` are its texts.

    `long` is what to do with texts longer than the context, `seed` is that of sampling. Further arguments of
    lm-eval (batch sizes) are ignored: batches follow the lengths of the texts.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str | None = None,
        device: str | None = None,
        context: int | None = None,
        long: LongTexts = "truncate",
        seed: int = 0,
        **unused: object,
    ):
        super().__init__()
        for name, value in (("context", context), ("seed", seed)):
            if value is not None and not str(value).isdecimal():
                raise ValueError(f"{name} is {value!r}; expected a whole number")
        if long not in get_args(LongTexts):
            raise ValueError(f"long is {long!r}; expected one of {', '.join(get_args(LongTexts))}")
        found = Path(tokenizer) if tokenizer else None
        self.opened = open_model(Path(path), found, device or "auto", int(context) if context else None)
        self.long: LongTexts = long
        self.seed, self.log = int(seed), RunLog()

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log probability of each continuation after its context, and whether it is the likeliest."""
        fitted = []
        for number, request in enumerate(requests):
            encoded = encode_request(self.opened.vocabulary, *request.args)
            fitting = fit_request(encoded, self.opened.context, self.long, f"request {number}")
            if fitting is None:
                raise ValueError("lm-eval needs a grade for every request: long must be truncate or error")
            fitted.append(fitting)
        graded = likelihoods(self.opened, fitted, self.log, "lm-eval")
        return [(-grade.nats, grade.greedy) for grade in graded]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log probability of each text after BOS, in windows that are disjoint except the last one."""
        return [-text_nats(self.opened, request.args[0], None)[0] for request in requests]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The continuation of each context up to the first of `until`, which is not included."""
        generator = Generator(self.opened, self.log)
        return [self._continue(generator, *request.args) for request in requests]

    def _continue(self, generator: Generator, context: str, options: dict[str, Any]) -> str:
        vocabulary = self.opened.vocabulary
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else until
        config = GREEDY
        if options.get("do_sample", False) and options.get("temperature", 1.0) > 0:
            config = SamplingConfig(
                options.get("temperature", 1.0), options.get("top_k", 0), options.get("top_p", 1.0)
            )
        limit = min(int(options.get("max_gen_toks", MAX_NEW_TOKENS)), self.opened.context // 2)
        prompt = [vocabulary.bos_id, *vocabulary.encode_text(context)][-(self.opened.context - limit) :]

        def is_done(tokens: list[int]) -> bool:
            text = vocabulary.decode_tokens(tokens)
            return any(stop in text for stop in stops)

        ends = frozenset({vocabulary.bos_id})
        (written,) = generator.continue_all([prompt], config, limit, ends, is_done, self.seed, "lm-eval")
        text = vocabulary.decode_tokens(written.tokens)
        for stop in stops:
            text = text.split(stop)[0] if stop else text
        return text


@cache
def register() -> type:
    """Registers the model `golf` with lm-eval; its class."""
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

    @register_model("golf")
    class GolfModel(HarnessModel, LM):
        pass

    return GolfModel


def main() -> int:
    """Runs lm-eval's command with the model `golf`; exit code 2 if lm-eval is not installed."""

    def work() -> None:
        if find_spec("lm_eval") is None:
            raise ValueError(f"lm-eval is not installed: {INSTALL}")
        try:
            register()
            from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(f"lm-eval cannot be imported ({error}); install it anew: {INSTALL}") from error
        cli_evaluate()

    return run_program("golf.tasks.harness", work)


if __name__ == "__main__":
    sys.exit(main())
