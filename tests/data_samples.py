"""Text for the tests of this room, and where the larger data lies if it is at hand."""

import random
from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"

WORDS = (
    "the of and to a in is that it was for on are with as be at one have this from by hot but some what "
    "there we can out other were all your when up use word how said each she which do their time if will way"
).split()


def sample_text(seed: int, num_words: int = 60) -> str:
    """Words in a seeded order, with capitals, digits and stops."""
    draw = random.Random(seed)
    words = [draw.choice(WORDS) for _ in range(num_words)]
    return " ".join(words).capitalize() + f". {draw.randrange(10**6)} {draw.choice(WORDS).upper()}!"
