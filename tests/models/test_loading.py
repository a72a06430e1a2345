"""Model folders opened and loaded; what cannot be is told."""

import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rljax.models import loading, safetensors_files
from rljax.text import tokenizer as tokenizers
from tests.models import golden

VALUES = {
    "model_type": "qwen2",
    "vocab_size": 7,
    "hidden_size": 6,
    "intermediate_size": 5,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "tie_word_embeddings": True,
    "eos_token_id": 3,
}
NAMES = {  # name in the file -> shape, layer by layer
    "input_layernorm.weight": (6,),
    "post_attention_layernorm.weight": (6,),
    "self_attn.q_proj.weight": (8, 6),
    "self_attn.k_proj.weight": (4, 6),
    "self_attn.v_proj.weight": (4, 6),
    "self_attn.q_proj.bias": (8,),
    "self_attn.k_proj.bias": (4,),
    "self_attn.v_proj.bias": (4,),
    "self_attn.o_proj.weight": (6, 8),
    "mlp.gate_proj.weight": (5, 6),
    "mlp.up_proj.weight": (5, 6),
    "mlp.down_proj.weight": (6, 5),
}


def weights(dtype=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (7, 6), "model.norm.weight": (6,)}
    for i in range(2):
        shapes |= {f"model.layers.{i}.{name}": s for name, s in NAMES.items()}
    return {n: rng.standard_normal(s).astype(dtype) for n, s in shapes.items()}


def write(folder: pathlib.Path, tensors, shards=1, **values) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**VALUES, **values}))
    if shards == 1:
        save_file(tensors, folder / safetensors_files.SINGLE)
        return folder
    table = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {n: tensors[n] for n in sorted(tensors)[i::shards]}
        save_file(part, folder / name)
        table |= dict.fromkeys(part, name)
    index = folder / safetensors_files.INDEX
    index.write_text(json.dumps({"weight_map": table}))
    return folder


def by_hand(t) -> dict[str, np.ndarray]:
    """Our parameters, put together in the way the decoder's docstring says."""

    def stack(*names, axis=-1, turn=True):
        rows = []
        for i in range(2):
            parts = [t[f"model.layers.{i}.{name}"] for name in names]
            rows.append(np.concatenate([p.T if turn else p for p in parts], axis))
        return np.stack(rows)

    letters = [f"self_attn.{x}_proj" for x in "qkv"]
    return {
        "embedding": t["model.embed_tokens.weight"],
        "final_norm": t["model.norm.weight"],
        "attention_norm": stack("input_layernorm.weight"),
        "mlp_norm": stack("post_attention_layernorm.weight"),
        "qkv": stack(*[f"{x}.weight" for x in letters]),
        "qkv_bias": stack(*[f"{x}.bias" for x in letters]),
        "out": stack("self_attn.o_proj.weight"),
        "gate_up": stack("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "down": stack("mlp.down_proj.weight"),
    }


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_each_tensor_is_where_it_belongs(tmp_path, stored, dtype, shards, monkeypatch):
    monkeypatch.setattr(loading, "_COLUMNS", 3)  # fewer than a matrix has
    tensors = weights(stored)
    model = loading.open_model(write(tmp_path, tensors, shards))
    params = loading.load_params(model, dtype=dtype)
    expected = by_hand(tensors)
    assert params.keys() == expected.keys() == loading.shapes_of(model.config).keys()
    for name, array in params.items():
        assert isinstance(array, jax.Array) and array.dtype == dtype
        np.testing.assert_array_equal(array, expected[name].astype(array.dtype))
    assert model.eos_ids == (3,) and model.origin == tmp_path.name


def test_place_decides_where_an_array_lives(tmp_path):
    model = loading.open_model(write(tmp_path, weights()))
    device, seen = jax.devices()[3], {}

    def place(name, array):
        seen[name] = array.shape
        return jax.device_put(array, device)

    params = loading.load_params(model, place)
    assert seen == loading.shapes_of(model.config)
    assert all(x.devices() == {device} for x in params.values())


def test_a_cpu_device_takes_the_array_over_without_a_copy(tmp_path):
    model = loading.open_model(write(tmp_path, weights()))
    pointers = {}

    def place(name, array):
        pointers[name] = array.ctypes.data
        return jax.device_put(array, jax.devices()[0])

    params = loading.load_params(model, place)
    assert pointers == {n: x.unsafe_buffer_pointer() for n, x in params.items()}


@pytest.mark.parametrize("head_first", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tied_head_in_the_file_must_be_the_embedding(tmp_path, head_first, dtype):
    tensors = weights()
    model = loading.open_model(write(tmp_path, tensors))
    head = tensors["model.embed_tokens.weight"].astype(dtype)

    def load():
        pairs = {"lm_head.weight": head, **tensors}
        items = list(pairs.items() if head_first else reversed(pairs.items()))
        return loading.load_params(model._replace(tensors=lambda: iter(items)))

    assert "unembedding" not in load()
    head[-1, -1] += 0.25
    with pytest.raises(ValueError, match=r"differs from .*, which config.json says"):
        load()


def test_a_tied_head_alone_is_enough(tmp_path):
    tensors = weights()
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    params = loading.load_params(loading.open_model(write(tmp_path, tensors)))
    np.testing.assert_array_equal(params["embedding"], tensors["lm_head.weight"])


def test_an_untied_head_is_a_matrix_of_its_own(tmp_path):
    head = np.arange(42, dtype=np.float32).reshape(7, 6)
    folder = write(
        tmp_path, {**weights(), "lm_head.weight": head}, tie_word_embeddings=False
    )
    params = loading.load_params(loading.open_model(folder))
    np.testing.assert_array_equal(params["unembedding"], head.T)


def test_the_hubs_own_gpt2_names_no_transformer(tmp_path):
    """Its files lack the prefix that transformers writes, and hold masks."""
    source = golden.ROOT / "gpt2"
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    there = load_file(source / safetensors_files.SINGLE)
    bare = {name.removeprefix("transformer."): x for name, x in there.items()}
    assert bare.keys() != there.keys() and "wte.weight" in bare
    masks = {"h.0.attn.bias": np.tri(8, dtype=np.float32)[None, None]}
    save_file({**bare, **masks}, tmp_path / safetensors_files.SINGLE)
    params = loading.load_params(loading.open_model(tmp_path))
    expected = golden.params(source, golden.config("gpt2"))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    # What is wrong is told in the names we know, whichever the file has.
    save_file({"wte.weight": bare["wte.weight"]}, tmp_path / safetensors_files.SINGLE)
    with pytest.raises(ValueError, match="transformer.wpe.weight is missing"):
        loading.load_params(loading.open_model(tmp_path))


def test_all_that_does_not_fit_is_listed(tmp_path):
    tensors = weights()
    del tensors["model.norm.weight"]
    tensors["model.embed_tokens.weight"] = np.zeros((8, 6), np.float32)
    tensors["model.layers.2.magic"] = np.zeros(3, np.float32)
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((5, 6), np.int64)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)
    with pytest.raises(ValueError) as caught:
        loading.load_params(loading.open_model(write(tmp_path, tensors)))
    assert sorted(str(caught.value).splitlines()[1:]) == [
        "  model.embed_tokens.weight has shape (8, 6), expected (7, 6)",
        "  model.layers.0.mlp.up_proj.weight has type int64, expected floating point",
        "  model.layers.2.magic (3,) is not a part of this model",
        "  model.norm.weight is missing",
    ]


def test_a_tensor_in_two_shards_is_told(tmp_path):
    folder = write(tmp_path, weights(), shards=2)
    second = folder / "model-00002-of-00002.safetensors"
    again = {"model.embed_tokens.weight": weights()["model.embed_tokens.weight"]}
    save_file({**load_file(second), **again}, second)
    with pytest.raises(ValueError, match=r"model.embed_tokens.weight comes twice"):
        loading.load_params(loading.open_model(folder))


def test_what_a_type_cannot_hold_is_told(tmp_path):
    tensors = weights()
    tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = 1e5
    model = loading.open_model(write(tmp_path, tensors))
    with pytest.raises(ValueError, match=r"gate_up \(layer 1\) holds .* beyond 65504"):
        loading.load_params(model, dtype="float16")


@pytest.mark.parametrize(
    "stored, value, dtype, top",
    [
        (ml_dtypes.bfloat16, 1e5, "float16", "65504"),
        (np.float32, 3.4e38, "bfloat16", "3.38953e.38"),
    ],
)
def test_casts_that_numpy_is_silent_about_are_told(tmp_path, stored, value, dtype, top):
    tensors = weights(stored)
    tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = value
    model = loading.open_model(write(tmp_path, tensors))
    with pytest.raises(ValueError, match=rf"gate_up \(layer 1\) .* beyond {top}"):
        loading.load_params(model, dtype=dtype)


def test_what_was_not_finite_before_is_not_of_the_cast(tmp_path):
    tensors = weights()
    tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = np.inf
    model = loading.open_model(write(tmp_path, tensors))
    assert np.isinf(loading.load_params(model, dtype="float16")["gate_up"]).sum() == 1


def test_a_damaged_file_is_told_when_it_is_opened(tmp_path):
    folder = write(tmp_path, weights())
    file = folder / safetensors_files.SINGLE
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"is cut off: .* fetch it again"):
        loading.open_model(folder)


def test_paths_that_are_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="https://hf.co/x is an address, and nothing"):
        loading.open_model("https://hf.co/x")
    with pytest.raises(ValueError, match="hf download Qwen/Qwen2-0.5B --local-dir DIR"):
        loading.open_model("Qwen/Qwen2-0.5B")
    with pytest.raises(ValueError, match="there is no model at /no/such/folder: expec"):
        loading.open_model("/no/such/folder")
    for name, start, message in (
        ("a.pt", b"PK", "pickles can run any code and are never read"),
        ("pytorch_model.bin", b"PK\x03\x04", "pickles can run any code"),
        ("pytorch_model.bin", b"\x80\x02", "pickles can run any code"),
        ("model.safetensors", b"", "give its folder"),
        ("a.txt", b"", "a.txt is not a model that can be read: a folder with"),
        ("a.bin", b"abc", "a.bin has 3 bytes: no llama2.c model"),
    ):
        pathlib.Path(name).write_bytes(start)
        with pytest.raises(ValueError, match=message):
            loading.open_model(name)


def test_folders_that_lack_something(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json, but nothing: expected"):
        loading.open_model(tmp_path)
    for name, message in (
        ("a.gguf", "give the path of the .gguf file itself"),
        ("adapter_config.json", "it is an adapter: give the folder of its base"),
    ):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=message):
            loading.open_model(tmp_path)
    config = tmp_path / "config.json"
    for text, message in (
        ("{", "config.json is not JSON"),
        ("[]", "config.json holds a list, expected an object"),
        ('{"model_type": "bert"}', "model_type 'bert' is not implemented"),
        (json.dumps(VALUES), "holds neither model.safetensors nor"),
    ):
        config.write_text(text)
        with pytest.raises(ValueError, match=message):
            loading.open_model(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle.*save_pretra"):
        loading.open_model(tmp_path)


def test_the_tokenizer_must_fit_the_embedding(tmp_path):
    model = loading.open_model(write(tmp_path, weights()))
    with pytest.raises(ValueError, match="holds no tokenizer: none of tokenizer.json"):
        model.tokenizer()
    tokenizers.word_level(["a", "b"]).save_pretrained(tmp_path)  # 5 of 7: padding
    assert len(model.tokenizer()) == 5
    tokenizers.word_level(list("abcde")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="gives 'e' the id 7, but the embedding has 7"):
        model.tokenizer()


def test_what_ends_a_text_is_what_generation_stops_at(tmp_path):
    folder = write(tmp_path, weights())
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 3]}')
    assert loading.open_model(folder).eos_ids == (5, 3)
    (folder / "generation_config.json").write_text("{}")
    assert loading.open_model(folder).eos_ids == (3,)
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ValueError, match="has eos_token_id '</s>'; expected ids"):
        loading.open_model(folder)


def test_places_fill_everything_once(tmp_path):
    model = loading.open_model(write(tmp_path, weights()))
    del model.places["model.norm.weight"]
    tensors = (x for x in weights().items() if x[0] != "model.norm.weight")
    with pytest.raises(AssertionError, match=r"no place fills all of \['final_norm'\]"):
        loading.load_params(model._replace(tensors=lambda: tensors))
