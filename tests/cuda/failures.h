// Every call of the emulated CUDA runtime, cuBLAS and cuSOLVER that some code makes, made to fail.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "nibble/core/error.h"
#include "tests/cuda_emulation/runtime/runtime.h"

namespace nibble::cuda_test {

/// Makes each call of the runtime that `body` makes fail in turn. Every failure must be told, and leave nothing behind,
/// but for `tidying` waits: those of streams about to be destroyed, whose work was waited for before.
inline void fail_every_call(const std::string& name, int tidying, const std::function<void()>& body) {
  body();
  const std::string held = cuda_emulation::leaks();
  const std::size_t before = cuda_emulation::calls();
  body();
  const std::size_t calls = cuda_emulation::calls() - before;
  ASSERT_GT(calls, 3u) << name;
  for (std::size_t k = 0; k < calls; ++k) {
    cuda_emulation::fail_once(k);
    bool told = false;
    try {
      body();
    } catch (const Error& e) {
      told = true;
      EXPECT_TRUE(e.code() == ErrorCode::device || e.code() == ErrorCode::unsupported) << e.what();
      EXPECT_NE(std::string(e.what()).find(' '), std::string::npos);
    }
    ASSERT_NE(cuda_emulation::failed_call(), "") << name << ": call " << k << " was not made";
    if (!told) {
      EXPECT_EQ(cuda_emulation::failed_call(), "cudaStreamSynchronize") << name << ": call " << k << " failed silently";
      --tidying;
    }
    EXPECT_EQ(cuda_emulation::leaks(), held) << name << ": " << cuda_emulation::failed_call() << ", call " << k;
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess) << name << ": " << cuda_emulation::failed_call();
    ASSERT_EQ(cuda_emulation::faults(), "") << name << ": " << cuda_emulation::failed_call() << ", call " << k;
  }
  EXPECT_EQ(tidying, 0) << name;
  body();
}

}  // namespace nibble::cuda_test
