#include "help.h"

#include <fmt/format.h>

namespace tokensieve::cli {
namespace {

// The value's name as CLI11 has it, without the checks that it appends after a colon.
std::string value_name(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  return type.substr(0, type.find(':'));
}

bool takes_list(const CLI::Option& option) {
  return option.get_expected_max() == CLI::detail::expected_max_vector_size;
}

}  // namespace

HelpFormatter::HelpFormatter() { column_width(30); }

std::string HelpFormatter::make_usage(const CLI::App* app, std::string name) const {
  std::string usage = "Usage: " + name;
  // MODEL before --file DOC... before QUESTION: an option with many values must not take MODEL.
  bool first = true;
  const auto add_required = [&] {
    for (const CLI::Option* option : app->get_options()) {
      if (option->get_positional() || !option->get_required()) continue;
      usage += fmt::format(" {} {}", option->get_name(), value_name(*option));
      if (takes_list(*option)) usage += "...";
    }
  };
  for (const CLI::Option* option : app->get_options()) {
    if (!option->get_positional()) continue;
    usage += " " + option->get_name(true) + (takes_list(*option) ? " [ARGS...]" : "");
    if (first) add_required();
    first = false;
  }
  if (first) add_required();
  if (!app->get_subcommands([](const CLI::App* c) { return !c->get_name().empty(); }).empty()) {
    usage += " COMMAND";
  }
  return usage + " [OPTIONS]\n";
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  std::string text;
  if (option->get_type_size() != 0 && !option->get_positional()) {
    text += " " + value_name(*option) + (takes_list(*option) ? "..." : "");
    if (!option->get_default_str().empty()) text += fmt::format(" ({})", option->get_default_str());
  }
  return text;
}

}  // namespace tokensieve::cli
