// `tokensieve report`: run files become one page.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace tokensieve::cli {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string output = "report.html";
  std::string title = "Token Sparse Attention: evaluation";
  bool open = false;
  bool pool = false;
  std::string example;  // write an invented run here, and nothing else
};

void add_report_options(CLI::App& command, ReportOptions& options);
int run_report(const ReportOptions& options);

}  // namespace tokensieve::cli
