#include "eval/report/profile_text.h"

#include <fmt/format.h>

#include "common/profiles.h"

namespace tokensieve::cli::report {
namespace {

Budget budget_of(const SelectConfig& select) {
  switch (select.budget) {
    case BudgetPolicy::kTau:
      return {"tau", select.tau};
    case BudgetPolicy::kKeepRatio:
      return {"keep_ratio", select.keep_ratio};
    case BudgetPolicy::kKeepCount:
      break;
  }
  return {"keep_count", static_cast<double>(select.keep_count)};
}

const char* sets_of(Share share) {
  switch (share) {
    case Share::kHead:
      return "a set per head";
    case Share::kKv:
      return "a set per kv head";
    case Share::kLayer:
      break;
  }
  return "a set per layer";
}

std::string fill_of(const SelectConfig& select) {
  if (select.fill == Fill::kZero) return "zero fill";
  return fmt::format("local fill {} + {}", select.local_window, select.sinks);
}

}  // namespace

ProfileText describe(const Config& config) {
  ProfileText text;
  if (!config.profile.is_object()) return text;
  const Result<Profile> profile = parse_profile(config.profile.dump(), config.name);
  // A baseline may carry settings that no sparse layer could run with.
  if (!profile.ok()) return text;
  const SelectConfig& select = profile->select;
  text.sparse_layers = profile->sparse_layers;
  text.budget = budget_of(select);
  text.family = fmt::format("layers {}, {}, {}", format_layers(profile->sparse_layers),
                            fill_of(select), sets_of(select.share));
  for (const LayerSelect& group : profile->layer_select) {
    const Budget budget = budget_of(group.select);
    text.family += fmt::format(", {} {} and {} in layers {}", budget.name, budget.value,
                               fill_of(group.select), format_layers(group.layers));
  }
  if (!config.mode.empty()) text.family += ", " + config.mode;
  if (!config.gate.value_or(true)) text.family += ", always sparse";
  return text;
}

}  // namespace tokensieve::cli::report
