// A run file of invented numbers that fills every section of the page: to try `tokensieve report`
// without a model, and for its tests.
#pragma once

#include <string>

namespace tokensieve::eval::report {

// The same text every time. The numbers follow simple rules (more damage with fewer tokens and
// longer prompts) and measure nothing.
std::string example_run();

}  // namespace tokensieve::eval::report
