#include "eval/report/page.h"

#include <utility>
#include <vector>

#include "eval/report/page_files.h"
#include "tokensieve/version.h"

namespace tokensieve::eval::report {
namespace {

// Replaces each {{name}} of the template once; what is put in is not looked at again.
std::string fill_template(std::string_view text,
                          const std::vector<std::pair<std::string_view, std::string>>& values) {
  std::string page;
  for (;;) {
    const size_t open = text.find("{{");
    page += text.substr(0, open);
    if (open == std::string_view::npos) return page;
    const size_t close = text.find("}}", open);
    const std::string_view name = text.substr(open + 2, close - open - 2);
    for (const auto& [known, value] : values) {
      if (known == name) page += value;
    }
    text.remove_prefix(close + 2);
  }
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string script_json(const Json& data) {
  // Both "</script" and "<!--" change how HTML reads a script, so no "<" is left.
  std::string safe;
  for (const char c : data.dump()) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string render_page(std::string_view title, const Json& data) {
  return fill_template(kIndexHtml, {{"title", escape_html(title)},
                                    {"version", TOKENSIEVE_VERSION_STRING},
                                    {"style", std::string(kStyleCss)},
                                    {"chart_license", std::string(kChartLicense)},
                                    {"chart", std::string(kChartJs)},
                                    {"data", script_json(data)},
                                    {"script", std::string(kPageJs)}});
}

}  // namespace tokensieve::eval::report
