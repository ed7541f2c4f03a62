// Asserts a failure's code and what its message names.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tokensieve/status.h"

namespace tokensieve::test {

inline void expect_error(const Status& status, StatusCode code,
                         const std::vector<std::string>& pieces) {
  EXPECT_EQ(status.code(), code) << status_code_name(status.code()) << ": " << status.message();
  for (const std::string& piece : pieces) {
    EXPECT_THAT(status.message(), testing::HasSubstr(piece));
  }
}

}  // namespace tokensieve::test
