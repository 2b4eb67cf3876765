"""The project's models in lm-eval (github.com/EleutherAI/lm-evaluation-harness), as its model `golf`.

    python -m golf.tasks.harness --model golf --model_args path=ARTIFACT --tasks hellaswag

is lm-eval's own command with that model known to it. Needs the extra: pip install '.[tasks]'.
"""

from pathlib import Path

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from golf.system.log import RunLog
from golf.tasks.files import LongTexts
from golf.tasks.generate import Generator
from golf.tasks.likelihood import encode_request, fit_request, likelihoods, text_nats
from golf.tasks.models import open_model
from golf.tasks.sampling import GREEDY, SamplingConfig

MAX_NEW_TOKENS = 256


@register_model("golf")
class HarnessModel(LM):
    """An opened model behind lm-eval's interface; `long` is what becomes of texts beyond the context.

    `seed` is that of generation by drawing. Arguments that lm-eval adds of its own (batch sizes) are not
    used: batches follow the texts' lengths.
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
        found = Path(tokenizer) if tokenizer else None
        self.opened = open_model(Path(path), found, device or "auto", int(context) if context else None)
        self.long, self.seed, self.log = long, int(seed), RunLog()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log probability of each continuation behind its context, and whether it is the likeliest."""
        fitted = []
        for number, request in enumerate(requests):
            encoded = encode_request(self.opened.vocabulary, *request.args)
            fitting = fit_request(encoded, self.opened.context, self.long, f"request {number}")
            if fitting is None:
                raise ValueError("lm-eval needs a grade for every request: long is truncate or error")
            fitted.append(fitting)
        graded = likelihoods(self.opened, fitted, self.log, "lm-eval")
        return [(-grade.nats, grade.greedy) for grade in graded]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log probability of each text, behind BOS, in windows that are disjoint but for the last."""
        return [-text_nats(self.opened, request.args[0], None)[0] for request in requests]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What the model writes behind each context up to one of `until`, which is left out."""
        generator = Generator(self.opened, self.log)
        return [self._continue(generator, *request.args) for request in requests]

    def _continue(self, generator: Generator, context: str, options: dict) -> str:
        vocabulary = self.opened.vocabulary
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else until
        drawing = options.get("do_sample", False) and options.get("temperature", 1.0) > 0
        config = GREEDY
        if drawing:
            config = SamplingConfig(
                options.get("temperature", 1.0), options.get("top_k", 0), options.get("top_p", 1.0)
            )
        limit = min(int(options.get("max_gen_toks", MAX_NEW_TOKENS)), self.opened.context // 2)
        prompt = [vocabulary.bos_id, *vocabulary.encode(context)][-(self.opened.context - limit) :]

        def is_done(tokens: list[int]) -> bool:
            text = vocabulary.decode(tokens)
            return any(stop in text for stop in stops)

        ends = frozenset({vocabulary.bos_id})
        (written,) = generator.continue_all([prompt], config, limit, ends, is_done, self.seed, "lm-eval")
        text = vocabulary.decode(written.tokens)
        for stop in stops:
            text = text.split(stop)[0] if stop else text
        return text


if __name__ == "__main__":
    cli_evaluate()
