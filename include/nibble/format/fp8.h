// The layouts of FP8 models that name their method "fp8" or "fbgemm_fp8": DeepSeek-V3's, Qwen's, transformers'.
//
// For a layer `L` with K input and N output features:
//
//   L.weight            F8_E4M3 (or F8_E5M2) [N, K]
//   L.weight_scale_inv  a factor, in spite of its name: w = code · scale. With weight_block_size [128, 128] in the
//                       configuration F32 [⌈N/128⌉, ⌈K/128⌉], a scale for a tile, the last ones short; F8_E8M0, powers
//                       of two, where scale_fmt is "ue8m0"; without it one for the tensor
//   L.weight_scale      the older name, of one scale for the tensor, or (fbgemm) F32 [N, 1]
//   L.weight I8 with L.weight_scale_inv F8_E8M0 [N, K/32]: MXFP4, as experts have it
//
// Whether a layer is in FP8 is seen by its tensors, not by the configuration's list. Activations were to be rounded to
// E4M3 too; here they are not, so that results are those of the weights alone. Written: tiles, and one for the tensor.
// Sources: transformers' finegrained_fp8 and fbgemm_fp8 integrations, release 5.24; DeepSeek-V3's model files.
#pragma once

#include "nibble/core/abi.h"
