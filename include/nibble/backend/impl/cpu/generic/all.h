// Every algorithm, over the vector layer and the forms (byte_forms.h or pair_forms.h) that the unit has defined.

// What the products share:
#include "nibble/backend/impl/cpu/generic/elementwise.h"
#include "nibble/backend/impl/cpu/generic/exponential.h"
#include "nibble/backend/impl/cpu/generic/group_params.h"
#include "nibble/backend/impl/cpu/generic/integer_products.h"
#include "nibble/backend/impl/cpu/generic/rank_keys.h"
#include "nibble/backend/impl/cpu/generic/transpose.h"

// Training:
#include "nibble/backend/impl/cpu/generic/dropout.h"
#include "nibble/backend/impl/cpu/generic/optimizers.h"
#include "nibble/backend/impl/cpu/generic/optimizers8.h"

// The products:
#include "nibble/backend/impl/cpu/generic/gemm_fixed.h"
#include "nibble/backend/impl/cpu/generic/gemm_int8.h"
#include "nibble/backend/impl/cpu/generic/gemm_panel.h"
#include "nibble/backend/impl/cpu/generic/gemv_codes.h"

// Their weights:
#include "nibble/backend/impl/cpu/generic/interleave.h"

#include "nibble/backend/impl/cpu/generic/table.h"
