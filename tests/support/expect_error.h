// Errors are part of the interface: their code, and what the message names.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "nibble/core/error.h"

namespace nibble::testing_support {

/// `action` must throw Error{code} with a message that holds `says`.
template <class Action>
void expect_error(ErrorCode code, const std::string& says, const Action& action) {
  try {
    action();
    ADD_FAILURE() << "no error; one that says '" << says << "' was expected";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_NE(std::string(e.what()).find(says), std::string::npos) << e.what();
  }
}

}  // namespace nibble::testing_support
