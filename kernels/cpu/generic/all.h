// Every algorithm, over the vector layer and the forms (byte_forms.h or pair_forms.h) that the unit has defined.
#include "kernels/cpu/generic/elementwise.h"
#include "kernels/cpu/generic/group_params.h"
#include "kernels/cpu/generic/integer_products.h"
#include "kernels/cpu/generic/multiply_codes.h"
#include "kernels/cpu/generic/multiply_fixed.h"
#include "kernels/cpu/generic/multiply_int8.h"
#include "kernels/cpu/generic/multiply_panel.h"
#include "kernels/cpu/generic/table.h"
