"""docs/extending.md: its blocks are applied to a copy of the project, and its commands run at tiny sizes."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from golden_run import plain_environment
from tiny_samples import tiny_tokenizer, write_tiny_dataset

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(
    r"(?:^`(?P<path>[^`\n]+)`(?:, below `(?P<anchor>[^`\n]+)`)?:\n\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
COUNTS = re.compile(r"^\| \[.*?\].*?\| (\d+|none)[^|]*\| (\d+).*?\| (\d+) \|$", re.MULTILINE)
NETWORK = {
    "num_layers": 2, "width": 16, "num_heads": 2, "num_kv_heads": 1, "mlp_hidden": 32, "context": 32,
    "rotary_dims": 4, "bigram_buckets": 16, "bigram_width": 4,
}  # fmt: skip
TRAINING = {
    "batch_tokens": 64, "micro_batch_tokens": 64, "warmup_steps": 0, "num_evals": 2, "held_out_tokens": 64,
}  # fmt: skip
DECODE = """
import json
from pathlib import Path
from golf.pack.artifact import decode_artifact
from golf.pack.layout import row_view
from golf.train.checkpoint import load_weights
header, decoded = decode_artifact(Path("runs/ideas/artifact.bin").read_bytes())
weights = load_weights(Path("runs/ideas/weights.safetensors"))
near = []
for name, weight in weights.items():
    view = row_view(weight.shape)
    weight_RC, decoded_RC = weight.reshape(view), decoded[name].reshape(view)
    half_R1 = weight_RC.abs().amax(-1, keepdim=True) / 254
    near.append(((decoded_RC - weight_RC).abs() <= 1.001 * half_R1 + 1e-12).all().item())
print(json.dumps([header["scheme"], header["model"]["feedforward"], all(near)]))
"""
SIZES = {"model": NETWORK, "train": TRAINING}


@dataclass(frozen=True)
class Block:
    """A fenced block of the page; without a path it is not for a file."""

    path: str | None
    anchor: str | None
    language: str
    text: str

    def apply(self, project: Path) -> None:
        """Writes the new file, or inserts the lines below the anchor."""
        path = project / str(self.path)
        if self.anchor is None:
            assert not path.exists(), f"{self.path} exists already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text)
            return
        before, found, after = path.read_text().partition(f"{self.anchor}\n")
        assert found and self.anchor not in after, f"{self.path}: expected one line {self.anchor!r}"
        path.write_text(before + found + self.text + after)


BLOCKS = [Block(**match.groupdict()) for match in BLOCK.finditer(PAGE.read_text())]


def shrink(study: Path) -> None:
    """Gives all arms of a study the tiny sizes."""
    lines = [f"set.{part}.{name} = {value}" for part, sizes in SIZES.items() for name, value in sizes.items()]
    study.write_text(study.read_text().replace("[[arms]]", "\n".join(lines) + "\n\n[[arms]]", 1))


def tiny_options(program: str) -> list[str]:
    """Options that make a command of the page tiny; they replace its own."""
    if program == "lab":
        return shlex.split("--data data --tokens 128 --seeds 1 --jobs 1 --device cpu")
    if program == "quantize":
        return []
    sizes = [f"--{part}.{name}={value}" for part, values in SIZES.items() for name, value in values.items()]
    budget = "--data data --steps 2 --device cpu --eager --max-tokens 64 --score.stride 16"
    return [*sizes, *shlex.split(budget), "--ttt.chunk-tokens", "32"]


def run(project: Path, *words: str) -> str:
    command, environment = [sys.executable, *words], plain_environment()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the ideas of the page, and its commands' results."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "golf", project / "golf", ignore=shutil.ignore_patterns("__pycache__"))
    for block in BLOCKS:
        if block.path is not None:
            block.apply(project)
    shrink(project / "docs" / "studies" / "ideas" / "study.toml")
    write_tiny_dataset(project / "data", tiny_tokenizer(), num_documents=40)
    lines = [line for block in BLOCKS if block.language == "sh" for line in block.text.splitlines()]
    for line in dict.fromkeys(lines):
        golf, program, *words = shlex.split(line)
        run(project, "-m", golf, program, *words, *tiny_options(program))
    return project


def test_the_lab_measures_the_activation_the_optimizer_and_the_gate_beside_their_bases(project):
    rows = json.loads((project / "docs" / "studies" / "ideas" / "results.json").read_text())
    figures = {row["arm"]: row["measured"][0]["validation_bpb"] for row in rows}
    assert set(figures) == {"base", "gelu2", "lion", "value gate"}
    assert len(set(figures.values())) == len(figures)


def test_the_artifact_names_the_quantizer_and_decodes_to_its_weights_within_half_a_step(project):
    assert json.loads(run(project, "-c", DECODE)) == ["int8", "gelu2", True]


def test_the_entrys_script_has_the_new_classes_and_not_the_others_of_their_tables(project):
    script = (project / "runs" / "ideas" / "train_gpt.py").read_text()
    for name in ("class SquaredGELUFeedForward", "class Lion", "def fit_int8"):
        assert name in script, name
    for name in (
        "class SwiGLUFeedForward",
        "class GELUFeedForward",
        "class Muon(",
        "def fit_int5",
        "def fit_entropy",
    ):
        assert name not in script, name
    assert "value_gate" not in script.replace("value_gate: bool", "")


def test_the_page_counts_its_lines_right():
    sections = re.split(r"^## \d", PAGE.read_text(), flags=re.MULTILINE)[1:]
    counted = []
    for section in sections:
        blocks = [Block(**match.groupdict()) for match in BLOCK.finditer(section)]
        code = [block for block in blocks if block.language == "python"]
        new = sum(len(block.text.splitlines()) for block in code if block.anchor is None)
        lines = sum(len(block.text.splitlines()) for block in code if block.anchor is not None)
        files = len({block.path for block in code if block.anchor is not None})
        counted.append((str(new or "none"), str(lines), str(files)))
    assert COUNTS.findall(PAGE.read_text()) == counted
