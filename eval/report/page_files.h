// The files of page/ and the chart library, compiled in by embed.cmake.
#pragma once

#include <string_view>

namespace tokensieve::eval::report {

extern const std::string_view kIndexHtml;
extern const std::string_view kStyleCss;
extern const std::string_view kPageJs;
extern const std::string_view kChartJs;
extern const std::string_view kChartLicense;

}  // namespace tokensieve::eval::report
