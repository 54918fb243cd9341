"""The packing and unpacking code of the real libraries, on a CPU, without the rest of them.

AutoGPTQ and AutoAWQ are no longer maintained and their packages do not import beside today's transformers; their
modules for one linear layer do. So the packages' __init__ files are passed over, and nothing else is changed.

  python3 -m venv venv && . venv/bin/activate
  pip install torch transformers accelerate datasets safetensors compressed-tensors bitsandbytes
  pip install threadpoolctl device-smi protobuf pillow requests tokenicer logbar dill pypcre defuser ninja
  mkdir sources && cd sources && pip download --no-deps --no-build-isolation auto-gptq==0.7.1 autoawq==0.2.9 gptqmodel==7.7.0
  unzip auto_gptq*.whl; tar xzf autoawq*.tar.gz; tar xzf gptqmodel*.tar.gz; export NIBBLE_LIBRARY_SOURCES=$PWD
"""
import importlib, os, pathlib, sys, types, warnings

warnings.filterwarnings("ignore")
sources = pathlib.Path(os.environ["NIBBLE_LIBRARY_SOURCES"])


def package(name, folder):
    """Registers a package whose __init__ is not run."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def _first(pattern):
    found = sorted(p for p in sources.rglob(pattern) if p.is_dir() and (p / "__init__.py").exists())
    if not found:
        sys.exit(f"there is no {pattern} under {sources}: see {__file__}")
    return found[0]


def auto_gptq():
    """(QuantLinear with act-order, QuantLinear without): AutoGPTQ 0.7.1."""
    root = _first("auto_gptq")
    for name in ["", ".nn_modules"]:
        package("auto_gptq" + name, root / name.replace(".", "/").lstrip("/"))
    load = lambda n: importlib.import_module("auto_gptq.nn_modules.qlinear." + n).QuantLinear
    return load("qlinear_cuda"), load("qlinear_cuda_old")


def awq():
    """The modules gemm, gemv, gemv_fast and packing_utils of AutoAWQ 0.2.9."""
    root = _first("awq")
    for name in ["", ".modules", ".modules.linear", ".utils", ".quantize"]:
        package("awq" + name, root / name.replace(".", "/").lstrip("/"))
    linear = [importlib.import_module("awq.modules.linear." + n) for n in ["gemm", "gemv", "gemv_fast"]]
    return (*linear, importlib.import_module("awq.utils.packing_utils"))


def gptqmodel():
    """(TorchLinear, convert_v2_to_v1, convert_v1_to_v2) of GPTQModel 7.7.0."""
    sys.path.insert(0, str(_first("gptqmodel").parent))
    os.environ["GPTQMODEL_DISABLE_PACK_EXT"] = "1"
    linear = importlib.import_module("gptqmodel.nn_modules.qlinear.torch").TorchLinear
    model = importlib.import_module("gptqmodel.utils.model")
    return linear, model.convert_gptq_v2_to_v1_format_module, model.convert_gptq_v1_to_v2_format_module
