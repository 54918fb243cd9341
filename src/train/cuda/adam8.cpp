#include "kernels/cuda/adam8.h"

#include <sstream>

#include "backend/cuda/matrix.h"
#include "nibble/cuda/adam8.h"

namespace nibble::inline NIBBLE_ABI::cuda {

namespace {

std::size_t blocks_of(std::size_t parameters) { return (parameters + kAdam8Block - 1) / kAdam8Block; }

void check_options(const AdamOptions& o) {
  const auto require = [](const char* name, double value, bool holds, const char* range) {
    if (holds) return;
    std::ostringstream message;
    message << "8-bit Adam: " << name << " is " << value << "; it must be " << range;
    throw Error(ErrorCode::invalid_argument, message.str());
  };
  // Written so that NaN fails.
  require("learning_rate", o.learning_rate, o.learning_rate >= 0 && std::isfinite(o.learning_rate), "at least 0");
  require("beta1", o.beta1, o.beta1 >= 0 && o.beta1 < 1, "from 0 to below 1");
  require("beta2", o.beta2, o.beta2 >= 0 && o.beta2 < 1, "from 0 to below 1");
  require("epsilon", o.epsilon, o.epsilon > 0 && std::isfinite(o.epsilon), "above 0");
  require("weight_decay", o.weight_decay, o.weight_decay >= 0 && std::isfinite(o.weight_decay), "at least 0");
}

void check_moments(const Adam8Moments& m) {
  const std::size_t n = m.m_codes.size(), blocks = blocks_of(n);
  if (m.v_codes.size() != n || m.m_absmax.size() != blocks || m.v_absmax.size() != blocks) {
    std::ostringstream message;
    message << "8-bit Adam: the moments have " << n << " and " << m.v_codes.size() << " codes, " << m.m_absmax.size()
            << " and " << m.v_absmax.size() << " absmax values; of " << n << " parameters there are " << n << " and "
            << blocks << " each";
    throw Error(ErrorCode::shape_mismatch, message.str());
  }
  if (m.steps < 0)
    throw Error(ErrorCode::invalid_argument,
                "8-bit Adam: " + std::to_string(m.steps) + " steps were taken; not below 0");
}

}  // namespace

Adam8::Adam8(const Context& context, std::size_t parameters, const AdamOptions& options, cudaStream_t stream)
    : context_(&context), parameters_(parameters) {
  set_options(options);
  if (parameters == 0) throw Error(ErrorCode::invalid_argument, "8-bit Adam: there are no parameters");
  const DeviceScope scope(context.device().ordinal);
  const auto zeroed = [&](std::size_t bytes) {
    DeviceBuffer out(bytes, context.allocator(), stream);
    check(cudaMemsetAsync(out.as<>(), 0, out.size(), stream), "cudaMemsetAsync", "8-bit Adam's moments");
    return out;
  };
  m_codes_ = zeroed(parameters), v_codes_ = zeroed(parameters);
  m_absmax_ = zeroed(blocks_of(parameters) * sizeof(float)), v_absmax_ = zeroed(blocks_of(parameters) * sizeof(float));
}

Adam8::Adam8(const Context& context, const Adam8Moments& moments, const AdamOptions& options, cudaStream_t stream)
    : Adam8(context, (check_moments(moments), moments.m_codes.size()), options, stream) {
  const DeviceScope scope(context.device().ordinal);
  WaitOnError work(stream);
  const auto upload = [&](const DeviceBuffer& to, const auto& from) {
    check(cudaMemcpyAsync(to.as<>(), from.data(), to.size(), cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync",
          "uploading 8-bit Adam's moments");
  };
  upload(m_codes_, moments.m_codes), upload(m_absmax_, moments.m_absmax);
  upload(v_codes_, moments.v_codes), upload(v_absmax_, moments.v_absmax);
  work.wait("uploading 8-bit Adam's moments");
  steps_ = moments.steps;
}

void Adam8::set_options(const AdamOptions& options) {
  check_options(options);
  options_ = options;
}

void Adam8::step(const MutableDeviceMatrix& parameters, const DeviceMatrix& gradients, cudaStream_t stream) {
  const auto fits = [&](const DeviceMatrix& m) {
    return m.rows * m.cols == parameters_ && (m.stride == m.cols || m.rows == 1);
  };
  const auto text = [](const DeviceMatrix& m) {
    std::ostringstream out;
    out << name_of(m.type) << " [" << m.rows << ", " << m.cols << "] with rows " << m.stride << " apart";
    return out.str();
  };
  if (!fits(parameters) || !fits(gradients))
    throw Error(ErrorCode::shape_mismatch, "8-bit Adam: parameters are " + text(parameters) + ", gradients " +
                                               text(gradients) + "; the state has " + std::to_string(parameters_) +
                                               " parameters, in rows without gaps");
  const DType type = parameters.type;
  if (type != gradients.type || (type != DType::f32 && type != DType::f16 && type != DType::bf16))
    throw Error(ErrorCode::unsupported, "8-bit Adam: parameters are " + text(parameters) + ", gradients " +
                                            text(gradients) + "; both must be F32, F16 or BF16");
  const DeviceScope scope(context_->device().ordinal);
  const Adam8State state{m_codes_.as<std::uint8_t>(), m_absmax_.as<float>(), v_codes_.as<std::uint8_t>(),
                         v_absmax_.as<float>()};
  check_kernel(
      adam8(parameters.data, gradients.data, type, parameters_, state, adam_step(options_, steps_ + 1), stream),
      "adam8");
  ++steps_;
}

Adam8Moments Adam8::download(cudaStream_t stream) const {
  const DeviceScope scope(context_->device().ordinal);
  Adam8Moments out{steps_, std::vector<std::uint8_t>(parameters_), std::vector<std::uint8_t>(parameters_),
                   std::vector<float>(blocks_of(parameters_)), std::vector<float>(blocks_of(parameters_))};
  WaitOnError work(stream);
  const auto download = [&](const DeviceBuffer& from, auto& to) {
    check(cudaMemcpyAsync(to.data(), from.as<>(), from.size(), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync",
          "downloading 8-bit Adam's moments");
  };
  download(m_codes_, out.m_codes), download(m_absmax_, out.m_absmax);
  download(v_codes_, out.v_codes), download(v_absmax_, out.v_absmax);
  work.wait("downloading 8-bit Adam's moments");
  return out;
}

}  // namespace nibble::inline NIBBLE_ABI::cuda
