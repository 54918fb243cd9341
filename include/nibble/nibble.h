// The core of nibble by headers alone: include this with an include path (nibble::headers) and link nothing.
//
// - core/bit_pack.h: codes of 2 to 8 bits, packed.
// - core/float_types.h: fp16, bf16 and the 8-bit floats of checkpoints.
// - scheme/scheme.h: symmetric, asymmetric, NF4, FP4, the dynamic map, LLM.int8; and a concept for one's own.
// - scheme/gguf_blocks.h: the structs of GGUF's blocks, decoded; scheme/gguf_encode.h: encoded.
// - scheme/double_quant.h: absmax values quantized in turn.
// - quantize/rows.h: quantize_rows<Scheme> and dequantize_rows<Scheme>, into memory that the caller owns.
//
// It compiles with -fno-exceptions and -fno-rtti (errors are values: RowsResult), needs C++20, and refuses flags that
// would change a bit (core/strict_math.h). What quantizes whole matrices on threads, multiplies and solves begins with
// quantize/quantize.h: compiled, in nibble::nibble, which reads and writes checkpoints, too; or by headers alone as
// well, where NIBBLE_HEADER_ONLY is defined (core/abi.h), with threads and Eigen.
#pragma once

#include "nibble/core/abi.h"

#if __cplusplus >= 202002L
#include "nibble/core/bit_pack.h"
#include "nibble/core/float_types.h"
#include "nibble/quantize/rows.h"
#include "nibble/scheme/double_quant.h"
#include "nibble/scheme/gguf_blocks.h"
#include "nibble/scheme/gguf_encode.h"
#include "nibble/scheme/granularity.h"
#include "nibble/scheme/scheme.h"
#endif
