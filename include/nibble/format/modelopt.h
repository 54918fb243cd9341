// The layouts of NVIDIA's ModelOpt: FP8, NVFP4 and the MX types.
//
// For a layer `L` with K input and N output features, told apart by the tensors themselves:
//
//   FP8       L.weight F8_E4M3 [N, K]; L.weight_scale F32 [] (one for the tensor), [N] (one a row), or a grid of tiles
//   of
//             128 × 128
//   MXFP8     L.weight F8_E4M3 [N, K]; L.weight_scale U8 [N, K/32], an exponent with 127 added
//   MXFP4     L.weight U8 [N, K/2], two E2M1 to a byte, the first low; L.weight_scale U8 [N, K/32]
//   NVFP4     L.weight U8 [N, K/2]; L.weight_scale F8_E4M3 [N, K/16]; L.weight_scale_2 F32 [], a factor:
//             w = code · (weight_scale · weight_scale_2)
//
// compressed-tensors' NVFP4 has the reciprocal of weight_scale_2 and divides by it, so the same codes may differ in the
// last bit of a value. A layer with L.pre_quant_scale (AWQ, SVDQuant) is not read. Written: NVFP4, FP8 with one scale
// for the tensor or a row. Source: nvidia-modelopt 0.47, quantization/qtensor and export.
#pragma once

#include "nibble/core/abi.h"
