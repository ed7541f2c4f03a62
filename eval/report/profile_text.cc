#include "eval/report/profile_text.h"

#include <fmt/format.h>

#include <type_traits>
#include <vector>

#include "common/profiles.h"
#include "tokensieve/names.h"

namespace tokensieve::eval::report {
namespace {

Budget budget_of(const SelectConfig& select) {
  Budget budget;
  for_each_field(select, [&](const SelectField& about, const auto& value) {
    if (!about.of_budget || !about.used_by(select)) return;
    budget = {about.name, static_cast<double>(value)};
  });
  return budget;
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

// ", obs_window 256": the fields that `wants(about, value)` names and that are not as usual.
template <typename Settings, typename Wants>
std::string unusual(const Settings& settings, Wants&& wants) {
  std::vector<std::string> usual;
  const Settings defaults;
  const auto text_of = []<typename T>(const T& value) {
    if constexpr (std::is_enum_v<T>) {
      return std::string(name_of(value));
    } else {
      return fmt::format("{}", value);
    }
  };
  for_each_field(defaults, [&](const auto&, const auto& value) {
    usual.push_back(text_of(value));
  });
  std::string text;
  size_t index = 0;
  for_each_field(settings, [&](const auto& about, const auto& value) {
    const std::string own = text_of(value);
    if (own != usual[index++] && wants(about, value)) {
      text += fmt::format(", {} {}", about.name, own);
    }
  });
  return text;
}

// Budget, fill and sets are said in words.
std::string others_of(const SelectConfig& select) {
  return unusual(select, [](const SelectField& about, const auto& value) {
    using Value = std::remove_cvref_t<decltype(value)>;
    const bool said = std::is_same_v<Value, BudgetPolicy> || std::is_same_v<Value, Share> ||
                      about.of_budget || about.group == SelectField::Group::kFill ||
                      about.group == SelectField::Group::kCall;
    return !said;
  });
}

// ", flex blocks, gamma 0.95": what its pattern uses and is not as usual.
std::string blocks_of(const BlockConfig& blocks) {
  if (blocks.pattern == BlockPattern::kNone) return "";
  std::string text = fmt::format(", {} blocks", name_of(blocks.pattern));
  text += unusual(blocks, [&](const BlockField& about, const auto& value) {
    return std::is_arithmetic_v<std::remove_cvref_t<decltype(value)>> && about.used_by(blocks);
  });
  if (blocks.pattern == BlockPattern::kPooled && blocks.share != Share::kHead) {
    text += fmt::format(", masks by {}", name_of(blocks.share));
  }
  return text;
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
  text.family = fmt::format("layers {}, {}, {}", cli::format_layers(profile->sparse_layers),
                            fill_of(select), sets_of(select.share)) +
                others_of(select) + blocks_of(profile->blocks);
  for (const LayerSelect& group : profile->layer_select) {
    const Budget budget = budget_of(group.select);
    text.family += fmt::format(", {} {} and {} in layers {}", budget.name, budget.value,
                               fill_of(group.select), cli::format_layers(group.layers));
    const std::string own = blocks_of(group.blocks);
    if (own != blocks_of(profile->blocks)) text.family += own.empty() ? " without blocks" : own;
  }
  if (profile->products != Products::kAuto) {
    text.family += fmt::format(", {} products", name_of(profile->products));
  }
  if (!config.mode.empty()) text.family += ", " + config.mode;
  if (!config.gate.value_or(true)) text.family += ", always sparse";
  return text;
}

}  // namespace tokensieve::eval::report
