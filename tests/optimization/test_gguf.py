"""A GGUF file is the same model: read back by transformers, it gives the same logits, tokens and texts."""

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from kivnun.data.template import PromptTemplate
from kivnun.errors import UserError
from kivnun.models.load import load_model, load_tokenizer, quiet_libraries
from kivnun.models.save import save_model
from kivnun.optimization.gguf import GgufResult, export_gguf, require_gguf
from kivnun.optimization.gguf_tokenizer import read_gguf_tokenizer
from kivnun.optimization.go_template import quote, render_go
from kivnun.optimization.modelfile import derive_chat
from kivnun.recipe.optimization import GgufPrecision

CHAT = PromptTemplate("chat")
IDS = torch.tensor([[5, 9, 200, 77, 31, 300, 4, 8, 19, 100, 44, 21, 7, 450]])
TEXTS = (
    "Hello, world! 12345 isn't it?",
    "שלום עולם, מה שלומך היום?  שני רווחים\n\nשורה",
    "<|endoftext|>after a sign",
    "  two before",
    "naïve 漢字 🙂",
)
SHAPE = {
    "vocab_size": 520,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,
}
# What transformers does not read from a GGUF file, but takes from its own defaults, has the default value here.
WIDE = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 8}
SHAPES: Mapping[str, Mapping[str, object]] = {
    "llama": {**SHAPE, "tie_word_embeddings": True, "rope_theta": 5000.0},
    "mistral": {**SHAPE, "sliding_window": None, "head_dim": 32},
    "qwen2": SHAPE,
    "qwen3": {**SHAPE, "head_dim": 128},
    "phi3": SHAPE,
    "gemma": {**SHAPE, "head_dim": 16},
    "gemma2": {**SHAPE, **WIDE},
    "gemma3_text": {**SHAPE, **WIDE, "num_hidden_layers": 7},
    "gpt2": {"vocab_size": 520, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
COUNTED = "{% for m in messages %}{{ loop.index }}. {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def quiet(_event: str, _fields: Mapping[str, object]) -> None:
    """Takes every event."""


def write_model(kind: str, folder: Path, tokenizer_folder: Path, **changes: object) -> Path:
    """A random model whose norms and biases are random too, so that none may change places unseen."""
    settings = {**SHAPES[kind], "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, **changes}
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**settings)).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "norm" in name or "bias" in name or ".ln_" in name:
                values.add_(torch.randn_like(values) * 0.2)
    save_model(model, load_tokenizer(tokenizer_folder), folder)
    return folder


def read_back(result: GgufResult) -> torch.nn.Module:
    """The file as transformers loads it, by code that shares nothing with ours."""
    quiet_libraries()
    return AutoModelForCausalLM.from_pretrained(result.folder, gguf_file=result.file.name, dtype=torch.float32).eval()


def fields_of(result: GgufResult) -> dict[str, object]:
    return {name: field.contents() for name, field in gguf.GGUFReader(result.file).fields.items()}


def export(folder: Path, out: Path, precision: GgufPrecision = "f32", template: PromptTemplate = CHAT) -> GgufResult:
    return export_gguf(folder, out, precision, template=template, log=quiet)


@pytest.fixture(scope="module")
def llama(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("llama", tmp_path_factory.mktemp("gguf") / "llama", tiny_folder)


# transformers itself does not read the first Gemma from such a file.
@pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind != "gemma"])
def test_a_file_in_f32_gives_the_logits_of_the_model(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_model(kind, tmp_path / "model", tiny_folder)
    back = read_back(export(folder, tmp_path / "gguf"))
    wanted = load_model(folder, dtype=torch.float32)(IDS).logits
    # Gemma's norms are written as w + 1, whose last bit may round.
    torch.testing.assert_close(back(IDS).logits, wanted, rtol=0, atol=1e-4 if kind.startswith("gemma") else 0)


def test_a_file_in_f32_answers_greedily_with_the_same_tokens(llama: Path, tmp_path: Path) -> None:
    back = read_back(export(llama, tmp_path / "gguf"))
    answers = [
        model.generate(IDS, max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
        for model in (load_model(llama, dtype=torch.float32), back)
    ]
    assert torch.equal(*answers)


@pytest.mark.parametrize("precision", ["f16", "q8_0", "q4_0"])
def test_weights_of_a_file_are_those_of_gguf_s_own_rounding(
    precision: GgufPrecision, llama: Path, tmp_path: Path
) -> None:
    kinds = {name: gguf.GGMLQuantizationType[name.upper()] for name in ("f16", "q8_0", "q4_0")}
    back = read_back(export(llama, tmp_path / "gguf", precision)).state_dict()
    for name, weight in load_model(llama, dtype=torch.float32).state_dict().items():
        kind = kinds[precision]
        if precision == "q4_0" and name in ("model.embed_tokens.weight", "lm_head.weight"):
            kind = kinds["q8_0"]  # tied, so it is the last matrix too
        values = weight.numpy()
        wanted = values if values.ndim == 1 else quants.dequantize(quants.quantize(values, kind), kind)
        assert np.array_equal(back[name].numpy(), wanted), name


def test_rows_that_no_block_divides_are_kept_in_f16(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_model("llama", tmp_path / "model", tiny_folder, intermediate_size=136)
    reader = gguf.GGUFReader(export(folder, tmp_path / "gguf", "q4_0").file)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q4_0")


def test_texts_become_the_same_tokens_and_back(llama: Path, tmp_path: Path) -> None:
    result = export(llama, tmp_path / "gguf")
    back, wanted = AutoTokenizer.from_pretrained(result.folder, gguf_file=result.file.name), load_tokenizer(llama)
    for text in TEXTS:
        assert back.encode(text) == wanted.encode(text)
        assert back.decode(wanted.encode(text)) == text
    assert (back.eos_token_id, back.bos_token_id) == (wanted.eos_token_id, wanted.bos_token_id)


def write_marked_tokenizer(folder: Path, merges: list[tuple[str, str]]) -> None:
    """BPE over SentencePiece's marks, as of Llama 2: a space before the text, unknown characters as bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdשלום"]
    words += [left + right for left, right in merges if left + right not in words]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    bpe = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))  # noqa: S106
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=bpe, **names).save_pretrained(folder)


def test_sentencepiece_marks_are_scored_in_the_order_of_the_merges(llama: Path, tmp_path: Path) -> None:
    write_marked_tokenizer(
        llama_copy := copy_model(llama, tmp_path), [("a", "b"), ("▁", "ab"), ("ש", "ל"), ("▁", "a"), ("▁a", "b")]
    )
    result = export(llama_copy, tmp_path / "gguf")
    fields = fields_of(result)
    tokens, scores = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"]
    assert isinstance(tokens, list)
    assert isinstance(scores, list)
    assert fields["tokenizer.ggml.add_space_prefix"] is True
    ordered = sorted(("ab", "▁ab", "של", "▁a"), key=lambda token: -scores[tokens.index(token)])
    assert ordered == ["ab", "▁ab", "של", "▁a"]


def test_marks_whose_merges_are_not_all_listed_are_refused(llama: Path, tmp_path: Path) -> None:
    write_marked_tokenizer(folder := copy_model(llama, tmp_path), [("a", "b"), ("b", "c"), ("ab", "c")])
    with pytest.raises(UserError, match="in another order") as caught:
        export(folder, tmp_path / "gguf")
    assert caught.value.code == "export-failed"


def copy_model(source: Path, work: Path) -> Path:
    """The weights and config of a model, without its tokenizer."""
    folder = work / "copy"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tokenizer(folder: Path, **parts: object) -> None:
    """Put other rules into the tokenizer of a folder."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["BloomForCausalLM"]}, "architecture BloomForCausalLM"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 32}, "last 32 tokens of 96"),
        ({"hidden_act": "gelu"}, "activation is gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rule dynamic"),
    ],
)
def test_a_model_that_llama_cpp_would_compute_otherwise_is_refused(
    changes: dict[str, object], words: str, llama: Path, tmp_path: Path
) -> None:
    load_tokenizer(llama).save_pretrained(folder := copy_model(llama, tmp_path))
    change_config(folder, **changes)
    with pytest.raises(UserError, match=words) as caught:
        export(folder, tmp_path / "gguf")
    assert caught.value.code == "export-failed"
    with pytest.raises(UserError, match=words):
        require_gguf(folder)
    assert not (tmp_path / "gguf").exists()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "cuts a text"),
        ({"normalizer": normalizers.Lowercase()}, "rewrites texts"),
        ({"model": models.WordPiece({"a": 0}, unk_token="a")}, "kind WordPiece"),  # noqa: S106
        (
            {
                "pre_tokenizer": pre_tokenizers.Sequence(
                    [
                        pre_tokenizers.Split(Regex(r"\w+|\W+"), "isolated"),
                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                    ]
                )
            },
            "cuts a text",
        ),
    ],
    ids=["first space", "lower case", "pieces of words", "another rule"],
)
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(
    parts: dict[str, object], words: str, llama: Path, tmp_path: Path
) -> None:
    load_tokenizer(llama).save_pretrained(folder := copy_model(llama, tmp_path))
    change_tokenizer(folder, **parts)
    with pytest.raises(UserError, match=words) as caught:
        export(folder, tmp_path / "gguf")
    assert caught.value.code == "export-failed"


@pytest.mark.parametrize(
    ("pre", "keeps_words"),
    [("llama-bpe", True), ("dbrx", False), ("qwen2", False), ("gpt-4o", False), ("tekken", True)],
)
def test_the_rules_of_known_tokenizers_get_llama_cpp_s_names(
    pre: str, keeps_words: bool, llama: Path, tmp_path: Path
) -> None:
    load_tokenizer(llama).save_pretrained(folder := copy_model(llama, tmp_path))
    rule = GGUF_PRE_TOKENIZER_SPLITS["llama-bpe" if pre == "dbrx" else pre]
    split = pre_tokenizers.Split(Regex(rule), "isolated")
    model = Tokenizer.from_file(str(folder / "tokenizer.json")).model
    model.ignore_merges = keeps_words
    parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    change_tokenizer(folder, pre_tokenizer=pre_tokenizers.Sequence(parts), model=model)
    assert read_gguf_tokenizer(folder, 520).pre == pre


def test_a_tokenizer_that_normalizes_texts_is_written_and_said(llama: Path, tmp_path: Path) -> None:
    load_tokenizer(llama).save_pretrained(folder := copy_model(llama, tmp_path))
    change_tokenizer(folder, normalizer=normalizers.NFC())
    assert any("NFC" in note for note in export(folder, tmp_path / "gguf").notes)


def test_weights_without_a_place_or_of_half_a_model_are_refused(llama: Path, tmp_path: Path) -> None:
    load_tokenizer(llama).save_pretrained(folder := copy_model(llama, tmp_path))
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(UserError, match="lacks weights of 3 layers"):
        export(folder, tmp_path / "gguf")
    change_config(folder, num_hidden_layers=2, architectures=["GPT2LMHeadModel"], hidden_act="gelu_new")
    with pytest.raises(UserError, match="no place for"):
        export(folder, tmp_path / "gguf")
    assert not (tmp_path / "gguf").exists()


def test_values_that_f16_cannot_hold_are_refused_and_nothing_is_left(llama: Path, tmp_path: Path) -> None:
    model = load_model(llama, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 3] = 1e6
    save_model(model, load_tokenizer(llama), tmp_path / "model")
    with pytest.raises(UserError, match="F16 cannot hold"):
        export(tmp_path / "model", tmp_path / "out" / "gguf", "f16")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_holds_something_is_not_written_into(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        export(llama, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_factors_of_llama_3_positions_are_those_of_transformers(llama: Path, tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    load_tokenizer(llama).save_pretrained(folder := copy_model(llama, tmp_path))
    change_config(folder, rope_parameters=rope)
    reader = gguf.GGUFReader(export(folder, tmp_path / "gguf").file)
    factors = next(tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=rope)
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 10000.0 ** -(np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, wanted.numpy(), rtol=1e-6)


def test_norms_of_the_first_gemma_are_written_with_their_one(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_model("gemma", tmp_path / "model", tiny_folder)
    model = load_model(folder, dtype=torch.float32)
    reader = gguf.GGUFReader(export(tmp_path / "model", tmp_path / "gguf").file)
    written = next(tensor.data for tensor in reader.tensors if tensor.name == "blk.1.ffn_norm.weight")
    assert np.array_equal(written, model.model.layers[1].post_attention_layernorm.weight.detach().numpy() + 1)


def test_a_chat_model_carries_its_template_and_every_token_that_ends_an_answer(llama: Path, tmp_path: Path) -> None:
    load_tokenizer(llama).save_pretrained(folder := copy_model(llama, tmp_path))
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 7, 8]}')
    result = export(folder, tmp_path / "gguf", "q8_0")
    fields = fields_of(result)
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (0, 7)
    assert fields["tokenizer.chat_template"] == load_tokenizer(llama).chat_template
    lines = (result.folder / "Modelfile").read_text("utf-8").splitlines()
    seventh = load_tokenizer(llama).convert_ids_to_tokens(7)
    assert lines[0] == "FROM ./model-q8_0.gguf"
    stops = [line for line in lines if "stop" in line]
    assert stops[:2] == ['PARAMETER stop "<|endoftext|>"', f'PARAMETER stop "{seventh}"']
    assert len(stops) == 3
    assert any("the Modelfile alone names the others" in note for note in result.notes)


def test_a_text_template_with_one_field_takes_the_prompt_in_its_place(llama: Path, tmp_path: Path) -> None:
    template = PromptTemplate("text", "Text: {phrase}\nTone {{{{x}}}}:", " {tone}")
    result = export(llama, tmp_path / "gguf", template=template)
    text = (result.folder / "Modelfile").read_text("utf-8")
    go = text.partition('TEMPLATE """')[2].partition('"""')[0]
    assert render_go(go, prompt="שלום {{ עולם") == template.render_prompt({"phrase": "שלום {{ עולם"})
    jinja = AutoTokenizer.from_pretrained(llama)
    chat = [{"role": "user", "content": "hi"}]
    written = fields_of(result)["tokenizer.chat_template"]
    rendered = jinja.apply_chat_template(chat, chat_template=written, tokenize=False)
    assert rendered == template.render_prompt({"phrase": "hi"})


def test_a_text_template_with_two_fields_has_no_template_and_says_so(llama: Path, tmp_path: Path) -> None:
    result = export(llama, tmp_path / "gguf", template=PromptTemplate("text", "{a} and {b}:", " {c}"))
    assert "TEMPLATE" not in (result.folder / "Modelfile").read_text("utf-8")
    assert any("2 fields (a, b)" in note for note in result.notes)
    assert "tokenizer.chat_template" not in fields_of(result)


def render_with(jinja: str):
    signs = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **signs)

    def render(messages: list[dict[str, str]], open_turn: bool) -> str:
        turns = [dict(message) for message in messages]
        return str(
            tokenizer.apply_chat_template(turns, chat_template=jinja, tokenize=False, add_generation_prompt=open_turn)
        )

    return render


@pytest.mark.parametrize("jinja", [CHATML, DEFAULT_SYSTEM, LLAMA3, GEMMA], ids=["chatml", "default", "llama3", "gemma"])
@pytest.mark.parametrize("begin", ["", "<s>"], ids=["as it stands", "begin added"])
def test_a_template_in_go_says_what_the_one_in_jinja_says(jinja: str, begin: str) -> None:
    render = render_with(jinja)
    go, _ = derive_chat(render, begin)
    assert go is not None
    turns = [("user", "מה {{ שלומך }}?"), ("assistant", 'טוב, "תודה"'), ("user", "<b>\n")]
    messages = [{"role": role, "content": text.strip()} for role, text in turns]
    for chat in (messages[:1], messages):
        assert render_go(go, messages=chat) == render(chat, True).removeprefix(begin)
    if jinja is not GEMMA:
        system = [{"role": "system", "content": "be brief"}]
        wanted = render(system + messages, True).removeprefix(begin)
        assert render_go(go, system="be brief", messages=system + messages) == wanted


def test_what_a_template_in_go_cannot_say_is_said() -> None:
    go, notes = derive_chat(render_with(COUNTED), "")
    assert go is None
    assert "left out" in notes[0]
    assert any("no system message" in note for note in derive_chat(render_with(GEMMA), "")[1])
    assert any("trims" in note for note in derive_chat(render_with(LLAMA3), "")[1])


def test_the_reader_of_go_templates_knows_its_part_and_refuses_the_rest() -> None:
    assert render_go(quote("a {{ b }} {{{") + "{{ .Prompt }}", prompt="}") == "a {{ b }} {{{}"
    either = '{{ if eq .Role "a" }}1{{ else if eq .Role "b" }}2{{ else }}3{{ end }}'
    messages = [{"role": role, "content": ""} for role in "abca"]
    assert render_go("{{ range .Messages }}" + either + "{{ end }}!", messages=messages) == "1231!"
    for wrong in ("{{ .Tools }}", "{{ if .Prompt }}", "{{ end }}", "{{ range .Tools }}{{ end }}"):
        with pytest.raises(ValueError, match=r"known|belongs|beginning"):
            render_go(wrong, prompt="x")
