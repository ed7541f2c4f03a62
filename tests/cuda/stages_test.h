// GPU tests of score, select, compact and scatter.
#pragma once

namespace tokensieve::cuda::test {

struct TestCounts {
  int passed = 0;
  int failed = 0;
};

// Every stage against a double-precision reference, over a table of shapes and settings.
TestCounts test_stages();

}  // namespace tokensieve::cuda::test
