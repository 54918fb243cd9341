// What the interpreter's tests share: small kernels around a few instructions, and how they end.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/cuda_ptx/interpreter.h"

namespace nibble::cuda_ptx {

/// A kernel of one parameter, the address in %out of 8·words bytes for each thread (%mine), around `body`.
inline std::string kernel(const std::string& body, const std::string& declarations = "", unsigned words = 1) {
  return ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_0)\n{\n"
         ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %rd<9>; .reg .f32 %f<9>; .reg .f64 %d<9>;\n"
         ".reg .b64 %out; .reg .b64 %mine; .reg .b32 %tid; .reg .b32 %at;\n" +
         declarations +
         "ld.param.u64 %out, [k_0]; mov.u32 %tid, %tid.x;\n"
         "mul.wide.u32 %mine, %tid, " +
         std::to_string(8 * words) + "; add.s64 %mine, %out, %mine;\n" + body + "\nret;\n}\n";
}

struct Outcome {
  std::vector<std::uint64_t> out;
  std::string fault;
  Statistics statistics;
  [[nodiscard]] bool blames(const char* what) const { return fault.find(what) != std::string::npos; }
};

/// What a kernel leaves in memory that it finds as `before`; and what it was blamed for.
inline Outcome run_on(std::vector<std::uint64_t> before, const std::string& text, unsigned threads, unsigned seed = 0,
                      unsigned blocks = 1) {
  Outcome o;
  o.out = std::move(before);
  MemoryMap memory;
  memory.add(o.out.data(), o.out.size() * 8);
  Launch launch{{blocks, 1, 1}, {threads, 1, 1}, 0, std::vector<std::byte>(8), seed};
  const auto address = reinterpret_cast<std::uint64_t>(o.out.data());
  std::memcpy(launch.parameters.data(), &address, 8);
  try {
    o.statistics = Module(text).run("k", launch, memory);
  } catch (const Fault& f) {
    o.fault = f.what();
  }
  return o;
}
/// Of one word a thread, which is 0 before.
inline Outcome run(const std::string& text, unsigned threads = 1, unsigned seed = 0, unsigned blocks = 1) {
  return run_on(std::vector<std::uint64_t>(threads), text, threads, seed, blocks);
}

}  // namespace nibble::cuda_ptx
