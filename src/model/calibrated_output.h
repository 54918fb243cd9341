// The finished blocks of a calibration run put together to a model directory.
#pragma once

#include "calibrate_plan.h"
#include "calibration_folder.h"

namespace nibble::inline NIBBLE_ABI::model {

/// Writes the model `to` by way of the folder, and fills in the report.
void write_calibrated(const CalibrationPlan& plan, const CalibrationFolder& folder,
                      const CalibrationFolder::Manifest& manifest, const std::filesystem::path& to,
                      CalibrateReport& report);

}  // namespace nibble::inline NIBBLE_ABI::model
