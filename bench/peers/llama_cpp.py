"""What the peers' scripts call of libllama.so: its quantizer, with the structs of llama.cpp in llama-cpp-python 0.3.36."""
import ctypes


class Params(ctypes.Structure):
    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int), ("output_tensor_type", ctypes.c_int),
                ("token_embedding_type", ctypes.c_int)] + \
               [(n, ctypes.c_bool) for n in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure",
                                             "keep_split", "dry_run")] + \
               [(n, ctypes.c_void_p) for n in ("imatrix", "kv_overrides", "tt_overrides", "prune_layers")] + \
               [("max_buf_size", ctypes.c_size_t)]


class Importance(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def load(path):
    library = ctypes.CDLL(path)
    library.llama_model_quantize_default_params.restype = Params
    library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]
    library.llama_backend_init()
    return library


def quantize(library, source, out, file_type, importance):
    """`importance`: (weight, address of its floats, how many) of each, or None. Returns 0 where that went well."""
    params = library.llama_model_quantize_default_params()
    params.ftype = file_type
    if importance is not None:
        entries = (Importance * (len(importance) + 1))(*[Importance(n.encode(), at, size) for n, at, size in importance])
        params.imatrix = ctypes.addressof(entries)
    return library.llama_model_quantize(str(source).encode(), str(out).encode(), params)
