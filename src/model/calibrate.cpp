#include "nibble/model/calibrate.h"

#include <algorithm>

#include "calibrate_run.h"
#include "calibrated_checkpoint.h"
#include "core/files.h"
#include "core/output_path.h"

namespace nibble::inline NIBBLE_ABI::model {

namespace fs = std::filesystem;

CalibrateReport calibrate(CalibratedModel& model, std::span<const std::int32_t> ids, const CalibrateOptions& options,
                          CalibrationSink& sink) {
  const CalibrationPlan plan(model, options);
  plan.check_ids(ids);
  CalibrationSink::Manifest manifest = plan.manifest(ids);
  manifest["model"] = model.fingerprint();
  CalibrateReport out = begin_report(plan, ids, options);
  Tally tally(out);
  const std::size_t found = std::min(sink.begin(manifest, plan.count()), plan.count());
  for (std::size_t i = 0; i < found; ++i) tally.add(sink.read(i));
  out.resumed = std::min(found, plan.blocks());
  run_blocks(model, plan, ids, options, found, sink, tally);
  report(options.progress, 1, "calibrated");
  return out;
}

CalibrateReport quantize_calibrated(const fs::path& from, const fs::path& to, CalibratedModel& model,
                                    std::span<const std::int32_t> ids, const CalibrateOptions& options) {
  using Kind = files::OutputKind;
  files::check_outputs({{to, options.resume ? Kind::folder : Kind::new_folder},
                        {CalibrationFolder::of(to), Kind::folder, "the folder of finished blocks"}},
                       {from});
  CalibrationPlan::check(options);
  CalibratedCheckpoint source(from);
  CalibrationPlan plan(model, options);
  source.choose_layout(plan, options);
  plan.check_ids(ids);
  const auto manifest = source.manifest(plan, ids);
  const fs::path blocks = CalibrationFolder::of(to);  // once the output is there, not even a name may fail
  CalibrateReport out = begin_report(plan, ids, options);
  out.layout = source.layout();
  if (files::exists(to)) {
    if (!options.resume || !made_by(to, manifest))
      throw Error(ErrorCode::invalid_argument,
                  "'" + to.string() + "' exists already; remove it or choose another name");
    CalibrationFolder::remove(blocks);
    out.complete_before = true;
    return out;
  }
  CheckpointSink sink(to, options.resume, source.checkpoint());
  const std::size_t found = sink.begin(manifest, plan.count());
  out.resumed = std::min(found, plan.blocks());
  Tally tally(out);
  run_blocks(model, plan, ids, options, found, sink, tally);
  report(options.progress, 1, "writing the model");  // the last moment to say no
  source.write(plan, options, sink.files(), manifest, to, out);
  CalibrationFolder::remove(blocks);
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::model
