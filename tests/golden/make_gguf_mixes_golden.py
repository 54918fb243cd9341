"""The types that llama.cpp's quantizer gives the tensors of a model, for every mix of model/gguf_mix.h: gguf_mixes.json.

usage: make_gguf_mixes_golden.py LIBLLAMA_SO NIBBLE      (needs gguf)
The models are of the shapes that its choices depend on, and of zeros. Of each kind of tensor ("attn_v") the file holds
the types from the first block to the last, as [type, how many in a row].
"""
import ctypes
import json
import pathlib
import struct
import sys
import tempfile
import subprocess

from gguf import GGUFReader

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "bench" / "peers"))
import llama_cpp  # noqa: E402  (beside the peers)

MIXES = {"Q2_K_S": 21, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "IQ4_XS": 30, "IQ4_NL": 25, "Q4_0": 2,
         "Q4_1": 3, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_0": 8, "Q5_1": 9, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "Q8_0": 7}
MODELS = {  # blocks, heads, heads of keys, experts, hidden, tied
    "few_queries": dict(model="gqa_tied", blocks=20, heads=4, keys=2, experts=0, hidden=256, tied=True),
    "many_queries": dict(model="gqa_tied", blocks=16, heads=8, keys=2, experts=0, hidden=256, tied=False),
    "eighty_blocks": dict(model="gqa_tied", blocks=80, heads=8, keys=1, experts=0, hidden=256, tied=False),
    "narrow_rows": dict(model="gqa_tied", blocks=9, heads=9, keys=3, experts=0, hidden=288, tied=True),
    "eight_experts": dict(model="mixtral", blocks=8, heads=8, keys=2, experts=8, hidden=256, tied=False),
    "four_experts": dict(model="mixtral", blocks=8, heads=8, keys=2, experts=4, hidden=256, tied=False),
    "merged": dict(model="phi3", blocks=17, heads=8, keys=2, experts=0, hidden=256, tied=False),
}


def write_model(folder, shape):
    hidden, heads, keys, experts = shape["hidden"], shape["heads"], shape["keys"], shape["experts"]
    config = json.load(open(HERE / shape["model"] / "config.json"))
    config.update(num_hidden_layers=shape["blocks"], hidden_size=hidden, num_attention_heads=heads,
                  num_key_value_heads=keys, intermediate_size=256, tie_word_embeddings=shape["tied"], vocab_size=96)
    config.pop("head_dim", None)
    config["head_dim"] = hidden // heads
    if experts:
        config.update(num_local_experts=experts, num_experts_per_tok=2)
    if shape["model"] == "gqa_tied":
        config.pop("rope_scaling", None)
    folder.mkdir(parents=True)
    json.dump(config, open(folder / "config.json", "w"))
    narrow = hidden // heads * keys
    tensors = {"model.embed_tokens.weight": [96, hidden], "model.norm.weight": [hidden]}
    if not shape["tied"]:
        tensors["lm_head.weight"] = [96, hidden]
    for i in range(shape["blocks"]):
        at = f"model.layers.{i}."
        tensors[at + "input_layernorm.weight"] = tensors[at + "post_attention_layernorm.weight"] = [hidden]
        tensors[at + "self_attn.o_proj.weight"] = [hidden, hidden]
        if shape["model"] == "phi3":
            tensors[at + "self_attn.qkv_proj.weight"] = [hidden + 2 * narrow, hidden]
            tensors[at + "mlp.gate_up_proj.weight"] = [512, hidden]
            tensors[at + "mlp.down_proj.weight"] = [hidden, 256]
            continue
        tensors[at + "self_attn.q_proj.weight"] = [hidden, hidden]
        tensors[at + "self_attn.k_proj.weight"] = tensors[at + "self_attn.v_proj.weight"] = [narrow, hidden]
        if experts:
            tensors[at + "block_sparse_moe.gate.weight"] = [experts, hidden]
        for e in range(max(1, experts)):
            mlp = at + (f"block_sparse_moe.experts.{e}." if experts else "mlp.")
            gate, up, down = ("w1", "w3", "w2") if experts else ("gate_proj", "up_proj", "down_proj")
            tensors[f"{mlp}{gate}.weight"] = tensors[f"{mlp}{up}.weight"] = [256, hidden]
            tensors[f"{mlp}{down}.weight"] = [hidden, 256]
    header, at = {}, 0
    for name, shape_of in sorted(tensors.items()):
        size = 2 * shape_of[0] * (shape_of[1] if len(shape_of) > 1 else 1)
        header[name] = {"dtype": "F16", "shape": shape_of, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)
    tokens = json.load(open(HERE / "gpt2" / "tokenizer.json"))
    tokens["added_tokens"], tokens["model"]["merges"] = [], []
    tokens["model"]["vocab"] = {chr(33 + i): i for i in range(90)}
    json.dump(tokens, open(folder / "tokenizer.json", "w"))


def types_of(file):
    kinds = {}
    for t in GGUFReader(file).tensors:
        parts = t.name.split(".")
        block, kind = (int(parts[1]), parts[2]) if parts[0] == "blk" else (0, parts[0])
        if t.tensor_type.name != "F32" and parts[-1] == "weight":
            kinds.setdefault(kind, {})[block] = t.tensor_type.name
    out = {}
    for kind, types in sorted(kinds.items()):
        runs = []
        for block in sorted(types):
            if runs and runs[-1][0] == types[block]:
                runs[-1][1] += 1
            else:
                runs.append([types[block], 1])
        out[kind] = runs
    return out


def main():
    library = llama_cpp.load(sys.argv[1])
    said = []
    log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda _, text, __: said.append(text))
    library.llama_log_set(log, None)
    ones = (ctypes.c_float * 4096)(*[1.0] * 4096)
    out = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = pathlib.Path(temporary)
        for name, shape in MODELS.items():
            write_model(place / name, shape)
            source, result = place / f"{name}.gguf", place / "result.gguf"
            subprocess.run([sys.argv[2], "export-gguf", place / name, source, "--type", "f16", "--quiet"], check=True)
            sizes = {t.name: int(t.shape[0]) * (int(t.shape[2]) if len(t.shape) == 3 else 1)
                     for t in GGUFReader(source).tensors if len(t.shape) > 1}
            importance = [(n, ctypes.addressof(ones), size) for n, size in sizes.items()]
            mixes = {}
            for mix, number in MIXES.items():
                for weighed in (False, True):
                    if mix == "Q2_K_S" and not weighed:
                        continue  # it asks for an importance matrix
                    if llama_cpp.quantize(library, source, result, number, importance if weighed else None) != 0:
                        raise SystemExit(f"{name} as {mix} failed:\n" + b"".join(said[-5:]).decode())
                    mixes[mix + (" weighed" if weighed else "")] = types_of(result)
            out[name] = {"shape": shape, "mixes": {m: t for m, t in mixes.items()
                                                   if not m.endswith(" weighed") or t != mixes.get(m.split()[0])}}
    with open(HERE / "gguf_mixes.json", "w") as f:
        f.write("{\n" + ",\n".join(
            f' "{n}": {{"shape": {json.dumps(m["shape"])}, "mixes": {{\n' + ",\n".join(
                f'  "{x}": {json.dumps(t)}' for x, t in m["mixes"].items()) + "\n }}" for n, m in out.items()) + "\n}\n")


main()
