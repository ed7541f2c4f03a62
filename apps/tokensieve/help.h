// How --help looks: values and defaults without CLI11's type notation, required options in the
// usage line.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace tokensieve::cli {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter();
  std::string make_usage(const CLI::App* app, std::string name) const override;
  std::string make_option_opts(const CLI::Option* option) const override;
};

}  // namespace tokensieve::cli
