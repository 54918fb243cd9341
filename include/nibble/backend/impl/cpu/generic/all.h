// Every algorithm, over the vector layer and the forms (byte_forms.h or pair_forms.h) that the unit has defined.
#include "nibble/backend/impl/cpu/generic/elementwise.h"
#include "nibble/backend/impl/cpu/generic/group_params.h"
#include "nibble/backend/impl/cpu/generic/integer_products.h"
#include "nibble/backend/impl/cpu/generic/multiply_codes.h"
#include "nibble/backend/impl/cpu/generic/multiply_fixed.h"
#include "nibble/backend/impl/cpu/generic/multiply_int8.h"
#include "nibble/backend/impl/cpu/generic/multiply_panel.h"
#include "nibble/backend/impl/cpu/generic/table.h"
