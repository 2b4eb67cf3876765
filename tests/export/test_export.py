"""Exports against the network that they were made of, loaded by transformers and graded by lm-eval."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from data_samples import sample_text
from safetensors.torch import load_file
from tiny_samples import hellaswag_task, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, StaticCache

from golf.data.vocabulary import Vocabulary
from golf.export.__main__ import main
from golf.export.llama_cpp import gguf_error, unsupported_fields
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.prepare.tokenizer import fuse_marks, train_tokenizer
from golf.presets import PRESETS
from golf.system.log import RunLog
from golf.tasks.generate import GREEDY, Generator
from golf.tasks.models import OpenedModel, open_model
from golf.tasks.suite import run_tasks

SMALL = {"vocab_size": 320, "num_layers": 2, "width": 32, "mlp_hidden": 48, "context": 48, "rotary_dims": 4}
HEADS = {"num_heads": 4, "num_kv_heads": 2}
DEEP = {"num_layers": 6, "recurrence_first": 2, "recurrence_last": 3, "parallel_residual_blocks": 2}


def small(preset: str, **fields: object) -> ModelConfig:
    """The switches of a preset at a tiny size."""
    return replace(PRESETS[preset].config.model, **{**SMALL, **HEADS, **fields})


CONFIGS = {
    "cpu": small("cpu", bigram_buckets=64, ngram_buckets=(64, 64), bigram_width=8),
    "seed": small("seed", num_layers=3, bigram_buckets=64, bigram_width=8),
    "h100": small("h100-107min", **DEEP),
    "gpt2": small("gpt2-mini", num_kv_heads=4),
    "sinks": small("modern-253m"),
    "documents": small(
        "h100-10min", parallel_residual_blocks=1, document_mask=True, dense_connections=True, skip_gates=False
    ),
}
CHAT = {"system": 10, "user": 11, "assistant": 12, "end": 13}
PADDED = ("cpu", "h100", "documents")
"""Those that read padding before a text; the other reasons for and against it are those of these."""
UNPADDED = {"gpt2": "learned positions", "sinks": "sinks or ALiBi"}
TEXTS = ("the of and to", "in is that it was for")


def draw_tokenizer(name: str) -> bytes:
    """That of `tiny_tokenizer`, or one with marks of CaseOps."""
    if name not in ("case", "fused"):
        return tiny_tokenizer()
    model = train_tokenizer((sample_text(seed) for seed in range(100)), 400, case_ops="marks")
    return fuse_marks(model, "its.model") if name == "fused" else model


def write_model(folder: Path, config: ModelConfig, tokenizer: bytes, **header: object) -> OpenedModel:
    """An artifact of drawn weights with its tokenizer beside it, as the toolkit opens it."""
    folder.mkdir(parents=True)
    (folder / "its.model").write_bytes(tokenizer)
    vocabulary = Vocabulary.load(folder / "its.model")
    torch.manual_seed(1)
    model = GPT(replace(config, vocab_size=vocabulary.size))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    header |= {
        "model": asdict(model.config),
        "compute_dtype": "float32",
        "tokenizer_sha256": vocabulary.sha256,
    }
    artifact = pack(model.state_dict(), header, PackConfig(scheme="int5"), 1_000_000).artifact
    (folder / "artifact.bin").write_bytes(artifact)
    return open_model(folder)


def load(folder: Path, **options: object):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()


@pytest.fixture(scope="module", autouse=True)
def own_modules(tmp_path_factory):
    """transformers copies code that it loads to a folder of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name -> (the toolkit's model, the folder, transformers' model), made once."""
    root, made = tmp_path_factory.mktemp("exports"), {}

    def make(name: str):
        if name not in made:
            chat = {"chat": CHAT} if name == "case" else {}
            config = CONFIGS.get(name, CONFIGS["gpt2"])
            opened = write_model(root / name, config, draw_tokenizer(name), **chat)
            folder = root / f"{name}-out"
            assert main([str(root / name), "--to", "transformers", "--out", str(folder)]) == 0
            model = load(folder) if name in CONFIGS else None
            made[name] = SimpleNamespace(opened=opened, folder=folder, model=model)
        return made[name]

    return make


@pytest.fixture(scope="module")
def tokenizer(exported):
    return AutoTokenizer.from_pretrained(exported("cpu").folder, trust_remote_code=True)


def tokens_of(opened: OpenedModel, texts=TEXTS) -> list[list[int]]:
    return [[opened.vocabulary.bos_id, *opened.vocabulary.encode_text(text)] for text in texts]


@pytest.fixture(scope="module")
def window_BT() -> torch.Tensor:
    """Two windows, each with the start of a document inside."""
    tokens_BT = torch.randint(4, 320, (2, 40), generator=torch.Generator().manual_seed(3))
    tokens_BT[:, 0] = tokens_BT[0, 17] = tokens_BT[1, 30] = 1
    return tokens_BT


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_networks_with_and_without_a_cache(exported, window_BT, name):
    export = exported(name)
    cache = DynamicCache(config=export.model.config)
    with torch.no_grad():
        wanted_BTV = export.opened.model(window_BT)
        whole = export.model(window_BT)
        uncached = export.model(window_BT, use_cache=False)
        parts = [
            export.model(window_BT[:, start:end], cache=cache).logits
            for start, end in ((0, 3), (3, 4), (4, 18), (18, 19), (19, 40))
        ]
        last = export.model(window_BT, logits_to_keep=2).logits
    assert wanted_BTV.std() > 0.1
    for found_BTV in (whole.logits, uncached.logits, torch.cat(parts, 1)):
        assert torch.allclose(found_BTV, wanted_BTV, rtol=0, atol=1e-5)
    assert torch.allclose(last, wanted_BTV[:, -2:], rtol=0, atol=1e-5)
    assert uncached.to_tuple()[1:] == () and cache.get_seq_length() == 40


@pytest.mark.parametrize("name", CONFIGS)
def test_generation_is_that_of_the_toolkit_with_and_without_a_cache(exported, name):
    export = exported(name)
    (prompt, _) = tokens_of(export.opened)
    wanted = Generator(export.opened, RunLog(quiet=True)).continue_all(
        [prompt], GREEDY, 12, frozenset({export.opened.vocabulary.bos_id}), lambda tokens: False, 0, ""
    )
    for use_cache in (True, False):
        found = export.model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, use_cache=use_cache
        )
        written = found[0, len(prompt) :].tolist()
        assert [token for token in written if token != 1] == wanted[0].tokens
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        drawn.append(
            export.model.generate(
                torch.tensor([prompt] * 3), max_new_tokens=10, do_sample=True, use_cache=use_cache
            )
        )
    assert torch.equal(*drawn) and len({tuple(row) for row in drawn[0].tolist()}) > 1


def test_beams_with_a_cache_are_those_without(exported):
    export = exported("cpu")
    (prompt, _) = tokens_of(export.opened)
    options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False}
    found = [export.model.generate(torch.tensor([prompt]), use_cache=use, **options) for use in (True, False)]
    assert torch.equal(*found)


@pytest.mark.parametrize("name", PADDED)
def test_a_padded_batch_gives_what_its_rows_give_alone(exported, tokenizer, name):
    export = exported(name)
    batch = tokenizer(list(TEXTS), return_tensors="pt", padding=True)
    assert batch.attention_mask[0, 0] == 0
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    together = export.model.generate(**batch, **options)
    with torch.no_grad():
        logits = export.model(**batch, use_cache=False).logits
    for row, tokens in enumerate(tokens_of(export.opened)):
        alone = export.model.generate(torch.tensor([tokens]), **options)
        assert together[row, -10:].tolist() == alone[0, -10:].tolist()
        with torch.no_grad():
            wanted = export.opened.model(torch.tensor([tokens]))
        assert torch.allclose(logits[row, -len(tokens) :], wanted[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", UNPADDED)
def test_padding_that_would_change_the_numbers_is_refused_before_a_text_alone(exported, tokenizer, name):
    export = exported(name)
    batch = tokenizer(list(TEXTS), return_tensors="pt", padding=True)
    with pytest.raises(ValueError, match=f"no padding before the text: .*{UNPADDED[name]}"):
        export.model(**batch)
    batch = tokenizer(list(TEXTS), return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        logits = export.model(**batch).logits
        for row, tokens in enumerate(tokens_of(export.opened)):
            wanted = export.opened.model(torch.tensor([tokens]))
            assert torch.allclose(logits[row, : len(tokens)], wanted[0], rtol=0, atol=1e-5)


def test_padding_before_a_text_without_bos_and_gaps_in_a_mask_are_refused(exported):
    model = exported("cpu").model
    tokens_BT = torch.tensor([[0, 0, 30, 40]])
    with pytest.raises(ValueError, match="begins with token 30; expected BOS, 1"):
        model(tokens_BT, attention_mask=torch.tensor([[0, 0, 1, 1]]))
    with pytest.raises(ValueError, match="padding inside"):
        model(tokens_BT, attention_mask=torch.tensor([[1, 0, 1, 1]]))
    with pytest.raises(ValueError, match=r"shape \(1, 3\); expected \(1, 4\)"):
        model(tokens_BT, attention_mask=torch.tensor([[1, 1, 1]]))


def test_the_loss_of_labels_is_the_mean_over_those_that_count(exported, window_BT):
    export = exported("h100")
    labels_BT = window_BT.clone()
    labels_BT[0, :20] = -100
    loss = export.model(window_BT, labels=labels_BT).loss
    nats_BT = token_nats(export.opened.model(window_BT)[:, :-1], window_BT[:, 1:])
    counts_BT = labels_BT[:, 1:] != -100
    assert loss.item() == pytest.approx(nats_BT[counts_BT].mean().item(), rel=1e-6)
    loss.backward()
    assert export.model.model.embedding.weight.grad.abs().sum() > 0
    export.model.zero_grad()


def test_what_the_network_does_not_read_is_refused(exported, tmp_path):
    export = exported("cpu")
    tokens_BT = torch.tensor([[1, 30]])
    with pytest.raises(ValueError, match="position_ids: this network reads"):
        export.model(tokens_BT, position_ids=tokens_BT)
    cache = StaticCache(config=export.model.config, max_cache_len=8)
    with pytest.raises(ValueError, match="a StaticCache; expected a DynamicCache"):
        export.model(tokens_BT, cache=cache)
    config = json.loads((export.folder / "config.json").read_text())
    config["network"]["xsa"] = True
    for file in export.folder.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"another network than network_golf\.py: xsa"):
        load(tmp_path)


def test_a_saved_copy_and_other_dtypes_load_as_well(exported, tokenizer, window_BT, tmp_path):
    export = exported("seed")
    export.model.save_pretrained(tmp_path / "copy")
    tokenizer.save_pretrained(tmp_path / "copy")
    copy = load(tmp_path / "copy")
    again = AutoTokenizer.from_pretrained(tmp_path / "copy", trust_remote_code=True)
    half = load(export.folder, dtype=torch.bfloat16)
    fresh = AutoModelForCausalLM.from_config(export.model.config, trust_remote_code=True)
    with torch.no_grad():
        wanted_BTV = export.model(window_BT).logits
        assert torch.equal(copy(window_BT).logits, wanted_BTV)
        rounded_BTV = half(window_BT).logits
        drawn_BTV = fresh(window_BT).logits
    assert half.model.compute_dtype == torch.bfloat16 and rounded_BTV.dtype == torch.float32
    assert 0 < (rounded_BTV - wanted_BTV).abs().mean() < 0.1 * wanted_BTV.std()
    assert torch.isfinite(drawn_BTV).all() and drawn_BTV.std() > 0
    assert again(TEXTS[0]).input_ids == tokenizer(TEXTS[0]).input_ids


STRANGE = (
    "",
    " ",
    "the  of\n\tand",
    "<s> is </s> <unk><pad>",
    "ﬁne Å ½ ㎏",
    "naïve Zürich 你好 🙂 \U0010fffe\x00",
    "NASA and McDonald, iPhone; \ue001x \ue004",
    "\ud800 alone",
    "É e\u0301 A\u0301",
)


@pytest.mark.parametrize("kind", ["bpe", "case", "fused"])
def test_the_tokenizer_gives_the_tokens_of_the_datasets(exported, kind):
    export = exported("cpu" if kind == "bpe" else kind)
    vocabulary, folder = export.opened.vocabulary, export.folder
    assert vocabulary.case_ops == (kind != "bpe")
    found = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    bare = AutoTokenizer.from_pretrained(folder, trust_remote_code=True, add_bos_token=False)
    bos = vocabulary.bos_id
    for text in (*STRANGE, *(sample_text(seed) for seed in range(20))):
        tokens = vocabulary.encode_text(text)
        assert found(text).input_ids == [bos, *tokens]
        assert found.encode(text, add_special_tokens=False) == bare(text).input_ids == tokens
        wanted = vocabulary.decode_tokens(tokens)
        assert found.decode(tokens) == wanted
        assert found.decode([bos, *tokens, bos]) == f"<s>{wanted}<s>"
        assert found.decode([bos, *tokens, 0], skip_special_tokens=True) == wanted
        assert found.convert_tokens_to_string(found.tokenize(text)) == wanted
    assert len(found) == found.vocab_size == vocabulary.size
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (bos, bos, 0)
    with pytest.raises(ValueError, match="no piece of the vocabulary, which is fixed"):
        found.add_tokens(["<tool>"])


def test_generation_of_a_chat_model_ends_at_its_mark(exported):
    folder = exported("case").folder
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [1, 13]
    assert json.loads((folder / "config.json").read_text())["chat"] == CHAT


ALONE = """
import sys, torch
sys.path[:] = [path for path in sys.path if path not in ("", {root!r})]
sys.modules["golf"] = None  # An import of the toolkit fails.
import transformers.dynamic_module_utils as modules
modules.HF_MODULES_CACHE = {cache!r}
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({folder!r}, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained({folder!r}, trust_remote_code=True)
inputs = tokenizer({text!r}, return_tensors="pt")
print(model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist())
assert [name for name in sys.modules if name.split(".")[0] == "golf"] == ["golf"]
"""


def test_the_folder_loads_where_the_toolkit_is_not_installed(exported, tokenizer, tmp_path):
    export = exported("cpu")
    inputs = tokenizer(TEXTS[1], return_tensors="pt")
    wanted = export.model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
    root = str(Path(__file__).parents[2])
    code = ALONE.format(root=root, cache=str(tmp_path / "cache"), folder=str(export.folder), text=TEXTS[1])
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted


def test_lm_evals_own_model_gives_the_grades_of_our_tasks(exported, tmp_path, monkeypatch):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    export = exported("cpu")
    items = [
        {
            "activity_label": "Words",
            "ctx_a": f"the {'of ' * number}[title] is",
            "ctx_b": "for  it",
            "ctx": "",
            "label": number % 4,
            "endings": ["was on", "and to [step] a.", "naïve 你好", "with are as be"],
        }
        for number in range(5)
    ]
    file = tmp_path / "hellaswag" / "hellaswag_val_5.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    (ours,) = run_tasks(export.opened, ["hellaswag"], tmp_path, None, "error", RunLog(quiet=True))
    task = hellaswag_task("hellaswag_exported", file)
    judge = HFLM(pretrained=str(export.folder), trust_remote_code=True, device="cpu", batch_size=3)
    assert judge.max_length == export.opened.context
    # Without its index of all tasks, which takes seconds.
    tasks = TaskManager(include_defaults=False)
    found = simple_evaluate(judge, tasks=[task], bootstrap_iters=0, task_manager=tasks)
    theirs = sorted(found["samples"]["hellaswag_exported"], key=lambda sample: sample["doc_id"])
    assert len(theirs) == len(ours.items) == 5
    for mine, other in zip(ours.items, theirs, strict=True):
        assert mine["nats"] == pytest.approx([-response[0] for response in other["filtered_resps"]], rel=1e-5)
        assert (float(mine["correct"]), float(mine["correct_by_length"])) == (other["acc"], other["acc_norm"])
    # The window of a whole text has a BOS of lm-eval's own.
    judge.add_bos_token = False
    text = "the of and to a in"
    instance = SimpleNamespace(args=(text,))
    (rolling,) = judge.loglikelihood_rolling([instance], disable_tqdm=True)
    tokens = torch.tensor(tokens_of(export.opened, [text]))
    with torch.no_grad():
        nats = token_nats(export.opened.model(tokens[:, :-1]), tokens[:, 1:]).sum()
    assert -rolling == pytest.approx(float(nats), rel=1e-5)


def test_safetensors_has_the_decoded_weights_by_their_own_names(exported, tmp_path):
    export = exported("h100")
    out = tmp_path / "out"
    assert main([str(export.opened.path), "--to", "safetensors", "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
    ]
    wanted = decode_artifact(export.opened.path.read_bytes())[1]
    for file, prefix in ((out, ""), (export.folder, "model.")):
        found = load_file(file / "model.safetensors")
        assert found.keys() == {prefix + name for name in wanted}
        assert all(torch.equal(found[prefix + name], weight) for name, weight in wanted.items())
        assert {weight.dtype for weight in found.values()} == {torch.float32}
    config = json.loads((out / "config.json").read_text())
    assert config["network"] == json.loads(json.dumps(asdict(export.opened.model.config)))
    assert config["compute_dtype"] == "float32"
    assert config["tokenizer_sha256"] == export.opened.vocabulary.sha256
    assert Vocabulary.load(out / "tokenizer.model").sha256 == export.opened.vocabulary.sha256


def test_exporting_takes_no_transformers_and_writes_the_same_files(exported, tmp_path, monkeypatch):
    export = exported("cpu")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main([str(export.opened.path), "--to", "transformers", "--out", str(tmp_path / "out")]) == 0
    files = {file.name: file.read_bytes() for file in export.folder.iterdir() if file.is_file()}
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == files
    assert transformers.__version__


def test_the_code_of_an_export_has_only_what_its_network_reaches(exported):
    plain, full = ((exported(name).folder / "network_golf.py").read_text() for name in ("gpt2", "documents"))
    assert "class LayerNorm" in plain and "class LayerNorm" not in full
    assert "class DenseConnections" in full and "class DenseConnections" not in plain


def test_gguf_is_refused_with_the_fields_that_llama_cpp_lacks(exported, tmp_path, capsys):
    export = exported("h100")
    out = tmp_path / "out"
    assert main([str(export.opened.path), "--to", "gguf", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not out.exists()
    for field in ("plain_blocks=False", "xsa=True", "smear=add-raw", "activation_slope=0.3"):
        assert field in error
    for name, preset in PRESETS.items():
        fields = unsupported_fields(preset.config.model)
        if name in ("gqa-1024", "gpt2-small", "gpt2-mini", "modern-253m"):
            assert not fields and "has no writer" in str(gguf_error(preset.config.model))
        else:
            assert "plain_blocks" in str(gguf_error(preset.config.model))


def test_bad_input_is_one_line_and_leaves_nothing(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export = exported("gpt2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "no.bin").write_bytes(b"something else" * 9)
    (tmp_path / "lonely.bin").write_bytes(export.opened.path.read_bytes())
    cases = (
        (["missing"], "no such file or folder"),
        (["full"], "holds no artifact"),
        (["no.bin"], "no.bin: this is no artifact"),
        (["lonely.bin"], "the tokenizer of lonely.bin is missing"),
        ([str(export.opened.path), "--out", "full"], "--out full is there and no empty folder"),
        ([str(export.opened.path), "--out", "no.bin"], "--out no.bin is there and no empty folder"),
        ([str(export.opened.path), "--out", "no.bin/new"], "--out no.bin/new cannot be written to"),
    )
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in cases:
        assert main([*arguments, "--to", "transformers"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert main([str(export.opened.path), "--to", "safetensors", "--out", "empty"]) == 0
    assert main([str(export.opened.path), "--to", "safetensors"]) == 0
    assert (tmp_path / "exports" / "gpt2-safetensors" / "model.safetensors").is_file()
