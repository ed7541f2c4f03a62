// The page: a template, its style and scripts (compiled in), and the data of the runs.
#pragma once

#include <string>
#include <string_view>

#include "eval/report/run_file.h"

namespace tokensieve::eval::report {

// One HTML file that needs nothing else.
std::string render_page(std::string_view title, const Json& data);

std::string escape_html(std::string_view text);
// JSON that may stand inside a <script> element: nothing in it ends the element.
std::string script_json(const Json& data);

}  // namespace tokensieve::eval::report
